/** Requests to an engine, whether in this thread or in a worker. */

import type { ErrorCode, EsoLMError } from "./errors.js";
import type { Pieces } from "./source.js";
import type { Answer, BlockForward, ChatOptions, ChatPrompt, ChatStep, DeviceFacts, EngineOptions, Footer, GenerateOptions, Header, LoadOptions, MemoryNeeded, Message, Middle, ModelInfo, Plan, Progress, Replay, ReplayOptions, Score, ScoreOptions, SetForward, SortedForward, Step } from "./types.js";

/** A generation request; its signal is passed with the call. */
export type Request = Omit<GenerateOptions, "signal">;

export interface LoadArgument {
  /** URL of the wasm module; `null` if it is next to this one. */
  wasm: string | null;
  pieces: Pieces;
  cache: boolean;
  hash: string | Record<string, string> | null;
  options: Omit<LoadOptions, keyof EngineOptions | "cache" | "hash" | "onProgress">;
}

/** Every call, with its argument and result. */
export interface Calls {
  deviceFacts: { argument: { wasm: string | null }; result: DeviceFacts };
  memoryNeeded: { argument: { wasm: string | null; pieces: Pieces; cache: boolean; options: object }; result: MemoryNeeded };
  load: { argument: LoadArgument; result: ModelInfo };
  plan: { argument: Request; result: Header & { plan: Plan } };
  /** Emits starts (headers) and steps. When its signal is aborted, it ends after the current step and still returns a result. */
  generate: { argument: Request; result: Footer };
  /** The same for an answer. */
  chat: { argument: { messages: Message[]; options: Omit<ChatOptions, "signal"> }; result: Answer };
  score: { argument: { item: string | Middle; options: Omit<ScoreOptions, "signal"> }; result: Score };
  encode: { argument: string; result: Uint32Array };
  decode: { argument: Uint32Array; result: string };
  forward: { argument: Omit<SortedForward, "signal"> | Omit<BlockForward, "signal"> | Omit<SetForward, "signal">; result: Float32Array };
  replay: { argument: { plan: Plan; uniforms: Float64Array; filters: Omit<ReplayOptions, "signal"> }; result: Replay };
  deviceBytes: { argument: null; result: number };
  wasmBytes: { argument: null; result: number };
}

export type CallName = keyof Calls;

/** What a call reports while it is running. */
export type EngineEvent<Start = Header | ChatPrompt, OneStep = Step | ChatStep> = { progress: Progress } | { start: Start } | { step: OneStep };

export interface Control<Start = Header | ChatPrompt, OneStep = Step | ChatStep> {
  signal: AbortSignal;
  emit: (event: EngineEvent<Start, OneStep>) => void;
}

export interface Engine {
  /** If the engine has become unusable, the reason. */
  readonly dead: EsoLMError | null;
  /** One call at a time, except `wasmBytes`; the caller must ensure this. */
  call<N extends CallName>(name: N, argument: Calls[N]["argument"], control: Control): Promise<Calls[N]["result"]>;
  /** Frees everything. `idle` settles once no call is running. */
  close(idle: Promise<void>): Promise<void>;
}

/** A call as sent to a worker. */
export type CallMessage = { [N in CallName]: { id: number; name: N; argument: Calls[N]["argument"] } }[CallName];
export type ToWorker = CallMessage | { abort: number } | { close: true };

export interface ErrorMessage {
  code: ErrorCode;
  message: string;
  /** Whether the engine has become unusable. */
  dead: boolean;
}
export type FromWorker =
  | { ready: true }
  | { closed: true }
  | { id: number; event: EngineEvent }
  | { id: number; result: Calls[CallName]["result"] }
  | { id: number; error: ErrorMessage };
