// What the visitor can set, and its form in the address of the page.

import type { ModelInfo } from "esolm";
import { esolm as recommended } from "../../../models/stories/generation_config.json";
import { Problem } from "./parse";

export const SCHEDULES = ["binomial", "blocks", "blocks-shuffled", "left-to-right", "first-hitting", "confidence"] as const;
export type Schedule = (typeof SCHEDULES)[number];
export type Start = "free" | "prompt" | "infill";

export interface Settings {
  start: Start;
  prompt: string;
  infill: string;
  alpha0: number;
  steps: number;
  schedule: Schedule;
  /** Of the schedule confidence: tokens of at least this confidence are kept too; 1 leaves it at those that the steps ask for. */
  threshold: number;
  /** 0 leaves all tokens. */
  topK: number;
  topP: number;
  minP: number;
  temperature: number;
  /** Up to 64 bits, so not a number here. */
  seed: string;
  length: number;
  device: "auto" | "gpu" | "cpu";
  weights: "f32" | "f16" | "q8" | "q4";
}

/** What the model that comes with the page recommends stands in its own files. */
export const STORY: Settings = {
  start: "free",
  prompt: "Once upon a time, there was a little dog named Max. Max wanted to",
  infill: "Once upon a time, there was a ____{2} named Lily. She liked to ____{8} One day, she saw a ____{14} They were very happy.",
  alpha0: recommended.alpha_0,
  steps: 32,
  schedule: "binomial",
  threshold: 1,
  topK: 0,
  topP: recommended.top_p,
  minP: 0,
  temperature: recommended.temperature,
  seed: "3",
  length: 128,
  device: "auto",
  weights: "f32",
};

/** What a preset sets; the rest stays. */
export const PRESETS: Record<"story" | "gaps" | "prompt", Partial<Settings>> = {
  story: { start: "free", alpha0: STORY.alpha0, steps: STORY.steps, length: STORY.length },
  gaps: { start: "infill", infill: STORY.infill, alpha0: 0.5, steps: 12 },
  prompt: { start: "prompt", prompt: STORY.prompt, alpha0: 0.25, steps: 24, length: 96 },
};

/** Options of `EsoLM.generate`. */
export interface Request {
  prompt?: string;
  infill?: string;
  length?: number;
  alpha0?: number;
  steps?: number;
  schedule?: Schedule;
  confidenceThreshold?: number;
  topK?: number;
  topP: number;
  minP: number;
  temperature: number;
  seed: string;
  decodeAs?: "mdlm" | "bd3lm";
  blockSize?: number;
}

/**
 * What to ask of a model; some settings belong to families other than its own. It is told every number, so that what it recommends counts only
 * as far as the form shows it.
 */
export function request(settings: Settings, info: ModelInfo | null): Request {
  const { start, alpha0, steps, schedule, topP, minP, temperature, seed, length } = settings;
  const family = info?.family ?? "esolm";
  const common: Request = { topP, minP, temperature, seed };
  if (family === "esolm") common.alpha0 = alpha0;
  if (family !== "ar") {
    common.schedule = schedule;
    // One token a step takes as many as there are.
    if (schedule !== "first-hitting") common.steps = steps;
    if (schedule === "confidence" && settings.threshold < 1) common.confidenceThreshold = settings.threshold;
  }
  if (settings.topK > 0) common.topK = settings.topK;
  else if (info?.recommended.top_k !== undefined) common.topK = info.vocab_size;
  if (start === "infill") {
    if (!settings.infill.includes("_")) {
      throw new Problem("The text with gaps has no gap. Mark one with underscores, for example “Once ____ a time”.");
    }
    return { ...common, infill: settings.infill };
  }
  if (start === "prompt" && settings.prompt.trim() === "") {
    throw new Problem("The beginning is empty. Write a few words for the model to continue, or start from nothing.");
  }
  return start === "prompt" ? { ...common, prompt: settings.prompt, length } : { ...common, length };
}

export function randomSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

const KEYS = {
  start: "start",
  prompt: "prompt",
  infill: "infill",
  alpha0: "alpha0",
  steps: "steps",
  schedule: "schedule",
  threshold: "threshold",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  temperature: "temperature",
  seed: "seed",
  length: "length",
  device: "device",
  weights: "weights",
} as const satisfies Record<keyof Settings, string>;

/** Every setting other than its default, and always the seed. */
export function toHash(settings: Settings): string {
  const query = new URLSearchParams();
  for (const key of Object.keys(KEYS) as (keyof Settings)[]) {
    const used = (key !== "prompt" && key !== "infill") || settings.start === key;
    if (used && (key === "seed" || settings[key] !== STORY[key])) query.set(KEYS[key], String(settings[key]));
  }
  return query.toString();
}

/** Settings named in an address; what does not fit is left out, and named. */
export function fromHash(hash: string): { settings: Partial<Settings>; refused: string[] } {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const settings: Partial<Settings> = {};
  const refused: string[] = [];
  const number = (key: "alpha0" | "steps" | "threshold" | "topK" | "topP" | "minP" | "temperature" | "length", low: number, high: number, integer: boolean): void => {
    const text = query.get(KEYS[key]);
    if (text === null) return;
    const value = Number(text);
    const fits = text.trim() !== "" && value >= low && value <= high && (!integer || Number.isInteger(value));
    if (fits) settings[key] = value;
    else refused.push(KEYS[key]);
  };
  const choice = <K extends "start" | "schedule" | "device" | "weights">(key: K, values: readonly Settings[K][]): void => {
    const text = query.get(KEYS[key]);
    if (text === null) return;
    const value = values.find((item) => item === text);
    if (value !== undefined) settings[key] = value;
    else refused.push(KEYS[key]);
  };
  number("alpha0", 0, 1, false);
  number("steps", 1, 1 << 20, true);
  number("threshold", 0, 1, false);
  number("topK", 0, 1 << 20, true);
  number("topP", 0.001, 1, false);
  number("minP", 0, 1, false);
  number("temperature", 0, 100, false);
  number("length", 1, 1 << 16, true);
  choice("start", ["free", "prompt", "infill"]);
  choice("schedule", SCHEDULES);
  choice("device", ["auto", "gpu", "cpu"]);
  choice("weights", ["f32", "f16", "q8", "q4"]);
  for (const key of ["prompt", "infill"] as const) {
    const text = query.get(KEYS[key]);
    if (text !== null) settings[key] = text;
  }
  const seed = query.get(KEYS.seed);
  if (seed !== null) {
    if (/^\d{1,20}$/.test(seed) && BigInt(seed) < 1n << 64n) settings.seed = seed;
    else refused.push(KEYS.seed);
  }
  return { settings, refused };
}
