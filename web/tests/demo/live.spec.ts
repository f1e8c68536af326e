// The page with the model that ships with it: the package, the module and the WebGPU adapter are real.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium, expect, test, type BrowserContext, type Page } from "@playwright/test";
import { chromiumPath } from "../chromium.js";
import { byNumber, choose, fixture, positions, scrub, violations } from "./helpers.js";

const stories = (name: string): string => fileURLToPath(new URL(`../../../models/stories/${name}`, import.meta.url));
/** These tests use a software adapter, which the page uses only on request. */
const GPU = "device=gpu";
const SHORT = `length=32&steps=8&${GPU}`;
const LONG = `length=256&steps=256&alpha0=0&${GPU}`;
/** For what does not depend on the device. */
const CPU = "length=32&steps=8&device=cpu";
const mini = fileURLToPath(new URL("../../../tests/fixtures/golden-family/bd3lm/mini_bd3lm.ckpt", import.meta.url));

test.use({ serviceWorkers: "block" });

/** Waits until the run has ended and is shown to its end; returns the text in the cells. */
async function finished(page: Page): Promise<string> {
  await expect(page.locator("#cells .cell").first()).toBeAttached();
  await expect(page.locator("#stop")).toBeHidden({ timeout: 90_000 });
  expect(await page.locator(".alert").allTextContents()).toEqual([]);
  await page.locator("#to-end").click({ timeout: 1000 }).catch(() => undefined);
  await expect(page.locator("#to-end")).toBeDisabled();
  return (await page.locator("#cells .cell.known:not(.special)").allTextContents()).join("");
}

/** Does something in the page as soon as the first token is shown: runs are too fast to be caught from outside. */
const atFirstToken = (page: Page, action: () => void): Promise<unknown> =>
  page.addInitScript((source) => {
    document.addEventListener("DOMContentLoaded", () => {
      const watch = new MutationObserver(() => {
        if (!document.querySelector("#cells .fresh")) return;
        watch.disconnect();
        new Function(`(${source})()`)();
      });
      watch.observe(document.getElementById("cells")!, { subtree: true, childList: true, attributes: true });
    });
  }, action.toString());

/** Opens the page with settings and lets its first run end. */
async function write(page: Page, settings: string): Promise<string> {
  await page.goto("about:blank");
  await page.goto(`/#${settings}`);
  return finished(page);
}

/** Gives the page a function `endWorker`, after which its last worker is as if the browser had ended it. */
const mortalWorkers = (page: Page): Promise<unknown> =>
  page.addInitScript(() => {
    const RealWorker = Worker;
    let last: Worker | null = null;
    globalThis.Worker = class extends RealWorker {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        last = this;
      }
    };
    Object.assign(globalThis, { endWorker: () => last?.dispatchEvent(new ErrorEvent("error", { message: "out of memory" })) });
  });

const endWorker = (page: Page): Promise<void> => page.evaluate(() => (globalThis as unknown as { endWorker(): void }).endWorker());

/** Opens the page with a chat model. */
async function openChat(page: Page, settings: string): Promise<void> {
  await write(page, settings);
  await expect(page.locator("#chat")).toBeHidden();
  const golden = (name: string) => fileURLToPath(new URL(`../../../tests/fixtures/golden-llm/chat/${name}`, import.meta.url));
  await page.locator("#read-as").selectOption("bd3lm");
  await page.locator("#read-block").fill("8");
  await page.locator("#files").setInputFiles(["model_bd3lm/config.json", "model_bd3lm/model.safetensors", "tokenizer.json", "tokenizer_config.json"].map(golden));
  await expect(page.locator("#chat")).toBeVisible({ timeout: 90_000 });
  await expect(page.locator("#stop")).toBeHidden({ timeout: 90_000 });
  await expect(page.locator("#chat-link")).toBeVisible();
}

