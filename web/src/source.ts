/** Turns what a caller passes into what the engine reads. */

import { NotFound, Unreachable, checkHash, download, meter, parseHash } from "./download.js";
import { EsoLMError, messageOf } from "./errors.js";
import type { Progress, Source, TextFile, WeightsFile } from "./types.js";

/** A file in a form that can be sent to a worker; `optional` if the source does not name it, so that it is only looked for. */
export type Piece = { url: string; optional: boolean } | { blob: Blob } | { text: string };

/**
 * Weights in a form that can be sent to a worker: one file, or the index of several along with the files; without `files` they are next to the index.
 */
export type WeightsPieces = { url: string; orIndex?: string } | { blob: Blob } | { index: string } | { index: Blob; files: File[] };

/** A source in a form that can be sent to a worker, with all URLs absolute. */
export interface Pieces {
  config: Piece | null;
  tokenizer: Piece | null;
  /** Sampling settings. */
  generation: Piece | null;
  /** Two files that may contain a chat template. */
  tokenizerConfig: Piece | null;
  chatTemplate: Piece | null;
  weights: WeightsPieces;
  /** File name of the weights, or of their index. */
  file: string;
  /** Name of the model. */
  name: string;
}

/** A weights file for the engine to read. */
export interface Reader {
  name: string;
  size: number;
  read(start: number, end: number): Promise<Uint8Array>;
}

/** Everything from which the engine reads a model. */
export interface WasmSource<Weights = Reader | { index: string; files: Reader[] }> {
  config?: string;
  tokenizer?: string;
  generation?: string;
  tokenizerConfig?: string;
  chatTemplate?: string;
  weights: Weights;
}

export interface OpenOptions {
  cache: boolean;
  /** Hash of the weights, or of each of their files by name. */
  hash?: string | Record<string, string>;
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
  /** Names of the files listed in an index. */
  shardNames: (index: string) => Promise<string[]>;
}

const INDEX = ".safetensors.index.json";

/** Determines which files a source consists of, without fetching anything. */
export function piecesOf(source: Source, base: string): Pieces {
  if (typeof source === "string" || source instanceof URL) {
    return piecesOfAddress(hubFolder(String(source)) ?? absolute(source, base));
  }
  if (isFileList(source)) return piecesOfFiles(Array.from(source));
  if (typeof source !== "object" || source === null || !("weights" in source) || !source.weights) {
    throw new EsoLMError("option", "The source names no weights; give a folder's address, files, or an object with the field weights.");
  }
  const weights = weightsOf(source.weights, base);
  const url = "url" in weights ? weights.url : "index" in weights ? weights.index : null;
  const file = url !== null ? lastSegment(url) : "blob" in weights && weights.blob instanceof File ? weights.blob.name : "weights";
  return {
    config: source.config === undefined ? null : textOf(source.config, base),
    tokenizer: source.tokenizer === undefined ? null : textOf(source.tokenizer, base),
    generation: source.generation === undefined ? null : textOf(source.generation, base),
    tokenizerConfig: source.tokenizerConfig === undefined ? null : textOf(source.tokenizerConfig, base),
    chatTemplate: source.chatTemplate === undefined ? null : textOf(source.chatTemplate, base),
    weights,
    file,
    name: url !== null ? nameOf(url) : stem(file),
  };
}

/** The text of a source's config.json; nothing else is fetched. */
export async function configOf({ config, file }: Pieces, cache: boolean, signal: AbortSignal): Promise<string> {
  if (config === null) {
    throw new EsoLMError("checkpoint", `${file} comes without a config.json, which alone says what a model needs before it is fetched; load it.`);
  }
  if ("text" in config) return config.text;
  return readText("blob" in config ? config.blob : await download(config.url, { cache, ranges: false, signal, onProgress: () => undefined }));
}

