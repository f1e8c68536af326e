/** Refusals have a machine-readable code, and a message that names the problem and the remedy. */

import { expect, type Page } from "@playwright/test";
import { test, type Failed } from "./engine/lab.js";

/** Runs `action` in the page, where `stories`, `small` and `ar` are models on the CPU; it may use their sources too. */
async function refused(page: Page, action: string): Promise<Failed | null> {
  return page.evaluate(async (action) => {
    const scope = globalThis as unknown as { materials?: Promise<Record<string, unknown>> };
    const materials = await (scope.materials ??= (async () => {
      const sources = { stories: await lab.stories(), small: await lab.golden("model_a"), ar: await lab.golden("ar") };
      const cpu = { device: "cpu" };
      const [stories, small, ar] = await Promise.all([lab.load(sources.stories, cpu), lab.load(sources.small, cpu), lab.load(sources.ar, cpu)]);
      return { sources, stories, small, ar, cpu };
    })());
    const run = new Function(...Object.keys(materials), `return (${action});`) as (...given: unknown[]) => unknown;
    return lab.failure(async () => run(...Object.values(materials)));
  }, action);
}

const load = (changes: string, of = "stories"): string => `lab.load({ ...sources.${of}, ${changes} }, cpu)`;
const read = "sources.stories.weights.read";
const size = "sources.stories.weights.size";
/** The first event of a run. */
const start = (request: string, model = "stories"): string => `(async () => {
  const run = ${model}.start(${JSON.stringify(request)});
  await run.next().finally(() => run.free());
})()`;
const replay = (uniforms: string, filters = "undefined"): string =>
  `small.replay(JSON.stringify(JSON.parse(small.plan('{"length":4,"seed":1}')).plan), new Float64Array(4 * 97).fill(0.5)${uniforms}, ${filters})`;

