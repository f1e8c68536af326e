/** For the same request, the browser writes the same tokens as the native program, on the GPU and on the CPU. */

import { readFileSync, writeFileSync } from "node:fs";
import { expect } from "@playwright/test";
import * as golden from "./engine/golden.js";
import { stories, test } from "./engine/lab.js";
import { convert, sample } from "./engine/native.js";

// The first call may have to build the native program.
test.setTimeout(1_800_000);

interface Case {
  what: string;
  model: "stories" | golden.GoldenModel;
  /** Fields of config.json to override. */
  config?: object;
  native: string[];
  request: object;
}

const infill = "Once upon a time, ____ and then they went home.";
const cases: Case[] = [
  { what: "a story", model: "stories", native: ["--seed", "3", "--top-p", "0.8"], request: { seed: 3, top_p: 0.8 } },
  {
    what: "a story from a prompt",
    model: "stories",
    native: ["--seed", "4", "--top-p", "0.8", "--length", "64", "--alpha0", "0.5", "--prompt", "One day, Lily found a"],
    request: { seed: 4, top_p: 0.8, length: 64, alpha_0: 0.5, prompt: "One day, Lily found a" },
  },
  {
    what: "a filled gap",
    model: "stories",
    native: ["--seed", "5", "--top-p", "0.9", "--steps", "12", "--infill", infill],
    request: { seed: 5, top_p: 0.9, steps: 12, infill },
  },
  {
    what: "two texts of a schedule in blocks",
    model: "stories",
    native: ["--seed", "18446744073709551615", "--length", "48", "--steps", "12", "--schedule", "blocks-shuffled", "--batch", "2", "--first", "7", "--temperature", "0.7"],
    request: { seed: "18446744073709551615", length: 48, steps: 12, schedule: "blocks-shuffled", batch: 2, first: 7, temperature: 0.7 },
  },
  {
    what: "an Eso-LM of random weights",
    model: "model_a",
    native: ["--seed", "6", "--alpha0", "0.7", "--batch", "3"],
    request: { seed: 6, alpha_0: 0.7, batch: 3 },
  },
  { what: "an MDLM", model: "mdlm", native: ["--seed", "7", "--steps", "20", "--batch", "2"], request: { seed: 7, steps: 20, batch: 2 } },
  {
    what: "an AR model",
    model: "ar",
    config: { bos_token_id: golden.BOS },
    native: ["--seed", "8", "--top-k", "30", "--top-p", "0.9", "--min-p", "0.05", "--batch", "2"],
    request: { seed: 8, top_k: 30, top_p: 0.9, min_p: 0.05, batch: 2 },
  },
];

for (const { what, model, config = {}, native, request } of cases) {
  test(`what the native program writes: ${what}`, async ({ engine }, info) => {
    const place = model === "stories" ? ["--model", stories] : ["--model", `${golden.folder}${model}.ema.safetensors`, "--tokenizer", "none"];
    if (model !== "stories") {
      const path = info.outputPath("config.json");
      writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(`${golden.folder}${model}.config.json`, "utf8")) as object), ...config }));
      place.push("--config", path);
    }
    const want = await sample(...place, ...native);
    expect(want.tokens.flat().length).toBeGreaterThan(10);
    for (const device of ["gpu", "cpu"]) {
      const got = await engine.evaluate(
        async ([name, config, device, request]) => {
          const model = await lab.load(await (name === "stories" ? lab.stories() : lab.golden(name, config)), { device });
          const { tokens, text, nfe } = await lab.run(model, request);
          const { adapter } = (JSON.parse(model.info()) as { device: { adapter: unknown } }).device;
          await model.close();
          return { tokens, text, nfe, onGpu: adapter !== null };
        },
        [model, config, device, request] as const,
      );
      // Without a tokenizer the native program prints no text.
      const text = model === "stories" ? want.text : expect.anything();
      expect(got, device).toEqual({ ...want, text, onGpu: device === "gpu" });
    }
  });
}

