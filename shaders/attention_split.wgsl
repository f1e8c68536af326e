// Prefix attention over the any-order KV cache for few rows: out [rows, D4] = softmax(q k^T / sqrt(head_dim)) v over slots 0..prefix and
// the row's own range, which is numbered from `prefix` on. One workgroup per row and head, BLOCK slots at a time: first the scores, with
// PARTS lanes per slot, each taking every PARTS-th column group; then the weighted sum, with one lane per column group and every
// GROUPS-th slot.
{{row}}
@group(0) @binding(0) var<storage, read_write> q: array<vec4<f32>>;
{{cache}}
@group(0) @binding(3) var<storage, read_write> rows: array<Row>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    slots: u32, // cache slots per sequence
    pad0: u32,
    pad1: u32,
    pad2: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(5) var<uniform> info: Info;

const GROUPS: u32 = WG / HEAD4;
const LOWEST: f32 = -1e30;
var<workgroup> count: u32; // slots that the row attends to
var<workgroup> products: array<f32, BLOCK * PARTS>; // each lane's part of a score [slots of the block, PARTS]
var<workgroup> top: atomic<u32>; // the rank of the largest score so far
var<workgroup> weights: array<f32, BLOCK>; // scores, then the weight of each slot
var<workgroup> sums: array<vec4<f32>, WG>; // [GROUPS, HEAD4]
var<workgroup> masses: array<f32, WG>;

// Maps floats to integers of the same order and back, so that an atomic can find the largest.
fn rank_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}
fn of_rank(rank: u32) -> f32 {
    return bitcast<f32>(rank ^ select(0xffffffffu, 0x80000000u, rank >= 0x80000000u));
}

//@if GROUPED
// Each head of k and v is read by GROUP heads of q, which are treated as rows that see the same slots and so share loads: row r here is
// query head r % GROUP of the group in row r / GROUP of the pass. D4 is the width of k and v.
fn query4(r: u32, head4: u32) -> u32 {
    return (r / GROUP * D4 + head4) * GROUP + r % GROUP * HEAD4;
}
//@end
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = info.origin + place;
    let r = group.y;
    //@if GROUPED
    let row = rows[r / GROUP];
    //@else
    let row = rows[r];
    //@end
    let head4 = group.x * HEAD4;
    let base = row.sequence * info.slots * D4 + head4;
    if (lane == 0u) {
        count = row.prefix + (row.own_end - row.own_start);
        atomicStore(&top, rank_of(LOWEST));
    }
    let all = workgroupUniformLoad(&count);
    let beyond = row.own_start - row.prefix; // offset of the own range, which never starts before the prefix ends
    let part = lane % PARTS;
    // Lanes with one column group less than the others read the last one with weight 0.
    //@unroll c OWN
    let column$c = min(part + $cu * PARTS, HEAD4 - 1u);
    //@if GROUPED
    let q$c = q[query4(r, head4) + column$c] * select(0.0, SCALE, part + $cu * PARTS < HEAD4);
    //@else
    let q$c = q[r * D4 + head4 + column$c] * select(0.0, SCALE, part + $cu * PARTS < HEAD4);
    //@end
    //@end
    let column = lane % HEAD4;
    var high = LOWEST;
    var mass = 0.0;
    var sum = vec4<f32>(0.0);
    for (var first = 0u; first < all; first += BLOCK) {
        let left = min(all - first, BLOCK);
        // Several at once, to hide memory latency.
        for (var i = lane; i < left * PARTS; i += WG * AT_ONCE) {
            //@unroll j AT_ONCE
            let i$j = min(i + $ju * WG, left * PARTS - 1u);
            let t$j = first + i$j / PARTS;
            let at$j = base + (t$j + select(beyond, 0u, t$j < row.prefix)) * D4;
            var score$j = 0.0;
            //@unroll c OWN
            score$j += dot(q$c, load_k(at$j + column$c));
            //@end
            if (i + $ju * WG < left * PARTS) {
                products[i$j] = score$j;
            }
            //@end
        }
        workgroupBarrier();
        for (var i = lane; i < left; i += WG) {
            var score = products[i * PARTS];
            for (var j = 1u; j < PARTS; j++) {
                score += products[i * PARTS + j];
            }
            weights[i] = score;
            atomicMax(&top, rank_of(score));
        }
        workgroupBarrier();
        let highest = of_rank(atomicLoad(&top));
        for (var i = lane; i < left; i += WG) {
            weights[i] = exp(weights[i] - highest);
        }
        let shrink = exp(high - highest);
        high = highest;
        workgroupBarrier();
        mass *= shrink;
        sum *= shrink;
        for (var i = lane / HEAD4; i < left; i += 4u * GROUPS) {
            // The last four may reach past the end: they read the last slot with weight 0.
            //@unroll j 4
            let i$j = min(i + $ju * GROUPS, left - 1u);
            let t$j = first + i$j;
            let p$j = select(0.0, weights[i$j], i + $ju * GROUPS < left);
            mass += p$j;
            sum += p$j * load_v(base + (t$j + select(beyond, 0u, t$j < row.prefix)) * D4 + column);
            //@end
        }
    }
    sums[lane] = sum;
    if (column == 0u) {
        masses[lane / HEAD4] = mass;
    }
    workgroupBarrier();
    if (lane < HEAD4) {
        for (var i = 1u; i < GROUPS; i++) {
            sum += sums[i * HEAD4 + lane];
            mass += masses[i];
        }
        //@if GROUPED
        out[query4(r, head4) + lane] = sum / mass;
        //@else
        out[r * D4 + head4 + lane] = sum / mass;
        //@end
    }
}
