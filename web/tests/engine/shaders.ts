/** The source of every form of every shader, as written by `tests/tests/shaders.rs`, and a browser's verdict on them. */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { repository } from "./lab.js";

export const folder = process.env["ESOLM_SHADERS"] ?? resolve(repository, process.env["CARGO_TARGET_DIR"] ?? "target", "tmp", "shaders");
export const remedy = "`cargo test --release -p esolm-tests --test shaders` writes it (the variable ESOLM_SHADERS names another folder)";

function shaderFiles(): string[] {
  const shaders = join(repository, "shaders");
  return readdirSync(shaders, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".wgsl"))
    .map((name) => join(shaders, name));
}

/** Shader sources by name. */
export function texts(): Map<string, string> {
  if (!existsSync(folder)) throw new Error(`${folder} is not there; ${remedy}`);
  const names = readdirSync(folder).filter((name) => name.endsWith(".wgsl"));
  const written = Math.min(...names.map((name) => statSync(join(folder, name)).mtimeMs));
  for (const shader of shaderFiles()) {
    if (statSync(shader).mtimeMs > written) throw new Error(`${folder} is older than ${shader}; ${remedy}`);
  }
  return new Map(names.map((name) => [name.slice(0, -".wgsl".length), readFileSync(join(folder, name), "utf8")]));
}

/** Runs in a page: compiles sources, given as [name, source], on a device with the limits that every browser supports. */
export async function compileAll(all: [string, string][]): Promise<{ refused: string[]; pipelines: number; stray: string[] }> {
  const adapter = await navigator.gpu.requestAdapter();
  // Unless more is requested, a device has the standard's default limits.
  const device = await adapter!.requestDevice();
  const stray: string[] = [];
  device.addEventListener("uncapturederror", (event) => stray.push(event.error.message));
  const refused: string[] = [];
  let pipelines = 0;
  const compile = async ([name, code]: [string, string]): Promise<void> => {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const scope = device.popErrorScope();
    const { messages } = await module.getCompilationInfo();
    for (const { type, lineNum, message } of messages) if (type === "error") refused.push(`${name}, line ${lineNum}: ${message}`);
    const error = await scope;
    if (error !== null) {
      refused.push(`${name}: ${error.message}`);
      return;
    }
    try {
      await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
      pipelines += 1;
    } catch (error) {
      refused.push(`${name}: ${(error as Error).message}`);
    }
  };
  const left = [...all];
  const work = async (): Promise<void> => {
    for (let next = left.pop(); next !== undefined; next = left.pop()) await compile(next);
  };
  await Promise.all([work(), work(), work(), work()]);
  device.destroy();
  return { refused, pipelines, stray };
}
