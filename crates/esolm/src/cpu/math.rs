//! Plain loops over f32 slices, written in lanes so that they vectorise, and the one place where loops are distributed
//! over cores.

/// Lanes per loop: a multiple of every vector width in use.
const LANES: usize = 16;

/// e^x within 2 ulp for x in [-87, 88], clamped outside (Cephes' expf: a power of two built from exponent bits, times a
/// polynomial). It has no calls and no branches, so that loops over it vectorise, unlike std's exp.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this rounds to the nearest integer and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * power
}

/// GELU's tanh form as x sigmoid(2u), as [`crate::network`] defines it.
#[inline(always)]
fn gelu_one(x: f32) -> f32 {
    // 2 sqrt(2/pi)
    const SCALE: f32 = 1.595_769;
    x / (1.0 + exp(-SCALE * x * (1.0 + 0.044_715 * x * x)))
}

/// `out` = silu(g + bias) (u + bias), with the gates g in the first half of `values` and u in the second. Writes half
/// as many values as it reads; the rest of `out` is unchanged.
#[inline(always)]
pub fn gate(out: &mut [f32], values: &[f32], bias: &[f32]) {
    let half = values.len() / 2;
    let (gates, ups) = values.split_at(half);
    let (gate_bias, up_bias) = bias.split_at(half);
    let gates = gates.iter().zip(gate_bias);
    let ups = ups.iter().zip(up_bias);
    for ((out, (gate, gate_bias)), (up, up_bias)) in out.iter_mut().zip(gates).zip(ups) {
        let gate = gate + gate_bias;
        *out = gate / (1.0 + exp(-gate)) * (up + up_bias);
    }
}

/// The tanh form of GELU, and its derivative.
#[inline(always)]
pub fn gelu_slope(x: f32) -> (f32, f32) {
    const SCALE: f32 = 1.595_769;
    let square = 0.044_715 * x * x;
    let share = 1.0 / (1.0 + exp(-SCALE * x * (1.0 + square)));
    let slope = SCALE * (1.0 + 3.0 * square);
    (x * share, share + x * share * (1.0 - share) * slope)
}

/// `out` = GELU(`values` + `bias`).
#[inline(always)]
pub fn gelu(out: &mut [f32], values: &[f32], bias: &[f32]) {
    for ((out, value), bias) in out.iter_mut().zip(values).zip(bias) {
        *out = gelu_one(value + bias);
    }
}

#[inline(always)]
fn lanes(values: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut all = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (a, &v) in all.iter_mut().zip(chunk) {
            *a = f(*a, v);
        }
    }
    for (a, &v) in all.iter_mut().zip(rest) {
        *a = f(*a, v);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            // Used only with sums and maxima, whose partial results combine with `f` itself.
            all[i] = f(all[i], all[i + width]);
        }
        width /= 2;
    }
    all[0]
}

/// Sum of the values.
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    lanes(values, 0.0, |a, v| a + v)
}

/// Largest of the values and `start`.
#[inline(always)]
pub fn max(values: &[f32], start: f32) -> f32 {
    lanes(values, start, |a, v| if v > a { v } else { a })
}

/// Replaces each score by e^(score - top) and returns the sum.
#[inline(always)]
pub fn exp_sum(scores: &mut [f32], top: f32) -> f32 {
    for score in scores.iter_mut() {
        *score = exp(*score - top);
    }
    sum(scores)
}

/// e^x of one value, with the same rounding as [`exp_sum`].
#[inline(always)]
pub fn exp_one(x: f32) -> f32 {
    exp(x)
}

/// sum f(a, b), in lanes.
#[inline(always)]
pub fn sum_of(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut all = [0.0; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = left.remainder().iter().zip(right.remainder());
    let rest: f32 = rest.map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in left.zip(right) {
        for ((sum, &a), &b) in all.iter_mut().zip(a).zip(b) {
            *sum += f(a, b);
        }
    }
    rest + sum(&all)
}

/// Number of values below which one core is faster.
#[cfg(not(target_family = "wasm"))]
const SHARED: usize = 1 << 15;

/// Runs `work` in the thread pool, where [`for_chunks`] distributes work without waiting for threads to wake.
pub fn on_all_cores<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    #[cfg(not(target_family = "wasm"))]
    return rayon::scope(|_| work());
    #[cfg(target_family = "wasm")]
    work()
}

/// Runs `f` on each chunk of `size` values of `data` with its index, on all cores if there are several. `work` is the
/// total number of values touched, below a threshold of which a single core is used.
pub fn for_chunks<T: Send>(
    data: &mut [T],
    size: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    #[cfg(not(target_family = "wasm"))]
    if work >= SHARED {
        use rayon::prelude::*;
        data.par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, chunk)| f(i, chunk));
        return;
    }
    let _ = work;
    for (i, chunk) in data.chunks_mut(size).enumerate() {
        f(i, chunk);
    }
}

/// Like [`for_chunks`], for matching chunks of two slices, each with its own chunk size.
pub fn for_pairs<A: Send, B: Send>(
    a: (&mut [A], usize),
    b: (&mut [B], usize),
    work: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    #[cfg(not(target_family = "wasm"))]
    if work >= SHARED {
        use rayon::prelude::*;
        a.0.par_chunks_mut(a.1)
            .zip(b.0.par_chunks_mut(b.1))
            .enumerate()
            .for_each(|(i, (a, b))| f(i, a, b));
        return;
    }
    let _ = work;
    for (i, (a, b)) in a.0.chunks_mut(a.1).zip(b.0.chunks_mut(b.1)).enumerate() {
        f(i, a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8800..=8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x.clamp(-87.0, 88.0)).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
    }

    #[test]
    fn gelu_matches_tanh() {
        for i in -2000..=2000 {
            let x = f64::from(i) / 100.0;
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let want = 0.5 * x * (1.0 + u.tanh());
            let mut got = [0.0];
            gelu(&mut got, &[x as f32], &[0.0]);
            assert!(
                (f64::from(got[0]) - want).abs() < 1e-6,
                "gelu({x}): {} and {want}",
                got[0]
            );
        }
    }

    #[test]
    fn gate_matches_silu() {
        for i in -2000..=2000 {
            let x = f64::from(i) / 50.0;
            let want = (x + 0.25) / (1.0 + (-(x + 0.25)).exp()) * (3.0 - 0.5);
            let mut got = [0.0, 7.0];
            gate(&mut got, &[x as f32, 3.0], &[0.25, -0.5]);
            assert!((f64::from(got[0]) - want).abs() < 1e-5, "{x}: {got:?}");
            assert_eq!(got[1], 7.0);
        }
    }

    #[test]
    fn gelu_slope_is_the_derivative() {
        let value = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        };
        for i in -1000..=1000 {
            let x = f64::from(i) / 100.0;
            let want = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5;
            let (y, slope) = gelu_slope(x as f32);
            assert!((f64::from(y) - value(x)).abs() < 1e-6, "{x}");
            assert!(
                (f64::from(slope) - want).abs() < 1e-5,
                "{x}: {slope} {want}"
            );
        }
    }

    #[test]
    fn reductions_take_every_length() {
        for n in 1..70 {
            let values: Vec<f32> = (0..n).map(|i| ((i * 37) % 23) as f32 - 11.0).collect();
            assert_eq!(sum(&values), values.iter().sum::<f32>());
            let squares = values.iter().map(|v| v * v).sum::<f32>();
            assert_eq!(sum_of(&values, &values, |a, b| a * b), squares);
            assert_eq!(
                max(&values, -1e30),
                values.iter().copied().fold(-1e30, f32::max)
            );
        }
    }
}
