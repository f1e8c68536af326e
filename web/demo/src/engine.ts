// The model: loads it through the package, and turns its runs into traces.

import type { EsoLM, LoadOptions, ModelInfo, Progress } from "esolm";
import { Problem } from "./parse";
import type { Request, Settings } from "./settings";
import { Trace } from "./trace";

/** Codes after which a model cannot be used any more. */
const FATAL = new Set(["device_lost", "internal", "disposed", "worker", "wasm", "out_of_memory", "shader"]);

/** What a model is whose configuration does not say it. */
export type ReadAs = Pick<LoadOptions, "as" | "blockSize">;

/** A model of the visitor: files, or the address of a folder. */
export type ModelFiles = { name: string; source: File[] | string } & ReadAs;

export interface RunHooks {
  /** The trace as soon as there is one, without a step yet. */
  begun(trace: Trace): void;
  /** It has a step more. */
  grown(trace: Trace): void;
}

export class Engine {
  private model: EsoLM | null = null;
  private loading: Promise<EsoLM> | null = null;
  private key = "";
  /** Files of the visitor; null is the model that comes with the page. */
  own: ModelFiles | null = null;

  constructor(
    private readonly onProgress: (progress: Progress) => void,
    private readonly onModel: (info: ModelInfo | null) => void,
  ) {}

  get info(): ModelInfo | null {
    return this.model?.info ?? null;
  }

  get name(): string {
    return this.own?.name ?? "stories";
  }

  /** Lets go of the model; the next run loads one. */
  async forget(): Promise<void> {
    const { model } = this;
    this.model = null;
    this.key = "";
    if (!model) return;
    this.onModel(null);
    // It may have failed already, and then there is nothing left to do.
    await model.dispose().catch(() => undefined);
  }

  async ready(settings: Settings, signal: AbortSignal): Promise<EsoLM> {
    const key = `${settings.device} ${settings.weights}`;
    if (this.model && this.key === key) return this.model;
    await this.loading?.catch(() => undefined);
    if (this.model && this.key === key) return this.model;
    await this.forget();
    this.loading = this.load(settings, signal);
    try {
      this.model = await this.loading;
      this.key = key;
      this.onModel(this.model.info);
      return this.model;
    } finally {
      this.loading = null;
    }
  }

  private async load(settings: Settings, signal: AbortSignal): Promise<EsoLM> {
    const { EsoLM } = await import("esolm");
    const { device, weights } = settings;
    const { source, name, ...readAs } = this.own ?? { source: new URL("models/stories/", document.baseURI), name: this.name };
    return EsoLM.load(source, { device, weights, name, ...readAs, signal, onProgress: this.onProgress });
  }

  /** One run. What it has written when it is stopped or fails stays in the trace that `begun` got. */
  async run(settings: Settings, options: Request, hooks: RunHooks, signal: AbortSignal): Promise<Trace> {
    const model = await this.ready(settings, signal);
    let trace: Trace | null = null;
    try {
      // The plan comes first: a run would hold up the calls that put the given tokens into letters.
      const header = await model.plan(options);
      trace = new Trace(header, this.name);
      const given = new Set(header.known.flat().map(([, token]) => token));
      // Without a tokenizer tokens have numbers alone.
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
      if (FATAL.has(codeOf(error) ?? "")) await this.forget();
      throw error;
    }
  }
}

function codeOf(error: unknown): string | null {
  const code = error instanceof Error && "code" in error ? error.code : null;
  return typeof code === "string" ? code : null;
}

export function isAbort(error: unknown): boolean {
  return (error instanceof DOMException && error.name === "AbortError") || codeOf(error) === "aborted";
}

/** An error as one sentence or two that say what to do. */
export function sentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Problem) return message;
  const code = codeOf(error);
  if (code === "device_lost") return `${end(message)} Press Write to load the model again.`;
  // What the package says to its callers, in this page's words.
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
