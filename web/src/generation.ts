import { EsoLMError } from "./errors.js";
import type { Control } from "./protocol.js";
import type { Answer, ChatPrompt, ChatStep, Footer, Header, Step } from "./types.js";

/**
 * What a model does step by step. It goes on whether or not its steps are read, so that a slow reader does not slow it down.
 *
 * Breaking out of the loop stops it after the step under way; `result` then gives what was written so far. An aborted signal makes
 * the loop and `result` throw the signal's reason at once.
 */
abstract class Run<Start, Step, Result> implements AsyncIterable<Step> {
  /** Resolves when it ends. */
  readonly result: Promise<Result>;
  protected readonly start: Promise<Start>;
  protected readonly starts: readonly Start[];

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
  constructor(run: (control: Control<Start, Step>) => Promise<Result>, signal: AbortSignal) {
    const starts: Start[] = [];
    this.starts = starts;
    const first = deferred<Start>();
    const last = deferred<Result>();
    this.start = first.promise;
    this.result = last.promise;
    // A page that awaits neither has not made a mistake.
    this.start.catch(() => undefined);
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
    const emit: Control<Start, Step>["emit"] = (event) => {
      if (this.#ended) return;
      if ("start" in event) {
        starts.push(event.start);
        first.resolve(event.start);
      } else if ("step" in event) {
        this.#steps.push(event.step);
        this.#call();
      }
    };
    run({ signal: this.#stop.signal, emit })
      .then((result) => {
        if (this.#ended) return;
        this.#ended = true;
        last.resolve(result);
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

/**
 * Texts under way:
 *
 * ```ts
 * const generation = model.generate({ seed: 3 });
 * for await (const step of generation) show(step.revealed);
 * const { text } = await generation.result;
 * ```
 */
export class Generation extends Run<Header, Step, Footer> {
  /** Resolves when the run begins. */
  get header(): Promise<Header> {
    return this.start;
  }

  /** The headers so far, one for each attempt: texts in which the model ran on at a given word are drawn again. */
  get headers(): readonly Header[] {
    return this.starts;
  }
}

/**
 * An answer under way:
 *
 * ```ts
 * const answering = model.chat([{ role: "user", content: "Why is the sky blue?" }]);
 * for await (const step of answering) show(step.text, step.open);
 * const { content } = await answering.result;
 * ```
 */
export class Answering extends Run<ChatPrompt, ChatStep, Answer> {
  /** Resolves when the answer begins. */
  get prompt(): Promise<ChatPrompt> {
    return this.start;
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
