/**
 * Every form of every shader under Chromium's own compiler, which refuses what native ones accept. The texts are those that
 * `tests/tests/shaders.rs` writes down.
 */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect } from "@playwright/test";
import { repository, test } from "./engine/lab.js";

const folder = process.env["ESOLM_SHADERS"] ?? resolve(repository, process.env["CARGO_TARGET_DIR"] ?? "target", "tmp", "shaders");
const remedy = "`cargo test --release -p esolm-tests --test shaders` writes it (the variable ESOLM_SHADERS names another folder)";

/** Forms that there must be of each shader, at least. */
const forms: Record<string, number> = {
  // Three or four widths of heads, and two or three of those that share keys; two precisions of the cache, and two sizes of workgroups.
  attention_rows: (3 + 2) * 2,
  attention_split: (4 + 3) * 2 * 2,
  attention_tile: (4 + 3) * 2,
  // Two sizes of workgroups, with and without a filter.
  confidence: 2 * 2,
  copy: 1,
  // Floats of two precisions, and 8 bits.
  embed: 3,
  embed_tied: 3,
  // Three widths, two precisions of the cache.
  heads: 3 * 2,
  move_slots: 1,
  // Of either kind, and one with a weight.
  norm: 3,
  peak: 1,
  // Four blocks of rows, three of weights in fewer bits; plain and normalised; four forms of weights, two of them floats; five ends: the one with rotary
  // embedding has two precisions. Decoders add four ends where they normalise, and three where they do not.
  product_rows: (4 + 3) * 2 * 2 * 5 + (4 + 3) * 2 * 4 + 4 * 3,
  // And a wide matrix, for logits.
  product_split: 4 * 2 * 4 * 5 + 4 * 4 + 4 * 4 * 4,
  // Two sizes of tiles, never normalised on the way.
  product_tile: 2 * 4 * (5 + 3),
  // Two sizes of workgroups.
  reveal: 2,
  // Two sizes of workgroups; greedy, or with either source of noise with and without a filter. The same for rows that several workgroups share.
  sample: 2 * 5,
  sample_merge: 2,
  sample_parts: 2 * 5,
  score: 2,
  suppress: 1,
};

function shaderFiles(): string[] {
  const shaders = join(repository, "shaders");
  return readdirSync(shaders, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".wgsl"))
    .map((name) => join(shaders, name));
}

/** Texts by name. */
function texts(): Map<string, string> {
  if (!existsSync(folder)) throw new Error(`${folder} is not there; ${remedy}`);
  const names = readdirSync(folder).filter((name) => name.endsWith(".wgsl"));
  const written = Math.min(...names.map((name) => statSync(join(folder, name)).mtimeMs));
  for (const shader of shaderFiles()) {
    if (statSync(shader).mtimeMs > written) throw new Error(`${folder} is older than ${shader}; ${remedy}`);
  }
  return new Map(names.map((name) => [name.slice(0, -".wgsl".length), readFileSync(join(folder, name), "utf8")]));
}

// A software GPU makes machine code of each form, which takes two cores minutes.
test.setTimeout(1_200_000);

test("all shaders compile, and fit the limits that every browser has", async ({ engine }) => {
  const all = texts();
  const counts = new Map<string, number>();
  for (const name of all.keys()) {
    const shader = name.split("-")[0]!;
    counts.set(shader, (counts.get(shader) ?? 0) + 1);
  }
  for (const [shader, least] of Object.entries(forms)) {
    expect(counts.get(shader) ?? 0, `forms of ${shader} in ${folder}; ${remedy}`).toBeGreaterThanOrEqual(least);
  }
  // A new shader needs its number above.
  const files = readdirSync(join(repository, "shaders")).filter((name) => name.endsWith(".wgsl"));
  expect(files.map((name) => name.slice(0, -".wgsl".length)).sort()).toEqual(Object.keys(forms).sort());

  const found = await engine.evaluate(async (all) => {
    const adapter = await navigator.gpu.requestAdapter();
    // Without a wish for more a device has the limits of the standard.
    const device = await adapter!.requestDevice();
    const stray: string[] = [];
    device.addEventListener("uncapturederror", (event) => stray.push(event.error.message));
    const refused: string[] = [];
    let pipelines = 0;
    const compile = async ([name, code]: [string, string]): Promise<void> => {
      device.pushErrorScope("validation");
      const module = device.createShaderModule({ code });
      const scope = device.popErrorScope();
      const { messages } = await module.getCompilationInfo();
      for (const { type, lineNum, message } of messages) if (type === "error") refused.push(`${name}, line ${lineNum}: ${message}`);
      const error = await scope;
      if (error !== null) {
        refused.push(`${name}: ${error.message}`);
        return;
      }
      try {
        await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
        pipelines += 1;
      } catch (error) {
        refused.push(`${name}: ${(error as Error).message}`);
      }
    };
    const left = [...all];
    const work = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) await compile(next);
    };
    await Promise.all([work(), work(), work(), work()]);
    device.destroy();
    return { refused, pipelines, stray };
  }, [...all]);
  expect(found).toEqual({ refused: [], pipelines: all.size, stray: [] });
  console.log(`${found.pipelines} forms of ${files.length} shaders compiled`);
});
