import { EsoLMError } from "./errors.js";
import type { Control } from "./protocol.js";
import type { Footer, Header, Step } from "./types.js";

/**
 * A run under way. It goes on whether or not its steps are read, so that a slow reader does not slow it down:
 *
 * ```ts
 * const generation = model.generate({ seed: 3 });
 * for await (const step of generation) show(step.revealed);
 * const { text } = await generation.result;
 * ```
 *
 * Breaking out of the loop stops the run after the step under way; `result` then gives what was written so far. An aborted signal makes
 * the loop, `header` and `result` throw the signal's reason at once.
 */
export class Generation implements AsyncIterable<Step> {
  /** Resolves when the run begins. */
  readonly header: Promise<Header>;
  /** Resolves when the run ends. */
  readonly result: Promise<Footer>;
  /** The headers so far, one for each attempt: texts in which the model ran on at a given word are drawn again. */
  readonly headers: readonly Header[];

  readonly #steps: Step[] = [];
  readonly #stop = new AbortController();
  #ended = false;
  #failure: { reason: unknown } | null = null;
  #wake: (() => void)[] = [];

  /**
   * @internal
   * @param run what runs; it ends early when the control's signal is aborted, with a result if it had begun
   * @param signal what ends it with an error
   */
  constructor(run: (control: Control) => Promise<Footer>, signal: AbortSignal) {
    const headers: Header[] = [];
    this.headers = headers;
    const first = deferred<Header>();
    const last = deferred<Footer>();
    this.header = first.promise;
    this.result = last.promise;
    // A page that awaits neither has not made a mistake.
    this.header.catch(() => undefined);
    this.result.catch(() => undefined);

    const fail = (reason: unknown): void => {
      if (this.#ended) return;
      this.#ended = true;
      this.#failure = { reason };
      first.reject(reason);
      last.reject(reason);
      this.#call();
    };
    const abort = (): void => {
      this.#stop.abort(signal.reason);
      fail(signal.reason);
    };
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    const emit: Control["emit"] = (event) => {
      if (this.#ended) return;
      if ("header" in event) {
        headers.push(event.header);
        first.resolve(event.header);
      } else if ("step" in event) {
        this.#steps.push(event.step);
        this.#call();
      }
    };
    run({ signal: this.#stop.signal, emit })
      .then((footer) => {
        if (this.#ended) return;
        this.#ended = true;
        last.resolve(footer);
        this.#call();
      }, fail)
      .finally(() => signal.removeEventListener("abort", abort));
  }

  [Symbol.asyncIterator](): AsyncIterator<Step, undefined> {
    let next = 0;
    let left = false;
    return {
      next: async () => {
        for (;;) {
          if (this.#failure !== null && !left) {
            left = true;
            throw this.#failure.reason;
          }
          const step = left ? undefined : this.#steps[next];
          if (step !== undefined) {
            next += 1;
            return { done: false, value: step };
          }
          if (this.#ended || left) return { done: true, value: undefined };
          await new Promise<void>((resolve) => this.#wake.push(resolve));
        }
      },
      return: async () => {
        left = true;
        await this.stop();
        return { done: true, value: undefined };
      },
    };
  }

  /** Ends the run after the step under way, as breaking out of a loop over it does. Settles when it has ended. */
  async stop(): Promise<void> {
    this.#stop.abort(new EsoLMError("aborted", "The generation was stopped before it began; start another one."));
    await this.result.catch(() => undefined);
  }

  #call(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resume of wake) resume();
  }
}

interface Deferred<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (reason: unknown) => void;
}

function deferred<T>(): Deferred<T> {
  let settle: Omit<Deferred<T>, "promise"> | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle! };
}
