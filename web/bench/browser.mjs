// Starts the browser that is measured, and reads how much processor time it has used.
import { readdirSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const SOFTWARE = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

export class Browser {
  /** `software`: WebGPU on SwiftShader, for machines without a GPU. */
  static async start(executablePath, software) {
    const browser = new Browser();
    browser.server = await chromium.launchServer({
      executablePath,
      headless: true,
      args: [...FLAGS, ...(software ? SOFTWARE : ["--enable-features=Vulkan"])],
      // Playwright's own flags for machines without a GPU keep WebGPU off.
      ignoreDefaultArgs: ["--disable-gpu", "--use-angle=swiftshader-webgl", "--enable-unsafe-swiftshader"],
    });
    browser.browser = await chromium.connect(browser.server.wsEndpoint());
    browser.version = browser.browser.version();
    return browser;
  }

  async open(url) {
    const page = await this.browser.newPage();
    page.setDefaultTimeout(0);
    const messages = [];
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && messages.push(message.text()));
    page.on("pageerror", (error) => messages.push(error.message));
    await page.goto(url);
    await page.waitForFunction(() => globalThis.bench !== undefined);
    return { page, messages };
  }

  /** Milliseconds of processor time of the browser's processes so far; null where the system has no /proc. */
  processorTime() {
    if (process.platform !== "linux") return null;
    const children = new Map();
    const ticks = new Map();
    for (const id of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      let text;
      try {
        text = readFileSync(`/proc/${id}/stat`, "utf8");
      } catch {
        continue; // it has ended since the folder was listed
      }
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      children.set(fields[1], [...(children.get(fields[1]) ?? []), id]);
      ticks.set(id, Number(fields[11]) + Number(fields[12]));
    }
    const sum = (id) => (ticks.get(id) ?? 0) + (children.get(id) ?? []).reduce((total, child) => total + sum(child), 0);
    return sum(String(this.server.process().pid)) * 10; // a tick is 10 ms wherever Linux runs a browser
  }

  async close() {
    await this.browser.close();
    await this.server.close();
  }
}
