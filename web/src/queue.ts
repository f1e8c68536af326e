/** Runs tasks one at a time, in the order in which they were added. */
export class Queue {
  #last: Promise<void> = Promise.resolve();

  /** Runs a task when its turn comes. Aborted before that, it rejects at once and never runs; after that the task itself must react. */
  run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const drop = (): void => reject(signal.reason);
      signal.addEventListener("abort", drop, { once: true });
      if (signal.aborted) drop();
      this.#last = this.#last.then(async () => {
        signal.removeEventListener("abort", drop);
        if (signal.aborted) return;
        try {
          resolve(await task());
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /** Resolves when all tasks so far are done. */
  idle(): Promise<void> {
    return this.#last;
  }
}

/** Settles as a promise does, or rejects with a signal's reason as soon as that is aborted. */
export function raced<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const stop = (): void => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
