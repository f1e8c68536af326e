// The token with the largest logit + noise in the columns start..end of a row; with FILTER only of those up to the step `last`.
// `start` is a multiple of four, since random numbers come four at a time.
fn candidate(lane: u32, s: u32, base: u32, start: u32, end: u32, top: f32, last: u32) -> Best {
    var mine = Best(LOWEST, NO_TOKEN, false);
    //@if SEEDED
    let draw = draws[s];
    for (var first = start + lane * 4u; first < end; first += WG * 4u) {
        //@unroll j 4
        let value$j = raw(base, min(first + $ju, end - 1u));
        var keeps$j = first + $ju < end;
        //@if FILTER
        keeps$j = keeps$j & (step_of(value$j, top) <= last);
        //@else
        mine.is_broken = mine.is_broken | is_broken(value$j);
        //@end
        //@end
        //@if FILTER
        if (!(keeps0 | keeps1 | keeps2 | keeps3)) {
            continue;
        }
        //@end
        let counter = vec4<u32>(first / 4u, draw.y, draw.x, GUMBEL_DOMAIN);
        let bits = philox(counter, vec2<u32>(info.seed_low, info.seed_high));
        //@unroll j 4
        let score$j = scaled(value$j, first + $ju) + gumbel(bits[$j]);
        if (keeps$j && score$j > mine.score) {
            mine.score = score$j;
            mine.token = first + $ju;
        }
        //@end
    }
    //@else
    for (var v = start + lane; v < end; v += WG) {
        let value = raw(base, v);
        var keeps = true;
        //@if FILTER
        keeps = step_of(value, top) <= last;
        //@else
        mine.is_broken = mine.is_broken | is_broken(value);
        //@end
        var score = value;
        //@if GIVEN
        score = scaled(value, v) + noise[s * VOCAB + v];
        //@end
        if (keeps && score > mine.score) {
            mine.score = score;
            mine.token = v;
        }
    }
    //@end
    return mine;
}