/** Downloads what is needed, and returns something for the engine to read. */
export async function open(pieces: Pieces, options: OpenOptions): Promise<WasmSource> {
  const { cache, hash, signal, onProgress } = options;
  let isOnline = false;
  const fetched = (url: string, ranges: boolean, sha256?: string): Promise<Blob> =>
    download(url, {
      cache,
      ranges,
      ...(sha256 === undefined ? {} : { sha256 }),
      signal,
      onProgress: (loaded, total, fromCache) => onProgress({ phase: "download", file: lastSegment(url), loaded, total, fromCache }),
      onAnswer: () => (isOnline ||= /^https?:/.test(url)),
    });
  const text = async (piece: { url: string } | { blob: Blob } | { text: string }): Promise<string> => {
    if ("text" in piece) return piece.text;
    return readText("url" in piece ? await fetched(piece.url, false) : piece.blob);
  };
  const hashes = new Hashes(hash);
  const checked = async (blob: Blob, name: string, sha256?: string): Promise<Blob> => {
    if (sha256 !== undefined) await checkHash(blob, name, sha256, signal);
    return blob;
  };

  const source: Partial<WasmSource> = {};
  let unreachable: Unreachable | null = null;
  /** Without a network, a cached model still loads: if it had the other files, they would be cached too. With one, they may exist. */
  const checkReached = (): void => {
    if (unreachable !== null && isOnline) throw unreachable;
  };
  for (const name of ["config", "tokenizer", "generation", "tokenizerConfig", "chatTemplate"] as const) {
    const piece = pieces[name];
    if (piece === null) continue;
    const isOptional = "url" in piece && piece.optional;
    // Only decoders have chat templates, and they are recognised by their configuration; for other models, do not request files that do not exist.
    if (isOptional && (name === "tokenizerConfig" || name === "chatTemplate") && !/"num_attention_heads"/.test(source.config ?? "")) continue;
    try {
      source[name] = await text(piece);
    } catch (error) {
      const isUnreachable = error instanceof Unreachable;
      if (!isOptional || !(isUnreachable || error instanceof NotFound)) throw error;
      if (isUnreachable) unreachable ??= error;
    }
    checkReached();
  }
  let given = pieces.weights;
  let index: string | null = null;
  const files: [string, Blob][] = [];
  if (!("index" in given)) {
    const sha256 = hashes.of(pieces.file);
    try {
      files.push([pieces.file, "url" in given ? await fetched(given.url, true, sha256) : await checked(given.blob, pieces.file, sha256)]);
      hashes.check([pieces.file]);
    } catch (error) {
      if (!("url" in given) || given.orIndex === undefined || !(error instanceof EsoLMError && error.code === "network")) throw error;
      // Without a network, a cached index still leads to cached files.
      const { orIndex } = given;
      index = await text({ url: orIndex }).catch(() => {
        signal.throwIfAborted();
        throw error;
      });
      given = { index: orIndex };
    }
  }
  if ("index" in given) {
    index ??= await text(typeof given.index === "string" ? { url: given.index } : { blob: given.index });
    const names = await options.shardNames(index);
    hashes.check(names);
    for (const name of names) {
      const sha256 = hashes.of(name);
      if (!("files" in given)) {
        // A name may contain characters that would end the path of a URL.
        files.push([name, await fetched(new URL(encodeURIComponent(name), given.index).href, true, sha256)]);
        continue;
      }
      const file = given.files.find((file) => file.name === name);
      if (file === undefined) {
        throw new EsoLMError("checkpoint", `${name} is named by ${pieces.file} but not among the files; give all files of the model together.`);
      }
      files.push([name, await checked(file, name, sha256)]);
    }
  }
  checkReached();

  const all = files.reduce((sum, [, blob]) => sum + blob.size, 0);
  let read = 0;
  const report = meter((loaded, total) => onProgress({ phase: "load", file: pieces.file, loaded, total, fromCache: false }));
  report(0, all);
  const readers = files.map(([name, blob]): Reader => ({
    name,
    size: blob.size,
    async read(start, end) {
      signal.throwIfAborted();
      let bytes: ArrayBuffer;
      try {
        bytes = await blob.slice(start, end).arrayBuffer();
      } catch (error) {
        const remedy = "it was changed, moved or deleted meanwhile, so choose or load it again";
        throw new EsoLMError("storage", `${name} can no longer be read (${messageOf(error)}); ${remedy}.`, { cause: error });
      }
      signal.throwIfAborted();
      read += bytes.byteLength;
      // Headers are read more than once.
      report(Math.min(read, all), all);
      return new Uint8Array(bytes);
    },
  }));
  return { ...source, weights: index === null ? readers[0]! : { index, files: readers } };
}

