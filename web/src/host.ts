/** Drives the wasm module in this thread. */

import { WasmModel, device_facts } from "./esolm_web.js";
import { EsoLMError } from "./errors.js";
import type { CallName, Calls, Control, Engine } from "./protocol.js";
import { open } from "./source.js";
import type { DeviceFacts, ModelInfo, Plan, Score, Step, TraceFooter, TraceHeader } from "./types.js";
import { crashed, guard, initialise, memoryBytes } from "./wasm.js";

/** How often an infill is drawn again that goes on with a given word. */
const REDRAWS = 32;

type Handlers = { [N in CallName]: (argument: Calls[N]["argument"], control: Control) => Promise<Calls[N]["result"]> };

const parse = <T>(json: string): T => JSON.parse(json) as T;

export class Host implements Engine {
  #model: WasmModel | null = null;
  #name = "";
  readonly #turns = new Turns();

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
    this.#turns.close();
    if (model !== null && crashed() === null) await guard(() => model.free());
  }

  readonly #handlers: Handlers = {
    deviceFacts: async ({ wasm }, { signal, emit }) => {
      await initialise(wasm, signal, (progress) => emit({ progress }));
      return parse<DeviceFacts>(await guard(() => device_facts()));
    },

    load: async ({ wasm, pieces, cache, hash, request }, { signal, emit }) => {
      await initialise(wasm, signal, (progress) => emit({ progress }));
      const source = await open(pieces, {
        cache,
        ...(hash === null ? {} : { hash }),
        signal,
        onProgress: (progress) => emit({ progress }),
      });
      const { size } = source.weights;
      // The engine makes a sentence of its own from whatever `read` throws; what was thrown is the better one.
      let thrown: { error: unknown } | null = null;
      const read = async (start: number, end: number): Promise<Uint8Array> => {
        try {
          return await source.weights.read(start, end);
        } catch (error) {
          thrown = { error };
          throw error;
        }
      };
      let model: WasmModel;
      try {
        model = await guard(() => WasmModel.load({ ...source, weights: { size, read } }, JSON.stringify(request)));
      } catch (error) {
        throw (thrown as { error: unknown } | null)?.error ?? error;
      }
      if (signal.aborted) {
        await guard(() => model.free());
        signal.throwIfAborted();
      }
      this.#model = model;
      this.#name = pieces.name;
      emit({ progress: { phase: "load", file: pieces.file, loaded: size, total: size, fromCache: false } });
      return parse<ModelInfo>(await guard(() => model.info()));
    },

    plan: async (request) => this.#header(await guard(() => this.#loaded().plan(JSON.stringify(request)))),

    generate: async (request, { signal, emit }) => {
      // Each text has the number of the attempt that wrote it: one that came out well is written again as it was.
      const attempts: number[] = [];
      let seed = request.seed;
      for (let attempt = 0; ; attempt++) {
        const run = await guard(() => this.#loaded().start(JSON.stringify({ ...request, seed, attempts })));
        try {
          const header = this.#header(await guard(() => run.header()));
          seed ??= header.seed;
          emit({ header });
          while (!signal.aborted) {
            const step = await guard(() => run.next());
            if (step === undefined) break;
            emit({ step: { ...parse<Omit<Step, "attempt">>(step), attempt } });
            // On the CPU a step ends without the thread ever being idle: a page could not paint, nor a worker hear that it should stop.
            await this.#turns.next();
          }
          const { broken, ...footer } = parse<TraceFooter & { broken: number[] }>(await guard(() => run.stop()));
          if (!footer.redraw || signal.aborted || attempt === REDRAWS) return footer;
          for (const index of broken) {
            while (attempts.length <= index) attempts.push(0);
            attempts[index] = attempt + 1;
          }
        } finally {
          if (crashed() === null) run.free();
        }
      }
    },

    score: async (request) => parse<Score>(await guard(() => this.#loaded().score(JSON.stringify(request)))),
    encode: (text) => guard(() => this.#loaded().encode(text)),
    decode: (tokens) => guard(() => this.#loaded().decode(tokens)),
    forward: (request) => guard(() => this.#loaded().forward(JSON.stringify(request))),

    replay: async ({ plan, uniforms, topP }) => {
      const replay = await guard(() => this.#loaded().replay(JSON.stringify(plan), uniforms, topP ?? undefined));
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

  /** The engine knows the weights but not what they are called. */
  #header(json: string): TraceHeader & { plan?: Plan } {
    return { ...parse<TraceHeader>(json), model: this.#name };
  }

  #loaded(): WasmModel {
    if (this.#model === null) throw new EsoLMError("internal", "No model is loaded; this is a defect of the package, please report it.");
    return this.#model;
  }
}

/** Lets the thread take its next turn, without the pause that timers come with. */
class Turns {
  readonly #channel = new MessageChannel();
  #resume: (() => void) | null = null;

  constructor() {
    this.#channel.port1.onmessage = () => this.#resume?.();
  }

  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#resume = resolve;
      this.#channel.port2.postMessage(null);
    });
  }

  close(): void {
    this.#channel.port1.close();
  }
}
