/** Models with the real engine: no leaks, cancelling has no side effects, and errors say what is wrong. */

import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import { Server } from "./server.js";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
let server: Server;
let uncaught: string[];

test.beforeEach(async ({ page }) => {
  server = await Server.start();
  server.folder("/dist/", at("../dist/")).folder("/models/", at("../../models/"));
  uncaught = [];
  page.on("pageerror", (error) => uncaught.push(error.message));
  await page.goto(server.url("/"));
});
test.afterEach(async () => {
  await server[Symbol.asyncDispose]();
  expect(uncaught).toEqual([]);
});

type Package = typeof import("../src/index.js");

/** Runs a function in the page with the package. It is sent as text, so it sees only what it is given. */
function inPage<A, T>(page: Page, argument: A, work: (esolm: Package, argument: A) => Promise<T>): Promise<T> {
  return page.evaluate(
    async ([argument, text]) => {
      const path = "/dist/index.js";
      const work = new Function(`return (${text});`)() as (esolm: Package, argument: A) => Promise<T>;
      return work((await import(path)) as Package, argument as A);
    },
    [argument, work.toString()] as const,
  );
}

/**
 * Counts the bytes of live GPU buffers: created, and neither destroyed nor collected. wgpu leaves dropped buffers to the browser's
 * garbage collection, which therefore has to run before the count is read.
 */
async function countBuffers(page: Page): Promise<() => Promise<number>> {
  await page.evaluate(() => {
    interface Buffer {
      size: number;
      destroy(): void;
    }
    const scope = globalThis as unknown as {
      liveBytes: number;
      GPUDevice: { prototype: { createBuffer(descriptor: unknown): Buffer } };
      GPUBuffer: { prototype: Buffer };
    };
    scope.liveBytes = 0;
    const { createBuffer } = scope.GPUDevice.prototype;
    const { destroy } = scope.GPUBuffer.prototype;
    const collected = new FinalizationRegistry<number>((size) => (scope.liveBytes -= size));
    scope.GPUDevice.prototype.createBuffer = function (descriptor) {
      const buffer = createBuffer.call(this, descriptor);
      scope.liveBytes += buffer.size;
      collected.register(buffer, buffer.size, buffer);
      return buffer;
    };
    scope.GPUBuffer.prototype.destroy = function () {
      if (collected.unregister(this)) scope.liveBytes -= this.size;
      destroy.call(this);
    };
  });
  return async () => {
    // Collection is reported some time later, and may release more to be collected.
    for (let time = 0; time < 3; time++) {
      await page.requestGC();
      await page.waitForTimeout(200);
    }
    return page.evaluate(() => (globalThis as unknown as { liveBytes: number }).liveBytes);
  };
}

for (const device of ["gpu", "cpu"] as const) {
  test(`fifty models come and go without a trace, on the ${device.toUpperCase()}`, async ({ page }) => {
    test.setTimeout(900_000);
    const bufferBytes = await countBuffers(page);
    const cycles = (count: number): Promise<{ text: string; deviceBytes: number; wasmBytes: number }[]> =>
      inPage(page, { device, count }, async ({ EsoLM }, { device, count }) => {
        const cycles = [];
        for (let cycle = 0; cycle < count; cycle++) {
          // In the page's thread, where every buffer and every byte can be counted.
          const model = await EsoLM.load("/models/stories", { worker: false, device });
          const text = await model.text({ seed: 3, topP: 0.8, length: 16, steps: 4 });
          cycles.push({ text, deviceBytes: await model.deviceBytes(), wasmBytes: await model.wasmBytes() });
          await model.dispose();
        }
        return cycles;
      });
    // The device, its pipelines and the allocator's pools stay, and exist after the first few cycles.
    const first = await cycles(5);
    const settled = await bufferBytes();
    const rest = await cycles(45);
    let left = await bufferBytes();
    // Some collections are reported late.
    for (let time = 0; left > settled && time < 20; time++) left = await bufferBytes();
    const [before, after] = [first[4]!, rest[44]!];
    console.log(JSON.stringify({ device, before, after, settled, left }));
    expect(new Set([...first, ...rest].map(({ text }) => text)).size).toBe(1);
    expect(before.text).not.toBe("");
    expect(after.deviceBytes).toBeLessThanOrEqual(before.deviceBytes);
    // The module's memory grows in one large step at some point. Leaks of models would show as many small ones.
    expect(new Set([first[4]!, ...rest].map(({ wasmBytes }) => wasmBytes)).size).toBeLessThanOrEqual(2);
    expect(after.wasmBytes).toBeLessThan(before.wasmBytes + 6_000_000);
    expect(left).toBeLessThanOrEqual(settled);
    // Far less than a model: 9 MB of weights.
    expect(left).toBeLessThan(1_000_000);
    if (device === "cpu") expect(after.deviceBytes).toBe(0);
    else expect(after.deviceBytes).toBeGreaterThan(7_000_000);
  });
}

