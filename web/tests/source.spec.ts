/** What callers may pass as a model, and what the engine reads of it. */

import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import { Server } from "./server.js";

const dist = fileURLToPath(new URL("../dist/", import.meta.url));
let server: Server;

test.beforeEach(async ({ page }) => {
  server = await Server.start();
  server.folder("/dist/", dist);
  server
    .text("/models/stories/config.json", "application/json", '{"model_type":"EsoLM"}')
    .text("/models/stories/tokenizer.json", "application/json", '{"version":"1.0"}')
    .on("/models/stories/model.safetensors", (_, response) => void response.writeHead(200, { "content-length": 1000 }).end(Buffer.alloc(1000, 7)))
    .text("/models/bare/config.json", "application/json", "{}")
    .on("/models/bare/model.safetensors", (_, response) => void response.writeHead(200, { "content-length": 10 }).end(Buffer.alloc(10)));
  await page.goto(server.url("/"));
});
test.afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

/** The parts of a source, which only a page can create, with blobs represented by their size. */
function pieces(page: Page, make: string, base = "https://site.test/app/"): Promise<unknown> {
  return page.evaluate(
    async ([make, base]) => {
      const module = "/dist/source.js";
      const { piecesOf } = (await import(module)) as typeof import("../src/source.js");
      const source = new Function(`return (${make});`)() as Parameters<typeof piecesOf>[0];
      try {
        return JSON.parse(JSON.stringify(piecesOf(source, base), (_, value: unknown) => (value instanceof Blob ? `${value.size} bytes` : value))) as unknown;
      } catch (thrown) {
        const { code, message } = thrown as { code: string; message: string };
        return { code, message };
      }
    },
    [make, base] as const,
  );
}

test("addresses of folders and files", async ({ page }) => {
  const stories = {
    config: { url: "https://site.test/app/models/stories/config.json", optional: false },
    tokenizer: { url: "https://site.test/app/models/stories/tokenizer.json", optional: true },
    generation: { url: "https://site.test/app/models/stories/generation_config.json", optional: true },
    tokenizerConfig: { url: "https://site.test/app/models/stories/tokenizer_config.json", optional: true },
    chatTemplate: { url: "https://site.test/app/models/stories/chat_template.jinja", optional: true },
    weights: {
      url: "https://site.test/app/models/stories/model.safetensors",
      orIndex: "https://site.test/app/models/stories/model.safetensors.index.json",
    },
    file: "model.safetensors",
    name: "stories",
  };
  expect(await pieces(page, '"models/stories"')).toEqual(stories);
  expect(await pieces(page, '"models/stories/"')).toEqual(stories);
  const { url } = stories.weights;
  expect(await pieces(page, 'new URL("https://site.test/app/models/stories/model.safetensors")')).toEqual({ ...stories, weights: { url } });
  expect(await pieces(page, '"models/stories/model.safetensors.index.json"')).toEqual({
    ...stories,
    weights: { index: `${url}.index.json` },
    file: "model.safetensors.index.json",
  });
  const hub = "https://huggingface.co/owner/some-model/resolve";
  for (const [source, revision] of [
    ["hf:owner/some-model", "main"],
    ["hf:owner/some-model@refs/pr/3", "refs%2Fpr%2F3"],
    ["https://huggingface.co/owner/some-model", "main"],
    ["https://huggingface.co/owner/some-model/tree/v2/", "v2"],
  ]) {
    expect(await pieces(page, JSON.stringify(source))).toMatchObject({ config: { url: `${hub}/${revision}/config.json` }, name: "some-model", file: "model.safetensors" });
  }
  expect(await pieces(page, '"hf:some-model"')).toMatchObject({ code: "option", message: expect.stringContaining("hf:owner/name") });
  // A signature is valid only for the file it came with.
  expect(await pieces(page, '"/a/b/small.safetensors?sig=1"')).toEqual({
    config: { url: "https://site.test/a/b/config.json", optional: false },
    tokenizer: { url: "https://site.test/a/b/tokenizer.json", optional: true },
    generation: { url: "https://site.test/a/b/generation_config.json", optional: true },
    tokenizerConfig: { url: "https://site.test/a/b/tokenizer_config.json", optional: true },
    chatTemplate: { url: "https://site.test/a/b/chat_template.jinja", optional: true },
    weights: { url: "https://site.test/a/b/small.safetensors?sig=1" },
    file: "small.safetensors",
    name: "small",
  });
  expect(await pieces(page, '"https://cdn.test/runs/last.ckpt"')).toEqual({
    config: null,
    tokenizer: null,
    generation: null,
    tokenizerConfig: null,
    chatTemplate: null,
    weights: { url: "https://cdn.test/runs/last.ckpt" },
    file: "last.ckpt",
    name: "last",
  });
  expect(await pieces(page, '"https://huggingface.co/owner/some-model/resolve/main/"')).toMatchObject({ name: "some-model" });
  expect(await pieces(page, '"http://[bad/"')).toMatchObject({ code: "option", message: expect.stringMatching(/is not an address; give a URL/) });
});

