/** The wasm module as wasm-bindgen made it, in a page: nothing of the npm package is between the tests and the engine. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { test as base, type Page } from "@playwright/test";
import { Server } from "../server.js";
import { decoders, family, folder as goldenFolder } from "./golden.js";

type Module = typeof import("../../dist/esolm_web.js");
type Model = import("../../dist/esolm_web.js").WasmModel;
type Run = import("../../dist/esolm_web.js").WasmRun;
type Weights = import("../../dist/esolm_web.js").WasmWeights;
/** With weights in one file. */
type Source = import("../../dist/esolm_web.js").WasmSource & { weights: Weights };
type Wasm = import("../../dist/esolm_web.js").InitOutput;

type Event = import("../../src/index.js").Header | import("../../src/index.js").Step | import("../../src/index.js").Footer;

/** What a run comes to. */
export interface Written {
  tokens: number[][];
  text: string[];
  /** Passes that the last header says. */
  nfe: number;
  /** Passes that there were, over all attempts. */
  passes: number;
  /** Steps that were told, over all attempts. */
  steps: number;
}

export interface Failed {
  /** Name of the class. */
  kind: string;
  code: string | null;
  message: string;
}

/** What tests find in the page as `lab`. */
export interface Lab {
  module: Module;
  wasm: Wasm;
  /** Texts and weights of a model's folder; `config` overrides fields of config.json. */
  source(folder: string, config?: object): Promise<Source>;
  /** A golden model. */
  golden(name: string, config?: object): Promise<Source>;
  /** A folder without a tokenizer. */
  folder(folder: string): Promise<Source>;
  /** A golden model of the family's other code. */
  family(folder: string): Promise<Source>;
  /** A golden decoder. */
  decoder(name: string): Promise<Source>;
  stories(): Promise<Source>;
  load(source: Source, options: object): Promise<Model>;
  /** All events of a run. */
  events(run: Run): AsyncGenerator<Event>;
  /** A run from its start to its end. */
  run(model: Model, request: object): Promise<Written>;
  /** What `action` fails with; `null` where it does not fail. */
  failure(action: () => unknown): Promise<Failed | null>;
}

declare global {
  // eslint-disable-next-line no-var
  var lab: Lab;
}

export const repository = fileURLToPath(new URL("../../../", import.meta.url));
export const stories = `${repository}models/stories/`;
const dist = fileURLToPath(new URL("../../dist/", import.meta.url));

/** Fills an empty page of `server` with the lab. */
export async function enter(page: Page, server: Server): Promise<void> {
  await page.goto(server.url("/"));
  await page.evaluate(async () => {
    const path = "/dist/esolm_web.js";
    const module = (await import(path)) as Module;
    const wasm = await module.default();
    const fetched = async (url: string): Promise<Response> => {
      const response = await fetch(url);
      if (!response.ok) throw new Error(`${url}: ${response.status}`);
      return response;
    };
    const weights = async (url: string): Promise<Weights> => {
      const blob = await (await fetched(url)).blob();
      return { size: blob.size, read: async (start, end) => new Uint8Array(await blob.slice(start, end).arrayBuffer()) };
    };
    const text = async (url: string): Promise<string> => (await fetched(url)).text();
    const configuration = async (url: string, config: object): Promise<string> =>
      JSON.stringify({ ...(JSON.parse(await text(url)) as object), ...config });
    const lab: Lab = {
      module,
      wasm,
      source: async (folder, config = {}) => ({
        config: await configuration(`${folder}/config.json`, config),
        tokenizer: await text(`${folder}/tokenizer.json`),
        generation: await text(`${folder}/generation_config.json`),
        weights: await weights(`${folder}/model.safetensors`),
      }),
      golden: async (name, config = {}) => ({
        config: await configuration(`/golden/${name}.config.json`, config),
        weights: await weights(`/golden/${name}.ema.safetensors`),
      }),
      family: (folder) => lab.folder(`/golden-family/${folder}`),
      decoder: (name) => lab.folder(`/golden-llm/models/${name}`),
      folder: async (folder) => ({
        config: await text(`${folder}/config.json`),
        weights: await weights(`${folder}/model.safetensors`),
      }),
      stories: () => lab.source("/models/stories"),
      load: (source, options) => module.WasmModel.load(source, JSON.stringify(options)),
      events: async function* (run) {
        for (let json = await run.next(); json !== undefined; json = await run.next()) yield JSON.parse(json) as Event;
      },
      run: async (model, request) => {
        const run = model.start(JSON.stringify(request));
        try {
          let [nfe, steps] = [0, 0];
          for await (const event of lab.events(run)) {
            if ("esolm_trace" in event) ({ nfe } = event);
            else if ("step" in event) steps += 1;
            else return { tokens: event.tokens, text: event.text, nfe, passes: event.nfe, steps };
          }
          throw new Error("the run ended without a footer");
        } finally {
          run.free();
        }
      },
      failure: async (action) => {
        try {
          await action();
          return null;
        } catch (thrown) {
          const { constructor, code, message } = thrown as Error & { code?: unknown };
          return { kind: constructor.name, code: typeof code === "string" ? code : null, message };
        }
      },
    };
    globalThis.lab = lab;
  });
}

/** A server with the module, the golden data and the model that ships. */
export async function serve(): Promise<Server> {
  if (!existsSync(`${dist}esolm_web.js`)) throw new Error("web/dist/esolm_web.js is not there; `cargo xtask web --build` makes it");
  const server = await Server.start();
  return server.folder("/dist/", dist).folder("/golden/", goldenFolder).folder("/golden-family/", family).folder("/golden-llm/", decoders).folder("/models/stories/", stories);
}

/** Tests with a page that holds the lab. */
export const test = base.extend<{ server: Server; engine: Page }>({
  server: async ({}, use) => {
    await using server = await serve();
    await use(server);
  },
  engine: async ({ page, server }, use) => {
    await enter(page, server);
    await use(page);
  },
});
