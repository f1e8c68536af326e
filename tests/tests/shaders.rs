//! Every form of every shader as it reaches the driver, written down for Chromium's compiler to read: `web/tests/shaders.spec.ts`
//! compiles what this test leaves in `target/tmp/shaders`. The driver's compiler here accepts shaders that a browser refuses.
//!
//! The texts are those that Burn's runtime hands to wgpu, taken from its compilation log, so nothing is composed a second time.
//! Needs a GPU adapter; a software one will do, and nothing is computed on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use burn::cubecl::config::compilation::CompilationLogLevel;
use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use esolm::device::{AdapterKind, DeviceChoice, Precision, open};
use esolm::kernels::attention::{
    Attention, Geometry, Spans, WIDE_BELOW, attention_rows, attention_split, attention_tile,
};
use esolm::kernels::copy::copy;
use esolm::kernels::embed::{Embedding, embed_tied};
use esolm::kernels::heads::{Qkv, heads};
use esolm::kernels::norm::{Norm, norm};
use esolm::kernels::peak::peak;
use esolm::kernels::product::{Finish, Matrix, ProductVariant, product};
use esolm::kernels::residual::{Residual, STREAM_ROWS};
use esolm::kernels::reveal::{Confidences, Reveal, confidence, reveal};
use esolm::kernels::rotary::rotary_table;
use esolm::kernels::runtime::{Buffer, Gpu};
use esolm::kernels::sample::{Sample, Shared, sample, suppress};
use esolm::kernels::score::{Score, score};
use esolm::kernels::slots::move_slots;
use esolm::network::fold::{self, Linear};
use esolm::rows::{Row, own_slot};
use esolm::sampler::Sampler;
use esolm::sampler::kept::Filter;
use esolm::{Chosen, Weights};
use esolm_shaders::SHADERS;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::F16];
const WEIGHTS: [Weights; 4] = [Weights::F32, Weights::F16, Weights::Q8, Weights::Q4];
const VOCAB: usize = 97;
const RMS: Norm = Norm::Rms { eps: 1e-6 };

#[test]
fn every_shader_is_written_down() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders");
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders.log");
    for old in [fs::remove_dir_all(&folder), fs::remove_file(&log)] {
        assert!(old.is_ok() || !folder.exists() && !log.exists(), "{old:?}");
    }
    let mut config = CubeClRuntimeConfig::default();
    config.compilation.logger.level = CompilationLogLevel::Full;
    config.compilation.logger.file = Some(log.clone());
    CubeClRuntimeConfig::set(config);

    // Nothing is submitted, since only the texts count: a software adapter would take minutes for the machine code of all kernels. A
    // device submits by itself what has piled up, so each form of weights gets one of its own, and all live on to the end.
    let mut devices = Vec::new();
    let mut on_a_device = |work: &dyn Fn(&mut Gpu)| {
        let mut gpu = pollster::block_on(open(DeviceChoice::Gpu(None)))
            .expect("this test needs a GPU adapter; a software one will do: `cargo xtask test` installs it on Debian")
            .expect("gpu was asked for");
        work(&mut gpu);
        // A device's kernels are logged in order: once the last one is in the log, all are.
        let (source, target) = (zeros(&gpu, 256), zeros(&gpu, 256));
        wait_for(&log, "copy", devices.len() + 1, || {
            copy(&gpu, &source, &target, 256);
        });
        devices.push(gpu);
    };
    on_a_device(&|gpu| {
        for kind in [AdapterKind::Software, AdapterKind::Discrete] {
            gpu.info.kind = kind;
            draws(gpu);
            choices(gpu);
        }
        embeddings_and_norms(gpu);
        // Heads as wide as those of the golden models, of small ones, of the published ones, and the widest.
        for (heads, head_dim) in [(4, 16), (6, 32), (12, 64), (6, 128)] {
            attends(gpu, heads, heads, head_dim);
        }
        // Heads of q that share those of k and v, as decoders of all sizes have them.
        for (heads, kv_heads, head_dim) in [(4, 2, 32), (9, 3, 64), (16, 8, 128)] {
            attends(gpu, heads, kv_heads, head_dim);
            normalises_heads(gpu, heads, kv_heads, head_dim);
        }
        let cache = (zeros(gpu, 256), zeros(gpu, 256));
        move_slots(gpu, &zeros(gpu, 2), &cache, 1, 64);
        peak(gpu, &zeros(gpu, 4 * 64), 64, 1, 0.5);
    });
    for weights in WEIGHTS {
        on_a_device(&|gpu| products(gpu, weights));
    }
    let kernels = compiled(&log);

    for shader in SHADERS {
        let texts = kernels
            .iter()
            .filter(|(kernel, _)| kernel.split('-').next() == Some(shader.name));
        let texts: Vec<&String> = texts.map(|(_, text)| text).collect();
        assert!(!texts.is_empty(), "{} was not launched", shader.name);
        for snippet in shader.slots.iter().flat_map(|slot| slot.one_of) {
            let first = snippet.text.lines().next().expect("a line");
            let seen = texts.iter().any(|text| text.contains(first));
            assert!(seen, "{} never had {}", shader.name, snippet.name);
        }
    }

    fs::create_dir_all(&folder).unwrap();
    for (name, text) in &kernels {
        fs::write(folder.join(format!("{name}.wgsl")), text).unwrap();
    }
    println!("{} shaders in {}", kernels.len(), folder.display());
}

