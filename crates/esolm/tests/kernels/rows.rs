//! Kernels that process row by row, and those of the benchmark.

use super::*;

#[test]
fn copies() {
    let mut random = Random(1);
    for len in [4, 256, 4 * 64 * 3 + 4] {
        let data = random.values(len);
        let (source, out) = (floats(&[&data[..], &[7.5; 4]].concat()), blank(len));
        copy(gpu(), &source, &out, len);
        assert_eq!(written(&out, len), data);
    }
}

#[test]
fn embeds() {
    let mut random = Random(2);
    for weights in [Weights::F32, Weights::F16, Weights::Q8] {
        for _ in 0..6 {
            let (vocab, hidden, count) = (
                random.between(3, 90),
                4 * random.between(1, 40),
                random.between(1, 50),
            );
            let mut values = random.values(vocab * hidden);
            let tokens: Vec<u32> = (0..20).map(|_| random.below(vocab) as u32).collect();
            let mask = vocab as u32 - 1;
            for (token, values) in (0..).zip(values.chunks_mut(hidden)) {
                if token != mask && !tokens.contains(&token) {
                    values.fill(poison(weights));
                }
            }
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
                    own: [0, 1],
                    target: NO_TARGET,
                })
                .collect();
            let embedding = Embedding::upload(
                gpu(),
                &fold::Embedding::new(values.clone(), hidden),
                weights,
            )
            .unwrap();
            let x = blank(count * hidden);
            let (rows_buffer, token_buffer) = (table(&rows), gpu().words(tokens.clone()).unwrap());
            embedding.launch(gpu(), &x, &rows_buffer, count, &token_buffer, mask);
            let rows_of = values.chunks(hidden);
            let values: Vec<f32> = rows_of.flat_map(|row| rounded(row, weights)).collect();
            let want = embed_twin(&values, hidden, &rows, &tokens, mask);
            assert_eq!(written(&x, count * hidden), want);
        }
    }
}

#[test]
fn normalises() {
    let mut random = Random(3);
    for _ in 0..8 {
        let (rows, hidden) = (random.between(1, 30), 4 * random.between(1, 100));
        // A mean far from zero must not cost precision.
        let x: Vec<f32> = random
            .values(rows * hidden)
            .iter()
            .map(|v| v + 20.0)
            .collect();
        let (x_buffer, out) = (padded(&x, hidden), blank(rows * hidden));
        for kind in [Norm::Layer, RMS] {
            norm(gpu(), kind, &x_buffer, &out, rows, hidden);
            let rows = x.chunks(hidden);
            let want: Vec<f32> = rows.flat_map(|row| norm_twin(kind, row)).collect();
            close("norm", &written(&out, want.len()), &want, 2e-5);
        }
    }
}

/// From an output matrix that is also the embedding, in one slice and in several.
#[test]
fn embeds_from_the_output_matrix() {
    let mut random = Random(22);
    let opened = pollster::block_on(open(DeviceChoice::Gpu(None)));
    let mut small = opened.unwrap().expect("gpu was asked for");
    for weights in [Weights::F32, Weights::F16, Weights::Q8] {
        for _ in 0..4 {
            let (vocab, hidden, count) = (
                random.between(34, 90),
                4 * random.between(1, 40),
                random.between(1, 50),
            );
            let mut values = random.values(vocab * hidden);
            let tokens: Vec<u32> = (0..20).map(|_| random.below(vocab) as u32).collect();
            let mask = vocab as u32 - 1;
            for (token, values) in (0..).zip(values.chunks_mut(hidden)) {
                if token != mask && !tokens.contains(&token) {
                    values.fill(poison(weights));
                }
            }
            let rows: Vec<Row> = (0..count)
                .map(|_| Row {
                    source: match random.below(3) {
                        0 => MASKED,
                        _ => random.below(20) as u32,
                    },
                    sequence: 0,
                    slot: 0,
                    position: 0,
                    prefix: 0,
                    own: [0, 1],
                    target: NO_TARGET,
                })
                .collect();
            let columns = fold::transpose(&values, vocab, hidden);
            let head = linear(&columns, &vec![0.0; vocab]);
            let held: Vec<f32> = values
                .chunks(hidden)
                .flat_map(|row| rounded(row, weights))
                .collect();
            let want = embed_twin(&held, hidden, &rows, &tokens, mask);
            // What exceeds a binding of this many bytes is split into slices.
            small.info.limits.max_binding_bytes = 32 * hidden as u64;
            for (gpu, is_whole) in [(gpu(), true), (&small, false)] {
                let head = Matrix::upload(gpu, &head, weights).unwrap();
                assert_eq!(head.is_whole(), is_whole);
                let x = gpu.upload(bytemuck::cast_slice(&vec![f32::NAN; count * hidden + 4]));
                let rows = gpu.upload(bytemuck::cast_slice(&rows));
                let tokens = gpu.upload(bytemuck::cast_slice(&tokens));
                embed_tied(gpu, &head, &x, &rows, count, &tokens, mask);
                let mut got = pollster::block_on(gpu.read_floats(&x)).expect("the kernel ran");
                let rest = got.split_off(count * hidden);
                assert!(rest.iter().all(|value| value.is_nan()), "{rest:?}");
                assert_eq!(got, want, "{weights}, whole: {is_whole}");
            }
        }
    }
}

/// 1 / infinity would turn the row into zeros, from which a text could be written.
#[test]
fn a_row_whose_squares_overflow_is_not_a_number() {
    let mut random = Random(10);
    let (rows, hidden) = (3, 68);
    let mut x = random.values(rows * hidden);
    x[hidden + 5] = 1e25;
    for kind in [Norm::Layer, RMS] {
        let out = blank(rows * hidden);
        norm(gpu(), kind, &floats(&x), &out, rows, hidden);
        let got = written(&out, rows * hidden);
        for (row, (got, x)) in got.chunks(hidden).zip(x.chunks(hidden)).enumerate() {
            match row {
                1 => assert!(got.iter().all(|value| value.is_nan()), "{got:?}"),
                _ => close("norm", got, &norm_twin(kind, x), 2e-5),
            }
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
    let out = blank(128 * 4);
    peak(gpu(), &out, 128, 9, 0.75);
    let want: Vec<f32> = (0..128)
        .flat_map(|id| [peak_twin(id, 9, 0.75); 4])
        .collect();
    close("peak", &written(&out, 128 * 4), &want, 1e-5);
}
