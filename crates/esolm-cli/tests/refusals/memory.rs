//! What exceeds the memory available to the process ends in one sentence that says what is needed and what is
//! available, never in an abort.

use std::io::Write;
use std::process::Command;

use crate::common::{Folder, GOLDEN, root};
use crate::{sentence, words};

/// Runs the program with `kib` of address space.
fn run(kib: u64, line: &str) -> std::process::Output {
    let limited = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .current_dir(root())
        .env_remove("ESOLM_MODEL")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_esolm")])
        .args(words(line))
        .output()
        .expect("a shell")
}

/// The MiB needed and available, according to the sentence.
fn refused(kib: u64, line: &str, what: &str, remedy: &str) -> [u64; 2] {
    let output = run(kib, line);
    assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
    let said = sentence(&output, line);
    let rest = said
        .strip_prefix(&format!("esolm: {what} needs "))
        .expect(&said);
    let (needed, rest) = rest.split_once(" MiB of memory, but ").expect(&said);
    let limit = "the limit on this process's address space leaves ";
    let rest = rest.strip_prefix(limit).expect(&said);
    let (left, rest) = rest.split_once(" MiB; ").expect(&said);
    assert_eq!(rest, remedy, "{said}");
    [needed, left].map(|number| number.parse().expect(&said))
}

/// Scoring also uses batches.
#[test]
fn texts_beyond_the_memory() {
    let folder = Folder::new();
    let text =
        "Once upon a time there was a little cat who liked to play in the sun. ".repeat(4000);
    let file = folder.file("text.txt");
    std::fs::write(&file, text).expect("room");
    let line = format!("ppl {file} --batch 250 --device cpu --quiet");
    let what = "a batch of 250 sequences of 512 slots";
    let [needed, left] = refused(400_000, &line, what, SMALLER);
    assert!(needed > left, "{needed} {left}");
}

const SMALLER: &str = "use a smaller --batch or a shorter --length";

#[test]
fn a_batch_beyond_the_memory() {
    let mdlm = format!(
        "--model {GOLDEN}/mdlm.ema.safetensors --config {GOLDEN}/mdlm.config.json --tokenizer none"
    );
    for (line, what) in [
        (
            format!("sample {mdlm} --batch 65536 --steps 1"),
            "a batch of 65536 sequences of 32 slots",
        ),
        (
            "sample --batch 5000 --alpha0 1 --steps 1".into(),
            "a batch of 5000 sequences of 256 slots",
        ),
        (
            "sample --batch 65536 --alpha0 0".into(),
            "a batch of 65536 sequences of 256 slots",
        ),
    ] {
        let line = format!("{line} --device cpu --seed 1 --quiet");
        let [needed, left] = refused(4_000_000, &line, what, SMALLER);
        assert!(needed > left && left > 2500, "{needed} {left}");
    }
}

/// A training is refused before its first step.
#[test]
fn a_training_beyond_the_memory() {
    let folder = Folder::new();
    let text = "The cat went to the barn. It met a dog by the lake. ".repeat(40);
    std::fs::write(folder.file("text.txt"), text).expect("room");
    let recipe = folder.file("recipe.toml");
    let text = format!(
        "[data]\ntrain = [{:?}]\nvocab_size = 280\n",
        folder.file("text.txt")
    );
    std::fs::write(&recipe, text).expect("room");
    let out = folder.file("run");
    let remedy = "lower run.batch, model.length or model.hidden in the recipe";
    for set in [
        "run.batch=1000",
        "model.hidden=16384",
        "run.batch=65536 --set model.hidden=65536",
    ] {
        let line = format!("train {recipe} --out {out} --set {set} --quiet");
        let [needed, left] = refused(4_000_000, &line, "this training", remedy);
        assert!(needed > left && left > 3000, "{needed} {left}");
    }
    assert!(!std::path::Path::new(&out).exists());

    // The memory for a state is checked before it is read.
    let small = "--set model.hidden=512 --set run.batch=2 --set run.tokens=256";
    let line = format!("train {recipe} --out {out} {small} --quiet");
    assert!(run(8_000_000, &line).status.success());
    let state = format!("{out}/state/step-00000001.safetensors");
    let bytes = std::fs::metadata(state).expect("a state").len();
    let line = format!("train --out {out} --resume --quiet");
    let [needed, _] = refused(400_000, &line, "this training", remedy);
    assert!(needed >= (2 * bytes) >> 20, "{needed}");
}

/// Following the advice in the sentence, the batch is written.
#[test]
fn a_batch_needs_no_more_than_is_said() {
    let mdlm = format!(
        "--model {GOLDEN}/mdlm.ema.safetensors --config {GOLDEN}/mdlm.config.json --tokenizer none"
    );
    for (line, what) in [
        (
            format!("sample {mdlm} --batch 4000 --steps 1"),
            "a batch of 4000 sequences of 32 slots",
        ),
        (
            "sample --batch 300 --length 64 --alpha0 1 --steps 1".into(),
            "a batch of 300 sequences of 64 slots",
        ),
        (
            "sample --batch 1500 --length 20 --alpha0 0".into(),
            "a batch of 1500 sequences of 20 slots",
        ),
    ] {
        let line = format!("{line} --device cpu --seed 1 --quiet");
        let first = 400_000;
        let [needed, left] = refused(first, &line, what, SMALLER);
        // The second run may have less left, as each thread may reserve part of the address space.
        let mut limit = first + ((needed - left + 1) << 10);
        let mut output = run(limit, &line);
        while output.status.code() == Some(1) && limit < 2_000_000 {
            limit += 20 << 10;
            output = run(limit, &line);
        }
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    }
}

