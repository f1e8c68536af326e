/** GPU failures: typed errors, and an engine that works again afterwards. */

import { chromium, expect } from "@playwright/test";
import { chromiumPath, launchOptions } from "./chromium.js";
import { enter, test } from "./engine/lab.js";

const small = { seed: 3, steps: 8, length: 32 };

test("a lost device is told, and the next model gets another one", async ({ engine }) => {
  const said = await engine.evaluate(async (small) => {
    const devices: GPUDevice[] = [];
    const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...given) {
      const device = await request.apply(this, given);
      devices.push(device);
      return device;
    };
    const source = await lab.stories();
    const model = await lab.load(source, { device: "gpu" });
    const before = await lab.run(model, small);
    const run = model.start('{"seed":4,"steps":16}');
    // The header and a step.
    await run.next();
    await run.next();
    devices[0]!.destroy();
    const failed = [
      await lab.failure(async () => {
        while ((await run.next()) !== undefined);
      }),
      await lab.failure(() => lab.run(model, small)),
      await lab.failure(() => model.forward(JSON.stringify({ mode: "causal", sort_idx: [[0, 1]], zt_sorted: [[3, 5]] }))),
    ];
    run.free();
    await model.close();
    const again = await lab.load(source, { device: "gpu" });
    const after = await lab.run(again, small);
    return { failed, before, after, devices: devices.length };
  }, small);
  for (const failed of said.failed) {
    expect(failed).toMatchObject({ kind: "Error", code: "device_lost" });
    expect(failed!.message).toMatch(/^the GPU stopped working \(.+\); run again, and if it stays so use the CPU \(device: "cpu"\) or a smaller batch$/);
  }
  expect(said.after).toEqual(said.before);
  expect(said.devices).toBe(2);
});

test("memory that the device refuses is told, and a smaller run writes the right text", async ({ engine }) => {
  const said = await engine.evaluate(async (small) => {
    const model = await lab.load(await lab.stories(), { device: "gpu" });
    const before = await lab.run(model, small);
    // A software GPU takes all the memory it can get, so the answer of one error scope is faked.
    const open: GPUErrorFilter[] = [];
    const { pushErrorScope, popErrorScope } = GPUDevice.prototype;
    let refusals = 0;
    GPUDevice.prototype.pushErrorScope = function (filter) {
      open.push(filter);
      return pushErrorScope.call(this, filter);
    };
    GPUDevice.prototype.popErrorScope = async function () {
      const filter = open.pop();
      const answer = popErrorScope.call(this);
      if (filter !== "out-of-memory" || refusals > 0) return answer;
      refusals += 1;
      await answer;
      return new GPUOutOfMemoryError("no room");
    };
    const failed = await lab.failure(() => lab.run(model, { seed: 3, steps: 8, length: 256 }));
    return { failed, refusals, before, after: await lab.run(model, small) };
  }, small);
  expect(said.refusals).toBe(1);
  expect(said.failed).toMatchObject({ kind: "Error", code: "out_of_memory" });
  expect(said.failed!.message).toMatch(/^the GPU has no memory left for this \(.+\); use a shorter length, a smaller batch, f16 or the CPU \(device: "cpu"\)$/);
  expect(said.after).toEqual(said.before);
});

test("memory that the device refuses while a model is loaded is told", async ({ engine }) => {
  const said = await engine.evaluate(async (small) => {
    // A device really refuses a buffer of this size; the engine is made to request it once.
    const create = GPUDevice.prototype.createBuffer;
    let enlarged = 0;
    GPUDevice.prototype.createBuffer = function (wish) {
      if (enlarged > 0 || wish.size < 100_000) return create.call(this, wish);
      enlarged += 1;
      return create.call(this, { ...wish, size: this.limits.maxBufferSize - 4 });
    };
    const source = await lab.stories();
    const failed = await lab.failure(() => lab.load(source, { device: "gpu" }));
    const again = await lab.load(source, { device: "gpu" });
    const cpu = await lab.load(source, { device: "cpu" });
    return { failed, enlarged, gpu: (await lab.run(again, small)).tokens, cpu: (await lab.run(cpu, small)).tokens };
  }, small);
  expect(said.enlarged).toBe(1);
  expect(said.failed).toMatchObject({ kind: "Error", code: "out_of_memory" });
  expect(said.failed!.message).toMatch(/^the GPU has no memory left for this \(.+\); use a shorter length/);
  expect(said.gpu).toEqual(said.cpu);
});