/** Asks the chat model, and returns its answer. */
async function ask(page: Page, text: string): Promise<string> {
  const answers = page.locator("#chat-log .said.assistant");
  const before = await answers.count();
  await page.locator("#chat-text").fill(text);
  await page.locator("#chat-text").press("Enter");
  await expect(answers).toHaveCount(before + 1);
  await expect(page.locator("#chat-stop")).toBeHidden({ timeout: 90_000 });
  expect(await page.locator(".alert").allTextContents()).toEqual([]);
  return answers.last().locator(".body").innerText();
}

/** Does something in the page once an answer has its first blanks. */
const atFirstBlank = (page: Page, action: () => void): Promise<unknown> =>
  page.evaluate((source) => {
    const watch = new MutationObserver(() => {
      if (!document.querySelector("#chat-log .cell.masked")) return;
      watch.disconnect();
      new Function(`(${source})()`)();
    });
    watch.observe(document.getElementById("chat-log")!, { subtree: true, childList: true });
  }, action.toString());

test("it opens with the story model, writes at once, and can be scrubbed", async ({ page }, info) => {
  await page.goto("/", { waitUntil: "commit" });
  await expect(page.locator("#stop")).toBeVisible();
  await expect(page.locator("#cells .cell.fresh").first()).toBeVisible({ timeout: 90_000 });
  await info.attach("while it writes", { body: await page.screenshot(), contentType: "image/png" });
  const text = await finished(page);
  expect(text.length).toBeGreaterThan(150);
  await expect(page.locator("#known")).toHaveText("128 of 128");
  await expect(page.locator("#machine-line")).toHaveText(/^Runs on .* Weights: f32\.$/);
  await expect(page.locator("#rate")).toHaveText(/^[\d.,]+$/);
  await expect(page.locator("#origin")).toHaveText("stories, seed 3, α₀ 0.25");
  const rows = Number((await page.locator("#computed").innerText()).replace(",", ""));
  // Each token is computed as a blank and as a token, except for the last ones.
  expect(rows).toBeGreaterThan(200);
  expect(rows).toBeLessThanOrEqual(256);
  const total = Number(await page.locator("#timeline").getAttribute("max"));
  await scrub(page, 5);
  const few = (await positions(page, ".known")).length;
  expect(few).toBeGreaterThan(5);
  expect(few).toBeLessThan(80);
  await scrub(page, total);
  expect((await positions(page, ".known")).length).toBe(128);
});

test("a run that is scrubbed goes on behind the visitor’s back, and is joined again", async ({ page }) => {
  await page.goto(`/#${LONG}`);
  await expect.poll(async () => Number(await page.locator("#timeline").inputValue()), { timeout: 90_000 }).toBeGreaterThan(3);
  await scrub(page, 2);
  await expect(page.locator("#stop")).toBeHidden({ timeout: 90_000 });
  await expect(page.locator("#timeline")).toHaveValue("2");
  await page.locator("#speed").selectOption("40");
  await page.locator("#play").click();
  await expect(page.locator("#known")).toHaveText("256 of 256");
});

test("the same link gives the same text, another seed another one", async ({ page }) => {
  const link = `${SHORT}&seed=18446744073709551615&alpha0=0.25&top_k=50&top_p=0.9&min_p=0.01`;
  const first = await write(page, link);
  const second = await write(page, link);
  expect(second).toBe(first);
  expect(await write(page, link.replace("18446744073709551615", "12"))).not.toBe(first);
  await page.locator("#write").click();
  await finished(page);
  const seed = await page.evaluate(() => new URLSearchParams(location.hash.slice(1)).get("seed"));
  expect(seed).not.toBe("12");
  await expect(page.locator("#seed")).toHaveValue(seed!);
});

