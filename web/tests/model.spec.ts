/** The package around the engine: the queue, cancelling, disposal, crashes, the worker. The engine is a stand-in (`fixtures/engine.js`). */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import { Server } from "./server.js";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
/** Exports a memory of one page, and `trap`, which executes `unreachable`. */
const module = Buffer.from(
  "0061736d01000000010401600000030201000503010001071102047472617000" + "00066d656d6f72790200" + "0a05010300000b",
  "hex",
);

let server: Server;
/** Errors that would appear in the page's console. */
let uncaught: string[];

test.beforeEach(async ({ page }) => {
  server = await Server.start();
  server
    .folder("/dist/", at("../dist/"))
    .text("/dist/esolm_web.js", "text/javascript", readFileSync(at("fixtures/engine.js"), "utf8"))
    .on("/dist/esolm_web_bg.wasm", (_, response) => void response.writeHead(200, { "content-length": module.length }).end(module));
  uncaught = [];
  page.on("pageerror", (error) => uncaught.push(error.message));
  await page.goto(server.url("/"));
});
test.afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

type Package = typeof import("../src/index.js");
type Model = Awaited<ReturnType<Package["EsoLM"]["load"]>>;

interface Given {
  /** The package. */
  esolm: Package;
  load(options?: object, source?: object): Promise<Model>;
  /** Code and message, or name and message, of a promise's rejection. */
  failure(promise: Promise<unknown>): Promise<string>;
  /** The calls to the stand-in. */
  log(model: Model): Promise<string[]>;
  pause(milliseconds: number): Promise<void>;
}

/** Runs a function in the page. It is sent as text, so it sees only what it is given. */
function inPage<T>(page: Page, worker: boolean, work: (given: Given) => Promise<T>): Promise<T> {
  return page.evaluate(
    async ([worker, text]) => {
      const path = "/dist/index.js";
      const esolm = (await import(path)) as Package;
      const work = new Function(`return (${text});`)() as (given: Given) => Promise<T>;
      return work({
        esolm,
        load: (options = {}, source = { config: {}, weights: new Uint8Array(250) }) =>
          esolm.EsoLM.load(source as Parameters<typeof esolm.EsoLM.load>[0], { worker, ...options }),
        failure: (promise) =>
          promise.then(
            (value) => `no failure: ${JSON.stringify(value)}`,
            (thrown: { code?: unknown; name: string; message: string }) =>
              `${thrown instanceof esolm.EsoLMError ? thrown.code : thrown.name}: ${thrown.message}`,
          ),
        log: async (model) => JSON.parse(await model.decode([])) as string[],
        pause: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
      });
    },
    [worker, work.toString()] as const,
  );
}

