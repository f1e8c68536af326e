// Philox4x32-10 (Salmon et al., SC 2011), the twin of crates/esolm-core/src/rng.rs.
fn mul_hi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let mid2 = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (mid2 >> 16u);
}
fn philox(counter: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = seed;
    for (var i = 0u; i < 10u; i++) {
        let hi0 = mul_hi(0xd2511f53u, c.x);
        let lo0 = 0xd2511f53u * c.x;
        let hi1 = mul_hi(0xcd9e8d57u, c.z);
        let lo1 = 0xcd9e8d57u * c.z;
        c = vec4<u32>(hi1 ^ c.y ^ k.x, lo1, hi0 ^ c.w ^ k.y, lo0);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
// -ln(-ln(1 - w)) for w = (n + 0.5) / 2^32, without cancellation near either end.
fn gumbel(n: u32) -> f32 {
    let w = (f32(n) + 0.5) * 2.3283064365386963e-10;
    let rest = (f32(0xffffffffu - n) + 0.5) * 2.3283064365386963e-10;
    let series = w * (1.0 + w * (0.5 + w * (0.33333334 + w * 0.25)));
    return -log(select(-log(rest), series, w < 0.015625));
}
