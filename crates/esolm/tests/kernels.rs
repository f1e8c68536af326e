//! Each shader against its plain Rust twin, on random shapes, through the launch path the engine uses. Needs a GPU adapter:
//! without one these tests fail, they never pass by skipping.

#[path = "kernels/splits.rs"]
mod splits;

use std::sync::OnceLock;

use esolm::device::{AdapterKind, DeviceChoice, Precision, open};
use esolm::kernels::attention::{
    Attention, Geometry, attention_chunks, attention_rows, attention_twin, scratch_len,
};
use esolm::kernels::copy::copy;
use esolm::kernels::embed::{Embedding, embed_twin};
use esolm::kernels::norm::{norm, norm_twin};
use esolm::kernels::peak::{peak, peak_twin};
use esolm::kernels::product::{
    Finish, Matrix, ProductVariant, Qkv, ROW_PAD, gelu_twin, product, product_twin, rotary_table,
    rotary_twin,
};
use esolm::kernels::rounded;
use esolm::kernels::runtime::{Buffer, Gpu};
use esolm::kernels::sample::{Sample, sample};
use esolm::kernels::score::{Score, score};
use esolm::passes::log_probability;
use esolm::rows::{MASKED, NO_TARGET, Row};
use esolm::sampler::{NoiseSource, Sampler, sample_row};

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let gpu = pollster::block_on(open(DeviceChoice::Gpu(None))).expect("these tests need a GPU adapter; a software one will do: `cargo xtask test` installs it on Debian");
        gpu.expect("gpu was asked for")
    })
}

/// A buffer of `len` zeros, or of four.
fn zeros(len: usize) -> Buffer {
    gpu().floats(vec![0.0; len.max(4)]).unwrap()
}

/// A small generator of test data (SplitMix64): only shapes and values come from it.
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

/// Activations padded to whole blocks of rows; the padding holds values that must not leak into results.
fn padded(x: &[f32], width: usize) -> Buffer {
    let rows = (x.len() / width).next_multiple_of(ROW_PAD);
    let mut all = x.to_vec();
    all.resize(rows * width, 7.5);
    gpu().floats(all).expect("memory suffices")
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * (1.0 + w.abs()),
            "{what}: entry {i} is {g}, the twin says {w}"
        );
    }
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::F16];
const VARIANTS: [ProductVariant; 3] = [
    ProductVariant::Rows,
    ProductVariant::Split,
    ProductVariant::Tile,
];

#[test]
fn copies() {
    let mut random = Random(1);
    for len in [4, 256, 4 * 64 * 3 + 4] {
        let data = random.values(len);
        let (source, out) = (gpu().floats(data.clone()).unwrap(), zeros(len));
        copy(gpu(), &source, &out, len);
        assert_eq!(read(&out), data);
    }
}

#[test]
fn embeds() {
    let mut random = Random(2);
    for precision in PRECISIONS {
        for _ in 0..6 {
            let (vocab, hidden, count) = (
                random.between(3, 90),
                4 * random.between(1, 40),
                random.between(1, 50),
            );
            let table = random.values(vocab * hidden);
            let tokens: Vec<u32> = (0..20).map(|_| random.below(vocab) as u32).collect();
            let rows: Vec<Row> = (0..count)
                .map(|_| Row {
                    source: if random.below(3) == 0 {
                        MASKED
                    } else {
                        random.below(20) as u32
                    },
                    sequence: 0,
                    slot: 0,
                    position: 0,
                    prefix: 0,
                    target: NO_TARGET,
                })
                .collect();
            let embedding = Embedding::upload(gpu(), &table, hidden, precision).unwrap();
            let x = zeros(count * hidden);
            let (rows_buffer, token_buffer) = (
                gpu().upload(bytemuck::cast_slice(&rows)),
                gpu().words(tokens.clone()).unwrap(),
            );
            embedding.launch(
                gpu(),
                &x,
                &rows_buffer,
                count,
                &token_buffer,
                vocab as u32 - 1,
            );
            assert_eq!(
                read(&x),
                embed_twin(
                    &rounded(&table, precision),
                    hidden,
                    &rows,
                    &tokens,
                    vocab as u32 - 1
                )
            );
        }
    }
}

