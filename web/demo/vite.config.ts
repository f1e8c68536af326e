import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

/** Writes `sw.js` with the list of files that this build made, so that the page opens without a network once it was loaded. */
function serviceWorker(): Plugin {
  return {
    name: "esolm-service-worker",
    apply: "build",
    generateBundle: {
      order: "post",
      handler(_options, bundle) {
        const files = Object.keys(bundle).filter((name) => !name.endsWith(".map")).sort();
        const hash = createHash("sha256");
        for (const name of files) {
          const item = bundle[name]!;
          hash.update(name).update(item.type === "chunk" ? item.code : item.source);
        }
        const template = readFileSync(new URL("./src/sw.js", import.meta.url), "utf8");
        const source = template
          .replace("__VERSION__", hash.digest("hex").slice(0, 16))
          .replace("__FILES__", JSON.stringify(files));
        this.emitFile({ type: "asset", fileName: "sw.js", source });
      },
    },
  };
}

export default defineConfig({
  base: "./",
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  worker: { format: "es" },
  plugins: [serviceWorker()],
});
