/** Downloading: progress, resuming, the cache, hashes, and servers that misbehave. */

import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { expect, test, type Page } from "@playwright/test";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Server } from "./server.js";

const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const MB = 1024 * 1024;
/** More than two cache parts, so that resuming has something to continue from. */
const file = Buffer.alloc(20 * MB + 320);
for (let at = 0; at < file.length; at += 4) file.writeInt32LE(Math.imul(at, 0x9e3779b1), at);
const sha256 = createHash("sha256").update(file).digest("hex");

let server: Server;

test.beforeEach(async ({ page }) => {
  server = await Server.start();
  server.folder("/dist/", dist);
  await page.goto(server.url("/"));
});
test.afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

interface Outcome {
  size: number;
  sha256: string;
  /** `[loaded, total, fromCache]` */
  progress: [number, number | null, boolean][];
  error: { name: string; code: string | null; message: string } | null;
}

interface Wish {
  path: string;
  cache?: boolean;
  ranges?: boolean;
  sha256?: string;
  /** Aborts when this many bytes have arrived. */
  abortAt?: number;
}

/** Runs the package's `download` in the page. */
async function get(page: Page, wish: Wish): Promise<Outcome> {
  return page.evaluate(async (wish) => {
    const module = "/dist/download.js";
    const { download } = (await import(module)) as typeof import("../src/download.js");
    const abort = new AbortController();
    const outcome: Outcome = { size: 0, sha256: "", progress: [], error: null };
    try {
      const blob = await download(new URL(wish.path, location.href).href, {
        cache: wish.cache ?? true,
        ranges: wish.ranges ?? true,
        ...(wish.sha256 === undefined ? {} : { sha256: wish.sha256 }),
        signal: abort.signal,
        onProgress: (loaded, total, fromCache) => {
          outcome.progress.push([loaded, total, fromCache]);
          if (wish.abortAt !== undefined && loaded >= wish.abortAt) abort.abort();
        },
      });
      outcome.size = blob.size;
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
      outcome.sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    } catch (thrown) {
      const error = thrown as { name: string; code?: unknown; message: string };
      outcome.error = { name: error.name, code: typeof error.code === "string" ? error.code : null, message: error.message };
    }
    return outcome;
  }, wish);
}

interface Manner {
  /** Whether the server supports ranges. */
  ranges?: boolean;
  etag?: string;
  lastModified?: string;
  /** The status with which the server refuses `HEAD`. */
  head?: number;
  /** Cuts the connection after this many bytes of a response, once per entry. */
  cuts?: number[];
  /** Slows down, so that something can happen meanwhile. */
  slow?: boolean;
  body?: Buffer;
}

/** Serves a file at `path` and returns the method and range of each request. */
function serve(path: string, manner: Manner): string[] {
  const asked: string[] = [];
  const cuts = [...(manner.cuts ?? [])];
  server.on(path, async (request: IncomingMessage, response: ServerResponse) => {
    const body = manner.body ?? file;
    const range = request.headers.range;
    asked.push(`${request.method} ${range ?? "all"}`);
    const start = manner.ranges && range ? Number(/^bytes=(\d+)-$/.exec(range)![1]) : 0;
    const headers: Record<string, string | number> = { "content-type": "application/octet-stream" };
    if (manner.etag) headers["etag"] = manner.etag;
    if (manner.lastModified) headers["last-modified"] = manner.lastModified;
    if (manner.head && request.method === "HEAD") {
      response.writeHead(manner.head).end();
      return;
    }
    if (manner.ranges && range && start >= body.length) {
      response.writeHead(416, { "content-range": `bytes */${body.length}` }).end();
      return;
    }
    headers["content-length"] = body.length - start;
    if (manner.ranges && range) headers["content-range"] = `bytes ${start}-${body.length - 1}/${body.length}`;
    response.writeHead(manner.ranges && range ? 206 : 200, headers);
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    const closed = new Promise((resolve) => response.once("close", resolve));
    const cut = cuts.shift();
    const end = cut === undefined ? body.length : Math.min(body.length, start + cut);
    for (let at = start; at < end; at += MB) {
      if (response.destroyed) return;
      if (!response.write(body.subarray(at, Math.min(end, at + MB)))) {
        await Promise.race([new Promise((resolve) => response.once("drain", resolve)), closed]);
      }
      if (manner.slow) await new Promise((resolve) => setTimeout(resolve, 60));
    }
    if (cut === undefined) response.end();
    // Closed, not reset: a reset would discard what the browser has received but not yet passed on.
    else response.socket?.end();
  });
  return asked;
}