test("dropped files", async ({ page }) => {
  const file = (name: string, size = 4): string => `new File([new Uint8Array(${size})], ${JSON.stringify(name)})`;
  expect(await pieces(page, `[${file("tokenizer.json", 3)}, ${file("README.md")}, ${file("small.safetensors", 9)}, ${file("config.json", 2)}]`)).toEqual({
    config: { blob: "2 bytes" },
    tokenizer: { blob: "3 bytes" },
    generation: null,
    tokenizerConfig: null,
    chatTemplate: null,
    weights: { blob: "9 bytes" },
    file: "small.safetensors",
    name: "small",
  });
  expect(await pieces(page, `[${file("last.CKPT", 5)}]`)).toMatchObject({ config: null, tokenizer: null, weights: { blob: "5 bytes" }, name: "last" });
  expect(await pieces(page, "[]")).toMatchObject({ code: "checkpoint", message: expect.stringContaining("No weights are among the files") });
  expect(await pieces(page, `[${file("model.safetensors")}]`)).toMatchObject({ code: "checkpoint", message: expect.stringContaining("config.json") });
  expect(await pieces(page, `[${file("a.safetensors")}, ${file("b.ckpt")}]`)).toMatchObject({
    code: "checkpoint",
    message:
      "a.safetensors and b.ckpt are both weights; give the files of one model, and of weights in several files also the model.safetensors.index.json that names them.",
  });
  const shards = `${file("a.safetensors")}, ${file("b.safetensors")}, ${file("model.safetensors.index.json", 7)}`;
  expect(await pieces(page, `[${shards}, ${file("config.json", 2)}]`)).toMatchObject({
    weights: { index: "7 bytes", files: ["4 bytes", "4 bytes"] },
    file: "model.safetensors.index.json",
    name: "model",
  });
  expect(await pieces(page, `[${shards}]`)).toMatchObject({ code: "checkpoint", message: expect.stringContaining("without its config.json") });
  expect(await pieces(page, `[${shards}, ${file("c.ckpt")}]`)).toMatchObject({
    code: "checkpoint",
    message: expect.stringMatching(/^model\.safetensors\.index\.json and c\.ckpt are both weights/),
  });

  await page.setContent('<input type="file" multiple>');
  await page.setInputFiles("input", [
    { name: "config.json", mimeType: "application/json", buffer: Buffer.from("{}") },
    { name: "model.safetensors", mimeType: "", buffer: Buffer.alloc(8) },
  ]);
  expect(await pieces(page, 'document.querySelector("input").files')).toMatchObject({ config: { blob: "2 bytes" }, weights: { blob: "8 bytes" } });
});

test("each file on its own", async ({ page }) => {
  expect(await pieces(page, '{ config: { a: 1 }, tokenizer: new Blob(["abc"]), weights: new Uint8Array(6) }')).toEqual({
    config: { text: '{"a":1}' },
    tokenizer: { blob: "3 bytes" },
    generation: null,
    tokenizerConfig: null,
    chatTemplate: null,
    weights: { blob: "6 bytes" },
    file: "weights",
    name: "weights",
  });
  expect(await pieces(page, '{ config: "c.json", weights: new URL("https://cdn.test/w.safetensors") }')).toMatchObject({
    config: { url: "https://site.test/app/c.json", optional: false },
    weights: { url: "https://cdn.test/w.safetensors" },
  });
  expect(await pieces(page, "{ weights: new ArrayBuffer(5) }")).toMatchObject({ weights: { blob: "5 bytes" } });
  expect(await pieces(page, "{ weights: 5 }")).toMatchObject({ code: "option" });
  expect(await pieces(page, "{ config: {} }")).toMatchObject({ code: "option" });
  expect(await pieces(page, "null")).toMatchObject({ code: "option" });
});

/** Opens a source in the page and reads its weights in steps. */
function opened(page: Page, make: string, hash?: string): Promise<unknown> {
  return page.evaluate(
    async ([make, hash]) => {
      const module = "/dist/source.js";
      const { open, piecesOf } = (await import(module)) as typeof import("../src/source.js");
      const given = new Function(`return (${make});`)() as Parameters<typeof piecesOf>[0];
      const progress: string[] = [];
      try {
        const { weights, ...texts } = await open(piecesOf(given, location.href), {
          cache: true,
          ...(hash === undefined ? {} : { hash }),
          signal: new AbortController().signal,
          onProgress: ({ phase, file, loaded, total }) => progress.push(`${phase} ${file} ${loaded}/${total}`),
          shardNames: () => Promise.reject(new Error("the weights are in one file")),
        });
        if ("index" in weights) return weights;
        const head = await weights.read(0, 8);
        const tail = await weights.read(8, weights.size);
        return { ...texts, size: weights.size, read: [head.length, tail.length, tail[0]], progress };
      } catch (thrown) {
        const { code, message } = thrown as { code: string; message: string };
        return { code, message };
      }
    },
    [make, hash] as const,
  );
}

