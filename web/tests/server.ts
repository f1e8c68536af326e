/** A small server for tests: folders of this repository, and responses made up by tests. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server as HttpServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

export type Answer = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

const types: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

export class Server implements AsyncDisposable {
  /** Method and path of every request, in order. */
  readonly log: string[] = [];
  readonly #server: HttpServer;
  readonly #answers = new Map<string, Answer>();
  readonly #folders: [string, string][] = [];

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        response.destroy(error instanceof Error ? error : undefined);
      });
    });
  }

  /** Starts on a free port of this machine. */
  static async start(): Promise<Server> {
    const server = new Server();
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    return server;
  }

  url(path: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${path}`;
  }

  /** Answers one path; the empty page is at `/` unless something else is put there. */
  on(path: string, answer: Answer): this {
    this.#answers.set(path, answer);
    return this;
  }

  text(path: string, type: string, body: string, headers: Record<string, string> = {}): this {
    return this.on(path, (_, response) => {
      response.writeHead(200, { "content-type": type, ...headers }).end(body);
    });
  }

  /** Serves the files of a folder below a path that ends with a slash. */
  folder(path: string, folder: string): this {
    this.#folders.push([path, folder]);
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname);
    this.log.push(`${request.method} ${path}`);
    const answer = this.#answers.get(path);
    if (answer !== undefined) return answer(request, response);
    for (const [prefix, folder] of this.#folders) {
      if (path.startsWith(prefix) && (await sendFile(join(folder, normalize(path.slice(prefix.length))), request, response))) return;
    }
    if (path === "/") {
      response.writeHead(200, { "content-type": types[".html"] }).end("<!doctype html><title>test</title>");
    } else {
      response.writeHead(404).end();
    }
  }
}

async function sendFile(path: string, request: IncomingMessage, response: ServerResponse): Promise<boolean> {
  const folder = await stat(path).then((facts) => facts.isDirectory(), () => false);
  const file = folder ? join(path, "index.html") : path;
  const facts = await stat(file).catch(() => null);
  if (!facts?.isFile()) return false;
  response.writeHead(200, {
    "content-type": types[extname(file)] ?? "application/octet-stream",
    "content-length": facts.size,
    "last-modified": facts.mtime.toUTCString(),
  });
  if (request.method === "HEAD") response.end();
  else createReadStream(file).pipe(response);
  return true;
}
