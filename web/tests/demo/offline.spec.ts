// The page without a network: what its service worker keeps, and what it leaves alone.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test, type BrowserContext, type Page } from "@playwright/test";
import { Server } from "../server.js";

const dist = fileURLToPath(new URL("../../demo/dist/", import.meta.url));
const TITLE = "esolm: watch a text appear out of order";

const html = readFileSync(`${dist}index.html`, "utf8");
const titled = (title: string): string => `<!doctype html><title>${title}</title>`;

let server: Server;
let context: BrowserContext;
let page: Page;

test.beforeEach(async ({ browser }) => {
  server = await Server.start();
  server.folder("/app/", dist).text("/app/beside.html", "text/html", titled("Another page"));
  publish(html, "no-cache");
  context = await browser.newContext({ serviceWorkers: "allow" });
  page = await context.newPage();
});
test.afterEach(async () => {
  await context.close();
  await server[Symbol.asyncDispose]();
});

/** Has the server answer the page's address with this, which the browser may cache as the header says. */
function publish(body: string, caching: string): void {
  server.text("/app/", "text/html", body, { "cache-control": caching });
}

/** Installs the page's service worker, as the page does after its first text. */
async function install(): Promise<void> {
  await page.goto(server.url("/app/beside.html"));
  await page.evaluate(async () => {
    await navigator.serviceWorker.register("./sw.js");
    if (!navigator.serviceWorker.controller) await new Promise((resolve) => (navigator.serviceWorker.oncontrollerchange = resolve));
  });
}

test("whatever was visited meanwhile, the page opens without a network as it was cached", async () => {
  await install();
  const visit = async (path: string): Promise<string> => {
    await page.goto(server.url(path));
    return page.title();
  };
  expect(await visit("/app/")).toBe(TITLE);
  // With a network, the server has the word.
  publish(titled("A later version"), "no-cache");
  expect(await visit("/app/")).toBe("A later version");
  expect(await visit("/app/beside.html")).toBe("Another page");
  await context.setOffline(true);
  expect(await visit("/app/#seed=4")).toBe(TITLE);
  expect(await visit("/app/index.html")).toBe(TITLE);
  await expect(visit("/app/beside.html")).rejects.toThrow(/ERR_INTERNET_DISCONNECTED/);
});

test("a full cache does not keep the page from opening", async () => {
  await install();
  const [worker] = context.serviceWorkers();
  await worker!.evaluate(() => {
    Cache.prototype.put = () => Promise.reject(new DOMException("full", "QuotaExceededError"));
  });
  publish(titled("A later version"), "no-cache");
  await page.goto(server.url("/app/"));
  expect(await page.title()).toBe("A later version");
});

test("what the browser itself has kept of an earlier version is not cached", async () => {
  publish(titled("An earlier version"), "max-age=3600");
  await page.goto(server.url("/app/"));
  publish(titled("This version"), "max-age=3600");
  await install();
  const cached = await page.evaluate(async () => (await caches.match("./"))!.text());
  expect(cached).toContain("This version");
});
