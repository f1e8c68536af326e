// From the times of all runs to what the documentation shows.

export const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Middle, least and largest. */
export const spread = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

const rounded = (value) => Number(value.toPrecision(3));
const all = (object) => JSON.parse(JSON.stringify(object, (_, value) => (typeof value === "number" && !Number.isInteger(value) ? rounded(value) : value)));

/** One pair of runs, the engine's and that of esolm just before it; both over the same steps. */
export function pair(engine, ours, indices) {
  const same = indices.map((i) => ours.times[i]);
  const cost = (run) => run.processor === null ? null : run.processor / run.times.length;
  return {
    mean_ms: mean(engine.times),
    median_ms: median(engine.times),
    processor_ms: cost(engine),
    esolm_mean_ms: mean(same),
    esolm_median_ms: median(same),
    esolm_processor_ms: cost(ours),
    steps: engine.times.length,
  };
}

/** Of all pairs of an engine on a plan. `perStep` is false where only the end of the whole generation is awaited. */
export function summary(pairs, perStep) {
  const of = (get) => (pairs.some((p) => get(p) === null || !Number.isFinite(get(p))) ? null : spread(pairs.map(get)));
  return {
    steps: pairs[0].steps,
    mean_ms: of((p) => p.mean_ms),
    median_ms: perStep ? of((p) => p.median_ms) : null,
    processor_ms: of((p) => p.processor_ms),
    times_esolm_mean: of((p) => p.mean_ms / p.esolm_mean_ms),
    times_esolm_median: perStep ? of((p) => p.median_ms / p.esolm_median_ms) : null,
    times_esolm_processor: of((p) => (p.processor_ms === null ? null : p.processor_ms / p.esolm_processor_ms)),
  };
}

const number = (value) => (value === null || value === undefined ? "" : value >= 100 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, (m) => (m.includes(".") ? "" : m)));
const range = (s) => (s ? `${number(s.median)} (${number(s.min)} to ${number(s.max)})` : "");
const row = (cells) => `| ${cells.join(" | ")} |`;

export function markdown(result) {
  const lines = [];
  for (const [id, plan] of Object.entries(result.plans)) {
    const { length, steps, alpha_0 } = plan.request;
    lines.push(`Length ${length}, T = ${steps}, alpha_0 = ${alpha_0}: ${plan.nfe} steps, ${number(plan.rows / plan.nfe)} rows a step on average.`, "");
    lines.push(row(["", "steps timed", "ms a step, mean", "median", "times esolm's mean", "times its median", "times its processor time"]), row(Array(7).fill("---")));
    for (const engine of result.engines.filter((e) => e.plans[id])) {
      const s = engine.plans[id];
      lines.push(row([engine.label, `${s.steps}`, range(s.mean_ms), range(s.median_ms), range(s.times_esolm_mean), range(s.times_esolm_median), range(s.times_esolm_processor)]));
    }
    lines.push("");
  }
  lines.push(row(["", "load, ms", "first step after it, ms", "GPU buffers, MB", "launches a step", "submits a step", "difference of logits, of the largest"]), row(Array(7).fill("---")));
  for (const engine of result.engines) {
    const { cold, gpu } = engine;
    const megabytes = gpu?.peak ? number(gpu.peak / 1e6) : "";
    const counts = gpu?.dispatches ? [number(gpu.dispatches), number(gpu.submits)] : ["", ""];
    const difference = engine.difference === undefined ? "" : engine.difference.toExponential(1);
    lines.push(row([engine.label, range(cold?.load), range(cold?.first), megabytes, ...counts, difference]));
  }
  return lines.join("\n") + "\n";
}

export const json = (result) => JSON.stringify(all(result), null, 1) + "\n";
