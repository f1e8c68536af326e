//! What is done with q, k and v: the norm of each head, rotary embedding, and writing to the cache.

use super::products::VARIANTS;
use super::*;
use esolm::kernels::NOWHERE;

/// Heads of q, heads of k and v, and their width. The first kind has as many of q, the second has more.
const ALIKE: [[usize; 3]; 5] = [[2, 2, 8], [3, 3, 12], [1, 1, 64], [2, 2, 128], [6, 6, 32]];
const GROUPED: [[usize; 3]; 5] = [
    [4, 2, 32],
    [9, 3, 64],
    [2, 1, 128],
    [14, 2, 12],
    [6, 2, 100],
];

#[test]
fn qkv_turns_and_scatters() {
    let mut random = Random(6);
    for (cache, weights, shapes) in [
        (Precision::F32, Weights::F32, &ALIKE[..]),
        (Precision::F16, Weights::F32, &ALIKE),
        (Precision::F32, Weights::Q8, &ALIKE[1..2]),
        (Precision::F16, Weights::Q4, &ALIKE[1..2]),
        (Precision::F32, Weights::F32, &GROUPED),
        (Precision::F16, Weights::Q8, &GROUPED[..2]),
    ] {
        for &shape in shapes {
            let case = Case::new(&mut random, shape, cache);
            let matrix = Matrix::upload(gpu(), &linear(&case.weight, &case.bias), weights).unwrap();
            let held = rounded_matrix(&case.weight, case.bias.len(), weights);
            let product_of = product_twin(&case.x, case.inputs(), &held, &case.bias, None);
            let want = case.turned(product_of);
            for variant in VARIANTS {
                let name = format!("{variant:?} {weights} {shape:?}");
                case.check(&name, &want, |to| {
                    product(
                        gpu(),
                        variant,
                        None,
                        &padded(&case.x, case.inputs()),
                        0..case.rows.len(),
                        &matrix,
                        &Finish::Qkv(to),
                    );
                });
            }
        }
    }
}

#[test]
fn heads_are_normalised_before_they_turn() {
    let mut random = Random(16);
    const EPS: f32 = 0.25;
    for (cache, shapes) in [
        (Precision::F32, [&ALIKE[..], &GROUPED].concat()),
        (Precision::F16, GROUPED[..2].to_vec()),
    ] {
        for shape in shapes {
            let [heads_of_q, kv_heads, head_dim] = shape;
            let case = Case::new(&mut random, shape, cache);
            let width = case.bias.len();
            // Heads for which the norm matters, and a row whose squares overflow: only that head is NaN.
            let mut stored: Vec<f32> = random.values(case.rows.len() * width);
            for (head, values) in stored.chunks_mut(head_dim).enumerate() {
                values.iter_mut().for_each(|v| *v *= 1.0 + head as f32);
            }
            if cache == Precision::F32 {
                stored[head_dim - 1] = 1e25;
            }
            // Those of q and of k differ.
            let gains = random.values(2 * head_dim);
            let mut want = stored.clone();
            for row in want.chunks_mut(width) {
                heads_twin(row, heads_of_q, kv_heads, &gains, EPS);
            }
            if cache == Precision::F32 {
                want[..head_dim].fill(f32::NAN);
            }
            let want = case.turned(want);
            let (x, gains) = (padded(&stored, width), floats(&gains));
            case.check(&format!("heads {shape:?}"), &want, |to| {
                // First some rows, then the rest.
                let first = case.rows.len().div_ceil(3);
                heads(gpu(), &x, 0..first, &gains, EPS, &to);
                let rest = padded(&stored[first * width..], width);
                heads(gpu(), &rest, first..case.rows.len(), &gains, EPS, &to);
            });
        }
    }
}

/// Rows of a pass, and the matrix for q, k and v.
struct Case {
    shape: [usize; 3],
    cache: Precision,
    sequences: usize,
    slots: usize,
    rows: Vec<Row>,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    angles: Vec<f32>,
}

/// q of all rows, and the two halves of the cache.
struct Turned {
    q: Vec<f32>,
    cached: [Vec<f32>; 2],
}

