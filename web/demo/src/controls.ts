// The settings form.

import type { ModelInfo } from "esolm";
import { element, input, setText } from "./dom";
import { Problem } from "./parse";
import { SCHEDULES, STORY, type Settings, type Start } from "./settings";

const SLIDERS = { alpha0: "alpha0", steps: "steps", length: "length", threshold: "threshold", topK: "top-k", topP: "top-p", minP: "min-p", temperature: "temperature" } as const;
type Slider = keyof typeof SLIDERS;

export interface Limits {
  family: "esolm" | "mdlm" | "ar" | "bd3lm" | "setdlm";
  /** The model's context, in tokens. */
  length: number;
  /** Tokens per block, for models that write in blocks. */
  block_size: number | null;
}

export class Controls {
  /** The exact values of the sliders; an address can give values between their marks. */
  private readonly exact: Record<Slider, number> = { alpha0: 0, steps: 1, length: 8, threshold: 1, topK: 0, topP: 1, minP: 0, temperature: 1 };

  constructor(private readonly onChange: () => void) {
    const form = element("form", HTMLFormElement);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => this.changed(event.target));
    for (const id of ["device", "weights"]) element(id, HTMLSelectElement).addEventListener("input", onChange);
    element("add-gap", HTMLButtonElement).addEventListener("click", () => {
      const box = element("infill", HTMLTextAreaElement);
      box.setRangeText("____{8}", box.selectionStart, box.selectionEnd, "end");
      box.focus();
      onChange();
    });
    this.write(STORY);
  }

  read(): Settings {
    const start = document.querySelector<HTMLInputElement>("input[name=start]:checked")?.value as Start;
    const schedule = SCHEDULES.find((name) => name === element("schedule", HTMLSelectElement).value) ?? "binomial";
    const seed = input("seed").value.trim();
    if (!/^\d{1,20}$/.test(seed) || BigInt(seed) >= 1n << 64n) {
      throw new Problem("The seed is not a whole number. Write digits only, up to 18446744073709551615.");
    }
    return {
      ...this.exact,
      start,
      schedule,
      seed,
      prompt: element("prompt", HTMLTextAreaElement).value,
      infill: element("infill", HTMLTextAreaElement).value,
      device: element("device", HTMLSelectElement).value as Settings["device"],
      weights: element("weights", HTMLSelectElement).value as Settings["weights"],
    };
  }

  write(settings: Partial<Settings>): void {
    for (const key of Object.keys(SLIDERS) as Slider[]) {
      const value = settings[key];
      if (value !== undefined) this.slide(key, value);
    }
    if (settings.start) {
      const radio = document.querySelector<HTMLInputElement>(`input[name=start][value=${settings.start}]`);
      if (radio) radio.checked = true;
    }
    for (const id of ["prompt", "infill"] as const) {
      const text = settings[id];
      if (text !== undefined) element(id, HTMLTextAreaElement).value = text;
    }
    for (const id of ["schedule", "device", "weights"] as const) {
      const value = settings[id];
      if (value !== undefined) element(id, HTMLSelectElement).value = value;
    }
    if (settings.seed !== undefined) input("seed").value = settings.seed;
    this.arrange();
  }

  get keepsSeed(): boolean {
    return input("keep-seed").checked;
  }

  set keepsSeed(keep: boolean) {
    input("keep-seed").checked = keep;
  }

  /** Applies the limits of the loaded model. */
  limit({ family, length, block_size }: Limits): void {
    input("length").max = String(length);
    input("length").step = block_size !== null ? String(block_size) : length % 8 === 0 && length >= 64 ? "8" : "1";
    input("length").min = input("length").step;
    input("steps").max = String(Math.max(length, 1));
    if (this.exact.length > length) this.slide("length", length);
    if (block_size !== null) this.slide("length", Math.max(1, Math.floor(this.exact.length / block_size)) * block_size);
    const schedule = element("schedule", HTMLSelectElement);
    for (const option of schedule.options) {
      const ofBlocks = option.value === "first-hitting";
      // A cache in any order requires the order to be known in advance.
      const byConfidence = option.value === "confidence" && family !== "mdlm";
      const spread = option.value.startsWith("blocks");
      if (family === "setdlm") option.disabled = spread || option.value === "binomial";
      else option.disabled = family === "bd3lm" ? spread : ofBlocks || byConfidence;
    }
    if (schedule.selectedOptions[0]?.disabled) schedule.value = family === "setdlm" ? "confidence" : STORY.schedule;
    input("alpha0").disabled = family !== "esolm";
    input("steps").disabled = family === "ar";
    schedule.disabled = family === "ar";
    if (family === "mdlm" || family === "bd3lm" || family === "setdlm") this.slide("alpha0", 1);
    if (family === "ar") this.slide("alpha0", 0);
    this.arrange();
  }

  /** Moves sliders that still have their default to the model's recommendation. */
  recommend({ alpha_0, top_k, top_p, min_p, temperature }: ModelInfo["recommended"]): void {
    const found = { alpha0: alpha_0, topK: top_k, topP: top_p, minP: min_p, temperature };
    for (const key of Object.keys(found) as (keyof typeof found)[]) {
      const value = found[key];
      if (value !== undefined && this.exact[key] === STORY[key]) this.slide(key, value);
    }
  }

  private slide(key: Slider, value: number): void {
    const slider = input(SLIDERS[key]);
    if (value > Number(slider.max)) slider.max = String(value);
    slider.value = String(value);
    this.exact[key] = value;
    setText(`${SLIDERS[key]}-out`, String(value));
  }

  private changed(target: EventTarget | null): void {
    if (target instanceof HTMLInputElement) {
      const key = (Object.keys(SLIDERS) as Slider[]).find((name) => SLIDERS[name] === target.id);
      if (key) this.slide(key, Number(target.value));
      // Typing a seed means keeping it.
      if (target.id === "seed") this.keepsSeed = true;
    }
    this.arrange();
    this.onChange();
  }

  /** Shows the fields that the chosen start and schedule need. */
  private arrange(): void {
    const start = document.querySelector<HTMLInputElement>("input[name=start]:checked")?.value;
    element("prompt-field", HTMLElement).hidden = start !== "prompt";
    element("infill-field", HTMLElement).hidden = start !== "infill";
    input("length").disabled = start === "infill";
    const schedule = element("schedule", HTMLSelectElement);
    element("threshold-field", HTMLElement).hidden = schedule.value !== "confidence" || schedule.disabled;
  }
}
