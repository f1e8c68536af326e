// Chooses which of the drawn tokens are revealed, and writes them where the next pass reads them. A group is the sampled rows of one
// sequence; only rows whose places hold the mask token count. The `least` most confident of them are revealed, ties going to the earlier row,
// and so is every row whose confidence reaches the bound. A token drawn from non-finite logits has the highest confidence, so that the host
// finds it. One workgroup per group. Twin: `choose` of crates/esolm-core/src/reveal.rs.
{{row}}
@group(0) @binding(0) var<storage, read_write> rows: array<Row>; // of the pass, sampled rows first
@group(0) @binding(1) var<storage, read_write> drawn: array<u32>; // indexed like tokens: the token drawn for each place
@group(0) @binding(2) var<storage, read_write> confidences: array<u32>; // [sampled rows]
@group(0) @binding(3) var<storage, read_write> groups: array<vec4<u32>>; // first row, rows, least, unused
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> outcome: array<u32>; // [groups] masks left, then [sampled rows] the revealed token or the mask token
struct Info {
    groups: u32,
    mask_index: u32,
    bound: u32, // confidence from which a token is always revealed
    pad: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(6) var<uniform> info: Info;

const DIGITS: u32 = 256u;
var<workgroup> bins: array<atomic<u32>, DIGITS>;
var<workgroup> ties: array<u32, WG>;
var<workgroup> masked: atomic<u32>;
var<workgroup> left: atomic<u32>;
// The digit of the least confident wanted row, and the number of rows with a higher digit.
var<workgroup> crossed: u32;
var<workgroup> above: u32;

fn is_masked(s: u32) -> bool {
    return tokens[rows[s].dest] == info.mask_index;
}

fn confidence(s: u32) -> u32 {
    return select(confidences[s], BROKEN, drawn[rows[s].dest] == NO_TOKEN);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let g = info.origin.x + place.x;
    if (g >= info.groups) {
        return;
    }
    let first = groups[g].x;
    let count = groups[g].y;
    // Each lane takes a run of adjacent rows, whose tokens no other lane reads or writes.
    let each = (count + WG - 1u) / WG;
    let start = first + min(lane * each, count);
    let end = first + min((lane + 1u) * each, count);
    if (lane == 0u) {
        atomicStore(&masked, 0u);
        atomicStore(&left, 0u);
    }
    workgroupBarrier();
    var own = 0u;
    for (var s = start; s < end; s++) {
        own += select(0u, 1u, is_masked(s));
    }
    atomicAdd(&masked, own);
    workgroupBarrier();
    // The confidence of the last wanted row, found digit by digit from the highest, and how many rows of that confidence are wanted.
    var wanted = min(groups[g].z, atomicLoad(&masked));
    var last = 0u;
    for (var level = 0u; level < 4u; level++) {
        let shift = 24u - 8u * level;
        let above_digit = 0xffffff00u << shift;
        for (var i = lane; i < DIGITS; i += WG) {
            atomicStore(&bins[i], 0u);
        }
        workgroupBarrier();
        for (var s = start; s < end; s++) {
            let own_confidence = confidence(s);
            if (is_masked(s) && (own_confidence & above_digit) == last) {
                atomicAdd(&bins[(own_confidence >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var sum = 0u;
            var digit = DIGITS - 1u;
            for (; digit > 0u; digit--) {
                let here = atomicLoad(&bins[digit]);
                if (sum + here >= wanted) {
                    break;
                }
                sum += here;
            }
            crossed = digit;
            above = sum;
        }
        workgroupBarrier();
        last |= crossed << shift;
        wanted -= above;
    }
    own = 0u;
    for (var s = start; s < end; s++) {
        own += select(0u, 1u, is_masked(s) && confidence(s) == last);
    }
    ties[lane] = own;
    workgroupBarrier();
    var tie = 0u;
    for (var other = 0u; other < WG; other++) {
        tie += select(0u, ties[other], other < lane);
    }
    var kept_masked = 0u;
    for (var s = start; s < end; s++) {
        var token = info.mask_index;
        if (is_masked(s)) {
            let own_confidence = confidence(s);
            var is_chosen = own_confidence > last || own_confidence >= info.bound;
            if (own_confidence == last) {
                is_chosen = is_chosen || tie < wanted;
                tie += 1u;
            }
            if (is_chosen) {
                let dest = rows[s].dest;
                token = drawn[dest];
                tokens[dest] = token;
            } else {
                kept_masked += 1u;
            }
        }
        outcome[info.groups + s] = token;
    }
    atomicAdd(&left, kept_masked);
    workgroupBarrier();
    if (lane == 0u) {
        outcome[g] = atomicLoad(&left);
    }
}
