// Serves the measured page, both engines and the model from this machine alone.
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";

const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };
const PAGE = '<!doctype html><title>bench</title><link rel="icon" href="data:,"><script type="module" src="/page.mjs"></script>';

/** `folders`: path prefix to folder. */
export async function serve(folders, page) {
  const server = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const headers = { "content-type": TYPES[path.extname(pathname)] ?? "application/octet-stream", "cache-control": "no-store" };
    if (pathname === "/") {
      response.writeHead(200, { "content-type": "text/html" }).end(PAGE);
      return;
    }
    const [, prefix, ...rest] = decodeURIComponent(pathname).split("/");
    const file = pathname === "/page.mjs" ? page : folders[prefix] && path.join(folders[prefix], path.join("/", ...rest));
    try {
      response.writeHead(200, headers).end(await readFile(file));
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://localhost:${server.address().port}/`, close: () => server.close() };
}