test("a download tells how far it is, and is whole", async ({ page }) => {
  serve("/file", { ranges: true, etag: '"1"', slow: true });
  const outcome = await get(page, { path: "/file", sha256 });
  expect(outcome.error).toBeNull();
  expect(outcome.size).toBe(file.length);
  expect(outcome.sha256).toBe(sha256);
  expect(outcome.progress.length).toBeGreaterThan(5);
  const loaded = outcome.progress.map(([bytes]) => bytes);
  expect(loaded).toEqual([...loaded].sort((a, b) => a - b));
  expect(outcome.progress.every(([, total, fromCache]) => total === file.length && !fromCache)).toBe(true);
  expect(loaded.at(-1)).toBe(file.length);
});

for (const cache of [true, false]) {
  const where = cache ? "in the cache" : "in memory";

  test(`a cut connection is resumed where it broke, ${where}`, async ({ page }) => {
    const asked = serve("/file", { ranges: true, etag: '"1"', cuts: [9 * MB, 3 * MB] });
    const outcome = await get(page, { path: "/file", cache, sha256 });
    expect(outcome.error).toBeNull();
    expect(outcome.sha256).toBe(sha256);
    const starts = asked.map((line) => Number(/bytes=(\d+)-/.exec(line)![1]));
    expect(starts[0]).toBe(0);
    expect(starts.length).toBe(3);
    // What had arrived is not requested again; a cut may lose what was still in flight.
    expect(starts[1]).toBeGreaterThan(6 * MB);
    expect(starts[2]).toBeGreaterThan(starts[1]!);
  });

  test(`a cut connection of a server without ranges is begun again, ${where}`, async ({ page }) => {
    const asked = serve("/file", { ranges: false, cuts: [9 * MB, 15 * MB] });
    const outcome = await get(page, { path: "/file", cache, sha256 });
    expect(outcome.error).toBeNull();
    expect(outcome.sha256).toBe(sha256);
    expect(asked.length).toBe(3);
  });
}

test("a server that always cuts is given up with a sentence", async ({ page }) => {
  serve("/file", { ranges: false, cuts: Array<number>(20).fill(5 * MB) });
  const outcome = await get(page, { path: "/file" });
  expect(outcome.error?.code).toBe("network");
  expect(outcome.error?.message).toMatch(/^file could not be downloaded .*check the network and the address http.*\.$/);
});

test("an aborted download rejects with the signal's reason and goes on later, in another page too", async ({ page, context }) => {
  const asked = serve("/file", { ranges: true, etag: '"1"', slow: true });
  const first = await get(page, { path: "/file", abortAt: 10 * MB });
  expect(first.error?.name).toBe("AbortError");
  const later = await context.newPage();
  await later.goto(server.url("/"));
  const second = await get(later, { path: "/file", sha256 });
  expect(second.error).toBeNull();
  expect(second.sha256).toBe(sha256);
  expect(Number(/bytes=(\d+)-/.exec(asked.at(-1)!)![1])).toBeGreaterThanOrEqual(8 * MB);
});

test("parts of another version are not put together", async ({ page }) => {
  serve("/file", { ranges: true, etag: '"1"', slow: true });
  await get(page, { path: "/file", abortAt: 10 * MB });
  const other = Buffer.from(file).reverse();
  serve("/file", { ranges: true, etag: '"2"', body: other });
  const outcome = await get(page, { path: "/file" });
  expect(outcome.sha256).toBe(createHash("sha256").update(other).digest("hex"));
});

