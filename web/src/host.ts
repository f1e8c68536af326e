/** Runs the wasm module in this thread. */

import { WasmModel, device_facts, memory_needed, shard_names, type WasmAnswer, type WasmRun } from "./esolm_web.js";
import { EsoLMError } from "./errors.js";
import type { CallName, Calls, Control, Engine } from "./protocol.js";
import { configOf, open, type Reader } from "./source.js";
import type { Answer, ChatPrompt, ChatStep, DeviceFacts, Footer, Header, MemoryNeeded, ModelInfo, Plan, Score, Step } from "./types.js";
import { crashed, guard, initialise, memoryBytes } from "./wasm.js";

type Handlers = { [N in CallName]: (argument: Calls[N]["argument"], control: Control) => Promise<Calls[N]["result"]> };

const parse = <T>(json: string): T => JSON.parse(json) as T;

/**
 * JSON of options under the engine's names: `alpha0` becomes `alpha_0`, while `x0` stays. Numbers that JSON cannot represent become strings, for the
 * engine to parse or reject.
 */
function optionsJson(options: object): string {
  const named = Object.entries(options).map(([name, value]) => [name.replace(/[A-Z]|(?<=[a-z]{2})\d$/g, (letter) => `_${letter.toLowerCase()}`), value]);
  const isExact = (value: unknown): boolean => typeof value !== "bigint" && (typeof value !== "number" || Number.isFinite(value));
  return JSON.stringify(Object.fromEntries(named), (_, value: unknown) => (isExact(value) ? value : String(value)));
}

/**
 * Follows a run to its result: `take` gets every event, and returns the result when it is the last one. When `signal` is aborted, the run ends after
 * the current pass.
 */
async function followed<Told, Result>(run: WasmRun | WasmAnswer, signal: AbortSignal, take: (told: Told) => Result | void): Promise<Result> {
  const stop = (): void => run.stop();
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  try {
    for (let json = await guard(() => run.next()); json !== undefined; json = await guard(() => run.next())) {
      const result = take(parse<Told>(json));
      if (result !== undefined) return result as Result;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    if (crashed() === null) run.free();
  }
  throw new EsoLMError("internal", "The engine ended without a result; this is a defect, please report it.");
}

export class Host implements Engine {
  #model: WasmModel | null = null;

  get dead(): EsoLMError | null {
    return crashed();
  }

  call<N extends CallName>(name: N, argument: Calls[N]["argument"], control: Control): Promise<Calls[N]["result"]> {
    const handler: Handlers[N] = this.#handlers[name];
    return handler(argument, control);
  }

  async close(idle: Promise<void>): Promise<void> {
    await idle;
    const model = this.#model;
    this.#model = null;
    if (model !== null && crashed() === null) await guard(() => model.close());
  }

  readonly #handlers: Handlers = {
    deviceFacts: async ({ wasm }, { signal, emit }) => {
      await initialise(wasm, signal, (progress) => emit({ progress }));
      return parse<DeviceFacts>(await guard(() => device_facts()));
    },

    memoryNeeded: async ({ wasm, pieces, cache, options }, { signal, emit }) => {
      await initialise(wasm, signal, (progress) => emit({ progress }));
      const config = await configOf(pieces, cache, signal);
      return parse<MemoryNeeded>(await guard(() => memory_needed(config, optionsJson(options))));
    },

    load: async ({ wasm, pieces, cache, hash, options }, { signal, emit }) => {
      await initialise(wasm, signal, (progress) => emit({ progress }));
      const source = await open(pieces, {
        cache,
        ...(hash === null ? {} : { hash }),
        signal,
        onProgress: (progress) => emit({ progress }),
        shardNames: (index) => guard(() => shard_names(index)),
      });
      // The engine replaces whatever `read` throws with an error of its own; the original is better.
      let thrown: { error: unknown } | null = null;
      const watched = ({ name, size, read }: Reader): Reader => ({
        name,
        size,
        read: async (start, end) => {
          try {
            return await read(start, end);
          } catch (error) {
            thrown = { error };
            throw error;
          }
        },
      });
      const weights = "index" in source.weights ? { ...source.weights, files: source.weights.files.map(watched) } : watched(source.weights);
      const size = ("index" in weights ? weights.files : [weights]).reduce((sum, file) => sum + file.size, 0);
      let model: WasmModel;
      try {
        model = await guard(() => WasmModel.load({ ...source, weights }, optionsJson(options)));
      } catch (error) {
        throw (thrown as { error: unknown } | null)?.error ?? error;
      }
      if (signal.aborted) {
        await guard(() => model.close());
        signal.throwIfAborted();
      }
      this.#model = model;
      emit({ progress: { phase: "load", file: pieces.file, loaded: size, total: size, fromCache: false } });
      return parse<ModelInfo>(await guard(() => model.info()));
    },

    plan: async (request) => parse<Header & { plan: Plan }>(await guard(() => this.#loaded().plan(optionsJson(request)))),

    generate: async (request, { signal, emit }) =>
      followed<Header | Step | Footer, Footer>(await guard(() => this.#loaded().start(optionsJson(request))), signal, (event) => {
        if ("esolm_trace" in event) emit({ start: event });
        else if ("step" in event) emit({ step: event });
        else return event;
      }),

    chat: async ({ messages, options }, { signal, emit }) =>
      followed<({ event: "prompt" } & ChatPrompt) | ({ event: "step" } & ChatStep) | ({ event: "answer" } & Answer), Answer>(
        await guard(() => this.#loaded().chat(JSON.stringify(messages), optionsJson(options))),
        signal,
        ({ event, ...told }) => {
          if (event === "prompt") emit({ start: told as ChatPrompt });
          else if (event === "step") emit({ step: told as ChatStep });
          else return told as Answer;
        },
      ),

    score: async ({ item, options }, { signal }) => {
      const json = await guard(() => this.#loaded().score(JSON.stringify(item), optionsJson(options), signal));
      const { scores, altered } = parse<{ scores: [Score] } & Pick<Score, "altered">>(json);
      return altered === undefined ? scores[0] : { ...scores[0], altered };
    },
    encode: (text) => guard(() => this.#loaded().encode(text)),
    decode: (tokens) => guard(() => this.#loaded().decode(tokens)),
    forward: (request, { signal }) => guard(() => this.#loaded().forward(optionsJson(request), signal)),

    replay: async ({ plan, uniforms, filters }, { signal }) => {
      const replay = await guard(() => this.#loaded().replay(JSON.stringify(plan), uniforms, optionsJson(filters), signal));
      try {
        return await guard(() => ({
          logits: replay.logits,
          sample: parse<number[][]>(replay.sample()),
          tokensSorted: parse<number[][]>(replay.tokens_sorted()),
        }));
      } finally {
        if (crashed() === null) replay.free();
      }
    },

    deviceBytes: () => guard(() => this.#loaded().device_bytes()),
    wasmBytes: async () => memoryBytes(),
  };

  #loaded(): WasmModel {
    if (this.#model === null) throw new EsoLMError("internal", "No model is loaded; this is a defect of the package, please report it.");
    return this.#model;
  }
}