for (const worker of [true, false]) {
  test(`a run that is stopped leaves the model as it was, ${worker ? "in a worker" : "in the page"}`, async ({ page }) => {
    const outcome = await inPage(page, worker, async ({ EsoLM }, worker) => {
      const model = await EsoLM.load("/models/stories", { worker, device: "gpu" });
      const options = { seed: 3, topP: 0.8, length: 48, steps: 8 };
      const before = await model.text(options);
      const round = async () => {
        const broken = model.generate({ ...options, seed: 4 });
        let steps = 0;
        for await (const _ of broken) if (++steps === 3) break;
        const partial = await broken.result;

        const abort = new AbortController();
        const aborted = await model
          .text({ ...options, seed: 5, signal: abort.signal, onStep: ({ step }) => step === 2 && abort.abort(new Error("enough")) })
          .catch((error: unknown) => String(error));

        return { partial, aborted, after: await model.text(options), bytes: await model.deviceBytes() };
      };
      const rounds = [];
      for (let count = 0; count < 8; count++) rounds.push(await round());
      const { partial, aborted, after } = rounds[7]!;
      const bytes = rounds.map((round) => round.bytes);
      const { mask_index } = model.info;
      await model.dispose();
      return { before, after, bytes, aborted, interrupted: partial.interrupted, masks: partial.tokens[0]!.filter((token) => token === mask_index).length };
    });
    expect(outcome.after).toBe(outcome.before);
    expect(outcome.before.length).toBeGreaterThan(20);
    expect(outcome.aborted).toBe("Error: enough");
    expect(outcome.interrupted).toBe(true);
    expect(outcome.masks).toBeGreaterThan(0);
    // The allocator's pools grow as large as needed. How many reads are in flight at once depends on how busy the machine is, so a pool may
    // still gain a page; a leaked cache, 0.4 MB per run, would show.
    expect(Math.max(...outcome.bytes.slice(4)), String(outcome.bytes)).toBeLessThan(outcome.bytes[3]! + 300_000);
  });
}

for (const worker of [true, false]) {
  test(`a long score on the CPU is aborted within a few passes, ${worker ? "in a worker" : "in the page"}`, async ({ page }) => {
    const outcome = await inPage(page, worker, async ({ EsoLM }, worker) => {
      const model = await EsoLM.load("/models/stories", { worker, device: "cpu" });
      const text = "Once upon a time, there was a little dog named Max. ".repeat(40);
      const began = performance.now();
      await model.score(text, { alpha0: 1, orders: 2 });
      const two = performance.now() - began;
      const want = await model.score("A cat.");
      const calls = {
        score: (signal: AbortSignal) => model.score(text, { alpha0: 1, orders: 400, signal }),
        replay: async (signal: AbortSignal) => {
          const { plan } = await model.plan({ steps: 256 });
          return model.replay(plan, new Float64Array(256 * plan.vocab_size).fill(0.5), { signal });
        },
      };
      const answered: Record<string, number> = {};
      const reasons = [];
      for (const [name, call] of Object.entries(calls)) {
        const abort = new AbortController();
        const failed = call(abort.signal).then(() => "no failure", String);
        await new Promise((resolve) => setTimeout(resolve, 100));
        const at = performance.now();
        abort.abort(new Error("enough"));
        // The next call waits for the pass in progress, but for no others.
        const next = model.score("A cat.").then(({ logp }) => logp === want.logp);
        reasons.push(await Promise.race([failed, next]), await failed, await next);
        answered[name] = performance.now() - at;
      }
      await model.dispose();
      return { two, answered, reasons };
    });
    console.log(JSON.stringify(outcome));
    expect(outcome.reasons).toEqual(["Error: enough", "Error: enough", true, "Error: enough", "Error: enough", true]);
    // The whole score would take two hundred times as long.
    for (const name of ["score", "replay"]) expect(outcome.answered[name], name).toBeLessThan(50 * outcome.two);
  });
}

