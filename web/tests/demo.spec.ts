// The page on recorded runs: everything it shows follows from a trace, so no model is needed here.

import { expect, test, type Page } from "@playwright/test";
import { byNumber, choose, expected, fixture, openTrace, positions, recorded, scrub, violations, written } from "./demo/helpers.js";

const story = recorded(fixture("story.jsonl"));
const infill = recorded(fixture("infill.jsonl"));

test.use({ serviceWorkers: "block" });

test("a recorded run plays to its end and reads as its text", async ({ page }) => {
  await openTrace(page, story.text);
  await expect(page.locator("#play")).toHaveAccessibleName("Pause");
  await page.locator("#speed").selectOption("40");
  await expect(page.locator("#timeline")).toHaveValue(String(story.steps.length));
  await expect(page.locator("#play")).toHaveAccessibleName("Play");
  const shown = await page.locator("#cells .cell:not(.special)").allTextContents();
  expect(shown.join("").replaceAll("↵", "")).toBe(story.footer.text[0]);
  await page.locator("#speed").selectOption("2");
  await page.locator("#play").click();
  await expect.poll(async () => Number(await page.locator("#timeline").inputValue())).toBeLessThan(story.steps.length);
});

test("each step shows exactly the cells that are known then", async ({ page }) => {
  for (const run of [story, infill]) {
    await openTrace(page, run.text);
    for (const shown of [0, 1, 7, Math.floor(run.steps.length / 2), run.steps.length - 1, run.steps.length]) {
      await scrub(page, shown);
      const { known, fresh } = expected(run, shown);
      expect((await positions(page, ".known")).sort(byNumber)).toEqual(known);
      expect((await positions(page, ".fresh")).sort(byNumber)).toEqual(fresh);
      expect((await positions(page, ".masked")).length).toBe(run.header.length - known.length);
      await expect(page.locator("#known")).toHaveText(`${known.length} of ${run.header.length}`);
    }
    const given = run.header.known[0]!.map(([position]) => position);
    expect(await positions(page, ".given")).toEqual(given);
    for (const phase of ["diffusion", "sequential"] as const) {
      const drawn = run.steps.filter((step) => step.phase === phase).flatMap((step) => step.revealed.map((item) => item.position));
      expect(await positions(page, `.${phase}`)).toEqual(drawn.sort(byNumber));
    }
    await page.unrouteAll();
    await page.goto("about:blank");
  }
});

test("what is not written yet is not in the page", async ({ page }) => {
  await openTrace(page, story.text);
  await scrub(page, 0);
  expect((await page.locator("#cells").innerText()).trim()).toBe("start");
  await expect(page.locator("#cells .cell.masked").first()).toHaveAccessibleName("Blank, not written yet");
});

test("space plays and pauses, arrows step, and the text can be walked through", async ({ page }) => {
  await openTrace(page, story.text);
  const timeline = page.locator("#timeline");
  await page.keyboard.press("Space");
  await expect(page.locator("#play")).toHaveAccessibleName("Play");
  await scrub(page, 10);
  await timeline.evaluate((range) => (range as HTMLElement).blur());
  await page.keyboard.press("ArrowRight");
  await expect(timeline).toHaveValue("11");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowLeft");
  await expect(timeline).toHaveValue("9");
  await page.keyboard.press("Space");
  await expect(page.locator("#play")).toHaveAccessibleName("Pause");
  // A focused button is pressed only once, not again by the shortcut.
  await page.locator("#play").focus();
  await page.keyboard.press("Space");
  await expect(page.locator("#play")).toHaveAccessibleName("Play");
  // In a field, keys type.
  await page.locator("#seed").fill("7");
  await page.locator("#seed").press("ArrowLeft");
  await page.locator("#seed").pressSequentially(" ");
  await expect(page.locator("#play")).toHaveAccessibleName("Play");

  await scrub(page, story.steps.length);
  await page.locator("#cells .cell[tabindex='0']").focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#cells .cell[data-position='2']")).toBeFocused();
  await expect(timeline).toHaveValue(String(story.steps.length));
  await expect(page.locator("#facts")).toContainText("position 2 ");
  await page.keyboard.press("ArrowDown");
  const below = await page.evaluate(() => Number((document.activeElement as HTMLElement).dataset.position));
  expect(below).toBeGreaterThan(4);
  await page.keyboard.press("End");
  await expect(page.locator(`#cells .cell[data-position='${story.header.length - 1}']`)).toBeFocused();
  expect(await page.locator("#cells [aria-selected=true]").count()).toBe(1);
});

