// Product y [rows, N] = x [rows, K] w [K, N] + bias for few rows on a GPU. The sum over K is split across LANES invocations of a workgroup
// and, if N gives too few workgroups, across several workgroups: each sums `span` groups of inputs and stores its part FEW rows after the
// previous one. A workgroup takes ROWS rows and COLS column groups, enough to keep the loads of w coalesced.
// With NORM the input is normalised on the fly, by the formula of product_rows.wgsl. The input is then the residual stream plus the parts
// not yet added to it (lib/residual.wgsl); the first workgroup of each row stores the sum for later kernels.
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4], then column sums of w [N4]
{{product_info}}
{{finish}}
{{finite}}
//@if RMS
{{rms}}
//@end
{{residual}}

// Inputs [ROWS, CHUNK] of x, later partial results [BATCH, LANES, COLS] while they are added up.
var<workgroup> held: array<vec4<f32>, HELD>;
//@if NORM
//@if RMS
// Square sums [ROWS, SHARE].
var<workgroup> moments: array<f32, WG>;
//@else
// Sums and square sums [ROWS, SHARE].
var<workgroup> moments: array<vec2<f32>, WG>;
//@end
//@end

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let group = info.origin + place;
    let lane = index / COLS;
    let r0 = group.y * ROWS;
    // Invocations past the last column repeat it and write nothing, so that barriers stay uniform.
    let m4 = min(group.x * COLS + index % COLS, N4 - 1u);
    //@unroll r ROWS
    var acc$r = vec4<f32>(0.0);
    //@end
    //@if NORM
    // Each row is read by SHARE invocations.
    let own = index / SHARE;
    let share = index % SHARE;
    //@if RMS
    var moment = 0.0;
    //@else
    var moment = vec2<f32>(0.0);
    //@end
    for (var start = 0u; start < K4; start += CHUNK) {
        let end = min(start + CHUNK, K4);
        for (var k = start + share; k < end; k += SHARE) {
            let value = residual(r0 + own, k, K4);
            held[own * CHUNK + k - start] = value;
            //@if RMS
            moment += dot(value, value);
            //@else
            moment += vec2<f32>(dot(value, vec4<f32>(1.0)), dot(value, value));
            //@end
            if (info.parts > 0u && group.x == 0u) {
                x[(FEW - info.row0 + r0 + own) * K4 + k] = value;
            }
        }
        workgroupBarrier();
        for (var k = start + lane; k < end; k += LANES) {
            let w = weights(k, m4);
            let s = scales(k, m4);
            //@unroll r ROWS
            let x$r = held[$ru * CHUNK + k - start];
            //@end
            //@unroll i 4
            let w$i = decoded$i(w, s);
            //@unroll r ROWS
            acc$r += x$r[$i] * w$i;
            //@end
            //@end
        }
        workgroupBarrier();
    }
    moments[index] = moment;
    workgroupBarrier();
    for (var half = SHARE / 2u; half > 0u; half /= 2u) {
        if (share < half) {
            moments[index] += moments[index + half];
        }
        workgroupBarrier();
    }
    //@end
    //@if PLAIN
    //@unroll r ROWS
    let base$r = (info.row0 + r0 + $ru) * K4;
    //@end
    let end = min((group.z + 1u) * info.span, K4);
    for (var k = group.z * info.span + lane; k < end; k += LANES) {
        let w = weights(k, m4);
        let s = scales(k, m4);
        //@unroll r ROWS
        let x$r = x[base$r + k];
        //@end
        //@unroll i 4
        let w$i = decoded$i(w, s);
        //@unroll r ROWS
        acc$r += x$r[$i] * w$i;
        //@end
        //@end
    }
    //@end
    // BATCH rows at a time, in a loop so that the finish is compiled only once.
    var y: array<vec4<f32>, ROWS>;
    //@unroll r ROWS
    y[$r] = acc$r;
    //@end
    // Bounded by a uniform, since the compiler would unroll a loop of known length, barriers and all.
    let rows = min(info.block, info.rows - r0);
    for (var first = 0u; first < rows; first += BATCH) {
        //@unroll b BATCH
        held[$bu * WG + index] = y[first + $bu];
        //@end
        workgroupBarrier();
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            let each = half * COLS;
            for (var i = index; i < BATCH * each; i += WG) {
                let at = i / each * WG + i % each;
                held[at] += held[at + each];
            }
            workgroupBarrier();
        }
        let r = first + index / COLS;
        let n4 = group.x * COLS + index % COLS;
        if (index < BATCH * COLS && r < rows && n4 < N4) {
            let sum = held[index / COLS * WG + index % COLS];
            //@if NORM
            let count = f32(K4 * 4u);
            //@if RMS
            finish(r0 + r, n4, rms_scale(moments[r * SHARE], count) * sum + affine[n4]);
            //@else
            let both = moments[r * SHARE];
            let mean = both.x / count;
            let scale = norm_scale(both.y, max(both.y / count - mean * mean, 0.0));
            finish(r0 + r, n4, scale * (sum - mean * affine[N4 + n4]) + affine[n4]);
            //@end
            //@end
            //@if PLAIN
            finish(group.z * FEW + r0 + r, n4, sum + select(vec4<f32>(0.0), affine[n4], group.z == 0u));
            //@end
        }
        workgroupBarrier();
    }
}
