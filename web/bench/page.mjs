// What runs in the measured page: one engine a page, driven by bench.mjs through `globalThis.bench`.

const counters = { live: 0, peak: 0, dispatches: 0, submits: 0 };

/** Counts what goes through WebGPU, whoever calls it. Must run before an engine opens a device. */
function countGpu() {
  if (!globalThis.GPUDevice) return;
  const sizes = new WeakMap();
  const wrap = (kind, name, around) => {
    const original = kind.prototype[name];
    kind.prototype[name] = function (...args) {
      return around(this, args, () => original.apply(this, args));
    };
  };
  wrap(GPUDevice, "createBuffer", (_, [descriptor], call) => {
    const buffer = call();
    sizes.set(buffer, descriptor.size);
    counters.live += descriptor.size;
    counters.peak = Math.max(counters.peak, counters.live);
    return buffer;
  });
  wrap(GPUBuffer, "destroy", (buffer, _, call) => {
    counters.live -= sizes.get(buffer) ?? 0;
    sizes.delete(buffer);
    return call();
  });
  for (const name of ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"]) {
    wrap(GPUComputePassEncoder, name, (_, __, call) => (counters.dispatches++, call()));
  }
  wrap(GPUQueue, "submit", (_, __, call) => (counters.submits++, call()));
}

