/** The engine in Chromium compared with the published code's golden numbers, as `tests/tests/gpu.rs` and `cpu.rs` do natively. */

import { expect, type Page } from "@playwright/test";
import * as golden from "./engine/golden.js";
import { test } from "./engine/lab.js";

/** Loads a golden model as `globalThis.model` and returns what it runs on. */
async function load(page: Page, name: golden.GoldenModel, options: object, config: object = {}): Promise<{ adapter: unknown; variants: unknown }> {
  return page.evaluate(
    async ([name, options, config]) => {
      const model = await lab.load(await lab.golden(name, config), options);
      Object.assign(globalThis, { model });
      return (JSON.parse(model.info()) as { device: { adapter: unknown; variants: unknown } }).device;
    },
    [name, options, config] as const,
  );
}

type Loaded = { model: import("../dist/esolm_web.js").WasmModel };

/** The largest difference over all `cases`. */
async function forward(page: Page, cases: golden.ForwardCase[], bound = golden.BOUND): Promise<number> {
  let largest = 0;
  for (const { name, request, logits } of cases) {
    const got = await page.evaluate(async (request) => {
      const { model } = globalThis as unknown as Loaded;
      return Array.from(await model.forward(JSON.stringify(request)));
    }, request);
    largest = Math.max(largest, golden.close(name, got, logits, bound));
  }
  return largest;
}

async function replay(page: Page, { name, plan, uniforms, topP, logits, tokensSorted, sample }: golden.Trace): Promise<number> {
  const got = await page.evaluate(
    async ([plan, uniforms, filters]) => {
      const { model } = globalThis as unknown as Loaded;
      const replay = await model.replay(JSON.stringify(plan), Float64Array.from(uniforms), filters);
      const found = {
        logits: Array.from(replay.logits),
        sample: JSON.parse(replay.sample()) as number[][],
        tokensSorted: JSON.parse(replay.tokens_sorted()) as number[][],
      };
      replay.free();
      return found;
    },
    [plan, uniforms, JSON.stringify({ top_p: topP })] as const,
  );
  expect(got.sample, name).toEqual(sample);
  if (tokensSorted !== null) expect(got.tokensSorted, name).toEqual(tokensSorted);
  return golden.close(name, got.logits, logits);
}

for (const device of ["gpu", "cpu"]) {
  test(`logits of every attention mode, on the ${device}`, async ({ engine }) => {
    for (const [name, count] of [["model_a", 14], ["mdlm", 1], ["ar", 1]] as const) {
      const { adapter } = await load(engine, name, { device });
      expect(adapter !== null, "runs on a GPU adapter").toBe(device === "gpu");
      const cases = golden.forwardCases(name);
      expect(cases.length).toBe(count);
      console.log(`${device}, ${name}: largest difference ${(await forward(engine, cases)).toExponential(1)}`);
    }
  });

  test(`logits of a BD3-LM's blocks, on the ${device}`, async ({ engine }) => {
    await engine.evaluate(async (device) => {
      Object.assign(globalThis, { model: await lab.load(await lab.family("bd3lm/bs4"), { device }) });
    }, device);
    const cases = golden.blockCases("bd3lm/bs4");
    expect(cases.length).toBe(3);
    console.log(`${device}, BD3-LM: largest difference ${(await forward(engine, cases)).toExponential(1)}`);
  });

  test(`logits of decoders, on the ${device}`, async ({ engine }) => {
    for (const name of ["qwen3_tied_bf16", "qwen2"]) {
      const onGpu = await engine.evaluate(
        async ([name, device]) => {
          const model = await lab.load(await lab.decoder(name), { device });
          Object.assign(globalThis, { model });
          return (JSON.parse(model.info()) as { device: { adapter: unknown } }).device.adapter !== null;
        },
        [name, device] as const,
      );
      expect(onGpu).toBe(device === "gpu");
      const cases = golden.decoderCases(name);
      expect(cases.length).toBe(2);
      console.log(`${device}, ${name}: largest difference ${(await forward(engine, cases, golden.DECODER_BOUND)).toExponential(1)}`);
    }
  });

  test(`Eso-LM generations token for token, on the ${device}`, async ({ engine }) => {
    await load(engine, "model_a", { device });
    const traces = golden.esolmTraces();
    expect(traces.length).toBe(6);
    let largest = 0;
    for (const trace of traces) largest = Math.max(largest, await replay(engine, trace));
    console.log(`${device}, 6 traces: largest difference ${largest.toExponential(1)}`);
  });

  test(`MDLM generation token for token, on the ${device}`, async ({ engine }) => {
    await load(engine, "mdlm", { device });
    const largest = [await forward(engine, golden.mdlmSteps()), await replay(engine, golden.mdlmTrace())];
    console.log(`${device}, mdlm: largest difference ${Math.max(...largest).toExponential(1)}`);
  });

  test(`AR generations token for token, on the ${device}`, async ({ engine }) => {
    for (const prepend of ["none", "bos"] as const) {
      await load(engine, "ar", { device }, { prepend_token: prepend, bos_token_id: golden.BOS });
      const trace = golden.arTrace(prepend);
      const batch = trace.sample.length;
      const plan = await engine.evaluate((batch) => {
        const { model } = globalThis as unknown as Loaded;
        return (JSON.parse(model.plan(JSON.stringify({ batch, seed: 0 }))) as { plan: unknown }).plan;
      }, batch);
      await replay(engine, { ...trace, plan });
    }
  });
}

for (const variants of ["few=rows,many=rows,attention=split", "few=split,many=tile,attention=tile", "few=split,many=split,attention=rows"]) {
  test(`logits with the kernels ${variants}`, async ({ engine }) => {
    const chosen = await load(engine, "model_a", { device: "gpu", variants });
    expect(chosen.variants).toMatchObject(Object.fromEntries(variants.split(",").map((one) => one.split("="))));
    await forward(engine, golden.forwardCases("model_a"));
    for (const trace of golden.esolmTraces().slice(0, 2)) await replay(engine, trace);
  });
}
