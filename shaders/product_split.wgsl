// Product y [rows, N] = x [rows, K] w [K, N] + bias for few rows on a GPU: the K dimension is split over LANES
// invocations of a workgroup, which then add their parts. COLS column groups a workgroup keep loads of w coalesced.
// ROWS rows, NORM as in product_rows.wgsl.
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4], then column sums of w [N4]
{{product_info}}
{{finish}}
{{finite}}

var<workgroup> part: array<vec4<f32>, WG>;
//@if NORM
var<workgroup> moments: array<vec2<f32>, WG>;
//@end

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let group = info.origin + place;
    let column = index % COLS;
    let lane = index / COLS;
    let n4 = group.x * COLS + column;
    let r0 = group.y * ROWS;
    let inside = n4 < N4;
    // Columns past the end read the last group and write nothing, so that barriers stay uniform.
    let m4 = min(n4, N4 - 1u);
    //@unroll r ROWS
    var acc$r = vec4<f32>(0.0);
    let base$r = (info.row0 + r0 + $ru) * K4;
    //@if NORM
    var sum$r = vec4<f32>(0.0);
    var square$r = vec4<f32>(0.0);
    //@end
    //@end
    for (var k = lane; k < K4; k += LANES) {
        let block = weights(k, m4, scales(k, m4));
        //@unroll r ROWS
        let x$r = x[base$r + k];
        acc$r += x$r.x * block[0] + x$r.y * block[1] + x$r.z * block[2] + x$r.w * block[3];
        //@if NORM
        sum$r += x$r;
        square$r += x$r * x$r;
        //@end
        //@end
    }
    let bias = affine[m4];
    //@if NORM
    let colsum = affine[N4 + m4];
    let count = f32(K4 * 4u);
    //@end
    // One row after the other, in a loop so that the finish is compiled once.
    var y: array<vec4<f32>, ROWS>;
    //@if NORM
    var row_moments: array<vec2<f32>, ROWS>;
    //@end
    //@unroll r ROWS
    y[$r] = acc$r;
    //@if NORM
    row_moments[$r] = vec2<f32>(dot(sum$r, vec4<f32>(1.0)), dot(square$r, vec4<f32>(1.0)));
    //@end
    //@end
    // The end of the loop is not known to the compiler, which would unroll it, barriers and all.
    let end = min(info.block, info.rows - r0);
    for (var r = 0u; r < end; r++) {
        part[index] = y[r];
        //@if NORM
        moments[index] = row_moments[r];
        //@end
        workgroupBarrier();
        if (lane == 0u && inside) {
            var sum = part[column];
            for (var l = 1u; l < LANES; l++) {
                sum += part[column + l * COLS];
            }
            //@if NORM
            var moment = moments[column];
            for (var l = 1u; l < LANES; l++) {
                moment += moments[column + l * COLS];
            }
            let mean = moment.x / count;
            let scale = norm_scale(moment.y, max(moment.y / count - mean * mean, 0.0));
            finish(r0 + r, n4, scale * (sum - mean * colsum) + bias);
            //@else
            finish(r0 + r, n4, sum + bias);
            //@end
        }
        workgroupBarrier();
    }
}
