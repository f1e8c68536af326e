/** Scenarios of the page for every browser. */

import { expect } from "@playwright/test";
import type { Place, Scenario } from "./package.js";

interface PagePlace extends Place {
  /** Address of the page. */
  url: string;
  /** Saves a screenshot. */
  picture(name: string): Promise<void>;
}

export interface PageScenario extends Omit<Scenario, "run"> {
  run(place: PagePlace): Promise<void>;
}

/** Opens the page with settings. A visit that differs only in its settings would not reload the page. */
async function open({ tab, url, device }: PagePlace, settings: string): Promise<void> {
  await tab.goto("about:blank");
  await tab.goto(`${url}#device=${device}${settings}`);
}

/** Waits until the run has ended, shows its end, and returns what is visible. */
async function finished({ tab }: PagePlace): Promise<{ text: string; known: string; machine: string; alerts: string[]; problems: string[] }> {
  return tab.evaluate(async () => {
    const element = (id: string): HTMLElement => document.getElementById(id)!;
    const seen = (id: string): boolean => element(id).checkVisibility();
    await probe.until("a text", () => document.querySelector("#cells .cell") !== null && !seen("stop"));
    if (!(element("to-end") as HTMLButtonElement).disabled) element("to-end").click();
    await probe.until("its end", () => (element("to-end") as HTMLButtonElement).disabled);
    const all = (selector: string): string[] => [...document.querySelectorAll(selector)].map((found) => found.textContent);
    // A text goes from the token after the opening one up to the one that ends it; line ends are shown as a sign.
    const cells = [...document.querySelectorAll("#cells .cell")].slice(1);
    const end = cells.findIndex((cell) => cell.classList.contains("special"));
    const words = end === -1 ? cells : cells.slice(0, end);
    return {
      text: words.map((cell) => cell.textContent.replace("↵", "")).join(""),
      known: element("known").textContent,
      machine: element("machine-line").textContent,
      alerts: all(".alert"),
      problems: probe.problems,
    };
  }, null);
}

export const pageScenarios: PageScenario[] = [
  {
    what: "opens with the story model and writes what the native program writes",
    run: async (place) => {
      const want = await place.native(...["--seed", "3", "--top-p", "0.9", "--temperature", "0.9", "--alpha0", "0.25"], ...["--steps", "32", "--length", "128"]);
      await open(place, "");
      const found = await finished(place);
      expect(found.alerts).toEqual([]);
      expect(found.text.trim()).toBe(want.text[0]!.trim());
      expect(found.known).toBe("128 of 128");
      const card = "Runs on a graphics card (imitated by the processor )?\\(.+\\) through WebGPU";
      expect(found.machine).toMatch(new RegExp(`^${place.device === "gpu" ? card : "Runs on the processor"}\\. Weights: f32\\.$`));
      await place.picture("a story");
      expect(found.problems).toEqual([]);
    },
  },
  {
    what: "is scrubbed",
    run: async ({ tab, picture }) => {
      const scrub = (shown: number | null): Promise<{ known: number; total: number; label: string }> =>
        tab.evaluate(async (shown) => {
          const timeline = document.getElementById("timeline") as HTMLInputElement;
          timeline.value = shown === null ? timeline.max : String(shown);
          timeline.dispatchEvent(new Event("input", { bubbles: true }));
          const said = `Step ${timeline.value} of `;
          await probe.until(said, () => document.getElementById("step-of")!.textContent.includes(said) || timeline.value === "0");
          await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
          return {
            known: document.querySelectorAll("#cells .cell.known").length,
            total: Number(timeline.max),
            label: document.getElementById("known")!.textContent,
          };
        }, shown);
      const early = await scrub(5);
      expect(early.known).toBeGreaterThan(5);
      expect(early.known).toBeLessThan(80);
      expect(early.label).toBe(`${early.known} of 128`);
      await picture("scrubbed");
      const later = await scrub(early.total - 1);
      expect(later.known).toBeGreaterThan(early.known);
      expect((await scrub(null)).known).toBe(128);
      expect((await scrub(5)).known).toBe(early.known);
    },
  },
  {
    what: "fills gaps as the native program does",
    run: async (place) => {
      const infill = await place.tab.evaluate(async () => {
        // The button draws a new seed, which must be the same in every browser.
        crypto.getRandomValues = (array) => {
          (array as unknown as Uint32Array)[0] = 5;
          return array;
        };
        const before = document.getElementById("origin")!.textContent;
        document.getElementById("preset-gaps")!.click();
        await probe.until("the filled gaps", () => document.getElementById("origin")!.textContent !== before);
        return (document.getElementById("infill") as HTMLTextAreaElement).value;
      }, null);
      const found = await finished(place);
      const want = await place.native(...["--seed", "5", "--top-p", "0.9", "--temperature", "0.9", "--alpha0", "0.5", "--steps", "12"], "--infill", infill);
      expect(found.alerts).toEqual([]);
      expect(found.text.trim()).toBe(want.text[0]!.trim());
      await place.picture("filled gaps");
      expect(found.problems).toEqual([]);
    },
  },
  {
    what: "is stopped, keeps what is written, and writes again",
    run: async (place) => {
      await open(place, "&length=256&steps=256&alpha0=0");
      const stopped = await place.tab.evaluate(async () => {
        probe.atFirstToken(() => document.getElementById("stop")!.click());
        const caption = document.getElementById("caption")!;
        await probe.until("the stop", () => document.querySelector("#cells .cell.fresh") !== null && !document.getElementById("stop")!.checkVisibility());
        const end = document.getElementById("to-end") as HTMLButtonElement;
        if (!end.disabled) end.click();
        await probe.until("what is said of it", () => caption.textContent.includes("The run was stopped here."));
        return { masked: document.querySelectorAll("#cells .cell.masked").length, alerts: document.querySelectorAll(".alert").length };
      }, null);
      expect(stopped.masked).toBeGreaterThan(0);
      expect(stopped.alerts).toBe(0);
      await place.tab.evaluate(async () => {
        const length = document.getElementById("length") as HTMLInputElement;
        length.value = "32";
        length.dispatchEvent(new Event("input", { bubbles: true }));
        length.dispatchEvent(new Event("change", { bubbles: true }));
        document.getElementById("write")!.click();
        await probe.until("the next text", () => document.getElementById("known")!.textContent.endsWith(" of 32"));
      }, null);
      const found = await finished(place);
      expect(found.alerts).toEqual([]);
      expect(found.known).toBe("32 of 32");
      expect(found.problems).toEqual([]);
    },
  },
];
