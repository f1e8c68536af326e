/** The golden data of the published code (tests/fixtures/golden/README.md) as requests to the engine, with the expected results. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "@playwright/test";
import { Tensors } from "./safetensors.js";

export const folder = fileURLToPath(new URL("../../../tests/fixtures/golden/", import.meta.url));

/** The golden data of the family's other code. */
export const family = fileURLToPath(new URL("../../../tests/fixtures/golden-family/", import.meta.url));

/** The golden data of decoders of the Qwen3 and Qwen2 kinds. */
export const decoders = fileURLToPath(new URL("../../../tests/fixtures/golden-llm/", import.meta.url));

/** Maximum difference from the published code's logits. */
export const BOUND = 1e-4;
/** The same for decoders, whose logits have a standard deviation of about 3.5. */
export const DECODER_BOUND = 2e-4;
/** Vocabulary, mask token and beginning-of-text token of the golden models. */
const VOCAB = 97;
const MASK = 96;
export const BOS = 95;

export type GoldenModel = "model_a" | "mdlm" | "ar";

/** One whole-sequence pass of the published code. */
export interface ForwardCase {
  /** Name of the golden tensor. */
  name: string;
  request: { mode: string; sort_idx: number[][]; zt_sorted: number[][]; x0_sorted?: number[][] } | { xt: number[][]; x0: number[][] };
  /** `[B, S, V]` */
  logits: number[];
}

/** One recorded generation. */
export interface Trace {
  name: string;
  plan: unknown;
  topP: number | null;
  /** `[B, slots, V]` */
  uniforms: number[];
  /** `[B, slots, V]`, of the step in which each slot was drawn. */
  logits: number[];
  /** `null` where the published code records none. */
  tokensSorted: number[][] | null;
  sample: number[][];
}

export function open(name: string): Tensors {
  return new Tensors(`${folder}${name}.safetensors`);
}

export function forwardCases(model: GoldenModel): ForwardCase[] {
  if (model !== "model_a") return [naturalCase(model)];
  const golden = open("forward_model_a");
  const names = golden.names.filter((name) => name.endsWith(".logits"));
  return names.map((name) => {
    const [phase, mode, what] = name.split(".") as [string, string, string];
    return {
      name,
      request: {
        mode,
        sort_idx: golden.rows(`${what}.sort_idx`),
        zt_sorted: golden.rows(`${what}.zt_sorted`),
        // The sequential phase reads the clean text beside the masked one.
        ...(phase === "sequential" ? { x0_sorted: golden.rows(`${what}.x0_sorted`) } : {}),
      },
      logits: golden.f32(name),
    };
  });
}

/** A BD3-LM's passes over noised and clean text. */
export function blockCases(name: string): ForwardCase[] {
  const golden = new Tensors(`${family}${name}.forward.safetensors`);
  const cases = golden.names.filter((name) => name.endsWith(".xt")).map((name) => name.slice(0, -3));
  return cases.map((name) => ({ name, request: { xt: golden.rows(`${name}.xt`), x0: golden.rows("x0") }, logits: golden.f32(`${name}.logits`) }));
}

/** A decoder's passes over a whole text, where each token sees those up to itself, or all. */
export function decoderCases(name: string): ForwardCase[] {
  const recorded = JSON.parse(readFileSync(`${decoders}forward/${name}.json`, "utf8")) as { ids: number[]; ids_masked: number[] };
  const golden = new Tensors(`${decoders}forward/${name}.safetensors`);
  return ([["causal", "causal", recorded.ids], ["bidir", "bidirectional", recorded.ids_masked]] as const).map(([pass, mode, ids]) => ({
    name: `${name}, ${pass}`,
    request: { mode, sort_idx: [natural(ids)], zt_sorted: [ids] },
    logits: golden.f32(`${pass}.logits`),
  }));
}

function naturalCase(model: "mdlm" | "ar"): ForwardCase {
  const golden = open("forward_mdlm_ar");
  const [mode, input, name] = model === "mdlm" ? ["bidirectional", "mdlm.xt", "mdlm.logits"] : ["causal", "ar.x0", "ar.logits_full"];
  const tokens = golden.rows(input!);
  return {
    name: name!,
    request: { mode: mode!, sort_idx: tokens.map(natural), zt_sorted: tokens },
    logits: golden.f32(name!),
  };
}

