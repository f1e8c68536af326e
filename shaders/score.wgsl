// The log-probability of one given token for each scored row: its logit minus logsumexp over the vocabulary, with the mask token's
// logit set to -1e6. A row with a non-finite logit gives NaN. One workgroup and one result per row.
// Twin: `log_probability` of crates/esolm-core/src/passes.rs.
{{finite}}
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [count, stride]
@group(0) @binding(1) var<storage, read_write> wanted: array<u32>; // [scored rows of the pass] tokens
@group(0) @binding(2) var<storage, read_write> scores: array<u32>; // [scored rows of the pass] bits of floats
struct Info {
    first: u32,     // first scored row of this launch; logits start with it
    count: u32,
    stride: u32,    // floats per row of logits
    mask_index: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(3) var<uniform> info: Info;

var<workgroup> parts: array<f32, WG>;
var<workgroup> broken: array<u32, WG>;

fn logit(base: u32, v: u32) -> f32 {
    return select(logits[base + v], -1e6, v == info.mask_index);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let launch = info.origin.x + place.x;
    if (launch >= info.count) {
        return;
    }
    let base = launch * info.stride;
    var high = -3e38;
    for (var v = lane; v < VOCAB; v += WG) {
        high = max(high, logit(base, v));
    }
    var is_any_broken = false;
    for (var v = lane; v < VOCAB; v += WG) {
        is_any_broken = is_any_broken | ((v != info.mask_index) & is_broken(logits[base + v]));
    }
    broken[lane] = select(0u, 1u, is_any_broken);
    parts[lane] = high;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            parts[lane] = max(parts[lane], parts[lane + step]);
            broken[lane] |= broken[lane + step];
        }
        workgroupBarrier();
    }
    let top = parts[0];
    workgroupBarrier();
    var mass = 0.0;
    for (var v = lane; v < VOCAB; v += WG) {
        mass += exp(logit(base, v) - top);
    }
    parts[lane] = mass;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            parts[lane] += parts[lane + step];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let row = info.first + launch;
        let score = logit(base, wanted[row]) - top - log(parts[0]);
        scores[row] = select(bitcast<u32>(score), NAN, broken[0] != 0u);
    }
}
