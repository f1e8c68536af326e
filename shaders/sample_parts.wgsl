// Draws tokens as sample.wgsl does, for few rows with a large vocabulary: several workgroups share a row and exchange their results through
// memory between launches. First the largest logit, then the stages of top-k and top-p, then the best token of each part, from which
// sample_merge.wgsl takes one. The sums are integers, so the tokens equal those of a single workgroup.
{{philox}}
{{finite}}
@group(0) @binding(0) var<storage, read_write> logits: array<f32>; // [rows, stride]
@group(0) @binding(1) var<storage, read_write> bests: array<vec4<u32>>; // [rows, parts]
//@if SEEDED
@group(0) @binding(2) var<storage, read_write> draws: array<vec2<u32>>; // per sampled row: absolute sequence, noise position
//@end
//@if GIVEN
@group(0) @binding(2) var<storage, read_write> noise: array<f32>; // [sampled rows, V] Gumbel values
//@end
//@if FILTER
@group(0) @binding({{state}}) var<storage, read_write> state: array<atomic<u32>>; // [rows, STATE_WORDS]
//@end
{{drawn_row}}
//@if FILTER
{{kept}}
//@end
{{candidate}}

//@if FILTER
// Offsets of the words in a row's state.
const TOPS: u32 = 0u; // the largest logit of each part, in two words
const CROSSINGS: u32 = TOPS + 2u * MAX_PARTS; // of top-k and of top-p, in the fields of `Crossing`
const LAST_KEPT: u32 = CROSSINGS + 10u; // the last step that top-k keeps
const SUMS: u32 = LAST_KEPT + 2u; // per stage: lower words, then upper halves
const SUMS_OF_A_STAGE: u32 = BINS + BINS / 2u;
const TOP: u32 = 4u; // the launch before all stages
const DRAW: u32 = 5u; // the launch after them

// Sets `crossings` from the sums of the previous launch, and returns the resulting bin and last step.
fn found(stage: u32, lane: u32, words: u32, is_first: bool) -> vec2<u32> {
    var bin = 0u;
    var last = atomicLoad(&state[words + LAST_KEPT]);
    let sums = words + SUMS + stage * SUMS_OF_A_STAGE;
    for (var i = lane; i < BINS; i += WG) {
        atomicStore(&low[i], atomicLoad(&state[sums + i]));
        atomicStore(&high[i / 2u], atomicLoad(&state[sums + BINS + i / 2u]));
    }
    let coarse = words + CROSSINGS + (stage / 2u) * 5u;
    if (is_fine(stage)) {
        bin = atomicLoad(&state[coarse]);
    }
    if (lane == 0u) {
        crossings[stage & 1u] = Crossing(BINS, vec2<u32>(), vec2<u32>());
        if (is_fine(stage)) {
            let above = vec2<u32>(atomicLoad(&state[coarse + 1u]), atomicLoad(&state[coarse + 2u]));
            let bound = vec2<u32>(atomicLoad(&state[coarse + 3u]), atomicLoad(&state[coarse + 4u]));
            crossings[0] = Crossing(bin, above, bound);
        }
    }
    workgroupBarrier();
    find_crossing(stage, lane, bin);
    let crossing = crossings[stage & 1u];
    if (is_fine(stage)) {
        last = min(last, last_kept(stage, bin, crossing.bin));
    } else {
        bin = crossing.bin;
    }
    // For later launches. A workgroup that reads the new value in this launch computes the same one.
    if (is_first && lane == 0u && stage == FINE_COUNTS) {
        atomicStore(&state[words + LAST_KEPT], last);
    }
    if (is_first && lane == 0u && !is_fine(stage)) {
        atomicStore(&state[coarse], bin);
        atomicStore(&state[coarse + 1u], crossing.above.x);
        atomicStore(&state[coarse + 2u], crossing.above.y);
        atomicStore(&state[coarse + 3u], crossing.wanted.x);
        atomicStore(&state[coarse + 4u], crossing.wanted.y);
    }
    return vec2<u32>(bin, last);
}

// Adds the sums of this part to the row's.
fn hand_in(stage: u32, lane: u32, words: u32) {
    let sums = words + SUMS + stage * SUMS_OF_A_STAGE;
    for (var i = lane; i < BINS; i += WG) {
        let mine = atomicLoad(&low[i]);
        let upper = (atomicLoad(&high[i / 2u]) >> ((i % 2u) * 16u)) & 0xffffu;
        if (mine != 0u || upper != 0u) {
            let old = atomicAdd(&state[sums + i], mine);
            let carried = upper + select(0u, 1u, old + mine < old);
            if (carried != 0u) {
                atomicAdd(&state[sums + BINS + i / 2u], carried << ((i % 2u) * 16u));
            }
        }
    }
}
//@end

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let part = info.origin.x + place.x;
    let launch = info.origin.y + place.y;
    let count = (VOCAB + info.columns - 1u) / info.columns;
    if (launch >= info.count || part >= count) {
        return;
    }
    let base = (info.skipped + launch) * info.stride;
    //@if FILTER
    let words = launch * STATE_WORDS;
    //@end
    let start = part * info.columns;
    let end = min(start + info.columns, VOCAB);
    var top = Best(LOWEST, NO_TOKEN, false);
    var last = 0u;
    //@if FILTER
    if (info.stage == TOP) {
        for (var i = part * WG + lane; i < STAGES * SUMS_OF_A_STAGE; i += count * WG) {
            atomicStore(&state[words + SUMS + i], 0u);
        }
        top = largest(lane, base, start, end);
        if (lane == 0u) {
            atomicStore(&state[words + TOPS + part * 2u], bitcast<u32>(top.score));
            atomicStore(&state[words + TOPS + part * 2u + 1u], select(0u, 1u, top.is_broken));
            atomicStore(&state[words + LAST_KEPT], FAR);
        }
        return;
    }
    for (var other = lane; other < count; other += WG) {
        top.score = max(top.score, bitcast<f32>(atomicLoad(&state[words + TOPS + other * 2u])));
        top.is_broken = top.is_broken | (atomicLoad(&state[words + TOPS + other * 2u + 1u]) != 0u);
    }
    top = best_of_all(lane, top);
    fill_fractions(lane);
    last = FAR;
    var bin = 0u;
    if (info.former < STAGES) {
        let both = found(info.former, lane, words, part == 0u);
        bin = both.x;
        last = both.y;
    }
    if (info.stage < STAGES) {
        clear_bins(info.stage, lane);
        tally(info.stage, lane, base, start, end, top.score, bin, last);
        hand_in(info.stage, lane, words);
        return;
    }
    last = min(last, info.reach);
    //@end
    var best = best_of_all(lane, candidate(lane, info.first + launch, base, start, end, top.score, last));
    best.is_broken = best.is_broken | top.is_broken;
    if (lane == 0u) {
        bests[launch * count + part] = packed(best);
    }
}
