/** A tab of any browser, as far as every driver can do it. */

export interface Tab extends AsyncDisposable {
  /** Name and version of the browser. */
  readonly browser: string;
  goto(url: string): Promise<void>;
  /** Runs a function in the page. It is sent as text, so it sees nothing but its argument and what the page holds. */
  evaluate<T, A>(work: (argument: A) => T | Promise<T>, argument: A): Promise<T>;
  /** What is seen of the page, as PNG. */
  screenshot(): Promise<Buffer>;
}

/** Frees what was started, the newest first, whether or not some of it fails. */
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