impl Case {
    fn new(random: &mut Random, shape: [usize; 3], cache: Precision) -> Self {
        let [heads, kv_heads, head_dim] = shape;
        let (sequences, slots) = (random.between(1, 3), random.between(2, 20));
        let mut rows = random_rows(random, sequences, slots, 14);
        // Padding rows have no keys and values.
        if let [_, .., last] = &mut rows[..] {
            last.slot = NOWHERE;
        }
        // The width of a network need not be that of all its heads.
        let inputs = match heads == kv_heads {
            true => heads * head_dim,
            false => 44,
        };
        let width = (heads + 2 * kv_heads) * head_dim;
        let x = random.values(rows.len() * inputs);
        let scale = 1.0 / (inputs as f32).sqrt();
        let weight = random.values(inputs * width);
        let mut bias = random.values(width);
        if cache == Precision::F16 {
            // A column of k and one of v exceed the range of f16.
            bias[heads * head_dim + 1] = 1e5;
            bias[width - 1] = -1e5;
        }
        let mut angles = rotary_table(slots, head_dim, ROTARY_BASE);
        for (position, angles) in (0..).zip(angles.chunks_mut(head_dim)) {
            if rows.iter().all(|row| row.position != position) {
                angles.fill(f32::NAN);
            }
        }
        Self {
            weight: weight.iter().map(|w| w * scale).collect(),
            shape,
            cache,
            sequences,
            slots,
            rows,
            x,
            bias,
            angles,
        }
    }

    fn inputs(&self) -> usize {
        self.x.len() / self.rows.len()
    }

    /// Where `y` [rows, heads of q, k and v, head_dim] goes. Slots without a row are unchanged.
    fn turned(&self, mut y: Vec<f32>) -> Turned {
        let [heads, kv_heads, head_dim] = self.shape;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let size = self.sequences * self.slots * kv_width;
        let mut cached = [vec![f32::NAN; size], vec![f32::NAN; size]];
        let mut q = Vec::new();
        for (row, y) in self.rows.iter().zip(y.chunks_mut(q_width + 2 * kv_width)) {
            let position = row.position as usize;
            let (both, v) = y.split_at_mut(q_width + kv_width);
            rotary_twin(both, position, head_dim, &self.angles);
            q.extend_from_slice(&both[..q_width]);
            if row.slot == NOWHERE {
                continue;
            }
            let place = (row.sequence as usize * self.slots + row.slot as usize) * kv_width;
            cached[0][place..place + kv_width].copy_from_slice(&both[q_width..]);
            cached[1][place..place + kv_width].copy_from_slice(v);
        }
        for value in cached.iter_mut().flatten() {
            // The largest f16.
            if self.cache == Precision::F16 && value.abs() > 65504.0 {
                *value = f32::NAN;
            }
        }
        Turned { q, cached }
    }

    fn check(&self, name: &str, want: &Turned, launch: impl Fn(Qkv)) {
        let [heads, kv_heads, head_dim] = self.shape;
        let size = want.cached[0].len();
        let empty = vec![f32::NAN; size];
        let (q, k, v) = (
            blank(want.q.len()),
            cache_of(&empty, self.cache),
            cache_of(&empty, self.cache),
        );
        let (rows, rotary) = (table(&self.rows), floats(&self.angles));
        launch(Qkv {
            q: &q,
            rows: &rows,
            rotary: &rotary,
            k: &k,
            v: &v,
            slots: self.slots,
            heads,
            kv_heads,
            head_dim,
            cache: self.cache,
        });
        let got = written(&q, want.q.len());
        close(&format!("q {name}"), &got, &want.q, 5e-5);
        for (buffer, want) in [(&k, &want.cached[0]), (&v, &want.cached[1])] {
            let (mut got, tolerance) = match self.cache {
                Precision::F32 => (read(buffer), 5e-5),
                Precision::F16 => (unpack(buffer), 1e-3),
            };
            got.truncate(size);
            let name = format!("cache {name} {}", self.cache);
            close(&name, &got, want, tolerance);
        }
    }
}

/// The floats of a packed f16 buffer.
fn unpack(buffer: &Buffer) -> Vec<f32> {
    let bytes = pollster::block_on(gpu().read(buffer)).expect("the kernel ran");
    bytes
        .chunks(2)
        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect()
}