test("a kept file is not downloaded again, also without a network, but is when it changed", async ({ page }) => {
  const asked = serve("/file", { ranges: true, etag: '"1"' });
  await get(page, { path: "/file" });
  const again = await get(page, { path: "/file" });
  expect(again.sha256).toBe(sha256);
  expect(again.progress).toEqual([[file.length, file.length, true]]);
  expect(asked.map((line) => line.split(" ")[0])).toEqual(["GET", "HEAD"]);

  // With its hash, no request is needed.
  const known = await get(page, { path: "/file", sha256 });
  expect(known.progress).toEqual([[file.length, file.length, true]]);
  expect(asked.length).toBe(2);

  server.on("/file", (_, response) => void response.destroy());
  const offline = await get(page, { path: "/file" });
  expect(offline.error).toBeNull();
  expect(offline.progress).toEqual([[file.length, file.length, true]]);

  const other = Buffer.from("another version");
  serve("/file", { ranges: true, etag: '"2"', body: other });
  const changed = await get(page, { path: "/file" });
  expect(changed.size).toBe(other.length);
  expect(changed.progress.at(-1)).toEqual([other.length, other.length, false]);
});

test("a file of the same size is another one unless the server says that it is the same", async ({ page }) => {
  const other = Buffer.from(file).reverse();
  const digest = createHash("sha256").update(other).digest("hex");
  const [monday, tuesday] = ["Mon, 02 Nov 2026 10:00:00 GMT", "Tue, 03 Nov 2026 10:00:00 GMT"];
  serve("/dated", { ranges: true, lastModified: monday });
  await get(page, { path: "/dated" });
  expect((await get(page, { path: "/dated" })).progress).toEqual([[file.length, file.length, true]]);
  serve("/dated", { ranges: true, lastModified: tuesday, body: other });
  expect((await get(page, { path: "/dated" })).sha256).toBe(digest);

  // A server that names no version: downloaded again with a network, taken from the cache without one.
  serve("/bare", { ranges: true });
  await get(page, { path: "/bare" });
  server.on("/bare", (_, response) => void response.destroy());
  const offline = await get(page, { path: "/bare" });
  expect(offline.progress).toEqual([[file.length, file.length, true]]);
  expect(offline.sha256).toBe(sha256);
  // Nor does a server lose it that answers, but not with the file.
  server.on("/bare", (request, response) => void (request.method === "HEAD" ? response.end() : response.destroy()));
  for (let time = 0; time < 2; time++) expect((await get(page, { path: "/bare" })).progress).toEqual(offline.progress);
  serve("/bare", { ranges: true, body: other });
  expect((await get(page, { path: "/bare" })).sha256).toBe(digest);
  server.on("/bare", (_, response) => void response.destroy());
  expect((await get(page, { path: "/bare" })).sha256).toBe(digest);
});

test("without a version, parts are put together within a download, but not with those of an earlier one", async ({ page, context }) => {
  const cut = serve("/file", { ranges: true, cuts: [9 * MB] });
  expect((await get(page, { path: "/file" })).sha256).toBe(sha256);
  expect(Number(/bytes=(\d+)-/.exec(cut.at(-1)!)![1])).toBeGreaterThan(6 * MB);

  serve("/other", { ranges: true, slow: true });
  await get(page, { path: "/other", abortAt: 10 * MB });
  const later = await context.newPage();
  await later.goto(server.url("/"));
  const other = Buffer.from(file).reverse();
  const asked = serve("/other", { ranges: true, body: other });
  expect((await get(later, { path: "/other" })).sha256).toBe(createHash("sha256").update(other).digest("hex"));
  expect(asked).toEqual(["GET bytes=0-"]);
});

for (const head of [403, 405, 501]) {
  test(`a server that answers HEAD with ${head} is asked with GET`, async ({ page }) => {
    serve("/file", { ranges: true, etag: '"1"' });
    await get(page, { path: "/file" });
    const asked = serve("/file", { ranges: true, etag: '"1"', head, slow: true });
    expect((await get(page, { path: "/file" })).progress).toEqual([[file.length, file.length, true]]);
    expect(asked).toEqual(["HEAD bytes=0-", "GET bytes=0-"]);
    const other = Buffer.from(file).reverse();
    serve("/file", { ranges: true, etag: '"2"', head, body: other });
    expect((await get(page, { path: "/file" })).sha256).toBe(createHash("sha256").update(other).digest("hex"));
    // If GET fails as well, nothing is known, as without a network.
    server.on("/file", (_, response) => void response.writeHead(head).end());
    expect((await get(page, { path: "/file" })).progress).toEqual([[other.length, other.length, true]]);
  });
}

