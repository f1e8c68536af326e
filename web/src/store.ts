/** Where a download is stored while it arrives and, in the browser's cache, afterwards. */

const CACHE = "esolm-1";

/** What a server says about a version of a file; any field may be unknown. */
export interface Version {
  etag: string | null;
  lastModified: string | null;
  size: number | null;
}

/** Whether both have the same bytes; `null` if the server says too little. An equal size alone proves nothing: it depends only on the shape of a model. */
export function sameVersion(a: Version, b: Version): boolean | null {
  if (a.size !== null && b.size !== null && a.size !== b.size) return false;
  if (a.etag !== null && b.etag !== null) return a.etag.replace(/^W\//, "") === b.etag.replace(/^W\//, "");
  if (a.lastModified !== null && b.lastModified !== null) return a.lastModified === b.lastModified;
  return null;
}

/** Parts of one file, in order. */
export interface Store {
  /** Version of the file that the parts belong to. */
  readonly version: Version | null;
  /** Bytes held. */
  readonly length: number;
  /** Hash of the whole file, once computed. */
  readonly sha256: string | null;
  readonly complete: boolean;
  /** Drops all parts and starts over. */
  begin(version: Version): Promise<void>;
  add(part: Uint8Array<ArrayBuffer>): Promise<void>;
  finish(sha256: string | null): Promise<void>;
  /** What is stored, without reading it; `null` if the browser has evicted a part. */
  blob(): Promise<Blob | null>;
  clear(): Promise<void>;
}

/** Stores parts in memory for as long as the page needs them. */
export class MemoryStore implements Store {
  version: Version | null = null;
  sha256: string | null = null;
  complete = false;
  length = 0;
  #parts: Blob[] = [];

  async begin(version: Version): Promise<void> {
    await this.clear();
    this.version = version;
  }

  async add(part: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#parts.push(new Blob([part]));
    this.length += part.length;
  }

  async finish(sha256: string | null): Promise<void> {
    this.sha256 = sha256;
    this.complete = true;
  }

  async blob(): Promise<Blob> {
    return new Blob(this.#parts);
  }

  async clear(): Promise<void> {
    this.#parts = [];
    this.version = null;
    this.sha256 = null;
    this.complete = false;
    this.length = 0;
  }
}

/** The browser's cache took something and does not have it. */
export class NotKept extends Error {}

interface Manifest {
  version: Version;
  /** Length of every part in bytes. */
  parts: number[];
  complete: boolean;
  sha256: string | null;
}

function isManifest(value: unknown): value is Manifest {
  return (
    typeof value === "object" && value !== null && "version" in value && "complete" in value && "parts" in value &&
    Array.isArray(value.parts) && value.parts.every((length) => Number.isSafeInteger(length))
  );
}

/** Stores parts in the Cache API, each as a separate entry, so that what has arrived outlives the page. */
export class CacheStore implements Store {
  readonly #cache: Cache;
  /** Keys of a cache must be URLs; nothing is ever fetched from this one. */
  readonly #base: string;
  #manifest: Manifest | null = null;
  /** Number of parts that are still stored although they count no more; `null` if there is no such file. */
  #old: number | null = null;

  private constructor(cache: Cache, url: string) {
    this.#cache = cache;
    this.#base = `https://esolm.invalid/${encodeURIComponent(url)}/`;
  }

  /** `null` if the browser has no cache, or denies access to it. */
  static async open(url: string): Promise<CacheStore | null> {
    if (!("caches" in globalThis)) return null;
    try {
      const store = new CacheStore(await caches.open(CACHE), url);
      const kept: unknown = await (await store.#cache.match(`${store.#base}manifest`))?.json();
      if (isManifest(kept)) store.#manifest = kept;
      return store;
    } catch {
      return null;
    }
  }

  get version(): Version | null {
    return this.#manifest?.version ?? null;
  }

  get length(): number {
    return this.#manifest?.parts.reduce((sum, length) => sum + length, 0) ?? 0;
  }

  get sha256(): string | null {
    return this.#manifest?.sha256 ?? null;
  }

  get complete(): boolean {
    return this.#manifest?.complete ?? false;
  }

  async begin(version: Version): Promise<void> {
    await this.clear();
    await this.#write({ version, parts: [], complete: false, sha256: null });
  }

  async add(part: Uint8Array<ArrayBuffer>): Promise<void> {
    const manifest = this.#begun();
    await this.#put(String(manifest.parts.length), part);
    // Written after the part, so that every part listed in the manifest exists.
    await this.#write({ ...manifest, parts: [...manifest.parts, part.length] });
  }

  async finish(sha256: string | null): Promise<void> {
    await this.#write({ ...this.#begun(), complete: true, sha256 });
  }

  async blob(): Promise<Blob | null> {
    const parts: Blob[] = [];
    for (const [index, length] of (this.#manifest?.parts ?? []).entries()) {
      const part = await (await this.#cache.match(`${this.#base}${index}`))?.blob();
      if (part?.size !== length) return null;
      parts.push(part);
    }
    return new Blob(parts);
  }

  /** Whether what was stored when this was opened still is, though it counts no more. */
  get isReplaceable(): boolean {
    return this.#old !== null;
  }

  /** Counts as empty from now on, but deletes nothing before something else begins. */
  replace(): void {
    this.#old = this.#manifest?.parts.length ?? null;
    this.#manifest = null;
  }

  async clear(): Promise<void> {
    const parts = this.#manifest?.parts.length ?? this.#old ?? 0;
    this.#manifest = null;
    this.#old = null;
    await this.#cache.delete(`${this.#base}manifest`);
    // One more than the manifest lists, since a part may have been written without it.
    for (let index = 0; index <= parts; index++) await this.#cache.delete(`${this.#base}${index}`);
  }

  #begun(): Manifest {
    if (this.#manifest === null) throw new Error("a part of a download that was not begun");
    return this.#manifest;
  }

  async #write(manifest: Manifest): Promise<void> {
    await this.#put("manifest", JSON.stringify(manifest));
    this.#manifest = manifest;
  }

  /** Looks whether it is there, too: in WebKit's private windows a cache whose first user has ended takes everything and keeps nothing. */
  async #put(name: string, body: BodyInit): Promise<void> {
    await this.#cache.put(this.#base + name, new Response(body));
    if ((await this.#cache.match(this.#base + name)) === undefined) throw new NotKept(`${name} was not kept`);
  }
}

/** Deletes everything that `CacheStore` has stored. */
export async function clearCache(): Promise<void> {
  if ("caches" in globalThis) await caches.delete(CACHE);
}

/** Whether a file of this size fits into the browser's quota. */
export async function fitsQuota(bytes: number): Promise<boolean> {
  try {
    const { quota, usage } = await navigator.storage.estimate();
    return quota === undefined || quota - (usage ?? 0) > bytes * 1.05;
  } catch {
    return true;
  }
}
