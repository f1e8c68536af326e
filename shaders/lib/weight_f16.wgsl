// Weight matrix [K, N4] of four f16 columns each, packed in two words (no device feature needed).
@group(0) @binding(1) var<storage, read_write> w: array<vec2<u32>>;
fn weight(i: u32) -> vec4<f32> {
    let p = w[i];
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