#[test]
fn normalises() {
    let mut random = Random(3);
    for _ in 0..8 {
        let (rows, hidden) = (random.between(1, 30), 4 * random.between(1, 100));
        // A mean far from zero must not cost digits.
        let x: Vec<f32> = random
            .values(rows * hidden)
            .iter()
            .map(|v| v + 20.0)
            .collect();
        let picks: Vec<u32> = (0..random.between(1, 40))
            .map(|_| random.below(rows) as u32)
            .collect();
        let (x_buffer, index) = (
            gpu().floats(x.clone()).unwrap(),
            gpu().words(picks.clone()).unwrap(),
        );
        let out = zeros(rows * hidden);
        norm(gpu(), &x_buffer, None, &out, rows, hidden);
        let want: Vec<f32> = x.chunks(hidden).flat_map(norm_twin).collect();
        close("norm", &read(&out), &want, 2e-5);
        let out = zeros(picks.len() * hidden);
        norm(gpu(), &x_buffer, Some(&index), &out, picks.len(), hidden);
        let want: Vec<f32> = picks
            .iter()
            .flat_map(|&r| norm_twin(&x[r as usize * hidden..][..hidden]))
            .collect();
        close("gathered norm", &read(&out), &want, 2e-5);
    }
}

/// Rows, inner and outer sizes around every block boundary.
fn shapes(random: &mut Random) -> Vec<(usize, usize, usize)> {
    let mut shapes = vec![
        (1, 4, 1),
        (2, 64, 97),
        (3, 192, 130),
        (8, 256, 64),
        (9, 20, 33),
        (63, 36, 68),
        (65, 64, 65),
        (130, 128, 100),
        (5, 64, 40),
    ];
    shapes.extend((0..2).map(|_| {
        (
            random.between(1, 80),
            4 * random.between(1, 60),
            random.between(1, 300),
        )
    }));
    shapes
}

#[test]
fn products() {
    let mut random = Random(4);
    for (case, (rows, k, n)) in shapes(&mut random).into_iter().enumerate() {
        let x = random.values(rows * k);
        let weight: Vec<f32> = random
            .values(k * n)
            .iter()
            .map(|w| w / (k as f32).sqrt())
            .collect();
        let bias = random.values(n);
        let old = random.values(rows * n.next_multiple_of(4));
        for precision in PRECISIONS {
            let matrix = Matrix::upload(gpu(), &weight, &bias, k, precision).unwrap();
            for variant in VARIANTS {
                // Compiling takes a software adapter a second each: f16 takes every other shape.
                if precision == Precision::F16 && case % 2 == 1 {
                    continue;
                }
                for fused in [false, true] {
                    if fused && variant == ProductVariant::Tile {
                        continue;
                    }
                    let name =
                        format!("{variant:?} {precision} norm={fused} rows={rows} k={k} n={n}");
                    let stride = matrix.padded();
                    let want = product_twin(&x, k, &rounded(&weight, precision), &bias, fused);
                    let unpad = |out: Vec<f32>| -> Vec<f32> {
                        out.chunks(stride)
                            .take(rows)
                            .flat_map(|row| row[..n].to_vec())
                            .collect()
                    };
                    let x_buffer = padded(&x, k);
                    let out = zeros(rows * stride);
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Store(&out),
                    );
                    close(&name, &unpad(read(&out)), &want, 3e-5);
                    if n % 4 != 0 || precision == Precision::F16 || k > 64 {
                        continue;
                    }
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Gelu(&out),
                    );
                    let gelu: Vec<f32> = want.iter().map(|&y| gelu_twin(y)).collect();
                    close(&format!("gelu {name}"), &unpad(read(&out)), &gelu, 3e-5);
                    let out = gpu().floats(old.clone()).unwrap();
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Add(&out),
                    );
                    let sum: Vec<f32> = want.iter().zip(&old).map(|(y, o)| y + o).collect();
                    close(&format!("add {name}"), &unpad(read(&out)), &sum, 3e-5);
                }
            }
        }
    }
}

#[test]
fn products_start_at_a_row() {
    let mut random = Random(5);
    let (rows, k, n) = (24, 32, 40);
    let (x, weight, bias) = (
        random.values(rows * k),
        random.values(k * n),
        random.values(n),
    );
    let matrix = Matrix::upload(gpu(), &weight, &bias, k, Precision::F32).unwrap();
    let want = product_twin(&x[8 * k..20 * k], k, &weight, &bias, false);
    for variant in VARIANTS {
        let out = zeros(12 * n);
        product(
            gpu(),
            variant,
            false,
            &padded(&x, k),
            8..20,
            &matrix,
            &Finish::Store(&out),
        );
        close("row0", &read(&out), &want, 1e-4);
    }
}

