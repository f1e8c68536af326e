// Plain layer normalisation, eps 1e-5, of all rows: out [rows, D4] = (x - mean) / sqrt(var + eps).
// Weight, bias and conditioning are folded into the next product. Two passes, so a large mean loses no precision.
// One workgroup per row. x is the residual stream (lib/residual.wgsl).
//@if RMS
// This form is an RMS norm, x / sqrt(mean square + eps); with GAIN it multiplies by a weight that is not folded into the next product.
//@end
{{finite}}
//@if RMS
{{rms}}
//@end
{{residual}}
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    rows: u32,
    row0: u32,  // first row of x
    parts: u32, // parts to add to x
    pad0: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;
//@if GAIN
@group(0) @binding({{gain}}) var<storage, read_write> gain: array<vec4<f32>>; // [D4]
//@end

var<workgroup> partial: array<f32, WG>;

fn total(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            partial[lane] += partial[lane + step];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = info.origin.x + place.x;
    if (r >= info.rows) {
        return;
    }
    //@if RMS
    var square = 0.0;
    for (var i = lane; i < D4; i += WG) {
        let value = residual(r, i, D4);
        square += dot(value, value);
    }
    let scale = rms_scale(total(lane, square), f32(D4 * 4u));
    for (var i = lane; i < D4; i += WG) {
        //@if GAIN
        out[r * D4 + i] = residual(r, i, D4) * scale * gain[i];
        //@else
        out[r * D4 + i] = residual(r, i, D4) * scale;
        //@end
    }
    //@else
    var sum = 0.0;
    for (var i = lane; i < D4; i += WG) {
        sum += dot(residual(r, i, D4), vec4<f32>(1.0));
    }
    let mean = total(lane, sum) / f32(D4 * 4u);
    var square = 0.0;
    for (var i = lane; i < D4; i += WG) {
        let centred = residual(r, i, D4) - mean;
        square += dot(centred, centred);
    }
    let squares = total(lane, square);
    let scale = norm_scale(squares, squares / f32(D4 * 4u));
    for (var i = lane; i < D4; i += WG) {
        out[r * D4 + i] = (residual(r, i, D4) - mean) * scale;
    }
    //@end
}
