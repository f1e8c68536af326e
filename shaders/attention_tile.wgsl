// Prefix attention over the any-order KV cache for many rows: out [rows, D4] = softmax(q k^T / sqrt(head_dim)) v over slots 0..prefix and the
// row's own range. A workgroup takes ROWS rows of one sequence and one head, and stages the keys and then the values in workgroup memory,
// KEYS slots at a time. Every two rows are shared by PARTS lanes, each of which holds every PARTS-th column group of q and of the sum.
{{row}}
@group(0) @binding(0) var<storage, read_write> q: array<vec4<f32>>;
{{cache}}
@group(0) @binding(3) var<storage, read_write> rows: array<Row>;
@group(0) @binding(4) var<storage, read_write> spans: array<vec2<u32>>; // adjacent rows of one sequence: first row, count
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    slots: u32, // cache slots per sequence
    pad0: u32,
    pad1: u32,
    pad2: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(6) var<uniform> info: Info;

const KEYS: u32 = 4u; // their scores form one vector
const ROWS: u32 = 2u * WG / PARTS;
const LOWEST: f32 = -1e30;
const FAR: u32 = 0x3effffffu; // beyond every slot
const GROUPS: u32 = WG / PARTS;
const NORMAL: u32 = 0x40000000u; // turns a small integer into the bits of a normal float
var<workgroup> tile: array<vec4<f32>, KEYS * HEAD4>;
var<workgroup> products: array<f32, ROWS * PARTS * KEYS>; // each lane's part of a score, then the score in the place of the first part

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
    //@if GROUPED
    let span = spans[group.z] * GROUP;
    //@else
    let span = spans[group.z];
    //@end
    let head4 = group.y * HEAD4;
    //@if GROUPED
    let base = rows[span.x / GROUP].sequence * info.slots * D4 + head4;
    //@else
    let base = rows[span.x].sequence * info.slots * D4 + head4;
    //@end
    let part = lane % PARTS;
    let local = group.x * ROWS + lane / PARTS * 2u;
    let mine = lane / PARTS * 2u * PARTS * KEYS; // where this lane's rows begin in `products`
    //@unroll c OWN
    let column$c = min(part + $cu * PARTS, HEAD4 - 1u);
    //@end
    //@unroll r 2
    let r$r = span.x + local + $ru;
    let is_row$r = local + $ru < span.y;
    var prefix$r = 0u;
    var own$r = vec2<u32>(FAR, 0u); // the own range, unless it is empty
    //@unroll c OWN
    var q$r_$c = vec4<f32>(0.0);
    var sum$r_$c = vec4<f32>(0.0);
    //@end
    if (is_row$r) {
        //@if GROUPED
        let row = rows[r$r / GROUP];
        //@else
        let row = rows[r$r];
        //@end
        prefix$r = row.prefix;
        if (row.own_start < row.own_end) {
            own$r = vec2<u32>(row.own_start, row.own_end);
        }
        //@unroll c OWN
        // A lane with one column group less than the others reads the last one with weight 0.
        //@if GROUPED
        q$r_$c = q[query4(r$r, head4) + column$c] * select(0.0, SCALE, part + $cu * PARTS < HEAD4);
        //@else
        q$r_$c = q[r$r * D4 + head4 + column$c] * select(0.0, SCALE, part + $cu * PARTS < HEAD4);
        //@end
        //@end
    }
    var top$r = LOWEST;
    var mass$r = 0.0;
    //@end
    // The largest prefix of the rows and the span of their own ranges. They go through `products`, encoded as normal floats: 4096 bytes of
    // workgroup memory let more workgroups run at once than a few bytes more.
    if (part == 0u) {
        products[lane / PARTS] = bitcast<f32>(max(prefix0, prefix1) | NORMAL);
        products[GROUPS + lane / PARTS] = bitcast<f32>(min(own0.x, own1.x) | NORMAL);
        products[2u * GROUPS + lane / PARTS] = bitcast<f32>(max(own0.y, own1.y) | NORMAL);
    }
    workgroupBarrier();
    if (lane == 0u) {
        for (var i = 1u; i < GROUPS; i++) {
            products[0] = max(products[0], products[i]);
            products[GROUPS] = min(products[GROUPS], products[GROUPS + i]);
            products[2u * GROUPS] = max(products[2u * GROUPS], products[2u * GROUPS + i]);
        }
    }
    let most = bitcast<u32>(workgroupUniformLoad(&products[0])) & ~NORMAL;
    let least_own = bitcast<u32>(workgroupUniformLoad(&products[GROUPS])) & ~NORMAL;
    let most_own = bitcast<u32>(workgroupUniformLoad(&products[2u * GROUPS])) & ~NORMAL;
    // First the prefixes, then the own ranges.
    for (var stretch = 0u; stretch < 2u; stretch++) {
        let is_prefix = stretch == 0u;
        let last = select(most_own, most, is_prefix);
        //@unroll r 2
        let begin$r = select(own$r.x, 0u, is_prefix);
        let end$r = select(own$r.y, prefix$r, is_prefix);
        //@end
        for (var first = select(least_own, 0u, is_prefix); first < last; first += KEYS) {
            // Slots that no row sees may hold anything, so the last block reads its last slot again instead.
            for (var i = lane; i < KEYS * HEAD4; i += WG) {
                tile[i] = load_k(base + min(first + i / HEAD4, last - 1u) * D4 + i % HEAD4);
            }
            workgroupBarrier();
            //@unroll j 4
            var add0_$j = 0.0;
            var add1_$j = 0.0;
            //@unroll c OWN
            let k$j_$c = tile[$ju * HEAD4 + column$c];
            add0_$j += dot(q0_$c, k$j_$c);
            add1_$j += dot(q1_$c, k$j_$c);
            //@end
            products[mine + part * KEYS + $ju] = add0_$j;
            products[mine + (PARTS + part) * KEYS + $ju] = add1_$j;
            //@end
            workgroupBarrier();
            for (var i = lane; i < KEYS * HEAD4; i += WG) {
                tile[i] = load_v(base + min(first + i / HEAD4, last - 1u) * D4 + i % HEAD4);
            }
            for (var i = lane; i < ROWS * KEYS; i += WG) {
                let at = i / KEYS * PARTS * KEYS + i % KEYS;
                var score = products[at];
                for (var j = 1u; j < PARTS; j++) {
                    score += products[at + j * KEYS];
                }
                products[at] = score;
            }
            workgroupBarrier();
            let slots = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
            //@unroll r 2
            let at$r = mine + $ru * PARTS * KEYS;
            let is_seen$r = (slots >= vec4<u32>(begin$r)) & (slots < vec4<u32>(end$r));
            let score$r = select(vec4<f32>(LOWEST), vec4<f32>(products[at$r], products[at$r + 1u], products[at$r + 2u], products[at$r + 3u]), is_seen$r);
            let high$r = max(top$r, max(max(score$r.x, score$r.y), max(score$r.z, score$r.w)));
            let shrink$r = exp(top$r - high$r);
            top$r = high$r;
            let p$r = select(vec4<f32>(0.0), exp(score$r - high$r), is_seen$r);
            mass$r = mass$r * shrink$r + (p$r.x + p$r.y) + (p$r.z + p$r.w);
            //@unroll c OWN
            sum$r_$c *= shrink$r;
            //@end
            //@end
            if (first >= max(begin0, begin1) && first + KEYS <= min(end0, end1)) {
                //@unroll j 4
                //@unroll c OWN
                let v$j_$c = tile[$ju * HEAD4 + column$c];
                sum0_$c += p0[$j] * v$j_$c;
                sum1_$c += p1[$j] * v$j_$c;
                //@end
                //@end
            } else {
                // A slot that only another row sees may hold NaN, and 0 * NaN is NaN.
                //@unroll r 2
                //@unroll j 4
                if (is_seen$r[$j]) {
                    //@unroll c OWN
                    sum$r_$c += p$r[$j] * tile[$ju * HEAD4 + column$c];
                    //@end
                }
                //@end
                //@end
            }
            workgroupBarrier();
        }
    }
    //@unroll r 2
    if (is_row$r) {
        let share = 1.0 / mass$r;
        //@unroll c OWN
        if (part + $cu * PARTS < HEAD4) {
            //@if GROUPED
            out[query4(r$r, head4) + column$c] = sum$r_$c * share;
            //@else
            out[r$r * D4 + head4 + column$c] = sum$r_$c * share;
            //@end
        }
        //@end
    }
    //@end
}
