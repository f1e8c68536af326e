// Product y [rows, N] = x [rows, K] w [K, N] + bias, register-blocked and free of barriers: an invocation holds
// ROWS rows by GROUPS groups of four columns. A software adapter pays for loads, not for arithmetic, so the blocks are as
// large as its compiler bears. Neighbouring workgroups take other rows of the same columns, whose weights stay in a cache.
// Scales of quantised weights are loaded once for the GROUP4 x 4 inputs that share them; of floats all inputs are one such group.
// With NORM the input is normalised on the way: sum and square sum of x run along, and
// ((x - mean) scale) w = scale (x w - mean colsum(w)).
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4], then column sums of w [N4]
{{product_info}}
{{finish}}
{{finite}}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = info.origin + place;
    // Invocations past the last column repeat it and write nothing, so that no lane leaves early.
    let first = (group.y * WG + lane) * GROUPS;
    let r0 = group.x * ROWS;
    //@unroll c GROUPS
    let n$c = min(first + $cu, N4 - 1u);
    //@end
    //@unroll r ROWS
    //@unroll c GROUPS
    var acc$r_$c = vec4<f32>(0.0);
    //@end
    let base$r = (info.row0 + r0 + $ru) * K4;
    //@if NORM
    var sum$r = vec4<f32>(0.0);
    var square$r = vec4<f32>(0.0);
    //@end
    //@end
    for (var start = 0u; start < K4; start += GROUP4) {
        //@unroll c GROUPS
        let s$c = scales(start, n$c);
        //@end
        for (var k = start; k < min(start + GROUP4, K4); k++) {
            //@unroll r ROWS
            let x$r = x[base$r + k];
            //@if NORM
            sum$r += x$r;
            square$r += x$r * x$r;
            //@end
            //@end
            //@unroll c GROUPS
            let w$c = weights(k, n$c, s$c);
            //@unroll r ROWS
            acc$r_$c += x$r.x * w$c[0] + x$r.y * w$c[1] + x$r.z * w$c[2] + x$r.w * w$c[3];
            //@end
            //@end
        }
    }
    //@if NORM
    let count = f32(K4 * 4u);
    //@end
    // The results leave the registers before the loop, so that the finish is compiled once and not ROWS times.
    var y: array<vec4<f32>, ROWS * GROUPS>;
    //@unroll r ROWS
    //@if NORM
    let mean$r = dot(sum$r, vec4<f32>(1.0)) / count;
    let squares$r = dot(square$r, vec4<f32>(1.0));
    let scale$r = norm_scale(squares$r, max(squares$r / count - mean$r * mean$r, 0.0));
    //@end
    //@unroll c GROUPS
    //@if NORM
    y[$ru * GROUPS + $cu] = scale$r * (acc$r_$c - mean$r * affine[N4 + n$c]) + affine[n$c];
    //@else
    y[$ru * GROUPS + $cu] = acc$r_$c + affine[n$c];
    //@end
    //@end
    //@end
    for (var i = 0u; i < ROWS * GROUPS; i++) {
        let r = r0 + i / GROUPS;
        let n4 = first + i % GROUPS;
        if (r < info.rows && n4 < N4) {
            finish(r, n4, y[i]);
        }
    }
}
