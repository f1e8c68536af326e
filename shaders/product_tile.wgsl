// Product y [rows, N] = x [rows, K] w [K, N] + bias for many rows on a GPU: 8 x 8 invocations compute a square of 32 SIDE rows and columns.
// Each computes SIDE blocks of four rows by SIDE groups of four columns, with a stride of eight, so that adjacent invocations read adjacent
// words of workgroup memory. STEP groups of four inputs at a time are staged there, x transposed and the weights decoded. STEP x SIDE is 8,
// so each invocation stages four rows and four columns of a group. Scales as in product_rows.wgsl.
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
{{weight}}
@group(0) @binding(2) var<storage, read_write> affine: array<vec4<f32>>; // bias [N4]
{{product_info}}
{{finish}}

const WIDTH = 8u * SIDE;
var<workgroup> tile_x: array<vec4<f32>, 256>; // [4 STEP inputs, WIDTH blocks of four rows]
var<workgroup> tile_w: array<vec4<f32>, 256>; // [4 STEP inputs, WIDTH groups of four columns]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let group = info.origin + place;
    let column = index % 8u;
    let down = index / 8u;
    let r0 = group.y * 4u * WIDTH;
    let n0 = group.x * WIDTH;
    // What this invocation stages: adjacent invocations take adjacent inputs of x and adjacent columns of w.
    let block = index / STEP;
    let x_k = index % STEP;
    let w_k = index / WIDTH;
    let w_n = index % WIDTH;
    let row = info.row0 + r0 + block * 4u;
    let last = info.row0 + info.rows - 1u;
    let n4 = min(n0 + w_n, N4 - 1u);
    //@unroll b SIDE
    //@unroll i 4
    //@unroll c SIDE
    var acc$b_$i_$c = vec4<f32>(0.0);
    //@end
    //@end
    //@end
    for (var start = 0u; start < K4; start += GROUP4) {
        let s = scales(start, n4);
        for (var k0 = start; k0 < min(start + GROUP4, K4); k0 += STEP) {
            let k4 = min(k0 + w_k, K4 - 1u);
            let w = weights(k4, n4);
            //@unroll i 4
            tile_w[(w_k * 4u + $iu) * WIDTH + w_n] = decoded$i(w, s);
            //@end
            // Inputs past the end are zero and are multiplied by the last weights.
            let k = min(k0 + x_k, K4 - 1u);
            //@unroll j 4
            let x$j = select(vec4<f32>(0.0), x[min(row + $ju, last) * K4 + k], k0 + x_k < K4);
            //@end
            //@unroll i 4
            tile_x[(x_k * 4u + $iu) * WIDTH + block] = vec4<f32>(x0[$i], x1[$i], x2[$i], x3[$i]);
            //@end
            workgroupBarrier();
            for (var i = 0u; i < 4u * STEP; i++) {
                //@unroll b SIDE
                let x_$b = tile_x[i * WIDTH + $bu * 8u + down];
                let w_$b = tile_w[i * WIDTH + $bu * 8u + column];
                //@end
                //@unroll b SIDE
                //@unroll i 4
                //@unroll c SIDE
                acc$b_$i_$c += x_$b[$i] * w_$c;
                //@end
                //@end
                //@end
            }
            workgroupBarrier();
        }
    }
    // A loop, so that the finish is compiled only once.
    var y: array<vec4<f32>, 4u * SIDE * SIDE>;
    //@unroll b SIDE
    //@unroll i 4
    //@unroll c SIDE
    y[($bu * 4u + $iu) * SIDE + $cu] = acc$b_$i_$c;
    //@end
    //@end
    //@end
    for (var i = 0u; i < 4u * SIDE * SIDE; i++) {
        let r = r0 + (i / (4u * SIDE) * 8u + down) * 4u + i / SIDE % 4u;
        let n4 = n0 + i % SIDE * 8u + column;
        if (r < info.rows && n4 < N4) {
            finish(r, n4, y[i] + affine[n4]);
        }
    }
}
