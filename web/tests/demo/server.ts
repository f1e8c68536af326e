// Serves the page as the build makes it, on a port of its own, with the small model beside it.

import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, preview } from "vite";

const root = fileURLToPath(new URL("../../demo/", import.meta.url));
const stories = fileURLToPath(new URL("../../../models/stories/", import.meta.url));

export interface Site {
  url: string;
  close(): Promise<void>;
}

export async function serve(): Promise<Site> {
  const folder = mkdtempSync(join(tmpdir(), "esolm-demo-"));
  await build({ root, logLevel: "warn", publicDir: false, build: { outDir: folder, emptyOutDir: true } });
  for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
    cpSync(join(stories, name), join(folder, "models/stories", name));
  }
  const server = await preview({ root, logLevel: "warn", build: { outDir: folder }, preview: { port: 0, host: "127.0.0.1" } });
  const address = server.httpServer.address();
  if (address === null || typeof address === "string") throw new Error("The preview server of the demo gave no port.");
  return {
    url: `http://127.0.0.1:${address.port}/`,
    close: async () => {
      await server.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
