// A trace: what happened in a run, step by step, live or from a file (docs/plan-format.md).

import type { Family, Footer as LiveFooter, Header as LiveHeader, Phase, Plan as FullPlan, PlanSequence, Revealed as Drawn, Step as LiveStep } from "esolm";

export type { Family, Phase };

/** Traces in files have the texts of tokens in the footer instead. */
export type Revealed = Omit<Drawn, "text"> & { text?: string };

export type Step = Omit<LiveStep, "revealed" | "attempt"> & { revealed: Revealed[] };

export type SequencePlan = PlanSequence;

export type Plan = Pick<FullPlan, "lead" | "sequences" | "reveal">;

/** The parts of a header that the page uses. Only a live run's first header has a plan. */
export type Header = Pick<
  LiveHeader,
  "model" | "family" | "length" | "block_size" | "steps" | "top_p" | "temperature" | "seed" | "batch" | "nfe" | "mask_index" | "attempt" | "texts" | "known"
> & { alpha_0: number | null; schedule: string; plan?: Plan };

export type Footer = Pick<LiveFooter, "tokens" | "text" | "interrupted" | "seconds" | "pieces">;

export class Trace {
  readonly steps: Step[] = [];
  /** The header of the last attempt. Views start over when its number changes. */
  header: Header;
  footer: Footer | null = null;
  /** Number of steps of earlier attempts. */
  private before = 0;
  private readonly pieces = new Map<number, string>();

  constructor(
    header: Header,
    /** A description of where it comes from. */
    readonly origin: string,
  ) {
    this.header = header;
  }

  /** Sets the text of a token that appears in no step, such as a given one. */
  name(token: number, text: string): void {
    this.pieces.set(token, text);
  }

  /** Some texts are drawn again: what was written of them is removed, and so are steps that wrote nothing else. */
  restart(header: Header): void {
    this.header = header;
    const again = new Set(header.texts);
    const kept = this.steps.map((step) => ({ ...step, revealed: step.revealed.filter(({ sequence }) => !again.has(sequence)) }));
    this.steps.splice(0, Infinity, ...kept.filter(({ revealed }) => revealed.length > 0));
    this.before = this.steps.length;
  }

  add(step: Step): void {
    for (const { token, text } of step.revealed) if (text !== undefined) this.pieces.set(token, text);
    this.steps.push(step);
  }

  finish(footer: Footer): void {
    this.footer = footer;
    for (const [token, text] of Object.entries(footer.pieces)) this.pieces.set(Number(token), text);
  }

  /** Ends a run that was stopped, keeping what there is. */
  interrupt(): void {
    const seconds = this.steps.at(-1)?.seconds ?? 0;
    this.footer ??= { tokens: [], text: [], interrupted: true, seconds, pieces: {} };
  }

  /** The text of a token, or `#12` without a tokenizer. */
  text(token: number): string {
    return this.pieces.get(token) ?? `#${token}`;
  }

  /** Number of steps that there are or will be. */
  get total(): number {
    return this.footer ? this.steps.length : Math.max(this.before + this.header.nfe, this.steps.length);
  }

  get seconds(): number {
    return this.footer?.seconds ?? this.steps.at(-1)?.seconds ?? 0;
  }

  /** Number of tokens drawn so far. */
  get drawn(): number {
    return this.steps.reduce((sum, step) => sum + step.revealed.length, 0);
  }
}
