/** What can be asked of an engine, be it in this thread or in a worker. */

import type { ErrorCode, EsoLMError } from "./errors.js";
import type { Pieces } from "./source.js";
import type { DeviceFacts, ModelInfo, Plan, Progress, Replay, Schedule, Score, Step, TraceFooter, TraceHeader } from "./types.js";

/** The engine's own form of `GenerateOptions`. */
export interface GenerateRequest {
  prompt?: string | string[] | undefined;
  infill?: string | undefined;
  length?: number | undefined;
  alpha_0?: number | undefined;
  steps?: number | undefined;
  schedule?: Schedule | undefined;
  top_p?: number | undefined;
  temperature?: number | undefined;
  seed?: number | string | undefined;
  batch?: number | undefined;
  first?: number | undefined;
  bos?: boolean | undefined;
  decode_as?: "mdlm" | undefined;
}

/** The engine's own form of `ScoreOptions`. */
export interface ScoreRequest {
  text?: string | undefined;
  infill?: { prefix: string; middle: string; suffix: string } | undefined;
  alpha_0?: number | undefined;
  orders?: number | undefined;
  draws?: number | undefined;
  seed?: number | string | undefined;
  bos?: boolean | undefined;
}

/** The engine's own form of `ForwardOptions`. */
export interface ForwardRequest {
  mode: "causal" | "bidirectional" | "mixed" | "mixed2";
  sort_idx: number[][];
  zt_sorted: number[][];
  x0_sorted?: number[][] | undefined;
}

/** The engine's own form of `LoadOptions`. */
export interface LoadRequest {
  device?: "auto" | "gpu" | "cpu" | undefined;
  weights?: "f32" | "f16" | undefined;
  kv_cache?: "f32" | "f16" | undefined;
  variants?: string | undefined;
  raw_weights?: boolean | undefined;
}

export interface LoadArgument {
  /** Address of the wasm module; beside this one if there is none. */
  wasm: string | null;
  pieces: Pieces;
  cache: boolean;
  hash: string | null;
  request: LoadRequest;
}

/** Every call, with what it takes and gives. */
export interface Calls {
  deviceFacts: { argument: { wasm: string | null }; result: DeviceFacts };
  load: { argument: LoadArgument; result: ModelInfo };
  plan: { argument: GenerateRequest; result: TraceHeader };
  /** Emits headers and steps. When its signal is aborted it ends after the step under way, with a result all the same. */
  generate: { argument: GenerateRequest; result: TraceFooter };
  score: { argument: ScoreRequest; result: Score };
  encode: { argument: string; result: Uint32Array };
  decode: { argument: Uint32Array; result: string };
  forward: { argument: ForwardRequest; result: Float32Array };
  replay: { argument: { plan: Plan; uniforms: Float64Array; topP: number | null }; result: Replay };
  deviceBytes: { argument: null; result: number };
  wasmBytes: { argument: null; result: number };
}

export type CallName = keyof Calls;

/** What a call tells while it is under way. */
export type EngineEvent = { progress: Progress } | { header: TraceHeader } | { step: Step };

export interface Control {
  signal: AbortSignal;
  emit: (event: EngineEvent) => void;
}

export interface Engine {
  /** Why it can do nothing any more. */
  readonly dead: EsoLMError | null;
  /** One call at a time, but for `wasmBytes`; the caller sees to it. */
  call<N extends CallName>(name: N, argument: Calls[N]["argument"], control: Control): Promise<Calls[N]["result"]>;
  /** Frees everything. `idle` settles when no call is under way. */
  close(idle: Promise<void>): Promise<void>;
}

/** A call as it is sent to a worker. */
export type CallMessage = { [N in CallName]: { id: number; name: N; argument: Calls[N]["argument"] } }[CallName];
export type ToWorker = CallMessage | { abort: number } | { close: true };

export interface ErrorMessage {
  code: ErrorCode;
  message: string;
  /** The engine is of no use any more. */
  dead: boolean;
}
export type FromWorker =
  | { ready: true }
  | { closed: true }
  | { id: number; event: EngineEvent }
  | { id: number; result: Calls[CallName]["result"] }
  | { id: number; error: ErrorMessage };
