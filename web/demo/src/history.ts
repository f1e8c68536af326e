// What a trace says about one of its texts: in which step, by which phase and at which slot each position was written,
// and what each step computed. With a plan, all of this is known in advance; without one, or if tokens are chosen by
// confidence, it is derived from the steps.

import type { Phase, Revealed, SequencePlan, Step, Trace } from "./trace";

/** Step of a given position. */
export const GIVEN = -1;
/** Step of a position that is not known yet. */
export const UNKNOWN = 1 << 30;
/** Maximum number of given tokens that enter the cache in one step. */
const PROMPT_ROWS = 512;

/**
 * What one step computed of one text, in slots: those below `from` come from the cache, `from` to `start` are tokens
 * entering it, and `start` to `masksTo` are masks, of which those below `end` are drawn.
 */
export interface SlotStep {
  phase: Phase;
  from: number;
  start: number;
  end: number;
  masksTo: number;
}

export class History {
  readonly length: number;
  /** Number of slots: one per position, and one for a token that an AR model reads before the text. */
  readonly slots: number;
  readonly stepOf: Int32Array;
  readonly slotOf: Int32Array;
  readonly tokenOf: Int32Array;
  readonly phaseOf: (Phase | null)[];
  /** Position at each slot, -1 for a token before the text. */
  readonly order: number[] = [];
  /** By step; null for steps that do nothing for this text. */
  readonly steps: (SlotStep | null)[] = [];
  /** Number of known positions after each number of steps. */
  readonly knownAfter: number[] = [];
  private read = 0;
  private fed = 0;
  private readonly planned: boolean;
  readonly attempt: number;

  constructor(
    readonly trace: Trace,
    readonly sequence: number,
  ) {
    const { header } = trace;
    this.attempt = header.attempt;
    this.length = header.length;
    this.stepOf = new Int32Array(this.length).fill(UNKNOWN);
    this.slotOf = new Int32Array(this.length).fill(-1);
    this.tokenOf = new Int32Array(this.length).fill(-1);
    this.phaseOf = new Array<Phase | null>(this.length).fill(null);

    const { plan } = header;
    // If tokens are chosen by confidence, no plan says in which step a position becomes known.
    const own = plan?.reveal ? undefined : plan?.sequences[sequence];
    const lead = plan ? plan.lead : leadOf(trace);
    this.slots = this.length + (lead ? 1 : 0);
    if (lead) this.order.push(-1);

    const given = [...(header.known[sequence] ?? [])].sort((a, b) => a[0] - b[0]);
    if (header.family === "ar" && !lead && given[0]?.[0] !== 0) {
      const bos = trace.footer?.tokens[sequence]?.[0];
      given.unshift([0, bos ?? -1]);
    }
    for (const [position, token] of given) {
      this.place(position, GIVEN, null);
      this.tokenOf[position] = token;
    }
    this.knownAfter.push(given.length);
    this.planned = own !== undefined;
    if (own && header.block_size) this.followBlocks(own, header.block_size);
    else if (own) this.follow(own, lead);
    this.sync();
  }

  /** The window of masked positions at which a step (counted from 1) drew; empty for models without a window. */
  window(shown: number): Set<number> {
    const own = this.trace.steps[shown - 1]?.window?.filter(([sequence]) => sequence === this.sequence);
    return new Set(own?.map(([, position]) => position));
  }

  /** Processes the steps added to the trace since the last call. */
  sync(): void {
    for (; this.read < this.trace.steps.length; this.read += 1) {
      const step = this.trace.steps[this.read]!;
      const own = step.revealed.filter((item) => item.sequence === this.sequence);
      if (!this.planned) this.steps.push(this.infer(step, own));
      for (const { position, token } of own) {
        if (this.slotOf[position] === -1) this.place(position, this.read, step.phase);
        this.stepOf[position] = this.read;
        this.phaseOf[position] = step.phase;
        this.tokenOf[position] = token;
      }
      this.knownAfter.push(this.knownAfter.at(-1)! + own.length);
    }
  }

  private place(position: number, step: number, phase: Phase | null): void {
    this.slotOf[position] = this.order.length;
    this.order.push(position);
    this.stepOf[position] = step;
    this.phaseOf[position] = phase;
  }

