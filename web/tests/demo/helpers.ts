// Shared by the tests of the page: recorded runs, and ways to inspect the page.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { expect, type Page } from "@playwright/test";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export interface Line {
  phase: "prompt" | "diffusion" | "sequential";
  revealed: { sequence: number; position: number; token: number }[];
  rows: number;
  cache_length: number;
}

export interface Recorded {
  text: string;
  header: { length: number; known: [number, number][][]; family: string; batch: number; nfe: number };
  steps: Line[];
  footer: { text: string[]; pieces: Record<string, string>; tokens: number[][] };
}

export const fixture = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");

export function recorded(text: string): Recorded {
  const lines = text.trim().split("\n").map((line) => JSON.parse(line) as unknown);
  return {
    text,
    header: lines[0] as Recorded["header"],
    steps: lines.slice(1, -1) as Line[],
    footer: lines.at(-1) as Recorded["footer"],
  };
}

export const written = (parts: { header: object; steps: object[]; footer: object }): string =>
  [parts.header, ...parts.steps, parts.footer].map((line) => JSON.stringify(line)).join("\n");

/** Opens the page on a recorded run, paused at its start. */
export async function openTrace(page: Page, text: string): Promise<void> {
  await page.route("**/run.jsonl", (route) => route.fulfill({ body: text, contentType: "text/plain" }));
  await page.goto("/#trace=run.jsonl");
  await expect(page.locator("#origin")).toContainText("run.jsonl");
}

/** Shows the state after this many steps, and pauses. */
export async function scrub(page: Page, shown: number): Promise<void> {
  await page.locator("#timeline").fill(String(shown));
  await expect(page.locator("#timeline")).toHaveValue(String(shown));
}

export const choose = (page: Page, name: string, content: string | Buffer): Promise<void> =>
  page.locator("#files").setInputFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(content) });

/** Positions of the cells of the text that have all these classes. */
export const positions = (page: Page, classes: string): Promise<number[]> =>
  page.locator(`#cells .cell${classes}`).evaluateAll((cells) => cells.map((cell) => Number((cell as HTMLElement).dataset.position)));

export const byNumber = (a: number, b: number): number => a - b;

/** The expected state of a sequence after `shown` steps: its known positions, and those of the last step. */
export function expected(run: Recorded, shown: number, sequence = 0): { known: number[]; fresh: number[] } {
  const of = (step: Line): number[] => step.revealed.filter((item) => item.sequence === sequence).map((item) => item.position);
  const given = run.header.known[sequence]!.map(([position]) => position);
  const known = [...given, ...run.steps.slice(0, shown).flatMap(of)].sort(byNumber);
  const fresh = shown === 0 ? [] : of(run.steps[shown - 1]!).sort(byNumber);
  return { known, fresh };
}

/** Violations that axe finds on the page in its current state. */
export async function violations(page: Page): Promise<{ rule: string; where: string[] }[]> {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: { id: string; nodes: { target: string[]; failureSummary: string }[] }[] }> } };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => ({ rule: id, where: nodes.slice(0, 3).map((node) => `${node.target.join(" ")}: ${node.failureSummary}`) }));
  });
}
