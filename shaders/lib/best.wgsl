// A token of a row, with the score it is chosen by.
struct Best {
    score: f32,
    token: u32,
    is_broken: bool, // whether any logit it was chosen from is not finite
}
fn packed(best: Best) -> vec4<u32> {
    return vec4<u32>(bitcast<u32>(best.score), best.token, select(0u, 1u, best.is_broken), 0u);
}
fn unpacked(words: vec4<u32>) -> Best {
    return Best(bitcast<f32>(words.x), words.y, words.z != 0u);
}
// The better of two, ties going to the lower token.
fn better(a: Best, b: Best) -> Best {
    var best = a;
    if (b.score > a.score || (b.score == a.score && b.token < a.token)) {
        best = b;
    }
    best.is_broken = a.is_broken | b.is_broken;
    return best;
}
