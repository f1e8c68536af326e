import { EsoLMError, messageOf } from "./errors.js";
import { Sha256 } from "./sha256.js";
import { CacheStore, MemoryStore, NotKept, fitsQuota, sameVersion, type Store, type Version } from "./store.js";

/** Bytes held in memory at a time, and the most that an interrupted download loses when the page is closed. */
const PART = 8 * 1024 * 1024;
/** Consecutive attempts that may yield no data. */
const TRIES = 5;
/** How often a file may be restarted from a server that cannot resume. */
const RESTARTS = 3;
/** Milliseconds between progress reports. */
const REPORT = 50;

export interface DownloadOptions {
  /** Keep the file in the browser's cache. */
  cache: boolean;
  /** Ask the server for ranges, so that an interrupted download resumes where it stopped. */
  ranges: boolean;
  /** 64 hexadecimal digits: the expected hash of the file. */
  sha256?: string;
  signal: AbortSignal;
  onProgress: (loaded: number, total: number | null, fromCache: boolean) => void;
  /** Called when the server has answered, whatever it said. */
  onAnswer?: () => void;
}

/** The server has no such file, or does not say that it has. */
export class NotFound extends EsoLMError {}

/** No server answered: most likely there is no network. */
export class Unreachable extends EsoLMError {}

/** Fetches a file, or takes it from the cache if it is unchanged on the server. The whole file is never in memory. */
export async function download(url: string, options: DownloadOptions): Promise<Blob> {
  const stored = options.cache && /^https?:/.test(url);
  if (!stored) return fetchInto(new MemoryStore(), url, options);
  // Two pages that load the same model must not write the same parts at the same time.
  return withLock(`esolm ${url}`, options.signal, async () => {
    const store = await CacheStore.open(url);
    if (store === null) return fetchInto(new MemoryStore(), url, options);
    const kept = store.complete ? await store.blob() : null;
    const isWanted = kept !== null && (await isStillWanted(kept, store, url, options));
    const take = (kept: Blob): Blob => {
      options.onProgress(kept.size, kept.size, true);
      return kept;
    };
    if (kept !== null && isWanted === true) return take(kept);
    // What may still be the right one stays until another one arrives.
    if (isWanted === null) store.replace();
    else if (store.complete) await store.clear();
    try {
      return await fetchInto(store, url, options);
    } catch (error) {
      const isUnavailable = error instanceof EsoLMError && error.code === "network" && !(error instanceof NotFound);
      if (kept !== null && store.isReplaceable && isUnavailable) return take(kept);
      const isFull = error instanceof DOMException && error.name === "QuotaExceededError";
      if (!isFull && !(error instanceof NotKept)) throw error;
      // The browser stores no more: hold the file in memory for this visit only.
      await store.clear();
      return fetchInto(new MemoryStore(), url, options);
    }
  });
}

/** Whether a cached file is still the right one: checked by its hash if there is one, otherwise by asking the server; `null` if that says too little. */
async function isStillWanted(kept: Blob, store: Store, url: string, options: DownloadOptions): Promise<boolean | null> {
  if (options.sha256 !== undefined) {
    const sha256 = store.sha256 ?? (await hashOf(kept, options.signal)).hex();
    if (store.sha256 === null) await store.finish(sha256);
    return sha256 === options.sha256;
  }
  let response: Response;
  try {
    response = await ask(url, options);
    options.onAnswer?.();
  } catch {
    options.signal.throwIfAborted();
    // Without a network, use what is cached.
    return true;
  }
  if (response.status === 404 || response.status === 410) return false;
  // A server in trouble says nothing about the file.
  if (!response.ok || store.version === null) return true;
  return sameVersion(store.version, versionOf(response, options.ranges ? lengthOf(response) : null));
}

/** What the server says about a file. Some servers refuse `HEAD`, as signed addresses do; there, a download is begun and given up. */
async function ask(url: string, options: DownloadOptions): Promise<Response> {
  const { signal } = options;
  const headers = range(options, 0);
  const response = await fetch(url, { method: "HEAD", cache: "no-cache", headers, signal });
  if (![403, 405, 501].includes(response.status)) return response;
  const begun = await fetch(url, { cache: "no-store", headers, signal });
  await begun.body?.cancel();
  return begun;
}

/** A range request also prevents compression by the server, so that sizes and offsets are those of the file. */
function range(options: DownloadOptions, start: number): Record<string, string> {
  return options.ranges ? { Range: `bytes=${start}-` } : {};
}

