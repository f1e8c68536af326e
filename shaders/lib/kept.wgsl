// Which tokens top-k, top-p and min-p keep. Twin of crates/esolm-core/src/sampler/kept.rs, which explains what is counted and why it is
// exact. A workgroup finds the last step that is kept in a row or, if several share a row, contributes its part to the sums.
const BINS: u32 = 2048u;
const FAR: u32 = 4194304u;
// The sums of all bins, counts or masses. Their upper halves have 16 bits and share words in pairs.
var<workgroup> low: array<atomic<u32>, BINS>;
var<workgroup> high: array<atomic<u32>, BINS / 2u>;
// Sums of 64 bits, lower word first.
var<workgroup> parts: array<vec2<u32>, WG>;
struct Crossing {
    bin: u32, // BINS if the bound is not reached
    above: vec2<u32>, // the sum before that bin
    wanted: vec2<u32>, // the bound
}
// Those of a stage and of the previous one.
var<workgroup> crossings: array<Crossing, 2>;

fn step_of(value: f32, top: f32) -> u32 {
    return min(u32(min((top - value) * bitcast<f32>(info.rate), 4194304.0)), FAR);
}

fn share(fine: u32) -> u32 {
    let series = fine * 1453635u - ((fine * fine * 984u) >> 8u);
    return 1048576u - ((series + 131072u) >> 18u);
}

fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let lower = a.x + b.x;
    return vec2<u32>(lower, a.y + b.y + select(0u, 1u, lower < a.x));
}

fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn reaches(sum: vec2<u32>, bound: vec2<u32>) -> bool {
    return sum.y > bound.y || (sum.y == bound.y && sum.x >= bound.x);
}

// The upper 64 bits of a 96-bit product.
fn times(a: vec2<u32>, b: u32) -> vec2<u32> {
    return plus(vec2<u32>(a.y * b, mul_hi(a.y, b)), vec2<u32>(mul_hi(a.x, b), 0u));
}

// 2^31 times 2^(-i/64).
var<workgroup> fractions: array<u32, 64>;
fn fill_fractions(lane: u32) {
    for (var i = lane; i < 64u; i += WG) {
        var fraction = 0x80000000u;
        fraction = select(fraction, mul_hi(fraction, 4248701965u), (i & 1u) != 0u);
        fraction = select(fraction, mul_hi(fraction, 4202935003u), (i & 2u) != 0u);
        fraction = select(fraction, mul_hi(fraction, 4112874773u), (i & 4u) != 0u);
        fraction = select(fraction, mul_hi(fraction, 3938502376u), (i & 8u) != 0u);
        fraction = select(fraction, mul_hi(fraction, 3611622603u), (i & 16u) != 0u);
        fraction = select(fraction, mul_hi(fraction, 3037000500u), (i & 32u) != 0u);
        fractions[i] = fraction;
    }
    workgroupBarrier();
}

fn mass(bin: u32, shares: vec2<u32>) -> vec2<u32> {
    let product = times(vec2<u32>(shares.x << 20u, (shares.y << 20u) | (shares.x >> 12u)), fractions[bin % 64u]);
    let octaves = bin / 64u;
    return vec2<u32>((product.x >> octaves) | ((product.y << (31u - octaves)) << 1u), product.y >> octaves);
}

// The passes over the logits. A coarse one adds up the counts or masses of every bin, a fine one those of every step of the bin found.
const COUNTS: u32 = 0u;
const FINE_COUNTS: u32 = 1u;
const MASSES: u32 = 2u;
const FINE_MASSES: u32 = 3u;
const STAGES: u32 = 4u;

fn is_fine(stage: u32) -> bool {
    return (stage & 1u) != 0u;
}

// The first stage from `stage` on that these options need.
fn first_stage(stage: u32) -> u32 {
    var next = stage;
    if (next < MASSES && info.top_k == 0u) {
        next = MASSES;
    }
    if (next >= MASSES && info.top_p == 0u) {
        next = STAGES;
    }
    return next;
}

fn clear_bins(stage: u32, lane: u32) {
    for (var i = lane; i < BINS; i += WG) {
        atomicStore(&low[i], 0u);
        atomicStore(&high[i / 2u], 0u);
    }
    if (lane == 0u) {
        crossings[stage & 1u] = Crossing(BINS, vec2<u32>(), vec2<u32>());
    }
    workgroupBarrier();
}