test("pointing at a cell tells its token, step, position and slot", async ({ page }) => {
  await openTrace(page, story.text);
  await scrub(page, story.steps.length);
  const order = [...story.header.known[0]!.map(([position]) => position), ...story.steps.flatMap((step) => step.revealed.map((item) => item.position))];
  for (const index of [0, 5, 40, story.steps.length - 1]) {
    const step = story.steps[index]!;
    const { position, token } = step.revealed[0]!;
    await page.locator(`#cells .cell[data-position='${position}'] .token`).hover();
    const name = story.footer.pieces[token]!.replace(/^ /, "␣").replaceAll("\n", "↵");
    const how = step.phase === "diffusion" ? "by diffusion" : "left to right";
    await expect(page.locator("#facts")).toHaveText(`“${name}”: written in step ${index + 1}, ${how} · position ${position} · slot ${order.indexOf(position)}`);
  }
  await page.locator("#cells .cell[data-position='0'] .token").hover();
  await expect(page.locator("#facts")).toContainText("given · position 0 · slot 0");
  const later = story.steps.at(-1)!.revealed[0]!.position;
  await scrub(page, 3);
  await page.locator(`#cells .cell[data-position='${later}'] .token`).hover();
  await expect(page.locator("#facts")).toContainText(`A blank: will be written in step ${story.steps.length} · position ${later}`);
});

test("counts are those of the trace", async ({ page }) => {
  for (const run of [story, infill]) {
    await openTrace(page, run.text);
    for (const shown of [1, 2, 9, run.steps.length]) {
      await scrub(page, shown);
      const rows = run.steps.slice(0, shown).reduce((sum, step) => sum + step.rows, 0);
      const full = shown * run.header.length;
      await expect(page.locator("#computed")).toHaveText(rows.toLocaleString("en"));
      await expect(page.locator("#uncached")).toHaveText(full.toLocaleString("en"));
      await expect(page.locator("#ratio")).toContainText(String(full / rows >= 10 ? Math.round(full / rows) : Math.round((full / rows) * 10) / 10));
      await checkSlots(page, run.steps[shown - 1]!, run.header.length);
    }
    await page.unrouteAll();
    await page.goto("about:blank");
  }
});

/** Checks the slot strip: slots from the cache plus those entering it are the trace's cache after the step, computed ones its rows. */
async function checkSlots(page: Page, step: { rows: number; cache_length: number }, length: number): Promise<void> {
  const words = await page.locator("#slots").getAttribute("aria-label");
  const numbers = /: (\d+) slots? taken from the cache, (\d+) tokens? and (\d+) blanks? computed, (\d+) slots? not there yet/.exec(words ?? "");
  expect(numbers, words ?? "").not.toBeNull();
  const [cached, entering, blanks, absent] = numbers!.slice(1).map(Number) as [number, number, number, number];
  expect(cached + entering).toBe(step.cache_length);
  expect(entering + blanks).toBe(step.rows);
  expect(cached + entering + blanks + absent).toBe(length);
}

test("an MDLM computes everything in every step, and the page says so", async ({ page }) => {
  const length = story.header.length;
  const text = written({
    header: { ...story.header, family: "mdlm" },
    steps: story.steps.map((step) => ({ ...step, phase: "diffusion", rows: length, cache_length: 0 })),
    footer: story.footer,
  });
  await openTrace(page, text);
  await scrub(page, 12);
  await expect(page.locator("#computed")).toHaveText((12 * length).toLocaleString("en"));
  await expect(page.locator("#ratio")).toContainText("no cache");
  await expect(page.locator("#slots")).toHaveAccessibleName(/there is no cache, .* 0 slots not there yet/);
  await expect(page.locator("#origin")).not.toContainText("more than this page can tell");
});

