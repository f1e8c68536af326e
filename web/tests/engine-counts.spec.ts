/** The engine's use of the browser: GPU calls per step, event loop turns left to others, bytes read and held. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "@playwright/test";
import { wrappers } from "./engine/binary.js";
import { stories, test } from "./engine/lab.js";
import { Tensors } from "./engine/safetensors.js";

const MIB = 1 << 20;

test("a warm step compiles and allocates nothing, and leaves the thread to others", async ({ engine }) => {
  const runs = await engine.evaluate(async () => {
    let calls: Record<string, number> = {};
    const count = (target: { prototype: object }, names: string[]): void => {
      const prototype = target.prototype as Record<string, (...given: unknown[]) => unknown>;
      for (const name of names) {
        const method = prototype[name]!;
        prototype[name] = function (...given) {
          calls[name] = (calls[name] ?? 0) + 1;
          return method.apply(this, given);
        };
      }
    };
    count(GPUDevice, ["createBuffer", "createBindGroup", "createComputePipeline", "createComputePipelineAsync", "createShaderModule", "createCommandEncoder", "pushErrorScope", "popErrorScope"]);
    count(GPUQueue, ["submit", "writeBuffer", "onSubmittedWorkDone"]);
    count(GPUBuffer, ["mapAsync"]);
    count(GPUComputePassEncoder, ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"]);
    const model = await lab.load(await lab.stories(), { device: "gpu" });
    const runs: { steps: number; turns: number; calls: Record<string, number> }[] = [];
    for (let index = 0; index < 3; index += 1) {
      const run = model.start(JSON.stringify({ seed: 3, top_p: 0.8, steps: 16, length: 64 }));
      calls = {};
      let steps = 0;
      // Number of steps in which something else had a turn.
      let turns = 0;
      for (;;) {
        let had = 0;
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => (had = 1);
        port2.postMessage(null);
        const event = await run.next();
        port1.close();
        if (event === undefined) break;
        if (!("step" in (JSON.parse(event) as object))) continue;
        steps += 1;
        turns += had;
      }
      runs.push({ steps, turns, calls });
      run.free();
    }
    return runs;
  });
  // The first run compiles its kernels, which shows that the counters work.
  expect(runs[0]!.calls["createShaderModule"]).toBeGreaterThan(5);
  expect(runs[0]!.calls["createComputePipeline"]).toBe(runs[0]!.calls["createShaderModule"]);
  expect(runs[0]!.calls["createBuffer"]).toBeGreaterThan(0);
  for (const { steps, turns, calls } of runs.slice(1)) {
    const of = (name: string): number => calls[name] ?? 0;
    console.log(`a step: ${Object.entries(calls).map(([name, number]) => `${name} ${(number / steps).toFixed(2)}`).join(", ")}; other turns in ${turns} of ${steps}`);
    expect(steps).toBeGreaterThan(30);
    expect(of("createShaderModule") + of("createComputePipeline") + of("createComputePipelineAsync") + of("createBuffer")).toBe(0);
    // Five launches per block, and four more.
    expect(of("dispatchWorkgroups")).toBeGreaterThan(steps * 15);
    expect(of("createBindGroup")).toBe(of("dispatchWorkgroups") + of("dispatchWorkgroupsIndirect"));
    // Each step's tokens are read back once, and the device is asked for errors a fixed number of times.
    expect(of("mapAsync")).toBeLessThanOrEqual(steps + 2);
    expect(of("submit")).toBeLessThanOrEqual(4 * steps);
    expect(of("popErrorScope")).toBe(of("pushErrorScope"));
    // About one per step: two steps may be ready at once.
    expect(turns).toBeGreaterThanOrEqual(steps / 2);
  }
});

test("the module's constructors are not run at every call", () => {
  const module = readFileSync(fileURLToPath(new URL("../dist/esolm_web_bg.wasm", import.meta.url)));
  const worst = Math.max(0, ...wrappers(module).values());
  // The module has over a dozen exports, and the linker would wrap each of them.
  expect(worst, "functions that first run the same other one and then hand their arguments on").toBeLessThan(5);
});

test("constructors that are run at every call are seen", () => {
  // Functions: 0 is the constructor, 1 adds, 2 to 7 call the constructor and then 1.
  const wrapper = [0, 0x10, 0, 0x20, 0, 0x20, 1, 0x10, 1, 0x0b];
  const code = [8, 2, 0, 0x0b, 7, 0, 0x20, 0, 0x20, 1, 0x6a, 0x0b, ...Array.from({ length: 6 }, () => [wrapper.length, ...wrapper]).flat()];
  const module = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, 10, 2, 0x60, 0, 0, 0x60, 2, 0x7f, 0x7f, 1, 0x7f],
    ...[3, 9, 8, 0, 1, 1, 1, 1, 1, 1, 1],
    ...[10, code.length, ...code],
  ]);
  expect(WebAssembly.validate(module)).toBe(true);
  expect([...wrappers(module)]).toEqual([[0, 6]]);
});

// The module takes 3 MiB, the tokenizer and what loading needs 16; on the CPU the weights are there too. A fifth more than measured.
for (const [device, bound] of [["gpu", 23 * MIB], ["cpu", 31 * MIB]] as const) {
  test(`a model is read in pieces and held once, on the ${device}`, async ({ engine }) => {
    const file = new Tensors(`${stories}model.safetensors`);
    const { reads, size, before, after, again } = await engine.evaluate(async (device) => {
      const source = await lab.stories();
      const reads: [number, number][] = [];
      const { size, read } = source.weights;
      source.weights = {
        size,
        read: (start, end) => {
          reads.push([start, end]);
          return read(start, end);
        },
      };
      const before = lab.wasm.memory.buffer.byteLength;
      const model = await lab.load(source, { device });
      const after = lab.wasm.memory.buffer.byteLength;
      await model.close();
      // Freed memory is reused, though a buffer that a GPU still copies from may keep the next model from fitting into one gap.
      const again: number[] = [];
      for (let other = 0; other < 6; other++) {
        await (await lab.load(source, { device })).close();
        again.push(lab.wasm.memory.buffer.byteLength);
      }
      return { reads, size, before, after, again };
    }, device);
    const bytes = reads.map(([start, end]) => end - start);
    console.log(
      `${device}: ${reads.length / 7} reads, the largest ${Math.max(...bytes)} of ${file.largest} bytes; wasm memory ${(before / MIB).toFixed(1)} MiB, ${(after / MIB).toFixed(1)} MiB with the model, ${again.map((bytes) => (bytes / MIB).toFixed(1)).join(", ")} MiB after others`,
    );
    expect(Math.max(...bytes)).toBeLessThanOrEqual(file.largest);
    expect(reads.every(([start, end]) => 0 <= start && start < end && end <= size)).toBe(true);
    // Each byte once, except for the header.
    expect(bytes.reduce((sum, each) => sum + each, 0) / 7).toBeLessThanOrEqual(size * 1.05);
    expect(after).toBeLessThanOrEqual(bound);
    expect(Math.max(...again)).toBeLessThanOrEqual(1.3 * after);
  });
}
