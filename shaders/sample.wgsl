// Draws a token for each sampled row and writes it where the next pass reads it. The mask token's logit becomes -1e6;
// logits are divided by the temperature; top-k, top-p and min-p leave tokens out; then the largest logit + Gumbel noise
// wins, ties going to the lower index. A row with a non-finite logit gives NO_TOKEN, which the host finds when it reads
// the tokens. One workgroup per row. Twin: crates/esolm-core/src/sampler.rs.
{{row}}
{{philox}}
{{finite}}
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [rows, stride]
@group(0) @binding(1) var<storage, read_write> rows: array<Row>; // of the pass, sampled rows first
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
//@if SEEDED
@group(0) @binding(3) var<storage, read_write> draws: array<vec2<u32>>; // per sampled row: absolute sequence, noise position
//@end
//@if GIVEN
@group(0) @binding(3) var<storage, read_write> noise: array<f32>; // [sampled rows, V] Gumbel values
//@end
{{drawn_row}}
//@if FILTER
{{kept}}
//@end
{{candidate}}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let launch = info.origin.x + place.x;
    if (launch >= info.count) {
        return;
    }
    let s = info.first + launch;
    let base = (info.skipped + launch) * info.stride;
    var top = Best(LOWEST, NO_TOKEN, false);
    var last = 0u;
    //@if FILTER
    top = largest(lane, base, 0u, VOCAB);
    fill_fractions(lane);
    last = cut(lane, base, VOCAB, top.score);
    //@end
    let best = best_of_all(lane, candidate(lane, s, base, 0u, VOCAB, top.score, last));
    if (lane == 0u) {
        tokens[rows[s].dest] = select(best.token, NO_TOKEN, top.is_broken | best.is_broken);
    }
}
