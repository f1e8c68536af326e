import { existsSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { defineConfig } from "@playwright/test";
import { chromiumPath, launchOptions } from "./tests/chromium.js";

/** A port that nothing listens on, so that runs beside each other and a page that is being served do no harm. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

// The processes that run the tests read this file again, and inherit what the first one chose.
const port = (process.env["ESOLM_TEST_PORT"] ??= String(await freePort()));
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