/** Groups of attempts, each with the expected code and what the message must say. */
const cases: Record<string, [what: string, action: string, code: string, says: RegExp][]> = {
  "weights that cannot be read": [
    ["cut off", load(`weights: { size: ${size} - 1000, read: ${read} }`), "checkpoint", /the file is truncated; download or convert it again$/],
    ["a few bytes", load(`weights: { size: 5, read: ${read} }`), "checkpoint", /begins with other bytes; check the path, or download it again$/],
    ["empty", load(`weights: { size: 0, read: ${read} }`), "checkpoint", /the file is empty; download it again$/],
    ["zeros", load(`weights: { size: ${size}, read: async (start, end) => new Uint8Array(end - start) }`), "checkpoint", /begins with other bytes; check the path/],
    ["fewer bytes than asked for", load(`weights: { size: ${size}, read: async (start, end) => (await ${read}(start, end)).subarray(1) }`), "checkpoint", /63 of 64 bytes came; download it again$/],
    ["a disk that is gone", load(`weights: { size: ${size}, read: () => Promise.reject(new Error("the disk is gone")) }`), "checkpoint", /the disk is gone; download it again$/],
    ["a reader that throws", load(`weights: { size: ${size}, read: () => { throw new TypeError("no such thing"); } }`), "checkpoint", /no such thing; download it again$/],
    ["a reader of text", load(`weights: { size: ${size}, read: async () => "text" }`), "checkpoint", /gave no Uint8Array; /],
  ],
  "configurations and tokenizers of something else": [
    ["another kind of model", load(`config: '{"model_type":"bert"}'`), "checkpoint", /"model_type" is "bert"; it must be "EsoLM", "mdlm", "bd3lm", "SetDLM" or "ar", or "qwen3", .* of a decoder$/],
    ["the configuration of another model", load("config: sources.small.config"), "checkpoint", /"cond_dim" is 32 but .* makes it 16; give the configuration that belongs to these weights$/],
    ["no JSON", load('config: "{"'), "checkpoint", /is not a JSON object .*; give the config\.json that belongs to the weights$/],
    ["no configuration", load("config: undefined"), "checkpoint", /without a configuration; give/],
    ["a tokenizer of nothing", load('tokenizer: "{}"'), "tokenizer", /not usable .*; give the tokenizer\.json that belongs to the model$/],
    ["the tokenizer of another model", load("tokenizer: sources.stories.tokenizer", "small"), "tokenizer", /has 3968 tokens, but the model's vocabulary of 97 .*; give the tokenizer\.json that the model was trained with$/],
  ],
  "options of loading": [
    ["activations of 8 bits beside floats", `lab.load(sources.small, { ...cpu, activations: "q8" })`, "option", /^activations of 8 bits go with q8 or q4 weights, .*; use weights: "q8"/],
    ["activations of 8 bits on a GPU", `lab.load(sources.small, { device: "gpu", weights: "q8", activations: "q8" })`, "option", /^activations of 8 bits are for the CPU only; use the CPU \(device: "cpu"\), or leave activations out$/],
    ["an unknown device", `lab.load(sources.small, { device: "tpu" })`, "option", /`tpu` is not a device; use auto, cpu, gpu/],
    ["an unknown precision", `lab.load(sources.small, { weights: "f8" })`, "option", /^weights: unknown variant `f8`, expected one of `f32`, `f16`, `q8`, `q4`$/],
    ["an unknown precision of the cache", `lab.load(sources.small, { kv_cache: 16 })`, "option", /^kvCache: .*16/],
    ["an unknown kernel", `lab.load(sources.small, { variants: "few=tile" })`, "option", /`few=tile` is not a kernel variant; use few=rows\|split/],
    ["an unknown field", `lab.load(sources.small, { colour: 1 })`, "option", /^unknown field `colour`, expected one of `device`/],
    ["no JSON", `lab.module.WasmModel.load(sources.small, "{")`, "option", /^the options are not valid JSON: .*; check their values$/],
  ],
  "requests that do not fit": [
    ["a prompt beyond the context", start(`{"prompt":"${"One day ".repeat(300)}"}`), "option", /the prompt has 602 tokens .*; shorten it, or raise the length if the model's context is longer$/],
    ["a prompt that fills the text", start('{"prompt":"One day, Lily found a","length":5}'), "option", /nothing to write in a length of 5; shorten it/],
    ["a length beyond the context", start('{"length":257}'), "option", /length 257 is more than the model's context of 256 tokens; give at most that$/],
    ["no length", start('{"length":0}'), "option", /^length is 0; it must be from 1 to the model's context of 256$/],
    ["no steps", start('{"steps":0}'), "plan", /^steps is 0; it must be from 1/],
    ["no text", start('{"batch":0}'), "option", /^batch is 0; it must be from 1 to 65536$/],
    ["a first text beyond all numbers", start('{"first":4294967295}'), "option", /^first is 4294967295; it must be from 0 to 4294967294 for this batch$/],
    ["too many texts", start('{"batch":100000}'), "option", /batch of 100000 is too many texts; give at most 65536/],
    ["prompts that do not divide the batch", start('{"prompt":["a","b"],"batch":3}'), "option", /2 prompts do not divide a batch of 3; give a batch that is a multiple/],
    ["a prompt and a template", start('{"prompt":"a","infill":"b ____"}'), "option", /exclude each other; give one of them$/],
    ["a template without a gap", start('{"infill":"a"}'), "text", /has no gap; mark one with underscores/],
    ["an unknown field", start('{"topP":0.8}'), "option", /unknown field `topP`, expected one of .*`top_p`/],
    ["an unknown schedule", start('{"schedule":"other"}'), "option", /^schedule: unknown variant `other`, expected one of `binomial`/],
    ["half a token", start('{"length":1.5}'), "option", /^length: invalid type: floating point `1\.5`/],
    ["no JSON", start(""), "option", /^the options are not valid JSON: .*; check their values$/],
    ["a prompt without a tokenizer", start('{"prompt":"a"}', "small"), "tokenizer", /a prompt needs a tokenizer; give the tokenizer\.json of the model$/],
    ["text without a tokenizer", 'small.encode("a")', "tokenizer", /without a tokenizer, which texts need; load it with its tokenizer\.json$/],
    ["alpha_0 of an AR model", start('{"alpha_0":1}', "ar"), "option", /^alpha0 does not apply to an AR model, .*; leave it out$/],
    ["an AR model as an MDLM", start('{"decode_as":"mdlm"}', "ar"), "option", /^decodeAs does not apply to an AR model, .*; leave it out$/],
    ["an AR model in blocks", start('{"decode_as":"bd3lm","block_size":8}', "ar"), "option", /^decodeAs does not apply to an AR model, .*; leave it out$/],
    ["blocks of no size", start('{"decode_as":"bd3lm","alpha_0":1}'), "plan", /^blockSize is missing; it must be given for a BD3-LM$/],
    ["blocks that do not divide the text", start('{"decode_as":"bd3lm","alpha_0":1,"block_size":7,"length":48}'), "plan", /^blockSize is 7; it must be a whole number from 1 that divides the length 48$/],
    ["nothing to score", 'stories.score("{}", "{}")', "option", /^a score needs a text, .* or a prefix, a middle and a suffix; give one of them$/],
    ["a score without a tokenizer", `ar.score('"a"', "{}")`, "tokenizer", /without a tokenizer/],
    ["a gap for an AR model", `ar.score('{"prefix":"a","middle":"b","suffix":"c"}', "{}")`, "option", /it has a gap, and an AR model does not read what comes after one/],
    ["a misspelt option of a score", `stories.score('"a"', '{"odrers":3}')`, "option", /unknown field `odrers`, expected one of `alpha_0`/],
    ["no orders", `stories.score('"a"', '{"orders":0}')`, "option", /^orders is 0; it must be from 1 to 65536$/],
    ["a share beyond all", `stories.score('"a"', '{"alpha_0":2}')`, "option", /^alpha0 is 2; it must be from 0 to 1$/],
    ["orders of an AR model", `ar.score('"a"', '{"orders":2}')`, "option", /^orders does not apply to an AR model, .*; leave it out$/],
    ["alpha_0 of a score", `ar.score('"a"', '{"alpha_0":0.5}')`, "option", /^alpha0 does not apply to an AR model, .*; leave it out$/],
    ["draws of a model with an exact likelihood", `stories.score('"a"', '{"draws":2}')`, "option", /^draws does not apply to a model with an exact likelihood; leave it out$/],
    ["an empty middle", `stories.score('{"prefix":"a","middle":"","suffix":"c"}', "{}")`, "text", /^the text has an empty text to score; give it at least one character$/],
  ],
  "numbers that are none, or out of range": [
    ["infinite temperature", start('{"temperature":1e39}'), "option", /^temperature is more than 3\.4e38; it must be 0 .* or a number from 1e-6 to 1e6$/],
    ["a number beyond all", start('{"temperature":1e999}'), "option", /number out of range .*; check their values$/],
    ["NaN, which is no JSON", start('{"top_p":NaN}'), "option", /^the options are not valid JSON: .*; check their values$/],
    ["negative temperature", start('{"temperature":-1}'), "option", /^temperature is -1; it must be 0 .* or a number from 1e-6 to 1e6$/],
    ["infinite top_p", start('{"top_p":1e39}'), "option", /^topP is more than 3\.4e38; it must be a number above 0, up to 1$/],
    ["no top_p", start('{"top_p":0}'), "option", /^topP is 0; it must be a number above 0, up to 1$/],
    ["no top_k", start('{"top_k":0}'), "option", /^topK is 0; it must be a whole number, 1 or more$/],
    ["half a top_k", start('{"top_k":1.5}'), "option", /^topK: invalid type: floating point `1.5`, expected u32/],
    ["negative min_p", start('{"min_p":-0.5}'), "option", /^minP is -0\.5; it must be a number from 0 to 1$/],
    ["min_p above 1", start('{"min_p":1.5}'), "option", /^minP is 1\.5; it must be a number from 0 to 1$/],
    ["alpha_0 beyond 1", start('{"alpha_0":1.5}'), "plan", /^alpha0 is 1\.5; it must be from 0 .* to 1/],
    ["a word as seed", start('{"seed":"x"}'), "option", /^seed is "x"; it must be a whole number from 0 to 2\^64 - 1$/],
    ["half a seed", start('{"seed":1.5}'), "option", /^seed is 1\.5; it must be a whole number from 0 to 2\^64 - 1$/],
    ["a negative seed", `stories.score('"a"', '{"seed":-1}')`, "option", /^seed is -1; it must be a whole number from 0 to 2\^64 - 1$/],
    ["a seed beyond 64 bits", start('{"seed":"18446744073709551616"}'), "option", /^seed is "18446744073709551616"; it must be/],
  ],
  "passes and plans that do not fit": [
    ["a foreign token", `small.forward('{"mode":"causal","sort_idx":[[0,1]],"zt_sorted":[[3,500]]}')`, "plan", /token 500 in row 0, beyond the vocabulary of 97; use data made for this model$/],
    ["an unknown mode", `small.forward('{"mode":"other","sort_idx":[[0,1]],"zt_sorted":[[3,5]]}')`, "option", /unknown variant `other`, expected one of `causal`/],
    ["no permutation", `small.forward('{"mode":"causal","sort_idx":[[0,0]],"zt_sorted":[[3,5]]}')`, "plan", /permutation of 0\.\.2; each natural position must stand in it once$/],
    ["no plan", 'small.replay("{}", new Float64Array(97).fill(0.5))', "plan", /missing field `esolm_plan` .*; write it again, in the form of docs\/plan-format\.md$/],
    ["the plan of another model", `stories.replay(JSON.stringify(JSON.parse(small.plan("{}")).plan), new Float64Array(97).fill(0.5))`, "plan", /for a vocabulary of 97 .*; give a plan made for this model$/],
    ["too few uniforms", replay(".subarray(4)"), "plan", /uniforms for 1 sequences of \d+ slots and a vocabulary of 97/],
  ],
};

for (const [group, tried] of Object.entries(cases)) {
  test(group, async ({ engine }) => {
    for (const [what, action, code, says] of tried) {
      const failed = await refused(engine, action);
      expect.soft({ what, kind: failed?.kind, code: failed?.code }).toEqual({ what, kind: "Error", code });
      expect.soft(failed?.message, what).toMatch(says);
    }
    // The models still work after all of this.
    expect(await refused(engine, `lab.run(small, { seed: 1, length: 8 })`)).toBeNull();
  });
}

for (const device of ["gpu", "cpu"]) {
  test(`calls wait for each other, on the ${device}`, async ({ engine }) => {
    const said = await engine.evaluate(async (device) => {
      const model = await lab.load(await lab.golden("model_a"), { device });
      const pass = JSON.stringify({ mode: "causal", sort_idx: [[0, 1]], zt_sorted: [[3, 5]] });
      const plan = JSON.stringify((JSON.parse(model.plan("{}")) as { plan: object }).plan);
      const uniforms = new Float64Array(32 * 97).fill(0.5);
      const replayed = async (): Promise<string> => {
        const replay = await model.replay(plan, uniforms);
        const sample = replay.sample();
        replay.free();
        return sample;
      };
      const want = { one: (await lab.run(model, { seed: 1 })).tokens, two: (await lab.run(model, { seed: 2 })).tokens, logits: [...(await model.forward(pass))], sample: await replayed() };
      const [one, two, logits, sample] = await Promise.all([lab.run(model, { seed: 1 }), lab.run(model, { seed: 2 }), model.forward(pass), replayed()]);
      const got = { one: one.tokens, two: two.tokens, logits: [...logits], sample };
      // A run yields one event at a time, and nothing after its last.
      const run = model.start('{"seed":1}');
      const first = run.next();
      const busy = await lab.failure(() => run.next());
      await first;
      for await (const _ of lab.events(run));
      const after = await run.next();
      run.free();
      // A run that is dropped, begun or not, leaves the model free.
      model.start('{"seed":1}').free();
      const begun = model.start('{"seed":1}');
      await begun.next();
      begun.free();
      const again = (await lab.run(model, { seed: 1 })).tokens;
      await model.close();
      return { want, got, busy, after: after ?? null, again };
    }, device);
    expect(said.got).toEqual(said.want);
    expect(said.busy).toMatchObject({ kind: "Error", code: "busy", message: expect.stringMatching(/wait for it first$/) });
    expect(said.after).toBeNull();
    expect(said.again).toEqual(said.want.one);
  });

  test(`a call that is aborted ends with the pass under way, on the ${device}`, async ({ engine }) => {
    const said = await engine.evaluate(async (device) => {
      const model = await lab.load(await lab.stories(), { device });
      const text = JSON.stringify("Once upon a time, there was a little dog named Max. ".repeat(device === "gpu" ? 8 : 40));
      // Some hundred passes, one of which is timed.
      const long = JSON.stringify({ alpha_0: 1, orders: 400 });
      const began = performance.now();
      await model.score(text, JSON.stringify({ alpha_0: 1, orders: 4 }));
      const pass = performance.now() - began;
      const want = await model.score(JSON.stringify("A cat."), "{}");
      const abort = new AbortController();
      const failed = lab.failure(() => model.score(text, long, abort.signal));
      await new Promise((resolve) => setTimeout(resolve, 2 * pass));
      const at = performance.now();
      abort.abort();
      const failure = await failed;
      const rejected = performance.now() - at;
      const got = await model.score(JSON.stringify("A cat."), "{}");
      const answered = performance.now() - at;
      const early = await lab.failure(() => model.score(text, long, AbortSignal.abort()));
      await model.close();
      return { pass, rejected, answered, failure, early, want, got };
    }, device);
    console.log(`${device}: four orders take ${said.pass.toFixed(0)} ms; aborted after ${said.rejected.toFixed(1)} ms, the next call answered after ${said.answered.toFixed(0)} ms`);
    expect(said.failure).toMatchObject({ code: "aborted", message: "stopped before it was done" });
    expect(said.early).toEqual(said.failure);
    expect(said.got).toBe(said.want);
    // The whole call would take a hundred times as long.
    expect(said.rejected).toBeLessThan(50 * said.pass);
    expect(said.answered).toBeLessThan(50 * said.pass);
  });
}
