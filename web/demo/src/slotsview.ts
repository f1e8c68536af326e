// The cache as a strip of slots: what the shown step read from it, what it computed, and what is not there yet.

import { Canvas, type Colours } from "./canvas";
import type { History } from "./history";
import { plural } from "./words";

const GAP = 2;

export class SlotsView {
  private readonly canvas: Canvas;
  private history: History | null = null;
  private shown = 0;
  private marked: number | null = null;

  constructor(
    element: HTMLCanvasElement,
    onPoint: (position: number | null) => void,
  ) {
    this.canvas = new Canvas(element, (context, width, colours) => this.draw(context, width, colours), (width) => this.layout(width).height);
    element.addEventListener("pointermove", (event) => {
      const slot = this.slotAt(event.offsetX, event.offsetY);
      const position = slot === null ? undefined : this.history?.order[slot];
      onPoint(position === undefined || position < 0 ? null : position);
    });
    element.addEventListener("pointerleave", () => onPoint(null));
  }

  render(history: History | null, shown: number): void {
    this.history = history;
    this.shown = shown;
    this.canvas.element.setAttribute("aria-label", this.words());
    this.canvas.redraw();
  }

  mark(position: number | null): void {
    const slot = position === null ? null : (this.history?.slotOf[position] ?? -1);
    this.marked = slot === -1 ? null : slot;
    this.canvas.redraw();
  }

  private words(): string {
    const { history } = this;
    const step = history?.steps[this.shown - 1];
    if (!history || !step) return "Cache: no step has been computed yet.";
    const cached = step.from;
    const absent = history.slots - step.masksTo;
    const cache = history.trace.header.family === "mdlm" ? "there is no cache" : `${plural(cached, "slot")} taken from the cache`;
    return `Step ${this.shown}: ${cache}, ${plural(step.start - step.from, "token")} and ${plural(step.masksTo - step.start, "blank")} computed, ${plural(absent, "slot")} not there yet.`;
  }

  private layout(width: number): { columns: number; size: number; height: number } {
    const slots = this.history?.slots ?? 64;
    // As large as fits in about eight lines, within limits.
    let size = 20;
    while (size > 7 && Math.ceil(slots / Math.floor((width + GAP) / (size + GAP))) > 8) size -= 1;
    const fit = Math.floor((width + GAP) / (size + GAP));
    const columns = Math.max(1, Math.min(slots, fit));
    // Fills the last line.
    if (slots > fit) size = (width + GAP) / columns - GAP;
    const height = Math.ceil(slots / columns) * (size + GAP) - GAP + 4;
    return { columns, size, height };
  }

  private slotAt(x: number, y: number): number | null {
    const { columns, size } = this.layout(this.canvas.element.clientWidth);
    const column = Math.floor(x / (size + GAP));
    const slot = Math.floor((y - 2) / (size + GAP)) * columns + column;
    return column < columns && slot >= 0 && slot < (this.history?.slots ?? 0) ? slot : null;
  }

  private draw(context: CanvasRenderingContext2D, width: number, colours: Colours): void {
    const { columns, size } = this.layout(width);
    const slots = this.history?.slots ?? 64;
    const step = this.history?.steps[this.shown - 1] ?? null;
    const accent = step?.phase === "sequential" ? colours.sequential : colours.diffusion;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `700 ${Math.round(size * 0.62)}px system-ui, sans-serif`;
    for (let slot = 0; slot < slots; slot += 1) {
      const x = (slot % columns) * (size + GAP);
      const y = Math.floor(slot / columns) * (size + GAP) + 2;
      if (!step || slot >= Math.max(step.masksTo, step.start)) {
        context.fillStyle = colours.line;
        context.fillRect(x + size / 2 - 1.5, y + size / 2 - 1.5, 3, 3);
      } else if (slot < step.from) {
        context.fillStyle = colours.cached;
        context.fillRect(x, y, size, size);
      } else if (slot < step.start) {
        context.fillStyle = colours.ink;
        context.fillRect(x, y, size, size);
        context.fillStyle = colours.paper;
        context.beginPath();
        context.arc(x + size / 2, y + size / 2, size * 0.17, 0, 2 * Math.PI);
        context.fill();
      } else {
        const drawn = slot < step.end;
        context.strokeStyle = drawn ? accent : colours.soft;
        context.lineWidth = drawn ? 2 : 1;
        context.strokeRect(x + 1, y + 1, size - 2, size - 2);
        if (drawn && size >= 10) {
          context.fillStyle = accent;
          context.fillText("?", x + size / 2, y + size / 2 + 0.5);
        }
      }
      if (slot === this.marked) {
        context.strokeStyle = colours.ink;
        context.lineWidth = 2;
        context.strokeRect(x - 1, y - 1, size + 2, size + 2);
      }
    }
  }
}
