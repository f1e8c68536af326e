//! Each shader against its plain Rust twin, on random shapes, through the launch path the engine uses. Needs a GPU adapter:
//! without one these tests fail, they never pass by skipping.
//!
//! Everything that a kernel must not read is NaN: padding, rows of other launches, slots that no row sees, scratch
//! memory, and outputs before they are written. An earlier batch may leave such values in memory, and 0 times NaN is
//! NaN.

mod attention;
mod choices;
mod draws;
mod heads;
mod products;
mod residual;
mod rows;
mod splits;

use std::sync::OnceLock;

use esolm::config::ROTARY_BASE;
use esolm::device::{AdapterKind, DeviceChoice, Precision, open};
use esolm::kernels::attention::{
    Attention, Geometry, Spans, attention_rows, attention_split, attention_tile, attention_twin,
};
use esolm::kernels::copy::copy;
use esolm::kernels::embed::{Embedding, embed_tied, embed_twin};
use esolm::kernels::heads::{Qkv, heads, heads_twin};
use esolm::kernels::norm::{Norm, norm, norm_twin};
use esolm::kernels::peak::{peak, peak_twin};
use esolm::kernels::product::{
    Finish, Matrix, ProductVariant, ROW_PAD, gelu_twin, product, product_twin, silu_twin,
};
use esolm::kernels::residual::{Residual, STREAM_ROWS};
use esolm::kernels::reveal::{Confidences, Reveal, confidence as confidence_of, reveal};
use esolm::kernels::rotary::{rotary_table, rotary_twin};
use esolm::kernels::runtime::{Buffer, Gpu};
use esolm::kernels::sample::{Sample, Shared, sample, suppress as suppress_on};
use esolm::kernels::score::{Score, score};
use esolm::network::fold::{self, Linear};
use esolm::passes::log_probability;
use esolm::quantise::{GROUP, Q4, Q8};
use esolm::reveal::{BROKEN, CERTAIN, Choice, Confidence, Group, Rule, choose, confidence};
use esolm::rows::{MASKED, NO_TARGET, Row, own_slot};
use esolm::sampler::{NO_TOKEN, NoiseSource, Sampler, sample_row, suppress};
use esolm::{Chosen, Weights};

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let gpu = pollster::block_on(open(DeviceChoice::Gpu(None))).expect("these tests need a GPU adapter; a software one will do: `cargo xtask test` installs it on Debian");
        gpu.expect("gpu was asked for")
    })
}

/// A buffer of `len` values that must not be read before they are written, followed by four that must not be written.
fn blank(len: usize) -> Buffer {
    floats(&vec![f32::NAN; len + 4])
}

/// A buffer with these values.
fn floats(values: &[f32]) -> Buffer {
    gpu().floats(values.to_vec()).expect("memory suffices")
}

/// The first `len` values of a [`blank`] buffer. The values after them must be unchanged.
fn written(buffer: &Buffer, len: usize) -> Vec<f32> {
    let mut values = read(buffer);
    let rest = values.split_off(len);
    assert!(
        rest.iter().all(|value| value.is_nan()),
        "written beyond the end: {rest:?}"
    );
    values
}

/// A small generator of test data (SplitMix64), used only for shapes and values.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Roughly normal.
    fn value(&mut self) -> f32 {
        (0..6)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5)
            .sum::<f32>()
            * std::f32::consts::SQRT_2
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

fn read(buffer: &Buffer) -> Vec<f32> {
    pollster::block_on(gpu().read_floats(buffer)).expect("the kernel ran")
}

/// Activations padded to whole blocks of rows; the padding must not leak into results.
fn padded(x: &[f32], width: usize) -> Buffer {
    let rows = (x.len() / width).next_multiple_of(ROW_PAD);
    let mut all = x.to_vec();
    all.resize(rows * width, f32::NAN);
    floats(&all)
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let is_close = (g - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(
            is_close || g.is_nan() && w.is_nan(),
            "{what}: entry {i} is {g}, the twin says {w}"
        );
    }
}

/// An RMS norm whose epsilon is noticeable for squares near one.
const RMS: Norm = Norm::Rms { eps: 0.25 };

const WEIGHTS: [Weights; 4] = [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4];

fn linear(weight: &[f32], bias: &[f32]) -> Linear {
    Linear::new("", weight.to_vec(), bias.to_vec())
}

/// The quantised values of neighbours along the inputs, starting at a group boundary.
fn rounded(values: &[f32], weights: Weights) -> Vec<f32> {
    let group = |values: &[f32]| -> Vec<f32> {
        let held = match weights {
            Weights::F32 => return values.to_vec(),
            Weights::F16 => {
                return values
                    .iter()
                    .map(|&v| half::f16::from_f32(v).to_f32())
                    .collect();
            }
            Weights::Q8 => Q8::new(values).weights(),
            Weights::Q4 => Q4::new(values).weights(),
        };
        held[..values.len()].to_vec()
    };
    values.chunks(GROUP).flat_map(group).collect()
}

/// The values as stored in a cache.
fn cached(values: &[f32], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => values.to_vec(),
        Precision::F16 => rounded(values, Weights::F16),
    }
}

/// [`rounded`] of each column of a matrix [k, n].
fn rounded_matrix(values: &[f32], n: usize, weights: Weights) -> Vec<f32> {
    let mut all = values.to_vec();
    for c in 0..n {
        let column: Vec<f32> = values.iter().skip(c).step_by(n).copied().collect();
        let places = all.iter_mut().skip(c).step_by(n);
        for (place, value) in places.zip(rounded(&column, weights)) {
            *place = value;
        }
    }
    all
}

/// Weights that must not be read: when quantised, infinity has an infinite scale and codes of zero, whose product is
/// NaN.
fn poison(weights: Weights) -> f32 {
    match weights {
        Weights::F32 | Weights::F16 => f32::NAN,
        Weights::Q8 | Weights::Q4 => f32::INFINITY,
    }
}

/// Random rows: ascending sequences, distinct slots within each, any prefixes, own slots inside and outside of them.
fn random_rows(random: &mut Random, sequences: usize, slots: usize, most: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for sequence in 0..sequences {
        let mut free: Vec<usize> = (0..slots).collect();
        for _ in 0..random.between(0, most.min(slots)) {
            let slot = free.swap_remove(random.below(free.len()));
            let position = random.below(slots) as u32;
            let prefix = random.between(0, slots) as u32;
            rows.push(Row {
                sequence: sequence as u32,
                slot: slot as u32,
                position,
                prefix,
                own: own_slot(slot as u32, prefix),
                source: MASKED,
                target: NO_TARGET,
            });
        }
    }
    if rows.is_empty() {
        rows.push(Row {
            sequence: 0,
            slot: 0,
            position: 1,
            prefix: 0,
            own: [0, 1],
            source: MASKED,
            target: NO_TARGET,
        });
    }
    rows
}

/// A table of rows on the device, followed by a row that no launch may use.
fn table(rows: &[Row]) -> Buffer {
    let stray = Row {
        source: 0,
        target: 0,
        ..rows[0]
    };
    let rows = [rows, &[stray]].concat();
    gpu().upload(bytemuck::cast_slice(&rows))
}

/// A cache with these values, an even number of them.
fn cache_of(values: &[f32], precision: Precision) -> Buffer {
    match precision {
        Precision::F32 => floats(values),
        Precision::F16 => gpu()
            .words(esolm::kernels::packed::pack_f16(values))
            .unwrap(),
    }
}
