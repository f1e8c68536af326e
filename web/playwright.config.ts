import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";
import { chromiumPath, launchOptions } from "./tests/chromium.js";

const port = 4173;
const demo = existsSync(new URL("demo/dist/index.html", import.meta.url));

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results",
  globalSetup: "./tests/setup.ts",
  // A software GPU leaves no cores for a second worker, and what failed once is to be looked at.
  workers: 1,
  retries: 0,
  forbidOnly: true,
  timeout: 180_000,
  expect: { timeout: 30_000 },
  reporter: [["list"]],
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    launchOptions: launchOptions(chromiumPath()),
  },
  // The built page, for its own tests; the others bring the server that they need.
  ...(demo
    ? {
        webServer: {
          command: `npm run preview -w demo -- --host 127.0.0.1 --port ${port} --strictPort`,
          url: `http://127.0.0.1:${port}`,
          reuseExistingServer: false,
          timeout: 60_000,
        },
      }
    : {}),
});