test("filling gaps keeps the given words", async ({ page }) => {
  await write(page, SHORT);
  await page.getByRole("button", { name: "Fill the gaps" }).click();
  await expect(page.locator("#origin")).not.toHaveText("stories, seed 3, α₀ 0.25");
  const text = await finished(page);
  const template = await page.locator("#infill").inputValue();
  const given = template.split(/ ?_+(?:\{\d+\})?/).filter((part) => part !== "");
  let from = 0;
  for (const part of given) {
    const at = text.indexOf(part, from);
    expect(at, `“${part}” in “${text}”`).toBeGreaterThanOrEqual(0);
    from = at + part.length;
  }
  const words = await positions(page, ".given");
  await scrub(page, 0);
  expect((await positions(page, ".known")).sort(byNumber)).toEqual(words.sort(byNumber));
});

test("a beginning is gone on from", async ({ page }) => {
  const text = await write(page, `${SHORT}&start=prompt&prompt=${encodeURIComponent("The little cat was")}&seed=5`);
  expect(text.startsWith("The little cat was")).toBe(true);
});

test("stopping keeps what is written, and the page writes again", async ({ page }) => {
  await atFirstToken(page, () => document.getElementById("stop")!.click());
  await page.goto(`/#${LONG}`);
  await expect(page.locator("#cells .cell.fresh").first()).toBeVisible({ timeout: 90_000 });
  await expect(page.locator("#stop")).toBeHidden();
  await page.locator("#to-end").click({ timeout: 1000 }).catch(() => undefined);
  await expect(page.locator("#caption")).toContainText("The run was stopped here.");
  expect((await positions(page, ".masked")).length).toBeGreaterThan(0);
  expect(await page.locator(".alert").count()).toBe(0);
  await page.locator("#length").fill("32");
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#known")).toHaveText("32 of 32");
});

test("starting anew in the midst of a run leaves one run", async ({ page }) => {
  await atFirstToken(page, () => {
    for (const name of ["story", "prompt", "gaps"]) document.getElementById(`preset-${name}`)!.click();
  });
  await page.goto(`/#${LONG}`);
  await expect(page.locator("#infill-field")).toBeVisible({ timeout: 90_000 });
  const text = await finished(page);
  expect(text).toContain("named Lily");
});

test("settings that do not fit get a sentence", async ({ page }) => {
  await page.goto(`/#${SHORT}&alpha0=7&schedule=sideways`);
  await expect(page.getByRole("alert")).toContainText("settings that do not fit (alpha0, schedule)");
  await expect(page.locator("#alpha0")).toHaveValue("0.25");
  await expect(page.locator("#stop")).toBeHidden({ timeout: 90_000 });
  await page.locator("#seed").fill("many");
  await page.locator("#write").click();
  await expect(page.getByRole("alert")).toContainText("The seed is not a whole number.");
  await page.locator("#seed").fill("4");
  await page.getByLabel("A text with gaps").check();
  await page.locator("#infill").fill("No gap at all.");
  await page.locator("#write").click();
  await expect(page.getByRole("alert")).toContainText("has no gap");
  await page.locator("#infill").fill("A gap ____{100000} too wide.");
  await page.locator("#write").click();
  await expect(page.getByRole("alert")).toContainText("shorten the gaps");
  await page.locator("#infill").fill("A cat ____{3} home.");
  await page.locator("#write").click();
  expect(await finished(page)).toContain(" home.");
});

test("without WebGPU the processor does it, and the page says so", async ({ baseURL }) => {
  // Without the other tests' switches, Chromium provides no adapter here.
  const browser = await chromium.launch({ executablePath: chromiumPath(), args: ["--no-sandbox", "--disable-quic", "--no-first-run"] });
  try {
    const page = await browser.newPage({ baseURL: baseURL! });
    await write(page, SHORT.replace(GPU, ""));
    await expect(page.locator("#machine-line")).toHaveText("Runs on the processor, more slowly, because WebGPU finds no graphics card here. Weights: f32.");
    await page.getByText("What runs it").click();
    await page.getByLabel("Run on", { exact: true }).selectOption("gpu");
    await page.locator("#write").click();
    await expect(page.getByRole("alert")).toContainText(/adapter|WebGPU|GPU/);
    await page.getByLabel("Run on", { exact: true }).selectOption("cpu");
    await page.locator("#write").click();
    await finished(page);
    await expect(page.locator("#machine-line")).toHaveText("Runs on the processor. Weights: f32.");
  } finally {
    await browser.close();
  }
});

