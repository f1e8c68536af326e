// A trace: what happened in a run, step by step. Live runs and dropped files both end up here (docs/plan-format.md).

export type Family = "esolm" | "mdlm" | "ar";
export type Phase = "prompt" | "diffusion" | "sequential";

export interface Revealed {
  sequence: number;
  position: number;
  token: number;
  /** The token in letters; traces in files name it in the footer instead. */
  text?: string;
}

export interface Step {
  step: number;
  steps: number;
  phase: Phase;
  revealed: Revealed[];
  rows: number;
  cache_length: number;
  /** Since the run began. */
  seconds: number;
}

export interface SequencePlan {
  sequence: number;
  order: number[];
  known: number[];
  steps: [Phase, number, number, number][];
}

export interface Plan {
  lead: boolean;
  sequences: SequencePlan[];
}

export interface Header {
  model: string;
  family: Family;
  length: number;
  alpha_0: number | null;
  steps: number;
  schedule: string;
  top_p: number | null;
  temperature: number;
  seed: number | string;
  batch: number;
  nfe: number;
  mask_index: number;
  known: [number, number][][];
  plan?: Plan;
}

export interface Footer {
  tokens: number[][];
  text: string[];
  interrupted: boolean;
  seconds: number;
  pieces: Record<string, string>;
}

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
