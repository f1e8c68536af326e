/** Without a GPU adapter, tests would pass on the CPU and prove nothing. */

import { chromium } from "@playwright/test";
import { chromiumPath, launchOptions } from "./chromium.js";
import { Server } from "./server.js";

export default async function setup(): Promise<void> {
  const path = chromiumPath();
  // WebGPU exists only in secure contexts, such as a server on this machine.
  await using server = await Server.start();
  const browser = await chromium.launch(launchOptions(path));
  try {
    const page = await browser.newPage();
    await page.goto(server.url("/"));
    const adapter = await page.evaluate(async () => {
      const { gpu } = navigator as unknown as { gpu?: { requestAdapter(): Promise<{ info: { description: string; vendor: string } } | null> } };
      const found = await gpu?.requestAdapter();
      return found ? `${found.info.vendor} ${found.info.description}` : null;
    });
    if (adapter === null) {
      throw new Error(`${path} (${browser.version()}) gives no WebGPU adapter, without which these tests show nothing; update it or name another in ESOLM_CHROMIUM.`);
    }
    console.log(`Chromium ${browser.version()}, WebGPU adapter: ${adapter}`);
  } finally {
    await browser.close();
  }
}