test("an AR model's run goes left to right", async ({ page }) => {
  const tokens = [0, 5, 6, 7, 8];
  const text = written({
    header: { ...story.header, family: "ar", alpha_0: null, length: 5, nfe: 4, known: [[]] },
    steps: tokens.slice(1).map((token, step) => ({
      step, steps: 4, phase: "sequential", revealed: [{ sequence: 0, position: step + 1, token }], rows: 1, cache_length: step + 1, seconds: step / 10,
    })),
    footer: { tokens: [tokens], text: ["abcd"], interrupted: false, seconds: 1, pieces: { 0: "<|endoftext|>", 5: "a", 6: "b", 7: "c", 8: "d" } },
  });
  await openTrace(page, text);
  await scrub(page, 3);
  expect(await positions(page, ".known")).toEqual([0, 1, 2, 3]);
  await expect(page.locator("#computed")).toHaveText("3");
  await expect(page.locator("#phase")).toHaveText("Left to right");
  await expect(page.locator("#slots")).toHaveAccessibleName(/2 slots taken from the cache, 1 token and 0 blanks computed/);
  await expect(page.locator("#origin")).not.toContainText("more than this page can tell");
});

test("a SetDLM's run shows the window that each step drew at", async ({ page }) => {
  const tokens = [0, 5, 6, 7, 8];
  const reveal = (...positions: number[]) => positions.map((position) => ({ sequence: 0, position, token: tokens[position]! }));
  const window = (...positions: number[]) => positions.map((position) => [0, position]);
  const base = { steps: 2, phase: "diffusion", seconds: 0.1 };
  const text = written({
    header: { ...story.header, family: "setdlm", alpha_0: 1, schedule: "confidence", length: 5, nfe: 2, known: [[[0, 0]]] },
    steps: [
      { ...base, step: 0, window: window(1, 2, 3), revealed: reveal(1, 3), rows: 4, cache_length: 1 },
      { ...base, step: 1, window: window(2, 4), revealed: reveal(2, 4), rows: 4, cache_length: 3 },
    ],
    footer: { tokens: [tokens], text: ["abcd"], interrupted: false, seconds: 1, pieces: { 0: "<|endoftext|>", 5: "a", 6: "b", 7: "c", 8: "d" } },
  });
  await openTrace(page, text);
  await scrub(page, 1);
  expect(await positions(page, "[data-window]")).toEqual([1, 2, 3]);
  expect(await positions(page, ".known")).toEqual([0, 1, 3]);
  await expect(page.locator("#caption")).toContainText("somewhere in their window");
  await expect(page.locator("#slots")).toHaveAccessibleName(/0 slots taken from the cache, 1 token and 3 blanks computed/);
  await scrub(page, 2);
  expect(await positions(page, "[data-window]")).toEqual([2, 4]);
  await expect(page.locator("#computed")).toHaveText("8");
  await expect(page.locator("#slots")).toHaveAccessibleName(/1 slot taken from the cache, 2 tokens and 2 blanks computed/);
  await expect(page.locator("#origin")).not.toContainText("more than this page can tell");
  await scrub(page, 1);
  await expect(page.locator("#cells .cell[data-position='2']")).toHaveAccessibleName("Blank in the window, not written yet");
  await expect(page.locator("#cells .cell[data-position='4']")).toHaveAccessibleName("Blank, not written yet");
  await expect(page.locator("#window-legend")).toBeVisible();
  await scrub(page, 2);
  await expect(page.locator("#cells .cell[data-window].masked")).toHaveCount(0);
});