test("the cache can be cleared, and left alone", async ({ page }) => {
  const asked = serve("/file", { ranges: true, etag: '"1"' });
  await get(page, { path: "/file", cache: false });
  expect(await page.evaluate(() => caches.keys())).toEqual([]);
  await get(page, { path: "/file" });
  expect(await page.evaluate(() => caches.keys())).toEqual(["esolm-1"]);
  await page.evaluate(async () => {
    const module = "/dist/store.js";
    const { clearCache } = (await import(module)) as typeof import("../src/store.js");
    await clearCache();
  });
  expect(await page.evaluate(() => caches.keys())).toEqual([]);
  await get(page, { path: "/file" });
  expect(asked.every((line) => line.startsWith("GET"))).toBe(true);
});

test("a file of another hash is refused and not kept", async ({ page }) => {
  const wrong = "0".repeat(64);
  serve("/file", { ranges: true, etag: '"1"', body: Buffer.from("hello") });
  const outcome = await get(page, { path: "/file", sha256: wrong });
  expect(outcome.error?.code).toBe("hash");
  expect(outcome.error?.message).toContain(`has the SHA-256 ${createHash("sha256").update("hello").digest("hex")}, not ${wrong}`);
  const after = await get(page, { path: "/file" });
  expect(after.progress.at(-1)?.[2]).toBe(false);
  // The file was kept without a hash, and is refused with one.
  expect((await get(page, { path: "/file", sha256: wrong })).error?.code).toBe("hash");
});

test("a missing file, a web page in its place and a refusal are told apart", async ({ page }) => {
  const missing = await get(page, { path: "/nothing.bin" });
  expect(missing.error?.code).toBe("network");
  expect(missing.error?.message).toMatch(/^nothing\.bin is not there \(the server answered 404\); check the address http.*\.$/);
  server.text("/page.bin", "text/html", "<!doctype html>");
  expect((await get(page, { path: "/page.bin" })).error?.message).toContain("sent a web page instead");
  server.on("/secret", (_, response) => void response.writeHead(403).end());
  expect((await get(page, { path: "/secret" })).error?.message).toContain("answered 403");
});

test("a busy server is asked again", async ({ page }) => {
  let asked = 0;
  server.on("/file", (_, response) => {
    asked += 1;
    if (asked === 1) response.writeHead(503).end();
    else response.writeHead(200, { "content-length": 5 }).end("hello");
  });
  expect((await get(page, { path: "/file" })).size).toBe(5);
  expect(asked).toBe(2);
});

test("sizes that lie are found out", async ({ page }) => {
  // Ranges that promise more than there is: no later range returns the rest.
  server.on("/short", (request, response) => {
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range!)![1]);
    if (start >= 100) return void response.writeHead(416).end();
    response.writeHead(206, { "content-range": `bytes ${start}-999/1000`, "content-length": 100 - start }).end(Buffer.alloc(100 - start));
  });
  expect((await get(page, { path: "/short" })).error?.code).toBe("network");

  // Ranges that return more than the file has.
  server.on("/long", (_, response) => {
    response.writeHead(206, { "content-range": "bytes 0-9/10" }).end(Buffer.alloc(100));
  });
  const long = await get(page, { path: "/long" });
  expect(long.error?.code).toBe("network");
  expect(long.error?.message).toContain("longer than its server says (10 bytes)");

  // A range that starts elsewhere than requested.
  server.on("/elsewhere", (_, response) => {
    response.writeHead(206, { "content-range": "bytes 5-14/15" }).end(Buffer.alloc(10));
  });
  expect((await get(page, { path: "/elsewhere" })).error?.code).toBe("network");

  // A length that the connection never delivers: the browser reports a cut every time.
  server.on("/cut", (_, response) => {
    response.writeHead(200, { "content-length": 1000 });
    response.write(Buffer.alloc(10), () => response.destroy());
  });
  expect((await get(page, { path: "/cut" })).error?.code).toBe("network");
});

