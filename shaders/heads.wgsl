// RMS norm of every head of q and k, with one weight for q and one for k, followed by what otherwise ends the product for q, k and v:
// rotary embedding, q to `out`, k and v to the cache. A separate kernel, since no workgroup of a product holds whole heads. A workgroup
// takes WG / LANES heads of a row, with LANES lanes per head and one column group per lane.
{{finite}}
{{rms}}
{{finish}}
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>; // [rows, ALL], the product's result
@group(0) @binding(1) var<storage, read_write> gains: array<vec4<f32>>; // [2, HEAD4], of q, then of k
struct Info {
    slots: u32, // cache slots per sequence
    row0: u32,  // row of the pass at which x begins
    pad0: u32,
    pad1: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;

const HEAD4: u32 = HEAD_DIM / 4u;
const ALL: u32 = Q4 + 2u * D4;
var<workgroup> squares: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let group = info.origin + place;
    let r = group.y;
    let lane = index % LANES;
    let n4 = (group.x * (WG / LANES) + index / LANES) * HEAD4 + lane;
    let is_there = lane < HEAD4 && n4 < ALL;
    var y = vec4<f32>(0.0);
    if (is_there) {
        y = x[r * ALL + n4];
    }
    squares[index] = dot(y, y);
    workgroupBarrier();
    if (!is_there) {
        return;
    }
    // v is stored as it is.
    if (n4 < Q4 + D4) {
        var sum = 0.0;
        for (var i = index - lane; i < index - lane + HEAD4; i++) {
            sum += squares[i];
        }
        y *= rms_scale(sum, f32(HEAD_DIM)) * gains[select(HEAD4, 0u, n4 < Q4) + lane];
    }
    finish(info.row0 + r, n4, y);
}
