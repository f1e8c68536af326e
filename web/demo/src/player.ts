// Playback: how many steps are shown, and how that number advances.

import type { Trace } from "./trace";

/** Steps per second, or the speed of the run itself. */
export type Pace = number | "true";

export class Player {
  trace: Trace | null = null;
  /** Number of steps shown; 0 is before the first. */
  shown = 0;
  playing = false;
  pace: Pace = 8;
  private frame = 0;
  /** The pending animation frame that tells listeners of new steps, or 0. */
  private telling = 0;
  private last = 0;
  private due = 0;
  private readonly listeners: (() => void)[] = [];

  /** Registers a listener for changes of what is shown, or whether it plays. */
  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }

  /** Number of steps that can be shown now. */
  get available(): number {
    return this.trace?.steps.length ?? 0;
  }

  get atEnd(): boolean {
    return this.trace?.footer != null && this.shown >= this.available;
  }

  open(trace: Trace, play: boolean): void {
    this.trace = trace;
    this.shown = 0;
    this.due = 0;
    this.playing = false;
    if (play) this.play();
    else this.emit();
  }

  play(): void {
    if (!this.trace) return;
    if (this.atEnd) this.shown = 0;
    this.playing = true;
    this.due = 0;
    this.last = performance.now();
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(this.tick);
    this.emit();
  }

  pause(): void {
    cancelAnimationFrame(this.frame);
    this.playing = false;
    this.emit();
  }

  toggle(): void {
    if (this.playing) this.pause();
    else this.play();
  }

  /** Goes to a step and pauses there. */
  seek(shown: number): void {
    this.shown = Math.max(0, Math.min(this.available, Math.round(shown)));
    this.pause();
  }

  /** The trace has new steps, or has ended; `follow` shows them at once. Listeners are told once per frame, since a fast run adds many steps. */
  grown(follow: boolean): void {
    if (follow) this.shown = this.available;
    this.shown = Math.min(this.shown, this.available);
    this.telling ||= requestAnimationFrame(() => {
      this.telling = 0;
      this.emit();
    });
  }

  private readonly tick = (now: number): void => {
    const { trace } = this;
    if (!trace || !this.playing) return;
    const passed = (now - this.last) / 1000;
    this.last = now;
    this.due += this.pace === "true" ? passed : passed * this.pace;
    let moved = false;
    while (this.shown < this.available && this.due >= this.cost(trace)) {
      this.due -= this.cost(trace);
      this.shown += 1;
      moved = true;
    }
    // Time spent waiting for a live run must not accumulate into steps that then appear all at once.
    if (this.shown >= this.available) this.due = Math.min(this.due, this.pace === "true" ? 0 : 1);
    if (this.atEnd) {
      this.playing = false;
      moved = true;
    } else {
      this.frame = requestAnimationFrame(this.tick);
    }
    if (moved) this.emit();
  };

  /** The duration of the next step: one, or the seconds that it took. */
  private cost(trace: Trace): number {
    if (this.pace !== "true") return 1;
    return trace.steps[this.shown]!.seconds - (trace.steps[this.shown - 1]?.seconds ?? 0);
  }

  private emit(): void {
    for (const listener of this.listeners) listener();
  }
}
