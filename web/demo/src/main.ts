// Assembles the page: what starts a run, and what each run shows.

import type { ModelInfo, Progress } from "esolm";
import { alertProblem, announce, clearProblem } from "./announce";
import { Chat } from "./chat";
import { Controls } from "./controls";
import { button, element, input, select, setText } from "./dom";
import { Engine, isAbort, sentence, type ModelFiles } from "./engine";
import { fetchTrace, onDrop, readAs, sortOut } from "./files";
import { Lanes } from "./lanes";
import { RACERS, outcome, ownNote, racers } from "./race";
import { PRESETS, STORY, fromHash, randomSeed, request, toHash, type Settings } from "./settings";
import { Stage } from "./stage";
import type { Trace } from "./trace";
import { count, megabytes, wayNote } from "./words";

const stage = new Stage();
const controls = new Controls(() => remember());
const engine = new Engine(showProgress, showModel);
const compare = new Lanes(
  "compare-lanes",
  [
    { title: "α₀ = 0", note: "all from left to right" },
    { title: "α₀ = 0.25", note: "a quarter by diffusion" },
    { title: "α₀ = 1", note: "all by diffusion" },
  ],
  false,
);
const chat = new Chat({
  withModel: (task) => alone((signal) => engine.use(controls.read(), signal, (model) => task(model, signal))),
  stop: () => current?.abort(new DOMException("stopped", "AbortError")),
});
const race = new Lanes("race-lanes", RACERS, true);
const SHARES = [0, 0.25, 1];

/** Bytes that a wasm module can address. */
const MOST_OF_WASM = 4e9;

/** Cancels the current task; only one runs at a time. */
let current: AbortController | null = null;

function showProgress({ phase, loaded, total, fromCache }: Progress): void {
  const bar = element("progress", HTMLProgressElement);
  bar.classList.remove("idle");
  if (total) bar.value = Math.min(1, loaded / total);
  else bar.removeAttribute("value");
  const size = total ? `${megabytes(loaded)} of ${megabytes(total)}` : megabytes(loaded);
  const words = {
    wasm: "Fetching the program",
    download: fromCache ? "Reading the model from the browser’s cache" : "Downloading the model",
    load: "Preparing the model",
  };
  stage.busy(`${words[phase]}: ${size}`);
}

function placeOf({ device: { adapter, is_fallback, passed_over } }: ModelInfo): string {
  const [failed] = passed_over;
  if (failed) return `Runs on the processor, more slowly, because the graphics card (${failed.adapter.name}) does not work here: ${failed.reason}.`;
  if (!adapter) return is_fallback ? "Runs on the processor, more slowly, because WebGPU finds no graphics card here." : "Runs on the processor.";
  const imitated = adapter.kind === "software" ? " imitated by the processor" : "";
  return `Runs on a graphics card${imitated} (${adapter.name}) through WebGPU.`;
}

function loaded(): void {
  element("progress", HTMLProgressElement).classList.add("idle");
  stage.refresh();
}

function showModel(info: ModelInfo | null): void {
  loaded();
  chat.show(info);
  if (!info) {
    setText("runs-on", "Nothing is loaded now; the next run loads the model.");
    return;
  }
  const { device } = info;
  controls.recommend(info.recommended);
  controls.limit(info);
  const place = placeOf(info);
  const numbers = `Weights are kept as ${device.weights}, the cache as ${device.kv_cache}.`;
  setText("runs-on", `${place} ${numbers} The model has ${(info.parameters / 1e6).toFixed(1)} million parameters and sees ${count(info.length)} tokens.`);
  setText("machine-line", `${place} Weights: ${device.weights}.`);
  const note = wayNote(info);
  element("way-note", HTMLElement).hidden = note === null;
  setText("way-note", note ?? "");
  race.note(0, ownNote(info));
  button("race-run").disabled = info.family !== "esolm";
  button("compare-run").disabled = info.family !== "esolm";
}

function busy(on: boolean): void {
  button("stop").hidden = !on;
  button("write").textContent = on ? "Start over" : "Write";
}

