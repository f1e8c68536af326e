// Multiplies and adds in registers only, ROUNDS times 8 x 4 lanes, to measure the peak arithmetic rate that a plain kernel reaches on an
// adapter. The bench compares the products against it. Writing out [invocations] keeps the work from being optimised away.
@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
struct Info {
    rounds: u32,
    factor: u32, // bits of the factor, which the compiler must not know
    pad0: u32,
    pad1: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding(1) var<uniform> info: Info;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = (info.origin.x + place.x) * WG + lane;
    let factor = vec4<f32>(bitcast<f32>(info.factor));
    let start = vec4<f32>(f32(id % 7u));
    //@unroll r 8
    var acc$r = start + $r.0;
    //@end
    for (var i = 0u; i < info.rounds; i++) {
        //@unroll r 8
        acc$r = fma(acc$r, factor, start);
        //@end
    }
    out[id] = acc0 + acc1 + acc2 + acc3 + acc4 + acc5 + acc6 + acc7;
}
