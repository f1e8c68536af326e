/** The wasm module of this thread: fetched once, and watched for crashes. */

import init from "./esolm_web.js";
import { meter } from "./download.js";
import { EsoLMError, codeOf, messageOf } from "./errors.js";
import type { Progress } from "./types.js";

const FILE = "esolm_web_bg.wasm";

let memory: WebAssembly.Memory | null = null;
let starting: { done: Promise<void>; abort: AbortController; waiting: number } | null = null;
let crash: EsoLMError | null = null;
const underWay = new Set<(error: EsoLMError) => void>();

/** If the module has become unusable, the reason. */
export function crashed(): EsoLMError | null {
  return crash;
}

/** Size of the module's memory in bytes. */
export function memoryBytes(): number {
  return memory?.buffer.byteLength ?? 0;
}

/** Initialises the module once; calls made while it is being fetched wait for the same one. */
export async function initialise(address: string | null, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
  // A start that all its callers have given up fails soon, for a reason of theirs. Another one waits for that, since the module must not be initialised twice.
  while (starting?.abort.signal.aborted) await starting.done.catch(() => undefined);
  signal.throwIfAborted();
  if (crash !== null) throw crash;
  if (memory !== null) return;
  if (starting === null) {
    const abort = new AbortController();
    const done = start(address, abort.signal, onProgress).finally(() => {
      starting = null;
    });
    starting = { done, abort, waiting: 0 };
  }
  const mine = starting;
  mine.waiting += 1;
  const leave = (): void => {
    mine.waiting -= 1;
    if (mine.waiting === 0) mine.abort.abort(signal.reason);
  };
  signal.addEventListener("abort", leave, { once: true });
  try {
    await mine.done;
  } finally {
    signal.removeEventListener("abort", leave);
  }
  signal.throwIfAborted();
}

async function start(address: string | null, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
  const url = address ?? new URL("./esolm_web_bg.wasm", import.meta.url).href;
  const remedy = `check that ${FILE} lies at ${url}, or say with the option wasm where it does`;
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw new EsoLMError("wasm", `The engine could not be fetched (${messageOf(error)}); ${remedy}.`, { cause: error });
  }
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok || response.body === null || type.startsWith("text/html")) {
    throw new EsoLMError("wasm", `The engine is not there (the server answered ${response.status} ${type}); ${remedy}.`);
  }

  const compressed = response.headers.has("content-encoding");
  const length = Number(response.headers.get("content-length") ?? 0);
  const total = compressed || length === 0 ? null : length;
  let loaded = 0;
  const report = meter((bytes, all) => onProgress({ phase: "wasm", file: FILE, loaded: bytes, total: all, fromCache: false }));
  const counted = response.body.pipeThrough(
    new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(chunk, controller) {
        loaded += chunk.length;
        report(loaded, total);
        controller.enqueue(chunk);
      },
    }),
  );
  try {
    // Streaming compilation requires this type, which not every server knows.
    const module_or_path = new Response(counted, { headers: { "content-type": "application/wasm" } });
    ({ memory } = await init({ module_or_path }));
  } catch (error) {
    signal.throwIfAborted();
    if (isTrap(error)) throw record(error);
    const cause = "the browser must support WebAssembly with SIMD, and a Content-Security-Policy must allow 'wasm-unsafe-eval'";
    throw new EsoLMError("wasm", `The engine could not be started (${messageOf(error)}); ${cause}.`, { cause: error });
  }
  onProgress({ phase: "wasm", file: FILE, loaded, total: loaded, fromCache: false });
}

/** Calls into the module, and turns whatever it throws into an `EsoLMError`. */
export async function guard<T>(work: () => T | Promise<T>): Promise<T> {
  if (crash !== null) throw crash;
  watch();
  let fail: (error: EsoLMError) => void = () => undefined;
  const trapped = new Promise<never>((_, reject) => {
    fail = reject;
  });
  underWay.add(fail);
  try {
    return await Promise.race([work(), trapped]);
  } catch (error) {
    if (error instanceof EsoLMError) throw error;
    if (isTrap(error)) throw record(error);
    throw new EsoLMError(codeOf(error) ?? "internal", messageOf(error), { cause: error });
  } finally {
    underWay.delete(fail);
  }
}

let watched = false;

/**
 * A panic in a future does not reject the promise that waits for it: it surfaces as an error of the thread, and the promise would wait forever. Traps of other modules in the
 * same thread cannot be told apart; they count only while something of ours is running.
 */
function watch(): void {
  if (watched) return;
  watched = true;
  const seen = (event: Event, thrown: unknown): void => {
    if (underWay.size === 0 || !isTrap(thrown)) return;
    record(thrown);
    // Pending calls are notified; otherwise a worker would also end with an error of its own.
    event.preventDefault();
  };
  globalThis.addEventListener("error", (event) => seen(event, event.error));
  globalThis.addEventListener("unhandledrejection", (event) => seen(event, event.reason));
}

function record(thrown: unknown): EsoLMError {
  if (crash === null) {
    const remedy = "load the model again (where it ran without a worker, after reloading the page) and please report it";
    crash = new EsoLMError("internal", `The engine crashed (${messageOf(thrown)}), which is a defect; ${remedy}.`, { cause: thrown });
    for (const fail of underWay) fail(crash);
  }
  return crash;
}

/** After a trap or a stack overflow, the module's memory may be in any state. */
function isTrap(thrown: unknown): boolean {
  if (thrown instanceof WebAssembly.RuntimeError) return true;
  return thrown instanceof Error && /call stack|too much recursion/i.test(thrown.message);
}
