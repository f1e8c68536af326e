//! Times all variants of each kernel at a model's shapes in alternated runs, to find where the table in `variants.rs`
//! is wrong for a device.

use std::fmt;
use std::time::Instant;

use esolm_core::rows::{MASKED, NO_TARGET, Row};
use serde::Serialize;

use crate::adapter::AdapterKind;
use crate::error::EngineError;
use crate::kernels::attention::{
    Attention, AttentionVariant, Geometry, Spans, attention_rows, attention_split, attention_tile,
};
use crate::kernels::heads::Qkv;
use crate::kernels::norm::Norm;
use crate::kernels::product::{Activation, Finish, Matrix, ProductVariant, product};
use crate::kernels::residual::Residual;
use crate::kernels::runtime::{Buffer, Gpu, Recording};
use crate::variants::Chosen;

/// Numbers of rows to compare: around every switch between variants.
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
/// Also compared on hardware; a software adapter would take minutes.
const MANY_ROWS: usize = 1024;
/// Alternated runs, time permitting.
const RUNS: usize = 7;
/// Runs that are made regardless of time: fewer would say nothing about the table.
const LEAST_RUNS: usize = 3;
/// Target duration of a run in seconds, so that waiting for it matters little.
const RUN_SECONDS: f64 = 0.01;
/// Maximum launches per run.
const MOST_TIMES: usize = 256;
/// A variant is better if it takes less than this fraction of the table's time.
const BETTER: f64 = 0.9;

/// The parts of a model that are compared.
pub struct Subject<'a> {
    /// The query-key-value matrix of each block.
    pub qkv: Vec<&'a Matrix>,
    /// The attention output matrices.
    pub out: Vec<&'a Matrix>,
    /// The first MLP matrices.
    pub up: Vec<&'a Matrix>,
    /// The second MLP matrices.
    pub down: Vec<&'a Matrix>,
    /// The output matrix.
    pub head: &'a Matrix,
    /// The norm before the first matrix of each pair.
    pub norm: Norm,
    /// The MLP's activation.
    pub activation: Activation,
    /// Whether heads are normalised after the query-key-value product and before the rotary embedding, which then is
    /// not fused into the product.
    pub has_head_norms: bool,
    /// Rotary angles.
    pub rotary: &'a Buffer,
    /// Shape of the attention; its slots are the prefix of every row.
    pub geometry: Geometry,
}

/// The sizes at which kernels are compared.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Sequences among which the rows of a pass are distributed.
    pub sequences: usize,
    /// Slots that a row attends to.
    pub length: usize,
    /// Seconds after which a comparison starts no further run.
    pub seconds: f64,
}

/// A kernel variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Form {
    /// A product's.
    Product(ProductVariant),
    /// An attention kernel's.
    Attention(AttentionVariant),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Product(variant) => format!("{variant:?}"),
            Self::Attention(variant) => format!("{variant:?}"),
        };
        f.pad(&name.to_lowercase())
    }
}

/// The operation that a kernel computes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Shape {
    /// A product with a matrix.
    Product {
        /// Inner size K.
        inputs: usize,
        /// Outer size N.
        outputs: usize,
    },
    /// Attention.
    Attention {
        /// Sequences that the rows belong to.
        sequences: usize,
        /// Slots that each row attends to.
        prefix: usize,
    },
}

/// Timing of a variant.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timed {
    /// The variant.
    pub form: Form,
    /// Median seconds, including launches of the normalisation before it.
    pub seconds: f64,
    /// Median ratio to the time of the table's variant in the same run.
    pub of_table: f64,
}

/// All variants of a kernel at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The kernel's purpose.
    pub kernel: &'static str,
    /// Rows of the pass.
    pub rows: usize,
    /// Its other sizes.
    #[serde(flatten)]
    pub shape: Shape,
    /// The table's choice.
    pub table: Form,
    /// All variants.
    pub forms: Vec<Timed>,
    /// Alternated runs of each variant.
    pub runs: usize,
    /// A variant that beat the table's in every run and took less than 0.9 of its time: here the table is wrong.
    pub better: Option<Form>,
}