test("a graphics card that does not work is left for the processor, and the page says why", async ({ page }) => {
  await page.route("**/assets/worker-*.js", async (route) => {
    const answer = await route.fetch();
    const body = `{
      const says = (field, value) => Object.defineProperty(GPUAdapterInfo.prototype, field, { get: () => value });
      says("isFallbackAdapter", false);
      says("architecture", "");
      says("description", "Card of a test");
      GPUAdapter.prototype.requestDevice = () => Promise.reject(new DOMException("not today", "OperationError"));
    }
    ${await answer.text()}`;
    await route.fulfill({ response: answer, body });
  });
  await write(page, SHORT.replace(GPU, ""));
  await expect(page.locator("#machine-line")).toHaveText(
    /^Runs on the processor, more slowly, because the graphics card \(Card of a test\) does not work here: its driver refuses a device \(.*not today.*\)\. Weights: f32\.$/,
  );
});

test("a graphics card is used and named, with numbers of 32 and of 16 bits", async ({ page }) => {
  await write(page, SHORT);
  await expect(page.locator("#machine-line")).toHaveText(/^Runs on a graphics card imitated by the processor \(.*swiftshader\) through WebGPU\. Weights: f32\.$/i);
  await page.getByText("What runs it").click();
  await page.getByLabel("Keep the model’s numbers as").selectOption("f16");
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#machine-line")).toHaveText(/swiftshader\) .* Weights: f16\.$/i);
});

test("a lost graphics device is said, and the next run loads the model again", async ({ page }) => {
  // The worker is changed to destroy its device when the page tells it to.
  await page.route("**/assets/worker-*.js", async (route) => {
    const answer = await route.fetch();
    const body = `{
      const request = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (...options) {
        const device = await request.apply(this, options);
        new BroadcastChannel("test-lose").onmessage = () => device.destroy();
        return device;
      };
    }
    ${await answer.text()}`;
    await route.fulfill({ response: answer, body });
  });
  await atFirstToken(page, () => new BroadcastChannel("test-lose").postMessage(""));
  await page.goto(`/#${LONG}`);
  await expect(page.getByRole("alert")).toContainText("Press Write or Send to load the model again.", { timeout: 60_000 });
  await page.locator("#length").fill("32");
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#known")).toHaveText("32 of 32");
});

test("a model that cannot be fetched gets a sentence; recorded runs still play", async ({ page }) => {
  await page.route("**/models/stories/model.safetensors", (route) => route.abort());
  await page.goto(`/#${SHORT}`);
  await expect(page.locator(".alert")).toBeVisible({ timeout: 60_000 });
  await choose(page, "story.jsonl", fixture("story.jsonl"));
  await expect(page.locator("#origin")).toContainText("story.jsonl");
  await page.unroute("**/models/stories/model.safetensors");
  await page.locator("#write").click();
  await finished(page);
});

