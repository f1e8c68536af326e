/** Chromium, driven by Playwright, with WebGPU on SwiftShader. */

import { chromium } from "@playwright/test";
import { chromiumPath, launchOptions } from "../chromium.js";
import type { Tab } from "./tab.js";

export async function openChromium(): Promise<Tab> {
  const browser = await chromium.launch(launchOptions(chromiumPath()));
  const page = await browser.newPage();
  return {
    browser: `Chromium ${browser.version()}`,
    goto: async (url) => void (await page.goto(url)),
    // Playwright's type for arguments covers more kinds of values than are used here.
    evaluate: <T, A>(work: (argument: A) => T | Promise<T>, argument: A) => page.evaluate(work as (argument: unknown) => T | Promise<T>, argument),
    screenshot: () => page.screenshot(),
    [Symbol.asyncDispose]: () => browser.close(),
  };
}
