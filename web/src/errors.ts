/** The kind of error, for programs; the message is for people. */
export type ErrorCode =
  /** No WebGPU adapter where one was asked for, or one that gives no device. */
  | "no_adapter"
  /** The GPU was reset or lost; load the model again. */
  | "device_lost"
  /** The GPU or the browser has too little memory. */
  | "out_of_memory"
  /** The GPU's driver rejects a kernel. */
  | "shader"
  /** An invalid option or argument. */
  | "option"
  /** The weights or their configuration are unusable. */
  | "checkpoint"
  /** The tokenizer is missing or unreadable. */
  | "tokenizer"
  /** A text that the model cannot process. */
  | "text"
  /** The model has no chat template, or the conversation is unusable. */
  | "chat"
  /** A plan that does not fit the model, or options from which no plan can be made. */
  | "plan"
  /** The previous event is still being awaited; this only happens to users of `esolm/wasm`. */
  | "busy"
  /** A bug in the engine. After a crash, the model is unusable. */
  | "internal"
  /** A file could not be downloaded. */
  | "network"
  /** A file does not have the given hash. */
  | "hash"
  /** Stopped before it began. A call whose `AbortSignal` is aborted throws the signal's reason instead. */
  | "aborted"
  /** The model has been disposed of. */
  | "disposed"
  /** The browser's storage, or a file chosen by the visitor, could not be read or changed. */
  | "storage"
  /** The wasm module could not be fetched or compiled. */
  | "wasm"
  /** A worker could not be started, or ended unexpectedly. */
  | "worker";

const codes: ReadonlySet<string> = new Set<ErrorCode>([
  "no_adapter",
  "device_lost",
  "out_of_memory",
  "shader",
  "option",
  "checkpoint",
  "tokenizer",
  "text",
  "chat",
  "plan",
  "busy",
  "internal",
  "network",
  "hash",
  "aborted",
  "disposed",
  "storage",
  "wasm",
  "worker",
]);

/** Thrown by every call of this package that fails: a message with a remedy, and a code. */
export class EsoLMError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EsoLMError";
    this.code = code;
  }
}

/** The message of any thrown value. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** The code of an error from the engine. */
export function codeOf(thrown: unknown): ErrorCode | undefined {
  if (typeof thrown !== "object" || thrown === null || !("code" in thrown)) return undefined;
  const { code } = thrown;
  return typeof code === "string" && codes.has(code) ? (code as ErrorCode) : undefined;
}