test("a model that writes in blocks says so, and shows where they begin", async ({ page }) => {
  await write(page, SHORT);
  await expect(page.locator("#way-note")).toBeHidden();
  await page.locator("#files").setInputFiles(mini);
  await expect(page.locator("#model-name")).toHaveText("In use: mini_bd3lm.ckpt.");
  await finished(page);
  await expect(page.locator("#way-note")).toContainText("in blocks of 4 tokens");
  await expect(page.locator("#known")).toHaveText("8 of 8");
  expect(await positions(page, "[data-block]")).toEqual([4]);
  await expect(page.locator("#compare-run")).toBeDisabled();
  // Each token of a block is computed in each of the block's steps, and finished blocks once more.
  await page.locator("#schedule").selectOption("first-hitting");
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#computed")).toHaveText(String(7 * 4 + 4));
  // Tokens chosen by confidence are shown once they are chosen.
  await expect(page.locator("#threshold-field")).toBeHidden();
  await page.locator("#schedule").selectOption("confidence");
  await page.locator("#steps").fill("4");
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#known")).toHaveText("8 of 8");
  await expect(page.locator("#step-of")).toHaveText("Step 7 of 7");
  // A threshold that everything reaches: a block is complete after its first step, which is noticed one step later.
  await page.getByLabel("Confidence threshold").press("Home");
  await expect(page.locator("#threshold-out")).toHaveText("0");
  await page.locator("#write").click();
  await finished(page);
  expect(Number(await page.locator("#timeline").getAttribute("max"))).toBeLessThanOrEqual(4);
  await scrub(page, 1);
  expect((await positions(page, ".known")).sort(byNumber)).toEqual([0, 1, 2, 3]);
  expect(await page.evaluate(() => new URLSearchParams(location.hash.slice(1)).get("threshold"))).toBe("0");
  expect(await violations(page)).toEqual([]);
});

test("a SetDLM shows its windows, also to the keyboard and on a phone", async ({ browser, baseURL }) => {
  const context = await browser.newContext({ baseURL: baseURL!, viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, serviceWorkers: "block" });
  const page = await context.newPage();
  await write(page, SHORT);
  await expect(page.locator("#window-legend")).toBeHidden();
  const folder = "../../../tests/fixtures/golden-family/setdlm/owt_setdlm_smax8/";
  await page.locator("#files").setInputFiles(["config.json", "model.safetensors"].map((name) => fileURLToPath(new URL(folder + name, import.meta.url))));
  await finished(page);
  await expect(page.locator("#way-note")).toContainText("within a window of blanks");
  await expect(page.locator("#window-legend")).toBeVisible();
  await expect(page.locator("#known")).toHaveText("32 of 32");
  await scrub(page, 1);
  // The first masked places, starting with the second place, some of which were revealed.
  const window = await positions(page, "[data-window]");
  expect(window).toEqual(Array.from({ length: 8 }, (_, index) => index + 1));
  const fresh = await positions(page, ".fresh");
  expect(fresh.length).toBeGreaterThan(0);
  expect(fresh.every((position) => window.includes(position))).toBe(true);
  const blank = window.find((position) => !fresh.includes(position))!;
  await expect(page.locator(`#cells .cell[data-position='${blank}']`)).toHaveAccessibleName("Blank in the window, not written yet");
  await page.locator("#cells .cell[tabindex='0']").focus();
  for (let at = 0; at < blank; at += 1) await page.keyboard.press("ArrowRight");
  await expect(page.locator(`#cells .cell[data-position='${blank}']`)).toBeFocused();
  await expect(page.locator("#facts")).toContainText("A blank in this step’s window");
  await expect(page.locator("#race-run")).toBeDisabled();
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
  expect(await violations(page)).toEqual([]);
  await context.close();
});

test("a decoder is read as the visitor says", async ({ page }) => {
  await write(page, SHORT);
  const files = ["model_bd3lm/config.json", "model_bd3lm/model.safetensors", "tokenizer.json"].map((name) =>
    fileURLToPath(new URL(`../../../tests/fixtures/golden-llm/chat/${name}`, import.meta.url)),
  );
  await page.locator("#files").setInputFiles(files);
  await expect(page.locator(".alert")).toContainText("choose below what to read it as", { timeout: 60_000 });
  await expect(page.locator("#read-block")).toBeHidden();
  await page.locator("#read-as").selectOption("bd3lm");
  await page.locator("#read-block").fill("8");
  await page.locator("#files").setInputFiles(files);
  await finished(page);
  await expect(page.locator("#way-note")).toContainText("in blocks of 8 tokens");
  await page.locator("#read-as").selectOption("mdlm");
  await expect(page.locator("#read-block")).toBeHidden();
  await page.locator("#files").setInputFiles(files);
  await expect(page.locator("#way-note")).not.toContainText("in blocks of 8 tokens");
  await finished(page);
  expect(await violations(page)).toEqual([]);
});