  private follow(plan: SequencePlan, lead: boolean): void {
    const shift = lead ? 1 : 0;
    for (const entry of plan.order.slice(this.order.length)) this.place(entry - shift, UNKNOWN, null);
    plan.steps.forEach(([phase, clean, start, end], index) => {
      this.steps.push(this.layout(phase, clean, start, end));
      for (let slot = start; slot < end; slot += 1) {
        const position = this.order[slot]!;
        this.stepOf[position] = index;
        this.phaseOf[position] = phase;
      }
    });
  }

  /** For a model that writes in blocks: slots go block by block, in each the given positions first, then the others in the order of writing. */
  private followBlocks(plan: SequencePlan, size: number): void {
    const block = (position: number): number => Math.floor(position / size);
    const order = [...plan.order].sort((a, b) => block(a) - block(b));
    this.order.splice(0, Infinity, ...order);
    order.forEach((position, slot) => (this.slotOf[position] = slot));
    plan.steps.forEach(([phase, clean, start, end], index) => {
      const drawn = plan.order.slice(start, end);
      const first = drawn[0];
      if (first === undefined) {
        this.steps.push({ phase, from: clean, start, end: start, masksTo: start });
        return;
      }
      const slot = this.slotOf[first]!;
      this.steps.push({ phase, from: clean, start: slot, end: slot + drawn.length, masksTo: (block(first) + 1) * size });
      for (const position of drawn) {
        this.stepOf[position] = index;
        this.phaseOf[position] = phase;
      }
    });
  }

  private infer(step: Step, own: Revealed[]): SlotStep | null {
    const drawn = own.length;
    const size = this.trace.header.block_size;
    if (size) return this.inferBlocks(step, own, size);
    const start = this.order.length;
    if (step.phase === "prompt" || drawn === 0) {
      // A step without a draw either takes in part of a long prompt, or has nothing left to do.
      if (start - this.fed <= PROMPT_ROWS || this.knownAfter.at(-1) === this.length) return null;
      const from = this.fed;
      this.fed += PROMPT_ROWS;
      return this.layout("prompt", from, this.fed, this.fed);
    }
    const from = this.fed;
    this.fed = start;
    const window = step.window?.filter(([sequence]) => sequence === this.sequence).length;
    if (window) return { phase: step.phase, from, start, end: start + drawn, masksTo: start + window };
    return this.layout(step.phase, from, start, start + drawn);
  }

  private inferBlocks(step: Step, own: Revealed[], size: number): SlotStep | null {
    const from = this.fed;
    if (own.length === 0) {
      // Known blocks enter the cache in steps of their own; with several texts, the trace does not say whose.
      if (step.phase !== "prompt" || this.trace.header.batch > 1) return null;
      this.fed += step.rows;
      return { phase: "prompt", from, start: this.fed, end: this.fed, masksTo: this.fed };
    }
    const first = Math.floor(own[0]!.position / size) * size;
    const start = this.order.length;
    this.fed = first;
    return { phase: step.phase, from, start, end: start + own.length, masksTo: first + size };
  }

  private layout(phase: Phase, clean: number, start: number, end: number): SlotStep {
    const { family } = this.trace.header;
    if (family === "mdlm") return { phase, from: 0, start, end, masksTo: this.slots };
    return { phase, from: clean, start, end, masksTo: family === "ar" ? start : end };
  }
}

/** Whether an AR model read a token before the text. If so, its first step has one row more than there are given tokens. */
function leadOf({ header, steps }: Trace): boolean {
  const first = steps[0];
  if (header.family !== "ar" || !first) return false;
  const given = header.known.reduce((sum, list) => sum + list.length, 0);
  if (given > 0) return first.phase !== "prompt" && first.rows === given + header.batch;
  return first.revealed.some(({ position }) => position === 0);
}

/** Rows that a step computes. */
export function rowsOf(step: SlotStep | null | undefined): number {
  return step ? step.masksTo - step.from : 0;
}

/** Whether the derived steps agree with the number of rows that the trace has for each step. */
export function rowsAgree(trace: Trace, histories: History[]): boolean {
  return trace.steps.every((step, index) => histories.reduce((sum, h) => sum + rowsOf(h.steps[index]), 0) === step.rows);
}

/** Positions computed in the first `shown` steps, and positions that a model without a cache would have computed. */
export function work(trace: Trace, shown: number): { computed: number; uncached: number } {
  let computed = 0;
  let uncached = 0;
  for (const step of trace.steps.slice(0, shown)) {
    computed += step.rows;
    const active = step.phase === "prompt" ? trace.header.batch : new Set(step.revealed.map((item) => item.sequence)).size;
    uncached += active * trace.header.length;
  }
  return { computed, uncached };
}