/// Random rows: sequences ascending, slots distinct within one, prefixes anywhere, own slots inside and outside them.
fn random_rows(random: &mut Random, sequences: usize, slots: usize, most: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for sequence in 0..sequences {
        let mut free: Vec<usize> = (0..slots).collect();
        for _ in 0..random.between(0, most.min(slots)) {
            let slot = free.swap_remove(random.below(free.len()));
            rows.push(Row {
                sequence: sequence as u32,
                slot: slot as u32,
                position: random.below(slots) as u32,
                prefix: random.between(0, slots) as u32,
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
            source: MASKED,
            target: NO_TARGET,
        });
    }
    rows
}

#[test]
fn qkv_turns_and_scatters() {
    let mut random = Random(6);
    for cache in PRECISIONS {
        for (heads, head_dim) in [(2, 8), (3, 12), (1, 64), (2, 128), (6, 32)] {
            let hidden = heads * head_dim;
            let (sequences, slots) = (random.between(1, 3), random.between(2, 20));
            let rows = random_rows(&mut random, sequences, slots, 14);
            let x = random.values(rows.len() * hidden);
            let weight: Vec<f32> = random
                .values(hidden * 3 * hidden)
                .iter()
                .map(|w| w / (hidden as f32).sqrt())
                .collect();
            let bias = random.values(3 * hidden);
            let table = rotary_table(slots, head_dim);
            let matrix = Matrix::upload(gpu(), &weight, &bias, hidden, Precision::F32).unwrap();
            let mut want = product_twin(&x, hidden, &weight, &bias, false);
            let words = sequences * slots * hidden / if cache == Precision::F16 { 2 } else { 1 };
            for (row, y) in rows.iter().zip(want.chunks_mut(3 * hidden)) {
                rotary_twin(&mut y[..hidden], row.position as usize, head_dim, &table);
                rotary_twin(
                    &mut y[hidden..2 * hidden],
                    row.position as usize,
                    head_dim,
                    &table,
                );
            }
            let mut cached = [
                vec![0.0; sequences * slots * hidden],
                vec![0.0; sequences * slots * hidden],
            ];
            for (row, y) in rows.iter().zip(want.chunks(3 * hidden)) {
                let place = (row.sequence as usize * slots + row.slot as usize) * hidden;
                cached[0][place..place + hidden].copy_from_slice(&y[hidden..2 * hidden]);
                cached[1][place..place + hidden].copy_from_slice(&y[2 * hidden..]);
            }
            for variant in VARIANTS {
                let (q, k, v) = (zeros(rows.len() * hidden), zeros(words), zeros(words));
                let (rows_buffer, rotary) = (
                    gpu().upload(bytemuck::cast_slice(&rows)),
                    gpu().floats(table.clone()).unwrap(),
                );
                let to = Qkv {
                    q: &q,
                    rows: &rows_buffer,
                    rotary: &rotary,
                    k: &k,
                    v: &v,
                    slots,
                    head_dim,
                    cache,
                };
                product(
                    gpu(),
                    variant,
                    false,
                    &padded(&x, hidden),
                    0..rows.len(),
                    &matrix,
                    &Finish::Qkv(to),
                );
                let want_q: Vec<f32> = want
                    .chunks(3 * hidden)
                    .flat_map(|y| y[..hidden].to_vec())
                    .collect();
                close(&format!("q {variant:?}"), &read(&q), &want_q, 5e-5);
                for (buffer, want) in [(&k, &cached[0]), (&v, &cached[1])] {
                    let (got, tolerance) = match cache {
                        Precision::F32 => (read(buffer), 5e-5),
                        Precision::F16 => (unpack(buffer), 1e-3),
                    };
                    close(&format!("cache {variant:?} {cache}"), &got, want, tolerance);
                }
            }
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

#[test]
fn attends() {
    let mut random = Random(7);
    for cache in PRECISIONS {
        for (heads, head_dim, slots) in [
            (2, 8, 5),
            (3, 12, 40),
            (1, 64, 130),
            (2, 128, 33),
            (6, 32, 300),
            (4, 16, 1),
        ] {
            let sequences = random.between(1, 3);
            let geometry = Geometry {
                hidden: heads * head_dim,
                heads,
                slots,
                cache,
            };
            let mut rows = random_rows(&mut random, sequences, slots, 80);
            // What was written ends somewhere: in the last sequence at its end, in the others anywhere.
            for sequence in 0..sequences {
                let end = match sequence + 1 == sequences {
                    true => slots,
                    false => random.between(0, slots),
                };
                for row in rows.iter_mut().filter(|r| r.sequence == sequence as u32) {
                    row.prefix = row.prefix.min(end as u32);
                }
            }
            // A row that sees nothing but itself, and one that sees everything.
            rows[0].prefix = 0;
            if let Some(last) = rows.last_mut() {
                last.prefix = slots as u32;
            }
            let q = random.values(rows.len() * geometry.hidden);
            let size = sequences * slots * geometry.hidden;
            let (mut k, mut v) = (
                rounded(&random.values(size), cache),
                rounded(&random.values(size), cache),
            );
            // What no row may read holds what an earlier batch may have left there.
            for (at, (k, v)) in (k.chunks_mut(geometry.hidden))
                .zip(v.chunks_mut(geometry.hidden))
                .enumerate()
            {
                let (sequence, slot) = ((at / slots) as u32, (at % slots) as u32);
                let is_read = |row: &Row| slot < row.prefix || slot == row.slot;
                let mut own = rows.iter().filter(|row| row.sequence == sequence);
                if !own.any(is_read) {
                    k.fill(f32::NAN);
                    v.fill(f32::NAN);
                }
            }
            let upload = |data: &[f32]| match cache {
                Precision::F32 => gpu().floats(data.to_vec()).unwrap(),
                Precision::F16 => gpu().words(esolm::kernels::pack_f16(data)).unwrap(),
            };
            let (k_buffer, v_buffer, q_buffer) =
                (upload(&k), upload(&v), gpu().floats(q.clone()).unwrap());
            let rows_buffer = gpu().upload(bytemuck::cast_slice(&rows));
            let spans: Vec<[u32; 2]> = (0..sequences as u32)
                .map(|s| {
                    [
                        rows.iter().position(|r| r.sequence == s).unwrap_or(0) as u32,
                        rows.iter().filter(|r| r.sequence == s).count() as u32,
                    ]
                })
                .collect();
            let longest = spans.iter().map(|s| s[1] as usize).max().unwrap();
            let prefix = rows.iter().map(|r| r.prefix as usize).max().unwrap();
            let want = attention_twin(&geometry, &q, &k, &v, &rows);
            let out = zeros(q.len());
            let io = Attention {
                q: &q_buffer,
                k: &k_buffer,
                v: &v_buffer,
                rows: &rows_buffer,
                count: rows.len(),
                out: &out,
            };
            let spans = gpu().upload(bytemuck::cast_slice(&spans));
            attention_rows(gpu(), &geometry, &io, &spans, sequences, longest, prefix);
            close(&format!("rows {geometry:?}"), &read(&out), &want, 3e-5);
            let out = zeros(q.len());
            let (parts, stats) = scratch_len(&geometry, rows.len());
            let (parts, stats) = (zeros(parts), zeros(stats));
            attention_chunks(
                gpu(),
                &geometry,
                &Attention { out: &out, ..io },
                prefix,
                &parts,
                &stats,
            );
            close(&format!("chunks {geometry:?}"), &read(&out), &want, 3e-5);
        }
    }
}

#[test]
fn the_adapter_is_described() {
    let info = &gpu().info;
    assert!(info.limits.storage_buffers >= 8, "{info:?}");
    assert!(matches!(
        info.kind,
        AdapterKind::Discrete
            | AdapterKind::Integrated
            | AdapterKind::Virtual
            | AdapterKind::Software
            | AdapterKind::Unknown
    ));
}

#[test]
fn the_peak_is_computed() {
    let out = zeros(128 * 4);
    peak(gpu(), &out, 128, 9, 0.75);
    let want: Vec<f32> = (0..128)
        .flat_map(|id| [peak_twin(id, 9, 0.75); 4])
        .collect();
    close("peak", &read(&out), &want, 1e-5);
}

/// One launch of the sampling kernel: the tokens drawn for `rows` rows of logits.
fn drawn(
    logits: &[f32],
    vocab: usize,
    sampler: Sampler,
    seed: u64,
    draws: &[[u32; 2]],
    noise: Option<&[f32]>,
) -> Vec<u32> {
    let count = draws.len();
    let stride = vocab.next_multiple_of(4);
    let mut padded = vec![99.0; count * stride];
    for (row, out) in logits.chunks(vocab).zip(padded.chunks_mut(stride)) {
        out[..vocab].copy_from_slice(row);
    }
    // Sampled row i is row 2 i of the pass and writes token count - 1 - i.
    let rows: Vec<Row> = (0..2 * count as u32)
        .map(|r| Row {
            sequence: 0,
            slot: r,
            position: r,
            prefix: 0,
            source: MASKED,
            target: (count as u32).wrapping_sub(1 + r / 2),
        })
        .collect();
    let sampled: Vec<u32> = (0..count as u32).map(|i| 2 * i).collect();
    let (logits, tokens) = (
        gpu().floats(padded).unwrap(),
        gpu().words(vec![7777; count]).unwrap(),
    );
    let (sampled, rows) = (
        gpu().words(sampled).unwrap(),
        gpu().upload(bytemuck::cast_slice(&rows)),
    );
    let draws = gpu().upload(bytemuck::cast_slice(draws));
    let noise = noise.map(|n| gpu().floats(n.to_vec()).unwrap());
    let io = Sample {
        logits: &logits,
        stride,
        sampled: &sampled,
        rows: &rows,
        draws: &draws,
        tokens: &tokens,
        noise: noise.as_ref(),
        first: 0,
        count,
        vocab,
        mask_index: vocab as u32 - 1,
        seed,
    };
    sample(gpu(), &sampler, &io);
    let bytes = pollster::block_on(gpu().read(&tokens)).expect("the kernel ran");
    let mut tokens: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    tokens.reverse();
    tokens
}

#[test]
fn samples() {
    let mut random = Random(8);
    for vocab in [3, 97, 1030] {
        for (temperature, top_p) in [
            (1.0, None),
            (0.7, Some(0.9)),
            (1.3, Some(0.3)),
            (0.0, Some(0.5)),
        ] {
            let sampler = Sampler { temperature, top_p };
            let count = 40;
            let logits: Vec<f32> = random
                .values(count * vocab)
                .iter()
                .map(|v| v * 3.0)
                .collect();
            let draws: Vec<[u32; 2]> = (0..count as u32).map(|i| [i % 3, 5 * i]).collect();
            let seed = random.next();
            let mask = vocab as u32 - 1;
            let seeded: Vec<u32> = logits
                .chunks(vocab)
                .zip(&draws)
                .map(|(row, &[sequence, position])| {
                    sample_row(
                        row,
                        mask,
                        &sampler,
                        NoiseSource::Seeded {
                            seed,
                            sequence,
                            position,
                        },
                    )
                })
                .collect();
            assert_eq!(
                drawn(&logits, vocab, sampler, seed, &draws, None),
                seeded,
                "seeded, {vocab} {sampler:?}"
            );
            let noise = random.values(count * vocab);
            let given: Vec<u32> = logits
                .chunks(vocab)
                .zip(noise.chunks(vocab))
                .map(|(row, noise)| sample_row(row, mask, &sampler, NoiseSource::Given(noise)))
                .collect();
            assert_eq!(
                drawn(&logits, vocab, sampler, seed, &draws, Some(&noise)),
                given,
                "given, {vocab} {sampler:?}"
            );
        }
    }
}

#[test]
fn scores() {
    let mut random = Random(9);
    for vocab in [2usize, 5, 97, 1031, 2049] {
        for first in [0, 3] {
            let count = random.between(1, 70);
            let stride = vocab.next_multiple_of(4);
            let mask = random.below(vocab);
            let logits: Vec<f32> = random
                .values(count * vocab)
                .iter()
                .map(|v| v * 6.0 + 20.0)
                .collect();
            // Neither the padding nor the mask column may count.
            let mut padded = vec![99.0; count * stride];
            for (row, out) in logits.chunks(vocab).zip(padded.chunks_mut(stride)) {
                out[..vocab].copy_from_slice(row);
                out[mask] = 1e4;
            }
            let wanted: Vec<u32> = (0..first + count)
                .map(|_| match random.below(vocab) {
                    token if token == mask => ((mask + 1) % vocab) as u32,
                    token => token as u32,
                })
                .collect();
            let want: Vec<f32> = (logits.chunks(vocab).zip(&wanted[first..]))
                .map(|(row, &token)| log_probability(row, mask as u32, token) as f32)
                .collect();
            let scores = gpu().floats(vec![7.5; first + count]).unwrap();
            let io = Score {
                logits: &gpu().floats(padded).unwrap(),
                stride,
                wanted: &gpu().words(wanted).unwrap(),
                scores: &scores,
                first,
                count,
                vocab,
                mask_index: mask as u32,
            };
            score(gpu(), &io);
            let got = read(&scores);
            assert_eq!(got[..first], vec![7.5; first]);
            let name = format!("score {vocab} {count} {first}");
            close(&name, &got[first..], &want, 2e-6);
        }
    }
}
