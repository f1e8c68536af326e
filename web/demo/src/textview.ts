// The text as cells that change from masked to known.

import { GIVEN, UNKNOWN, type History } from "./history";
import { isSpecial, specialName } from "./words";

/** Shown for a token of unknown width. */
const BLANK = "\u2007\u2007\u2007\u2007";

interface Cell {
  element: HTMLElement;
  space: HTMLElement;
  body: HTMLElement;
  state: string;
}

export interface CellOptions {
  /** Whether cells react to the pointer and the keyboard. */
  interactive: boolean;
  onPoint?: (position: number | null) => void;
  /** Name of a cell for a screen reader. */
  label?: (position: number, shown: number, inWindow: boolean) => string;
}

export class TextView {
  private cells: Cell[] = [];
  private history: History | null = null;
  private active = 0;

  constructor(
    private readonly root: HTMLElement,
    private readonly options: CellOptions,
  ) {
    if (!options.interactive) return;
    root.addEventListener("pointerover", (event) => this.point(event.target));
    root.addEventListener("pointerleave", () => this.leave());
    root.addEventListener("focusin", (event) => this.point(event.target));
    root.addEventListener("focusout", () => this.leave());
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** Shows blank cells, before anything is known about a run. */
  placeholder(length: number): void {
    this.history = null;
    this.build(length);
    for (const cell of this.cells) this.mask(cell, BLANK, " ");
  }

  bind(history: History): void {
    this.history = history;
    this.build(history.length, history.trace.header.block_size);
  }

  render(shown: number): void {
    const { history } = this;
    if (!history) return;
    const span = Math.max(1, history.trace.total - 1);
    const window = history.window(shown);
    this.cells.forEach((cell, position) => {
      // A step draws at every position of a window, and keeps the tokens with the highest confidence.
      const inWindow = window.has(position);
      cell.element.toggleAttribute("data-window", inWindow);
      const step = history.stepOf[position]!;
      const token = history.tokenOf[position]!;
      const known = step < shown;
      const fresh = known && step === shown - 1 && step !== GIVEN;
      // A blank is as wide as the token that will take its place, once that is known, so that lines do not move.
      const text = step !== UNKNOWN && token !== -1 ? history.trace.text(token) : null;
      const state = known ? `k${fresh ? 1 : 0}${token}/${span}` : `${inWindow ? "w" : "m"}${text ?? ""}`;
      if (state === cell.state) return;
      cell.state = state;
      if (known) {
        this.know(cell, text ?? "", history.phaseOf[position] ?? "given", fresh);
        cell.element.style.setProperty("--when", step === GIVEN ? "0" : (step / span).toFixed(3));
      } else {
        const lead = text === null ? " " : /^\s*/.exec(text)![0].replaceAll("\n", "");
        this.mask(cell, text === null ? BLANK : text.trim() || "\u2007", lead);
      }
      const label = this.options.label?.(position, shown, inWindow);
      if (label !== undefined) cell.element.setAttribute("aria-label", label);
    });
  }

  /** Marks the cell of a position, for example because its slot is pointed at. */
  mark(position: number | null): void {
    this.root.querySelector(".cell.marked")?.classList.remove("marked");
    if (position !== null) this.cells[position]?.element.classList.add("marked");
  }

  /** Creates the cells; the first of each of the model's blocks has a border. */
  private build(length: number, block?: number): void {
    this.active = 0;
    this.cells = Array.from({ length }, (_, position) => {
      const element = document.createElement("span");
      const space = document.createElement("span");
      const body = document.createElement("span");
      element.className = "cell";
      body.className = "token";
      element.dataset.position = String(position);
      if (block && position > 0 && position % block === 0) element.dataset.block = "";
      element.append(space, body);
      if (this.options.interactive) {
        element.setAttribute("role", "option");
        element.setAttribute("aria-selected", "false");
        element.setAttribute("aria-label", "not written yet");
        element.tabIndex = position === 0 ? 0 : -1;
      }
      return { element, space, body, state: "" };
    });
    this.root.replaceChildren(...this.cells.map((cell) => cell.element));
  }

  private mask(cell: Cell, width: string, lead: string): void {
    cell.element.className = "cell masked";
    cell.space.textContent = lead;
    cell.body.textContent = "";
    cell.body.dataset.width = width;
    cell.element.style.removeProperty("--when");
  }

  private know(cell: Cell, text: string, how: string, fresh: boolean): void {
    const special = isSpecial(text);
    cell.element.className = `cell known ${how}${fresh ? " fresh" : ""}${special ? " special" : ""}`;
    delete cell.body.dataset.width;
    if (special) {
      cell.space.textContent = "";
      cell.body.textContent = specialName(Number(cell.element.dataset.position));
      return;
    }
    const lead = /^[^\S\n]*/.exec(text)![0];
    const body = text.slice(lead.length);
    cell.space.textContent = body === "" ? "" : lead;
    // A line break is shown as a symbol, followed by an actual break.
    const shown = body === "" ? "\u2423".repeat(lead.length) : body.replaceAll("\n", "↵\n");
    cell.body.textContent = shown;
  }

  private point(target: EventTarget | null): void {
    const cell = target instanceof Element ? target.closest<HTMLElement>(".cell") : null;
    if (!cell) return;
    const position = Number(cell.dataset.position);
    if (document.activeElement === cell) this.activate(position);
    this.options.onPoint?.(position);
  }

  private leave(): void {
    const focused = this.root.contains(document.activeElement) && document.activeElement !== this.root;
    this.options.onPoint?.(focused ? this.active : null);
  }

  private activate(position: number): void {
    const before = this.cells[this.active]?.element;
    before?.setAttribute("aria-selected", "false");
    if (before) before.tabIndex = -1;
    this.active = position;
    const now = this.cells[position]!.element;
    now.setAttribute("aria-selected", "true");
    now.tabIndex = 0;
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.cells.length - 1;
    let next: number;
    if (event.key === "ArrowRight") next = Math.min(last, this.active + 1);
    else if (event.key === "ArrowLeft") next = Math.max(0, this.active - 1);
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = last;
    else if (event.key === "ArrowDown") next = this.lineNeighbour(1);
    else if (event.key === "ArrowUp") next = this.lineNeighbour(-1);
    else return;
    event.preventDefault();
    this.cells[next]?.element.focus();
  }

  /** The cell nearest to the active one in the line above or below. */
  private lineNeighbour(direction: 1 | -1): number {
    const box = (position: number): DOMRect => this.cells[position]!.body.getBoundingClientRect();
    const from = box(this.active);
    let line: number | null = null;
    let best = this.active;
    let distance = Infinity;
    for (let p = this.active + direction; p >= 0 && p < this.cells.length; p += direction) {
      const at = box(p);
      if (Math.abs(at.top - from.top) < from.height / 2) continue;
      line ??= at.top;
      if (Math.abs(at.top - line) > from.height / 2) break;
      const away = Math.abs(at.left - from.left);
      if (away < distance) [best, distance] = [p, away];
    }
    return best;
  }
}
