/** Weights in several files with the real engine: from a folder's URL and from dropped files, valid and invalid. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import { Server } from "./server.js";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const model = (name: string): Buffer => readFileSync(at(`../../models/stories/${name}`));
const INDEX = "model.safetensors.index.json";
const shardName = (number: number): string => `model-0000${number + 1}-of-00003.safetensors`;

/** The weights of the model that ships, in three files and their index. */
const { index, shards } = (() => {
  const bytes = model("model.safetensors");
  const data = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, data)) as Record<string, { data_offsets: [number, number] }>;
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  const weight_map: Record<string, string> = {};
  const shards = new Map<string, Buffer>();
  for (const number of [0, 1, 2]) {
    const own = names.filter((_, place) => place % 3 === number);
    const parts: Buffer[] = [];
    let length = 0;
    const entries = own.map((name) => {
      const entry = header[name]!;
      const part = bytes.subarray(data + entry.data_offsets[0], data + entry.data_offsets[1]);
      parts.push(part);
      length += part.length;
      weight_map[name] = shardName(number);
      return [name, { ...entry, data_offsets: [length - part.length, length] }] as const;
    });
    const text = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(text.length));
    shards.set(shardName(number), Buffer.concat([size, text, ...parts]));
  }
  return { index: JSON.stringify({ metadata: { total_size: bytes.length - data }, weight_map }), shards };
})();
const second = shardName(1);

let server: Server;
let files: Map<string, Buffer>;

test.beforeEach(async ({ page }) => {
  server = await Server.start();
  server.folder("/dist/", at("../dist/")).folder("/models/", at("../../models/"));
  files = new Map([["config.json", model("config.json")], ["tokenizer.json", model("tokenizer.json")], ["generation_config.json", model("generation_config.json")], [INDEX, Buffer.from(index)], ...shards]);
  await page.goto(server.url("/"));
});
test.afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

/** Serves the files at `/sharded/`. */
function serve(): void {
  for (const [name, body] of files) {
    server.on(`/sharded/${name}`, (_, response) => void response.writeHead(200, { "content-length": body.length, etag: `"${name}"` }).end(body));
  }
}

interface Outcome {
  text: string;
  name: string;
  /** Bytes of all weight files. */
  fileBytes: number;
  /** Bytes of the module's memory after the model is loaded. */
  wasmBytes: number;
  /** Files that were downloaded or taken from the cache. */
  downloads: string[];
  /** The last progress report of reading. */
  loaded: [number, number | null];
}

/** Loads a source, given as an expression that the page evaluates, and writes a text; or returns why it cannot. */
function load(page: Page, source: string, options: object = {}): Promise<Outcome | string> {
  return page.evaluate(
    async ([source, options]) => {
      const path = "/dist/index.js";
      const { EsoLM } = (await import(path)) as typeof import("../src/index.js");
      const downloads = new Set<string>();
      let loaded: [number, number | null] = [0, null];
      try {
        const given = new Function(`return (${source});`)() as Parameters<typeof EsoLM.load>[0];
        const model = await EsoLM.load(given, {
          device: "cpu",
          ...options,
          onProgress: (progress) => {
            if (progress.phase === "download") downloads.add(`${progress.file}${progress.fromCache ? " (kept)" : ""}`);
            if (progress.phase === "load") loaded = [progress.loaded, progress.total];
          },
        });
        const wasmBytes = await model.wasmBytes();
        const text = await model.text({ seed: 3, topP: 0.8, length: 48, steps: 8 });
        const header = await model.plan();
        const { file_bytes: fileBytes } = model.info;
        await model.dispose();
        return { text, name: header.model, fileBytes, wasmBytes, downloads: [...downloads], loaded };
      } catch (thrown) {
        const { code, message } = thrown as { code: string; message: string };
        return `${code}: ${message}`;
      }
    },
    [source, options] as const,
  );
}

const isOutcome = (outcome: Outcome | string): Outcome => {
  if (typeof outcome === "string") throw new Error(outcome);
  return outcome;
};