/** Folders without a tokenizer, and requests for them. */
const folders: { what: string; folder: string; info: object; asked: [native: string[], request: object][] }[] = [
  {
    what: "block by block",
    folder: "golden-family/bd3lm/bs4",
    info: { family: "bd3lm", block_size: 4 },
    asked: [
      [["--seed", "9", "--batch", "2"], { seed: 9, batch: 2 }],
      [["--seed", "9", "--steps", "3", "--block-size", "8", "--top-p", "0.8", "--top-p-crossing", "drop"], { seed: 9, steps: 3, block_size: 8, top_p: 0.8, top_p_crossing: "drop" }],
      // Longer than the context.
      [["--seed", "9", "--length", "44"], { seed: 9, length: 44 }],
      // Blocks may end early.
      [["--seed", "9", "--schedule", "confidence", "--steps", "3", "--confidence-threshold", "0.02"], { seed: 9, schedule: "confidence", steps: 3, confidence_threshold: 0.02 }],
    ],
  },
  {
    what: "in windows",
    folder: "golden-family/setdlm/owt_setdlm_smax8",
    info: { family: "setdlm", block_size: null },
    asked: [
      [["--seed", "9", "--batch", "2", "--steps", "9"], { seed: 9, batch: 2, steps: 9 }],
      [["--seed", "9", "--window", "3", "--length", "44", "--steps", "11"], { seed: 9, window: 3, length: 44, steps: 11 }],
      [["--seed", "9", "--train-order", "--top-k", "20", "--confidence-threshold", "0.02"], { seed: 9, train_order: true, top_k: 20, confidence_threshold: 0.02 }],
      [["--seed", "9", "--schedule", "first-hitting", "--steps", "8"], { seed: 9, schedule: "first-hitting", steps: 8 }],
    ],
  },
  {
    what: "from left to right, a decoder",
    folder: "golden-llm/models/qwen3_tied_bf16",
    info: { family: "ar", block_size: null },
    asked: [[["--seed", "9", "--length", "24", "--top-p", "0.9", "--batch", "2"], { seed: 9, length: 24, top_p: 0.9, batch: 2 }]],
  },
];

for (const { what, folder, info, asked } of folders) {
  test(`what the native program writes: ${what}`, async ({ engine }) => {
    for (const [native, request] of asked) {
      const want = await sample("--model", `tests/fixtures/${folder}`, "--tokenizer", "none", ...native);
      expect(want.tokens.flat().length).toBeGreaterThan(20);
      for (const device of ["gpu", "cpu"]) {
        const got = await engine.evaluate(
          async ([folder, device, request]) => {
            const model = await lab.load(await lab.folder(`/${folder}`), { device });
            const { tokens, passes } = await lab.run(model, request);
            const { family, block_size } = JSON.parse(model.info()) as { family: string; block_size: number | null };
            await model.close();
            return { tokens, passes, info: { family, block_size } };
          },
          [folder, device, request] as const,
        );
        // How soon a run learns that a text is complete ahead of its steps depends on the device; the text does not.
        const passes = "confidence_threshold" in request ? expect.any(Number) : want.nfe;
        expect(got, `${native.join(" ")} on ${device}`).toEqual({ tokens: want.tokens, passes, info });
      }
    }
  });
}

