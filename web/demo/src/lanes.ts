// Runs side by side: measured one after the other, so that none slows another down, then shown together.

import { element, stillness } from "./dom";
import { History, work } from "./history";
import { TextView } from "./textview";
import type { Result } from "./race";
import type { Trace } from "./trace";
import { count, figure, seconds, times } from "./words";

/** Minimum duration of a race, in seconds; faster ones are slowed down, and say so. */
const RACE_SECONDS = 6;
const STEPS_A_SECOND = 12;

interface Lane {
  root: HTMLElement;
  about: HTMLElement;
  text: TextView;
  trace: Trace | null;
  history: History | null;
  facts: { step: HTMLElement; work: HTMLElement; time: HTMLElement; less: HTMLElement };
  bar: HTMLElement;
}

export class Lanes {
  private readonly lanes: Lane[];
  private frame = 0;
  /** The pending animation frame that shows new steps, or 0. */
  private telling = 0;

  constructor(
    id: string,
    names: { title: string; note: string }[],
    /** Whether to play at the speed of the runs rather than step by step. */
    private readonly real: boolean,
  ) {
    const root = element(id, HTMLElement);
    this.lanes = names.map(({ title, note }) => lane(title, note));
    root.replaceChildren(...this.lanes.map((item) => item.root));
  }

  /** Sets the note on how a lane writes. */
  note(index: number, text: string): void {
    const item = this.lanes[index];
    if (item) item.about.textContent = text;
  }

  clear(length: number): void {
    this.still();
    for (const item of this.lanes) {
      item.trace = null;
      item.history = null;
      item.root.classList.remove("idle");
      item.text.placeholder(length);
      item.bar.style.width = "0";
      for (const fact of Object.values(item.facts)) fact.textContent = "–";
    }
  }

  open(index: number, trace: Trace): void {
    const item = this.lanes[index];
    if (!item) return;
    item.trace = trace;
    item.history = new History(trace, 0);
    item.text.bind(item.history);
    this.show(item, 0);
  }

  grown(index: number): void {
    const item = this.lanes[index];
    if (!item?.trace) return;
    if (item.history?.attempt !== item.trace.header.attempt) this.open(index, item.trace);
    this.telling ||= requestAnimationFrame(() => {
      this.telling = 0;
      this.show(item, item.trace?.steps.length ?? 0);
    });
  }

  /** Plays all lanes from a common start. Returns a sentence on how the time shown relates to the time taken. */
  replay(): string {
    this.still();
    const traces = this.lanes.flatMap((item) => (item.trace ? [item.trace] : []));
    const longest = Math.max(...traces.map((trace) => trace.seconds), 0.001);
    const slower = this.real ? Math.max(1, RACE_SECONDS / longest) : 1;
    if (stillness()) {
      for (const item of this.lanes) this.show(item, item.trace?.steps.length ?? 0);
    } else {
      let start: number | null = null;
      const tick = (now: number): void => {
        start ??= now;
        const passed = (now - start) / 1000;
        let going = false;
        for (const item of this.lanes) {
          if (!item.trace) continue;
          const steps = item.trace.steps;
          const due = this.real ? steps.filter((step) => step.seconds * slower <= passed).length : Math.floor(passed * STEPS_A_SECOND);
          const shown = Math.min(due, steps.length);
          going ||= shown < steps.length;
          this.show(item, shown, this.real ? Math.min(passed / slower, item.trace.seconds) : undefined);
        }
        if (going) this.frame = requestAnimationFrame(tick);
      };
      this.frame = requestAnimationFrame(tick);
    }
    return slower > 1.05 && !stillness() ? `Shown ${figure(slower)} times slower than it ran.` : "";
  }

  private still(): void {
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.telling);
    this.telling = 0;
  }

  /** The result of each lane, for a sentence about which was fastest. */
  results(): Result[] {
    const traces = this.lanes.flatMap(({ trace }) => (trace ? [trace] : []));
    return traces.map((trace) => ({
      seconds: trace.seconds,
      computed: work(trace, trace.steps.length).computed,
      steps: trace.steps.length,
      length: trace.header.length,
      block: trace.header.block_size,
    }));
  }

  private show(item: Lane, shown: number, time?: number): void {
    const { trace, history } = item;
    if (!trace || !history) return;
    history.sync();
    item.text.render(shown);
    const { computed, uncached } = work(trace, shown);
    item.facts.step.textContent = `${count(shown)} of ${count(trace.total)}`;
    item.facts.work.textContent = count(computed);
    item.facts.time.textContent = seconds(time ?? (shown === trace.total ? trace.seconds : (trace.steps[shown - 1]?.seconds ?? 0)));
    item.facts.less.textContent = computed === 0 || trace.header.family === "mdlm" ? "–" : `${times(uncached, computed)} ×`;
    item.bar.style.width = `${(shown / Math.max(1, trace.total)) * 100}%`;
  }
}

function lane(title: string, note: string): Lane {
  const root = document.createElement("section");
  const head = document.createElement("h3");
  const about = document.createElement("p");
  const track = document.createElement("div");
  const bar = document.createElement("div");
  const cells = document.createElement("p");
  const list = document.createElement("dl");
  root.className = "lane idle";
  head.textContent = title;
  about.className = "explain";
  about.textContent = note;
  track.className = "bar thin";
  bar.className = "fill own";
  cells.className = "cells small";
  list.className = "times";
  track.append(bar);
  const fact = (name: string): HTMLElement => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = "–";
    box.append(term, value);
    list.append(box);
    return value;
  };
  const facts = { step: fact("Step"), work: fact("Positions computed"), time: fact("Time"), less: fact("Less work") };
  root.append(head, about, track, list, cells);
  root.setAttribute("aria-label", title);
  return { root, about, text: new TextView(cells, { interactive: false }), trace: null, history: null, facts, bar };
}