for (const worker of [true, false]) {
  test.describe(worker ? "in a worker" : "in the page", () => {
    test("a run tells its header, its steps and its result", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, log }) => {
        const progress: string[] = [];
        const model = await load({ name: "toy", kvCache: "f16", rawWeights: true, onProgress: (p: { phase: string; loaded: number; total: number }) => progress.push(`${p.phase} ${p.loaded}/${p.total}`) });
        const generation = model.generate({ prompt: "hello", alpha0: 0.5, topK: 40, topP: 0.9, minP: 0.05, decodeAs: "mdlm", seed: 2n ** 64n - 1n });
        const steps = [];
        for await (const step of generation) steps.push(step);
        const again = [];
        for await (const step of generation) again.push(step.step);
        return { info: model.info, progress, header: await generation.header, headers: generation.headers.length, steps, again, result: await generation.result, log: await log(model) };
      });
      expect(outcome.info).toEqual({ family: "esolm", length: 8 });
      expect(outcome.header).toMatchObject({ model: "toy", nfe: 4 });
      expect((outcome.header as unknown as { asked: unknown }).asked).toEqual({ prompt: "hello", alpha_0: 0.5, top_k: 40, top_p: 0.9, min_p: 0.05, decode_as: "mdlm", seed: "18446744073709551615" });
      expect(outcome.headers).toBe(1);
      expect(outcome.steps.map((step) => [step.step, step.attempt, step.revealed[0]!.text])).toEqual([0, 1, 2, 3].map((step) => [step, 0, `t${step}`]));
      expect(outcome.again).toEqual([0, 1, 2, 3]);
      expect(outcome.result).toMatchObject({ text: ["hello!"], interrupted: false });
      expect(outcome.progress[0]).toMatch(/^wasm /);
      expect(outcome.progress).toContain("load 0/250");
      expect(outcome.progress.at(-1)).toBe("load 250/250");
      expect(outcome.log).toEqual(['load {"name":"toy","kv_cache":"f16","raw_weights":true} {"config":"{}","size":250}', "read 250", "start hello", "end hello after 4", "free hello"]);
    });

    test("calls wait for each other", async ({ page }) => {
      const log = await inPage(page, worker, async ({ load, log }) => {
        const model = await load();
        const one = model.generate({ prompt: "slow" });
        const two = model.generate({ prompt: "two" });
        const score = model.score("text", { alpha0: 1 });
        const middle = model.score({ prefix: "a", middle: "b", suffix: "c" });
        // The steps of neither are read, and the second result is requested first.
        await Promise.all([two.result, one.result, score, middle]);
        return log(model);
      });
      expect(log.slice(2)).toEqual([
        "start slow", "end slow after 4", "free slow", "start two", "end two after 4", "free two",
        'score "text" {"alpha_0":1}', "scored", 'score {"prefix":"a","middle":"b","suffix":"c"} {}', "scored",
      ]);
    });

    test("a call within a loop over steps does not wait for ever", async ({ page }) => {
      const counts = await inPage(page, worker, async ({ load }) => {
        const model = await load();
        let steps = 0;
        let scores = 0;
        for await (const _ of model.generate({ prompt: "x" })) {
          steps += 1;
          scores += (await model.score("x")).tokens;
        }
        return [steps, scores];
      });
      expect(counts).toEqual([4, 4]);
    });

    test("breaking out stops the run after the step under way", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, log }) => {
        const model = await load();
        const generation = model.generate({ prompt: "held" });
        let seen = 0;
        for await (const _ of generation) {
          seen += 1;
          if (seen === 2) break;
        }
        return { interrupted: (await generation.result).interrupted, text: await model.text({ prompt: "next" }), log: await log(model) };
      });
      expect(outcome.interrupted).toBe(true);
      expect(outcome.text).toBe("next!");
      expect(outcome.log[3]).toMatch(/^end held after [23]$/);
      expect(outcome.log.slice(4, 6)).toEqual(["free held", "start next"]);
    });

    test("an aborted signal throws its reason, and what waited never starts", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, log, failure }) => {
        const model = await load();
        const abort = new AbortController();
        const own = new AbortController();
        const running = model.generate({ prompt: "held", signal: abort.signal });
        const waiting = model.generate({ prompt: "waiting", signal: abort.signal });
        const other = model.text({ prompt: "other", signal: own.signal });
        const failures: Promise<string>[] = [failure(running.result), failure(waiting.result), failure(waiting.header), failure(other)];
        const loop = (async () => {
          for await (const step of running) if (step.step === 1) abort.abort();
        })();
        failures.unshift(failure(loop));
        own.abort(new Error("changed my mind"));
        const early = await failure(model.score("x", { signal: AbortSignal.abort() }));
        return { failures: await Promise.all(failures), early, log: await log(model) };
      });
      const aborted = "AbortError: signal is aborted without reason";
      expect(outcome.failures).toEqual([aborted, aborted, aborted, aborted, "Error: changed my mind"]);
      expect(outcome.early).toBe(aborted);
      expect(outcome.log.slice(2)).toEqual(["start held", expect.stringMatching(/^end held after [23]$/), "free held"]);
    });

    test("a generation that is stopped before it begins says so", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, log, failure }) => {
        const model = await load();
        const first = model.generate({ prompt: "slow" });
        const second = model.generate({ prompt: "second" });
        await second.stop();
        return { failure: await failure(second.result), text: (await first.result).text, log: await log(model) };
      });
      expect(outcome.failure).toMatch(/^aborted: /);
      expect(outcome.text).toEqual(["slow!"]);
      expect(outcome.log).not.toContain("start second");
    });

    test("texts that are drawn again are told with their attempt", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load }) => {
        const model = await load();
        const generation = model.generate({ prompt: "redraw 2" });
        const attempts: number[] = [];
        for await (const step of generation) attempts.push(step.attempt);
        return { attempts, headers: generation.headers.map(({ attempt, texts }) => [attempt, texts]), result: await generation.result };
      });
      expect(outcome.attempts).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
      expect(outcome.headers).toEqual([[0, [0]], [1, [0]], [2, [0]]]);
      expect(outcome.result).toMatchObject({ run_on: [], interrupted: false });
    });

    test("options go under the engine's names, and no number is changed on the way", async ({ page }) => {
      const asked = await inPage(page, worker, async ({ load }) => {
        const model = await load();
        const asked = [];
        for (const seed of [7, 1.5, NaN, 2n ** 64n - 1n, "12"]) asked.push(((await model.plan({ seed, topP: Infinity, alpha0: 0.5 })) as unknown as { asked: object }).asked);
        return asked;
      });
      expect(asked).toEqual([7, 1.5, "NaN", "18446744073709551615", "12"].map((seed) => ({ seed, top_p: "Infinity", alpha_0: 0.5 })));
    });

    test("an abort reaches a score, a pass and a replay, and the next call works", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, log, failure, pause }) => {
        const model = await load();
        const plan = { esolm_plan: 1, family: "esolm", length: 8, lead: false, mask_index: 1, vocab_size: 2, sequences: [] } as const;
        const calls = [
          (signal: AbortSignal) => model.score("forever", { signal }),
          (signal: AbortSignal) => model.forward({ mode: "mixed2", sortIdx: [[0]], ztSorted: [[1]], x0Sorted: [[1]], signal }),
          (signal: AbortSignal) => model.forward({ blockSize: 4, xt: [[1]], x0: [[1]], signal }),
          (signal: AbortSignal) => model.replay({ ...plan, sequences: [] }, new Float64Array(0), { signal }),
        ];
        const failures = [];
        for (const call of calls) {
          const abort = new AbortController();
          const failed = failure(call(abort.signal));
          await pause(50);
          abort.abort(new Error("enough"));
          failures.push(await failed);
        }
        return { failures, after: (await model.score("text")).logp, log: await log(model) };
      });
      expect(outcome.failures).toEqual(Array(4).fill("Error: enough"));
      expect(outcome.after).toBe(-1);
      expect(outcome.log.slice(2)).toEqual([
        'score "forever" {}', "aborted", 'forward {"mode":"mixed2","sort_idx":[[0]],"zt_sorted":[[1]],"x0_sorted":[[1]]}', "aborted", 'forward {"block_size":4,"xt":[[1]],"x0":[[1]]}', "aborted", "replay", "aborted", 'score "text" {}', "scored",
      ]);
    });

    test("a disposed model stops at once and says that it is disposed of", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, failure, esolm }) => {
        let closed = 0;
        addEventListener("model closed", () => (closed += 1));
        const model = await load();
        const generation = model.generate({ prompt: "slow" });
        const waiting = failure(model.score("x"));
        await generation.header;
        const ended = failure(generation.result);
        await Promise.all([model.dispose(), model.dispose()]);
        const failures = [await ended, await waiting];
        for (const call of [() => model.text(), () => model.info && model.encode("a"), () => model.deviceBytes(), () => model.wasmBytes(), () => model.plan()]) {
          failures.push(await failure(call()));
        }
        await model[Symbol.asyncDispose]();
        const other = await load();
        return { failures: [...new Set(failures)], closed, other: await other.text({ prompt: "again" }), isError: new esolm.EsoLMError("text", "x") instanceof Error };
      });
      expect(outcome.failures).toEqual(["disposed: The model was disposed of; load it again."]);
      if (!worker) expect(outcome.closed).toBe(1);
      expect(outcome.other).toBe("again!");
    });

    for (const prompt of ["trap", "late trap"]) {
      test(`a crash of the engine (${prompt}) ends the model`, async ({ page }) => {
        await page.evaluate((prompt) => Object.assign(globalThis, { prompt }), prompt);
        const outcome = await inPage(page, worker, async ({ load, failure }) => {
          const { prompt } = globalThis as unknown as { prompt: string };
          const model = await load();
          const first = await failure(model.generate({ prompt }).result);
          const later = [await failure(model.encode("a")), await failure(model.wasmBytes())];
          return { first, later, again: await failure(load()), disposed: await failure(model.dispose()) };
        });
        expect(outcome.first).toMatch(/^internal: The engine crashed \(.*unreachable.*\), which is a defect; load the model again .*report it\.$/);
        expect(new Set(outcome.later)).toEqual(new Set([outcome.first]));
        // Another worker has its own module; the page has only the one that crashed.
        if (worker) expect(outcome.again).toMatch(/^no failure/);
        else expect(outcome.again).toBe(outcome.first);
        expect(outcome.disposed).toMatch(/^no failure/);
        expect(uncaught).toEqual([]);
      });
    }

    test("errors keep the engine's code, and leave the model usable", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, failure }) => {
        const model = await load();
        const failures = [];
        for (const code of ["busy", "device_lost", "option", "text", "plan", "unheard-of"]) failures.push(await failure(model.text({ prompt: `code:${code}` })));
        const broken = await failure(load({}, { config: "broken.json", weights: new Uint8Array(1) }));
        return { failures, broken, text: await model.text({ prompt: "fine" }) };
      });
      expect(outcome.failures.map((failure) => failure.split(":")[0])).toEqual(["busy", "device_lost", "option", "text", "plan", "internal"]);
      expect(outcome.failures[0]).toBe("busy: The stand-in fails with busy; this was asked for.");
      expect(outcome.broken).toMatch(/^network: broken\.json is not there/);
      expect(outcome.text).toBe("fine!");
      expect(uncaught).toEqual([]);
    });

    test("loading is cancelled wherever it is", async ({ page }) => {
      const never = new Promise<void>(() => undefined);
      server.on("/never.safetensors", () => never);
      server.on("/never.wasm", () => never);
      server.text("/slow.json", "application/json", '"slow"');
      const outcome = await inPage(page, worker, async ({ load, failure, pause }) => {
        /** Cancels a load some time after it has reached a phase. */
        const cancelled = async (phase: string | null, options: object, source?: object): Promise<string> => {
          const abort = new AbortController();
          const phases = new Set<string>();
          const promise = failure(load({ ...options, signal: abort.signal, onProgress: (p: { phase: string }) => phases.add(p.phase) }, source));
          while (phase !== null && !phases.has(phase)) await pause(20);
          await pause(300);
          abort.abort();
          return `${await promise} in ${[...phases].at(-1) ?? "nothing"}`;
        };
        return [
          await failure(load({ signal: AbortSignal.abort() })),
          await cancelled(null, { wasm: "/never.wasm" }),
          await cancelled("wasm", {}, { weights: "/never.safetensors" }),
          await cancelled("load", {}, { config: "/slow.json", weights: new Uint8Array(500_000) }),
          await load().then((model) => model.text({ prompt: "after" })),
        ];
      });
      const aborted = "AbortError: signal is aborted without reason";
      expect(outcome).toEqual([aborted, `${aborted} in nothing`, `${aborted} in wasm`, `${aborted} in load`, "after!"]);
      expect(uncaught).toEqual([]);
    });

    test("arrays go in and come out", async ({ page }) => {
      const outcome = await inPage(page, worker, async ({ load, esolm }) => {
        const model = await load();
        const uniforms = Float64Array.of(0.25, 0.5);
        const plan = { esolm_plan: 1, family: "esolm", length: 8, lead: false, mask_index: 1, vocab_size: 2, sequences: [] } as const;
        const replay = await model.replay({ ...plan, sequences: [] }, uniforms, { topK: 7, topP: 0.5, minP: 0.25 });
        const tokens = await model.encode("hi");
        return {
          tokens: [...tokens],
          text: await model.decode(tokens),
          logits: [...(await model.forward({ mode: "causal", sortIdx: [[0, 1]], ztSorted: [[1, 1]] }))],
          replay: [...replay.logits, replay.sample, replay.tokensSorted],
          kept: uniforms.length,
          bytes: [await model.deviceBytes(), await model.wasmBytes()],
          plan: await model.plan({ steps: 3 }),
          facts: await esolm.EsoLM.deviceFacts(),
        };
      });
      expect(outcome).toMatchObject({ tokens: [104, 105], text: "hi", logits: [2, 0.5], replay: [0.25, 0.5, 7, 0.25, [[8]], [[1]]], kept: 2, bytes: [123, 65536] });
      expect(outcome.plan).toMatchObject({ model: "weights", asked: { steps: 3 } });
      expect(outcome.facts).toEqual({ webgpu: false, adapter: null, shader_f16: false, reason: "a stand-in" });
    });

    test("a page's mistake in showing progress is its own", async ({ page }) => {
      const text = await inPage(page, worker, async ({ load }) => {
        const model = await load({
          onProgress: () => {
            throw new Error("a mistake of the page");
          },
        });
        return model.text({ prompt: "fine" });
      });
      expect(text).toBe("fine!");
      expect(uncaught).toContain("a mistake of the page");
    });

    test("an engine that cannot be had is named with a remedy", async ({ page }) => {
      const failures = await inPage(page, worker, async ({ load, failure }) => [
        await failure(load({ wasm: "/nowhere.wasm" })),
        await failure(load({ wasm: "/dist/index.js" })),
        await load({ wasm: new URL("/dist/esolm_web_bg.wasm", location.href) }).then((model) => model.text({ prompt: "found" })),
      ]);
      expect(failures[0]).toMatch(/^wasm: The engine is not there \(the server answered 404 .*option wasm where it does\.$/);
      expect(failures[1]).toMatch(/^wasm: The engine could not be started .*wasm-unsafe-eval'\.$/);
      expect(failures[2]).toBe("found!");
    });
  });
}