test("a model of one’s own is used, and a broken one gets a sentence", async ({ page }) => {
  await write(page, SHORT);
  const files = ["config.json", "tokenizer.json", "model.safetensors"].map(stories);
  await page.locator("#files").setInputFiles(files);
  await expect(page.locator("#model-name")).toHaveText("In use: model.safetensors.");
  await finished(page);
  await expect(page.locator("#origin")).toContainText("model.safetensors, seed");
  const weights = readFileSync(stories("model.safetensors")).subarray(0, 100_000);
  await page.locator("#files").setInputFiles([
    { name: "config.json", mimeType: "application/json", buffer: readFileSync(stories("config.json")) },
    { name: "cut.safetensors", mimeType: "application/octet-stream", buffer: weights },
  ]);
  await expect(page.locator(".alert")).toContainText(/[.]/, { timeout: 60_000 });
  await page.getByRole("button", { name: "Back to the story model" }).click();
  await finished(page);
  await expect(page.locator("#origin")).toContainText("stories, seed");
});

test("an address that leads to no model costs neither the model in use nor the conversation", async ({ page }) => {
  await openChat(page, CPU);
  await ask(page, "What colour is the sky?");
  for (const [address, problem] of [
    ["models/none", "is not there"],
    ["hf:none", "not a name of the Hugging Face hub"],
  ] as const) {
    await load(page, address);
    await expect(page.getByRole("alert")).toContainText(problem);
    await expect(page.locator("#chat-log .said")).toHaveCount(2);
    await expect(page.locator("#model-name")).not.toContainText(address);
  }
  await ask(page, "What do bees make?");
  await expect(page.locator("#chat-log .said")).toHaveCount(4);
});

test("a run that starts while the old model is disposed of takes the new one", async ({ page }) => {
  // A worker that is not told to close is ended after a second.
  await page.addInitScript(() => {
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message: object, options?: object) {
      if (!("close" in message)) postMessage.call(this, message, options);
    };
  });
  await write(page, CPU);
  await page.locator("#files").setInputFiles(mini);
  await page.locator("#write").click();
  await expect(page.locator("#model-name")).toHaveText("In use: mini_bd3lm.ckpt.");
  await finished(page);
  await expect(page.locator("#origin")).toContainText("mini_bd3lm.ckpt, seed");
  await expect(page.locator("#way-note")).toContainText("in blocks of 4 tokens");
});

/** Loads a model from an address. */
async function load(page: Page, address: string): Promise<void> {
  await page.locator("#address").fill(address);
  await page.locator("#address").press("Enter");
}

test("an address is loaded from the cache without a network, and if it does not say how much memory it needs", async ({ page }) => {
  await write(page, CPU);
  await load(page, "models/stories");
  await expect(page.locator("#model-name")).toHaveText("In use: stories.");
  await finished(page);
  await page.route("**/models/**", (route) => route.abort());
  await load(page, "models/stories/model.safetensors");
  await expect(page.locator("#model-name")).toHaveText("In use: model.safetensors.");
  await finished(page);
  await expect(page.locator("#address-note")).toContainText("It takes about");
  await page.unrouteAll();

  await page.route("**/models/mini.ckpt", (route) => route.fulfill({ path: mini, contentType: "application/octet-stream" }));
  await load(page, "models/mini.ckpt");
  await expect(page.locator("#model-name")).toHaveText("In use: mini.ckpt.");
  await finished(page);
  await expect(page.locator("#way-note")).toContainText("in blocks of 4 tokens");
  await expect(page.locator("#address-note")).toBeEmpty();
});

