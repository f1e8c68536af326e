//! Every kernel in many small launches, compared bit for bit with itself in a single one.

use esolm::kernels::work::Limits;

use super::products::VARIANTS;
use super::*;

/// A vocabulary large enough for several workgroups per row.
const LARGE: usize = 32_004;

/// The results of the kernels on `gpu` for the shapes and values made from `seed`: the name of each run, the bytes that
/// it wrote, and its number of launches.
fn run_all(gpu: &Gpu, seed: u64) -> Vec<(String, Vec<u8>, u64)> {
    let mut random = Random(seed);
    let mut results = Vec::new();
    let mut run = |name: String, outputs: &[&Buffer], launch: &dyn Fn()| {
        let before = gpu.counters().dispatches;
        launch();
        let launches = gpu.counters().dispatches - before;
        let read = |buffer: &&Buffer| pollster::block_on(gpu.read(buffer)).expect("the kernel ran");
        results.push((name, outputs.iter().flat_map(read).collect(), launches));
    };
    let floats = |values: &[f32]| gpu.floats(values.to_vec()).unwrap();
    let zeros = |len: usize| gpu.floats(vec![0.0; len.max(4)]).unwrap();

    let (heads, head_dim, sequences, slots) = (3, 12, 3, 71);
    let hidden = heads * head_dim;
    // More than fits a tile.
    let rows = loop {
        let rows = random_rows(&mut random, sequences, slots, 70);
        if rows.len() > 70 {
            break rows;
        }
    };
    let count = rows.len();
    let tokens: Vec<u32> = (0..20).map(|_| random.below(90) as u32).collect();
    let (row_table, token_table) = (
        gpu.upload(bytemuck::cast_slice(&rows)),
        gpu.words(tokens).unwrap(),
    );

    let table = random.values(91 * hidden);
    for weights in [Weights::F32, Weights::Q8] {
        let embedding =
            Embedding::upload(gpu, &fold::Embedding::new(table.clone(), hidden), weights).unwrap();
        let x = zeros(count * hidden);
        run(format!("embed {weights}"), &[&x], &|| {
            embedding.launch(gpu, &x, &row_table, count, &token_table, 90)
        });
        let columns = fold::transpose(&table, 91, hidden);
        let head = linear(&columns, &[0.0; 91]);
        let head = Matrix::upload(gpu, &head, weights).unwrap();
        run(format!("embed tied {weights}"), &[&x], &|| {
            embed_tied(gpu, &head, &x, &row_table, count, &token_table, 90)
        });
    }

    let values = random.values((count + 3).next_multiple_of(ROW_PAD) * hidden);
    let x = floats(&values);
    let out = zeros(count * hidden);
    for kind in [Norm::Layer, RMS] {
        run(format!("norm {kind:?}"), &[&out], &|| {
            norm(gpu, kind, &x, &out, count, hidden)
        });
    }
    let copied = zeros(count * hidden);
    run("copy".into(), &[&copied], &|| {
        copy(gpu, &x, &copied, count * hidden)
    });
    let sums = zeros(4 * 64 * 5);
    run("peak".into(), &[&sums], &|| {
        peak(gpu, &sums, 64 * 5, 3, 0.5)
    });

    let rotary = floats(&rotary_table(slots, head_dim, ROTARY_BASE));
    for (name, n, weights) in [
        ("store", 301, Weights::F32),
        ("gelu", 4 * hidden, Weights::F32),
        ("silu", 4 * hidden, Weights::F32),
        ("add", hidden, Weights::F32),
        ("qkv", 3 * hidden, Weights::F32),
        ("store", 301, Weights::Q8),
        ("qkv", 3 * hidden, Weights::Q4),
        ("grouped", (heads + 2) * head_dim, Weights::F32),
    ] {
        let weight = random.values(hidden * n);
        let matrix = Matrix::upload(gpu, &linear(&weight, &random.values(n)), weights);
        let matrix = matrix.unwrap();
        let old = random.values(count * matrix.padded());
        for variant in VARIANTS {
            let (out, k, v) = (
                floats(&old),
                zeros(sequences * slots * hidden),
                zeros(sequences * slots * hidden),
            );
            // From a row other than the first, except with rows of the row table.
            let first = match name {
                "qkv" | "grouped" => 0,
                _ => 3,
            };
            let finish = match name {
                "store" => Finish::Store(&out),
                "gelu" => Finish::Gelu(&out),
                "silu" => Finish::Silu(&out),
                "add" => Finish::Add(&out),
                _ => Finish::Qkv(Qkv {
                    q: &out,
                    rows: &row_table,
                    rotary: &rotary,
                    k: &k,
                    v: &v,
                    slots,
                    heads,
                    kv_heads: if name == "qkv" { heads } else { 1 },
                    head_dim,
                    cache: Precision::F32,
                }),
            };
            run(
                format!("{name} {variant:?} {weights}"),
                &[&out, &k, &v],
                &|| product(gpu, variant, None, &x, first..count, &matrix, &finish),
            );
            if name == "store" && variant != ProductVariant::Tile {
                for norm in [Norm::Layer, RMS] {
                    run(
                        format!("few {variant:?} {weights} {norm:?}"),
                        &[&out],
                        &|| product(gpu, variant, Some(norm), &x, 7..12, &matrix, &finish),
                    );
                }
            }
        }
    }

    // In parts.
    let inputs = floats(&random.values(ROW_PAD * 1028));
    let wide = linear(&random.values(1028 * hidden), &random.values(hidden));
    let next = linear(&random.values(hidden * 52), &random.values(52));
    let [wide, next] = [wide, next].map(|l| Matrix::upload(gpu, &l, Weights::F32).unwrap());
    let values = random.values(STREAM_ROWS * hidden);
    for variant in VARIANTS {
        let (stream, normed, out, picked) = (
            floats(&values),
            zeros(7 * hidden),
            zeros(7 * 52),
            zeros(7 * hidden),
        );
        let name = format!("residual {variant:?}");
        run(name, &[&stream, &out, &picked], &|| {
            let chosen = Chosen::by_table(gpu.info.kind).with_products(variant);
            let mut residual = Residual::new(gpu, Norm::Layer, chosen, 7, hidden, &stream, &normed);
            residual.add(&inputs, 0..7, &wide);
            residual.product(0..7, &next, &Finish::Store(&out));
            residual.add(&inputs, 0..7, &wide);
            residual.normalise(None, &picked);
        });
    }

    let [k, v] = [(); 2].map(|()| floats(&random.values(sequences * slots * hidden)));
    let spans: Vec<[u32; 2]> = (0..sequences as u32)
        .map(|s| {
            let of = |row: &&Row| row.sequence == s;
            let first = rows.iter().position(|row| of(&row)).unwrap_or(0);
            [first as u32, rows.iter().filter(of).count() as u32]
        })
        .collect();
    let longest = spans.iter().map(|s| s[1] as usize).max().unwrap();
    let seen = rows.iter().map(Row::seen).max().unwrap();
    let spans = gpu.upload(bytemuck::cast_slice(&spans));
    let io = Attention {
        q: &x,
        k: &k,
        v: &v,
        rows: &row_table,
        count,
        out: &out,
    };
    let spans = Spans {
        table: &spans,
        count: sequences,
        longest,
    };
    for kv_heads in [heads, 1] {
        let geometry = Geometry {
            heads,
            kv_heads,
            head_dim,
            slots,
            cache: Precision::F32,
            kind: AdapterKind::Discrete,
        };
        run(format!("attention in tiles, {kv_heads}"), &[&out], &|| {
            attention_tile(gpu, &geometry, &io, &spans, seen)
        });
        run(format!("attention in rows, {kv_heads}"), &[&out], &|| {
            attention_rows(gpu, &geometry, &io, &spans, seen)
        });
        run(format!("split attention, {kv_heads}"), &[&out], &|| {
            attention_split(gpu, &geometry, &io, geometry.slots)
        });
    }
    let (stored, gains) = (
        floats(&random.values(count * 5 * head_dim)),
        floats(&random.values(2 * head_dim)),
    );
    let [k, v] = [(); 2].map(|()| zeros(sequences * slots * head_dim));
    let to = Qkv {
        q: &out,
        rows: &row_table,
        rotary: &rotary,
        k: &k,
        v: &v,
        slots,
        heads,
        kv_heads: 1,
        head_dim,
        cache: Precision::F32,
    };
    run("heads".into(), &[&out, &k, &v], &|| {
        esolm::kernels::heads::heads(gpu, &stored, 0..count, &gains, 0.1, &to)
    });

    let (vocab, stride, drawn) = (203, 204, 37);
    let logits = floats(&random.values(drawn * stride));
    let targets: Vec<Row> = (0..drawn as u32)
        .map(|target| Row { target, ..rows[0] })
        .collect();
    let targets = gpu.upload(bytemuck::cast_slice(&targets));
    let draws: Vec<u32> = (0..2 * drawn).map(|_| random.below(99) as u32).collect();
    let (draws, noise) = (
        gpu.words(draws).unwrap(),
        floats(&random.values(drawn * vocab)),
    );
    for (temperature, top_p, noise) in [
        (0.0, None, None),
        (1.0, Some(0.8), None),
        (0.9, Some(0.4), Some(&noise)),
    ] {
        let tokens = gpu.words(vec![7777; drawn]).unwrap();
        let io = Sample {
            logits: &logits,
            held: 0,
            stride,
            rows: &targets,
            draws: &draws,
            tokens: &tokens,
            noise,
            shared: None,
            first: 0,
            count: drawn,
            vocab,
            mask_index: 11,
            seed: 5,
        };
        run(format!("sample {temperature}"), &[&tokens], &|| {
            sample(
                gpu,
                &Sampler {
                    temperature,
                    top_p,
                    ..Sampler::default()
                },
                &io,
            )
        });
    }
    let [state, bests] = Shared::words(LARGE, 5).expect("a large vocabulary");
    let shared = Shared {
        state: zeros(state),
        bests: zeros(bests),
    };
    let large = floats(&random.values(5 * LARGE));
    for (name, sampler) in [
        ("sample in parts, all", Sampler::default()),
        (
            "sample in parts, some",
            Sampler {
                top_k: Some(900),
                top_p: Some(0.8),
                ..Sampler::default()
            },
        ),
    ] {
        let tokens = gpu.words(vec![7777; drawn]).unwrap();
        let io = Sample {
            logits: &large,
            held: 3,
            stride: LARGE,
            rows: &targets,
            draws: &draws,
            tokens: &tokens,
            noise: None,
            shared: Some(&shared),
            first: 3,
            count: 5,
            vocab: LARGE,
            mask_index: 11,
            seed: 5,
        };
        run(name.into(), &[&tokens], &|| sample(gpu, &sampler, &io));
    }
    let wanted: Vec<u32> = (0..drawn + 2).map(|_| random.below(11) as u32).collect();
    let (wanted, scores) = (gpu.words(wanted).unwrap(), zeros(drawn + 2));
    let io = Score {
        logits: &logits,
        stride,
        wanted: &wanted,
        scores: &scores,
        first: 2,
        count: drawn,
        vocab,
        mask_index: 11,
    };
    run("score".into(), &[&scores], &|| score(gpu, &io));
    results
}

