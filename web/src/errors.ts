/** What kind of thing went wrong, for programs; the message is for people. */
export type ErrorCode =
  /** No WebGPU adapter where one was asked for. */
  | "no_adapter"
  /** The GPU was reset or taken away; load the model again. */
  | "device_lost"
  /** The GPU or the browser has too little memory. */
  | "out_of_memory"
  /** A kernel does not compile on this GPU. */
  | "shader"
  /** An option or argument that cannot be. */
  | "option"
  /** The weights or their configuration cannot be used. */
  | "checkpoint"
  /** The tokenizer is missing or cannot be read. */
  | "tokenizer"
  /** A text that the model cannot take. */
  | "text"
  /** A plan that cannot be carried out, or options from which none can be made. */
  | "plan"
  /** The model is at work on something else. */
  | "busy"
  /** A defect of the engine. After a crash of it the model cannot be used any more. */
  | "internal"
  /** A file could not be downloaded. */
  | "network"
  /** A file is not the one whose hash was given. */
  | "hash"
  /** Stopped before it began. What is stopped by an `AbortSignal` throws the signal's own reason instead. */
  | "aborted"
  /** The model was disposed of. */
  | "disposed"
  /** The browser's storage, or a file of the visitor's, could not be read or changed. */
  | "storage"
  /** The wasm module could not be fetched or compiled. */
  | "wasm"
  /** A worker could not be started, or ended. */
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

/** What every failing call of this package throws: one sentence with a remedy, and a code. */
export class EsoLMError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EsoLMError";
    this.code = code;
  }
}

/** The sentence of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** The code that the engine gave an error. */
export function codeOf(thrown: unknown): ErrorCode | undefined {
  if (typeof thrown !== "object" || thrown === null || !("code" in thrown)) return undefined;
  const { code } = thrown;
  return typeof code === "string" && codes.has(code) ? (code as ErrorCode) : undefined;
}