test("a long prompt that enters in steps of its own is counted", async ({ page }) => {
  const known = Array.from({ length: 520 }, (_, position) => [position, 5]);
  const step = { step: 0, steps: 2, phase: "prompt", revealed: [], rows: 512, cache_length: 512, seconds: 0.1 };
  const draw = { ...step, step: 1, phase: "diffusion", revealed: [{ sequence: 0, position: 520, token: 6 }, { sequence: 0, position: 521, token: 7 }], rows: 10, cache_length: 520, seconds: 0.2 };
  const footer = { tokens: [], text: ["x"], interrupted: false, seconds: 0.2, pieces: {} };
  await openTrace(page, written({ header: { ...story.header, length: 522, nfe: 2, known: [known] }, steps: [step, draw], footer }));
  await scrub(page, 2);
  await expect(page.locator("#computed")).toHaveText("522");
  await expect(page.locator("#slots")).toHaveAccessibleName(/512 slots taken from the cache, 8 tokens and 2 blanks computed/);
  await expect(page.locator("#origin")).not.toContainText("more than this page can tell");
});

test("of several texts one is chosen", async ({ page }) => {
  const second = (list: { sequence: number; position: number; token: number }[]) => list.map((item) => ({ ...item, sequence: 1 }));
  const text = written({
    header: { ...story.header, batch: 2, known: [story.header.known[0], story.header.known[0]] },
    steps: story.steps.map((step) => ({ ...step, rows: step.rows * 2, revealed: [...step.revealed, ...second(step.revealed)] })),
    footer: { ...story.footer, text: [story.footer.text[0], story.footer.text[0]] },
  });
  await openTrace(page, text);
  await scrub(page, 9);
  await page.getByLabel("Text", { exact: true }).selectOption({ label: "2 of 2" });
  expect((await positions(page, ".known")).sort(byNumber)).toEqual(expected(story, 9).known);
  const rows = story.steps.slice(0, 9).reduce((sum, step) => sum + step.rows, 0);
  await expect(page.locator("#computed")).toHaveText(String(rows * 2));
  await expect(page.locator("#uncached")).toHaveText((2 * 9 * story.header.length).toLocaleString("en"));
});

test("of several texts only those are shown anew that are drawn again", async ({ page }) => {
  const both = story.steps.map((step) => ({ ...step, rows: step.rows * 2, revealed: [...step.revealed, ...step.revealed.map((item) => ({ ...item, sequence: 1 }))] }));
  const again = story.steps.map((step) => ({ ...step, attempt: 1, revealed: step.revealed.map((item) => ({ ...item, sequence: 1 })) }));
  const header = { ...story.header, batch: 2, known: [story.header.known[0], story.header.known[0]] };
  const text = written({
    header: { ...header, attempt: 0, texts: [0, 1] },
    steps: [...both, { ...header, attempt: 1, texts: [1] }, ...again],
    footer: { ...story.footer, text: [story.footer.text[0], story.footer.text[0]] },
  });
  await openTrace(page, text);
  const steps = story.steps.length;
  const given = expected(story, 0).known;
  const all = expected(story, steps).known;
  for (const [label, shown, known] of [
    ["1 of 2", 9, expected(story, 9).known], ["1 of 2", steps, all], ["1 of 2", 2 * steps, all],
    ["2 of 2", 9, given], ["2 of 2", steps, given], ["2 of 2", steps + 9, expected(story, 9).known], ["2 of 2", 2 * steps, all],
  ] as const) {
    await page.getByLabel("Text", { exact: true }).selectOption({ label });
    await scrub(page, shown);
    expect((await positions(page, ".known")).sort(byNumber), `${label} after ${shown}`).toEqual(known);
  }
  await expect(page.locator("#timeline")).toHaveAttribute("max", String(2 * steps));
  // The first attempt's rows of the second text are counted, although they are not shown.
  const rows = story.steps.reduce((sum, step) => sum + step.rows, 0);
  await expect(page.locator("#computed")).toHaveText((3 * rows).toLocaleString("en"));

  await choose(page, "jump.jsonl", text.replace('"attempt":1,"texts"', '"attempt":2,"texts"'));
  await expect(page.getByRole("alert")).toContainText(`line ${steps + 2} begins another run`);
  await choose(page, "beyond.jsonl", text.replace('"texts":[1]', '"texts":[2]'));
  await expect(page.getByRole("alert")).toContainText(`line ${steps + 2} names a text (texts) that is not there`);
});