/** Runs a task after ending any other; errors are shown as sentences. */
async function alone(task: (signal: AbortSignal) => Promise<void>): Promise<void> {
  current?.abort();
  const mine = new AbortController();
  current = mine;
  clearProblem();
  busy(true);
  try {
    await task(mine.signal);
  } catch (error) {
    if (isAbort(error)) {
      if (current === mine) announce("Stopped.");
    } else if (current === mine) {
      alertProblem(sentence(error));
    }
  } finally {
    if (current === mine) {
      current = null;
      busy(false);
      loaded();
    }
  }
}

function remember(): void {
  try {
    history.replaceState(null, "", `#${toHash(controls.read())}`);
  } catch {
    // A setting that is being typed may not be valid yet; the address keeps the last valid one.
  }
}

/** Settings for a run, with a new seed unless the visitor keeps the old one. */
function prepare(fresh: boolean): Settings {
  if (fresh && !controls.keepsSeed) controls.write({ seed: randomSeed() });
  const settings = controls.read();
  remember();
  return settings;
}

function write(fresh: boolean): Promise<void> {
  return alone(async (signal) => {
    const asked = prepare(fresh);
    // Invalid settings are reported before a model is loaded.
    request(asked, engine.info);
    if (!engine.info) stage.wait(asked.start === "infill" ? 64 : asked.length);
    let opened: Trace | null = null;
    try {
      const { info } = await engine.ready(asked, signal);
      // Loading a model of another family, or with a shorter context, may have changed the settings.
      const settings = controls.read();
      remember();
      await engine.run(
        settings,
        request(settings, info),
        {
          begun: (trace) => {
            opened = trace;
            stage.open(trace);
          },
          grown: (trace) => stage.grown(trace),
        },
        signal,
      );
    } finally {
      if (opened) stage.grown(opened);
    }
    // The page itself is cached for offline use once it has something to show.
    if ("serviceWorker" in navigator && import.meta.env.PROD) navigator.serviceWorker.register("./sw.js").catch(() => undefined);
  });
}

async function inLanes(lanes: Lanes, settings: Settings, requests: ReturnType<typeof request>[], status: string, signal: AbortSignal): Promise<void> {
  stage.player.pause();
  lanes.clear(settings.start === "infill" ? 32 : settings.length);
  for (const [index, options] of requests.entries()) {
    setText(status, `Running ${index + 1} of ${requests.length} …`);
    await engine.run(
      settings,
      options,
      { begun: (trace) => lanes.open(index, trace), grown: () => lanes.grown(index) },
      signal,
    );
    lanes.grown(index);
  }
}

function runCompare(): Promise<void> {
  button("compare-replay").hidden = true;
  return alone(async (signal) => {
    const settings = prepare(false);
    const requests = SHARES.map((alpha0) => ({ ...request(settings, engine.info), alpha0 }));
    await inLanes(compare, settings, requests, "compare-status", signal);
    compare.replay();
    button("compare-replay").hidden = false;
    const [least] = compare.results();
    setText("compare-status", least ? `All with seed ${settings.seed}, shown together at the same pace.` : "");
    announce("All three texts are written.");
  }).finally(() => settle("compare-status"));
}

function runRace(): Promise<void> {
  button("race-replay").hidden = true;
  return alone(async (signal) => {
    const asked = prepare(false);
    request(asked, engine.info);
    const { settings, requests } = await engine.use(asked, signal, async (model) => {
      // Loading a model may have changed the settings.
      const settings = controls.read();
      const { length } = await model.plan(request(settings, model.info));
      return { settings, requests: racers(settings, model.info, length) };
    });
    await inLanes(race, settings, requests, "race-status", signal);
    const slowed = race.replay();
    button("race-replay").hidden = false;
    const words = outcome(race.results());
    if (words === null) return;
    setText("race-status", `${words} ${slowed}`);
    announce(words);
  }).finally(() => settle("race-status"));
}

/** Marks a run that did not finish as stopped. */
function settle(status: string): void {
  if (element(status, HTMLElement).textContent.startsWith("Running")) setText(status, "Stopped before the end.");
}

async function take(files: File[]): Promise<void> {
  clearProblem();
  try {
    const found = await sortOut(files);
    if ("trace" in found) {
      current?.abort();
      stage.open(found.trace);
      element("stage", HTMLElement).scrollIntoView({ block: "nearest" });
      return;
    }
    await useModel({ ...found.model, ...readAs() });
  } catch (error) {
    alertProblem(sentence(error));
  }
}