test("a folder's shards are downloaded, kept, and read a block at a time", async ({ page }) => {
  serve();
  const whole = isOutcome(await load(page, '"/models/stories"'));
  const bytes = [...shards.values()].reduce((sum, shard) => sum + shard.length, 0);
  const first = isOutcome(await load(page, '"/sharded/"'));
  expect(first).toMatchObject({ text: whole.text, name: "sharded", fileBytes: bytes, loaded: [bytes, bytes] });
  expect(first.downloads).toEqual(expect.arrayContaining([INDEX, ...shards.keys()]));
  // The module's memory is divided up otherwise, which costs a little, but far less than the 9 MB of all shards.
  expect(first.wasmBytes).toBeLessThanOrEqual(whole.wasmBytes + (2 << 20));

  // The next visit takes them from the cache, even when the server is gone.
  for (const name of [...files.keys(), "model.safetensors"]) server.on(`/sharded/${name}`, (_, response) => void response.destroy());
  const again = isOutcome(await load(page, '"/sharded/"'));
  expect(again).toMatchObject({ text: whole.text, name: "sharded" });
  expect(again.downloads).toEqual(expect.arrayContaining([...shards.keys()].map((name) => `${name} (kept)`)));
  serve();

  const hash = Object.fromEntries([...shards].map(([name, shard]) => [name, `sha256-${createHash("sha256").update(shard).digest("hex")}`]));
  expect(isOutcome(await load(page, `{ config: "/sharded/config.json", weights: "/sharded/${INDEX}" }`, { hash })).fileBytes).toBe(bytes);
  expect(await load(page, '"/sharded/"', { hash: { ...hash, [second]: hash[shardName(0)] } })).toMatch(new RegExp(`^hash: ${second} `));
  expect(await load(page, '"/sharded/"', { hash: hash[second] })).toMatch(/^option: hash is one value, but the weights are in 3 files/);
  expect(await load(page, '"/sharded/"', { hash: { none: hash[second] } })).toMatch(/^option: hash names "none", but the weights are model-00001/);
});

test("shards that are dropped together with their index", async ({ page }) => {
  await page.setContent('<input type="file" multiple>');
  const drop = (): Promise<void> =>
    page.setInputFiles("input", [...files].map(([name, buffer]) => ({ name, mimeType: "", buffer })));
  const dropped = 'document.querySelector("input").files';
  await drop();
  const whole = isOutcome(await load(page, '"/models/stories"'));
  expect(isOutcome(await load(page, dropped))).toMatchObject({ text: whole.text, name: "model", downloads: [] });
  files.delete(second);
  await drop();
  expect(await load(page, dropped)).toBe(`checkpoint: ${second} is named by ${INDEX} but not among the files; give all files of the model together.`);
  files.delete(INDEX);
  await drop();
  expect(await load(page, dropped)).toMatch(/^checkpoint: model-00001-of-00003\.safetensors and model-00003.* are both weights; .*model\.safetensors\.index\.json/);
});

test("what is wrong with shards is said", async ({ page }) => {
  const said = async (edit: () => void): Promise<unknown> => {
    files.set(INDEX, Buffer.from(index)).set(second, shards.get(second)!);
    edit();
    serve();
    return load(page, '"/sharded/"', { cache: false });
  };
  const index_of = (name: string): Buffer => Buffer.from(JSON.stringify({ weight_map: { a: name } }));
  expect(await said(() => files.set(second, shards.get(second)!.subarray(0, 90_000)))).toMatch(
    new RegExp(`^checkpoint: ${second}: .*truncated; download or convert it again`),
  );
  expect(await said(() => files.set(second, shards.get(shardName(0))!))).toMatch(
    new RegExp(`^checkpoint: ${INDEX.replaceAll(".", "\\.")}: ${second} .*tensor .*; download the folder again`),
  );
  for (const name of ["../x.safetensors", "/x", "https://other.test/x", "a/b", "..", "a\\b", ""]) {
    expect(await said(() => files.set(INDEX, index_of(name)))).toMatch(/^checkpoint: model\.safetensors\.index\.json: it names ".*", which is not a file beside it/);
  }
  expect(await said(() => files.set(INDEX, Buffer.from("[]")))).toMatch(/^checkpoint: model\.safetensors\.index\.json: /);
  expect(await said(() => files.set(INDEX, index_of("none?x#y.safetensors")))).toMatch(/^network: none.*y\.safetensors is not there/);
  expect(server.log.filter((line) => line.includes("none"))).toContain("GET /sharded/none?x#y.safetensors");
  // The page requests nothing from its own server except the folder.
  expect(server.log.filter((line) => !/^(GET|HEAD) \/(sharded|dist|favicon\.ico|$)/.test(line))).toEqual([]);
});