test("texts in which the model ran on at a given word are drawn again, and no others", async ({ page }) => {
  const outcome = await inPage(page, null, async ({ EsoLM }) => {
    const model = await EsoLM.load("/models/stories", { device: "cpu" });
    // Whether a text runs on depends on the weights; a high temperature makes it likelier.
    for (let seed = 0; ; seed += 1) {
      const generation = model.generate({ infill: "The cat ____{6} with a dog ____{8}.", batch: 24, seed, temperature: 1.5 });
      const drawn: { attempt: number; sequence: number; position: number; token: number }[] = [];
      for await (const { attempt, revealed } of generation) for (const item of revealed) drawn.push({ attempt, ...item });
      const result = await generation.result;
      if (generation.headers.length === 1 && seed < 20) continue;
      await model.dispose();
      return { headers: generation.headers.map(({ attempt, texts, seed }) => ({ attempt, texts, seed })), drawn, result, seed };
    }
  });
  const { headers, drawn, result, seed: first } = outcome;
  console.log(JSON.stringify(headers.map(({ texts }) => texts.length)), result.text[0]);
  expect(headers[0]!.texts).toEqual(Array.from({ length: 24 }, (_, index) => index));
  expect(headers.length).toBeGreaterThan(1);
  expect(headers[1]!.texts.length).toBeLessThan(24);
  expect(result.run_on).toEqual([]);
  expect(headers.every(({ attempt, seed }, index) => attempt === index && seed === first)).toBe(true);
  // Each text is the result of the last attempt at it.
  for (const { attempt, texts } of headers) {
    expect([...new Set(drawn.filter((item) => item.attempt === attempt).map((item) => item.sequence))].sort((a, b) => a - b)).toEqual(texts);
  }
  for (const [sequence, tokens] of result.tokens.entries()) {
    const last = headers.filter(({ texts }) => texts.includes(sequence)).at(-1)!.attempt;
    for (const item of drawn) if (item.sequence === sequence && item.attempt === last) expect(tokens[item.position]).toBe(item.token);
  }
});

test("two models at a time, and one more after them, do not disturb each other", async ({ page }) => {
  const texts = await inPage(page, null, async ({ EsoLM }) => {
    const options = { seed: 7, topP: 0.8, length: 32, steps: 8 };
    const load = (worker: boolean) => EsoLM.load("/models/stories", { worker, device: "gpu" });
    const models = [await load(true), await load(false), await load(false)];
    const texts = await Promise.all(models.map((model) => model.text(options)));
    await models[1]!.dispose();
    texts.push(await models[2]!.text(options));
    await Promise.all(models.map((model) => model.dispose()));
    const last = await load(false);
    texts.push(await last.text(options));
    await last.dispose();
    return texts;
  });
  expect(texts.length).toBe(5);
  expect(new Set(texts).size).toBe(1);
});

test("a plan says what a run will do, and an infill keeps what is given", async ({ page }) => {
  const outcome = await inPage(page, null, async ({ EsoLM }) => {
    const model = await EsoLM.load("/models/stories", { device: "gpu" });
    const options = { infill: "Once upon ____{4} a cat ____{8}.", seed: 1, topP: 0.8 };
    const plan = await model.plan(options);
    const generation = model.generate(options);
    const header = await generation.header;
    const result = await generation.result;
    await model.dispose();
    return { plan, header, text: result.text[0]!, known: header.known[0]!, tokens: result.tokens[0]! };
  });
  const { plan, ...header } = outcome.plan;
  expect(outcome.header).toEqual(header);
  expect(header).toMatchObject({ model: "stories", attempt: 0, texts: [0], seed: 1 });
  expect(plan.sequences[0]?.steps.length).toBe(header.nfe);
  expect(outcome.text).toMatch(/^Once upon .* a cat\b.*\.$/s);
  for (const [position, token] of outcome.known) expect(outcome.tokens[position]).toBe(token);
});

