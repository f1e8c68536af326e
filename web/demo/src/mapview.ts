// The whole run in one picture: a row for each step, a column for each slot. Filled cells are what the run computed;
// the frame is what a model without a cache would compute.

import { Canvas, type Colours } from "./canvas";
import { rowsOf, type History } from "./history";
import { count } from "./words";

export class MapView {
  private readonly canvas: Canvas;
  private history: History | null = null;
  private shown = 0;

  constructor(element: HTMLCanvasElement, onSeek: (shown: number) => void) {
    this.canvas = new Canvas(element, (context, width, colours) => this.draw(context, width, colours), () => this.height());
    const seek = (event: PointerEvent): void => {
      const total = this.history?.trace.total ?? 0;
      if (total > 0) onSeek(Math.ceil(((event.offsetY - 1) / (this.height() - 2)) * total));
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      seek(event);
    });
    element.addEventListener("pointermove", (event) => {
      if (event.buttons > 0) seek(event);
    });
  }

  render(history: History | null, shown: number): void {
    this.history = history;
    this.shown = shown;
    if (history) {
      const computed = history.steps.slice(0, shown).reduce((sum, step) => sum + rowsOf(step), 0);
      const label = `${count(shown)} steps by ${count(history.length)} positions: ${count(computed)} of ${count(shown * history.length)} squares computed.`;
      this.canvas.element.setAttribute("aria-label", label);
    }
    this.canvas.redraw();
  }

  private height(): number {
    return Math.max(110, Math.min(240, 2 + (this.history?.trace.total ?? 55) * 2));
  }

  private draw(context: CanvasRenderingContext2D, width: number, colours: Colours): void {
    const height = this.height();
    const { history, shown } = this;
    const total = history?.trace.total ?? 0;
    const y = (step: number): number => 1 + (step / Math.max(1, total)) * (height - 2);
    const x = (slot: number): number => 1 + (slot / (history?.slots ?? 1)) * (width - 2);

    if (total > 0) this.hatch(context, width, y(shown), colours);
    history?.steps.forEach((step, index) => {
      if (!step) return;
      const top = y(index);
      const tall = Math.max(1, y(index + 1) - top);
      const part = (from: number, to: number, colour: string): void => {
        if (to <= from) return;
        context.fillStyle = colour;
        context.fillRect(x(from), top, Math.max(1.5, x(to) - x(from)), tall);
      };
      context.globalAlpha = index < shown ? 1 : 0.18;
      part(step.from, step.start, colours.ink);
      part(step.start, step.masksTo, step.phase === "sequential" ? colours.sequential : colours.diffusion);
    });
    context.globalAlpha = 1;
    context.strokeStyle = colours.soft;
    context.lineWidth = 1;
    context.strokeRect(0.5, 0.5, width - 1, height - 1);
    if (total > 0) {
      context.fillStyle = colours.ink;
      context.fillRect(0, Math.min(height - 2, y(shown)) - 0.5, width, 1.5);
    }
  }

  /** What a model without a cache would have computed by now. */
  private hatch(context: CanvasRenderingContext2D, width: number, bottom: number, colours: Colours): void {
    context.save();
    context.beginPath();
    context.rect(0, 0, width, bottom);
    context.clip();
    context.strokeStyle = colours.line;
    context.lineWidth = 1;
    context.beginPath();
    for (let start = -bottom; start < width; start += 7) {
      context.moveTo(start, bottom);
      context.lineTo(start + bottom, 0);
    }
    context.stroke();
    context.restore();
  }
}
