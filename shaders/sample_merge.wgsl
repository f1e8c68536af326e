// Takes the best of the tokens that sample_parts.wgsl found in the parts of a row and writes it where the next pass reads it. One
// invocation per row.
{{row}}
@group(0) @binding(0) var<storage, read_write> bests: array<vec4<u32>>; // [rows, parts]
@group(0) @binding(1) var<storage, read_write> rows: array<Row>; // of the pass, sampled rows first
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
struct Info {
    first: u32, // first sampled row of this launch
    count: u32,
    parts: u32,
    pad: u32,
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;
{{best}}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let launch = (info.origin.x + place.x) * WG + lane;
    if (launch >= info.count) {
        return;
    }
    var best = unpacked(bests[launch * info.parts]);
    for (var part = 1u; part < info.parts; part++) {
        best = better(best, unpacked(bests[launch * info.parts + part]));
    }
    tokens[rows[info.first + launch].dest] = select(best.token, NO_TOKEN, best.is_broken);
}