test("what cannot be loaded or written is said with its code", async ({ page }) => {
  const failures = await inPage(page, null, async ({ EsoLM, EsoLMError }) => {
    const get = async (name: string): Promise<Blob> => (await fetch(`/models/stories/${name}`)).blob();
    const [config, tokenizer, weights] = [await get("config.json"), await get("tokenizer.json"), await get("model.safetensors")];
    const good = { config, tokenizer, weights };
    const options = { worker: false, device: "gpu" } as const;
    const failures: Record<string, string> = {};
    const attempt = async (name: string, promise: Promise<unknown>): Promise<void> => {
      failures[name] = await promise.then(
        () => "no failure",
        (error: unknown) => (error instanceof EsoLMError ? `${error.code}: ${error.message}` : String(error)),
      );
    };
    await attempt("config that is no JSON", EsoLM.load({ ...good, config: new Blob(["{"]) }, options));
    await attempt("config of another shape", EsoLM.load({ ...good, config: { ...(JSON.parse(await config.text()) as object), n_blocks: 7 } }, options));
    await attempt("no config", EsoLM.load({ tokenizer, weights }, options));
    await attempt("truncated weights", EsoLM.load({ ...good, weights: weights.slice(0, weights.size - 1000) }, options));
    await attempt("weights that are none", EsoLM.load({ ...good, weights: new Blob(["no weights at all"]) }, options));
    await attempt("wrong tokenizer", EsoLM.load({ ...good, tokenizer: {} }, options));
    await attempt("unknown variant", EsoLM.load(good, { ...options, variants: "few=none" }));
    const model = await EsoLM.load(good, options);
    await attempt("alpha_0 of 2", model.text({ alpha0: 2 }));
    await attempt("prompt that is too long", model.text({ prompt: "a story ".repeat(500) }));
    await attempt("plan of another model", model.replay({ esolm_plan: 1, family: "esolm", length: 8, lead: false, mask_index: 1, vocab_size: 2, sequences: [] }, new Float64Array(0)));
    const bare = await EsoLM.load({ config, weights }, options);
    await attempt("text without a tokenizer", bare.encode("a"));
    await bare.dispose();
    // It still works after all of these.
    failures["none"] = (await model.text({ seed: 3, length: 16, steps: 4 })) === "" ? "no text" : "a text";
    await model.dispose();
    return failures;
  });
  const codes = Object.fromEntries(Object.entries(failures).map(([name, failure]) => [name, failure.split(":")[0]]));
  expect(codes).toEqual({
    "config that is no JSON": "checkpoint",
    "config of another shape": "checkpoint",
    "no config": "checkpoint",
    "truncated weights": "checkpoint",
    "weights that are none": "checkpoint",
    "wrong tokenizer": "tokenizer",
    "unknown variant": "option",
    "alpha_0 of 2": "plan",
    "prompt that is too long": "option",
    "plan of another model": "plan",
    "text without a tokenizer": "tokenizer",
    none: "a text",
  });
  for (const [name, failure] of Object.entries(failures)) if (name !== "none") expect(failure, name).toMatch(/^[a-z_]+: .{20,}/);
});

test("words that a tokenizer changes are told", async ({ page }) => {
  server.folder("/fixtures/", at("../../tests/fixtures/"));
  const outcome = await inPage(page, null, async ({ EsoLM }) => {
    const config = { ...((await (await fetch("/fixtures/golden/mdlm.config.json")).json()) as object), mask_index: 4 };
    const tokenizer = "/fixtures/cases/lower-case.tokenizer.json";
    const model = await EsoLM.load({ config, tokenizer, weights: "/fixtures/golden/mdlm.ema.safetensors" }, { device: "cpu" });
    const [score, plain] = [await model.score("The Cat sat."), await model.score("the cat sat.")];
    const generation = model.generate({ prompt: "Once upon", seed: 1, length: 8, steps: 2 });
    const { altered } = await generation.header;
    const text = (await generation.result).text[0];
    const refused = await model.text({ infill: "Once ____ time." }).catch((error: { code: string; message: string }) => `${error.code}: ${error.message}`);
    const kept = await model.text({ infill: "once ____ time." });
    await model.dispose();
    return { score, plain, altered, text, refused, kept };
  });
  const { altered, ...score } = outcome.score;
  expect(altered).toEqual({ given: "The Cat sat.", kept: "the cat sat." });
  expect(score).toEqual(outcome.plain);
  expect(outcome.altered).toEqual({ given: "Once upon", kept: "once upon" });
  expect(outcome.text).toMatch(/^once upon /);
  expect(outcome.refused).toMatch(/^text: the tokenizer turns "Once" into "once", so the words would not stay as they are given/);
  expect(outcome.kept).toMatch(/^once .*time\.$/);
});

test("without WebGPU the CPU computes, unless a GPU is insisted on", async ({ page }) => {
  const outcome = await inPage(page, null, async ({ EsoLM }) => {
    Object.defineProperty(navigator, "gpu", { value: undefined });
    const facts = await EsoLM.deviceFacts({ worker: false });
    const code = await EsoLM.load("/models/stories", { worker: false, device: "gpu" }).catch((error: { code: string }) => error.code);
    const model = await EsoLM.load("/models/stories", { worker: false });
    const text = await model.text({ seed: 3, topP: 0.8, length: 16, steps: 4 });
    const { device } = model.info;
    await model.dispose();
    return { facts, code, text, device };
  });
  expect(outcome.facts).toMatchObject({ webgpu: false, adapter: null });
  expect(outcome.facts.reason).toBeTruthy();
  expect(outcome.code).toBe("no_adapter");
  expect(outcome.device).toMatchObject({ adapter: null, is_fallback: true });
  expect(outcome.text).not.toBe("");
});
