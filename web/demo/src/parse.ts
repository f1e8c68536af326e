// Parses trace files. Invalid ones are refused with a message that names the line.

import { Trace, type Footer, type Header, type Phase, type Revealed, type Step } from "./trace";

/** A problem that the visitor can fix; the message is shown as it is. */
export class Problem extends Error {}

type Fields = Record<string, unknown>;

const MAX_LENGTH = 1 << 16;

function fail(name: string, line: number, what: string): never {
  throw new Problem(`${name} is not a complete trace: line ${line} ${what}. Write one with “esolm sample --trace run.jsonl”.`);
}

function whole(value: unknown, below: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < below;
}

function fields(text: string, name: string, line: number): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    fail(name, line, "is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(name, line, "is not a JSON object");
  return value as Fields;
}

function header(raw: Fields, text: string, name: string, line: number): Header {
  const bad = (what: string): never => fail(name, line, what);
  if (raw.esolm_trace === undefined) bad("has no field “esolm_trace”");
  if (raw.esolm_trace !== 1) bad(`has version ${JSON.stringify(raw.esolm_trace)} of the format, and this page reads version 1`);
  const { family, length, batch, nfe, attempt = 0, known } = raw;
  if (family !== "esolm" && family !== "mdlm" && family !== "ar" && family !== "bd3lm" && family !== "setdlm") {
    bad("names no family that this page knows (esolm, mdlm, ar, bd3lm, setdlm)");
  }
  const size = raw.block_size ?? undefined;
  if (family === "bd3lm" && (!whole(size, MAX_LENGTH) || size === 0)) bad("has no number of tokens in a block (block_size)");
  if (!whole(length, MAX_LENGTH) || length === 0) bad(`has no length from 1 to ${MAX_LENGTH - 1}`);
  if (!whole(batch, 4096) || batch === 0) bad("has no number of texts (batch)");
  if (!whole(nfe, 1 << 20)) bad("has no number of steps (nfe)");
  if (!whole(attempt, 1 << 20)) bad("has no number of the attempt (attempt)");
  const drawn = Array.isArray(raw.texts) ? raw.texts : Array.from({ length: batch as number }, (_, index) => index);
  if (!drawn.every((index) => whole(index, batch as number))) bad("names a text (texts) that is not there");
  const texts = Array.isArray(known) ? known : bad("has no list of given tokens (known)");
  if (texts.length !== batch) bad("does not list the given tokens (known) of every text");
  for (const list of texts) {
    const fits = Array.isArray(list) && list.every((pair) => Array.isArray(pair) && whole(pair[0], length as number) && whole(pair[1], 1 << 30));
    if (!fits) bad("has a given token (known) outside the text");
  }
  const number = (value: unknown, other: number): number => (typeof value === "number" ? value : other);
  return {
    model: String(raw.model ?? "unknown"),
    family: family as Header["family"],
    length: length as number,
    ...(family === "bd3lm" ? { block_size: size as number } : {}),
    batch: batch as number,
    nfe: nfe as number,
    attempt: attempt as number,
    texts: drawn as number[],
    known: texts as [number, number][][],
    alpha_0: typeof raw.alpha_0 === "number" ? raw.alpha_0 : null,
    steps: number(raw.steps, nfe as number),
    schedule: String(raw.schedule ?? "binomial"),
    top_p: typeof raw.top_p === "number" ? raw.top_p : null,
    temperature: number(raw.temperature, 1),
    // A seed has up to 64 bits, more than a JavaScript number can hold, so it is taken from the text.
    seed: /"seed"\s*:\s*"?(\d+)/.exec(text)?.[1] ?? "unknown",
    mask_index: number(raw.mask_index, -1),
  };
}

function step(raw: Fields, index: number, head: Header, taken: Set<number>[], name: string, line: number): Step {
  const bad = (what: string): never => fail(name, line, what);
  const { phase, revealed, rows, cache_length, seconds, window = [] } = raw;
  if (raw.step !== index) bad(`is not step ${index}`);
  if (phase !== "prompt" && phase !== "diffusion" && phase !== "sequential") bad("names no phase (prompt, diffusion, sequential)");
  if (!whole(rows, 1 << 30)) bad("has no number of rows");
  const list = Array.isArray(revealed) ? (revealed as Partial<Revealed>[]) : bad("has no list “revealed”");
  for (const item of list) {
    const { sequence, position, token } = item ?? {};
    if (!whole(sequence, head.batch) || !whole(position, head.length) || !whole(token, 1 << 30)) {
      bad("reveals a token outside the text");
    } else if (taken[sequence]!.has(position)) {
      bad(`reveals position ${position} of text ${sequence} a second time`);
    } else {
      taken[sequence]!.add(position);
    }
  }
  const places = Array.isArray(window) ? window : bad("has no list of the places that it drew at (window)");
  const inside = (pair: unknown): boolean => Array.isArray(pair) && whole(pair[0], head.batch) && whole(pair[1], head.length);
  if (!places.every(inside)) bad("draws at a place (window) outside the text");
  return {
    step: index,
    steps: head.nfe,
    ...(places.length > 0 ? { window: places as [number, number][] } : {}),
    phase: phase as Phase,
    revealed: list as Revealed[],
    rows: rows as number,
    cache_length: whole(cache_length, 1 << 30) ? cache_length : 0,
    seconds: typeof seconds === "number" ? seconds : 0,
  };
}

function footer(raw: Fields, line: number, name: string): Footer {
  if (!Array.isArray(raw.tokens)) fail(name, line, "is neither a step nor the result");
  const pieces: Record<string, string> = {};
  if (typeof raw.pieces === "object" && raw.pieces !== null) {
    for (const [token, text] of Object.entries(raw.pieces)) if (typeof text === "string") pieces[token] = text;
  }
  return {
    tokens: raw.tokens as number[][],
    text: Array.isArray(raw.text) ? raw.text.map(String) : [],
    interrupted: raw.interrupted === true,
    seconds: typeof raw.seconds === "number" ? raw.seconds : 0,
    pieces,
  };
}

export function parseTrace(content: string, name: string): Trace {
  const lines = content.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) throw new Problem(`${name} is empty. Choose a trace written by “esolm sample --trace run.jsonl”.`);
  const head = header(fields(lines[0]!, name, 1), lines[0]!, name, 1);
  const trace = new Trace(head, name);
  const given = (): Set<number>[] => head.known.map((list) => new Set(list.map(([position]) => position)));
  const taken = given();
  let index = 0;
  lines.slice(1).forEach((text, at) => {
    const line = at + 2;
    if (trace.footer) fail(name, line, "comes after the result");
    const raw = fields(text, name, line);
    if ("esolm_trace" in raw) {
      const again = header(raw, text, name, line);
      if (again.attempt !== trace.header.attempt + 1 || again.batch !== head.batch || again.length !== head.length) fail(name, line, "begins another run");
      trace.restart(again);
      for (const sequence of again.texts) taken[sequence] = given()[sequence]!;
      index = 0;
    } else if ("step" in raw) {
      trace.add(step(raw, index, trace.header, taken, name, line));
      index += 1;
    } else {
      trace.finish(footer(raw, line, name));
    }
  });
  if (!trace.footer) fail(name, lines.length, "is the last one, and the result is missing");
  return trace;
}
