// The main text with its playback, and the work beside it. Everything shown follows from the trace and the number of
// steps shown.

import { announce } from "./announce";
import { button, element, input, setText, stillness } from "./dom";
import { History, rowsAgree, work } from "./history";
import { MapView } from "./mapview";
import { Player, type Pace } from "./player";
import { SlotsView } from "./slotsview";
import { TextView } from "./textview";
import type { Trace } from "./trace";
import { cellFacts, count, figure, isSpecial, phaseName, placesOf, plural, seconds, specialName, stepSentence, times, visible } from "./words";

const HINT = "Point at a word, or walk through the text with the arrow keys, to see when it was written.";
const PLAY = "M5 3.5v13l11-6.5z";
const PAUSE = "M4.5 3.5h4v13h-4zM11.5 3.5h4v13h-4z";

export class Stage {
  readonly player = new Player();
  private readonly text: TextView;
  private readonly slots: SlotsView;
  private readonly map: MapView;
  private histories: History[] = [];
  private sequence = 0;
  private pointed: number | null = null;
  /** The last announcement, so that it is made only once. */
  private said = "";
  private written: { trace: Trace; shown: number } | null = null;

  constructor() {
    this.text = new TextView(element("cells", HTMLElement), {
      interactive: true,
      onPoint: (position) => this.point(position),
      label: (position, shown, inWindow) => this.label(position, shown, inWindow),
    });
    this.slots = new SlotsView(element("slots", HTMLCanvasElement), (position) => this.point(position));
    this.map = new MapView(element("map", HTMLCanvasElement), (shown) => this.player.seek(shown));
    const { player } = this;
    player.onChange(() => this.render());
    button("play").addEventListener("click", () => player.toggle());
    button("back").addEventListener("click", () => player.seek(player.shown - 1));
    button("forward").addEventListener("click", () => player.seek(player.shown + 1));
    button("to-start").addEventListener("click", () => player.seek(0));
    button("to-end").addEventListener("click", () => player.seek(player.available));
    input("timeline").addEventListener("input", (event) => player.seek(Number((event.target as HTMLInputElement).value)));
    const speed = element("speed", HTMLSelectElement);
    speed.addEventListener("change", () => (player.pace = speed.value === "true" ? "true" : (Number(speed.value) as Pace)));
    element("sequence", HTMLSelectElement).addEventListener("change", (event) => {
      this.sequence = Number((event.target as HTMLSelectElement).value);
      this.bind();
    });
    document.addEventListener("keydown", (event) => this.shortcut(event));
  }

  /** Shows blanks while a model is loading. */
  wait(length: number): void {
    this.player.pause();
    this.player.trace = null;
    this.histories = [];
    this.text.placeholder(length);
    this.busy("The text starts as blanks.");
  }

  /** Shows what is happening before there is a step to show. */
  busy(caption: string): void {
    setText("phase", "Getting ready");
    element("phase", HTMLElement).className = "badge";
    setText("caption", caption);
  }

  refresh(): void {
    this.render();
  }

  open(trace: Trace): void {
    this.sequence = 0;
    this.said = "";
    const { batch, length, known } = trace.header;
    const texts = element("texts", HTMLElement);
    texts.hidden = batch === 1;
    element("window-legend", HTMLElement).hidden = trace.header.family !== "setdlm";
    element("sequence", HTMLSelectElement).replaceChildren(
      ...Array.from({ length: batch }, (_, index) => new Option(`${index + 1} of ${batch}`, String(index))),
    );
    setText("origin", this.originOf(trace));
    const given = known[0]?.length ?? 0;
    announce(`A text of ${plural(length, "token")} begins, ${count(given)} of them given.`);
    this.player.trace = trace;
    this.bind();
    // With reduced motion, a finished text is shown at once; a live one is followed step by step.
    this.player.open(trace, !stillness());
    if (stillness()) this.player.seek(trace.steps.length);
  }

  /** The trace has more steps, or has ended. */
  grown(trace: Trace): void {
    if (this.player.trace !== trace) return;
    if (this.history && this.history.attempt !== trace.header.attempt) {
      announce("The model ran on at a given word, so the gaps are filled again.");
      this.player.shown = 0;
      this.bind();
    }
    const last = this.player.shown >= trace.steps.length - 1;
    this.player.grown(stillness() && last);
  }

