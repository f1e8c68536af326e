/**
 * The package and the page in every browser engine: the same scenarios in Chromium, in Firefox without and with WebGPU, and in WebKitGTK.
 * Firefox compiles every shader too, as its WebGPU is not Chromium's.
 */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "@playwright/test";
import { serve } from "./engine/lab.js";
import { sample, type Sample } from "./engine/native.js";
import { compileAll, texts } from "./engine/shaders.js";
import { openChromium } from "./engines/chromium.js";
import { openFirefox } from "./engines/firefox.js";
import { packageScenarios, type Place } from "./engines/package.js";
import { pageScenarios } from "./engines/page.js";
import { withProbe } from "./engines/probe.js";
import { endAll, type Tab } from "./engines/tab.js";
import { openWebKit } from "./engines/webkit.js";
import type { Server } from "./server.js";

interface Engine {
  name: string;
  device: Place["device"];
  open(): Promise<Tab>;
  /** Why it is not tested here. */
  without?: string | null;
  /** Whether its compiler is tested with every shader here; Chromium's is in `shaders.spec.ts`. */
  shaders?: boolean;
}

function withoutWebKit(): string | null {
  if (process.platform !== "linux") return "WebKitGTK is there for Linux alone";
  return process.env["ESOLM_WEBKIT"] === "none" ? "ESOLM_WEBKIT=none leaves WebKitGTK out" : null;
}

const engines: Engine[] = [
  // Other files test its WebGPU.
  { name: "Chromium, on the CPU", device: "cpu", open: openChromium },
  { name: "Firefox, on the CPU", device: "cpu", open: () => openFirefox(false) },
  { name: "Firefox, on WebGPU", device: "gpu", open: () => openFirefox(true), shaders: true },
  { name: "WebKitGTK, on the CPU", device: "cpu", open: openWebKit, without: withoutWebKit() },
];

const demo = fileURLToPath(new URL("../demo/dist/", import.meta.url));
const pictures = fileURLToPath(new URL("../test-results/engines/", import.meta.url));
const empty = withProbe('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,"></head><body></body></html>');

/** Cached, since every engine is asked for the same texts. */
const samples = new Map<string, Promise<Sample>>();
function native(...wishes: string[]): Promise<Sample> {
  const key = JSON.stringify(wishes);
  const made = samples.get(key) ?? sample("--model", "models/stories", ...wishes);
  samples.set(key, made);
  return made;
}

// The first call may have to build the native program, and two cores compile Firefox's shaders to machine code.
test.setTimeout(1_800_000);

for (const { name, device, open, without = null, shaders = false } of engines) {
  test.describe(name, () => {
    // Each scenario continues in the tab as the previous one left it.
    test.describe.configure({ mode: "serial" });
    test.skip(without !== null, without ?? "");
    let tab: Tab;
    let server: Server;
    let ends: (() => unknown)[] = [];

    test.beforeAll(async () => {
      if (!existsSync(demo)) throw new Error("web/demo/dist is not there; `cargo xtask web --build` makes it");
      server = await serve();
      ends = [() => server[Symbol.asyncDispose]()];
      const html = (path: string, text: string): void => void server.text(path, "text/html; charset=utf-8", text);
      html("/", empty);
      html("/page/", withProbe(readFileSync(`${demo}index.html`, "utf8")));
      server.folder("/page/", demo);
      tab = await open();
      ends.push(() => tab[Symbol.asyncDispose]());
      console.log(`${name}: ${tab.browser}`);
      await tab.goto(server.url("/"));
    });
    test.afterAll(() => endAll(ends));

    for (const { what, run } of packageScenarios) test(`the package ${what}`, () => run({ tab, device, native }));

    for (const { what, run } of pageScenarios) {
      test(`the page ${what}`, async () => {
        const picture = async (of: string): Promise<void> => {
          mkdirSync(pictures, { recursive: true });
          writeFileSync(`${pictures}${name}, ${of}.png`, await tab.screenshot());
        };
        await run({ tab, device, native, url: server.url("/page/"), picture });
      });
    }

    if (shaders) {
      test("all shaders compile, and fit the limits that every browser has", async () => {
        const all = texts();
        await tab.goto(server.url("/"));
        const found = await tab.evaluate(compileAll, [...all]);
        expect(found).toEqual({ refused: [], pipelines: all.size, stray: [] });
        console.log(`${found.pipelines} forms compiled`);
      });
    }
  });
}
