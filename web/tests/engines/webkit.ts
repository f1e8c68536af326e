/** WebKitGTK's MiniBrowser, driven by WebDriver, on a virtual display. */

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { Builder } from "selenium-webdriver";
import { endAll, type Tab } from "./tab.js";

const remedy = "on Debian `apt install webkit2gtk-driver xvfb` installs both";

function program(name: string, variable?: string): string {
  const named = variable === undefined ? undefined : process.env[variable];
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const found = (named ? [named] : folders.map((folder) => join(folder, name))).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${named ?? name} is not there, without which WebKitGTK is not tested; ${remedy}, or set ESOLM_WEBKIT=none to leave it out.`);
  return found;
}

/** Ends a process and waits until it has ended. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once("exit", resolve));
  child.kill();
  await exit;
}

/** Starts a display and returns its name. */
function display(path: string): { child: ChildProcess; name: Promise<string> } {
  // It picks a free number and reports it when ready.
  const child = spawn(path, ["-displayfd", "3", "-screen", "0", "1280x1024x24", "-nolisten", "tcp"], { stdio: ["ignore", "ignore", "ignore", "pipe"] });
  const name = new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${path} ended with code ${code} and gave no display`)));
    child.stdio[3]!.once("data", (number: Buffer) => resolve(`:${number.toString().trim()}`));
  });
  return { child, name };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits until the driver answers. */
async function answers(url: string, child: ChildProcess): Promise<void> {
  let failed: Error | null = null;
  child.once("error", (error) => (failed = error));
  child.once("exit", (code) => (failed ??= new Error(`WebKitWebDriver ended with code ${code} before it answered`)));
  while (failed === null) {
    const ready = await fetch(`${url}/status`).then((response) => response.ok, () => false);
    if (ready) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw failed;
}

export async function openWebKit(): Promise<Tab> {
  const paths = { driver: program("WebKitWebDriver", "ESOLM_WEBKIT"), display: program("Xvfb") };
  const ends: (() => unknown)[] = [];
  try {
    const screen = display(paths.display);
    ends.push(() => ended(screen.child));
    const port = await freePort();
    const driver = spawn(paths.driver, [`--port=${port}`], { env: { ...process.env, DISPLAY: await screen.name }, stdio: "ignore" });
    ends.push(() => ended(driver));
    const url = `http://127.0.0.1:${port}`;
    await answers(url, driver);
    // By default it starts the MiniBrowser that it came with.
    const browser = await new Builder().usingServer(url).withCapabilities({ browserName: "MiniBrowser" }).build();
    ends.push(() => browser.quit());
    // The tests have their own time limit.
    await browser.manage().setTimeouts({ script: 3_600_000, pageLoad: 300_000 });
    await browser.manage().window().setRect({ width: 1280, height: 1000 });
    const version = (await browser.getCapabilities()).get("browserVersion") as string;
    return {
      browser: `WebKitGTK ${version}`,
      goto: (to) => browser.get(to),
      evaluate: async <T, A>(work: (argument: A) => T | Promise<T>, argument: A) => {
        // A failure is returned as text too; otherwise WebDriver would make it an error of the driver.
        const found = await browser.executeAsyncScript<{ value: T } | { thrown: string }>(
          `const [argument, done] = arguments;
           Promise.resolve().then(() => (${work.toString()})(argument)).then((value) => done({ value }), (error) => done({ thrown: String(error) }));`,
          argument,
        );
        if ("thrown" in found) throw new Error(found.thrown);
        return found.value;
      },
      screenshot: async () => Buffer.from(await browser.takeScreenshot(), "base64"),
      [Symbol.asyncDispose]: () => endAll(ends),
    };
  } catch (error) {
    await endAll(ends).catch(() => undefined);
    throw error;
  }
}
