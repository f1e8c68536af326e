/** Scenarios of the package for every browser, with the model that ships, run one after another in one page. */

import { expect } from "@playwright/test";
import * as golden from "../engine/golden.js";
import type { Sample } from "../engine/native.js";
import type { Tab } from "./tab.js";

type Package = typeof import("../../src/index.js");
type Model = Awaited<ReturnType<Package["EsoLM"]["load"]>>;

declare global {
  // eslint-disable-next-line no-var
  var held: { EsoLM: Package["EsoLM"]; model: Model };
}

export interface Place {
  tab: Tab;
  device: "gpu" | "cpu";
  /** The native program's output for these arguments. */
  native(...wishes: string[]): Promise<Sample>;
}

export interface Scenario {
  what: string;
  run(place: Place): Promise<void>;
}

const infill = "Once upon a time, ____ and then they went home.";

export const packageScenarios: Scenario[] = [
  {
    what: "loads, and tells how far it is and what runs it",
    run: async ({ tab, device }) => {
      const found = await tab.evaluate(async (device) => {
        const path = "/dist/index.js";
        const { EsoLM } = (await import(path)) as Package;
        const facts = await EsoLM.deviceFacts();
        const progress: string[] = [];
        let last = { loaded: 0, total: null as number | null };
        const model = await EsoLM.load("/models/stories/", {
          device,
          onProgress: ({ phase, loaded, total }) => {
            if (progress.at(-1) !== phase) progress.push(phase);
            last = { loaded, total };
          },
        });
        globalThis.held = { EsoLM, model };
        const chosen = await EsoLM.load("/models/stories/", { device: "auto" });
        const auto = chosen.info.device;
        await chosen.dispose();
        const { family, length, file_bytes } = model.info;
        return { facts, auto, progress, last, family, length, file_bytes, device: model.info.device, bytes: await model.deviceBytes() };
      }, device);
      expect(found).toMatchObject({ family: "esolm", length: 256 });
      expect(found.progress[0]).toBe("wasm");
      expect(found.progress).toContain("download");
      expect(found.progress.at(-1)).toBe("load");
      expect(found.last).toEqual({ loaded: found.file_bytes, total: found.file_bytes });
      expect(found.facts.adapter === null).toBe(found.facts.reason !== null);
      expect(found.device.passed_over).toEqual([]);
      // A software GPU is slower than the CPU.
      const isReal = found.facts.adapter !== null && found.facts.adapter.kind !== "software";
      expect(found.auto).toMatchObject({ is_fallback: !isReal, passed_over: [] });
      expect(found.auto.adapter !== null).toBe(isReal);
      if (device === "cpu") {
        expect(found.device.adapter).toBeNull();
        expect(found.bytes).toBe(0);
        return;
      }
      expect(found.facts.webgpu).toBe(true);
      expect(found.bytes).toBeGreaterThan(found.file_bytes / 2);
      const { name, kind, backend } = found.device.adapter!;
      console.log(`${tab.browser}: ${name} (${kind})`);
      expect(backend).toBe("webgpu");
      // Firefox reveals no more about a GPU than whether it is a real one.
      const isUntold = tab.browser.startsWith("Firefox") && kind === "software";
      expect(name).toMatch(isUntold ? /^software GPU$/ : /^(?!unnamed GPU$).*\S/);
    },
  },
  {
    what: "writes what the native program writes, step by step",
    run: async ({ tab, native }) => {
      const want = await native("--seed", "3", "--top-p", "0.8");
      const found = await tab.evaluate(async () => {
        const generation = held.model.generate({ seed: 3, topP: 0.8 });
        const revealed: { position: number; token: number }[] = [];
        const phases = new Set<string>();
        for await (const step of generation) {
          phases.add(step.phase);
          revealed.push(...step.revealed.map(({ position, token }) => ({ position, token })));
        }
        const { nfe } = await generation.header;
        const { tokens, text, interrupted } = await generation.result;
        return { written: { tokens, text, nfe }, revealed, phases: [...phases], interrupted };
      }, null);
      expect(found.written).toEqual(want);
      expect(found.interrupted).toBe(false);
      expect(found.phases).toEqual(["diffusion", "sequential"]);
      // The steps make up the text: each place is revealed once, except for the opening one.
      const byPlace = new Map(found.revealed.map(({ position, token }) => [position, token]));
      expect(byPlace.size).toBe(found.revealed.length);
      for (const [position, token] of byPlace) expect(token).toBe(want.tokens[0]![position]);
      expect(byPlace.size).toBeGreaterThanOrEqual(want.tokens[0]!.length - 1);
    },
  },
  {
    what: "fills gaps as the native program does",
    run: async ({ tab, native }) => {
      const want = await native("--seed", "5", "--top-p", "0.9", "--steps", "12", "--infill", infill);
      const found = await tab.evaluate(async (infill) => {
        const generation = held.model.generate({ seed: 5, topP: 0.9, steps: 12, infill });
        const { tokens, text } = await generation.result;
        return { tokens, text, nfe: generation.headers.at(-1)!.nfe };
      }, infill);
      expect(found).toEqual(want);
    },
  },
  {
    what: "replays a generation of the published code",
    run: async ({ tab, device }) => {
      const trace = golden.esolmTraces()[0]!;
      const found = await tab.evaluate(
        async ({ plan, uniforms, topP, device }) => {
          const model = await held.EsoLM.load({ config: "/golden/model_a.config.json", weights: "/golden/model_a.ema.safetensors" }, { device });
          try {
            const filters = topP === null ? {} : { topP };
            const { logits, sample, tokensSorted } = await model.replay(plan as Parameters<Model["replay"]>[0], Float64Array.from(uniforms), filters);
            return { logits: Array.from(logits), sample, tokensSorted, onGpu: model.info.device.adapter !== null };
          } finally {
            await model.dispose();
          }
        },
        { plan: trace.plan, uniforms: trace.uniforms, topP: trace.topP, device },
      );
      expect(found.onGpu).toBe(device === "gpu");
      expect(found.sample).toEqual(trace.sample);
      expect(found.tokensSorted).toEqual(trace.tokensSorted);
      golden.close(trace.name, found.logits, trace.logits);
    },
  },
  {
    what: "is cancelled by a signal or by leaving the loop, and then writes as before",
    run: async ({ tab, native }) => {
      const want = await native("--seed", "4", "--length", "32");
      const found = await tab.evaluate(async () => {
        const { model } = held;
        const controller = new AbortController();
        const aborted = model.generate({ seed: 3, length: 256, alpha0: 0, signal: controller.signal });
        const reason = new Error("enough");
        const failure = aborted.result.then(
          () => "it went on",
          (thrown: unknown) => (thrown === reason ? "the signal's reason" : String(thrown)),
        );
        try {
          for await (const step of aborted) if (step.step === 1) controller.abort(reason);
        } catch (thrown) {
          if (thrown !== reason) throw thrown;
        }
        const left = model.generate({ seed: 3, length: 256, alpha0: 0, batch: 16 });
        for await (const step of left) if (step.step === 1) break;
        const { interrupted } = await left.result;
        const after = await model.generate({ seed: 4, length: 32 }).result;
        return { failure: await failure, left: { interrupted }, after: { tokens: after.tokens, text: after.text } };
      }, null);
      expect(found.failure).toBe("the signal's reason");
      expect(found.left.interrupted).toBe(true);
      expect(found.after).toEqual({ tokens: want.tokens, text: want.text });
    },
  },
  {
    what: "gives everything back when it is disposed of, also in the midst of a text, and loads again in the page's own thread",
    run: async ({ tab, device, native }) => {
      const want = await native("--seed", "4", "--length", "32");
      const found = await tab.evaluate(async (device) => {
        const { EsoLM, model } = held;
        const code = (thrown: unknown): unknown => (thrown as { code?: unknown }).code ?? String(thrown);
        const running = model.generate({ seed: 3, length: 256, alpha0: 0 });
        const ended = running.result.then(() => "it went on", code);
        await running.header;
        await model.dispose();
        const codes = [await ended, await model.text().then(() => "it writes", code)];
        const again = await EsoLM.load("/models/stories/", { device, worker: false });
        const { tokens, text } = await again.generate({ seed: 4, length: 32 }).result;
        await again.dispose();
        return { codes, written: { tokens, text }, problems: probe.problems };
      }, device);
      expect(found.codes).toEqual(["disposed", "disposed"]);
      expect(found.written).toEqual({ tokens: want.tokens, text: want.text });
      expect(found.problems).toEqual([]);
    },
  },
];