test("a start that was given up does not end the next one", async ({ page }) => {
  server.on("/never.wasm", () => new Promise<void>(() => undefined));
  const outcome = await page.evaluate(async () => {
    const path = "/dist/wasm.js";
    const { initialise } = (await import(path)) as typeof import("../src/wasm.js");
    const abort = new AbortController();
    const start = (address: string | null, signal: AbortSignal): Promise<string> =>
      initialise(address && new URL(address, location.href).href, signal, () => undefined).then(() => "started", String);
    const first = start("/never.wasm", abort.signal);
    abort.abort(new Error("the first one's reason"));
    return Promise.all([first, start(null, new AbortController().signal), start(null, new AbortController().signal)]);
  });
  expect(outcome).toEqual(["Error: the first one's reason", "started", "started"]);
  expect(server.log.filter((line) => line === "GET /dist/esolm_web_bg.wasm").length).toBe(1);
});

test("the memory that a model needs is told without a network too, from the cached configuration", async ({ page }) => {
  const serve = (): Server => server.text("/models/config.json", "application/json", '{"n_blocks":2}');
  const goAway = (): Server => server.on("/models/config.json", (_, response) => void response.destroy());
  const uncached = (): Promise<string> =>
    inPage(page, false, ({ esolm, failure }) => failure(esolm.EsoLM.memoryNeeded("/models/", { worker: false, cache: false })));
  const cached = (): Promise<string> =>
    inPage(page, false, async ({ esolm, failure }) => {
      const phases = new Set<string>();
      const needed = await failure(esolm.EsoLM.memoryNeeded("/models/", { onProgress: ({ phase }) => phases.add(phase) }));
      return `${needed} ${[...phases]}`;
    });
  serve();
  expect(await uncached()).toBe('no failure: {"model":14,"cache":1}');
  goAway();
  expect(await cached()).toMatch(/^network: /);
  serve();
  expect(await cached()).toBe('no failure: {"model":14,"cache":1} wasm');
  goAway();
  expect(await cached()).toBe('no failure: {"model":14,"cache":1} wasm');
  expect(await uncached()).toMatch(/^network: /);
});

