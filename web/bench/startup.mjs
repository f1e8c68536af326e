// Time from the page to the first step of a model, with nothing kept and with everything kept, and what memory it takes: the package
// from web/dist, as a page without a bundler uses it. node startup.mjs [--hardware] [--rounds N]
import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const { values } = parseArgs({ options: { hardware: { type: "boolean" }, rounds: { type: "string", default: "3" } } });
const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
const FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const GPU = values.hardware ? ["--enable-features=Vulkan"] : ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/") {
    response.writeHead(200, { "content-type": "text/html" }).end('<!doctype html><title>startup</title><link rel="icon" href="data:,">');
    return;
  }
  const file = path.join(root, path.join("/", pathname));
  try {
    const body = await readFile(file);
    response.writeHead(200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream", "cache-control": "max-age=3600" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://localhost:${server.address().port}/`;

async function visit(context, device) {
  const page = await context.newPage();
  await page.goto(url);
  const result = await page.evaluate(async (device) => {
    const began = performance.now();
    const { EsoLM } = await import("/web/dist/index.js");
    const model = await EsoLM.load("/models/stories/", { device });
    const loaded = performance.now();
    const generation = model.generate({ seed: 3, topP: 0.8, steps: 64 });
    let first = 0;
    let steps = 0;
    for await (const _ of generation) {
      if (steps === 0) first = performance.now();
      steps += 1;
    }
    const ended = performance.now();
    const [deviceBytes, wasmBytes] = [await model.deviceBytes(), await model.wasmBytes()];
    await model.dispose();
    return { loaded: loaded - began, first: first - began, step: (ended - first) / (steps - 1), steps, deviceBytes, wasmBytes };
  }, device);
  await page.close();
  return result;
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const rows = [];
for (const device of ["cpu", "gpu"]) {
  const visits = { cold: [], warm: [] };
  for (let round = 0; round < Number(values.rounds); round += 1) {
    const profile = mkdtempSync(path.join(tmpdir(), "esolm-startup-"));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.ESOLM_CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      args: [...FLAGS, ...GPU],
      ignoreDefaultArgs: ["--disable-gpu", "--use-angle=swiftshader-webgl", "--enable-unsafe-swiftshader"],
    });
    visits.cold.push(await visit(context, device));
    visits.warm.push(await visit(context, device));
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
  for (const [kind, all] of Object.entries(visits)) {
    const of = (field) => median(all.map((one) => one[field]));
    rows.push({ device, kind, loaded: of("loaded"), first: of("first"), step: of("step"), steps: all[0].steps, deviceBytes: of("deviceBytes"), wasmBytes: of("wasmBytes") });
  }
}
server.close();
console.log("| device | cache | model loaded, ms | first step, ms | ms a step | GPU memory, MB | wasm memory, MB |\n|---|---|---|---|---|---|---|");
for (const row of rows) {
  const mb = (bytes) => (bytes / 1e6).toFixed(1);
  console.log(`| ${row.device} | ${row.kind} | ${row.loaded.toFixed(0)} | ${row.first.toFixed(0)} | ${row.step.toFixed(1)} | ${mb(row.deviceBytes)} | ${mb(row.wasmBytes)} |`);
}
