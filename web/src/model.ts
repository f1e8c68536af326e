/// <reference lib="esnext.disposable" preserve="true" />
import { EsoLMError } from "./errors.js";
import { Answering, Generation } from "./generation.js";
import type { CallName, Calls, Control, Engine } from "./protocol.js";
import { Queue, raced } from "./queue.js";
import { Remote } from "./remote.js";
import { absolute, piecesOf } from "./source.js";
import { clearCache } from "./store.js";
import type {
  ChatOptions,
  DeviceFacts,
  EngineOptions,
  ForwardOptions,
  GenerateOptions,
  Header,
  LoadOptions,
  MemoryNeeded,
  MemoryOptions,
  Message,
  Middle,
  ModelInfo,
  Plan,
  Progress,
  Replay,
  ReplayOptions,
  Score,
  ScoreOptions,
  Source,
  Step,
} from "./types.js";

/**
 * A loaded model.
 *
 * ```ts
 * await using model = await EsoLM.load("models/stories/");
 * console.log(await model.text({ prompt: "Once upon a time", topP: 0.8 }));
 * ```
 *
 * Calls run one at a time, in the order in which they were made. A call that fails throws an `EsoLMError`; a call whose `AbortSignal` is aborted
 * throws the signal's reason, and the model is free again after the current pass.
 */
export class EsoLM implements AsyncDisposable {
  readonly info: ModelInfo;
  readonly #engine: Engine;
  readonly #queue = new Queue();
  /** Aborted when the model is disposed of. */
  readonly #end = new AbortController();
  #closing: Promise<void> | null = null;
  declare readonly [Symbol.asyncDispose]: () => Promise<void>;

  static {
    // Browsers without native `await using` run code that was compiled for them, which looks for this symbol.
    const symbol: symbol = Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose");
    Object.defineProperty(this.prototype, symbol, {
      value(this: EsoLM) {
        return this.dispose();
      },
    });
  }

  private constructor(engine: Engine, info: ModelInfo) {
    this.#engine = engine;
    this.info = info;
  }

  /** Fetches a model and loads it onto a device. */
  static async load(source: Source, options: LoadOptions = {}): Promise<EsoLM> {
    const { worker, wasm, signal = new AbortController().signal, onProgress, cache = true, hash = null, ...engineOptions } = options;
    signal.throwIfAborted();
    const pieces = piecesOf(source, base());
    const argument = { wasm: wasmOf(options), pieces, cache, hash, options: { ...engineOptions, name: engineOptions.name ?? pieces.name } };
    const engine = await startEngine(options, signal);
    const call = engine.call("load", argument, { signal, emit: progressOf(onProgress, signal) });
    try {
      return new EsoLM(engine, await raced(call, signal));
    } catch (error) {
      const ended = call.then(() => undefined, () => undefined);
      // The page need not wait for a load that it aborted; a load that failed must have cleaned up before its error arrives.
      const closed = engine.close(ended);
      if (!signal.aborted) await closed;
      throw error;
    }
  }

  /** What this browser can compute with. Nothing stays open. */
  static async deviceFacts(options: EngineOptions = {}): Promise<DeviceFacts> {
    const { signal = new AbortController().signal } = options;
    const wasm = wasmOf(options);
    const engine = await startEngine(options, signal);
    const call = engine.call("deviceFacts", { wasm }, { signal, emit: () => undefined });
    try {
      return await raced(call, signal);
    } finally {
      await engine.close(call.then(() => undefined, () => undefined));
    }
  }

  /** The memory that a model needs, computed from its configuration before anything large is fetched. Nothing stays open. */
  static async memoryNeeded(source: Source, options: MemoryOptions = {}): Promise<MemoryNeeded> {
    const { worker, wasm, signal = new AbortController().signal, onProgress, cache = true, ...held } = options;
    const argument = { wasm: wasmOf(options), pieces: piecesOf(source, base()), cache, options: held };
    const engine = await startEngine(options, signal);
    const call = engine.call("memoryNeeded", argument, { signal, emit: progressOf(onProgress, signal) });
    try {
      return await raced(call, signal);
    } finally {
      await engine.close(call.then(() => undefined, () => undefined));
    }
  }

  /** Deletes all downloaded files that this site has cached. */
  static async clearCache(): Promise<void> {
    try {
      await clearCache();
    } catch (error) {
      throw new EsoLMError("storage", "The browser did not clear the cache; clear the site's data in its settings.", { cause: error });
    }
  }

