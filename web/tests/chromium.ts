/** The installed Chromium, and how to start it so that it has WebGPU everywhere. */

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium, type LaunchOptions } from "@playwright/test";

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge.exe", "chrome.exe"];
const places = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
  "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe",
];

export function chromiumPath(): string {
  const named = process.env["ESOLM_CHROMIUM"];
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const candidates = named
    ? [named]
    : [...names.flatMap((name) => folders.map((folder) => join(folder, name))), ...places, chromium.executablePath()];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) {
    throw new Error("No Chromium was found; install one (`npx playwright install chromium` does) or name it in the environment variable ESOLM_CHROMIUM.");
  }
  return found;
}

export function launchOptions(executablePath: string): LaunchOptions {
  return {
    executablePath,
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--enable-unsafe-webgpu",
      "--use-webgpu-adapter=swiftshader",
    ],
    // Playwright adds these, which would disable WebGPU.
    ignoreDefaultArgs: ["--disable-gpu", "--use-angle=swiftshader-webgl", "--enable-unsafe-swiftshader"],
  };
}
