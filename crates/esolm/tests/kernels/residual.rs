//! The residual stream: what is added to it, in parts if matrices are narrow, and what reads it.

use super::products::VARIANTS;
use super::*;

/// A matrix, with its values as represented by a form of weights.
struct Held {
    matrix: Matrix,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Held {
    fn new(random: &mut Random, k: usize, n: usize, weights: Weights) -> Self {
        let scale = 1.0 / (k as f32).sqrt();
        let weight: Vec<f32> = random.values(k * n).iter().map(|w| w * scale).collect();
        let bias = random.values(n);
        let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), weights).unwrap();
        let weight = rounded_matrix(&weight, n, weights);
        Self {
            matrix,
            weight,
            bias,
        }
    }

    /// The twin of its product with rows of `x`.
    fn times(&self, x: &[f32], norm: Option<Norm>) -> Vec<f32> {
        let k = self.weight.len() / self.bias.len();
        product_twin(x, k, &self.weight, &self.bias, norm)
    }
}

/// A stream of rows, followed by values that must not be read.
fn stream(x: &[f32], hidden: usize) -> Buffer {
    let mut all = x.to_vec();
    let rows = (x.len() / hidden).next_multiple_of(ROW_PAD);
    all.resize(rows.max(STREAM_ROWS) * hidden + 4, f32::NAN);
    floats(&all)
}

/// Three times: something is added, and a product reads the sum; then only the first rows continue, and are normalised.
/// Inner sizes of one, two and four parts, not all of which divide evenly; outer sizes that end within a workgroup.
#[test]
fn a_stream_is_what_was_added_to_it() {
    let mut random = Random(31);
    for (case, (rows, hidden, inner)) in [
        (1, 36, [20, 516, 516]),
        (3, 100, [1028, 1028, 260]),
        (8, 68, [260, 64, 260]),
        (9, 36, [516, 516, 516]),
        (16, 44, [1028, 20, 260]),
        (17, 40, [516, 516, 516]),
    ]
    .into_iter()
    .enumerate()
    {
        let weights = WEIGHTS[case % 4];
        // The norm does not affect how parts are added.
        let norms = match case % 3 {
            0 => &[Norm::Layer, RMS][..],
            _ => &[Norm::Layer],
        };
        let table = Chosen::by_table(AdapterKind::Discrete);
        let mut choices = VARIANTS
            .map(|variant| table.with_products(variant))
            .to_vec();
        // Products of one pass in two variants, and of the first rows in another one.
        choices.push(Chosen {
            many_results: 46 * rows,
            ..table
        });
        for (chosen, norm) in choices
            .into_iter()
            .flat_map(|c| norms.iter().map(move |&n| (c, n)))
        {
            let x = random.values(rows * hidden);
            let (buffer, normed) = (stream(&x, hidden), blank(rows * hidden));
            let mut want = x;
            let mut residual = Residual::new(gpu(), norm, chosen, rows, hidden, &buffer, &normed);
            let mut split = 0;
            let name = format!("{chosen} {weights} {norm:?} rows={rows} hidden={hidden}");
            for (step, k) in inner.into_iter().enumerate() {
                let (add, read) = (
                    Held::new(&mut random, k, hidden, weights),
                    Held::new(&mut random, hidden, 52, weights),
                );
                let input = random.values(rows * k);
                let added = add.times(&input, None);
                want.iter_mut().zip(added).for_each(|(x, y)| *x += y);
                residual.add(&padded(&input, k), 0..rows, &add.matrix);
                let variant = chosen.product(rows, hidden);
                split += usize::from(add.matrix.parts(variant, rows) > 1);
                let out = blank(rows * 52);
                residual.product(0..rows, &read.matrix, &Finish::Store(&out));
                let got = written(&out, rows * 52);
                let what = format!("{name} step {step}");
                close(&what, &got, &read.times(&want, Some(norm)), 1e-4);
            }
            // Then only the first rows. Nothing else reads what is added last.
            let kept = rows.min(5);
            residual.keep(kept);
            let last = Held::new(&mut random, inner[2], hidden, weights);
            let input = random.values(kept * inner[2]);
            let added = last.times(&input, None);
            want.iter_mut().zip(added).for_each(|(x, y)| *x += y);
            residual.add(&padded(&input, inner[2]), 0..kept, &last.matrix);
            let picked = blank(kept * hidden);
            // The last norm may have a weight that cannot be folded into anything.
            let gain = (norm == RMS).then(|| random.values(hidden));
            let gain_buffer = gain.as_deref().map(floats);
            residual.normalise(gain_buffer.as_ref(), &picked);
            let kept_rows = want[..kept * hidden].chunks(hidden);
            let mut want: Vec<f32> = kept_rows.flat_map(|row| norm_twin(norm, row)).collect();
            for (value, gain) in want.iter_mut().zip(gain.iter().flatten().cycle()) {
                *value *= gain;
            }
            let got = written(&picked, kept * hidden);
            close(&format!("{name} at the end"), &got, &want, 1e-4);
            // Only few rows are added in parts, by the variant for them.
            let is_split = chosen.few == ProductVariant::Split && rows <= ROW_PAD;
            assert_eq!(split > 0, is_split, "{name}");
        }
    }
}