test("a shader that does not compile is told", async ({ engine }) => {
  const said = await engine.evaluate(async (small) => {
    const create = GPUDevice.prototype.createShaderModule;
    let modules = 0;
    GPUDevice.prototype.createShaderModule = function (wish) {
      modules += 1;
      return create.call(this, modules === 4 ? { ...wish, code: `${wish.code} garbage` } : wish);
    };
    const failed = await lab.failure(async () => {
      const model = await lab.load(await lab.stories(), { device: "gpu" });
      await lab.run(model, small);
    });
    return { failed, modules };
  }, small);
  expect(said.modules).toBeGreaterThanOrEqual(4);
  expect(said.failed).toMatchObject({ kind: "Error", code: "shader" });
  expect(said.failed!.message).toMatch(/^the GPU's driver refuses a kernel \(.+\); use the CPU \(device: "cpu"\), and report it with the name of the GPU$/);
});

/** Checks a page without a GPU: the results of `gpu` and `auto`, and the facts available in advance. */
async function without(page: import("@playwright/test").Page): Promise<void> {
  const said = await page.evaluate(async (small) => {
    const source = await lab.stories();
    const failed = await lab.failure(() => lab.load(source, { device: "gpu" }));
    const model = await lab.load(source, { device: "auto" });
    const { device } = JSON.parse(model.info()) as { device: { adapter: unknown; is_fallback: boolean; text: string } };
    const asked = await lab.load(source, { device: "cpu" });
    const chosen = JSON.parse(asked.info()) as { device: { is_fallback: boolean } };
    const facts = JSON.parse(await lab.module.device_facts()) as { adapter: unknown; reason: string | null };
    return { failed, device, chosen: chosen.device.is_fallback, facts, tokens: (await lab.run(model, small)).tokens, want: (await lab.run(asked, small)).tokens, bytes: await model.device_bytes() };
  }, small);
  expect(said.failed).toMatchObject({ kind: "Error", code: "no_adapter" });
  expect(said.failed!.message).toMatch(/^no GPU adapter was found \(.+\); .+, or use the CPU \(device: "cpu"\)$/);
  expect(said.device).toMatchObject({ adapter: null, is_fallback: true });
  expect(said.device.text).toContain("no real GPU was found");
  expect(said.chosen).toBe(false);
  expect(said.facts.adapter).toBeNull();
  expect(said.facts.reason).toMatch(/; (use a newer browser|update the graphics driver, allow hardware acceleration), or run on the CPU$/);
  expect(said.tokens).toEqual(said.want);
  expect(said.bytes).toBe(0);
}

test("a browser without WebGPU runs on the CPU and says so", async ({ page, server }) => {
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined }));
  await enter(page, server);
  await without(page);
});

test("a browser with WebGPU and no adapter runs on the CPU and says so", async ({ server }) => {
  const { args, ...options } = launchOptions(chromiumPath());
  const flags = args!.filter((flag) => !flag.includes("webgpu"));
  const browser = await chromium.launch({ ...options, args: [...flags, "--use-webgpu-adapter=none", "--disable-gpu"] });
  try {
    const page = await browser.newPage();
    await enter(page, server);
    expect(await page.evaluate(async () => ((await navigator.gpu?.requestAdapter()) ?? null) === null)).toBe(true);
    await without(page);
  } finally {
    await browser.close();
  }
});

