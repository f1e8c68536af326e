// Measures esolm against onnxruntime-web on one model in one browser: `node bench.mjs --help`.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Browser } from "./browser.mjs";
import { json, markdown, pair, spread, summary } from "./report.mjs";
import { serve } from "./server.mjs";

const HERE = import.meta.dirname;
const ROOT = path.resolve(HERE, "../..");
const HELP = `node bench.mjs [options]
  --dist DIR       where esolm_web.js and esolm_web_bg.wasm lie (web/dist)
  --model DIR      the model's folder (models/stories)
  --onnx DIR       what export_onnx.py wrote (web/bench/onnx)
  --out DIR        where results go: NAME.json and NAME.md (web/bench/results)
  --name NAME      their name (swiftshader)
  --chromium FILE  the browser (/usr/bin/chromium)
  --hardware       use the machine's GPU instead of SwiftShader
  --build NAME     of onnxruntime-web: webgpu, jspi or all, the one with JSEP (webgpu)
  --engines A,B    some of: ${"esolm-gpu, esolm-barriers, esolm-cpu, ort-cached, ort-fused, ort-resident, ort-uncached, esolm-cpu-q8, ort-wasm, ort-wasm-int8"} (all)
  --base NAME      the engine of each pair that the others are compared with: esolm-gpu or esolm-cpu (esolm-gpu)
  --rounds N       timed pairs of each engine and plan (3)
  --cold N         fresh browsers for loading and the first step (3)
  --length N       tokens of a text (256)
`;

