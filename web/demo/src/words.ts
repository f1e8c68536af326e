// Words for numbers, phases and tokens.

import type { ModelInfo } from "esolm";
import type { Family, Phase } from "./trace";
import { GIVEN, UNKNOWN, type History } from "./history";

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value: number): string => whole.format(value);
export const figure = (value: number): string => short.format(value);

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function seconds(value: number): string {
  if (value < 0.001) return "under 1 ms";
  return value < 1 ? `${figure(value * 1000)} ms` : `${figure(value)} s`;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** How many times more the first is than the second, `29` or `1.4`. */
export function times(more: number, less: number): string {
  const ratio = more / less;
  return ratio >= 10 ? count(Math.round(ratio)) : (Math.round(ratio * 10) / 10).toString();
}

export function phaseName(phase: Phase, family: Family): string {
  if (phase === "prompt") return "Reading";
  if (phase === "diffusion") return "Diffusion";
  return family === "ar" ? "Left to right" : "Sequential";
}

/** How a model writes, if it differs from what the page explains. */
export function wayNote({ family, block_size }: Pick<ModelInfo, "family" | "block_size">): string | null {
  if (block_size !== null) {
    return `This model writes in blocks of ${plural(block_size, "token")}, one block after the other. Within a block it fills the blanks in any order and sees the whole block; finished blocks come from the cache. The steps T are those of each block.`;
  }
  if (family !== "setdlm") return null;
  return "This model writes within a window of blanks that moves along with the text. Each step draws a token for every blank of the window and keeps those that the model is most sure of; what is kept comes from the cache.";
}

/** Where a diffusion step writes. */
export function placesOf(family: Family): string {
  const places: Partial<Record<Family, string>> = { bd3lm: "anywhere in their block", setdlm: "somewhere in their window" };
  return places[family] ?? "anywhere in the text";
}

/** What a step does, for first-time readers. */
export function stepSentence(phase: Phase, drawn: number, family: Family): string {
  if (phase === "prompt") return "The given words are read in.";
  if (phase === "diffusion") {
    const where = placesOf(family);
    return drawn === 1 ? `One token appears, ${where.replace("their", "its")}.` : `${plural(drawn, "token")} appear at once, ${where}.`;
  }
  return family === "ar" ? "The next token is written." : "The leftmost blank is filled.";
}

/** Whether a token marks the start or end of a text rather than being part of it. */
export function isSpecial(text: string): boolean {
  return /^<\|.*\|>$|^<\/?[a-z]+>$|^\[[A-Z]+\]$/.test(text);
}

/** What is shown for a special token. */
export function specialName(position: number): string {
  return position === 0 ? "start" : "end of text";
}

/** A token on one line, with invisible characters made visible. */
export function visible(text: string): string {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}

export interface CellFacts {
  token: string | null;
  position: number;
  slot: number | null;
  /** The step, counted from 1; 0 for a given position, null if not known yet. */
  step: number | null;
  how: string;
}

/** The facts about a cell after `shown` steps. */
export function cellFacts(history: History, position: number, shown: number): CellFacts {
  const step = history.stepOf[position]!;
  const written = step < shown;
  const slot = history.slotOf[position]!;
  const phase = history.phaseOf[position];
  const base = { position, slot: slot === -1 ? null : slot };
  if (step === GIVEN) return { ...base, token: history.trace.text(history.tokenOf[position]!), step: 0, how: "given" };
  if (!written) {
    const ahead = step === UNKNOWN || history.trace.footer === null ? null : step + 1;
    return { ...base, slot: step === UNKNOWN ? null : base.slot, token: null, step: ahead, how: "not written yet" };
  }
  const how = phase === "diffusion" ? "by diffusion" : "left to right";
  return { ...base, token: history.trace.text(history.tokenOf[position]!), step: step + 1, how };
}