test("an adapter of which the browser tells nothing is named by WebGL, or as what it is", async ({ engine }) => {
  const named = await engine.evaluate(async () => {
    const says = (field: string, value: unknown): unknown => Object.defineProperty(GPUAdapterInfo.prototype, field, { get: () => value, configurable: true });
    for (const field of ["vendor", "architecture", "device", "description"]) says(field, "");
    let lost = 0;
    const webgl = (renderer: string | null): void => {
      const context = { getParameter: (name: number) => (name === WebGLRenderingContext.RENDERER ? renderer : null), getExtension: () => ({ loseContext: () => (lost += 1) }) };
      OffscreenCanvas.prototype.getContext = (() => (renderer === null ? null : context)) as unknown as typeof OffscreenCanvas.prototype.getContext;
    };
    const found: string[] = [];
    const ask = async (isFallback: boolean, renderer: string | null): Promise<void> => {
      says("isFallbackAdapter", isFallback);
      webgl(renderer);
      const { adapter } = JSON.parse(await lab.module.device_facts()) as { adapter: { name: string; kind: string } };
      found.push(`${adapter.name}: ${adapter.kind}`);
    };
    await ask(false, "NVIDIA GeForce GTX 980, or similar");
    await ask(false, "llvmpipe, or similar");
    await ask(false, null);
    await ask(true, "NVIDIA GeForce GTX 980, or similar");
    return { found, lost };
  });
  expect(named.found).toEqual(["NVIDIA GeForce GTX 980 (or similar): unknown", "unnamed GPU: unknown", "unnamed GPU: unknown", "software GPU: software"]);
  // A page may have only a few contexts at a time.
  expect(named.lost).toBe(2);
});

test("a software adapter is not taken unasked", async ({ engine }) => {
  const device = await engine.evaluate(async () => {
    const model = await lab.load(await lab.golden("model_a"), {});
    return (JSON.parse(model.info()) as { device: { adapter: unknown; is_fallback: boolean } }).device;
  });
  expect(device).toMatchObject({ adapter: null, is_fallback: true });
});

/** Disguises the software adapter of these tests as a real one, so that `auto` uses it. */
function disguise(): void {
  const says = (field: string, value: unknown): void => void Object.defineProperty(GPUAdapterInfo.prototype, field, { get: () => value });
  says("isFallbackAdapter", false);
  says("architecture", "");
  says("vendor", "");
  says("description", "Card of a test");
}

/** Each breaks the GPU in a different way while a model is being loaded. */
const faults: Record<string, { provoke: () => void; reason: RegExp }> = {
  refused: {
    provoke: () => {
      GPUAdapter.prototype.requestDevice = () => Promise.reject(new DOMException("not today", "OperationError"));
    },
    reason: /^its driver refuses a device \(.*not today.*\)$/,
  },
  lost: {
    provoke: () => {
      const create = GPUDevice.prototype.createBuffer;
      let large = 0;
      GPUDevice.prototype.createBuffer = function (wish) {
        if (wish.size >= 100_000 && (large += 1) === 6) this.destroy();
        return create.call(this, wish);
      };
    },
    reason: /^the GPU stopped working \(.+\)$/,
  },
  memory: {
    provoke: () => {
      const create = GPUDevice.prototype.createBuffer;
      let enlarged = 0;
      GPUDevice.prototype.createBuffer = function (wish) {
        if (enlarged > 0 || wish.size < 100_000) return create.call(this, wish);
        enlarged += 1;
        return create.call(this, { ...wish, size: this.limits.maxBufferSize - 4 });
      };
    },
    reason: /^the GPU has no memory left for this \(.+\)$/,
  },
  kernel: {
    provoke: () => {
      const create = GPUDevice.prototype.createShaderModule;
      let modules = 0;
      GPUDevice.prototype.createShaderModule = function (wish) {
        modules += 1;
        return create.call(this, modules === 4 ? { ...wish, code: `${wish.code} garbage` } : wish);
      };
    },
    reason: /^the GPU's driver refuses a kernel \(.+\)$/,
  },
};

interface Told {
  adapter: { name: string } | null;
  is_fallback: boolean;
  passed_over: { adapter: { name: string }; fault: string; reason: string }[];
  text: string;
}

for (const [fault, { provoke, reason }] of Object.entries(faults)) {
  test(`auto goes on to the CPU where the GPU fails while a model is loaded: ${fault}`, async ({ engine }) => {
    await engine.evaluate(disguise);
    await engine.evaluate(provoke);
    const said = await engine.evaluate(async (small) => {
      const source = await lab.stories();
      const model = await lab.load(source, {});
      const { device } = JSON.parse(model.info()) as { device: Told };
      const cpu = await lab.load(source, { device: "cpu" });
      return { device, tokens: (await lab.run(model, small)).tokens, want: (await lab.run(cpu, small)).tokens };
    }, small);
    expect(said.device).toMatchObject({ adapter: null, is_fallback: true, passed_over: [{ adapter: { name: "Card of a test" }, fault }] });
    expect(said.device.passed_over[0]!.reason).toMatch(reason);
    expect(said.device.text).toBe(`CPU, f32; Card of a test was passed over: ${said.device.passed_over[0]!.reason}`);
    expect(said.tokens).toEqual(said.want);
  });
}

