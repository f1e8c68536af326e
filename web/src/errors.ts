/** What kind of thing went wrong, for programs; the message is for people. */
export type ErrorCode =
  /** No WebGPU adapter where one was asked for, or one that gives no device. */
  | "no_adapter"
  /** The GPU was reset or taken away; load the model again. */
  | "device_lost"
  /** The GPU or the browser has too little memory. */
  | "out_of_memory"
  /** The GPU's driver refuses a kernel. */
  | "shader"
  /** An option or argument that is not valid. */
  | "option"
  /** The weights or their configuration cannot be used. */
  | "checkpoint"
  /** The tokenizer is missing or cannot be read. */
  | "tokenizer"
  /** A text that the model cannot take. */
  | "text"
  /** A model that cannot be talked to, or a conversation that it cannot take. */
  | "chat"
  /** A plan that does not fit the model, or options that no plan can be made from. */
  | "plan"
  /** The event before is still waited for; only users of `esolm/wasm` meet it. */
  | "busy"
  /** A defect of the engine. After a crash the model cannot be used any more. */
  | "internal"
  /** A file could not be downloaded. */
  | "network"
  /** A file does not have the hash that was given. */
  | "hash"
  /** Stopped before it began. A call whose `AbortSignal` is aborted throws the signal's own reason instead. */
  | "aborted"
  /** The model was disposed of. */
  | "disposed"
  /** The browser's storage, or a file that the visitor chose, could not be read or changed. */
  | "storage"
  /** The wasm module could not be fetched or compiled. */
  | "wasm"
  /** A worker could not be started, or it ended. */
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

/** What every call of this package throws when it fails: a sentence with a remedy, and a code. */
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

/** The code of an error of the engine. */
export function codeOf(thrown: unknown): ErrorCode | undefined {
  if (typeof thrown !== "object" || thrown === null || !("code" in thrown)) return undefined;
  const { code } = thrown;
  return typeof code === "string" && codes.has(code) ? (code as ErrorCode) : undefined;
}