/// The list of shaders names functions of crates that it does not depend on.
#[test]
fn launchers_and_twins_are_where_the_list_says() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for shader in SHADERS {
        for path in shader.twins.iter().chain([&shader.launcher]) {
            let mut words: Vec<&str> = path.split("::").collect();
            let function = words.pop().expect("a function");
            // Types begin with a capital; what is left are the crate and its modules.
            words.retain(|word| !word.starts_with(char::is_uppercase));
            let folder = crates.join(words.remove(0).replace('_', "-")).join("src");
            let file = folder.join(words.join("/")).with_extension("rs");
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{path}: {}: {error}", file.display()));
            assert!(text.contains(&format!("pub fn {function}(")), "{path}");
        }
    }
}

/// Waits until the runtime's log holds the kernel `last` of so many devices. `launch` launches it; what was launched waits in a queue until
/// enough comes after it.
fn wait_for(log: &Path, last: &str, devices: usize, launch: impl Fn()) {
    let start = Instant::now();
    loop {
        launch();
        let text = fs::read_to_string(log).unwrap_or_default();
        let end = text
            .match_indices(&format!("name: \"{last}\""))
            .nth(devices - 1);
        if end.is_some_and(|(at, _)| text[at..].contains("[END_KERNEL_COMPILATION]")) {
            return;
        }
        let waits = start.elapsed() < Duration::from_secs(60);
        assert!(waits, "the kernel {last} is not in {}", log.display());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The kernels in the runtime's log: the text by the shader's name and what makes this form of it.
fn compiled(log: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(log).expect("a log");
    let blocks = text.split("[START_KERNEL_COMPILATION]").skip(1);
    blocks
        .enumerate()
        .map(|(index, block)| {
            let (head, rest) = block.split_once("```wgsl\n").expect("a text in WGSL");
            let (source, _) = rest.rsplit_once("\n```").expect("the end of the text");
            (name(head).unwrap_or(format!("burn-{index}")), source.into())
        })
        .collect()
}

/// The name of one of the engine's own kernels, with the parameters of its form, from what the log says of its identity.
fn name(head: &str) -> Option<String> {
    let (_, key) = head.split_once("KernelKey {")?;
    let name = key.split('"').nth(1)?;
    let (_, params) = key.split_once("params: [")?;
    let (params, _) = params.split_once(']')?;
    let params: Vec<&str> = params
        .split(',')
        .map(str::trim)
        .filter(|param| !param.is_empty())
        .collect();
    Some([&[name], &params[..]].concat().join("-"))
}

fn zeros(gpu: &Gpu, len: usize) -> Buffer {
    gpu.floats(vec![0.0; len]).expect("memory suffices")
}

fn words(gpu: &Gpu, len: usize) -> Buffer {
    gpu.words(vec![0; len]).expect("memory suffices")
}

/// A row table: all rows are of sequence 0, where the first token is known.
fn rows(gpu: &Gpu, count: u32) -> Buffer {
    let rows: Vec<Row> = (0..count)
        .map(|slot| Row {
            sequence: 0,
            slot,
            position: slot,
            prefix: 1,
            own: own_slot(slot, 1),
            source: 0,
            target: slot,
        })
        .collect();
    gpu.upload(bytemuck::cast_slice(&rows))
}

fn embeddings_and_norms(gpu: &Gpu) {
    let (x, out) = (zeros(gpu, 256), zeros(gpu, 256));
    for weights in [Weights::F32, Weights::F16, Weights::Q8] {
        let table = fold::Embedding::new(vec![0.0; 64 * VOCAB], 64);
        let embedding = Embedding::upload(gpu, &table, weights).expect("memory suffices");
        embedding.launch(gpu, &x, &rows(gpu, 4), 4, &words(gpu, 4), VOCAB as u32 - 1);
        let head = Linear::new("", vec![0.0; 64 * VOCAB], vec![0.0; VOCAB]);
        let head = Matrix::upload(gpu, &head, weights).expect("memory suffices");
        embed_tied(gpu, &head, &x, &rows(gpu, 4), 4, &words(gpu, 4), 0);
    }
    for kind in [Norm::Layer, RMS] {
        norm(gpu, kind, &x, &out, 4, 64);
    }
    let stream = zeros(gpu, STREAM_ROWS * 64);
    let split = Chosen::by_table(gpu.info.kind).with_products(ProductVariant::Split);
    let residual = Residual::new(gpu, RMS, split, 4, 64, &stream, &x);
    residual.normalise(Some(&zeros(gpu, 64)), &out);
}

fn normalises_heads(gpu: &Gpu, heads_of_q: usize, kv_heads: usize, head_dim: usize) {
    let width = (heads_of_q + 2 * kv_heads) * head_dim;
    let [x, q, k, v] = [(); 4].map(|()| zeros(gpu, 8 * width));
    let (rows, gains) = (rows(gpu, 4), zeros(gpu, 2 * head_dim));
    let rotary = zeros(gpu, 4 * head_dim);
    for cache in PRECISIONS {
        let to = Qkv {
            q: &q,
            rows: &rows,
            rotary: &rotary,
            k: &k,
            v: &v,
            slots: 8,
            heads: heads_of_q,
            kv_heads,
            head_dim,
            cache,
        };
        heads(gpu, &x, 0..4, &gains, 1e-6, &to);
    }
}

/// Every variant with every end and number of rows that makes a text of its own.
fn products(gpu: &Gpu, weights: Weights) {
    const HIDDEN: usize = 64;
    // Of so many the tiles are large.
    const MOST: usize = 6144;
    let head_dim = 16;
    let x = zeros(gpu, MOST * HIDDEN);
    let out = zeros(gpu, MOST * HIDDEN);
    let rotary = gpu
        .floats(rotary_table(MOST, head_dim, esolm::config::ROTARY_BASE))
        .unwrap();
    let (k, v) = (zeros(gpu, MOST * HIDDEN), zeros(gpu, MOST * HIDDEN));
    let matrix = |n: usize| {
        let linear = Linear::new("", vec![0.0; HIDDEN * n], vec![0.0; n]);
        Matrix::upload(gpu, &linear, weights).expect("memory suffices")
    };
    let (square, qkv, wide) = (matrix(HIDDEN), matrix(3 * HIDDEN), matrix(12_288));
    let grouped = matrix(2 * HIDDEN);
    let none_or_layer = [None, Some(Norm::Layer)];
    // Numbers of rows whose blocks differ.
    for (variant, counts, norms) in [
        (ProductVariant::Rows, &[1, 2, 4, 16][..], &none_or_layer[..]),
        (ProductVariant::Split, &[1, 2, 4, 8], &none_or_layer),
        (ProductVariant::Tile, &[64, MOST], &[None]),
    ] {
        for &count in counts {
            let table = rows(gpu, count as u32);
            let to = |heads, kv_heads, cache| Qkv {
                q: &out,
                rows: &table,
                rotary: &rotary,
                k: &k,
                v: &v,
                slots: MOST,
                heads,
                kv_heads,
                head_dim,
                cache,
            };
            for &norm in norms {
                for finish in [Finish::Store(&out), Finish::Gelu(&out), Finish::Add(&out)] {
                    product(gpu, variant, norm, &x, 0..count, &square, &finish);
                }
                for cache in PRECISIONS {
                    let finish = Finish::Qkv(to(4, 4, cache));
                    product(gpu, variant, norm, &x, 0..count, &qkv, &finish);
                }
            }
            // Decoders' own. On a GPU few rows are normalised on the way and more before; a software adapter has either in one variant.
            let norms = match variant {
                ProductVariant::Tile => &[None][..],
                ProductVariant::Rows if count == 16 => &[Some(RMS), None],
                _ => &[Some(RMS)],
            };
            for &norm in norms {
                for finish in [Finish::Store(&out), Finish::Silu(&out)] {
                    product(gpu, variant, norm, &x, 0..count, &square, &finish);
                }
                for cache in PRECISIONS {
                    let finish = Finish::Qkv(to(4, 2, cache));
                    product(gpu, variant, norm, &x, 0..count, &grouped, &finish);
                }
            }
            if variant == ProductVariant::Split {
                // As logits.
                product(
                    gpu,
                    variant,
                    None,
                    &x,
                    0..count,
                    &wide,
                    &Finish::Store(&out),
                );
            }
        }
    }
}

fn attends(gpu: &Gpu, heads: usize, kv_heads: usize, head_dim: usize) {
    let hidden = heads * head_dim;
    let kinds = [AdapterKind::Software, AdapterKind::Discrete];
    for (cache, kind) in PRECISIONS
        .into_iter()
        .flat_map(|cache| kinds.map(|kind| (cache, kind)))
    {
        let geometry = Geometry {
            heads,
            kv_heads,
            head_dim,
            slots: 8,
            cache,
            kind,
        };
        let [q, k, v, out] = [4, 8, 8, 4].map(|count| zeros(gpu, count * hidden));
        let io = Attention {
            q: &q,
            k: &k,
            v: &v,
            rows: &rows(gpu, 4),
            count: 4,
            out: &out,
        };
        let spans = gpu.upload(bytemuck::cast_slice(&[0u32, 4]));
        let spans = Spans {
            table: &spans,
            count: 1,
            longest: 4,
        };
        if kind != AdapterKind::Software {
            attention_tile(gpu, &geometry, &io, &spans, 4);
        } else if head_dim <= 64 {
            // Wider heads spill on the chips whose compiler is asked, and run on none of them.
            attention_rows(gpu, &geometry, &io, &spans, 4);
        }
        attention_split(gpu, &geometry, &io, geometry.slots);
        // So many that hardware uses smaller workgroups.
        let count = WIDE_BELOW.div_ceil(heads);
        let [q, out] = [(); 2].map(|()| zeros(gpu, count * hidden));
        let rows = &rows(gpu, count as u32);
        let (q, out) = (&q, &out);
        let io = Attention {
            q,
            rows,
            count,
            out,
            ..io
        };
        attention_split(gpu, &geometry, &io, geometry.slots);
    }
}

/// Drawing and scoring, in the form for the adapter's kind.
fn draws(gpu: &Gpu) {
    let logits = zeros(gpu, 4 * VOCAB.next_multiple_of(4));
    let (rows, index) = (rows(gpu, 4), gpu.words(vec![0, 1, 2, 3]).unwrap());
    let (tokens, draws, noise) = (words(gpu, 4), words(gpu, 8), zeros(gpu, 4 * VOCAB));
    let [state, bests] = Shared::words(50_258, 4).expect("a large vocabulary");
    let shared = Shared {
        state: zeros(gpu, state),
        bests: zeros(gpu, bests),
    };
    let ways = [0.0, 1.0].map(|temperature| [None, Some(&shared)].map(|s| (temperature, s)));
    for (temperature, shared) in ways.into_iter().flatten() {
        for top_p in [None, Some(0.9)] {
            for noise in [None, Some(&noise)] {
                let io = Sample {
                    logits: &logits,
                    held: 0,
                    stride: VOCAB.next_multiple_of(4),
                    rows: &rows,
                    draws: &draws,
                    tokens: &tokens,
                    noise,
                    shared,
                    first: 0,
                    count: 4,
                    vocab: VOCAB,
                    mask_index: VOCAB as u32 - 1,
                    seed: 1,
                };
                sample(
                    gpu,
                    &Sampler {
                        temperature,
                        top_p,
                        ..Sampler::default()
                    },
                    &io,
                );
            }
        }
    }
    let io = Score {
        logits: &logits,
        stride: VOCAB.next_multiple_of(4),
        wanted: &index,
        scores: &zeros(gpu, 4),
        first: 0,
        count: 4,
        vocab: VOCAB,
        mask_index: VOCAB as u32 - 1,
    };
    score(gpu, &io);
}

fn choices(gpu: &Gpu) {
    let logits = zeros(gpu, 4 * VOCAB.next_multiple_of(4));
    let (rows, words) = (rows(gpu, 4), || words(gpu, 8));
    let (tokens, drawn, confidences) = (words(), words(), words());
    let top_k = Sampler {
        top_k: Some(5),
        ..Sampler::default()
    };
    for filter in [Filter::all(1.0), Filter::new(&top_k).expect("a filter")] {
        let io = Confidences {
            logits: &logits,
            stride: VOCAB.next_multiple_of(4),
            rows: &rows,
            tokens: &tokens,
            drawn: &drawn,
            confidences: &confidences,
            first: 0,
            count: 4,
            vocab: VOCAB,
            mask_index: VOCAB as u32 - 1,
        };
        confidence(gpu, &filter, &io);
    }
    suppress(gpu, &logits, VOCAB.next_multiple_of(4), [0, 4], &words(), 3);
    let io = Reveal {
        rows: &rows,
        drawn: &drawn,
        confidences: &confidences,
        groups: &words(),
        tokens: &tokens,
        outcome: &words(),
        count: 1,
        longest: 4,
        mask_index: VOCAB as u32 - 1,
        bound: 0,
    };
    reveal(gpu, &io);
}