/// Compares the variants of every kernel of `subject`.
///
/// # Errors
/// If the device fails or does not have enough memory.
pub async fn compare(
    gpu: &Gpu,
    subject: &Subject<'_>,
    scope: &Scope,
) -> Result<Vec<Comparison>, EngineError> {
    let Subject { head, geometry, .. } = subject;
    let is_software = gpu.info.kind == AdapterKind::Software;
    let counts = (ROWS.into_iter()).chain((!is_software).then_some(MANY_ROWS));
    let most = counts.clone().max().unwrap_or(1);
    // The widest input and output of any product.
    let matrices = [&subject.qkv, &subject.out, &subject.up, &subject.down];
    let matrices = matrices.into_iter().flatten().chain([head]);
    let [read, written] = matrices.fold([0, 0], |[read, written], matrix| {
        [read.max(matrix.k), written.max(matrix.padded())]
    });
    let buffers = Buffers {
        x: gpu.floats(vec![0.0; most * read])?,
        normed: gpu.allocate("the comparison", most * head.k)?,
        out: gpu.allocate("the comparison", most * written)?,
        k: cache(gpu, geometry, scope)?,
        v: cache(gpu, geometry, scope)?,
    };
    let mut all = Vec::new();
    for rows in counts {
        let table = Table::new(gpu, rows, scope);
        for (kernel, matrices) in [
            ("qkv", &subject.qkv),
            ("out", &subject.out),
            ("up", &subject.up),
            ("down", &subject.down),
            ("logits", &vec![*head]),
        ] {
            let run = |form, times| {
                if let Form::Product(variant) = form {
                    // Cycles through the blocks, so that the weights do not stay in a cache.
                    for matrix in matrices.iter().cycle().take(times) {
                        buffers.multiply(gpu, kernel, variant, matrix, subject, &table);
                    }
                }
            };
            let Some(matrix) = matrices.first() else {
                continue;
            };
            let shape = Shape::Product {
                inputs: matrix.k,
                outputs: matrix.n,
            };
            let forms = [
                ProductVariant::Rows,
                ProductVariant::Split,
                ProductVariant::Tile,
            ]
            .map(Form::Product);
            let chosen = Form::Product(Chosen::by_table(gpu.info.kind).product(rows, matrix.n));
            let times = race(gpu, &buffers.out, chosen, &forms, scope.seconds, run).await?;
            all.push(times.comparison(kernel, rows, shape, chosen));
        }
        if table.longest > scope.length {
            continue;
        }
        let run = |form, times| {
            for _ in 0..times {
                buffers.attend(gpu, form, geometry, &table, scope);
            }
        };
        let shape = Shape::Attention {
            sequences: table.sequences,
            prefix: scope.length,
        };
        let forms = [
            AttentionVariant::Split,
            AttentionVariant::Tile,
            AttentionVariant::Rows,
        ]
        .map(Form::Attention);
        let sharing = geometry.sharing();
        let chosen =
            Chosen::by_table(gpu.info.kind).attention(rows * sharing, table.longest * sharing);
        let chosen = Form::Attention(chosen);
        let times = race(gpu, &buffers.out, chosen, &forms, scope.seconds, run).await?;
        all.push(times.comparison("attention", rows, shape, chosen));
    }
    Ok(all)
}

fn cache(gpu: &Gpu, geometry: &Geometry, scope: &Scope) -> Result<Buffer, EngineError> {
    let values = scope.sequences * scope.length * geometry.kv_width();
    let words = values as u64 * geometry.cache.bytes() / 4;
    gpu.allocate("the KV cache of the comparison", words as usize)
}

/// The row table of a pass distributed among sequences, with its spans.
struct Table {
    rows: Buffer,
    spans: Buffer,
    count: usize,
    sequences: usize,
    longest: usize,
}