test("one network in the ways of three families", async ({ engine }) => {
  const written = (device: string, ...requests: object[]) =>
    engine.evaluate(
      async ([device, requests]) => {
        const model = await lab.load(await lab.stories(), { device });
        const all = [];
        for (const request of requests) {
          const run = model.start(JSON.stringify({ seed: 5, length: 64, steps: 16, ...request }));
          const [rows, cached] = [[] as number[], [] as number[]];
          let [family, nfe] = ["", 0];
          for await (const event of lab.events(run)) {
            if ("esolm_trace" in event) ({ family, nfe } = event);
            else if ("step" in event) [rows.push(event.rows), cached.push(event.cache_length)];
            else all.push({ family, nfe, rows, cached, tokens: event.tokens });
          }
          run.free();
        }
        await model.close();
        return all;
      },
      [device, requests] as const,
    );
  const requests = [{ alpha_0: 1 }, { decode_as: "bd3lm", block_size: 8, steps: 2 }, { decode_as: "bd3lm", block_size: 64 }, { decode_as: "mdlm" }];
  const [onGpu, onCpu] = [await written("gpu", ...requests), await written("cpu", ...requests)];
  expect(onGpu).toEqual(onCpu);
  const [eso, blocks, oneBlock, mdlm] = onCpu as [(typeof onCpu)[0], (typeof onCpu)[0], (typeof onCpu)[0], (typeof onCpu)[0]];
  expect(onCpu.map(({ family }) => family)).toEqual(["esolm", "bd3lm", "bd3lm", "mdlm"]);
  // Two rows per token; each block in each of its steps and once more; everything in every step.
  const sum = (rows: number[]): number => rows.reduce((sum, one) => sum + one, 0);
  expect(sum(eso.rows)).toBeLessThan(2 * 64);
  expect(sum(blocks.rows)).toBe(8 * blocks.nfe + 56);
  expect(mdlm.rows).toEqual(Array(mdlm.nfe).fill(64));
  expect(blocks.cached.at(-1)).toBe(56);
  expect(mdlm.cached).toEqual(Array(mdlm.nfe).fill(0));
  // With a block as long as the text, it is an MDLM.
  expect(oneBlock.tokens).toEqual(mdlm.tokens);
});

test("what the native program writes with weights of fewer bits, on the GPU and on the CPU", async ({ engine }) => {
  for (const weights of ["f16", "q8", "q4"] as const) {
    const want = await sample("--model", stories, "--seed", "5", "--length", "48", "--weights", weights);
    for (const device of ["gpu", "cpu"] as const) {
      const got = await engine.evaluate(
        async ([weights, device]) => {
          const model = await lab.load(await lab.stories(), { device, weights });
          const { tokens, text, nfe } = await lab.run(model, { seed: 5, length: 48 });
          const { adapter } = (JSON.parse(model.info()) as { device: { adapter: unknown } }).device;
          await model.close();
          return { tokens, text, nfe, onGpu: adapter !== null };
        },
        [weights, device] as const,
      );
      expect(got, `${weights} on ${device}`).toEqual({ ...want, onGpu: device === "gpu" });
    }
  }
  // Rounding activations turns differences in the last bits of a sum into whole steps, so texts may differ between processors.
  const said = await engine.evaluate(async () => {
    const model = await lab.load(await lab.stories(), { device: "cpu", weights: "q8", activations: "q8" });
    const { tokens } = await lab.run(model, { seed: 5, length: 48 });
    const { mask_index, device } = JSON.parse(model.info()) as { mask_index: number; device: { text: string } };
    await model.close();
    return { written: tokens.flat().filter((token) => token !== mask_index).length, device: device.text };
  });
  expect(said).toEqual({ written: 48, device: "CPU, q8 weights, q8 activations" });
});

test("what the native program writes with weights that are stored in fewer bits, on the CPU", async ({ engine, server }, info) => {
  for (const bits of ["q8", "q4"] as const) {
    const folder = info.outputPath(bits);
    await convert(stories, folder, bits);
    server.folder(`/stored/${bits}/`, `${folder}/`);
    const want = await sample("--model", stories, "--seed", "5", "--length", "48", "--weights", bits);
    const got = await engine.evaluate(
      async ([bits]) => {
        const model = await lab.load(await lab.source(`/stored/${bits}`), { device: "cpu" });
        const { tokens, text, nfe } = await lab.run(model, { seed: 5, length: 48 });
        const { device } = JSON.parse(model.info()) as { device: { text: string } };
        await model.close();
        return { written: { tokens, text, nfe }, device: device.text };
      },
      [bits] as const,
    );
    expect(got, bits).toEqual({ written: want, device: `CPU, ${bits} weights` });
  }
});