test("a page that may make no worker is told so, and can do without", async ({ page }) => {
  for (const policy of ["worker-src 'none'", "script-src 'self' 'unsafe-eval'; worker-src https://elsewhere.test"]) {
    server.text("/strict", "text/html", "<!doctype html><title>strict</title>", { "content-security-policy": policy });
    await page.goto(server.url("/strict"));
    const outcome = await inPage(page, true, async ({ load, failure }) => [await failure(load()), await load({ worker: false }).then((model) => model.text({ prompt: "without" }))]);
    expect(outcome[0]).toMatch(/^worker: The worker could not be started .*worker-src\), or load with worker: false\.$/);
    expect(outcome[1]).toBe("without!");
  }
});

test("a worker's script that is missing is told so", async ({ page }) => {
  server.on("/dist/worker.js", (_, response) => void response.writeHead(404).end());
  const failure = await inPage(page, true, ({ load, failure }) => failure(load()));
  expect(failure).toMatch(/^worker: The worker could not be started/);
});

test("a worker that ends is told so", async ({ page }) => {
  const outcome = await inPage(page, true, async ({ load, failure }) => {
    const RealWorker = Worker;
    const made: Worker[] = [];
    globalThis.Worker = class extends RealWorker {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        made.push(this);
      }
    };
    const model = await load();
    const running = failure(model.generate({ prompt: "slow" }).result);
    made[0]!.dispatchEvent(new ErrorEvent("error", { message: "out of memory" }));
    return [await running, await failure(model.encode("a"))];
  });
  expect(new Set(outcome)).toEqual(new Set(["worker: The worker ended (out of memory); load the model again."]));
});
