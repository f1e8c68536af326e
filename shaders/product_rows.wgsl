// Product y [rows, N] = x [rows, K] w [K, N] + bias, register-blocked and free of barriers: an invocation holds
// ROWS rows by four columns. Neighbouring invocations share the same x, so its loads are uniform. Best on
// software adapters for any number of rows.
// With NORM the input is normalised on the way: sum and square sum of x run along, and
// ((x - mean) scale) w = scale (x w - mean colsum(w)).
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4], then column sums of w [N4]
{{finish}}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n4 = id.x;
    let r0 = id.y * ROWS;
    if (n4 >= N4) {
        return;
    }
    //@unroll r ROWS
    var acc$r = vec4<f32>(0.0);
    let base$r = (info.row0 + r0 + $ru) * K4;
    //@if NORM
    var sum$r = vec4<f32>(0.0);
    var square$r = vec4<f32>(0.0);
    //@end
    //@end
    for (var k = 0u; k < K4; k++) {
        let i = k * 4u * N4 + n4;
        let w0 = weight(i);
        let w1 = weight(i + N4);
        let w2 = weight(i + 2u * N4);
        let w3 = weight(i + 3u * N4);
        //@unroll r ROWS
        let x$r = x[base$r + k];
        acc$r += x$r.x * w0 + x$r.y * w1 + x$r.z * w2 + x$r.w * w3;
        //@if NORM
        sum$r += x$r;
        square$r += x$r * x$r;
        //@end
        //@end
    }
    let bias = affine[n4];
    //@if NORM
    let column = affine[N4 + n4];
    let count = f32(K4 * 4u);
    //@end
    // The results leave the registers before the loop, so that the finish is compiled once and not ROWS times.
    var y: array<vec4<f32>, ROWS>;
    //@unroll r ROWS
    //@if NORM
    let mean$r = dot(sum$r, vec4<f32>(1.0)) / count;
    let scale$r = inverseSqrt(max(dot(square$r, vec4<f32>(1.0)) / count - mean$r * mean$r, 0.0) + 1e-5);
    y[$r] = scale$r * (acc$r - mean$r * column) + bias;
    //@else
    y[$r] = acc$r + bias;
    //@end
    //@end
    let end = min(ROWS, info.rows - r0);
    for (var r = 0u; r < end; r++) {
        finish(r0 + r, n4, y[r]);
    }
}
