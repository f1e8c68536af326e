// Draws a token for each sampled row and writes it where the next pass reads it. The mask token's logit is -1e6;
// logits are divided by the temperature; top-p keeps the smallest set whose mass reaches p (found by bisection over
// the ordered bit patterns of the logits: exact, no sort); then the largest logit + Gumbel noise wins, ties to the
// lower index. A row with a logit that is not finite gives NO_TOKEN, which the host finds where it reads the tokens.
// One workgroup a row. Twin: crates/esolm-core/src/sampler.rs.
{{row}}
{{philox}}
{{finite}}
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [rows, stride]
@group(0) @binding(1) var<storage, read_write> index: array<u32>;  // sampled rows of the pass
@group(0) @binding(2) var<storage, read_write> rows: array<Row>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
//@if SEEDED
@group(0) @binding(4) var<storage, read_write> draws: array<vec2<u32>>; // a sampled row: absolute sequence, noise position
//@end
//@if GIVEN
@group(0) @binding(4) var<storage, read_write> noise: array<f32>; // [sampled rows, V] Gumbel values
//@end
struct Info {
    first: u32,     // first sampled row of this launch; logits start with it
    count: u32,
    stride: u32,    // floats a row of logits
    mask_index: u32,
    seed_low: u32,
    seed_high: u32,
    scale: u32,     // bits of 1 / temperature
    top_p: u32,     // bits of p
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;

var<workgroup> sums: array<f32, WG>;
var<workgroup> best_value: array<f32, WG>;
var<workgroup> best_index: array<u32, WG>;
var<workgroup> broken: array<u32, WG>;

fn logit(base: u32, v: u32, scale: f32) -> f32 {
    return select(logits[base + v] * scale, -1e6, v == info.mask_index);
}

fn total(lane: u32, value: f32) -> f32 {
    sums[lane] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            sums[lane] += sums[lane + step];
        }
        workgroupBarrier();
    }
    let sum = sums[0];
    workgroupBarrier();
    return sum;
}

fn largest(lane: u32, value: f32) -> f32 {
    sums[lane] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            sums[lane] = max(sums[lane], sums[lane + step]);
        }
        workgroupBarrier();
    }
    let high = sums[0];
    workgroupBarrier();
    return high;
}

// Monotone map from floats to unsigned integers.
fn ordered(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let launch = info.origin.x + place.x;
    if (launch >= info.count) {
        return;
    }
    let s = info.first + launch;
    let base = launch * info.stride;
    let scale = bitcast<f32>(info.scale);
    var floor_key = 0u;
    //@if TOP_P
    var high = -3e38;
    for (var v = lane; v < VOCAB; v += WG) {
        high = max(high, logit(base, v, scale));
    }
    let top = largest(lane, high);
    var mass = 0.0;
    for (var v = lane; v < VOCAB; v += WG) {
        mass += exp(logit(base, v, scale) - top);
    }
    let wanted = total(lane, mass) * bitcast<f32>(info.top_p);
    // The largest key whose tail still holds the wanted mass; the bits are decided from the top.
    for (var bit = 0u; bit < 32u; bit++) {
        let candidate = floor_key | (0x80000000u >> bit);
        var kept = 0.0;
        for (var v = lane; v < VOCAB; v += WG) {
            let value = logit(base, v, scale);
            if (ordered(value) >= candidate) {
                kept += exp(value - top);
            }
        }
        if (total(lane, kept) >= wanted) {
            floor_key = candidate;
        }
    }
    // Rounding must never empty the set.
    floor_key = min(floor_key, ordered(top));
    //@end
    var best = -3e38;
    var best_v = NO_TOKEN;
    //@if SEEDED
    let draw = draws[s];
    for (var block = lane; block * 4u < VOCAB; block += WG) {
        let bits = philox(vec4<u32>(block, draw.y, draw.x, GUMBEL_DOMAIN), vec2<u32>(info.seed_low, info.seed_high));
        for (var j = 0u; j < 4u; j++) {
            let v = block * 4u + j;
            if (v < VOCAB) {
                let value = logit(base, v, scale);
                let score = value + gumbel(bits[j]);
                if (ordered(value) >= floor_key && score > best) {
                    best = score;
                    best_v = v;
                }
            }
        }
    }
    //@end
    //@if GIVEN
    for (var v = lane; v < VOCAB; v += WG) {
        let value = logit(base, v, scale);
        let score = value + noise[s * VOCAB + v];
        if (ordered(value) >= floor_key && score > best) {
            best = score;
            best_v = v;
        }
    }
    //@end
    //@if GREEDY
    for (var v = lane; v < VOCAB; v += WG) {
        let value = logit(base, v, scale);
        if (value > best) {
            best = value;
            best_v = v;
        }
    }
    //@end
    var is_any_broken = false;
    for (var v = lane; v < VOCAB; v += WG) {
        is_any_broken = is_any_broken | ((v != info.mask_index) & is_broken(logits[base + v]));
    }
    broken[lane] = select(0u, 1u, is_any_broken);
    best_value[lane] = best;
    best_index[lane] = best_v;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            let other = best_value[lane + step];
            let other_v = best_index[lane + step];
            if (other > best_value[lane] || (other == best_value[lane] && other_v < best_index[lane])) {
                best_value[lane] = other;
                best_index[lane] = other_v;
            }
            broken[lane] |= broken[lane + step];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        tokens[rows[index[s]].dest] = select(best_index[0], NO_TOKEN, broken[0] != 0u);
    }
}
