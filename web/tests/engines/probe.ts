/** Added to the pages of these tests: a record of their errors, and ways to wait. */

export interface Probe {
  /** Errors that appear in the console. */
  problems: string[];
  /** Waits until `condition` holds; fails after three minutes, naming what it waited for. */
  until(what: string, condition: () => unknown): Promise<void>;
  /** Does something as soon as the first token is shown: runs are too fast to be caught from outside. */
  atFirstToken(action: () => void): void;
}

declare global {
  // eslint-disable-next-line no-var
  var probe: Probe;
}

/** Runs in the page before anything else. */
function install(): void {
  const problems: string[] = [];
  addEventListener("error", (event) => problems.push(event.message || `${(event.target as Element | null)?.outerHTML ?? "something"} failed`), true);
  addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
  const { error } = console;
  console.error = (...words: unknown[]) => {
    problems.push(words.map(String).join(" "));
    error.apply(console, words);
  };
  globalThis.probe = {
    problems,
    until: async (what, condition) => {
      const start = performance.now();
      while (!condition()) {
        if (performance.now() - start > 180_000) throw new Error(`waited in vain for ${what}; the page says: ${document.body.innerText.slice(0, 500)}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    atFirstToken: (action) => {
      const cells = document.getElementById("cells")!;
      const watch = new MutationObserver(() => {
        if (cells.querySelector(".fresh") === null) return;
        watch.disconnect();
        action();
      });
      watch.observe(cells, { subtree: true, childList: true, attributes: true });
    },
  };
}

/** Inserts the probe at the start of a page's HTML. */
export function withProbe(html: string): string {
  return html.replace("<head>", `<head><script>(${install.toString()})();</script>`);
}
