/** The installed Firefox, driven by Puppeteer. */

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import puppeteer, { type Page } from "puppeteer-core";
import type { Tab } from "./tab.js";

const names = ["firefox-esr", "firefox", "firefox.exe"];
const places = ["/Applications/Firefox.app/Contents/MacOS/firefox", "C:\\Program Files\\Mozilla Firefox\\firefox.exe"];

function firefoxPath(): string {
  const named = process.env["ESOLM_FIREFOX"];
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const candidates = named ? [named] : [...names.flatMap((name) => folders.map((folder) => join(folder, name))), ...places];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) {
    throw new Error("No Firefox was found; install one (on Debian `apt install firefox-esr`) or name it in the environment variable ESOLM_FIREFOX.");
  }
  return found;
}

/** Opens a tab, either with WebGPU on any available driver, even a software one, or without WebGPU. */
export async function openFirefox(webgpu: boolean): Promise<Tab> {
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: firefoxPath(),
    extraPrefsFirefox: {
      "dom.webgpu.enabled": webgpu,
      "dom.webgpu.workers.enabled": webgpu,
      "gfx.webgpu.ignore-blocklist": webgpu,
      "gfx.webgpu.force-enabled": webgpu,
    },
    defaultViewport: { width: 1280, height: 900 },
    // The tests have their own time limit.
    protocolTimeout: 0,
  });
  const page: Page = await browser.newPage();
  return {
    browser: (await browser.version()).replace(/^firefox\//, "Firefox "),
    goto: async (url) => void (await page.goto(url)),
    evaluate: <T, A>(work: (argument: A) => T | Promise<T>, argument: A) => page.evaluate(work as (argument: unknown) => T | Promise<T>, argument) as Promise<T>,
    screenshot: async () => Buffer.from(await page.screenshot()),
    [Symbol.asyncDispose]: () => browser.close(),
  };
}