async function fetchInto(store: Store, url: string, wanted: DownloadOptions): Promise<Blob> {
  const options = { ...wanted, ranges: wanted.ranges && /^https?:/.test(url) };
  const { signal } = options;
  const name = fileName(url);
  const report = meter(options.onProgress);
  const hashing = options.sha256 !== undefined;
  let held = store.length > 0 ? await store.blob() : null;
  // The server must be able to say whether what an earlier visit left belongs to its present version.
  const isVersioned = store.version !== null && (store.version.etag ?? store.version.lastModified) !== null;
  if (store.length > 0 && (held === null || !options.ranges || !isVersioned)) {
    await store.clear();
    held = null;
  }
  let hash = held !== null && hashing ? await hashOf(held, signal) : new Sha256();
  held = null;
  let failures = 0;
  let restarts = 0;
  let answered = false;
  let received = false;
  /** Whether everything stored has arrived during this call. */
  let isOwn = false;

  const again = async (why: string, thrown?: unknown): Promise<void> => {
    failures += 1;
    // A URL that never responded is most likely wrong, which should be reported soon.
    if (failures >= (received ? TRIES : 2) || restarts > RESTARTS) {
      const remedy = `check the network and the address ${url}, and that its server lets this page read it (CORS)`;
      const Kind = answered ? EsoLMError : Unreachable;
      throw new Kind("network", `${name} could not be downloaded (${why}); ${remedy}.`, { cause: thrown });
    }
    await pause(150 * 2 ** failures, signal);
  };
  const restart = async (): Promise<void> => {
    restarts += 1;
    hash = new Sha256();
    await store.clear();
  };

  for (;;) {
    let response: Response;
    try {
      // Files stored here need not be cached twice, and Chromium's own cache fails on ranges of a truncated response.
      const cache = options.ranges || store instanceof CacheStore ? "no-store" : "default";
      response = await fetch(url, { headers: range(options, store.length), cache, signal });
    } catch (error) {
      signal.throwIfAborted();
      await again(messageOf(error), error);
      continue;
    }
    answered = true;
    options.onAnswer?.();
    if (response.status === 416) {
      // There is nothing at this offset: the file is empty, or has become shorter.
      if (store.length === 0) options.ranges = false;
      await restart();
      await again("the server's sizes contradict each other");
      continue;
    }
    if ([429, 502, 503, 504].includes(response.status)) {
      await again(`the server answered ${response.status}`);
      continue;
    }
    refuse(response, name, url);

    const span = response.status === 206 ? spanOf(response, store.length) : { start: 0, total: lengthOf(response) };
    const version = versionOf(response, span.total);
    const fits = span.start === store.length && (store.length === 0 || (store.version !== null && continues(store.version, version, isOwn)));
    if (!fits) {
      await restart();
      if (span.start !== 0) {
        await response.body?.cancel();
        await again("the file changed on the server");
        continue;
      }
    }
    if (store.length === 0) {
      // First, since what an earlier visit left makes room.
      await store.begin(version);
      isOwn = true;
      const isStorable = store instanceof MemoryStore || span.total === null || (await fitsQuota(span.total));
      if (!isStorable) {
        await response.body?.cancel();
        throw new DOMException("the file exceeds the quota", "QuotaExceededError");
      }
    }

    // For a complete response the browser checks the length itself, and accounts for compression.
    const total = response.status === 206 ? span.total : null;
    const before = store.length;
    const torn = await pour(response, store, signal, (loaded, chunk) => {
      received = true;
      if (hashing) hash.update(chunk);
      if (total !== null && loaded > total) {
        throw new EsoLMError("network", `${name} is longer than its server says (${total} bytes); check the address ${url}.`);
      }
      report(loaded, span.total);
    });
    if (store.length > before) failures = 0;
    if (torn === null && (total === null || store.length === total)) break;
    const why = torn === null ? `the server ended after ${store.length} of ${total} bytes` : messageOf(torn);
    if (response.status !== 206) await restart();
    await again(why, torn);
  }

  const sha256 = hashing ? hash.hex() : null;
  if (options.sha256 !== undefined && sha256 !== options.sha256) {
    await store.clear();
    throw new EsoLMError("hash", `${name} has the SHA-256 ${sha256}, not ${options.sha256}; it was changed or damaged, so check the address and the hash.`);
  }
  await store.finish(sha256);
  const blob = await store.blob();
  if (blob === null) throw new EsoLMError("storage", `the browser dropped ${name} from its cache; load it again, or with cache: false.`);
  options.onProgress(blob.size, blob.size, false);
  return blob;
}

/** Whether a response continues the stored parts. If these have arrived during the same call, an equal size suffices where the server says no more. */
function continues(stored: Version, version: Version, isOwn: boolean): boolean {
  return sameVersion(stored, version) ?? (isOwn && stored.size !== null && stored.size === version.size);
}