/// A sparse safetensors file of `bytes` zeros.
fn write_zeros(path: &str, header: &serde_json::Map<String, serde_json::Value>, bytes: usize) {
    let header = serde_json::to_vec(header).expect("JSON");
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes())
        .expect("room");
    file.write_all(&header).expect("room");
    file.set_len((8 + header.len() + bytes) as u64)
        .expect("a sparse file");
}

/// Qwen3-0.6B's shape: refused before anything is read, with the requirement that `inspect` reports.
#[test]
fn a_decoder_beyond_the_memory() {
    let folder = Folder::new();
    let json = serde_json::json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "vocab_size": 151936,
        "tie_word_embeddings": true, "bos_token_id": 1,
    });
    let of_layer: [(&str, &[usize]); 11] = [
        ("self_attn.q_proj", &[2048, 1024]),
        ("self_attn.k_proj", &[1024, 1024]),
        ("self_attn.v_proj", &[1024, 1024]),
        ("self_attn.o_proj", &[1024, 2048]),
        ("self_attn.q_norm", &[128]),
        ("self_attn.k_norm", &[128]),
        ("mlp.gate_proj", &[3072, 1024]),
        ("mlp.up_proj", &[3072, 1024]),
        ("mlp.down_proj", &[1024, 3072]),
        ("input_layernorm", &[1024]),
        ("post_attention_layernorm", &[1024]),
    ];
    let layers = (0..28).flat_map(|layer| {
        of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape))
    });
    let ends: [(&str, &[usize]); 2] = [
        ("model.embed_tokens", &[151_936, 1024]),
        ("model.norm", &[1024]),
    ];
    let ends = ends.map(|(name, shape)| (name.to_string(), shape));
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in layers.chain(ends) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let told =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("{name}.weight"), told);
    }
    let weights = folder.file("model.safetensors");
    write_zeros(&weights, &header, end);
    std::fs::write(folder.file("config.json"), json.to_string()).expect("room");
    let line = format!("inspect {weights} --json");
    let report = run(8_000_000, &line);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    let mib = |bytes: &serde_json::Value| bytes.as_u64().expect("a number") >> 20;
    let said = mib(&report["memory"]["q8"]);
    // 8.5 bits for each of 596 million weights, and a little more.
    assert!((604..760).contains(&said), "{said}");
    let remedy = "free or allow more, or use a smaller model or fewer bits, as --weights q8 or q4";
    // The address space that the mapped file takes is not available.
    let line = format!("sample --model {weights} --tokenizer none --seed 1 --quiet --weights q8");
    let limit = (end >> 10) as u64 + 400_000;
    let on_cpu = format!("{line} --device cpu");
    let [needed, left] = refused(limit, &on_cpu, "the model", remedy);
    assert!(
        needed.abs_diff(said) <= 1 && left < needed,
        "{needed} {said} {left}"
    );
    // A software GPU holds the weights in main memory too.
    let on_gpu = format!("{line} --device gpu");
    let [needed, left] = refused(limit + 600_000, &on_gpu, "the model", remedy);
    let weights = mib(&report["gpu_memory"]["q8"][0]);
    assert!(
        needed > weights && left < needed,
        "{needed} {weights} {left}"
    );
}

/// The file has f16 values, which the CPU holds as f32.
#[test]
fn a_model_beyond_the_memory() {
    const HIDDEN: usize = 4096;
    let folder = Folder::new();
    let golden = std::fs::read(root().join(GOLDEN).join("model_a.ema.safetensors")).expect("data");
    let length = u64::from_le_bytes(golden[..8].try_into().expect("eight bytes")) as usize;
    let small: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&golden[8..8 + length]).expect("a header");
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, tensor) in small
        .iter()
        .filter(|(name, _)| *name != "__metadata__" && !name.ends_with("inv_freq"))
    {
        let sizes = tensor["shape"].as_array().expect("a shape");
        let wide = |size: u64| match (name.contains("sigma_map"), size) {
            (false, 64 | 128 | 192 | 256 | 384) => size as usize / 64 * HIDDEN,
            (_, size) => size as usize,
        };
        let shape: Vec<usize> = (sizes
            .iter()
            .map(|size| wide(size.as_u64().expect("a size"))))
        .collect();
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let told =
            serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), told);
    }
    let weights = folder.file("model.safetensors");
    write_zeros(&weights, &header, end);
    let config = std::fs::read_to_string(root().join(GOLDEN).join("model_a.config.json"));
    let mut config: serde_json::Value = serde_json::from_str(&config.expect("data")).expect("JSON");
    config["hidden_size"] = HIDDEN.into();
    config["n_heads"] = 64.into();
    std::fs::write(folder.file("config.json"), config.to_string()).expect("room");
    let line = format!("sample --model {weights} --tokenizer none --device cpu --seed 1 --quiet");
    let remedy = "free or allow more, or use a smaller model or fewer bits, as --weights q8 or q4";
    let [needed, left] = refused(4_000_000, &line, "the model", remedy);
    assert!(needed > 3000 && left < 2500, "{needed} {left}");
}
