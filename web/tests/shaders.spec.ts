/**
 * Every form of every shader under Chromium's own compiler, which refuses what native ones accept.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect } from "@playwright/test";
import { repository, test } from "./engine/lab.js";
import { compileAll, folder, remedy, texts } from "./engine/shaders.js";

/** Minimum number of forms of each shader. */
const forms: Record<string, number> = {
  // Three or four widths of heads, and two or three of heads that share keys; two cache precisions; two workgroup sizes.
  attention_rows: (3 + 2) * 2,
  attention_split: (4 + 3) * 2 * 2,
  attention_tile: (4 + 3) * 2,
  // Two workgroup sizes, with and without a filter.
  confidence: 2 * 2,
  copy: 1,
  // Floats in two precisions, and 8 bits.
  embed: 3,
  embed_tied: 3,
  // Three widths, two cache precisions.
  heads: 3 * 2,
  move_slots: 1,
  // Both kinds, and one with a weight.
  norm: 3,
  peak: 1,
  // Four row blocks, or three for quantised weights; plain and normalised; four weight formats, two of them floats; five ends, as the one
  // with rotary embedding has two precisions. Decoders add four ends if they normalise, and three if they do not.
  product_rows: (4 + 3) * 2 * 2 * 5 + (4 + 3) * 2 * 4 + 4 * 3,
  // Also a wide matrix, for logits.
  product_split: 4 * 2 * 4 * 5 + 4 * 4 + 4 * 4 * 4,
  // Two tile sizes, never normalised on the fly.
  product_tile: 2 * 4 * (5 + 3),
  // Two workgroup sizes.
  reveal: 2,
  // Two workgroup sizes; greedy, or either source of noise with and without a filter. Likewise for rows shared by several workgroups.
  sample: 2 * 5,
  sample_merge: 2,
  sample_parts: 2 * 5,
  score: 2,
  suppress: 1,
};

// A software GPU compiles each form to machine code, which takes minutes on two cores.
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
  // A new shader needs an entry above.
  const files = readdirSync(join(repository, "shaders")).filter((name) => name.endsWith(".wgsl"));
  expect(files.map((name) => name.slice(0, -".wgsl".length)).sort()).toEqual(Object.keys(forms).sort());

  const found = await engine.evaluate(compileAll, [...all]);
  expect(found).toEqual({ refused: [], pipelines: all.size, stray: [] });
  console.log(`${found.pipelines} forms of ${files.length} shaders compiled`);
});
