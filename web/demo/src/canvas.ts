// A canvas as sharp as the screen, redrawn when its size or the colour scheme changes.

export interface Colours {
  paper: string;
  ink: string;
  soft: string;
  line: string;
  cached: string;
  diffusion: string;
  sequential: string;
}

const NAMES: Record<keyof Colours, string> = {
  paper: "--card",
  ink: "--ink",
  soft: "--soft",
  line: "--line",
  cached: "--cached",
  diffusion: "--diffusion",
  sequential: "--sequential",
};

export class Canvas {
  private readonly context: CanvasRenderingContext2D;
  private colours: Colours;
  /** Cached, since querying it forces a layout of the text that a step has just changed. */
  private width = 0;

  constructor(
    readonly element: HTMLCanvasElement,
    private readonly draw: (context: CanvasRenderingContext2D, width: number, colours: Colours) => void,
    /** Height in CSS pixels for a given width. */
    private readonly heightAt: (width: number) => number,
  ) {
    const context = element.getContext("2d");
    if (!context) throw new Error("This browser provides no canvas; try a current version of it.");
    this.context = context;
    this.colours = read(element);
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width === this.width) return;
      this.width = width;
      // Drawing may change the observed element's height, which the observer would report as a loop.
      requestAnimationFrame(() => this.redraw());
    }).observe(element.parentElement ?? element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours = read(element);
      this.redraw();
    });
  }

  redraw(): void {
    const { width } = this;
    if (width === 0) return;
    const height = this.heightAt(width);
    const scale = window.devicePixelRatio || 1;
    const { element, context } = this;
    const pixels = [Math.round(width * scale), Math.round(height * scale)] as const;
    if (element.width !== pixels[0] || element.height !== pixels[1]) {
      [element.width, element.height] = pixels;
      element.style.height = `${height}px`;
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    this.draw(context, width, this.colours);
  }
}

function read(element: Element): Colours {
  const style = getComputedStyle(element);
  const colours = {} as Colours;
  for (const key of Object.keys(NAMES) as (keyof Colours)[]) colours[key] = style.getPropertyValue(NAMES[key]).trim();
  return colours;
}
