/** The module worker: a `Host` behind messages. */

import { EsoLMError, messageOf } from "./errors.js";
import { Host } from "./host.js";
import type { CallMessage, CallName, Calls, FromWorker, ToWorker } from "./protocol.js";

/** The parts of a dedicated worker's scope that are used; TypeScript's types for pages and workers are mutually exclusive. */
interface Scope {
  postMessage(message: FromWorker, transfer: Transferable[]): void;
  addEventListener(type: "message", listener: (event: MessageEvent<ToWorker>) => void): void;
}

const scope = globalThis as unknown as Scope;
const host = new Host();
const aborts = new Map<number, AbortController>();
let idle: Promise<void> = Promise.resolve();

scope.addEventListener("message", ({ data }) => {
  if ("abort" in data) {
    aborts.get(data.abort)?.abort();
  } else if ("close" in data) {
    const closed = (): void => scope.postMessage({ closed: true }, []);
    host.close(idle).then(closed, closed);
  } else {
    idle = serve(data);
  }
});
scope.postMessage({ ready: true }, []);

async function serve({ id, name, argument }: CallMessage): Promise<void> {
  const abort = new AbortController();
  aborts.set(id, abort);
  try {
    const control = {
      signal: abort.signal,
      emit: (event: Extract<FromWorker, { event: unknown }>["event"]) => scope.postMessage({ id, event }, []),
    };
    // The message's type ties the argument to the name, which a call through a union cannot express.
    const result = await host.call<CallName>(name, argument, control);
    scope.postMessage({ id, result }, buffers(result));
  } catch (error) {
    const code = error instanceof EsoLMError ? error.code : abort.signal.aborted ? "aborted" : "internal";
    scope.postMessage({ id, error: { code, message: messageOf(error), dead: host.dead !== null } }, []);
  } finally {
    aborts.delete(id);
  }
}

/** Buffers that need not be copied, since nothing else uses them. */
function buffers(result: Calls[CallName]["result"]): Transferable[] {
  if (typeof result !== "object") return [];
  if (result instanceof Float32Array || result instanceof Uint32Array) return [result.buffer];
  return "logits" in result ? [result.logits.buffer] : [];
}