test("loading an address can be stopped from the start", async ({ page }) => {
  await write(page, CPU);
  let answer: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (answer = resolve));
  await page.route("**/slow/*", async (route) => {
    await held;
    await route.fulfill({ path: stories(route.request().url().split("/").at(-1)!) }).catch(() => undefined);
  });
  await load(page, "slow/");
  await page.locator("#stop").click();
  await expect(page.locator("#stop")).toBeHidden();
  answer();
  await page.locator("#write").click();
  await finished(page);
  await expect(page.locator("#model-name")).toHaveText("The small story model is in use.");
  await expect(page.locator("#origin")).toContainText("stories, seed");
});

test("three shares side by side, and the race", async ({ page }, info) => {
  await write(page, `${SHORT}&seed=9`);
  await page.locator("#compare-run").click();
  await expect(page.locator("#compare-status")).toContainText("All with seed 9", { timeout: 90_000 });
  const steps = page.locator("#compare-lanes .lane dd:first-of-type >> nth=0");
  await expect(steps).toContainText("31 of 31");
  await page.locator("#race-run").click();
  await expect(page.locator("#race-status")).toContainText("Beside MDLM decoding, the Eso-LM is", { timeout: 90_000 });
  const words = await page.locator("#race-status").innerText();
  const shares = [...words.matchAll(/([\d,]+) positions in (\d+) steps/g)].map(([, rows, steps]) => ({ rows: Number(rows!.replace(",", "")), steps: Number(steps) }));
  const [cached, blocks, full] = shares as [(typeof shares)[0], (typeof shares)[0], (typeof shares)[0]];
  expect(words).toContain("BD3-LM, in blocks of 16 tokens:");
  // Two rows per token; every row of a block in each of its at most four steps and once more; everything in every step.
  expect(cached.rows).toBeLessThanOrEqual(64);
  expect(blocks.rows).toBe(16 * blocks.steps + 16);
  expect(blocks.steps).toBeLessThanOrEqual(8);
  expect(full.rows).toBe(32 * full.steps);
  expect(await page.locator("#race-lanes .lane h3").allTextContents()).toEqual(["Eso-LM", "BD3-LM decoding", "MDLM decoding"]);
  expect(await page.locator("#race-lanes .lane [data-block]").count()).toBe(1);
  await expect(page.locator("#race")).toContainText("Compare the times, the steps and the work, not the words");
  expect(await violations(page)).toEqual([]);
  await info.attach("compare and race", { body: await page.screenshot({ fullPage: true }), contentType: "image/png" });
  for (const width of [320, 768, 945, 1024]) {
    await page.setViewportSize({ width, height: 800 });
    expect(await page.evaluate(() => document.documentElement.scrollWidth), `${width} pixels`).toBeLessThanOrEqual(width);
    const cut = await page.locator(".lane").evaluateAll((lanes) => lanes.filter((lane) => lane.scrollWidth > lane.clientWidth).map((lane) => lane.textContent));
    expect(cut, `${width} pixels`).toEqual([]);
  }
});

test("once loaded it works without a network", async ({ browser, baseURL }) => {
  const context: BrowserContext = await browser.newContext({ baseURL: baseURL!, serviceWorkers: "allow" });
  const page = await context.newPage();
  await write(page, SHORT);
  await page.evaluate(() => navigator.serviceWorker.ready.then(() => undefined));
  await expect.poll(() => page.evaluate(async () => navigator.serviceWorker.controller !== null)).toBe(true);
  await context.setOffline(true);
  const text = await write(page, `${SHORT}&seed=21`);
  expect(text.length).toBeGreaterThan(30);
  await context.close();
});