test("the picture of the whole run goes to a step", async ({ page }) => {
  await openTrace(page, story.text);
  const map = page.locator("#map");
  const box = (await map.boundingBox())!;
  await map.click({ position: { x: box.width / 2, y: box.height - 2 } });
  await expect(page.locator("#timeline")).toHaveValue(String(story.steps.length));
  await map.click({ position: { x: box.width / 2, y: box.height / 2 } });
  await expect.poll(async () => Math.abs(Number(await page.locator("#timeline").inputValue()) - story.steps.length / 2)).toBeLessThan(2);
});

for (const colorScheme of ["light", "dark"] as const) {
  test(`axe finds nothing to object to, ${colorScheme}`, async ({ browser, baseURL }) => {
    const context = await browser.newContext({ baseURL: baseURL!, colorScheme, serviceWorkers: "block", reducedMotion: "reduce" });
    const page = await context.newPage();
    await openTrace(page, story.text);
    const check = async (state: string): Promise<void> => {
      const problems = await violations(page);
      expect(problems, `${state}: ${JSON.stringify(problems, null, 1)}`).toEqual([]);
    };
    await scrub(page, 20);
    await check("in the diffusion phase");
    await scrub(page, 70);
    await page.locator("#cells .cell.known").nth(4).hover();
    await check("in the sequential phase");
    await choose(page, "broken.jsonl", "{");
    await expect(page.locator(".alert")).toBeVisible();
    await page.getByLabel("A text with gaps").check();
    await page.getByText("What runs it").click();
    await check("with a problem shown");
    await choose(page, "infill.jsonl", infill.text);
    await expect(page.locator("#origin")).toContainText("infill.jsonl");
    await check("with given words");
    await context.close();
  });
}

test("a phone of 360 pixels has nothing to scroll sideways", async ({ browser, baseURL }, info) => {
  const context = await browser.newContext({ baseURL: baseURL!, viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, serviceWorkers: "block" });
  const page = await context.newPage();
  await openTrace(page, story.text);
  await scrub(page, 40);
  for (const start of ["A beginning", "A text with gaps", "Nothing"]) {
    await page.getByLabel(start).check();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
  }
  const small = await page.locator("button:visible, select:visible").evaluateAll((all) => all.filter((item) => item.getBoundingClientRect().height < 24).map((item) => item.id));
  expect(small).toEqual([]);
  await page.locator("#cells .cell.known").nth(3).tap();
  await expect(page.locator("#facts")).toContainText("position");
  await info.attach("phone", { body: await page.screenshot({ fullPage: true }), contentType: "image/png" });
  await context.close();
});

test("with reduced motion nothing moves by itself", async ({ browser, baseURL }) => {
  const context = await browser.newContext({ baseURL: baseURL!, reducedMotion: "reduce", serviceWorkers: "block" });
  const page = await context.newPage();
  await openTrace(page, story.text);
  await expect(page.locator("#timeline")).toHaveValue(String(story.steps.length));
  await expect(page.locator("#play")).toHaveAccessibleName("Play");
  const moving = await page.locator("#cells .token").evaluateAll((all) =>
    all.filter((item) => getComputedStyle(item).transitionDuration !== "0s" || getComputedStyle(item).animationName !== "none"),
  );
  expect(moving).toHaveLength(0);
  await page.locator("#back").click();
  await expect(page.locator("#timeline")).toHaveValue(String(story.steps.length - 1));
  // Motion is still available on request.
  await page.locator("#to-start").click();
  await page.locator("#play").click();
  await expect.poll(async () => Number(await page.locator("#timeline").inputValue())).toBeGreaterThan(0);
  await context.close();
});

test("a screen reader hears the phases and the finished text, not each token", async ({ page }) => {
  await page.addInitScript(() => {
    const said: string[] = [];
    Object.assign(window, { said });
    document.addEventListener("DOMContentLoaded", () => {
      const live = document.getElementById("live")!;
      new MutationObserver(() => said.push(live.textContent)).observe(live, { childList: true, characterData: true, subtree: true });
    });
  });
  await openTrace(page, story.text);
  // A busy machine shows several steps at once, but not a whole phase.
  await page.locator("#speed").selectOption("16");
  await expect(page.locator("#timeline")).toHaveValue(String(story.steps.length));
  const said = await page.evaluate(() => (window as unknown as { said: string[] }).said);
  expect(said).toEqual([
    "A text of 128 tokens begins, 1 of them given.",
    "Diffusion: tokens appear anywhere in the text.",
    "Now the blanks are filled from left to right.",
    `Finished. ${story.footer.text[0]}`,
  ]);
});