test("a folder is downloaded and read in pieces", async ({ page }) => {
  expect(await opened(page, '"models/stories"')).toEqual({
    config: '{"model_type":"EsoLM"}',
    tokenizer: '{"version":"1.0"}',
    size: 1000,
    read: [8, 992, 7],
    progress: expect.arrayContaining([
      "download config.json 22/22",
      "download tokenizer.json 17/17",
      "download model.safetensors 1000/1000",
      "load model.safetensors 0/1000",
    ]),
  });
});

test("files that nobody named may be missing, with or without a network; any other file may not", async ({ page }) => {
  const bare = { config: "{}", size: 10, read: [8, 2, 0], progress: expect.anything() };
  expect(await opened(page, '"models/bare"')).toEqual(bare);
  for (const name of ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"]) {
    server.on(`/models/bare/${name}`, (_, response) => void response.destroy());
  }
  expect(await opened(page, '"models/bare"')).toEqual(bare);

  for (const name of ["tokenizer", "generation", "tokenizerConfig", "chatTemplate"]) {
    expect(await opened(page, `{ config: {}, ${name}: "none.json", weights: new Blob([]) }`), name).toMatchObject({
      code: "network",
      message: expect.stringMatching(/^none\.json is not there/),
    });
  }
  expect(await opened(page, '"models/none"')).toMatchObject({ code: "network", message: expect.stringMatching(/^config\.json is not there/) });
});

test("a file that nobody named is not taken for missing where only its connections break", async ({ page }) => {
  server.on("/models/stories/tokenizer.json", (_, response) => void response.destroy());
  // The second time the configuration is in the cache.
  for (let time = 0; time < 2; time++) {
    expect(await opened(page, '"models/stories"')).toMatchObject({ code: "network", message: expect.stringMatching(/^tokenizer\.json could not be downloaded/) });
  }
  expect(await opened(page, '{ config: {}, weights: "models/stories/model.safetensors" }')).toMatchObject({ size: 1000 });
});

test("a server in trouble is not taken for one that lacks a file", async ({ page }) => {
  const decoder = '{"num_attention_heads":2}';
  server
    .text("/models/chat/config.json", "application/json", decoder)
    .on("/models/chat/model.safetensors", (_, response) => void response.writeHead(200, { "content-length": 10 }).end(Buffer.alloc(10)));
  for (const name of ["tokenizer.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"]) {
    for (const status of [429, 500, 503]) {
      server.on(`/models/chat/${name}`, (_, response) => void response.writeHead(status).end());
      expect(await opened(page, '"models/chat"'), `${name}: ${status}`).toMatchObject({ code: "network", message: expect.stringContaining(`answered ${status}`) });
    }
    // Some stores answer so for what does not exist.
    server.on(`/models/chat/${name}`, (_, response) => void response.writeHead(403).end());
    expect(await opened(page, '"models/chat"'), name).toMatchObject({ config: decoder, size: 10 });
  }
});

test("a named chat template is read whatever the configuration says, and others only for decoders", async ({ page }) => {
  server.text("/named.json", "application/json", '{"eos_token":"x"}').text("/named.jinja", "text/plain", "{{ messages }}");
  expect(await opened(page, '{ config: {}, tokenizerConfig: "named.json", chatTemplate: "named.jinja", weights: new Blob([]) }')).toMatchObject({
    tokenizerConfig: '{"eos_token":"x"}',
    chatTemplate: "{{ messages }}",
  });
  await opened(page, '"models/bare"');
  expect(server.log.filter((line) => /tokenizer_config|chat_template/.test(line))).toEqual([]);
});

test("a hash is held against files too, and must be one", async ({ page }) => {
  const good = "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
  expect(await opened(page, '{ weights: new Blob(["hello"]) }', good)).toMatchObject({ size: 5 });
  expect(await opened(page, '{ weights: new Blob(["hellO"]) }', good)).toMatchObject({ code: "hash" });
  expect(await opened(page, '{ weights: new Blob(["hello"]) }', "md5-12")).toMatchObject({ code: "option" });
});

test("a file that cannot be read any more is named", async ({ page }) => {
  const outcome = await page.evaluate(async () => {
    const module = "/dist/source.js";
    const { open, piecesOf } = (await import(module)) as typeof import("../src/source.js");
    const file = new File([new Uint8Array(8)], "gone.safetensors");
    const source = await open(piecesOf({ weights: file }, location.href), { cache: true, signal: new AbortController().signal, onProgress: () => undefined, shardNames: () => Promise.resolve([]) });
    if ("index" in source.weights) return null;
    const { read } = source.weights;
    Blob.prototype.arrayBuffer = () => Promise.reject(new DOMException("The requested file could not be read.", "NotReadableError"));
    return read(0, 8).then(
      () => null,
      (thrown: { code: string; message: string }) => ({ code: thrown.code, message: thrown.message }),
    );
  });
  expect(outcome).toEqual({
    code: "storage",
    message: expect.stringMatching(/^gone\.safetensors can no longer be read .*choose or load it again\.$/),
  });
});
