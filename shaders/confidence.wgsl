// The confidence in the token drawn for each sampled row: its share of the probability mass of all tokens, or of those that top-k, top-p
// and min-p keep, in units of 2^-31. Computed in integers, as in lib/kept.wgsl. A row whose place is already known gets 0, one with a
// non-finite logit BROKEN. One workgroup per row. Twin: `confidence` of crates/esolm-core/src/reveal.rs.
{{row}}
{{philox}}
{{finite}}
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [rows, stride]
@group(0) @binding(1) var<storage, read_write> rows: array<Row>; // of the pass, sampled rows first
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> drawn: array<u32>; // indexed like tokens: the token drawn for each place
@group(0) @binding(4) var<storage, read_write> confidences: array<u32>; // [sampled rows]
{{drawn_row}}
{{kept}}

// The weight of a token with this logit, if it is kept.
fn mass_of(logit: f32, top: f32, last: u32) -> vec2<u32> {
    let step = step_of(logit, top);
    var own = vec2<u32>();
    if (step <= last && step < FAR) {
        own = mass(step / BINS, vec2<u32>(share(step % BINS), 0u));
    }
    return own;
}

// 2^31 part / total, for a nonzero total.
fn ratio(part: vec2<u32>, total: vec2<u32>) -> u32 {
    var rest = part;
    var quotient = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        quotient = quotient << 1u;
        if (reaches(rest, total)) {
            rest = minus(rest, total);
            quotient |= 1u;
        }
        rest = plus(rest, rest);
    }
    return quotient;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let launch = info.origin.x + place.x;
    if (launch >= info.count) {
        return;
    }
    let s = info.first + launch;
    let base = launch * info.stride;
    let dest = rows[s].dest;
    let token = drawn[dest];
    // A place that is already known needs no confidence: its row has no columns.
    let end = select(0u, VOCAB, tokens[dest] == info.mask_index);
    let top = largest(lane, base, 0u, end);
    fill_fractions(lane);
    var last = FAR;
    //@if FILTER
    last = cut(lane, base, end, top.score);
    //@end
    var own = vec2<u32>();
    for (var v = lane; v < end; v += WG) {
        if (v != info.mask_index) {
            own = plus(own, mass_of(logits[base + v], top.score, last));
        }
    }
    parts[lane] = own;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            parts[lane] = plus(parts[lane], parts[lane + step]);
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let total = parts[0];
        var confidence = 0u;
        if (token < end && token != info.mask_index && (total.x | total.y) != 0u) {
            confidence = ratio(mass_of(logits[base + token], top.score, last), total);
        }
        confidences[s] = select(confidence, BROKEN, top.is_broken);
    }
}
