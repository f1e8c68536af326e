//! Lightning checkpoints whose pickle is sound but says something impossible, and what each of them is told. Run with `--nocapture` to read the
//! messages.

mod common;
#[path = "common/forge.rs"]
mod forge;

use common::assert_told;
use forge::{
    Forged, NAMES, Value, boolean, call, dict, global, int, list, none, open_pickle, persistent,
    plain, program, storage, tensor, text, tuple,
};

#[test]
fn lightning_contents() {
    let state =
        |key: &'static str, value: Value| Forged::with(|f| Forged::set(&mut f.state, key, value));
    let algo =
        |key: &'static str, value: Value| Forged::with(|f| Forged::set(&mut f.algo, key, value));
    let model =
        |key: &'static str, value: Value| Forged::with(|f| Forged::set(&mut f.model, key, value));
    let norm = "backbone.blocks.0.norm1.weight";
    let qkv = "backbone.blocks.0.attn_qkv.weight";
    let float = |key: &str| storage("FloatStorage", key);
    let short = list(&[plain(&[3, 2], 0)]);
    let swapped = {
        let mut items: Vec<Value> = NAMES
            .iter()
            .filter(|(n, _)| !n.contains("inv_freq"))
            .map(|(_, shape)| plain(shape, 0))
            .collect();
        items.swap(0, 1);
        list(&items)
    };
    for (case, forged, words) in [
        (
            "no EMA",
            Forged::with(|f| f.ema = None),
            vec!["no EMA weights", "ema.shadow_params", "--raw-weights"],
        ),
        (
            "EMA is None",
            Forged::with(|f| f.ema = Some(none())),
            vec!["no EMA weights", "--raw-weights"],
        ),
        (
            "EMA too short",
            Forged::with(|f| f.ema = Some(dict(&[("shadow_params", short)]))),
            vec!["shadow_params lists 1", "12 parameters", "--raw-weights"],
        ),
        (
            "EMA in another order",
            Forged::with(|f| f.ema = Some(dict(&[("shadow_params", swapped)]))),
            vec!["shadow_params[0]", "[2]", "vocab_embed.embedding", "[3, 2]"],
        ),
        (
            "a number for a tensor",
            state(norm, int(3)),
            vec![norm, "is 3", "dense tensor"],
        ),
        (
            "another class",
            state(
                norm,
                call(global("torch._utils", "_rebuild_sparse_tensor"), tuple(&[])),
            ),
            vec![norm, "_rebuild_sparse_tensor", "dense tensor"],
        ),
        (
            "a call without arguments",
            state(
                norm,
                call(global("torch._utils", "_rebuild_tensor_v2"), tuple(&[])),
            ),
            vec![norm, "too few values"],
        ),
        (
            "transposed",
            state(qkv, tensor(float("0"), 0, &[6, 2], &[1, 6])),
            vec![qkv, "strides [1, 6]", ".contiguous()"],
        ),
        (
            "beyond its storage",
            state(qkv, tensor(float("0"), 6, &[6, 2], &[2, 1])),
            vec![qkv, "beyond its storage data/0 of 68 bytes"],
        ),
        (
            "negative offset",
            state(qkv, tensor(float("0"), -1, &[6, 2], &[2, 1])),
            vec![qkv, "beyond its storage"],
        ),
        (
            "absurd offset",
            state(qkv, tensor(float("0"), i32::MAX, &[6, 2], &[2, 1])),
            vec![qkv, "beyond its storage"],
        ),
        (
            "negative size",
            state(qkv, tensor(float("0"), 0, &[-6, 2], &[2, 1])),
            vec![qkv, "no shape"],
        ),
        (
            "absurd size",
            state(qkv, tensor(float("0"), 0, &[i32::MAX; 8], &[1; 8])),
            vec![qkv, "absurd shape"],
        ),
        (
            "strides missing",
            state(qkv, tensor(float("0"), 0, &[6, 2], &[2])),
            vec![qkv, "strides"],
        ),
        (
            "unknown storage",
            state(
                qkv,
                tensor(storage("QInt8Storage", "0"), 0, &[6, 2], &[2, 1]),
            ),
            vec![qkv, "torch.QInt8Storage"],
        ),
        (
            "a path for a key",
            state(qkv, tensor(float("../0"), 0, &[6, 2], &[2, 1])),
            vec![qkv, "no storage of the file"],
        ),
        (
            "a key that is not there",
            state(qkv, tensor(float("7"), 0, &[6, 2], &[2, 1])),
            vec!["x/data/7", "missing"],
        ),
        (
            "not a storage",
            state(qkv, tensor(persistent(int(1)), 0, &[6, 2], &[2, 1])),
            vec![qkv, "a stored value where its storage is expected"],
        ),
        (
            "a parameter of itself",
            state(
                qkv,
                call(
                    global("torch._utils", "_rebuild_parameter"),
                    tuple(&[call(
                        global("torch._utils", "_rebuild_parameter"),
                        tuple(&[none()]),
                    )]),
                ),
            ),
            vec![qkv, "parameter of a parameter"],
        ),
        (
            "one name twice",
            Forged::with(|f| f.state.push((norm, plain(&[2], 0)))),
            vec![norm, "twice"],
        ),
        (
            "another algorithm",
            algo("name", text("duo")),
            vec![
                "hyper_parameters.config",
                "algo.name",
                "\"duo\"",
                "\"esolm\"",
            ],
        ),
        (
            "live time input",
            algo("time_conditioning", boolean(true)),
            vec!["time_conditioning", "false"],
        ),
        (
            "unknown prepend",
            algo("prepend_token", text("cls")),
            vec!["prepend_token", "cls", "\"bos\""],
        ),
        (
            "interpolation",
            model("length", text("${data.length}")),
            vec!["model.length", "${data.length}", "--config"],
        ),
        (
            "fraction for a size",
            model("n_heads", forge::float(1.5)),
            vec!["model.n_heads", "1.5", "whole number"],
        ),
        (
            "no length",
            model("length", none()),
            vec!["model_length (or length)", "add it"],
        ),
        (
            "wrong width",
            model("hidden_size", int(4)),
            vec!["hidden_size", "4", "vocab_embed.embedding", "2"],
        ),
        (
            "missing blocks",
            model("n_blocks", int(2)),
            vec!["blocks.1.norm1.weight", "missing"],
        ),
    ] {
        assert_told(case, forged.open(), &words);
    }
    let bare = program(dict(&[
        ("state_dict", dict(&[("backbone.x", plain(&[1], 0))])),
        ("epoch", int(1)),
    ]));
    assert_told(
        "no hyper_parameters",
        open_pickle(&bare),
        &["hyper_parameters.config", "--config"],
    );
    // Unknown classes beside the weights are skipped, called or not.
    let odd = call(global("os", "system"), tuple(&[text("false")]));
    Forged::with(|f| f.more.push(("callbacks", odd)))
        .open()
        .unwrap();
}