impl Table {
    fn new(gpu: &Gpu, count: usize, scope: &Scope) -> Self {
        let longest = count.div_ceil(scope.sequences);
        let rows: Vec<Row> = (0..count)
            .map(|row| Row {
                sequence: (row / longest) as u32,
                slot: (row % longest % scope.length) as u32,
                position: 0,
                prefix: scope.length as u32,
                own: [scope.length as u32; 2],
                source: MASKED,
                target: NO_TARGET,
            })
            .collect();
        let spans: Vec<[u32; 2]> = rows
            .chunk_by(|a, b| a.sequence == b.sequence)
            .enumerate()
            .map(|(sequence, rows)| [(sequence * longest) as u32, rows.len() as u32])
            .collect();
        Self {
            rows: gpu.upload(bytemuck::cast_slice(&rows)),
            spans: gpu.upload(bytemuck::cast_slice(&spans)),
            count,
            sequences: spans.len(),
            longest,
        }
    }
}

/// The buffers that the kernels read and write.
struct Buffers {
    x: Buffer,
    normed: Buffer,
    out: Buffer,
    k: Buffer,
    v: Buffer,
}

impl Buffers {
    /// A product, run as in a pass.
    fn multiply(
        &self,
        gpu: &Gpu,
        kernel: &str,
        variant: ProductVariant,
        matrix: &Matrix,
        subject: &Subject,
        table: &Table,
    ) {
        let rows = table.count;
        let (norm, hidden) = (subject.norm, subject.head.k);
        let chosen = Chosen::by_table(gpu.info.kind).with_products(variant);
        let new = |x| Residual::new(gpu, norm, chosen, rows, hidden, x, &self.normed);
        // In a pass, attention's product is added before the MLP, and the MLP's before the next block.
        let after = |matrices: &[&Matrix]| match matrices.first() {
            Some(matrix) => new(&self.x).after_adding(matrix),
            None => new(&self.x),
        };
        match kernel {
            "qkv" if subject.has_head_norms => {
                let finish = Finish::Store(&self.out);
                after(&subject.down).product(0..rows, matrix, &finish);
            }
            "qkv" => {
                let to = Qkv {
                    q: &self.out,
                    rows: &table.rows,
                    rotary: subject.rotary,
                    k: &self.k,
                    v: &self.v,
                    slots: subject.geometry.slots,
                    heads: subject.geometry.heads,
                    kv_heads: subject.geometry.kv_heads,
                    head_dim: subject.geometry.head_dim,
                    cache: subject.geometry.cache,
                };
                after(&subject.down).product(0..rows, matrix, &Finish::Qkv(to));
            }
            "up" => {
                let finish = subject.activation.finish(&self.out);
                after(&subject.out).product(0..rows, matrix, &finish);
            }
            "logits" => {
                let finish = Finish::Store(&self.out);
                product(gpu, variant, None, &self.x, 0..rows, matrix, &finish);
            }
            _ => new(&self.out).add(&self.x, 0..rows, matrix),
        }
    }

    fn attend(&self, gpu: &Gpu, form: Form, geometry: &Geometry, table: &Table, scope: &Scope) {
        let io = Attention {
            q: &self.x,
            k: &self.k,
            v: &self.v,
            rows: &table.rows,
            count: table.count,
            out: &self.out,
        };
        let spans = Spans {
            table: &table.spans,
            count: table.sequences,
            longest: table.longest,
        };
        match form {
            Form::Attention(AttentionVariant::Tile) => {
                attention_tile(gpu, geometry, &io, &spans, scope.length);
            }
            Form::Attention(AttentionVariant::Rows) => {
                attention_rows(gpu, geometry, &io, &spans, scope.length);
            }
            _ => attention_split(gpu, geometry, &io, scope.length),
        }
    }
}

/// Seconds of each variant in each run.
struct Race {
    forms: Vec<Form>,
    seconds: Vec<Vec<f64>>,
}

