/** The native program, whose texts the browser must write too. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { repository } from "./lab.js";

/**
 * `esolm sample --json` on the CPU with these arguments: the tokens of each text and the texts. The program is the one that the
 * environment variable ESOLM_NATIVE names, else it is built.
 */
export async function sample(...wishes: string[]): Promise<{ tokens: number[][]; text: (string | null)[]; nfe: number }> {
  const ready = process.env["ESOLM_NATIVE"];
  const [program, ...before] = ready ? [ready] : ["cargo", "run", "--release", "-q", "--"];
  const { stdout } = await promisify(execFile)(program!, [...before, "sample", ...wishes, "--json", "--device", "cpu"], {
    cwd: repository,
    maxBuffer: 1 << 26,
  });
  const said = JSON.parse(stdout) as { nfe: number; sequences: { tokens: number[]; text: string | null }[] };
  return { tokens: said.sequences.map(({ tokens }) => tokens), text: said.sequences.map(({ text }) => text), nfe: said.nfe };
}
