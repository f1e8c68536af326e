/** From what a caller gives to what the engine reads. */

import { NotFound, checkHash, download, meter, parseHash } from "./download.js";
import { EsoLMError, messageOf } from "./errors.js";
import type { Progress, Source, TextFile, WeightsFile } from "./types.js";

/** A file in a form that can be sent to a worker. */
export type Piece = { url: string } | { blob: Blob } | { text: string };

/** A source in a form that can be sent to a worker, with every address absolute. */
export interface Pieces {
  config: Piece | null;
  tokenizer: Piece | null;
  /** The tokenizer is only looked for: the source does not name it. */
  tokenizerOptional: boolean;
  weights: { url: string } | { blob: Blob };
  /** What the weights are called. */
  file: string;
  /** What the model is called. */
  name: string;
}

/** What the engine reads a model from. */
export interface WasmSource {
  config?: string;
  tokenizer?: string;
  weights: { size: number; read(start: number, end: number): Promise<Uint8Array> };
}

/** Tells which files a source consists of; fetches nothing. */
export function piecesOf(source: Source, base: string): Pieces {
  if (typeof source === "string" || source instanceof URL) return piecesOfAddress(absolute(source, base));
  if (isFileList(source)) return piecesOfFiles(Array.from(source));
  if (typeof source !== "object" || source === null || !("weights" in source) || !source.weights) {
    throw new EsoLMError("option", "The source names no weights; give a folder's address, files, or an object with the field weights.");
  }
  const weights = weightsOf(source.weights, base);
  const file = "url" in weights ? lastSegment(weights.url) : weights.blob instanceof File ? weights.blob.name : "weights";
  return {
    config: source.config === undefined ? null : textOf(source.config, base),
    tokenizer: source.tokenizer === undefined ? null : textOf(source.tokenizer, base),
    tokenizerOptional: false,
    weights,
    file,
    name: "url" in weights ? nameOf(weights.url) : stem(file),
  };
}

/** Downloads what has to be, and gives the engine something to read. */
export async function open(
  pieces: Pieces,
  options: { cache: boolean; hash?: string; signal: AbortSignal; onProgress: (progress: Progress) => void },
): Promise<WasmSource> {
  const { cache, signal, onProgress } = options;
  const sha256 = options.hash === undefined ? undefined : parseHash(options.hash);
  const fetched = (url: string, ranges: boolean, hash?: string): Promise<Blob> =>
    download(url, {
      cache,
      ranges,
      ...(hash === undefined ? {} : { sha256: hash }),
      signal,
      onProgress: (loaded, total, fromCache) => onProgress({ phase: "download", file: lastSegment(url), loaded, total, fromCache }),
    });
  const text = async (piece: Piece): Promise<string> => {
    if ("text" in piece) return piece.text;
    return readText("url" in piece ? await fetched(piece.url, false) : piece.blob);
  };

  const source: Partial<WasmSource> = {};
  if (pieces.config !== null) source.config = await text(pieces.config);
  if (pieces.tokenizer !== null) {
    try {
      source.tokenizer = await text(pieces.tokenizer);
    } catch (error) {
      if (!(pieces.tokenizerOptional && error instanceof NotFound)) throw error;
    }
  }
  const weights = "url" in pieces.weights ? await fetched(pieces.weights.url, true, sha256) : pieces.weights.blob;
  if (sha256 !== undefined && "blob" in pieces.weights) await checkHash(weights, pieces.file, sha256, signal);
  const size = weights.size;
  let read = 0;
  const report = meter((loaded, total) => onProgress({ phase: "load", file: pieces.file, loaded, total, fromCache: false }));
  report(0, size);
  return {
    ...source,
    weights: {
      size,
      async read(start, end) {
        signal.throwIfAborted();
        let bytes: ArrayBuffer;
        try {
          bytes = await weights.slice(start, end).arrayBuffer();
        } catch (error) {
          const remedy = "it was changed, moved or deleted meanwhile, so choose or load it again";
          throw new EsoLMError("storage", `${pieces.file} can no longer be read (${messageOf(error)}); ${remedy}.`, { cause: error });
        }
        signal.throwIfAborted();
        read += bytes.byteLength;
        // Headers are read more than once.
        report(Math.min(read, size), size);
        return new Uint8Array(bytes);
      },
    },
  };
}

