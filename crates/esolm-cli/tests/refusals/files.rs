//! The files that the cases read.

use safetensors::Dtype;

use super::common::{Folder, GOLDEN, root, succeed, write};

/// Changes a tensor of this name: the type that it is stored as, and its values.
type Change<'a> = dyn Fn(&str, &mut Dtype, &mut Vec<f32>) + 'a;

/// Checkpoints with values that are not finite, or that overflow when folded, stored in f16 or computed with.
fn damaged(folder: &Folder) {
    const QKV: &str = "backbone.blocks.0.attn_qkv.weight";
    const BIAS: &str = "backbone.output_layer.linear.bias";
    let changed = |model: &str, file: &str, change: &Change| {
        let path = root().join(GOLDEN).join(format!("{model}.ema.safetensors"));
        let weights = std::fs::read(path).expect("weights");
        let tensors = safetensors::SafeTensors::deserialize(&weights).expect("safetensors");
        let tensors = tensors.tensors().into_iter().map(|(name, tensor)| {
            let four = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
            let mut values = tensor.data().chunks_exact(4).map(four).collect();
            let mut dtype = tensor.dtype();
            change(&name, &mut dtype, &mut values);
            let values = values.iter();
            let bytes = match dtype {
                Dtype::F16 => values
                    .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
                    .collect(),
                Dtype::BF16 => values
                    .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
                    .collect(),
                _ => values.flat_map(|v| v.to_le_bytes()).collect(),
            };
            (name, dtype, tensor.shape().to_vec(), bytes)
        });
        let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors.collect();
        let named: Vec<_> = (tensors.iter())
            .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, shape.clone(), bytes.clone()))
            .collect();
        write(&folder.file(file), &named);
    };
    let make = |file: &str, change: &Change| changed("model_a", file, change);
    let one = |file: &str, name: &str, index: usize, value: f32| {
        make(file, &|tensor, _, values| {
            if tensor == name {
                values[index] = value;
            }
        });
    };
    one(
        "nan.safetensors",
        "backbone.vocab_embed.embedding",
        96 * 64 + 63,
        f32::NAN,
    );
    one("nan-attention.safetensors", QKV, 4321, f32::NAN);
    one(
        "inf-norm.safetensors",
        "backbone.output_layer.norm_final.weight",
        7,
        f32::INFINITY,
    );
    one(
        "inf-sigma.safetensors",
        "backbone.sigma_map.mlp.2.bias",
        3,
        f32::NEG_INFINITY,
    );
    one("inf-bias.safetensors", BIAS, 5, f32::INFINITY);
    one(
        "large-embedding.safetensors",
        "backbone.vocab_embed.embedding",
        0,
        70000.0,
    );
    one("large-qkv.safetensors", QKV, 0, -70000.0);
    for (file, kind) in [
        ("f16.safetensors", Dtype::F16),
        ("bf16.safetensors", Dtype::BF16),
    ] {
        make(file, &|name, dtype, values| {
            *dtype = kind;
            if name == QKV {
                values[64] = f32::MAX;
            }
        });
    }
    make("fold.safetensors", &|name, _, values| {
        if [QKV, "backbone.blocks.0.norm1.weight"].contains(&name) {
            values.fill(1e25);
        }
    });
    for (file, value) in [("scores.safetensors", 1e25), ("variance.safetensors", 1e12)] {
        make(file, &|name, _, values| {
            if name == QKV || name.ends_with("attn_out.weight") {
                values.fill(value);
            }
        });
    }
    let ar = std::fs::read_to_string(root().join(GOLDEN).join("ar.config.json")).expect("text");
    let ar = ar.replacen('{', "{\"bos_token_id\": 95,", 1);
    std::fs::write(folder.file("ar.json"), ar).expect("writable");
    // Every token becomes less likely than the mask, whose logit is -1e6.
    for model in ["model_a", "mdlm", "ar"] {
        changed(
            model,
            &format!("mask-{model}.safetensors"),
            &|name, _, values| {
                if name == BIAS {
                    values.fill(-3e6);
                }
            },
        );
    }
}