  /** Generates texts, step by step. */
  generate(options: GenerateOptions = {}): Generation {
    const { signal, ...request } = options;
    const ends = signal === undefined ? this.#end.signal : AbortSignal.any([signal, this.#end.signal]);
    return new Generation((control) => this.#queue.run(() => this.#ask("generate", request, control as Control), control.signal), ends);
  }

  /**
   * Answers a conversation, step by step. Whatever is still cached from the previous answer is not recomputed, so a growing conversation only costs
   * what was added to it. The answer is not added to the messages.
   */
  chat(messages: Message[], options: ChatOptions = {}): Answering {
    const { signal, ...rest } = options;
    const ends = signal === undefined ? this.#end.signal : AbortSignal.any([signal, this.#end.signal]);
    const argument = { messages: [...messages], options: rest };
    return new Answering((control) => this.#queue.run(() => this.#ask("chat", argument, control as Control), control.signal), ends);
  }

  /** Generates one text and returns it. */
  async text(options: GenerateOptions & { onStep?: (step: Step) => void } = {}): Promise<string> {
    const { onStep, ...rest } = options;
    const generation = this.generate(rest);
    if (onStep !== undefined) for await (const step of generation) onStep(step);
    return (await generation.result).text[0] ?? "";
  }

  /** The plan that `generate` would carry out, without running the network. Without a seed, it is drawn with seed 0. */
  plan({ signal, ...request }: GenerateOptions = {}): Promise<Header & { plan: Plan }> {
    return this.#call("plan", request, signal);
  }

  /** How likely a text is, or the middle of a text given the rest. */
  score(item: string | Middle, { signal, ...options }: ScoreOptions = {}): Promise<Score> {
    return this.#call("score", { item, options }, signal);
  }

  /** The tokens of a text. */
  encode(text: string): Promise<Uint32Array> {
    return this.#call("encode", text);
  }

  /** The text of tokens, including the names of special ones. */
  decode(tokens: Iterable<number>): Promise<string> {
    return this.#call("decode", Uint32Array.from(tokens));
  }

  /** Logits of one pass: one row per slot, each `info.vocab_size` wide. */
  forward({ signal, ...pass }: ForwardOptions): Promise<Float32Array> {
    return this.#call("forward", pass, signal);
  }

  /** Runs a plan with given random numbers: one row of `info.vocab_size` per entry of every sequence, each number in (0, 1). */
  replay(plan: Plan, uniforms: Float64Array, { signal, ...filters }: ReplayOptions = {}): Promise<Replay> {
    return this.#call("replay", { plan, uniforms, filters }, signal);
  }

  /** GPU memory in use, in bytes; 0 on the CPU. */
  deviceBytes(): Promise<number> {
    return this.#call("deviceBytes", null);
  }

  /** Size of the wasm module's memory in bytes. Does not wait for pending calls. Without a worker, it is shared by all models of the thread. */
  async wasmBytes(): Promise<number> {
    this.#check();
    return this.#engine.call("wasmBytes", null, { signal: this.#end.signal, emit: () => undefined });
  }

  /** Stops the current call, frees all memory and ends the worker. */
  async dispose(): Promise<void> {
    this.#end.abort(disposed());
    this.#closing ??= this.#engine.close(this.#queue.idle());
    await this.#closing;
  }

  async #call<N extends CallName>(name: N, argument: Calls[N]["argument"], signal?: AbortSignal): Promise<Calls[N]["result"]> {
    const ends = signal === undefined ? this.#end.signal : AbortSignal.any([this.#end.signal, signal]);
    const control = { signal: ends, emit: () => undefined };
    return raced(this.#queue.run(() => this.#ask(name, argument, control), ends), ends);
  }

  async #ask<N extends CallName>(name: N, argument: Calls[N]["argument"], control: Control): Promise<Calls[N]["result"]> {
    this.#check();
    return this.#engine.call(name, argument, control);
  }

  #check(): void {
    this.#end.signal.throwIfAborted();
    if (this.#engine.dead !== null) throw this.#engine.dead;
  }
}

async function startEngine(options: EngineOptions, signal: AbortSignal): Promise<Engine> {
  if (options.worker ?? true) return Remote.start(signal);
  // Pages that use a worker need not fetch the code that runs the module in their own thread.
  const { Host } = await import("./host.js");
  return new Host();
}

function disposed(): EsoLMError {
  return new EsoLMError("disposed", "The model was disposed of; load it again.");
}

/** The base of relative URLs. */
function base(): string {
  return typeof document === "undefined" ? location.href : document.baseURI;
}

function wasmOf(options: EngineOptions): string | null {
  return options.wasm === undefined ? null : absolute(options.wasm, base()).href;
}

/** An error in the page's own callback must not end the load, and an aborted load reports nothing more. */
function progressOf(onProgress: ((progress: Progress) => void) | undefined, signal: AbortSignal): Control["emit"] {
  return (event) => {
    if (!("progress" in event) || signal.aborted) return;
    try {
      onProgress?.(event.progress);
    } catch (error) {
      reportError(error);
    }
  };
}
