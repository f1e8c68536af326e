// Product y [rows, N] = x [rows, K] w [K, N] + bias for many rows on a GPU: a workgroup computes 64 rows by 64
// columns, 16 x 16 invocations of 4 x 4 each, staging 16 of K at a time in workgroup memory (8 KiB).
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4]
{{product_info}}
{{finish}}

var<workgroup> tile_x: array<vec4<f32>, 256>; // [64 rows, 4 groups of k]
var<workgroup> tile_w: array<vec4<f32>, 256>; // [16 of k, 16 column groups]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let group = info.origin + place;
    let column = index % 16u;
    let rowgroup = index / 16u;
    let n4 = group.x * 16u + column;
    let row = group.y * 64u + rowgroup * 4u;
    var acc0 = vec4<f32>(0.0);
    var acc1 = vec4<f32>(0.0);
    var acc2 = vec4<f32>(0.0);
    var acc3 = vec4<f32>(0.0);
    let load_row = min(group.y * 64u + index / 4u, info.rows - 1u);
    for (var k0 = 0u; k0 < K4; k0 += 4u) {
        let kx = k0 + index % 4u;
        tile_x[index] = select(vec4<f32>(0.0), x[(info.row0 + load_row) * K4 + min(kx, K4 - 1u)], kx < K4);
        let kw = k0 * 4u + rowgroup;
        tile_w[index] = select(vec4<f32>(0.0), weight(min(kw, K4 * 4u - 1u), min(n4, N4 - 1u)), kw < K4 * 4u);
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            let w0 = tile_w[(k * 4u) * 16u + column];
            let w1 = tile_w[(k * 4u + 1u) * 16u + column];
            let w2 = tile_w[(k * 4u + 2u) * 16u + column];
            let w3 = tile_w[(k * 4u + 3u) * 16u + column];
            //@unroll r 4
            let x$r = tile_x[(rowgroup * 4u + $ru) * 4u + k];
            acc$r += x$r.x * w0 + x$r.y * w1 + x$r.z * w2 + x$r.w * w3;
            //@end
        }
        workgroupBarrier();
    }
    if (n4 < N4 && row < info.rows) {
        let bias = affine[n4];
        var y = array<vec4<f32>, 4>(acc0 + bias, acc1 + bias, acc2 + bias, acc3 + bias);
        for (var r = 0u; r < min(4u, info.rows - row); r++) {
            finish(row + r, n4, y[r]);
        }
    }
}
