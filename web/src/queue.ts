/** Runs tasks one at a time, in the order in which they were added. */
export class Queue {
  #last: Promise<void> = Promise.resolve();

  /**
   * Runs a task when its turn comes. If aborted before that, rejects immediately and never runs it; after that, the task itself must react to the
   * signal.
   */
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

  /** Resolves once all tasks so far are done. */
  idle(): Promise<void> {
    return this.#last;
  }
}

/** Settles like a promise, or rejects with a signal's reason as soon as it is aborted. */
export function raced<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const stop = (): void => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