const { values: options } = parseArgs({
  options: {
    dist: { type: "string", default: path.join(ROOT, "web/dist") },
    model: { type: "string", default: path.join(ROOT, "models/stories") },
    onnx: { type: "string", default: path.join(HERE, "onnx") },
    out: { type: "string", default: path.join(HERE, "results") },
    name: { type: "string", default: "swiftshader" },
    chromium: { type: "string", default: "/usr/bin/chromium" },
    hardware: { type: "boolean", default: false },
    build: { type: "string", default: "webgpu" },
    engines: { type: "string" },
    base: { type: "string", default: "esolm-gpu" },
    rounds: { type: "string", default: "3" },
    cold: { type: "string", default: "3" },
    length: { type: "string", default: "256" },
    help: { type: "boolean", default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

/** Steps with which an engine warms up, and to which the lesser lines of the table are held: all diffusion steps and some sequential ones. */
const WARM = 64;

/**
 * `kernels`: those that a hardware adapter would get, which share workgroup memory behind barriers as onnxruntime's do.
 * `share`: one step of so many is timed; only where no step needs the one before it. `first`: so many steps are timed. `readBack`: see `generate` in page.mjs. `page`: the engine whose page this one uses as well.
 */
const kernels = "few=split,many=tile";
const ENGINES = [
  { id: "esolm-gpu", label: "esolm, WebGPU", cold: true, open: { kind: "esolm", device: "gpu" } },
  { id: "esolm-barriers", label: "esolm, WebGPU, kernels for hardware", first: WARM, open: { kind: "esolm", device: "gpu", variants: kernels } },
  { id: "ort-fused", label: "onnxruntime, WebGPU, own operators", cold: true, open: { kind: "ort", graph: "fused", provider: "webgpu" } },
  { id: "ort-resident", label: "the same, logits not read back", readBack: false, first: WARM, page: "ort-fused" },
  { id: "ort-cached", label: "onnxruntime, WebGPU, standard operators", cold: true, open: { kind: "ort", graph: "cached", provider: "webgpu" } },
  { id: "ort-uncached", label: "the same without a cache", share: { few: 24, many: 5 }, open: { kind: "ort", graph: "uncached", provider: "webgpu" } },
  { id: "esolm-cpu", label: "esolm, CPU", cold: true, open: { kind: "esolm", device: "cpu" } },
  { id: "esolm-cpu-q8", label: "esolm, CPU, weights and activations of 8 bits", open: { kind: "esolm", device: "cpu", weights: "q8", activations: "q8" } },
  { id: "ort-wasm", label: "onnxruntime, wasm, standard operators", cold: true, open: { kind: "ort", graph: "cached", provider: "wasm" } },
  { id: "ort-wasm-int8", label: "the same with weights and activations of 8 bits", tolerance: 0.2, open: { kind: "ort", graph: "int8", provider: "wasm" } },
];
const length = Number(options.length);
const REQUESTS = {
  few: { length, steps: 64, alpha_0: 0.25, seed: 3 },
  many: { length, steps: 16, alpha_0: 1, seed: 3 },
};
const chosen = options.engines?.split(",");
const unknown = chosen?.find((id) => !ENGINES.some((engine) => engine.id === id));
if (unknown) throw new Error(`there is no engine ${unknown}; node bench.mjs --help names them`);
if (!["esolm-gpu", "esolm-cpu"].includes(options.base)) throw new Error(`${options.base} is not a base; node bench.mjs --help names them`);
const needed = new Set([options.base, ...(chosen ?? ENGINES.map(({ id }) => id))]);
for (const { id, page } of ENGINES) if (page && needed.has(id)) needed.add(page);
const engines = ENGINES.filter(({ id }) => needed.has(id));

const ort = path.join(HERE, "node_modules/onnxruntime-web");
const server = await serve({ dist: options.dist, model: options.model, onnx: options.onnx, ort: path.join(ort, "dist") }, path.join(HERE, "page.mjs"));
const note = (text) => console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);

const start = () => Browser.start(options.chromium, !options.hardware);
async function open(browser, engine) {
  const build = engine.open.provider === "wasm" ? "wasm" : options.build;
  const { page, messages } = await browser.open(server.url);
  try {
    const opened = await page.evaluate((o) => bench.open(o), { build, ...engine.open });
    const call = (name, argument) => page.evaluate(([n, a]) => bench[n](a), [name, argument]);
    return { ...opened, call, messages };
  } catch (error) {
    throw new Error(`${engine.id} did not load: ${error.message}\n${messages.join("\n")}`);
  }
}

/** One generation, or the first `steps` of it. */
async function generate(engine, plan, limits = {}) {
  const request = { ...plan.request };
  return engine.call("generate", { request, plan: plan.plan, readBack: engine.readBack ?? true, forced: plan.forced, ...limits });
}

async function timed(browser, engine, plan, limits) {
  const before = browser.processorTime();
  const run = await generate(engine, plan, limits);
  return { times: run.times, processor: before === null ? null : browser.processorTime() - before };
}

/** As a share of the largest logit. Rounding to 8 bits costs more, and a tolerance of its own says so. */
const TOLERANCE = 1e-3;

/** Largest difference between an engine's logits and those that esolm computes for the same tokens in one uncached pass, as a share of the largest. */
async function difference(esolm, engine, plan) {
  const last = plan.nfe - 1;
  const wanted = [0, Math.floor(last / 2), last];
  const { logits } = await engine.call("generate", { plan: plan.plan, forced: plan.forced, wanted, only: engine.graph === "uncached" ? wanted : undefined });
  let off = 0;
  let largest = 0;
  for (const step of wanted) {
    const ours = await esolm.call("logits", { plan: plan.plan, tokens: plan.forced, step });
    if (ours.length !== logits[step].length) throw new Error(`${engine.id} gave ${logits[step].length} logits in step ${step}, not ${ours.length}`);
    ours.forEach((value, i) => {
      off = Math.max(off, Math.abs(value - logits[step][i]));
      largest = Math.max(largest, Math.abs(value));
    });
  }
  if (!(off < (engine.tolerance ?? TOLERANCE) * largest)) throw new Error(`${engine.id} computes something else: logits differ by ${off}, the largest is ${largest}`);
  return off / largest;
}

/** Plans are esolm's own, and `forced` are the tokens that it drew on them, by slot. */
async function makePlans(esolm) {
  const plans = {};
  for (const [id, request] of Object.entries(REQUESTS)) {
    const plan = await esolm.call("plan", request);
    const { tokens } = await esolm.call("generate", { request });
    const { order, steps } = plan.sequences[0];
    const rows = steps.reduce((sum, [, clean, , end]) => sum + end - clean, 0);
    plans[id] = { request, plan, nfe: steps.length, rows, forced: order.map((position) => tokens[position]) };
  }
  return plans;
}

/** The steps of a plan that an engine runs in a timed pair. */
function chosenSteps(engine, id, plan) {
  const every = engine.share?.[id] ?? 1;
  const count = Math.ceil(Math.min(plan.nfe, engine.first ?? plan.nfe) / every);
  return Array.from({ length: count }, (_, i) => Math.min(plan.nfe - 1, i * every + (every >> 1)));
}

const result = {};
const found = new Map(engines.map((engine) => [engine.id, { load: [], first: [], pairs: {} }]));
try {
  const browser = await start();
  result.browser = `Chromium ${browser.version}`;
  const pages = new Map();
  for (const engine of engines) {
    const opened = engine.page ? pages.get(engine.page) : await open(browser, engine);
    pages.set(engine.id, { ...opened, id: engine.id, readBack: engine.readBack, graph: engine.open?.graph, tolerance: engine.tolerance });
    note(`${engine.id}: ${opened.info}`);
  }
  const esolm = pages.get(options.base);
  const plans = await makePlans(esolm);
  for (const engine of engines) {
    const page = pages.get(engine.id);
    const record = found.get(engine.id);
    if (engine.page) continue;
    if (page.graph) record.difference = await difference(esolm, page, plans.many);
    if (engine.share) continue;
    await generate(page, plans.many);
    const before = await page.call("gpu");
    const run = await generate(page, plans.few, { steps: WARM });
    const after = await page.call("gpu");
    const count = (name) => (after[name] - before[name]) / run.times.length;
    record.gpu = { peak: after.peak, dispatches: count("dispatches"), submits: count("submits") };
    note(`${engine.id}: warm`);
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [id, plan] of Object.entries(plans)) {
      for (const engine of engines.filter((e) => e.id !== options.base)) {
        const indices = chosenSteps(engine, id, plan);
        const limits = engine.share ? { only: indices } : { steps: indices.length };
        const ours = await timed(browser, esolm, plan, engine.share ? {} : limits);
        const theirs = await timed(browser, pages.get(engine.id), plan, limits);
        const measured = pair(theirs, ours, indices);
        (found.get(engine.id).pairs[id] ??= []).push(measured);
        if (ours.times.length === plan.nfe) (found.get(options.base).pairs[id] ??= []).push(pair(ours, ours, [...ours.times.keys()]));
        const ratio = (name) => (measured[name] / measured[`esolm_${name}`]).toFixed(2);
        note(`round ${round}, ${id} rows, ${engine.id}: ${measured.mean_ms.toFixed(1)} ms, times esolm ${ratio("mean_ms")}, processor ${ratio("processor_ms")}`);
      }
    }
  }
  for (const engine of engines.filter((e) => e.open)) {
    for (const message of new Set(pages.get(engine.id).messages)) note(`${engine.id} said: ${message}`);
  }
  await browser.close();

  for (let round = 0; round < Number(options.cold); round++) {
    const fresh = await start();
    for (const engine of engines.filter((e) => e.cold)) {
      const page = await open(fresh, engine);
      const { times } = await generate(page, plans.many, { steps: 1 });
      found.get(engine.id).load.push(page.load);
      found.get(engine.id).first.push(times[0]);
      note(`cold ${round}, ${engine.id}: load ${page.load.toFixed(0)} ms, first step ${times[0].toFixed(0)} ms`);
    }
    await fresh.close();
  }

  const version = (folder) => JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")).version;
  Object.assign(result, {
    onnxruntime_web: `${version(ort)}, build ${options.build}`,
    adapter: esolm.info,
    processor: `${os.cpus()[0].model}, ${os.cpus().length} cores`,
    drawing: "esolm draws on its device; for onnxruntime the largest logit is taken on the CPU after the logits of each step were read back",
    plans: Object.fromEntries(Object.entries(plans).map(([id, { request, nfe, rows }]) => [id, { request, nfe, rows }])),
    engines: engines.map(({ id, label, readBack }) => {
      const { pairs, load, first, gpu, difference: off } = found.get(id);
      const cold = load.length ? { load: spread(load), first: spread(first) } : undefined;
      const perPlan = Object.entries(pairs).map(([plan, list]) => [plan, summary(list, readBack !== false)]);
      return { id, label, plans: Object.fromEntries(perPlan), cold, gpu, difference: off };
    }),
  });
  mkdirSync(options.out, { recursive: true });
  writeFileSync(path.join(options.out, `${options.name}.json`), json(result));
  writeFileSync(path.join(options.out, `${options.name}.md`), markdown(result));
  console.log(markdown(result));
} finally {
  server.close();
}