function piecesOfAddress(url: URL): Pieces {
  const path = url.pathname;
  if (path.endsWith(".ckpt")) {
    return { config: null, tokenizer: null, tokenizerOptional: true, weights: { url: url.href }, file: lastSegment(url.href), name: nameOf(url.href) };
  }
  const isFile = path.endsWith(".safetensors");
  // What follows a question mark, such as a signature, holds for the one file that was named.
  const folder = new URL(isFile ? "." : path.endsWith("/") ? path : `${path}/`, url);
  const weights = isFile ? url.href : new URL("model.safetensors", folder).href;
  return {
    config: { url: new URL("config.json", folder).href },
    tokenizer: { url: new URL("tokenizer.json", folder).href },
    tokenizerOptional: true,
    weights: { url: weights },
    file: lastSegment(weights),
    name: nameOf(weights),
  };
}

function piecesOfFiles(files: File[]): Pieces {
  const named = (ending: string): File[] => files.filter((file) => file.name.toLowerCase().endsWith(ending));
  const [weights, ...more] = [...named(".safetensors"), ...named(".ckpt")];
  if (weights === undefined) {
    throw new EsoLMError("checkpoint", "No weights are among the files; add a .safetensors file with its config.json, or a .ckpt file.");
  }
  if (more.length > 0) {
    throw new EsoLMError("checkpoint", `${weights.name} and ${more[0]!.name} are both weights; give the files of one model, its weights in one file.`);
  }
  const config = files.find((file) => file.name === "config.json");
  const tokenizer = files.find((file) => file.name === "tokenizer.json");
  if (config === undefined && weights.name.toLowerCase().endsWith(".safetensors")) {
    throw new EsoLMError("checkpoint", `${weights.name} came without its config.json, which says the model's shape; give both together.`);
  }
  return {
    config: config === undefined ? null : { blob: config },
    tokenizer: tokenizer === undefined ? null : { blob: tokenizer },
    tokenizerOptional: false,
    weights: { blob: weights },
    file: weights.name,
    name: stem(weights.name),
  };
}

function isFileList(source: Source): source is FileList | File[] {
  return Array.isArray(source) || (typeof FileList !== "undefined" && source instanceof FileList);
}

function weightsOf(weights: WeightsFile, base: string): { url: string } | { blob: Blob } {
  if (typeof weights === "string" || weights instanceof URL) return { url: absolute(weights, base).href };
  if (weights instanceof Blob) return { blob: weights };
  if (weights instanceof ArrayBuffer || weights instanceof Uint8Array) return { blob: new Blob([weights]) };
  throw new EsoLMError("option", "The weights are neither an address nor a Blob, File, ArrayBuffer or Uint8Array; give one of these.");
}

function textOf(file: TextFile, base: string): Piece {
  if (typeof file === "string" || file instanceof URL) return { url: absolute(file, base).href };
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

/** The folder of `model.safetensors`, whose own name says nothing; else the name of the file. */
function nameOf(url: string): string {
  const segments = new URL(url).pathname.split("/").filter((segment) => segment !== "");
  const file = stem(segments.at(-1) ?? "model");
  // Hugging Face: /owner/name/resolve/revision/file
  const resolve = segments.indexOf("resolve");
  if (file === "model" && resolve > 0) return segments[resolve - 1]!;
  return (file === "model" ? segments.at(-2) : undefined) ?? file;
}

function stem(file: string): string {
  return file.replace(/\.(safetensors|ckpt)$/i, "");
}