/// A model in 8 bits, and configurations that do not belong to it.
fn quantised(folder: &Folder) {
    let model = format!("{GOLDEN}/model_a.ema.safetensors");
    let config = format!("{GOLDEN}/model_a.config.json");
    let out = folder.file("q8");
    succeed(&[
        "convert", &model, &out, "--config", &config, "--dtype", "q8",
    ]);
    let written = std::fs::read_to_string(format!("{out}/config.json")).expect("text");
    std::fs::copy(
        format!("{out}/model.safetensors"),
        folder.file("q8.safetensors"),
    )
    .expect("writable");
    for (name, from, to) in [
        ("bits3.json", "\"bits\": 8", "\"bits\": 3"),
        ("group64.json", "\"group_size\": 32", "\"group_size\": 64"),
    ] {
        std::fs::write(folder.file(name), written.replace(from, to)).expect("writable");
    }
}

/// Makes them: `TMP/name`.
/// Configurations of a BD3-LM that cannot be.
fn blocks(folder: &Folder) {
    let path = root().join("tests/fixtures/golden-family/bd3lm/bs4/config.json");
    let config = std::fs::read_to_string(path).expect("a configuration");
    for (name, from, to) in [
        ("blocks-0", "\"block_size\": 4", "\"block_size\": 0"),
        ("blocks-5", "\"block_size\": 4", "\"block_size\": 5"),
        ("blocks-none", "\"block_size\": 4,", ""),
        (
            "noise-order",
            "\"sampling_eps_min\": 0.001",
            "\"sampling_eps_min\": 1.5",
        ),
        (
            "noise-tensor",
            "\"sampling_eps_max\": 0.999",
            "\"sampling_eps_max\": 0.8",
        ),
        ("sets", "\"BD3LM\"", "\"SetDLM\""),
    ] {
        let edited = config.replacen(from, to, 1);
        assert_ne!(edited, config, "{from}");
        std::fs::write(folder.file(&format!("{name}.json")), edited).expect("a file");
    }
}

