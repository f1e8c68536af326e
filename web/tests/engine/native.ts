/** The native program, whose texts the browser must reproduce. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { repository } from "./lab.js";

/** The output of the native program, which the environment variable ESOLM_NATIVE names; otherwise it is built. */
async function native(...wishes: string[]): Promise<string> {
  const ready = process.env["ESOLM_NATIVE"];
  const [program, ...before] = ready ? [ready] : ["cargo", "run", "--release", "-q", "--"];
  const { stdout } = await promisify(execFile)(program!, [...before, ...wishes], { cwd: repository, maxBuffer: 1 << 26 });
  return stdout;
}

/** Quantises a model into a folder. */
export async function convert(model: string, folder: string, dtype: "q8" | "q4"): Promise<void> {
  await native("convert", model, folder, "--dtype", dtype);
}

/** The native program's output: the tokens of each text, and the texts. */
export interface Sample {
  tokens: number[][];
  text: (string | null)[];
  nfe: number;
}

/** `esolm sample --json` on the CPU with these arguments. */
export async function sample(...wishes: string[]): Promise<Sample> {
  const stdout = await native("sample", ...wishes, "--json", "--device", "cpu");
  const said = JSON.parse(stdout) as { nfe: number; sequences: { tokens: number[]; text: string | null }[] };
  return { tokens: said.sequences.map(({ tokens }) => tokens), text: said.sequences.map(({ text }) => text), nfe: said.nfe };
}
