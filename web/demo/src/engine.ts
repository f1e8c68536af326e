// The model: loads it through the package, and turns its runs into traces.

import type { EsoLM, LoadOptions, MemoryNeeded, ModelInfo, Progress } from "esolm";
import { Problem } from "./parse";
import type { Request, Settings } from "./settings";
import { Trace } from "./trace";

/** Name of the model that comes with the page. */
const STORIES = "stories";

/** Error codes after which a model is unusable. */
const FATAL = new Set(["device_lost", "internal", "disposed", "worker", "wasm", "out_of_memory", "shader"]);

/** How to read a model whose configuration leaves it open. */
export type ReadAs = Pick<LoadOptions, "as" | "blockSize">;

/** The visitor's own model: files, or the address of a folder. */
export type ModelFiles = { name: string; source: File[] | string } & ReadAs;

export interface RunHooks {
  /** Called with the trace when it is created, before its first step. */
  begun(trace: Trace): void;
  /** Called after each step. */
  grown(trace: Trace): void;
}

/** What is loaded, and how. */
interface Wanted {
  own: ModelFiles | null;
  device: Settings["device"];
  weights: Settings["weights"];
}

export class Engine {
  private loaded: ({ model: EsoLM } & Wanted) | null = null;
  private loading: Promise<EsoLM> | null = null;
  /** The visitor's own model; null for the model that comes with the page. */
  own: ModelFiles | null = null;

  constructor(
    private readonly onProgress: (progress: Progress) => void,
    private readonly onModel: (info: ModelInfo | null) => void,
  ) {}

  get info(): ModelInfo | null {
    return this.loaded?.model.info ?? null;
  }

  get name(): string {
    return this.own?.name ?? STORIES;
  }

  /** Disposes of the model; whatever needs one next loads it. */
  async forget(): Promise<void> {
    const { loaded } = this;
    if (!loaded) return;
    this.loaded = null;
    this.onModel(null);
    // It may have failed already; then there is nothing left to do.
    await loaded.model.dispose().catch(() => undefined);
  }

  /** The model, loaded with these settings. */
  async ready({ device, weights }: Settings, signal: AbortSignal): Promise<EsoLM> {
    const wanted = { own: this.own, device, weights };
    // Only one model is loaded at a time; what is being loaded may be another one.
    while (this.loading) await this.loading.catch(() => undefined);
    signal.throwIfAborted();
    if (this.loaded && isSame(this.loaded, wanted)) return this.loaded.model;
    this.loading = this.load(wanted, signal).finally(() => {
      this.loading = null;
    });
    return this.loading;
  }

  /** Replaces the model. */
  private async load(wanted: Wanted, signal: AbortSignal): Promise<EsoLM> {
    await this.forget();
    const { EsoLM } = await import("esolm");
    const { own, device, weights } = wanted;
    const { source, name, ...readAs } = own ?? { source: new URL("models/stories/", document.baseURI), name: STORIES };
    const model = await EsoLM.load(source, { device, weights, name, ...readAs, signal, onProgress: this.onProgress });
    this.loaded = { model, ...wanted };
    this.onModel(model.info);
    return model;
  }

  /** The memory that a model needs, and whether there is a graphics card to hold it; `null` for a file with its configuration in it. */
  async estimate(model: ModelFiles, { weights }: Settings, signal: AbortSignal): Promise<(MemoryNeeded & { hasCard: boolean }) | null> {
    const { EsoLM } = await import("esolm");
    const { source, name, ...readAs } = model;
    if (typeof source === "string" && /\.ckpt($|[?#])/.test(source)) return null;
    const [needed, { adapter }] = await Promise.all([
      EsoLM.memoryNeeded(source, { weights, ...readAs, signal, onProgress: this.onProgress }),
      EsoLM.deviceFacts({ signal }),
    ]);
    return { ...needed, hasCard: adapter !== null };
  }

  /** Does something with the model. If that leaves it unusable, the next one who needs a model loads it again. */
  async use<T>(settings: Settings, signal: AbortSignal, task: (model: EsoLM) => Promise<T>): Promise<T> {
    const model = await this.ready(settings, signal);
    try {
      return await task(model);
    } catch (error) {
      const isUnusable = FATAL.has(codeOf(error) ?? "");
      if (isUnusable && this.loaded?.model === model) await this.forget();
      throw error;
    }
  }

  /** Runs a generation. If it is stopped or fails, what it has written stays in the trace passed to `begun`. */
  run(settings: Settings, options: Request, hooks: RunHooks, signal: AbortSignal): Promise<Trace> {
    return this.use(settings, signal, (model) => this.generate(model, options, hooks, signal));
  }

  private async generate(model: EsoLM, options: Request, hooks: RunHooks, signal: AbortSignal): Promise<Trace> {
    let trace: Trace | null = null;
    try {
      // The plan comes first, because a run would hold up the calls that decode the given tokens.
      const header = await model.plan(options);
      trace = new Trace(header, this.name);
      const given = new Set(header.known.flat().map(([, token]) => token));
      // Without a tokenizer, tokens have only numbers.
      if (model.info.has_tokenizer) for (const token of given) trace.name(token, await model.decode([token]));
      signal.throwIfAborted();
      hooks.begun(trace);
      const generation = model.generate({ ...options, signal });
      for await (const step of generation) {
        const header = generation.headers[step.attempt];
        if (header && step.attempt !== trace.header.attempt) trace.restart(header);
        trace.add(step);
        hooks.grown(trace);
      }
      trace.finish(await generation.result);
      return trace;
    } catch (error) {
      trace?.interrupt();
      throw error;
    }
  }
}

const isSame = (a: Wanted, b: Wanted): boolean => a.own === b.own && a.device === b.device && a.weights === b.weights;

function codeOf(error: unknown): string | null {
  const code = error instanceof Error && "code" in error ? error.code : null;
  return typeof code === "string" ? code : null;
}

export function isAbort(error: unknown): boolean {
  return (error instanceof DOMException && error.name === "AbortError") || codeOf(error) === "aborted";
}

/** An error as one or two sentences that say what to do. */
export function sentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Problem) return message;
  const code = codeOf(error);
  if (code === "device_lost") return `${end(message)} Press Write or Send to load the model again.`;
  // The package's messages for programmers, in this page's words.
  if (code === "checkpoint") return end(message.replace(/say as: "mdlm", or as: "bd3lm" with blockSize/, "choose below what to read it as, then drop it again"));
  if (code !== null) return end(message);
  if (/dynamically imported module|Importing a module script failed/i.test(message)) {
    return "The program that runs the model could not be fetched. Check the connection and reload the page; recorded runs still play.";
  }
  return `Something unexpected happened: ${end(message)} Reload the page and try again.`;
}

function end(message: string): string {
  const text = message.trim();
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