pub fn prepare(folder: &Folder) {
    for (name, line) in [
        ("jobs.jsonl", "{\"prompt\": \"Once\"}\n"),
        ("bad-jobs.jsonl", "{}\n{\"promt\": \"Once\"}\n"),
        ("bad-type.jsonl", "{\"length\": \"8\"}\n"),
        ("bad-json.jsonl", "{\"length\": 8\n"),
        ("bad-text.jsonl", "{\"text\": 3}\n"),
        ("no-text.jsonl", "{}\n"),
        ("confidence.jsonl", "{}\n{\"schedule\": \"confidence\"}\n"),
        ("too-long.jsonl", "{}\n{\"length\": 4096}\n"),
    ] {
        std::fs::write(folder.file(name), line).expect("writable");
    }
    quantised(folder);
    blocks(folder);
    let i32s = |values: &[i32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let file = |name: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        write(&folder.file(name), tensors)
    };
    let z = || ("zt_sorted", Dtype::I32, vec![1, 4], i32s(&[96, 96, 96, 96]));
    let order = |values: &[i32]| ("sort_idx", Dtype::I32, vec![1, 4], i32s(values));
    let good = || order(&[3, 1, 0, 2]);
    let steps = |values: &[i32]| ("steps", Dtype::I32, vec![values.len() / 3, 3], i32s(values));
    let u = |last: f64| {
        let mut values = vec![0.5f64; 4 * 97];
        values[4 * 97 - 1] = last;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        ("u", Dtype::F64, vec![1, 4, 97], bytes)
    };
    file("good.safetensors", &[z(), good()]);
    file("no-tokens.safetensors", &[good()]);
    file("order.safetensors", &[z(), order(&[0, 1, 1, 2])]);
    file("negative.safetensors", &[z(), order(&[0, 1, -1, 2])]);
    file(
        "vocabulary.safetensors",
        &[
            good(),
            ("zt_sorted", Dtype::I32, vec![1, 4], i32s(&[0, 1, 2, 97])),
        ],
    );
    file(
        "type.safetensors",
        &[good(), ("zt_sorted", Dtype::I64, vec![1, 4], vec![0; 32])],
    );
    file(
        "shape.safetensors",
        &[good(), ("zt_sorted", Dtype::I32, vec![1, 5], vec![0; 20])],
    );
    file(
        "rows.safetensors",
        &[good(), ("zt_sorted", Dtype::I32, vec![2, 4], vec![0; 32])],
    );
    file(
        "rank.safetensors",
        &[good(), ("zt_sorted", Dtype::I32, vec![4], vec![0; 16])],
    );
    let long: Vec<i32> = (0..33).collect();
    file(
        "long.safetensors",
        &[
            ("zt_sorted", Dtype::I32, vec![1, 33], vec![0; 132]),
            ("sort_idx", Dtype::I32, vec![1, 33], i32s(&long)),
        ],
    );
    file(
        "empty.safetensors",
        &[
            ("zt_sorted", Dtype::I32, vec![0, 4], vec![]),
            ("sort_idx", Dtype::I32, vec![0, 4], vec![]),
        ],
    );
    file(
        "hole.safetensors",
        &[good(), steps(&[0, 0, 2, 0, 3, 4]), u(0.5)],
    );
    file("short.safetensors", &[good(), steps(&[0, 0, 2]), u(0.5)]);
    file("one.safetensors", &[good(), steps(&[0, 0, 4]), u(1.0)]);
    file("replay.safetensors", &[good(), steps(&[0, 0, 4]), u(0.5)]);
    file("no-u.safetensors", &[good(), steps(&[0, 0, 4])]);
    file(
        "small-u.safetensors",
        &[
            good(),
            steps(&[0, 0, 4]),
            ("u", Dtype::F64, vec![1, 4, 2], vec![0; 64]),
        ],
    );

    let xt = |values: &[i32]| ("xt", Dtype::I32, vec![1, values.len()], i32s(values));
    let x0 = |values: &[i32]| ("x0", Dtype::I32, vec![1, values.len()], i32s(values));
    file("blocks.safetensors", &[xt(&[96; 4]), x0(&[1, 2, 3, 4])]);
    file("blocks-shape.safetensors", &[xt(&[96; 4]), x0(&[1, 2, 3])]);
    file(
        "blocks-rows.safetensors",
        &[xt(&[96; 4]), ("x0", Dtype::I32, vec![2, 4], i32s(&[1; 8]))],
    );
    file(
        "blocks-vocabulary.safetensors",
        &[xt(&[96; 4]), x0(&[1, 2, 3, 97])],
    );
    file("blocks-long.safetensors", &[xt(&[1; 33]), x0(&[1; 33])]);

    let tokens = |values: &[i32]| ("tokens", Dtype::I32, vec![1, 4], i32s(values));
    file("tokens.safetensors", &[tokens(&[1, 2, 3, 4])]);
    file("tokens-mask.safetensors", &[tokens(&[1, 2, 96, 4])]);
    file(
        "tokens-order.safetensors",
        &[tokens(&[1, 2, 3, 4]), order(&[0, 1, 1, 2])],
    );
    file("tokens-both.safetensors", &[tokens(&[1, 2, 3, 4]), good()]);
    file(
        "tokens-rows.safetensors",
        &[("tokens", Dtype::I32, vec![2, 4], i32s(&[1; 8])), good()],
    );
    file(
        "tokens-long.safetensors",
        &[("tokens", Dtype::I32, vec![1, 33], vec![0; 132])],
    );
    file(
        "tokens-empty.safetensors",
        &[("tokens", Dtype::I32, vec![0, 4], vec![])],
    );
    file(
        "tokens-one.safetensors",
        &[("tokens", Dtype::I32, vec![1, 1], i32s(&[5]))],
    );
    std::fs::write(folder.file("latin.txt"), b"caf\xe9").expect("writable");
    let text = |name: &str, text: &str| {
        std::fs::write(folder.file(name), text).expect("writable");
    };
    text(
        "recipe.toml",
        "[data]\ntrain = [\"LICENSE-APACHE\"]\nvocab_size = 300\n[model]\nhidden = 16\nblocks = 1\nheads = 2\nlength = 16\n[run]\ntokens = 64\nbatch = 2\n",
    );
    text("bare.toml", "[data]\ntrain = [\"LICENSE-APACHE\"]\n");
    let recipe = folder.file("recipe.toml");
    for trained in ["trained", "retokenized"] {
        succeed(&["train", &recipe, "--out", &folder.file(trained), "--quiet"]);
    }
    let tokenizer = root().join("models/stories/tokenizer.json");
    std::fs::copy(tokenizer, folder.file("retokenized/tokenizer.json")).expect("writable");
    text("empty.json", "{}");
    for (name, map) in [
        ("shards", "{\"a\": \"../a\"}"),
        ("empty-index", "{}"),
        ("absent-shard", "{\"a\": \"a.safetensors\"}"),
    ] {
        std::fs::create_dir(folder.file(name)).expect("writable");
        let index = format!("{{\"weight_map\": {map}}}");
        text(&format!("{name}/model.safetensors.index.json"), &index);
    }
    let mdlm = std::fs::read_to_string(root().join(GOLDEN).join("mdlm.config.json")).expect("text");
    for (name, fields) in [
        ("two-masks", r#""mask_index": 96, "mask_token_id": 4"#),
        ("large-mask", r#""mask_token_id": 97"#),
        ("mask-twice", r#""mask_index": 3, "mask_index": 4"#),
        ("two-lengths", r#""model": {"length": 64}"#),
        ("uniform", r#""diffusion": "uniform""#),
        ("other-base", r#""rope_theta": 500000"#),
    ] {
        let config = mdlm.replacen('{', &format!("{{{fields},"), 1);
        text(&format!("{name}.json"), &config);
    }
    let small = "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}}}";
    for (name, tokenizer) in [("unread-tokenizer", "[MASK]"), ("padded", small)] {
        std::fs::create_dir(folder.file(name)).expect("writable");
        text(&format!("{name}/config.json"), &mdlm);
        text(&format!("{name}/tokenizer.json"), tokenizer);
        let weights = root().join(GOLDEN).join("mdlm.ema.safetensors");
        let copy = folder.file(&format!("{name}/model.safetensors"));
        std::fs::copy(weights, copy).expect("writable");
    }
    let told = mdlm.replacen('{', "{\"mask_index\": 96,", 1);
    std::fs::create_dir(folder.file("unread-model")).expect("writable");
    text("unread-model/config.json", &told);
    text("unread-model/tokenizer.model", "no model");
    let weights = root().join(GOLDEN).join("mdlm.ema.safetensors");
    std::fs::copy(weights, folder.file("unread-model/model.safetensors")).expect("writable");
    std::fs::create_dir(folder.file("lower-case")).expect("writable");
    let fourth = mdlm.replacen('{', "{\"mask_index\": 4,", 1);
    text("lower-case/config.json", &fourth);
    let weights = std::fs::read(root().join(GOLDEN).join("mdlm.ema.safetensors")).expect("weights");
    std::fs::write(folder.file("lower-case/model.safetensors"), &weights).expect("writable");
    let tokenizer = root().join(super::CASES).join("lower-case.tokenizer.json");
    std::fs::copy(tokenizer, folder.file("lower-case/tokenizer.json")).expect("writable");
    let frequency = 0.1f32.to_le_bytes();
    let at = weights.windows(4).position(|word| word == frequency);
    let mut other = weights.clone();
    other[at.expect("a frequency")..][..4].copy_from_slice(&0.25f32.to_le_bytes());
    std::fs::write(folder.file("rotary.safetensors"), other).expect("writable");
    text("blank.txt", " \n\n");
    text("none.txt", "");
    text("cafe.txt", "The caf\u{e9} was closed.");
    text("field.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
    text(
        "no-choices.jsonl",
        "\n{\"context\": \"a\", \"choices\": []}\n",
    );
    text(
        "empty-choice.jsonl",
        "{\"context\": \"a\", \"choices\": [\"\"]}\n",
    );
    let long = "word ".repeat(400);
    text(
        "long-choice.jsonl",
        &format!("{{\"context\": \"a\", \"choices\": [\"{long}\"]}}\n"),
    );
    text(
        "no-middle.jsonl",
        "{\"prefix\": \"a\", \"middle\": \"\", \"suffix\": \"b\"}\n",
    );

    damaged(folder);

    let checkpoint =
        std::fs::read(root().join(GOLDEN).join("mini_esolm.ckpt")).expect("a checkpoint");
    std::fs::write(folder.file("cut.ckpt"), &checkpoint[..checkpoint.len() / 2]).expect("writable");
    let weights = std::fs::read(root().join("models/stories/model.safetensors")).expect("weights");
    std::fs::create_dir(folder.file("cut")).expect("writable");
    std::fs::write(
        folder.file("cut/model.safetensors"),
        &weights[..weights.len() - 1],
    )
    .expect("writable");
    let config = root().join("models/stories/config.json");
    std::fs::copy(&config, folder.file("cut/config.json")).expect("writable");
    std::fs::create_dir(folder.file("folder")).expect("writable");
    #[cfg(unix)]
    for (link, to) in [("circle", "circle"), ("to-folder", "folder")] {
        std::os::unix::fs::symlink(to, folder.file(link)).expect("writable");
    }
    std::fs::write(
        folder.file("pointer.safetensors"),
        "version https://git-lfs.github.com/spec/v1\n",
    )
    .expect("writable");
}