/** The given hashes, as hexadecimal digits. */
class Hashes {
  readonly #one: string | undefined;
  readonly #named: Map<string, string>;

  constructor(hash: OpenOptions["hash"]) {
    this.#one = typeof hash === "string" ? parseHash(hash) : undefined;
    this.#named = new Map(Object.entries(typeof hash === "object" ? hash : {}).map(([name, value]) => [name, parseHash(value)]));
  }

  of(name: string): string | undefined {
    return this.#one ?? this.#named.get(name);
  }

  /** Rejects hashes that do not match the actual set of weight files. */
  check(names: string[]): void {
    if (this.#one !== undefined && names.length > 1) {
      throw new EsoLMError("option", `hash is one value, but the weights are in ${names.length} files; give an object with the hash of each by its name.`);
    }
    const unknown = [...this.#named.keys()].find((name) => !names.includes(name));
    if (unknown !== undefined) {
      throw new EsoLMError("option", `hash names ${JSON.stringify(unknown)}, but the weights are ${names.join(", ")}; name these.`);
    }
  }
}

/** The folder on the Hugging Face hub for `hf:owner/name`, `hf:owner/name@revision` or the URL of a model's page; `null` for any other source. */
function hubFolder(source: string): URL | null {
  const [, page] = /^https:\/\/huggingface\.co\/([^?#]*)$/.exec(source) ?? [];
  const [, owner, name, revision = "main"] =
    page === undefined ? (/^hf:([\w.-]+)\/([\w.-]+)(?:@([\w./-]+))?$/.exec(source) ?? []) : (/^([\w.-]+)\/([\w.-]+)(?:\/tree\/([\w.-]+))?\/?$/.exec(page) ?? []);
  if (owner !== undefined && name !== undefined) {
    return new URL(`https://huggingface.co/${owner}/${name}/resolve/${encodeURIComponent(revision)}/`);
  }
  if (page !== undefined || !source.startsWith("hf:")) return null;
  throw new EsoLMError("option", `${JSON.stringify(source)} is not a name of the Hugging Face hub; write hf:owner/name, for a certain revision hf:owner/name@revision.`);
}

function piecesOfAddress(url: URL): Pieces {
  const path = url.pathname;
  if (path.endsWith(".ckpt")) {
    return { config: null, tokenizer: null, generation: null, tokenizerConfig: null, chatTemplate: null, weights: { url: url.href }, file: lastSegment(url.href), name: nameOf(url.href) };
  }
  const isIndex = path.endsWith(INDEX);
  const isFile = isIndex || path.endsWith(".safetensors");
  // A query string, such as a signature, is only valid for the file that was named.
  const folder = new URL(isFile ? "." : path.endsWith("/") ? path : `${path}/`, url);
  const weights = isFile ? url.href : new URL("model.safetensors", folder).href;
  const orIndex = isFile ? {} : { orIndex: new URL(`model${INDEX}`, folder).href };
  const besides = (name: string, optional: boolean): Piece => ({ url: new URL(name, folder).href, optional });
  return {
    config: besides("config.json", false),
    tokenizer: besides("tokenizer.json", true),
    generation: besides("generation_config.json", true),
    tokenizerConfig: besides("tokenizer_config.json", true),
    chatTemplate: besides("chat_template.jinja", true),
    weights: isIndex ? { index: weights } : { url: weights, ...orIndex },
    file: lastSegment(weights),
    name: nameOf(weights),
  };
}

function piecesOfFiles(files: File[]): Pieces {
  const named = (ending: string): File[] => files.filter((file) => file.name.toLowerCase().endsWith(ending));
  const [index, ...indices] = named(INDEX);
  const shards = index === undefined ? null : { index, files: named(".safetensors") };
  const [weights, ...more] = index === undefined ? [...named(".safetensors"), ...named(".ckpt")] : [index, ...indices, ...named(".ckpt")];
  if (weights === undefined) {
    throw new EsoLMError("checkpoint", "No weights are among the files; add a .safetensors file with its config.json, or a .ckpt file.");
  }
  if (more.length > 0) {
    const remedy = `give the files of one model, and of weights in several files also the model${INDEX} that names them`;
    throw new EsoLMError("checkpoint", `${weights.name} and ${more[0]!.name} are both weights; ${remedy}.`);
  }
  const piece = (name: string): Piece | null => {
    const file = files.find((file) => file.name === name);
    return file === undefined ? null : { blob: file };
  };
  const config = piece("config.json");
  if (config === null && !weights.name.toLowerCase().endsWith(".ckpt")) {
    throw new EsoLMError("checkpoint", `${weights.name} came without its config.json, which says the model's shape; give both together.`);
  }
  return {
    config,
    tokenizer: piece("tokenizer.json"),
    generation: piece("generation_config.json"),
    tokenizerConfig: piece("tokenizer_config.json"),
    chatTemplate: piece("chat_template.jinja"),
    weights: shards ?? { blob: weights },
    file: weights.name,
    name: stem(weights.name),
  };
}

function isFileList(source: Source): source is FileList | File[] {
  return Array.isArray(source) || (typeof FileList !== "undefined" && source instanceof FileList);
}

function weightsOf(weights: WeightsFile, base: string): { url: string } | { blob: Blob } | { index: string } {
  if (typeof weights === "string" || weights instanceof URL) {
    const url = absolute(weights, base);
    return url.pathname.endsWith(INDEX) ? { index: url.href } : { url: url.href };
  }
  if (weights instanceof Blob) return { blob: weights };
  if (weights instanceof ArrayBuffer || weights instanceof Uint8Array) return { blob: new Blob([weights]) };
  throw new EsoLMError("option", "The weights are neither an address nor a Blob, File, ArrayBuffer or Uint8Array; give one of these.");
}

function textOf(file: TextFile, base: string): Piece {
  if (typeof file === "string" || file instanceof URL) return { url: absolute(file, base).href, optional: false };
  if (file instanceof Blob) return { blob: file };
  return { text: JSON.stringify(file) };
}

export function absolute(address: string | URL, base: string): URL {
  try {
    return new URL(address, base);
  } catch (error) {
    throw new EsoLMError("option", `${JSON.stringify(String(address))} is not an address; give a URL, absolute or relative to the page.`, { cause: error });
  }
}

async function readText(blob: Blob): Promise<string> {
  try {
    return await blob.text();
  } catch (error) {
    const name = blob instanceof File ? blob.name : "A file of the model";
    throw new EsoLMError("storage", `${name} can no longer be read (${messageOf(error)}); choose it again.`, { cause: error });
  }
}

function lastSegment(url: string): string {
  const path = new URL(url).pathname;
  return path.slice(path.lastIndexOf("/") + 1) || url;
}

/** The name of the folder for `model.safetensors`, which says nothing itself; otherwise the name of the file. */
function nameOf(url: string): string {
  const segments = new URL(url).pathname.split("/").filter((segment) => segment !== "");
  const file = stem(segments.at(-1) ?? "model");
  // Hugging Face: /owner/name/resolve/revision/file
  const resolve = segments.indexOf("resolve");
  if (file === "model" && resolve > 0) return segments[resolve - 1]!;
  return (file === "model" ? segments.at(-2) : undefined) ?? file;
}

function stem(file: string): string {
  return file.replace(/\.(safetensors(\.index\.json)?|ckpt)$/i, "");
}
