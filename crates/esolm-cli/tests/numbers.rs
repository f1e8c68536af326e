//! `esolm forward` and `esolm replay` compared with the published code, `convert` and `inspect` with the files they
//! read.

mod common;
#[path = "numbers/decoders.rs"]
mod decoders;

use common::{Folder, GOLDEN, Tensors, distance, run, succeed, write};
use safetensors::Dtype;
use serde_json::Value;

/// What section "Numerics" of the design allows in f32, absolute.
const LOGITS: f32 = 1e-4;

fn model(name: &str) -> Vec<String> {
    vec![
        "--model".into(),
        format!("{GOLDEN}/{name}.ema.safetensors"),
        "--config".into(),
        format!("{GOLDEN}/{name}.config.json"),
    ]
}

fn with(command: &str, model: &[String], rest: &[&str]) -> Vec<String> {
    let rest = rest.iter().map(ToString::to_string);
    std::iter::once(command.to_string())
        .chain(model.iter().cloned())
        .chain(rest)
        .collect()
}

fn call(arguments: &[String]) {
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Copies tensors of a golden file, under the names that the commands read.
fn copy(golden: &Tensors, names: &[(&str, &str)], path: &str) {
    let tensors: Vec<_> = names
        .iter()
        .map(|(from, to)| {
            let dtype = if *to == "u" { Dtype::F64 } else { Dtype::I32 };
            (*to, dtype, golden.shape(from), golden.bytes(from))
        })
        .collect();
    write(path, &tensors);
}

#[test]
fn forward_gives_the_published_logits() {
    let folder = Folder::new();
    let golden = Tensors::golden("forward_model_a.safetensors");
    let mut cases = 0;
    for case in ["all_masked", "none_masked", "half", "uneven"] {
        let input = folder.file(&format!("{case}.safetensors"));
        let name = |part: &str| format!("{case}.{part}");
        let (z, x, s) = (name("zt_sorted"), name("x0_sorted"), name("sort_idx"));
        copy(
            &golden,
            &[(&z, "zt_sorted"), (&x, "x0_sorted"), (&s, "sort_idx")],
            &input,
        );
        for mode in ["diffusion", "sequential"] {
            for mask in ["causal", "bidirectional", "mixed", "mixed2"] {
                let wanted = format!("{mode}.{mask}.{case}.logits");
                if !golden.has(&wanted) {
                    continue;
                }
                // One case on a GPU, which may be a software one; kernels have their own tests.
                let devices: &[&str] = if case == "uneven" {
                    &["cpu", "gpu"]
                } else {
                    &["cpu"]
                };
                for device in devices {
                    let output = folder.file("out.safetensors");
                    let rest = [
                        "--input", &input, "--output", &output, "--mode", mode, "--mask", mask,
                        "--device", device,
                    ];
                    call(&with("forward", &model("model_a"), &rest));
                    let out = Tensors::read(&output);
                    assert_eq!(out.shape("logits"), [2, 32, 97]);
                    let error = distance(&out.f32("logits"), &golden.f32(&wanted));
                    assert!(error < LOGITS, "{wanted} on {device}: {error}");
                    cases += 1;
                }
            }
        }
    }
    assert!(
        cases >= 15,
        "only {cases} cases were found in the golden file"
    );
}

#[test]
fn forward_runs_mdlm_and_ar() {
    let folder = Folder::new();
    let golden = Tensors::golden("forward_mdlm_ar.safetensors");
    let natural: Vec<u8> = (0..2)
        .flat_map(|_| 0..32i32)
        .flat_map(i32::to_le_bytes)
        .collect();
    for (name, tokens, logits) in [
        ("mdlm", "mdlm.xt", "mdlm.logits"),
        ("ar", "ar.x0", "ar.logits_full"),
    ] {
        let (input, output) = (
            folder.file("in.safetensors"),
            folder.file("out.safetensors"),
        );
        let tensors = [
            ("zt_sorted", Dtype::I32, vec![2, 32], golden.bytes(tokens)),
            ("sort_idx", Dtype::I32, vec![2, 32], natural.clone()),
        ];
        write(&input, &tensors);
        // The mask is the model's own.
        call(&with(
            "forward",
            &model(name),
            &["--input", &input, "--output", &output, "--device", "cpu"],
        ));
        let error = distance(&Tensors::read(&output).f32("logits"), &golden.f32(logits));
        assert!(error < LOGITS, "{name}: {error}");
    }
}

/// The blocks of a BD3-LM, its own or as requested, and AR with adaLN under a causal mask.
#[test]
fn forward_runs_blocks() {
    let folder = Folder::new();
    let family = format!("{GOLDEN}-family");
    let golden = Tensors::golden("../golden-family/bd3lm/bs4.forward.safetensors");
    let (input, output) = (
        folder.file("in.safetensors"),
        folder.file("out.safetensors"),
    );
    let bd3lm = ["--model".into(), format!("{family}/bd3lm/bs4")];
    let blocks = ["--mode", "block", "--block-size", "4"];
    for (case, options) in [
        ("half", &blocks[..2]),
        ("uneven", &blocks),
        ("all_masked", &blocks[..2]),
    ] {
        copy(
            &golden,
            &[(&format!("{case}.xt"), "xt"), ("x0", "x0")],
            &input,
        );
        let rest = ["--input", &input, "--output", &output, "--device", "cpu"];
        call(&with("forward", &bd3lm, &[&rest[..], options].concat()));
        let out = Tensors::read(&output);
        assert_eq!(out.shape("logits"), [2, 32, 97]);
        let want = golden.f32(&format!("{case}.logits"));
        let error = distance(&out.f32("logits"), &want);
        assert!(error < LOGITS, "{case}: {error}");
    }
    let golden = Tensors::golden("../golden-family/scaling/ar_adaln.forward.safetensors");
    let natural = (0..2).flat_map(|_| 0..32i32).flat_map(i32::to_le_bytes);
    let tensors = [
        ("zt_sorted", Dtype::I32, vec![2, 32], golden.bytes("x0")),
        ("sort_idx", Dtype::I32, vec![2, 32], natural.collect()),
    ];
    write(&input, &tensors);
    let ar = [
        "--model".into(),
        format!("{family}/scaling/ar_adaln.weights.safetensors"),
        "--config".into(),
        format!("{family}/scaling/ar_adaln.config.json"),
    ];
    let rest = [
        "--input", &input, "--output", &output, "--mask", "causal", "--device", "cpu",
    ];
    call(&with("forward", &ar, &rest));
    let error = distance(&Tensors::read(&output).f32("logits"), &golden.f32("logits"));
    assert!(error < LOGITS, "ar_adaln: {error}");
}

/// The masks of a SetDLM next to its clean tokens.
#[test]
fn forward_runs_sets() {
    let folder = Folder::new();
    let golden = Tensors::golden("../golden-family/setdlm/setdlm.forward.safetensors");
    let (input, output) = (
        folder.file("in.safetensors"),
        folder.file("out.safetensors"),
    );
    let given = [("perm", "sort_idx"), ("x0_sorted", "x0_sorted")];
    copy(&golden, &given, &input);
    let model = format!("{GOLDEN}-family/setdlm/owt_setdlm_smax8");
    let rest = [
        "--input", &input, "--output", &output, "--mode", "set", "--device", "cpu",
    ];
    call(&with("forward", &["--model".into(), model], &rest));
    let out = Tensors::read(&output);
    assert_eq!(out.shape("logits"), [2, 32, 97]);
    let error = distance(&out.f32("logits"), &golden.f32("logits_sorted"));
    assert!(error < LOGITS, "{error}");
}

#[test]
fn replay_gives_the_published_tokens() {
    let folder = Folder::new();
    let golden = Tensors::golden("sampling_model_a.safetensors");
    for case in [
        "alpha1",
        "alpha05",
        "alpha0",
        "subcontext8",
        "subcontext8_alpha05",
        "alpha1_p09",
    ] {
        let (input, output) = (
            folder.file("in.safetensors"),
            folder.file("out.safetensors"),
        );
        let name = |part: &str| format!("{case}.{part}");
        let (s, t, u) = (name("sort_idx"), name("steps"), name("u"));
        copy(
            &golden,
            &[(&s, "sort_idx"), (&t, "steps"), (&u, "u")],
            &input,
        );
        let top_p: &[&str] = if case == "alpha1_p09" {
            &["--top-p", "0.9"]
        } else {
            &[]
        };
        let devices: &[&str] = if case == "alpha05" {
            &["cpu", "gpu"]
        } else {
            &["cpu"]
        };
        for device in devices {
            let rest = [
                &["--input", &input, "--output", &output, "--device", device],
                top_p,
            ]
            .concat();
            call(&with("replay", &model("model_a"), &rest));
            let out = Tensors::read(&output);
            assert_eq!(
                out.i32("tokens_sorted"),
                golden.i32(&name("tokens_sorted")),
                "{case} on {device}"
            );
            assert_eq!(
                out.i32("sample"),
                golden.i32(&name("sample")),
                "{case} on {device}"
            );
            let error = distance(&out.f32("logits"), &golden.f32(&name("logits")));
            assert!(error < LOGITS, "{case} on {device}: {error}");
        }
    }
}

#[test]
fn the_shipped_model_survives_a_round_trip() {
    let folder = Folder::new();
    let (wide, narrow) = (folder.file("wide"), folder.file("narrow"));
    succeed(&["convert", "models/stories", &wide]);
    succeed(&["convert", &wide, &narrow, "--dtype", "f16"]);
    let stories = common::root().join("models/stories");
    let name = "backbone.blocks.0.attn_qkv.weight";
    let before = Tensors::read(stories.join("model.safetensors"));
    let after = Tensors::read(format!("{narrow}/model.safetensors"));
    assert_eq!(before.bytes(name), after.bytes(name));
    assert_eq!(
        Tensors::read(format!("{wide}/model.safetensors"))
            .bytes(name)
            .len(),
        2 * before.bytes(name).len()
    );
    let tokenizer =
        |path: &std::path::Path| std::fs::read(path.join("tokenizer.json")).expect("a tokenizer");
    assert_eq!(tokenizer(&stories), tokenizer(narrow.as_ref()));
    let options = ["sample", "--device", "cpu", "--seed", "1", "--length", "32"];
    let text = succeed(&options);
    for model in [&wide, &narrow] {
        assert_eq!(text, succeed(&[&options[..], &["--model", model]].concat()));
    }
    // Existing files are kept unless the user says otherwise.
    let refused = run(&["convert", "models/stories", &wide]);
    assert_eq!(refused.status.code(), Some(2));
    succeed(&["convert", "models/stories", &wide, "--force"]);
    // A model without a tokenizer is not combined with the tokenizer of the previous one.
    let bare = ["convert", "models/stories", &wide, "--tokenizer", "none"];
    let output = run(&[&bare[..], &["--force"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("tokenizer.json is removed"),
        "{said}"
    );
    let mut left: Vec<_> = (std::fs::read_dir(&wide).expect("a folder").flatten())
        .map(|entry| entry.file_name())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["config.json", "generation_config.json", "model.safetensors"]
    );
    // Nor if there was no model, only a tokenizer.
    std::fs::remove_file(format!("{wide}/model.safetensors")).expect("there");
    std::fs::copy(
        stories.join("tokenizer.json"),
        format!("{wide}/tokenizer.json"),
    )
    .expect("writable");
    let refused = run(&bare);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("taken for this model's"),
        "{said}"
    );
}

/// Another model's files are not left to be taken for the new model's, and nobody's are replaced unasked.
#[test]
fn convert_leaves_nothing_of_another_model() {
    let folder = Folder::new();
    let (talks, out) = (folder.file("talks"), folder.file("out"));
    let fields = serde_json::json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]});
    common::chat_model(talks.as_ref(), &fields);
    succeed(&["convert", &talks, &out]);
    let at = |name: &str| format!("{out}/{name}");
    for name in ["chat_template.jinja", "special_tokens_map.json"] {
        std::fs::write(at(name), "{}").expect("written");
    }
    let line = ["convert", "models/stories", &out];
    assert_eq!(run(&line).status.code(), Some(2));
    let output = run(&[&line[..], &["--force"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    for name in [
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    ] {
        assert!(said.contains(&format!("{name} is removed")), "{said}");
        assert!(!std::fs::exists(at(name)).expect("a folder"), "{name}");
    }
    // In its own folder, they are the model's.
    std::fs::write(format!("{talks}/special_tokens_map.json"), "{}").expect("written");
    succeed(&["convert", &talks, &talks, "--dtype", "f16", "--force"]);
    assert!(std::fs::exists(format!("{talks}/special_tokens_map.json")).expect("a folder"));
    // A project's configuration.
    let project = folder.file("project");
    std::fs::create_dir(&project).expect("a folder");
    std::fs::write(format!("{project}/config.json"), "{\"mine\": true}").expect("written");
    let refused = run(&["convert", "models/stories", &project]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("config.json is there already"), "{said}");
}

/// Stored in fewer bits, a model writes the same as when it is quantised while loading.
#[test]
fn the_shipped_model_is_stored_in_fewer_bits() {
    let folder = Folder::new();
    let options = ["sample", "--device", "cpu", "--seed", "1", "--length", "48"];
    let size = |path: &str| std::fs::metadata(path).expect("a file").len();
    let report = succeed(&["inspect", "models/stories", "--json"]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let parameters = report["parameters"].as_u64().expect("a number");
    for (bits, share) in [("q8", 0.57), ("q4", 0.44)] {
        let out = folder.file(bits);
        succeed(&["convert", "models/stories", &out, "--dtype", bits]);
        let with = |more: &[&str]| succeed(&[&options[..], more].concat());
        let rounded = with(&["--weights", bits]);
        assert_eq!(with(&["--model", &out]), rounded);
        assert_eq!(with(&["--model", &out, "--weights", bits]), rounded);
        for other in ["f32", "f16", "q8", "q4"] {
            with(&["--model", &out, "--weights", other]);
        }
        let written = size(&format!("{out}/model.safetensors")) as f64;
        let before = size(
            common::root()
                .join("models/stories/model.safetensors")
                .to_str()
                .expect("UTF-8"),
        ) as f64;
        assert!(written < share * before, "{bits}: {written} of {before}");
        let text = succeed(&["inspect", &out, "--tensors"]);
        for part in [
            "without adaLN",
            "more than published: attn_qkv",
            "u8/32",
            bits,
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let report: Value =
            serde_json::from_str(&succeed(&["inspect", &out, "--json"])).expect("JSON");
        assert_eq!(report["weights"], bits);
        // Counts the parameters before folding, however often it is converted.
        assert_eq!(report["parameters"], parameters);
        let again = folder.file(&format!("{bits}-again"));
        for (from, to) in [("models/stories", &out), (&out[..], &again)] {
            let written = run(&["convert", from, to, "--dtype", bits, "--force"]);
            let said = String::from_utf8_lossy(&written.stderr);
            assert!(said.contains(&format!("{parameters} parameters")), "{said}");
        }
        let report: Value =
            serde_json::from_str(&succeed(&["inspect", &again, "--json"])).expect("JSON");
        assert_eq!(report["parameters"], parameters);
        // And back to floats, with no trace of the bits.
        let floats = folder.file(&format!("{bits}-floats"));
        succeed(&["convert", &out, &floats]);
        let config = std::fs::read_to_string(format!("{floats}/config.json")).expect("text");
        assert!(!config.contains("quantization"), "{config}");
        let as_floats = with(&["--model", &out, "--weights", "f32"]);
        assert_eq!(with(&["--model", &floats]), as_floats);
    }
}

/// A limit on file sizes refuses the bytes as a full disk does.
#[cfg(unix)]
#[test]
fn weights_that_do_not_fit_are_named_with_a_remedy() {
    let folder = Folder::new();
    let out = folder.file("new/model");
    // With the signal ignored, the write itself fails.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("sh")
        .current_dir(common::root())
        .args(["-c", script, env!("CARGO_BIN_EXE_esolm")])
        .args(["convert", "models/stories", &out])
        .output()
        .expect("sh runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let named = format!("esolm: cannot write {out}/model.safetensors: ");
    assert!(
        said.starts_with(&named) && said.contains("; ") && said.contains("give another place"),
        "{said}"
    );
    assert!(!said.contains("partial"), "{said}");
    assert!(!folder.path().join("new").exists());
}

#[test]
fn a_lightning_checkpoint_becomes_a_folder() {
    let folder = Folder::new();
    for (kind, extra) in [("ema", &[][..]), ("raw", &["--raw-weights"])] {
        let out = folder.file(kind);
        let ckpt = format!("{GOLDEN}/mini_esolm.ckpt");
        succeed(&[&["convert", &ckpt, &out], extra].concat());
        let (written, golden) = (
            Tensors::read(format!("{out}/model.safetensors")),
            Tensors::golden(&format!("mini_esolm.{kind}.safetensors")),
        );
        let name = "backbone.blocks.0.attn_qkv.weight";
        assert_eq!(written.bytes(name), golden.bytes(name), "{kind}");
    }
}

#[test]
fn inspect_says_what_a_checkpoint_is() {
    let text = succeed(&["inspect", "models/stories", "--tensors"]);
    for part in [
        "Eso-LM",
        "3 blocks, width 256, 8 heads of 32",
        "256 tokens",
        "3969 (mask 3968)",
        "0.25",
        "4492449",
        "f16",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("blocks.2.mlp.2.bias"), "{text}");
    let report: Value =
        serde_json::from_str(&succeed(&["inspect", "models/stories", "--json"])).expect("JSON");
    assert_eq!(report["parameters"], 4_492_449);
    assert_eq!(report["alpha_0"], 0.25);
    assert_eq!(report["vocab_size"], 3969);
    let sizes = report["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|tensor| tensor["bytes"].as_u64().expect("a number"));
    assert_eq!(sizes.sum::<u64>(), 2 * 4_492_449);
    for (model, part) in [
        ("mini_ar", "AR"),
        ("mini_mdlm", "MDLM"),
        ("mini_esolm", "EMA weights"),
    ] {
        let text = succeed(&["inspect", &format!("{GOLDEN}/{model}.ckpt")]);
        assert!(text.contains(part), "{text}");
    }
    for (model, tokenizer) in [
        ("bert", "BERT vocabulary"),
        ("text8", "single characters"),
        ("sentencepiece", "SentencePiece model"),
        ("tiktoken", "tiktoken ranks"),
    ] {
        let text = succeed(&["inspect", &format!("tests/fixtures/cases/{model}.ckpt")]);
        let row = format!("tokenizer    inside the checkpoint ({tokenizer})");
        assert!(text.contains(&row), "{text}");
        assert!(text.contains("runs "), "{text}");
    }
}

/// The memory for a whole network is computed from its sizes, before it is loaded.
#[test]
fn inspect_says_what_memory_a_network_takes() {
    let report: Value = serde_json::from_str(&succeed(&["inspect", "--json"])).expect("JSON");
    let bytes = |form: &str| report["memory"][form].as_u64().expect("a number");
    let weights = 4 * report["parameters"].as_u64().expect("a number");
    assert!(
        bytes("f32") > weights && bytes("f32") < 3 * weights + (16 << 20),
        "{report}"
    );
    assert!(
        bytes("f16") < bytes("f32") && bytes("q8") < bytes("f16"),
        "{report}"
    );
    let cache = report["cache_bytes"].as_u64().expect("a number");
    assert!(cache >= 3 * 2 * 256 * 256 * 4, "{report}");
}

/// `inspect` and `convert` open a checkpoint as all other commands do.
#[test]
fn every_command_opens_a_checkpoint_with_the_same_options() {
    let folder = Folder::new();
    let lower = "tests/fixtures/cases/lower-case.tokenizer.json";
    let config = std::fs::read_to_string(common::root().join(GOLDEN).join("mdlm.config.json"));
    let config = config
        .expect("text")
        .replacen('{', "{\"mask_index\": 4,", 1);
    std::fs::write(folder.file("given.json"), config).expect("writable");
    let given = folder.file("given.json");
    let weights = format!("{GOLDEN}/mdlm.ema.safetensors");
    let options = ["--config", &given, "--tokenizer", lower];
    let text = succeed(&[&["inspect", "--model", &weights], &options[..]].concat());
    assert_eq!(
        text,
        succeed(&[&["inspect", &weights], &options[..]].concat())
    );
    assert!(
        text.contains("97 (mask 4)") && text.contains(&format!("tokenizer    {lower}")),
        "{text}"
    );
    let without = [
        "inspect",
        &weights,
        "--config",
        &given,
        "--tokenizer",
        "none",
    ];
    assert!(succeed(&without).contains("tokenizer    none"));
    assert!(succeed(&["inspect"]).contains("model        stories"));

    let (named, bare, shipped) = (
        folder.file("named"),
        folder.file("bare"),
        folder.file("shipped"),
    );
    succeed(&[&["convert", "--model", &weights, &named], &options[..]].concat());
    let written = std::fs::read(format!("{named}/tokenizer.json")).expect("a tokenizer");
    assert_eq!(
        written,
        std::fs::read(common::root().join(lower)).expect("bytes")
    );
    let text = succeed(&[
        "sample",
        "--model",
        &named,
        "--device",
        "cpu",
        "--prompt",
        "once upon",
    ]);
    assert!(text.starts_with("once upon"), "{text}");
    succeed(&["convert", &named, &bare, "--tokenizer", "none"]);
    assert!(!std::path::Path::new(&bare).join("tokenizer.json").exists());
    succeed(&["convert", &shipped]);
    let sample = ["sample", "--device", "cpu", "--seed", "1", "--length", "16"];
    assert_eq!(
        succeed(&sample),
        succeed(&[&sample[..], &["--model", &shipped]].concat())
    );
}

#[test]
fn devices_are_listed() {
    let text = succeed(&["devices"]);
    assert!(
        text.lines()
            .any(|line| line.starts_with("cpu    ") && line.contains(" thread")),
        "{text}"
    );
    assert!(!text.contains("Burn"), "{text}");
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("cpu")),
        "{text}"
    );
    assert_eq!(text.matches("<- auto").count(), 1, "{text}");
    let list: Value = serde_json::from_str(&succeed(&["devices", "--json"])).expect("JSON");
    for (number, adapter) in list.as_array().expect("a list").iter().enumerate() {
        assert_eq!(adapter["index"], number);
        assert!(
            adapter["limits"]["max_binding_bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes > 0),
            "{adapter}"
        );
        assert!(
            adapter["variants"].is_object() && adapter["driver"].is_string(),
            "{adapter}"
        );
    }
}

/// Every variant that can run is compared at every shape of the model; times are not tested.
#[test]
fn kernels_are_compared() {
    let model = "--hidden 32 --blocks 1 --heads 1 --vocab 40 --length 8 --batch 2";
    let line = format!("bench --kernels --device gpu --json --max-seconds 0 {model}");
    let text = succeed(&line.split(' ').collect::<Vec<_>>());
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let comparisons = report["comparisons"].as_array().expect("a list");
    // Five products, and attention while the rows fit the two sequences.
    assert_eq!(comparisons.len(), 8 * 5 + 5);
    let wrong = comparisons.iter().filter(|one| !one["better"].is_null());
    assert_eq!(report["wrong"], wrong.count());
    for one in comparisons {
        let forms = one["forms"].as_array().expect("a list");
        assert_eq!(forms.len(), 3, "{one}");
        let of_table: Vec<&Value> = forms
            .iter()
            .filter(|timed| timed["form"] == one["table"])
            .map(|timed| &timed["of_table"])
            .collect();
        assert_eq!(of_table, [1.0], "{one}");
        assert!(one["runs"].as_u64() >= Some(1), "{one}");
    }
}

/// Forms of weights are compared, and for a given model the report includes what each costs in perplexity.
#[test]
fn forms_are_compared() {
    let line = "bench --device cpu --json --max-seconds 0 --length 16 --steps 4 --rounds 2 --compare f32,f16,q8/q8";
    let mut line: Vec<&str> = line.split(' ').collect();
    let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/stories");
    line.extend(["--model", stories]);
    let report: Value = serde_json::from_str(&succeed(&line)).expect("JSON");
    let lines = report["lines"].as_array().expect("a list");
    // MDLM, Eso-LM and Eso-LM (A) in four steps and in sixteen, BD3-LM, SetDLM and AR.
    let plans = lines.chunk_by(|a, b| a["name"] == b["name"]);
    assert_eq!(plans.clone().count(), 9);
    for plan in plans {
        let forms: Vec<&str> = plan
            .iter()
            .filter_map(|line| line["form"].as_str())
            .collect();
        assert_eq!(forms, ["f32", "f16", "q8/q8"]);
        assert!(plan[0]["of_first"].is_null());
        // The form changes only what must be read, not what must be computed.
        let bytes: Vec<f64> = (plan.iter())
            .map(|line| {
                let per_second = line["bytes_per_second"].as_f64().expect("a number");
                per_second * line["seconds"].as_f64().expect("a number")
            })
            .collect();
        assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{bytes:?}");
        for line in plan {
            let [least, most] = [0, 1].map(|i| line["range"][i].as_f64().expect("a number"));
            let seconds = line["seconds"].as_f64().expect("a number");
            assert!(0.0 < least && least <= seconds && seconds <= most, "{line}");
        }
    }
    let cost = report["cost"]["forms"].as_array().expect("a list");
    let ppl: Vec<f64> = cost.iter().filter_map(|form| form[1].as_f64()).collect();
    assert_eq!(ppl.len(), 3);
    let near = |other: &f64| (other / ppl[0] - 1.0).abs() < 0.01;
    assert!(ppl[1..].iter().all(near), "{ppl:?}");
    assert_eq!(report["cost"]["exact"], true);
}