test("auto takes a GPU that works, and no error of a checkpoint for one of the GPU", async ({ engine }) => {
  await engine.evaluate(disguise);
  const said = await engine.evaluate(async (small) => {
    const source = await lab.stories();
    const model = await lab.load(source, { variants: "few=rows,many=rows" });
    const { device } = JSON.parse(model.info()) as { device: Told };
    const { tokens } = await lab.run(model, small);
    const cpu = await lab.load(source, { device: "cpu" });
    const { size, read } = source.weights;
    // The header can be read, the values cannot.
    const weights = { size, read: (start: number, end: number) => (end - start > 10_000 && start > 0 ? Promise.reject(new Error("cut off")) : read(start, end)) };
    const failed = await lab.failure(() => lab.load({ ...source, weights }, {}));
    return { device, tokens, want: (await lab.run(cpu, small)).tokens, failed };
  }, small);
  expect(said.device).toMatchObject({ adapter: { name: "Card of a test" }, is_fallback: false, passed_over: [] });
  expect(said.tokens).toEqual(said.want);
  expect(said.failed).toMatchObject({ code: "checkpoint" });
  expect(said.failed!.message).toContain("cut off");
});

test("a batch beyond the module's memory is told, and a smaller one is written", async ({ engine }) => {
  const said = await engine.evaluate(async (small) => {
    const model = await lab.load(await lab.stories(), { device: "cpu" });
    const before = await lab.run(model, small);
    const failed = await lab.failure(() => lab.run(model, { seed: 3, batch: 5000, length: 256, steps: 4, alpha_0: 1 }));
    return { failed, before, after: await lab.run(model, small) };
  }, small);
  expect(said.failed).toMatchObject({ kind: "Error", code: "out_of_memory" });
  expect(said.failed!.message).toMatch(
    /^a batch of 5000 sequences of 256 slots needs \d+ MiB of memory, but the address space of a WebAssembly module leaves \d+ MiB; use a smaller batch or a shorter length$/,
  );
  expect(said.after).toEqual(said.before);
});

test("a model beyond the module's memory is told before its weights are read", async ({ engine }) => {
  const said = await engine.evaluate(async () => {
    const { config, weights } = await lab.golden("model_a", { hidden_size: 5120, n_heads: 320 });
    const length = new DataView((await weights.read(0, 8)).buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(await weights.read(8, 8 + length))) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    delete header["__metadata__"];
    let end = 0;
    for (const [name, tensor] of Object.entries(header)) {
      if (name.endsWith("inv_freq")) {
        delete header[name];
        continue;
      }
      const wide = (size: number): number => (!name.includes("sigma_map") && [64, 128, 192, 256, 384].includes(size) ? (size / 64) * 5120 : size);
      // A file that the module can address, with values that take twice the memory.
      tensor.dtype = "F16";
      tensor.shape = tensor.shape.map(wide);
      tensor.data_offsets = [end, (end += 2 * tensor.shape.reduce((product, size) => product * size, 1))];
    }
    const text = new TextEncoder().encode(JSON.stringify(header));
    const start = new Uint8Array(8 + text.length);
    new DataView(start.buffer).setUint32(0, text.length, true);
    start.set(text, 8);
    let read = 0;
    const source = {
      ...(config === undefined ? {} : { config }),
      weights: {
        size: start.length + end,
        read: async (from: number, to: number) => {
          if (to > start.length + (1 << 20)) read += 1;
          const part = new Uint8Array(to - from);
          part.set(start.subarray(from, to));
          return part;
        },
      },
    };
    return { failed: await lab.failure(() => lab.load(source, { device: "cpu" })), read };
  });
  expect(said.failed, said.failed?.message).toMatchObject({ kind: "Error", code: "out_of_memory" });
  expect(said.failed!.message).toMatch(/^the model needs \d+ MiB of memory, but the address space of a WebAssembly module leaves \d+ MiB; use a smaller model, or the GPU, which keeps the weights itself$/);
  expect(said.read).toBe(0);
});
