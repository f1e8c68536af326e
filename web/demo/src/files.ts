// Files that the visitor drops or chooses.

import { parseTrace, Problem } from "./parse";
import { input, select } from "./dom";
import type { ModelFiles, ReadAs } from "./engine";
import type { Trace } from "./trace";

/** No trace is this large; reading such a file as text would only stall the page. */
const MAX_TRACE = 200e6;

export type Dropped = { trace: Trace } | { model: ModelFiles };

export async function sortOut(files: File[]): Promise<Dropped> {
  const named = (pattern: RegExp): File[] => files.filter((file) => pattern.test(file.name.toLowerCase()));
  const traces = named(/\.jsonl$/);
  const indices = named(/\.safetensors\.index\.json$/);
  // An index stands for the files that it names.
  const shards = indices.length > 0 ? named(/\.safetensors$/) : [];
  const weights = indices.length > 0 ? [...indices, ...named(/\.ckpt$/)] : named(/\.(safetensors|ckpt)$/);
  if (files.length === 0) throw new Problem("What was dropped is not a file. Drop a model’s files or a recorded run.");
  if (traces.length > 1) throw new Problem("There are several recorded runs here. Drop one at a time.");
  if (traces[0] && weights.length === 0) return { trace: await readTrace(traces[0]) };
  if (weights.length > 1) {
    throw new Problem(
      "There are several weight files here. Drop one model at a time: a single .safetensors or .ckpt file, or several with the model.safetensors.index.json that names them.",
    );
  }
  const file = weights[0];
  if (!file) {
    const names = files.map((item) => item.name).join(", ");
    throw new Problem(
      `There are no weights and no recorded run in what was dropped (${names}). Drop config.json, tokenizer.json and model.safetensors together, a .ckpt, or a .jsonl trace.`,
    );
  }
  const ckpt = /\.ckpt$/i.test(file.name);
  if (!ckpt && named(/^config\.json$/).length === 0) {
    throw new Problem(`${file.name} came without config.json, which says what the model looks like. Drop both, and tokenizer.json, together.`);
  }
  const keep = named(/^(config|tokenizer|generation_config|tokenizer_config)\.json$|^chat_template\.jinja$/);
  return { model: { name: file.name, source: [file, ...shards, ...keep] } };
}

/** What the visitor says that a model is whose configuration leaves it open. */
export function readAs(): ReadAs {
  const as = select("read-as").value;
  if (as === "mdlm") return { as };
  if (as !== "bd3lm") return {};
  const blockSize = input("read-block").valueAsNumber;
  if (!Number.isInteger(blockSize) || blockSize < 1) throw new Problem("The tokens of a block must be a whole number, 1 or more.");
  return { as, blockSize };
}

async function readTrace(file: File): Promise<Trace> {
  if (file.size > MAX_TRACE) {
    throw new Problem(`${file.name} is larger than ${MAX_TRACE / 1e6} MB. Record a shorter run, or fewer texts at once.`);
  }
  return parseTrace(await file.text(), file.name);
}

/** A recorded run next to the page, named in its address. */
export async function fetchTrace(place: string): Promise<Trace> {
  const url = new URL(place, document.baseURI);
  if (url.origin !== location.origin) {
    throw new Problem("The recorded run in the address is on another site. Download it and drop the file here.");
  }
  const name = url.pathname.split("/").at(-1) ?? place;
  let answer: Response;
  try {
    answer = await fetch(url);
  } catch {
    throw new Problem(`${name} could not be fetched. Check the connection and reload the page.`);
  }
  if (!answer.ok) throw new Problem(`There is no recorded run at ${url.pathname}. Check the address after “trace=”.`);
  return parseTrace(await answer.text(), name);
}

/** Takes files dropped anywhere on the page. */
export function onDrop(zone: HTMLElement, take: (files: File[]) => void): void {
  let depth = 0;
  const lit = (on: boolean): void => void zone.classList.toggle("over", on);
  const carries = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
  document.addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    depth += 1;
    lit(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!carries(event)) return;
    depth = Math.max(0, depth - 1);
    if (depth === 0) lit(false);
  });
  document.addEventListener("dragover", (event) => {
    if (carries(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    lit(false);
    take([...(event.dataTransfer?.files ?? [])]);
  });
}