const bytes = async (url) => {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is missing (${response.status}); README.md says how to make it`);
  return new Uint8Array(await response.arrayBuffer());
};

class Esolm {
  async fetch() {
    const text = async (url) => new TextDecoder().decode(await bytes(url));
    this.wasm = await bytes("/dist/esolm_web_bg.wasm");
    const weights = new Blob([await bytes("/model/model.safetensors")]);
    const read = async (start, end) => new Uint8Array(await weights.slice(start, end).arrayBuffer());
    const files = { config: await text("/model/config.json"), tokenizer: await text("/model/tokenizer.json") };
    this.source = { ...files, weights: { size: weights.size, read } };
    this.module = await import("/dist/esolm_web.js");
  }
  async load({ device, variants, weights = "f32", activations = "f32" }) {
    await this.module.default({ module_or_path: this.wasm });
    this.model = await this.module.WasmModel.load(this.source, JSON.stringify({ device, variants, weights, activations, kv_cache: "f32" }));
  }
  plan(request) {
    return JSON.parse(this.model.plan(JSON.stringify(request))).plan;
  }
  /** Steps are timed from one answer of `next` to the following one; the first includes the start of the run. */
  async generate({ request, steps = Infinity }) {
    const times = [];
    let last = performance.now();
    const run = this.model.start(JSON.stringify(request));
    for (;;) {
      const json = await run.next();
      const now = performance.now();
      const event = JSON.parse(json);
      if ("tokens" in event) {
        run.free();
        return { times, tokens: event.tokens[0] };
      }
      if (!("step" in event) || times.length === steps) continue;
      times.push(now - last);
      last = now;
      if (times.length === steps) run.stop();
    }
  }
  /** Logits of the rows that a step draws from, computed in one uncached pass over the tokens in sorted order. */
  async logits({ plan, tokens, step }) {
    const [, , start, end] = plan.sequences[0].steps[step];
    const rows = tokens.map((token, slot) => (slot < start ? token : plan.mask_index));
    const request = { mode: "causal", sort_idx: [plan.sequences[0].order], zt_sorted: [rows] };
    const all = await this.model.forward(JSON.stringify(request));
    return Array.from(all.subarray(start * plan.vocab_size, end * plan.vocab_size));
  }
  info() {
    return JSON.parse(this.model.info()).device.text;
  }
}

/**
 * Most rows that GroupQueryAttention gets at once. With 32 and more, and something in the cache, it was wrong in the first digits (onnxruntime-web
 * 1.30.0, WebGPU on SwiftShader). A step's rows may be computed one part after the other, since each attends only to its slot and those below.
 */
const FUSED_ROWS = 31;

class Ort {
  async fetch({ graph, build }) {
    const wasm = { webgpu: "asyncify", jspi: "jspi", all: "jsep", wasm: "" }[build];
    this.ort = await import(`/ort/ort.${build}.bundle.min.mjs`);
    // One thread: the figures are ratios against an engine that has one as well.
    this.ort.env.wasm.numThreads = 1;
    this.ort.env.wasm.wasmBinary = (await bytes(`/ort/ort-wasm-simd-threaded${wasm && "."}${wasm}.wasm`)).buffer;
    this.weights = await bytes(`/onnx/step_${graph}.onnx`);
    this.config = JSON.parse(new TextDecoder().decode(await bytes("/model/config.json")));
    this.graph = graph;
  }
  async load({ provider }) {
    this.onGpu = provider === "webgpu";
    const names = Array.from({ length: this.config.n_blocks }, (_, i) => [`key_${i}`, `value_${i}`]).flat();
    this.cached = this.graph === "uncached" ? [] : names;
    const locations = { logits: this.onGpu ? "gpu-buffer" : "cpu" };
    for (const name of this.cached) locations[`present_${name}`] = locations.logits;
    this.session = await this.ort.InferenceSession.create(this.weights, {
      executionProviders: [provider],
      graphOptimizationLevel: "all",
      logSeverityLevel: 3,
      ...(this.onGpu && { preferredOutputLocation: locations }),
    });
    this.weights = null;
    if (this.onGpu) this.device = await this.ort.env.webgpu.device;
    if (this.graph === "fused") this.slots = this.fixedCache();
  }
  get headDim() {
    return this.config.hidden_size / this.config.n_heads;
  }
  /** Buffers that are past and present of every step: GroupQueryAttention then writes in place. */
  fixedCache() {
    const dims = [1, this.config.n_heads, this.config.model_length, this.headDim];
    const size = 4 * dims.reduce((a, b) => a * b);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const slot = () => this.ort.Tensor.fromGpuBuffer(this.device.createBuffer({ size, usage }), { dataType: "float32", dims });
    return Object.fromEntries(this.cached.map((name) => [name, slot()]));
  }
  emptyCache() {
    const dims = [1, this.config.n_heads, 0, this.headDim];
    return Object.fromEntries(this.cached.map((name) => [name, new this.ort.Tensor("float32", new Float32Array(0), dims)]));
  }
  /** One run of the network over `rows`, the first of which takes `slot`; logits from row `drawn` on. `past` holds the keys and values after it. */
  async pass(rows, positions, drawn, slot, past) {
    const { Tensor } = this.ort;
    const shape = [1, rows.length];
    const feeds = { tokens: new Tensor("int32", rows, shape), clean: new Tensor("int64", [BigInt(drawn)], [1]) };
    for (const name of this.cached) feeds[`past_${name}`] = past[name];
    if (this.graph === "fused") {
      const total = slot + rows.length;
      feeds.positions = new Tensor("int64", positions.map(BigInt), shape);
      feeds.seqlens_k = new Tensor("int32", [total - 1], [1]);
      feeds.total = new Tensor("int32", [total], [1]);
      const fetches = Object.fromEntries(this.cached.map((name) => [`present_${name}`, past[name]]));
      return (await this.session.run(feeds, { logits: null, ...fetches })).logits;
    }
    feeds.positions = new Tensor("int32", positions, shape);
    const results = await this.session.run(feeds);
    for (const name of this.cached) {
      past[name].dispose();
      past[name] = results[`present_${name}`];
    }
    return results.logits;
  }
  /**
   * Carries out a plan. With `readBack` the logits of every step come to the CPU, where the largest one is drawn; without it they stay where they
   * are, and the last step ends when the device has done everything. `forced` are tokens to go on with, by slot, instead of the drawn ones. `only`
   * lists the steps to run, which needs a graph that reads nothing of the steps before.
   */
  async generate({ plan, steps = Infinity, readBack = true, forced, wanted = [], only }) {
    const { order, known, steps: planned } = plan.sequences[0];
    const tokens = new Int32Array(order.length).fill(plan.mask_index);
    tokens.set(forced ?? known);
    const kept = {};
    const times = [];
    const past = this.slots ?? this.emptyCache();
    const indices = only ?? [...planned.keys()].slice(0, steps);
    let last = performance.now();
    for (const step of indices) {
      const [, clean, start, end] = planned[step];
      const first = this.graph === "uncached" ? 0 : clean;
      const rows = tokens.slice(first, end).fill(plan.mask_index, start - first);
      const parts = this.graph === "fused" ? Math.ceil(rows.length / FUSED_ROWS) : 1;
      const size = Math.ceil(rows.length / parts);
      const logits = new Float32Array((end - start) * plan.vocab_size);
      // The part with the first mask may begin with clean rows; whatever lies before `start` is not drawn from.
      for (let from = 0; from < rows.length; from += size) {
        const part = rows.subarray(from, from + size);
        const drawn = Math.min(Math.max(start - first - from, 0), part.length - 1);
        const output = await this.pass(part, order.slice(first + from, first + from + part.length), drawn, first + from, past);
        const slot = first + from + drawn;
        if (readBack && slot >= start) logits.set(await output.getData(), (slot - start) * plan.vocab_size);
        output.dispose();
      }
      if (readBack) {
        if (wanted.includes(step)) kept[step] = Array.from(logits);
        const drawn = draw(logits, plan, end - start);
        if (!forced) tokens.set(drawn, start);
      }
      if (!readBack && step === indices.at(-1)) await this.device?.queue.onSubmittedWorkDone();
      const now = performance.now();
      times.push(now - last);
      last = now;
    }
    if (!this.slots) for (const name of this.cached) past[name].dispose();
    const natural = new Array(order.length);
    order.forEach((position, slot) => (natural[position] = tokens[slot]));
    return { times, tokens: natural, logits: kept };
  }
  info() {
    return `onnxruntime-web ${this.ort.env.versions.web}`;
  }
}

/** The most likely token of each row, the mask token aside. */
function draw(logits, plan, rows) {
  const drawn = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    const base = row * plan.vocab_size;
    let best = -Infinity;
    for (let token = 0; token < plan.vocab_size; token++) {
      if (token !== plan.mask_index && logits[base + token] > best) {
        best = logits[base + token];
        drawn[row] = token;
      }
    }
  }
  return drawn;
}

let engine;

globalThis.bench = {
  /** Fetches everything first, so that the time is that of a model whose bytes are at hand. */
  async open({ kind, ...options }) {
    countGpu();
    engine = kind === "esolm" ? new Esolm() : new Ort();
    await engine.fetch(options);
    const start = performance.now();
    await engine.load(options);
    return { load: performance.now() - start, info: engine.info() };
  },
  plan: (request) => engine.plan(request),
  generate: (options) => engine.generate(options),
  logits: (options) => engine.logits(options),
  gpu: () => ({ ...counters }),
};