test("an empty file, a compressed one and one of unknown length arrive whole", async ({ page }) => {
  serve("/empty", { ranges: true, body: Buffer.alloc(0) });
  expect(await get(page, { path: "/empty" })).toMatchObject({ size: 0, error: null });

  const { gzipSync } = await import("node:zlib");
  const text = Buffer.from("compressible ".repeat(1000));
  server.on("/zipped", (_, response) => {
    const zipped = gzipSync(text);
    response.writeHead(200, { "content-encoding": "gzip", "content-length": zipped.length }).end(zipped);
  });
  const zipped = await get(page, { path: "/zipped", ranges: false });
  expect(zipped).toMatchObject({ size: text.length, error: null });
  expect(zipped.progress.slice(0, -1).every(([, total]) => total === null)).toBe(true);

  server.on("/unknown", (_, response) => {
    response.writeHead(200);
    response.write("hello ");
    response.end("world");
  });
  expect(await get(page, { path: "/unknown" })).toMatchObject({ size: 11, error: null });
});

test("two loads of one file at the same time download it once", async ({ page }) => {
  const asked = serve("/file", { ranges: true, etag: '"1"', slow: true });
  const [one, two] = await Promise.all([get(page, { path: "/file" }), get(page, { path: "/file" })]);
  expect([one!.sha256, two!.sha256]).toEqual([sha256, sha256]);
  expect(asked.filter((line) => line.startsWith("GET")).length).toBe(1);
});

test("without room in the cache a file is held in memory", async ({ page }) => {
  serve("/file", { ranges: true, etag: '"1"' });
  await page.evaluate(() => {
    const put = Cache.prototype.put;
    Cache.prototype.put = function (request, response) {
      if (String(request).endsWith("/1")) return Promise.reject(new DOMException("full", "QuotaExceededError"));
      return put.call(this, request, response);
    };
  });
  const outcome = await get(page, { path: "/file", sha256 });
  expect(outcome.error).toBeNull();
  expect(outcome.sha256).toBe(sha256);
});

for (const [what, lost] of [["everything", ""], ["a part", "/1"]] as const) {
  test(`what the browser takes and does not keep is held in memory: ${what}`, async ({ page }) => {
    serve("/file", { ranges: true });
    await page.evaluate((lost) => {
      const put = Cache.prototype.put;
      Cache.prototype.put = function (request, response) {
        return String(request).endsWith(lost) ? Promise.resolve() : put.call(this, request, response);
      };
    }, lost);
    const outcome = await get(page, { path: "/file" });
    expect(outcome.error).toBeNull();
    expect(outcome.sha256).toBe(sha256);
  });
}

test("a part that the browser threw away is noticed", async ({ page }) => {
  const asked = serve("/file", { ranges: true, etag: '"1"' });
  await get(page, { path: "/file" });
  await page.evaluate(async () => {
    const cache = await caches.open("esolm-1");
    const part = (await cache.keys()).find((request) => request.url.endsWith("/1"));
    await cache.delete(part!);
  });
  const outcome = await get(page, { path: "/file" });
  expect(outcome.sha256).toBe(sha256);
  expect(asked.filter((line) => line.startsWith("GET")).length).toBe(2);
});

test("SHA-256 agrees with known values and with pieces of any size", async ({ page }) => {
  const long = Buffer.from(file.subarray(0, MB));
  const vectors: [string, string][] = ["", "abc", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "a".repeat(55), "a".repeat(56), "a".repeat(64), "a".repeat(119)].map(
    (text) => [text, createHash("sha256").update(text).digest("hex")],
  );
  expect(vectors[1]![1]).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const found = await page.evaluate(
    async ([texts, base64]) => {
      const module = "/dist/sha256.js";
      const { Sha256 } = (await import(module)) as typeof import("../src/sha256.js");
      const long = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const pieces = new Sha256();
      for (let at = 0, size = 1; at < long.length; size = (size * 7 + 3) % 1013) {
        pieces.update(long.subarray(at, at + size));
        at += size;
      }
      return [...texts.map((text) => new Sha256().update(new TextEncoder().encode(text)).hex()), new Sha256().update(long).hex(), pieces.hex()];
    },
    [vectors.map(([text]) => text), long.toString("base64")] as const,
  );
  const hash = createHash("sha256").update(long).digest("hex");
  expect(found).toEqual([...vectors.map(([, hash]) => hash), hash, hash]);
});