fn add(bin: u32, amount: u32) {
    let old = atomicAdd(&low[bin], amount);
    if (old + amount < old) {
        atomicAdd(&high[bin / 2u], 1u << ((bin % 2u) * 16u));
    }
}

// Adds the tokens start..end of a row that lie no further than the step `last`.
fn tally(stage: u32, lane: u32, base: u32, start: u32, end: u32, top: f32, bin: u32, last: u32) {
    for (var v = start + lane; v < end; v += WG) {
        let step = step_of(raw(base, v), top);
        if (step <= last && step < FAR) {
            if (is_fine(stage)) {
                if (step / BINS == bin) {
                    atomicAdd(&low[step % BINS], 1u);
                }
            } else {
                add(step / BINS, select(1u, share(step % BINS), stage == MASSES));
            }
        }
    }
    workgroupBarrier();
}

// What bin i adds to a sum. In FINE_MASSES these are shares, which `is_reached` scales by the mass of the steps' bin.
fn amount(stage: u32, i: u32) -> vec2<u32> {
    let count = atomicLoad(&low[i]);
    if (stage == MASSES) {
        return mass(i, vec2<u32>(count, (atomicLoad(&high[i / 2u]) >> ((i % 2u) * 16u)) & 0xffffu));
    }
    let weight = select(1u, share(i), stage == FINE_MASSES);
    return vec2<u32>(count * weight, mul_hi(count, weight));
}

fn is_reached(stage: u32, bin: u32, sum: vec2<u32>, bound: vec2<u32>) -> bool {
    if (stage == FINE_MASSES) {
        return reaches(mass(bin, sum), bound);
    }
    return reaches(sum, bound);
}

// The last step that is kept if the sum of a fine stage crosses its bound at step `fine` of this bin.
fn last_kept(stage: u32, bin: u32, fine: u32) -> u32 {
    let crossed = bin * BINS + fine;
    return select(crossed, max(crossed, 1u) - 1u, stage == FINE_MASSES && info.drops != 0u);
}

// Where the sum over the bins crosses the bound.
fn find_crossing(stage: u32, lane: u32, bin: u32) {
    let each = BINS / WG;
    var own = vec2<u32>();
    for (var i = lane * each; i < (lane + 1u) * each; i++) {
        own = plus(own, amount(stage, i));
    }
    parts[lane] = own;
    workgroupBarrier();
    var before = vec2<u32>();
    var total = vec2<u32>();
    for (var other = 0u; other < WG; other++) {
        if (other == lane) {
            before = total;
        }
        total = plus(total, parts[other]);
    }
    var bound = vec2<u32>(info.top_k, 0u);
    if (stage == MASSES) {
        bound = times(total, info.top_p);
        if (info.drops != 0u) {
            // To exceed a bound is to reach the next integer.
            bound = plus(bound, vec2<u32>(1u, 0u));
        }
        bound.x = select(bound.x, 1u, bound.x == 0u && bound.y == 0u);
    }
    if (is_fine(stage)) {
        let coarse = crossings[(stage - 1u) & 1u];
        bound = minus(coarse.wanted, coarse.above);
    }
    var sum = before;
    var was_reached = is_reached(stage, bin, sum, bound);
    for (var i = lane * each; i < (lane + 1u) * each; i++) {
        let next = plus(sum, amount(stage, i));
        let now_reached = is_reached(stage, bin, next, bound);
        if (now_reached && !was_reached) {
            crossings[stage & 1u] = Crossing(i, sum, bound);
        }
        sum = next;
        was_reached = now_reached;
    }
    workgroupBarrier();
}

// The last step that is kept in a row's first `end` columns. `fractions` must be filled.
fn cut(lane: u32, base: u32, end: u32, top: f32) -> u32 {
    var last = FAR;
    var bin = 0u;
    // Two stages for top-k, then two for top-p. A loop, since compilers inline every call.
    for (var stage = first_stage(0u); stage < STAGES; stage = first_stage(stage + 1u)) {
        clear_bins(stage, lane);
        tally(stage, lane, base, 0u, end, top, bin, last);
        find_crossing(stage, lane, bin);
        if (is_fine(stage)) {
            last = min(last, last_kept(stage, bin, crossings[stage & 1u].bin));
        } else {
            bin = crossings[stage & 1u].bin;
        }
    }
    return min(last, info.reach);
}
