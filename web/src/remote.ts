/** An engine in its own worker. */

import { EsoLMError, messageOf } from "./errors.js";
import type { CallMessage, CallName, Calls, Control, Engine, FromWorker, ToWorker } from "./protocol.js";

/** Milliseconds for a worker to free its memory before it is terminated. */
const PATIENCE = 1000;

interface Waiting {
  resolve(result: Calls[CallName]["result"]): void;
  reject(error: unknown): void;
  control: Control;
}

export class Remote implements Engine {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;
  #dead: EsoLMError | null = null;
  #closed: (() => void) | null = null;

  private constructor(worker: Worker) {
    this.#worker = worker;
    worker.onmessage = (event: MessageEvent<FromWorker>) => this.#receive(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new EsoLMError("worker", `The worker ended (${event.message || "no reason given"}); load the model again.`));
    };
    worker.onmessageerror = () => this.#fail(new EsoLMError("worker", "The worker sent a message that this page cannot read; load the model again."));
  }

  /** Starts a worker; fails if the page must not create one. */
  static async start(signal: AbortSignal): Promise<Remote> {
    signal.throwIfAborted();
    let worker: Worker;
    try {
      worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "esolm" });
    } catch (error) {
      throw refused(messageOf(error), error);
    }
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: unknown): void => {
        signal.removeEventListener("abort", stop);
        if (error === undefined) return resolve();
        worker.terminate();
        reject(error);
      };
      const stop = (): void => settle(signal.reason);
      worker.onmessage = () => settle();
      worker.onerror = (event) => {
        event.preventDefault();
        settle(refused(event.message || "its script could not be loaded"));
      };
      signal.addEventListener("abort", stop, { once: true });
    });
    return new Remote(worker);
  }

  get dead(): EsoLMError | null {
    return this.#dead;
  }

  call<N extends CallName>(name: N, argument: Calls[N]["argument"], control: Control): Promise<Calls[N]["result"]> {
    const id = this.#next++;
    const abort = (): void => this.#send({ abort: id });
    return new Promise<Calls[CallName]["result"]>((resolve, reject) => {
      if (this.#dead !== null) throw this.#dead;
      // Post first: this throws if something cannot be cloned.
      this.#send({ id, name, argument } as CallMessage);
      this.#waiting.set(id, { resolve, reject, control });
      control.signal.addEventListener("abort", abort, { once: true });
      if (control.signal.aborted) abort();
    }).finally(() => {
      control.signal.removeEventListener("abort", abort);
      this.#waiting.delete(id);
    });
  }

  async close(idle: Promise<void>): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, PATIENCE);
    });
    const closed = idle.then(
      () =>
        new Promise<void>((resolve) => {
          if (this.#dead !== null) return resolve();
          this.#closed = resolve;
          this.#send({ close: true });
        }),
    );
    // A worker in the middle of a long step does not receive messages; terminating it frees its memory as well.
    await Promise.race([closed, late]);
    clearTimeout(timer);
    this.#fail(new EsoLMError("disposed", "The model was disposed of; load it again."));
  }

  #send(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #receive(message: FromWorker): void {
    if ("closed" in message) return this.#closed?.();
    if ("ready" in message) return;
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return;
    if ("event" in message) {
      waiting.control.emit(message.event);
    } else if ("result" in message) {
      waiting.resolve(message.result);
    } else {
      const { code, message: sentence, dead } = message.error;
      const error = new EsoLMError(code, sentence);
      waiting.reject(error);
      if (dead) this.#fail(error);
    }
  }

  #fail(error: EsoLMError): void {
    this.#dead ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#closed?.();
  }
}

function refused(why: string, cause?: unknown): EsoLMError {
  const remedy = "serve worker.js from the page's own site and allow it in its Content-Security-Policy (worker-src), or load with worker: false";
  return new EsoLMError("worker", `The worker could not be started (${why}); ${remedy}.`, { cause });
}
