// The race: one network, run as three families.

import type { ModelInfo } from "esolm";
import { Problem } from "./parse";
import { request, type Request, type Settings } from "./settings";
import { count, plural, seconds, times } from "./words";

/** Preferred block size in tokens, if the lengths allow it. */
const BLOCK = 16;

export const RACERS = [
  { title: "Eso-LM", note: "blanks anywhere; what is written stays in the cache" },
  { title: "BD3-LM decoding", note: "block by block; finished blocks stay in the cache" },
  { title: "MDLM decoding", note: "blanks anywhere; every position, every step" },
];

/** How the network itself, in the first lane, writes. */
export function ownNote({ attention }: Pick<ModelInfo, "attention">): string {
  return attention === "mixed" ? "blanks anywhere; each step computes all that is written again" : RACERS[0]!.note;
}

/** The result of a lane. */
export interface Result {
  seconds: number;
  /** Positions computed. */
  computed: number;
  steps: number;
  /** Tokens of the text. */
  length: number;
  /** Tokens of a block. */
  block: number | undefined;
}

/** The largest size up to `BLOCK` that divides the context, and also the text unless it is filled up to whole blocks. */
function blockSize(length: number, context: number, fills: boolean): number {
  let size = BLOCK;
  while (context % size > 0 || (!fills && length % size > 0)) size -= 1;
  return size;
}

/** The requests: all write the whole text by diffusion in about the same number of steps. `length` is the text's, which a template determines. */
export function racers(settings: Settings, info: ModelInfo, length: number): Request[] {
  if (info.family !== "esolm") {
    throw new Problem("The race runs an Eso-LM in the ways of other families, and this model is of another family. Go back to the story model for it.");
  }
  const { alpha0: _, ...common } = request(settings, info);
  const { steps: __, schedule, ...rest } = common;
  const size = blockSize(length, info.length, settings.start === "infill");
  const inBlock: Partial<Request> =
    schedule === "left-to-right" ? { schedule } : { schedule: "binomial", steps: Math.max(1, Math.round((settings.steps * size) / length)) };
  return [{ ...common, alpha0: 1 }, { ...rest, ...inBlock, decodeAs: "bd3lm", blockSize: size }, { ...common, decodeAs: "mdlm" }];
}

/** How long each took. */
export function outcome(results: Result[]): string | null {
  const [eso, blocks, mdlm] = results;
  if (!eso || !blocks || !mdlm) return null;
  const taken = ({ seconds: time, computed, steps }: Result): string => `${seconds(time)}, ${count(computed)} positions in ${plural(steps, "step")}`;
  const beside = ({ seconds: time }: Result): string => (time < mdlm.seconds ? `${times(mdlm.seconds, time)} times as fast` : "not faster");
  const more = blocks.length - eso.length;
  return [
    `Eso-LM: ${taken(eso)}.`,
    `BD3-LM, in blocks of ${plural(blocks.block ?? 1, "token")}: ${taken(blocks)}.`,
    `MDLM: ${taken(mdlm)}.`,
    `Beside MDLM decoding, the Eso-LM is ${beside(eso)} here, and BD3-LM decoding ${beside(blocks)}.`,
    ...(more > 0 ? [`BD3-LM decoding writes whole blocks, so its text has ${plural(more, "token")} more.`] : []),
  ].join(" ");
}