/** The logits of every position before each step of the MDLM's recorded generation. */
export function mdlmSteps(): ForwardCase[] {
  const golden = open("sampling_mdlm_ar");
  const before = golden.rows("mdlm.x_before");
  const evaluated = golden.u8("mdlm.evaluated");
  const logits = golden.f32("mdlm.logits");
  const size = before[0]!.length * VOCAB;
  let recorded = 0;
  const cases = before.map((tokens, step) => {
    // A step that the published code skips repeats the logits of the one before.
    recorded += evaluated[step]!;
    return {
      name: `mdlm, step ${step}`,
      request: { mode: "bidirectional", sort_idx: [natural(tokens)], zt_sorted: [tokens] },
      logits: logits.slice((recorded - 1) * size, recorded * size),
    };
  });
  expect(recorded * size).toBe(logits.length);
  return cases;
}

function natural(tokens: number[]): number[] {
  return tokens.map((_, position) => position);
}

export function esolmTraces(): Trace[] {
  const golden = open("sampling_model_a");
  const names = golden.names.filter((name) => name.endsWith(".steps")).map((name) => name.slice(0, -".steps".length));
  return names.map((name) => {
    const orders = golden.rows(`${name}.sort_idx`);
    // The phase of a step is only for display.
    const steps = golden.rows(`${name}.steps`).map((step) => ["diffusion", ...step]);
    return {
      name,
      plan: recordedPlan("esolm", orders, steps),
      topP: name.endsWith("_p09") ? 0.9 : null,
      uniforms: golden.f64(`${name}.u`),
      logits: golden.f32(`${name}.logits`),
      tokensSorted: golden.rows(`${name}.tokens_sorted`),
      sample: golden.rows(`${name}.sample`),
    };
  });
}

/**
 * The MDLM's generation: a position unmasked in recorded step n is drawn from that step's logits with that step's uniforms; its slot is
 * its position.
 */
export function mdlmTrace(): Trace {
  const golden = open("sampling_mdlm_ar");
  const [before, after] = [golden.rows("mdlm.x_before"), golden.rows("mdlm.x_after")];
  const [recordedUniforms, steps] = [golden.f64("mdlm.u"), mdlmSteps()];
  const length = before[0]!.length;
  const uniforms = Array<number>(length * VOCAB).fill(0.5);
  const logits = Array<number>(length * VOCAB).fill(0);
  const order: number[] = [];
  const planned: unknown[] = [];
  for (const [step, tokens] of before.entries()) {
    const start = order.length;
    for (let position = 0; position < length; position += 1) {
      if (tokens[position] === after[step]![position]) continue;
      order.push(position);
      for (let v = 0; v < VOCAB; v += 1) {
        uniforms[position * VOCAB + v] = recordedUniforms[(step * length + position) * VOCAB + v]!;
        logits[position * VOCAB + v] = steps[step]!.logits[position * VOCAB + v]!;
      }
    }
    if (start < order.length) planned.push(["diffusion", 0, start, order.length]);
  }
  return {
    name: "mdlm",
    plan: recordedPlan("mdlm", [order], planned),
    topP: null,
    uniforms,
    logits,
    tokensSorted: null,
    sample: golden.rows("mdlm.sample"),
  };
}

function recordedPlan(family: string, orders: number[][], steps: unknown[]): unknown {
  return {
    esolm_plan: 1,
    family,
    length: orders[0]!.length,
    lead: false,
    mask_index: MASK,
    vocab_size: VOCAB,
    sequences: orders.map((order, sequence) => ({ sequence, order, known: [], steps })),
  };
}

/** The AR model's generations; the engine makes their plan. */
export function arTrace(prepend: "none" | "bos"): Omit<Trace, "plan"> {
  const golden = open("sampling_mdlm_ar");
  const name = `ar.${prepend}`;
  return {
    name,
    topP: null,
    uniforms: golden.f64(`${name}.u`),
    logits: golden.f32(`${name}.logits`),
    tokensSorted: null,
    sample: golden.rows(`${name}.sample`),
  };
}

/** Fails if two arrays differ by more than `bound`; returns the largest difference. */
export function close(what: string, got: number[], want: number[], bound = BOUND): number {
  expect(got.length, what).toBe(want.length);
  let largest = 0;
  let at = 0;
  for (const [index, value] of want.entries()) {
    const difference = Math.abs(got[index]! - value);
    // NaN counts as the largest difference.
    if (!(difference <= largest)) [largest, at] = [Number.isNaN(difference) ? Infinity : difference, index];
  }
  expect(largest, `${what}, value ${at}: ${got[at]}, want ${want[at]}`).toBeLessThanOrEqual(bound);
  return largest;
}