test("files that do not fit get a sentence, and the page goes on", async ({ page }) => {
  await openTrace(page, story.text);
  const lines = story.text.trim().split("\n");
  const swapped = [lines[0], lines[2], lines[1], ...lines.slice(3)].join("\n");
  const twice = [lines[0], lines[1], lines[1]!.replace('"step":0', '"step":1'), ...lines.slice(3)].join("\n");
  const cases: [string, string, RegExp][] = [
    ["empty.jsonl", "", /empty\.jsonl is empty/],
    ["words.jsonl", "once upon a time", /line 1 is not JSON/],
    ["other.jsonl", '{"a":1}', /line 1 has no field “esolm_trace”/],
    ["newer.jsonl", lines[0]!.replace('"esolm_trace":1', '"esolm_trace":2'), /version 2 of the format/],
    ["cut.jsonl", lines.slice(0, 20).join("\n"), /the result is missing/],
    ["torn.jsonl", story.text.slice(0, 900), /is not JSON/],
    ["swapped.jsonl", swapped, /line 2 is not step 0/],
    ["twice.jsonl", twice, /line 3 reveals position \d+ of text 0 a second time/],
    ["outside.jsonl", story.text.replace('"length":128', '"length":16'), /outside the text/],
    ["huge.jsonl", story.text.replace('"length":128', '"length":99999999'), /has no length from 1 to/],
    ["picture.png", "x", /no weights and no recorded run .*picture\.png/],
    ["model.safetensors", "x", /came without config\.json/],
  ];
  for (const [name, content, sentence] of cases) {
    await choose(page, name, content);
    await expect(page.getByRole("alert")).toContainText(sentence);
  }
  await expect(page.locator("#origin")).toContainText("run.jsonl");
  await page.getByRole("button", { name: "Dismiss" }).click();
  await expect(page.locator(".alert")).toHaveCount(0);
  await choose(page, "good.jsonl", infill.text);
  await expect(page.locator("#origin")).toContainText("good.jsonl");
});

test("a dropped file plays", async ({ page }) => {
  await openTrace(page, story.text);
  const data = await page.evaluateHandle((text) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], "dropped.jsonl"));
    return transfer;
  }, infill.text);
  for (const kind of ["dragenter", "dragover", "drop"]) await page.dispatchEvent("main", kind, { dataTransfer: data });
  await expect(page.locator("#origin")).toContainText("dropped.jsonl");
  await scrub(page, 0);
  await expect(page.locator("#caption")).toContainText(`${infill.header.known[0]!.length} tokens are given`);
});

test("the address holds the settings", async ({ page }) => {
  await openTrace(page, story.text);
  await page.getByLabel("A text with gaps").check();
  await page.getByLabel("Text with gaps", { exact: true }).fill("One ____{3} & two ____");
  await page.locator("#alpha0").fill("0.75");
  await page.locator("#seed").fill("18446744073709551615");
  const query = (): Promise<object> => page.evaluate(() => Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
  expect(await query()).toEqual({ start: "infill", infill: "One ____{3} & two ____", alpha0: "0.75", seed: "18446744073709551615" });
  await page.getByRole("link", { name: "Settings" }).click();
  expect(await query()).toMatchObject({ alpha0: "0.75" });
});

test("a recorded run that is not there gets a sentence", async ({ page }) => {
  await page.route("**/gone.jsonl", (route) => route.fulfill({ status: 404 }));
  await page.goto(`/#trace=gone.jsonl`);
  await expect(page.getByRole("alert")).toContainText("There is no recorded run at /gone.jsonl");
  await page.goto("about:blank");
  await page.goto(`/#trace=https://example.org/run.jsonl`);
  await expect(page.getByRole("alert")).toContainText("on another site");
});