#[test]
fn many_small_launches_give_what_one_gives() {
    let gpu = pollster::block_on(open(DeviceChoice::Gpu(None)));
    let mut gpu = gpu.unwrap().expect("gpu was asked for");
    let limits = gpu.limits;
    for seed in [11, 12] {
        gpu.limits = limits;
        let whole = run_all(&gpu, seed);
        // One workgroup per launch, then a few.
        for launch in [1, 60_000, 600_000] {
            gpu.limits = Limits { launch, ..limits };
            let split = run_all(&gpu, seed);
            assert_eq!(split.len(), whole.len());
            for ((name, got, launches), (_, want, once)) in split.iter().zip(&whole) {
                let expected = match name.as_str() {
                    "sample in parts, all" => 2,
                    // A tile processes rows that have been normalised already.
                    "residual Rows" | "residual Split" => 4,
                    "residual Tile" => 5,
                    // The largest logit, two stages each for top-k and top-p, the best of each part, and the best of
                    // those.
                    "sample in parts, some" => 7,
                    _ => 1,
                };
                assert_eq!(*once, expected, "{name}");
                assert!(launch > 1 || launches > once, "{name} is not split");
                assert!(got == want, "{name} differs in launches of {launch}");
            }
        }
    }
}

/// Queued work is submitted before it is too much for a driver's watchdog.
#[test]
fn queued_work_is_submitted_in_time() {
    let gpu = pollster::block_on(open(DeviceChoice::Gpu(None)));
    let mut gpu = gpu.unwrap().expect("gpu was asked for");
    let (rows, hidden) = (40, 64);
    let x = gpu.floats(vec![1.0; rows * hidden]).unwrap();
    let out = gpu.floats(vec![0.0; rows * hidden]).unwrap();
    // Each row counts the same.
    let each = 64 * hidden as u64;
    for (launch, submit, launches, submits) in [
        (u64::MAX, u64::MAX, 1, 0),
        (each, u64::MAX, 40, 0),
        (each, 10 * each, 40, 3),
        (each, 10 * each - 1, 40, 4),
        (each, 1, 40, 39),
    ] {
        gpu.limits = Limits { launch, submit };
        pollster::block_on(gpu.read(&x)).unwrap();
        let before = gpu.counters();
        norm(&gpu, Norm::Layer, &x, &out, rows, hidden);
        let done = gpu.counters().since(&before);
        assert_eq!((done.dispatches, done.submits), (launches, submits));
    }
}
