// A trace: what happened in a run, step by step. Live runs and dropped files both end up here (docs/plan-format.md).

import type { Family, Phase, Plan as FullPlan, PlanSequence, Revealed as Drawn, Step as LiveStep, TraceFooter, TraceHeader } from "esolm";

export type { Family, Phase };

/** Traces in files name what a token says in the footer instead. */
export type Revealed = Omit<Drawn, "text"> & { text?: string };

export type Step = Omit<LiveStep, "revealed" | "attempt"> & { revealed: Revealed[] };

export type SequencePlan = PlanSequence;

export type Plan = Pick<FullPlan, "lead" | "sequences">;

/** What the page reads of the first line. */
export type Header = Pick<
  TraceHeader,
  "model" | "family" | "length" | "alpha_0" | "steps" | "top_p" | "temperature" | "seed" | "batch" | "nfe" | "mask_index" | "known"
> & { schedule: string; plan?: Plan };

export type Footer = Pick<TraceFooter, "tokens" | "text" | "interrupted" | "seconds" | "pieces">;

export class Trace {
  readonly steps: Step[] = [];
  header: Header;
  footer: Footer | null = null;
  /** Number of the redraw that `steps` shows. Views start over when it changes. */
  attempt = 0;
  private readonly pieces = new Map<number, string>();

  constructor(
    header: Header,
    /** Where it comes from, in words. */
    readonly origin: string,
  ) {
    this.header = header;
  }

  /** Text of tokens that no step names, such as given ones. */
  name(token: number, text: string): void {
    this.pieces.set(token, text);
  }

  /** An infill is drawn again, by another plan. */
  restart(attempt: number, header: Header): void {
    this.attempt = attempt;
    this.header = header;
    this.steps.length = 0;
  }

  add(step: Step): void {
    for (const { token, text } of step.revealed) if (text !== undefined) this.pieces.set(token, text);
    this.steps.push(step);
  }

  finish(footer: Footer): void {
    this.footer = footer;
    for (const [token, text] of Object.entries(footer.pieces)) this.pieces.set(Number(token), text);
  }

  /** A run that was stopped: what there is stays. */
  interrupt(): void {
    const seconds = this.steps.at(-1)?.seconds ?? 0;
    this.footer ??= { tokens: [], text: [], interrupted: true, seconds, pieces: {} };
  }

  /** Text of a token, `#12` where there is no tokenizer. */
  text(token: number): string {
    return this.pieces.get(token) ?? `#${token}`;
  }

  /** Steps that there are or will be. */
  get total(): number {
    return this.footer ? this.steps.length : Math.max(this.steps.at(-1)?.steps ?? this.header.nfe, this.steps.length);
  }

  get seconds(): number {
    return this.footer?.seconds ?? this.steps.at(-1)?.seconds ?? 0;
  }

  /** Tokens drawn so far. */
  get drawn(): number {
    return this.steps.reduce((sum, step) => sum + step.revealed.length, 0);
  }
}
