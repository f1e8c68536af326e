// Prefix attention over the any-order KV cache for several rows on a software adapter, where barriers cost more than registers:
// out [rows, D4] = softmax(q k^T / sqrt(head_dim)) v over slots 0..prefix and the row's own range. One invocation per row and head, KEYS
// slots at a time. Rows of one sequence are adjacent, so they walk the same keys together.
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
    let local = group.x * WG + lane;
    if (local >= span.y) {
        return;
    }
    let r = span.x + local;
    //@if GROUPED
    let row = rows[r / GROUP];
    //@else
    let row = rows[r];
    //@end
    let head4 = group.y * HEAD4;
    let base = row.sequence * info.slots * D4 + head4;
    //@if GROUPED
    let own = query4(r, head4);
    //@end
    //@unroll c HEAD4
    //@if GROUPED
    let q$c = q[own + $cu] * SCALE;
    //@else
    let q$c = q[r * D4 + head4 + $cu] * SCALE;
    //@end
    var acc$c = vec4<f32>(0.0);
    //@end
    var top = -1e30;
    var mass = 0.0;
    for (var t = 0u; t < row.prefix; t += KEYS) {
        // Slots beyond the prefix may hold anything, and 0 * NaN is NaN, so the last block reads its last slot again instead.
        //@unroll j KEYS
        let at$j = base + min(t + $ju, row.prefix - 1u) * D4;
        var score$j = 0.0;
        //@unroll c HEAD4
        score$j += dot(q$c, load_k(at$j + $cu));
        //@end
        score$j = select(-1e30, score$j, t + $ju < row.prefix);
        //@end
        var high = top;
        //@unroll j KEYS
        high = max(high, score$j);
        //@end
        let shrink = exp(top - high);
        top = high;
        mass *= shrink;
        //@unroll c HEAD4
        acc$c *= shrink;
        //@end
        //@unroll j KEYS
        let p$j = select(0.0, exp(score$j - high), t + $ju < row.prefix);
        mass += p$j;
        //@unroll c HEAD4
        acc$c += p$j * load_v(at$j + $cu);
        //@end
        //@end
    }
    for (var t = row.own_start; t < row.own_end; t++) {
        let at = base + t * D4;
        var score = 0.0;
        //@unroll c HEAD4
        score += dot(q$c, load_k(at + $cu));
        //@end
        let high = max(top, score);
        let shrink = exp(top - high);
        let p = exp(score - high);
        top = high;
        mass = mass * shrink + p;
        //@unroll c HEAD4
        acc$c = acc$c * shrink + p * load_v(at + $cu);
        //@end
    }
    let share = 1.0 / mass;
    //@unroll c HEAD4
    //@if GROUPED
    out[own + $cu] = acc$c * share;
    //@else
    out[r * D4 + head4 + $cu] = acc$c * share;
    //@end
    //@end
}