test("a chat model gets a tab, in which blocks fill in and an answer stays", async ({ page }, info) => {
  await openChat(page, SHORT);
  // Blanks are shown while the block is being filled.
  await page.evaluate(() => {
    const seen = { blanks: 0 };
    Object.assign(window, { seen });
    new MutationObserver(() => {
      seen.blanks = Math.max(seen.blanks, document.querySelectorAll("#chat-log .cell.masked").length);
    }).observe(document.getElementById("chat-log")!, { subtree: true, childList: true });
  });
  expect(await ask(page, "What colour is the sky?")).toBe("The sky is blue.");
  expect(await page.evaluate(() => (window as unknown as { seen: { blanks: number } }).seen.blanks)).toBeGreaterThan(3);
  await expect(page.locator("#chat-status")).toHaveText(/^\d+ tokens, [\d.,]+ a second/);
  // So small a model may answer anything to a second question.
  await ask(page, "What do bees make?");
  await expect(page.locator("#chat-log .said")).toHaveCount(4);
  await page.locator("#chat").scrollIntoViewIfNeeded();
  await info.attach("the chat tab", { body: await page.locator("#chat").screenshot(), contentType: "image/png" });
  expect(await violations(page)).toEqual([]);
  await page.locator("#chat-new").click();
  await expect(page.locator("#chat-log .said")).toHaveCount(0);
  expect(await ask(page, "Where do fish live?")).toBe("Fish live in water.");
  // As on an insecure origin.
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await page.locator("#chat-log").getByRole("button", { name: "Copy" }).click();
  await expect(page.getByRole("alert")).toContainText("did not let the page copy");
});

test("an answer is followed, unless the visitor has scrolled away from it", async ({ page }) => {
  await openChat(page, CPU);
  await ask(page, "What colour is the sky?");
  const answer = page.locator("#chat-log .said.assistant .body").last();
  await expect(answer).toBeInViewport({ ratio: 1 });
  await atFirstBlank(page, () => scrollTo({ top: 0, behavior: "instant" }));
  await ask(page, "What do bees make?");
  // Not quite at the top: a smooth scroll that is under way, as to the field that is filled in, still moves the page by a few pixels.
  await expect(answer).not.toBeInViewport();
});

test("a conversation outlives its model, and loads it again", async ({ page }) => {
  await mortalWorkers(page);
  await openChat(page, CPU);
  const said = page.locator("#chat-log .said");
  const field = page.locator("#chat-text");
  await ask(page, "What colour is the sky?");
  await endWorker(page);
  await field.fill("What do bees make?");
  await page.route("**/*.wasm", (route) => route.abort());
  for (const problem of ["The worker ended", "The engine could not be fetched"]) {
    await field.press("Enter");
    await expect(page.getByRole("alert")).toContainText(problem);
    await expect(page.locator("#chat-stop")).toBeHidden();
    await expect(page.locator("#chat")).toBeVisible();
    await expect(said).toHaveCount(2);
    await expect(field).toHaveValue("What do bees make?");
  }
  await page.unrouteAll();
  await ask(page, "What do bees make?");
  await expect(said).toHaveCount(4);

  // What is typed while an answer fails stays.
  await atFirstBlank(page, () => {
    (document.getElementById("chat-text") as HTMLTextAreaElement).value = "Where do";
    (globalThis as unknown as { endWorker(): void }).endWorker();
  });
  await field.fill("Where do fish live?");
  await field.press("Enter");
  await expect(page.getByRole("alert")).toContainText("The worker ended");
  await expect(said).toHaveCount(4);
  await expect(field).toHaveValue("Where do");

  // Another model begins another conversation.
  await page.locator("#files").setInputFiles(mini);
  await expect(page.locator("#chat")).toBeHidden();
  await expect(said).toHaveCount(0);
});

test("a model that ended is loaded again by a race", async ({ page }) => {
  await mortalWorkers(page);
  await write(page, CPU);
  await endWorker(page);
  await page.locator("#race-run").click();
  await expect(page.getByRole("alert")).toContainText("The worker ended");
  await page.locator("#race-run").click();
  await expect(page.locator("#race-status")).toContainText("Beside MDLM decoding, the Eso-LM is", { timeout: 90_000 });
});
