//! Every form that a kernel could run in, at the shapes of a model and in alternated runs: where the table in `variants.rs` is wrong for
//! a device.

use std::fmt;
use std::time::Instant;

use esolm_core::rows::{MASKED, NO_TARGET, Row};
use serde::Serialize;

use crate::error::EngineError;
use crate::kernels::attention::{
    Attention, AttentionVariant, Geometry, Spans, attention_rows, attention_split, attention_tile,
};
use crate::kernels::heads::Qkv;
use crate::kernels::norm::Norm;
use crate::kernels::product::{Activation, Finish, Matrix, ProductVariant, product};
use crate::kernels::residual::Residual;
use crate::kernels::runtime::{Buffer, Gpu};
use crate::variants::Chosen;

/// Rows of the passes that are compared: around every change of a form.
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
/// Alternated runs, where time allows.
const RUNS: usize = 7;
/// Those that are made however long they take: fewer say nothing about the table.
const LEAST_RUNS: usize = 3;
/// Seconds that a run should last, so that waiting for it counts little.
const RUN_SECONDS: f64 = 0.01;
/// Most launches of a run.
const MOST_TIMES: usize = 256;
/// Share of the table's time below which another form is better.
const BETTER: f64 = 0.9;

/// What of a model is compared.
pub struct Subject<'a> {
    /// The matrix for q, k and v of each block.
    pub qkv: Vec<&'a Matrix>,
    /// After attention.
    pub out: Vec<&'a Matrix>,
    /// The first of the MLP.
    pub up: Vec<&'a Matrix>,
    /// The second of the MLP.
    pub down: Vec<&'a Matrix>,
    /// For the logits.
    pub head: &'a Matrix,
    /// How rows are normalised before the first of each pair.
    pub norm: Norm,
    /// Between those of the MLP.
    pub activation: Activation,
    /// Whether heads are normalised between the product for q, k and v and what turns them, which then is no part of the product.
    pub has_head_norms: bool,
    /// Rotary angles.
    pub rotary: &'a Buffer,
    /// Shape of the attention; its slots are the prefix of every row.
    pub geometry: Geometry,
}

/// What the kernels are compared at.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Sequences that the rows of a pass are dealt out to.
    pub sequences: usize,
    /// Slots that a row attends to.
    pub length: usize,
    /// Seconds after which no further run of a comparison begins.
    pub seconds: f64,
}

/// A form of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Form {
    /// Of a product.
    Product(ProductVariant),
    /// Of attention.
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

/// What a kernel computes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Shape {
    /// A product with a matrix.
    Product {
        /// Its inner size K.
        inputs: usize,
        /// Its outer size N.
        outputs: usize,
    },
    /// Attention.
    Attention {
        /// Sequences that the rows are of.
        sequences: usize,
        /// Slots that each row attends to.
        prefix: usize,
    },
}

/// A form's time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timed {
    /// The form.
    pub form: Form,
    /// Median seconds, launches of the normalisation before it included.
    pub seconds: f64,
    /// Median of its share of the time that the table's form took in the same run.
    pub of_table: f64,
}

/// A kernel at one shape in all its forms.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What the kernel is for.
    pub kernel: &'static str,
    /// Rows of the pass.
    pub rows: usize,
    /// Its other sizes.
    #[serde(flatten)]
    pub shape: Shape,
    /// The form that the table says.
    pub table: Form,
    /// All forms.
    pub forms: Vec<Timed>,
    /// Alternated runs of each.
    pub runs: usize,
    /// A form that was faster than the table's in every run and took less than nine tenths of its time: there the table is wrong.
    pub better: Option<Form>,
}

/// Compares the forms of every kernel of `subject`.
///
/// # Errors
/// When the device fails or has no memory for it.
pub async fn compare(
    gpu: &Gpu,
    subject: &Subject<'_>,
    scope: &Scope,
) -> Result<Vec<Comparison>, EngineError> {
    let Subject { head, geometry, .. } = subject;
    let most = ROWS.into_iter().max().unwrap_or(1);
    // The widest of what products read, and of what they write.
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
    for rows in ROWS {
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
                    // One block after the other, so that the weights do not stay in a cache.
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
            let chosen = Form::Product(Chosen::by_table(gpu.info.kind).product(rows));
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

/// The row table of a pass, dealt out to sequences, with its spans.
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

/// What the kernels read and write.
struct Buffers {
    x: Buffer,
    normed: Buffer,
    out: Buffer,
    k: Buffer,
    v: Buffer,
}

impl Buffers {
    /// A product as a pass runs it.
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
        let new = |x| Residual::new(gpu, norm, variant, rows, hidden, x, &self.normed);
        // In a pass attention's product was added before the MLP, and the MLP's before the next block.
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
            _ => attention_split(gpu, geometry, &io),
        }
    }
}

/// Seconds of each form in each run.
struct Race {
    forms: Vec<Form>,
    seconds: Vec<Vec<f64>>,
}

/// Runs `forms` in turn, in the other order every other time. `run` launches a form some times over.
async fn race(
    gpu: &Gpu,
    written: &Buffer,
    table: Form,
    forms: &[Form],
    most_seconds: f64,
    run: impl Fn(Form, usize),
) -> Result<Race, EngineError> {
    let time = async |form, times| {
        let begin = Instant::now();
        run(form, times);
        gpu.check(&[written]).await?;
        Ok::<f64, EngineError>(begin.elapsed().as_secs_f64())
    };
    for &form in forms {
        // The first run compiles.
        time(form, 1).await?;
    }
    let mut times = 1;
    while times < MOST_TIMES && time(table, times).await? < RUN_SECONDS {
        times *= 2;
    }
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
            seconds[at].push(time(forms[at], times).await? / times as f64);
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
        // Faster, but not by enough; by enough at the median, but not in every run; by enough.
        assert_eq!(better(&[0.95; 3], &table, &[3.0; 3]), None);
        assert_eq!(better(&[0.5, 0.5, 1.2], &table, &[3.0; 3]), None);
        assert_eq!(better(&[0.5, 0.5, 0.9], &table, &[3.0; 3]), Some(forms[0]));
        assert_eq!(better(&[0.5; 3], &table, &[0.4; 3]), Some(forms[2]));
    }
}