/** Loads a model from an address, after telling the visitor how much memory it needs. */
async function takeAddress(): Promise<void> {
  const address = input("address").value.trim();
  if (address === "") return;
  setText("address-note", "");
  let model: ModelFiles | null = null;
  await alone(async (signal) => {
    const named = { name: address.split("/").filter(Boolean).at(-1) ?? address, source: address, ...readAs() };
    if (await fits(named, signal)) model = named;
  });
  if (model) await useModel(model);
}

/** Tells how much memory a model needs, and whether there is that much. If that cannot be said beforehand, loading the model will show it. */
async function fits(model: ModelFiles, signal: AbortSignal): Promise<boolean> {
  stage.busy("Looking up how much memory the model needs");
  const settings = controls.read();
  const needed = await engine.estimate(model, settings, signal);
  if (!needed) return true;
  const needs = `It takes about ${megabytes(needed.model)}, and ${megabytes(needed.cache)} for a text as long as it can be, with ${settings.weights} weights.`;
  setText("address-note", needs);
  if (needed.hasCard || needed.model + needed.cache <= MOST_OF_WASM) return true;
  alertProblem(`${needs} Without a graphics card this browser gives the page ${megabytes(MOST_OF_WASM)}. Keep the model’s numbers in fewer bits (under “What runs it”), or take a smaller model.`);
  return false;
}

async function useModel(model: ModelFiles | null): Promise<void> {
  current?.abort();
  // Another model begins another conversation.
  chat.restart();
  chat.show(null);
  // Set first, so that whatever starts while the old model is disposed of takes the new one.
  engine.own = model;
  await engine.forget();
  setText("model-name", model ? `In use: ${model.name}.` : "The small story model is in use.");
  button("default-model").hidden = model === null;
  await write(true);
}

async function share(): Promise<void> {
  remember();
  const label = button("share");
  const before = "Copy a link to these settings";
  try {
    await navigator.clipboard.writeText(location.href);
    label.textContent = "Copied";
    announce("The link is copied.");
  } catch {
    alertProblem("The browser did not let the page copy. The link is in the address bar; copy it from there.");
  }
  setTimeout(() => (label.textContent = before), 2000);
}

/** Applies the settings in the address, or opens the recorded run that it names. */
async function open(hash: string): Promise<void> {
  const place = new URLSearchParams(hash.replace(/^#/, "")).get("trace");
  if (place !== null) {
    try {
      stage.open(await fetchTrace(place));
    } catch (error) {
      alertProblem(sentence(error));
    }
    return;
  }
  const { settings, refused } = fromHash(hash);
  controls.write({ ...STORY, ...settings });
  controls.keepsSeed = false;
  const running = write(false);
  if (refused.length > 0) {
    alertProblem(`The link has settings that do not fit (${refused.join(", ")}). They keep their default values; check them below.`);
  }
  await running;
}

function connect(): void {
  button("write").addEventListener("click", () => void write(true));
  button("stop").addEventListener("click", () => current?.abort(new DOMException("stopped", "AbortError")));
  for (const name of Object.keys(PRESETS) as (keyof typeof PRESETS)[]) {
    button(`preset-${name}`).addEventListener("click", () => {
      controls.write(PRESETS[name]);
      void write(true);
    });
  }
  button("compare-run").addEventListener("click", () => void runCompare());
  button("compare-replay").addEventListener("click", () => void compare.replay());
  button("race-run").addEventListener("click", () => void runRace());
  button("race-replay").addEventListener("click", () => void race.replay());
  button("share").addEventListener("click", () => void share());
  button("default-model").addEventListener("click", () => void useModel(null));
  select("read-as").addEventListener("change", () => (element("read-block-label", HTMLElement).hidden = select("read-as").value !== "bd3lm"));
  const chooser = input("files");
  chooser.addEventListener("change", () => {
    void take([...(chooser.files ?? [])]);
    chooser.value = "";
  });
  element("address-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    void takeAddress();
  });
  onDrop(element("drop", HTMLElement), (files) => void take(files));
  // The address holds the settings, so links within the page scroll without changing it.
  for (const link of document.querySelectorAll<HTMLAnchorElement>("a[href^='#']")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = element(link.hash.slice(1), HTMLElement);
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
      target.scrollIntoView({ block: "start" });
    });
  }
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) void open(location.hash);
  });
}

connect();
void open(location.hash);
