/** Conversations through the package with real engines: published samplers' answers, the cache between turns, stops and refusals. */

import { readFileSync } from "node:fs";
import { expect, test as base } from "@playwright/test";
import { decoders } from "./engine/golden.js";
import { serve } from "./engine/lab.js";
import type { Server } from "./server.js";

const test = base.extend<{ server: Server }>({
  server: async ({ page }, use) => {
    await using server = await serve();
    await page.goto(server.url("/"));
    await use(server);
  },
});

interface Message {
  role: string;
  content: string;
}

interface Recorded {
  kind: "bd3lm" | "mdlm";
  runs: {
    messages: Message[];
    enable_thinking: boolean;
    prompt: number[];
    options: { max_new_tokens: number; block_size: number; steps: number; temperature: number };
    text: string;
  }[];
}

const read = (name: string): unknown => JSON.parse(readFileSync(`${decoders}chat/${name}`, "utf8"));
const files = (kind: string) => ({
  config: `/golden-llm/chat/model_${kind}/config.json`,
  generation: `/golden-llm/chat/model_${kind}/generation_config.json`,
  weights: `/golden-llm/chat/model_${kind}/model.safetensors`,
  tokenizer: "/golden-llm/chat/tokenizer.json",
  tokenizerConfig: "/golden-llm/chat/tokenizer_config.json",
});
const FILES = files("bd3lm");

for (const kind of ["bd3lm", "mdlm"] as const) {
  for (const device of ["gpu", "cpu"] as const) {
    test(`the published sampler's answers, ${kind} on the ${device}`, async ({ page, server: _ }) => {
      const { runs } = read(`golden_${kind}.json`) as Recorded;
      const answers = await page.evaluate(
        async ([device, kind, files, runs]) => {
          const path = "/dist/index.js";
          const { EsoLM } = (await import(path)) as typeof import("../src/index.js");
          const blockSize = runs[0]!.options.block_size;
          const model = await EsoLM.load(files, { device, as: kind, ...(kind === "bd3lm" ? { blockSize } : {}) });
          const all = [];
          for (const { messages, enable_thinking, options } of runs.filter((run) => run.options.block_size === blockSize)) {
            const { max_new_tokens: maxTokens, temperature } = options;
            // The steps of a BD3-LM are per block.
            const steps = kind === "bd3lm" ? Math.ceil(options.steps / Math.ceil(maxTokens / blockSize)) : options.steps;
            const answering = model.chat(messages, { maxTokens, temperature, steps, blockSize, think: enable_thinking });
            let [joined, blanks] = ["", 0];
            for await (const { text, open } of answering) {
              joined += text;
              blanks += open.filter((token) => token === null).length;
            }
            const { text } = await answering.result;
            all.push({ text, joined, blanks, prompt: (await answering.prompt).tokens });
          }
          const { chat } = model.info;
          await model.dispose();
          return { chat, all };
        },
        [device, kind, files(kind), runs] as const,
      );
      expect(answers.chat).toEqual({ think: true });
      const wanted = runs.filter((run) => run.options.block_size === runs[0]!.options.block_size);
      expect(wanted.length).toBeGreaterThan(2);
      expect(answers.all.map(({ text, prompt }) => ({ text, prompt }))).toEqual(wanted.map(({ text, prompt }) => ({ text, prompt })));
      for (const { text, joined, blanks } of answers.all) {
        expect(joined).toBe(text);
        expect(blanks).toBeGreaterThan(0);
      }
    });
  }
}

test("conversations become the prompts that transformers makes of them", async ({ page, server: _ }) => {
  const { chat } = read("golden_tokenizer.json") as { chat: { messages: Message[]; add_generation_prompt: boolean; enable_thinking: boolean | null; text: string; ids: number[] }[] };
  // The prompt always contains the start of the answer, and mask tokens are never accepted.
  const asked = chat.filter((one) => one.add_generation_prompt && !one.text.includes("<|mask|>"));
  expect(asked.length).toBeGreaterThan(10);
  const told = await page.evaluate(
    async ([files, asked]) => {
      const path = "/dist/index.js";
      const { EsoLM } = (await import(path)) as typeof import("../src/index.js");
      const model = await EsoLM.load(files, { device: "cpu", as: "bd3lm", blockSize: 8 });
      const all = [];
      for (const { messages, enable_thinking } of asked) {
        const answering = model.chat(messages, { maxTokens: 8, ...(enable_thinking === null ? {} : { think: enable_thinking }) });
        const { text, tokens } = await answering.prompt;
        await answering.stop();
        all.push({ text, ids: tokens });
      }
      await model.dispose();
      return all;
    },
    [FILES, asked] as const,
  );
  expect(told).toEqual(asked.map(({ text, ids }) => ({ text, ids })));
});

test("a conversation goes on from the cache, and stops, and says what is wrong", async ({ page, server: _ }) => {
  const told = await page.evaluate(async (files) => {
    const path = "/dist/index.js";
    const { EsoLM } = (await import(path)) as typeof import("../src/index.js");
    const needed = await EsoLM.memoryNeeded(files, { as: "bd3lm", blockSize: 8, weights: "q8" });
    const model = await EsoLM.load(files, { device: "cpu", as: "bd3lm", blockSize: 8 });
    const failure = async (run: () => Promise<unknown>): Promise<unknown> => {
      try {
        return await run();
      } catch (thrown) {
        const { code, message } = thrown as { code: string; message: string };
        return { code, message };
      }
    };
    const messages = [{ role: "user", content: "What colour is the sky?" }];
    const options = { maxTokens: 16, promptTail: "shared", seed: 3 } as object;
    const first = model.chat(messages, options);
    const { content } = await first.result;
    const next = [...messages, { role: "assistant", content }, { role: "user", content: "And the sea?" }];
    const second = model.chat(next, options);
    const again = await second.result;
    // From scratch, in another model.
    const other = await EsoLM.load(files, { device: "cpu", as: "bd3lm", blockSize: 8 });
    const alone = await other.chat(next, options).result;
    // So long and hot that it does not end by itself soon.
    const stopped = model.chat(next, { ...options, maxTokens: 3000, steps: 8, temperature: 50, suppressTokens: ["<|endoftext|>", "<|im_end|>"] });
    for await (const _ of stopped) break;
    const { finish } = await stopped.result;
    const failures = [
      await failure(() => model.chat([], options).result),
      await failure(() => model.chat([{ role: "user" }] as never, options).result),
      await failure(() => model.chat(messages, { maxTokens: "many" } as never).result),
      await failure(() => model.chat(messages, { prompt: "x" } as never).result),
    ];
    const stories = await EsoLM.load("/models/stories/", { device: "cpu" });
    failures.push(await failure(() => stories.chat(messages).result));
    const { chat } = stories.info;
    for (const loaded of [model, other, stories]) await loaded.dispose();
    return { needed, cached: [(await first.prompt).cached, (await second.prompt).cached], again: again.text, alone: alone.text, finish, failures, chat };
  }, FILES);
  expect(told.needed.model).toBeGreaterThan(100_000);
  expect(told.cached[0]).toBe(0);
  expect(told.cached[1]).toBeGreaterThan(0);
  expect(told.again).toBe(told.alone);
  expect(told.finish).toBe("interrupted");
  expect(told.chat).toBeNull();
  expect(told.failures).toEqual([
    { code: "chat", message: expect.stringContaining("no message") },
    { code: "option", message: expect.stringContaining("messages") },
    { code: "option", message: expect.stringContaining("maxTokens") },
    { code: "option", message: expect.stringContaining("prompt") },
    { code: "chat", message: expect.stringContaining("chat template") },
  ]);
});
