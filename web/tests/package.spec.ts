/** The package as users get it: packed, installed, and used with a bundler, without one, and from TypeScript. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import { Server } from "./server.js";

const web = fileURLToPath(new URL("..", import.meta.url));
const npm = process.platform === "win32" ? "npm.cmd" : "npm";
let folder: string;

/** Runs a program and shows its output if it fails. */
function run(cwd: string, program: string, ...words: string[]): string {
  return execFileSync(program, words, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], shell: program.endsWith(".cmd") });
}

function write(path: string, text: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
}

/** A page's script that uses the package: loads the model, and shows a text and the device that wrote it. */
const program = (from: string): string => `
import { EsoLM } from "${from}";
const worker = new URLSearchParams(location.search).get("worker") !== "no";
try {
  const model = await EsoLM.load(new URL("/models/stories/", location.href), { worker, device: "gpu" });
  document.querySelector("#device").textContent = model.info.device.text;
  document.querySelector("#text").textContent = await model.text({ seed: 3, topP: 0.8, length: 48, steps: 8 });
  await model.dispose();
} catch (error) {
  document.querySelector("#text").textContent = "FAILED " + error.code + ": " + error.message;
}
document.body.dataset.done = "yes";
`;
const html = (script: string): string => `<!doctype html>
<meta charset="utf-8"><title>esolm</title><link rel="icon" href="data:,">
<p id="device"></p>
<p id="text"></p>
<script type="module" src="${script}"></script>
`;

test.beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), "esolm-package-")));
  run(web, npm, "pack", "--silent", "--pack-destination", folder);
  write("package.json", JSON.stringify({ name: "scratch", private: true, type: "module" }));
  run(folder, npm, "install", "--offline", "--no-audit", "--no-fund", "--silent", join(folder, "esolm-0.1.0.tgz"));
});
test.afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

const texts = new Set<string>();

async function shows(page: Page, url: string): Promise<void> {
  const problems: string[] = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  await page.goto(url);
  await expect(page.locator("body[data-done]")).toBeAttached({ timeout: 150_000 });
  const text = await page.locator("#text").textContent();
  expect(text).not.toMatch(/^FAILED|^$/);
  await expect(page.locator("#device")).not.toBeEmpty();
  expect(problems).toEqual([]);
  texts.add(text ?? "");
}

test("the package holds what it needs and nothing else", () => {
  const files = readdirSync(join(folder, "node_modules/esolm"), { recursive: true, encoding: "utf8" });
  const kinds = new Set(files.map((file) => extname(file)).filter((kind) => kind !== ""));
  expect(files).toEqual(expect.arrayContaining(["package.json", "dist/index.js", "dist/index.d.ts", "dist/worker.js", "dist/esolm_web.js", "dist/esolm_web_bg.wasm"].map((file) => join(...file.split("/")))));
  expect([...kinds].sort()).toEqual([".js", ".json", ".md", ".ts", ".wasm"]);
  expect(readdirSync(join(folder, "node_modules")).filter((name) => !name.startsWith("."))).toEqual(["esolm"]);
});

for (const worker of [true, false]) {
  const where = worker ? "in a worker" : "with worker: false";
  const query = worker ? "" : "?worker=no";

  test(`a plain page without a bundler, ${where}`, async ({ page }) => {
    // The page is in another folder than the package.
    write("plain/deep/index.html", html("./main.js"));
    write("plain/deep/main.js", program("/node_modules/esolm/dist/index.js"));
    await using server = await Server.start();
    server.folder("/plain/", join(folder, "plain")).folder("/node_modules/", join(folder, "node_modules")).folder("/models/", join(web, "../models"));
    await shows(page, server.url(`/plain/deep/${query}`));
  });

  test(`a page built by Vite, ${where}`, async ({ page }) => {
    write("vite/index.html", html("/main.js"));
    write("vite/main.js", program("esolm"));
    const vite = join(web, "node_modules/vite/bin/vite.js");
    run(join(folder, "vite"), process.execPath, vite, "build", "--base", "./", "--logLevel", "warn", "--target", "es2022");
    const assets = readdirSync(join(folder, "vite/dist/assets"));
    // The module is included only once, although both the page and the worker refer to it.
    expect(assets.filter((name) => name.endsWith(".wasm")).length).toBe(1);
    await using server = await Server.start();
    server.folder("/some/where/", join(folder, "vite/dist")).folder("/models/", join(web, "../models"));
    await shows(page, server.url(`/some/where/${query}`));
  });
}

test("all of them wrote the same text", () => {
  expect(texts.size).toBe(1);
});

test("a strict compiler accepts its types", () => {
  write(
    "types/main.ts",
    `import { EsoLM, EsoLMError, type ErrorCode, type Generation, type Step } from "esolm";
import init, { version } from "esolm/wasm";
export async function write(files: FileList): Promise<string> {
  await using model = await EsoLM.load(files, { kvCache: "f16", onProgress: ({ loaded }) => console.log(loaded) });
  const generation: Generation = model.generate({ prompt: "a", seed: 1n });
  const steps: Step[] = [];
  for await (const step of generation) steps.push(step);
  try {
    return (await generation.result).text[0] ?? "";
  } catch (error) {
    const code: ErrorCode | null = error instanceof EsoLMError ? error.code : null;
    return String(code);
  }
}
export const worker = (): Worker => new Worker(new URL("esolm/worker", import.meta.url), { type: "module" });
export { init, version };
`,
  );
  const tsc = join(web, "node_modules/typescript/bin/tsc");
  for (const [module, resolution] of [["ESNext", "Bundler"], ["NodeNext", "NodeNext"]] as const) {
    const config = {
      compilerOptions: { strict: true, noEmit: true, target: "ES2022", lib: ["ES2022", "DOM", "DOM.Iterable"], module, moduleResolution: resolution, skipLibCheck: false, types: [], exactOptionalPropertyTypes: true },
      files: ["main.ts"],
    };
    write("types/tsconfig.json", JSON.stringify(config));
    write("types/package.json", JSON.stringify({ type: "module" }));
    run(join(folder, "types"), process.execPath, tsc, "-p", ".");
  }
});