/// Runs `forms` in turn, reversing the order every other time. `run` launches a variant a given number of times. Launches are
/// replayed from recordings, as in most passes, since a fast device would otherwise wait for the host.
async fn race(
    gpu: &Gpu,
    written: &Buffer,
    table: Form,
    forms: &[Form],
    most_seconds: f64,
    run: impl Fn(Form, usize),
) -> Result<Race, EngineError> {
    let time = async |form, times, recording: Option<&Recording>| {
        let begin = Instant::now();
        match recording {
            Some(recording) => gpu.replay(recording)?,
            None => run(form, times),
        }
        gpu.check(&[written]).await?;
        Ok::<f64, EngineError>(begin.elapsed().as_secs_f64())
    };
    for &form in forms {
        // The first run compiles the kernel.
        time(form, 1, None).await?;
    }
    let mut times = 1;
    while times < MOST_TIMES && time(table, times, None).await? < RUN_SECONDS {
        times *= 2;
    }
    let record = |&form: &Form| gpu.record(|| run(form, times));
    let recordings: Vec<Option<Recording>> = forms.iter().map(record).collect();
    let begin = Instant::now();
    let mut seconds = vec![Vec::new(); forms.len()];
    for round in 0..RUNS {
        if round >= LEAST_RUNS && begin.elapsed().as_secs_f64() > most_seconds {
            break;
        }
        for turn in 0..forms.len() {
            let at = match round % 2 {
                0 => turn,
                _ => forms.len() - 1 - turn,
            };
            let taken = time(forms[at], times, recordings[at].as_ref()).await?;
            seconds[at].push(taken / times as f64);
        }
    }
    Ok(Race {
        forms: forms.to_vec(),
        seconds,
    })
}

impl Race {
    fn comparison(
        &self,
        kernel: &'static str,
        rows: usize,
        shape: Shape,
        table: Form,
    ) -> Comparison {
        let at = self.forms.iter().position(|&form| form == table);
        let base = &self.seconds[at.unwrap_or(0)];
        let forms: Vec<Timed> = self
            .forms
            .iter()
            .zip(&self.seconds)
            .map(|(&form, seconds)| Timed {
                form,
                seconds: median(seconds.iter().copied()),
                of_table: median(seconds.iter().zip(base).map(|(a, b)| a / b)),
            })
            .collect();
        let better = forms
            .iter()
            .zip(&self.seconds)
            .filter(|(timed, seconds)| {
                timed.of_table < BETTER && seconds.iter().zip(base).all(|(a, b)| a < b)
            })
            .map(|(timed, _)| timed)
            .min_by(|a, b| a.of_table.total_cmp(&b.of_table))
            .map(|timed| timed.form);
        Comparison {
            kernel,
            rows,
            shape,
            table,
            forms,
            runs: base.len(),
            better,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_wrong_only_where_every_run_says_so() {
        let forms = [
            ProductVariant::Rows,
            ProductVariant::Split,
            ProductVariant::Tile,
        ]
        .map(Form::Product);
        let shape = Shape::Product {
            inputs: 4,
            outputs: 4,
        };
        let better = |rows: &[f64], split: &[f64], tile: &[f64]| {
            let race = Race {
                forms: forms.to_vec(),
                seconds: vec![rows.to_vec(), split.to_vec(), tile.to_vec()],
            };
            let comparison = race.comparison("up", 4, shape, forms[1]);
            assert_eq!(comparison.forms[1].of_table, 1.0);
            comparison.better
        };
        let table = [1.0, 1.1, 1.0];
        assert_eq!(better(&[2.0; 3], &table, &[3.0; 3]), None);
        // First not faster by enough; then by enough at the median but not in every run; then by enough.
        assert_eq!(better(&[0.95; 3], &table, &[3.0; 3]), None);
        assert_eq!(better(&[0.5, 0.5, 1.2], &table, &[3.0; 3]), None);
        assert_eq!(better(&[0.5, 0.5, 0.9], &table, &[3.0; 3]), Some(forms[0]));
        assert_eq!(better(&[0.5; 3], &table, &[0.4; 3]), Some(forms[2]));
    }
}
