/** A tab of any browser, with what every driver supports. */

export interface Tab extends AsyncDisposable {
  /** Name and version of the browser. */
  readonly browser: string;
  goto(url: string): Promise<void>;
  /** Runs a function in the page. It is sent as text, so it sees only its argument and the page's globals. */
  evaluate<T, A>(work: (argument: A) => T | Promise<T>, argument: A): Promise<T>;
  /** The visible part of the page, as PNG. */
  screenshot(): Promise<Buffer>;
}

/** Runs all `ends`, newest first, even if some fail. */
export async function endAll(ends: (() => unknown)[]): Promise<void> {
  let first: { error: unknown } | null = null;
  for (const end of [...ends].reverse()) {
    try {
      await end();
    } catch (error) {
      first ??= { error };
    }
  }
  if (first !== null) throw first.error;
}
