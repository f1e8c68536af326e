// Product y [rows, N] = x [rows, K] w [K, N] + bias, register-blocked and free of barriers: an invocation holds
// ROWS rows by GROUPS groups of four columns. On a software adapter loads are the bottleneck, not arithmetic, so the blocks are
// as large as its compiler copes with. Adjacent workgroups take other rows of the same columns, so the weights stay in cache.
// Scales of quantised weights are loaded once per GROUP4 x 4 inputs that share them; with floats all inputs form one group.
// An accumulator takes four products at once, since there are more accumulators than a software adapter has registers. With SINGLE it
// takes them one by one, as four decoded weights and two scales per column would need too many registers.
// With NORM the input is normalised on the fly: the sum and square sum of x are accumulated as well, and
// ((x - mean) scale) w = scale (x w - mean colsum(w)).
//@if RMS
// In this form by the root mean square only: (x scale) w = scale (x w).
//@end
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4], then column sums of w [N4]
{{product_info}}
{{finish}}
{{finite}}
//@if RMS
{{rms}}
//@end

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = info.origin + place;
    // Invocations past the last columns repeat them and write nothing, so that no lane returns early. N4 is at least GROUPS.
    let first = (group.y * WG + lane) * GROUPS;
    let n0 = min(first, N4 - GROUPS);
    let r0 = group.x * ROWS;
    //@unroll r ROWS
    //@unroll c GROUPS
    var acc$r_$c = vec4<f32>(0.0);
    //@end
    let base$r = (info.row0 + r0 + $ru) * K4;
    //@if NORM
    //@unless RMS
    var sum$r = 0.0;
    //@end
    var square$r = 0.0;
    //@end
    //@end
    for (var start = 0u; start < K4; start += GROUP4) {
        //@unroll c GROUPS
        let s$c = scales(start, n0 + $cu);
        //@end
        for (var k = start; k < min(start + GROUP4, K4); k++) {
            //@unroll r ROWS
            let x$r = x[base$r + k];
            //@end
            //@unroll c GROUPS
            let w$c = weights(k, n0 + $cu);
            //@if SINGLE
            //@unroll i 4
            let w$c_$i = decoded$i(w$c, s$c);
            //@unroll r ROWS
            acc$r_$c += x$r[$i] * w$c_$i;
            //@end
            //@end
            //@else
            //@unroll i 4
            let w$c_$i = decoded$i(w$c, s$c);
            //@end
            //@unroll r ROWS
            acc$r_$c += x$r.x * w$c_0 + x$r.y * w$c_1 + x$r.z * w$c_2 + x$r.w * w$c_3;
            //@end
            //@end
            //@end
            //@if NORM
            //@unroll r ROWS
            //@unless RMS
            sum$r += dot(x$r, vec4<f32>(1.0));
            //@end
            square$r += dot(x$r, x$r);
            //@end
            //@end
        }
    }
    //@if NORM
    let count = f32(K4 * 4u);
    //@end
    // The results are copied to an array first and finished in a loop, so that the finish is compiled once and not ROWS times.
    var y: array<vec4<f32>, ROWS * GROUPS>;
    //@unroll r ROWS
    //@if NORM
    //@if RMS
    let scale$r = rms_scale(square$r, count);
    //@else
    let mean$r = sum$r / count;
    let scale$r = norm_scale(square$r, max(square$r / count - mean$r * mean$r, 0.0));
    //@end
    //@end
    //@unroll c GROUPS
    //@if NORM
    //@if RMS
    y[$ru * GROUPS + $cu] = scale$r * acc$r_$c + affine[n0 + $cu];
    //@else
    y[$ru * GROUPS + $cu] = scale$r * (acc$r_$c - mean$r * affine[N4 + n0 + $cu]) + affine[n0 + $cu];
    //@end
    //@else
    y[$ru * GROUPS + $cu] = acc$r_$c + affine[n0 + $cu];
    //@end
    //@end
    //@end
    for (var i = 0u; i < ROWS * GROUPS; i++) {
        let r = r0 + i / GROUPS;
        let n4 = n0 + i % GROUPS;
        if (r < info.rows && n4 >= first) {
            finish(r, n4, y[i]);
        }
    }
}