  private get history(): History | null {
    return this.histories[this.sequence] ?? null;
  }

  private originOf(trace: Trace): string {
    const { header } = trace;
    const share = header.family === "esolm" && header.alpha_0 !== null ? `, α₀ ${figure(header.alpha_0)}` : "";
    return `${trace.origin}, seed ${header.seed}${share}`;
  }

  private bind(): void {
    const { trace } = this.player;
    if (!trace) return;
    this.histories = Array.from({ length: trace.header.batch }, (_, index) => new History(trace, index));
    if (this.history) this.text.bind(this.history);
    if (trace.footer && !rowsAgree(trace, this.histories)) {
      setText("origin", `${this.originOf(trace)}. Its steps computed more than this page can tell apart; the counts are those of the file.`);
    }
    this.written = null;
    this.render();
  }

  private render(): void {
    const { player, history } = this;
    const { trace } = player;
    this.transport();
    if (!trace || !history) return;
    for (const item of this.histories) item.sync();
    const { shown } = player;
    this.text.render(shown);
    this.slots.render(history, shown);
    this.map.render(history, shown);
    this.counts(trace, history, shown);
    this.now(trace, history, shown);
    this.tell();
    this.speak(trace, shown);
  }

  private transport(): void {
    const { player } = this;
    const { trace, shown, available } = player;
    const total = trace?.total ?? 0;
    const range = input("timeline");
    range.max = String(Math.max(1, total));
    range.value = String(shown);
    range.disabled = total === 0;
    range.style.setProperty("--done", `${(shown / Math.max(1, total)) * 100}%`);
    const phase = trace?.steps[shown - 1]?.phase;
    range.setAttribute("aria-valuetext", `Step ${shown} of ${total}${phase && trace ? `, ${phaseName(phase, trace.header.family).toLowerCase()}` : ""}`);
    const running = player.playing;
    button("play").setAttribute("aria-label", running ? "Pause" : "Play");
    element("play", HTMLElement).querySelector("path")?.setAttribute("d", running ? PAUSE : PLAY);
    button("play").disabled = !trace;
    for (const id of ["back", "to-start"]) button(id).disabled = shown === 0;
    for (const id of ["forward", "to-end"]) button(id).disabled = shown >= available;
    this.phaseBar(trace, total);
  }

  /** Below the timeline: the share of each phase in the run. */
  private phaseBar(trace: Trace | null, total: number): void {
    const bar = element("phases", HTMLElement);
    const steps = this.history?.steps ?? [];
    const diffusion = steps.filter((step) => step?.phase === "diffusion").length;
    const sequential = steps.filter((step) => step?.phase === "sequential").length;
    const key = `${diffusion} ${sequential} ${total}`;
    if (bar.dataset.key === key) return;
    bar.dataset.key = key;
    const part = (kind: string, size: number): HTMLElement => {
      const item = document.createElement("i");
      item.className = kind;
      item.style.flexGrow = String(size);
      if (trace && size / Math.max(1, total) > 0.16) item.textContent = kind === "rest" ? "" : phaseName(kind as "diffusion", trace.header.family).toLowerCase();
      return item;
    };
    bar.replaceChildren(part("diffusion", diffusion), part("sequential", sequential), part("rest", Math.max(0, total - diffusion - sequential)));
  }

  private counts(trace: Trace, history: History, shown: number): void {
    const { computed, uncached } = work(trace, shown);
    const mdlm = trace.header.family === "mdlm";
    const whole = work(trace, trace.steps.length);
    setText("step-of", `Step ${count(shown)} of ${count(trace.total)}`);
    setText("computed", count(computed));
    setText("uncached", count(uncached));
    // Both bars are relative to the work of the whole run without a cache, so that they grow as it proceeds.
    const full = Math.max(whole.uncached, trace.total * trace.header.length * trace.header.batch, 1);
    element("bar-computed", HTMLElement).style.width = `${(computed / full) * 100}%`;
    element("bar-uncached", HTMLElement).style.width = `${(uncached / full) * 100}%`;
    let ratio = "";
    if (shown > 0) {
      ratio = mdlm ? "This run has no cache: every step computes the whole text." : `${times(uncached, computed)} times less work so far.`;
    }
    setText("ratio", ratio);
    setText(
      "slots-explain",
      mdlm
        ? "This run has no cache: each square is a position in the text, and all of them are computed in every step."
        : "Each square is a place in the model’s memory, its cache. What is in the cache is not computed again.",
    );
    setText("known", `${count(history.knownAfter[shown] ?? history.knownAfter.at(-1) ?? 0)} of ${count(history.length)}`);
    setText("time", trace.steps.length > 0 ? `${seconds(trace.seconds)}${trace.footer ? "" : " so far"}` : "–");
    setText("rate", trace.seconds > 0 ? figure(trace.drawn / trace.seconds) : "–");
  }