/** Reads a response into a store. Returns the error that interrupted it, after storing what had arrived. */
async function pour(
  response: Response,
  store: Store,
  signal: AbortSignal,
  arrived: (loaded: number, chunk: Uint8Array<ArrayBuffer>) => void,
): Promise<unknown> {
  if (response.body === null) return null;
  const reader = response.body.getReader();
  let part = new Uint8Array(PART);
  let filled = 0;
  const flush = async (): Promise<void> => {
    if (filled > 0) await store.add(part.slice(0, filled));
    filled = 0;
  };
  let loaded = store.length;
  try {
    for (;;) {
      let result: ReadableStreamReadResult<Uint8Array<ArrayBuffer>>;
      try {
        result = await reader.read();
      } catch (error) {
        await flush();
        signal.throwIfAborted();
        return error ?? new Error("the connection broke");
      }
      if (result.done) break;
      loaded += result.value.length;
      arrived(loaded, result.value);
      for (let at = 0; at < result.value.length; ) {
        const piece = result.value.subarray(at, at + PART - filled);
        part.set(piece, filled);
        filled += piece.length;
        at += piece.length;
        if (filled === PART) await flush();
      }
    }
    await flush();
    return null;
  } finally {
    // Ends the transfer if it was abandoned; has no effect after its end.
    reader.cancel().catch(() => undefined);
  }
}

/** Throws if a response is not the file. */
function refuse(response: Response, name: string, url: string): void {
  if (response.status === 404 || response.status === 410) {
    throw new NotFound("network", `${name} is not there (the server answered ${response.status}); check the address ${url}.`);
  }
  if (!response.ok) {
    // Object stores answer 403 for what does not exist, unless everyone may list what does.
    const Kind = response.status === 403 ? NotFound : EsoLMError;
    throw new Kind("network", `${name} could not be downloaded (the server answered ${response.status}); check the address ${url}.`);
  }
  // Many servers send their start page in place of a missing file.
  if (response.headers.get("content-type")?.startsWith("text/html")) {
    throw new NotFound("network", `${name} is not there (the server sent a web page instead); check the address ${url}.`);
  }
}

/** The byte range of a 206 response. Servers need not let other origins read `Content-Range`. */
function spanOf(response: Response, asked: number): { start: number; total: number | null } {
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
  if (match === null) {
    const length = lengthOf(response);
    return { start: asked, total: length === null ? null : asked + length };
  }
  return { start: Number(match[1]), total: match[3] === "*" ? null : Number(match[3]) };
}

/** Length of the file in a response, unless the response is compressed. */
function lengthOf(response: Response): number | null {
  const length = response.headers.get("content-length");
  const encoding = response.headers.get("content-encoding") ?? "identity";
  return length === null || encoding !== "identity" ? null : Number(length);
}

function versionOf(response: Response, size: number | null): Version {
  return { etag: response.headers.get("etag"), lastModified: response.headers.get("last-modified"), size };
}

async function hashOf(blob: Blob, signal: AbortSignal): Promise<Sha256> {
  const hash = new Sha256();
  for (let at = 0; at < blob.size; at += PART) {
    signal.throwIfAborted();
    hash.update(new Uint8Array(await blob.slice(at, at + PART).arrayBuffer()));
  }
  return hash;
}

/** Checks a file that was not downloaded. */
export async function checkHash(blob: Blob, name: string, sha256: string, signal: AbortSignal): Promise<void> {
  const found = (await hashOf(blob, signal)).hex();
  if (found !== sha256) throw new EsoLMError("hash", `${name} has the SHA-256 ${found}, not ${sha256}; take the file that belongs to the hash.`);
}

/** The digits of `"sha256-<hex>"`. */
export function parseHash(hash: string): string {
  const match = /^sha256-([0-9a-f]{64})$/i.exec(hash);
  if (match === null) throw new EsoLMError("option", `hash is ${JSON.stringify(hash)}; write "sha256-" and 64 hexadecimal digits.`);
  return match[1]!.toLowerCase();
}

/** Limits progress reports to a rate that a page can display. A total that has been exceeded was wrong. */
export function meter(report: DownloadOptions["onProgress"]): (loaded: number, total: number | null) => void {
  let last = -Infinity;
  return (loaded, total) => {
    const now = performance.now();
    if (now - last < REPORT) return;
    last = now;
    report(loaded, total !== null && loaded > total ? null : total, false);
  };
}

export function fileName(url: string): string {
  const path = url.split(/[?#]/, 1)[0]!;
  return path.slice(path.lastIndexOf("/") + 1) || url;
}

async function withLock<T>(name: string, signal: AbortSignal, task: () => Promise<T>): Promise<T> {
  if (!("locks" in navigator)) return task();
  try {
    return await navigator.locks.request(name, { signal }, task);
  } catch (error) {
    // A sandboxed frame has the API but must not use it, nor the cache.
    if (error instanceof DOMException && error.name === "SecurityError") return task();
    throw error;
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
  });
}
