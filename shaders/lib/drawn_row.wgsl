// A row of logits that a token is drawn from, and the drawn token.
struct Info {
    first: u32,      // first sampled row of this launch
    count: u32,
    stride: u32,     // floats per row of logits
    columns: u32,    // columns in a workgroup's part of a row
    seed_low: u32,
    seed_high: u32,
    mask_index: u32,
    mask_logit: u32, // bits of the mask token's logit before division by the temperature
    scale: u32,      // bits of 1 / temperature
    rate: u32,       // bits of the number of steps per unit of logit
    top_k: u32,      // 0 keeps all
    top_p: u32,      // 2^32 p, 0 keeps all
    reach: u32,      // the last step that min-p keeps
    stage: u32,      // stage of this launch, if several workgroups share a row
    former: u32,     // stage of the previous launch
    drops: u32,      // 1 if the step at which the mass crosses top-p is left out
    skipped: u32,    // rows of logits before the first row's
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;

const LOWEST: f32 = -3.4028234663852886e38;
{{best}}
var<workgroup> best_key: atomic<u32>;
var<workgroup> best_token: atomic<u32>;
var<workgroup> broken: atomic<u32>;

// An order-preserving map from floats to unsigned integers, and its inverse.
fn ordered(value: f32) -> u32 {
    let bits = bitcast<u32>(select(value, 0.0, value == 0.0));
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}
fn disordered(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key & 0x80000000u) != 0u));
}

// A logit as it is, and divided by the temperature.
fn raw(base: u32, v: u32) -> f32 {
    return select(logits[base + v], bitcast<f32>(info.mask_logit), v == info.mask_index);
}
fn scaled(value: f32, v: u32) -> f32 {
    return select(value * bitcast<f32>(info.scale), -1e6, v == info.mask_index);
}

// The best of all lanes' tokens, ties going to the lower token.
fn best_of_all(lane: u32, mine: Best) -> Best {
    if (lane == 0u) {
        atomicStore(&best_key, 0u);
        atomicStore(&best_token, NO_TOKEN);
        atomicStore(&broken, 0u);
    }
    workgroupBarrier();
    let key = ordered(mine.score);
    atomicMax(&best_key, key);
    if (mine.is_broken) {
        atomicStore(&broken, 1u);
    }
    workgroupBarrier();
    let best = atomicLoad(&best_key);
    if (key == best) {
        atomicMin(&best_token, mine.token);
    }
    workgroupBarrier();
    return Best(disordered(best), atomicLoad(&best_token), atomicLoad(&broken) != 0u);
}

// The largest logit of the columns start..end, in `score`.
fn largest(lane: u32, base: u32, start: u32, end: u32) -> Best {
    var mine = Best(LOWEST, NO_TOKEN, false);
    for (var v = start + lane; v < end; v += WG) {
        let value = raw(base, v);
        mine.score = max(mine.score, value);
        mine.is_broken = mine.is_broken | is_broken(value);
    }
    let best = best_of_all(lane, mine);
    // The next call may reuse the workgroup variables.
    workgroupBarrier();
    return best;
}