  private now(trace: Trace, history: History, shown: number): void {
    const badge = element("phase", HTMLElement);
    const step = trace.steps[shown - 1];
    const { family } = trace.header;
    if (!step) {
      badge.className = "badge";
      setText("phase", "Start");
      const given = history.knownAfter[0] ?? 0;
      setText("caption", given > 1 ? `${plural(given, "token")} are given, the rest is blank.` : "Everything is blank.");
      return;
    }
    badge.className = `badge ${step.phase}`;
    setText("phase", phaseName(step.phase, family));
    const drawn = step.revealed.filter((item) => item.sequence === this.sequence).length;
    const isDone = history.knownAfter[shown] === history.length;
    const sentence = drawn > 0 || step.phase === "prompt" ? stepSentence(step.phase, drawn, family) : isDone ? "This text is finished; others go on." : "This text waits while others are written.";
    const stopped = trace.footer?.interrupted && shown === trace.steps.length ? " The run was stopped here." : "";
    setText("caption", `${sentence}${stopped}`);
  }

  private label(position: number, shown: number, inWindow: boolean): string {
    const { history } = this;
    if (!history) return "";
    const facts = cellFacts(history, position, shown);
    const name = facts.token === null ? `Blank${inWindow ? " in the window" : ""}` : isSpecial(facts.token) ? specialName(position) : visible(facts.token.replace(/^ +/, "")) || "space";
    return facts.token !== null && facts.step ? `${name}, ${facts.how}, step ${facts.step}` : `${name}, ${facts.how}`;
  }

  private point(position: number | null): void {
    this.pointed = position;
    this.text.mark(position);
    this.slots.mark(position);
    this.tell();
  }

  /** The line below the text about the cell under the pointer. */
  private tell(): void {
    const { history, pointed } = this;
    const line = element("facts", HTMLElement);
    line.classList.toggle("hint", pointed === null);
    if (!history || pointed === null) {
      setText("facts", HINT);
      return;
    }
    const facts = cellFacts(history, pointed, this.player.shown);
    const blank = history.window(this.player.shown).has(pointed) ? "A blank in this step’s window" : "A blank";
    const name = facts.token === null ? blank : `“${visible(facts.token)}”`;
    const when = facts.step === 0 ? "given" : facts.token === null ? (facts.step ? `will be written in step ${facts.step}` : "not written yet") : `written in step ${facts.step}, ${facts.how}`;
    const slot = facts.slot === null ? "no slot yet" : `slot ${facts.slot}`;
    setText("facts", `${name}: ${when} · position ${facts.position} · ${slot}`);
  }

  /** Announces changes of phase, and the finished text, but not each token. */
  private speak(trace: Trace, shown: number): void {
    const before = this.written;
    this.written = { trace, shown };
    if (!before || before.trace !== trace || shown === 0) return;
    const step = trace.steps[shown - 1];
    let saying = "";
    if (trace.footer && shown === trace.steps.length) {
      saying = trace.footer.interrupted ? "The run was stopped." : `Finished. ${trace.footer.text[this.sequence] ?? ""}`;
    } else if (this.player.playing && step) {
      saying = step.phase === "diffusion" ? `Diffusion: tokens appear ${placesOf(trace.header.family)}.` : step.phase === "sequential" ? "Now the blanks are filled from left to right." : "";
    }
    if (saying === "" || saying === this.said) return;
    this.said = saying;
    announce(saying);
  }

  private shortcut(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const target = event.target instanceof Element ? event.target : null;
    if (target?.closest("input, textarea, select, summary, a")) return;
    if (event.key === " " && !target?.closest("button")) this.player.toggle();
    else if (event.key === "ArrowLeft") this.player.seek(this.player.shown - 1);
    else if (event.key === "ArrowRight") this.player.seek(this.player.shown + 1);
    else return;
    event.preventDefault();
  }
}
