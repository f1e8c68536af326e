//! torch.save files with an impossible tensor, with the message for each, and what else such a file may contain. Run with `--nocapture` to
//! read the messages.

mod common;

use common::forge::{
    Value, archive, call, dict, global, int, none, ordered, persistent, plain, program, storage,
    tensor, tuple,
};
use common::{assert_told, golden_path, golden_tensors};
use esolm_checkpoint::{Dtype, Error, Format, TensorFile};

/// A file with this `state_dict`.
fn open(state: Value) -> Result<TensorFile, Error> {
    let pickle = program(dict(&[("state_dict", state)]));
    TensorFile::from_bytes(archive(&pickle), Format::PyTorch)
}

#[test]
fn impossible_tensors() {
    let norm = "backbone.blocks.0.norm1.weight";
    let qkv = "backbone.blocks.0.attn_qkv.weight";
    let state = |name: &str, value: Value| open(ordered(&[(name, value)]));
    let float = |key: &str| storage("FloatStorage", key);
    for (opened, words) in [
        // a number for a tensor
        (state(norm, int(3)), "norm1.weight|is 3|dense tensor"),
        // another class
        (
            state(
                norm,
                call(global("torch._utils", "_rebuild_sparse_tensor"), tuple(&[])),
            ),
            "norm1.weight|_rebuild_sparse_tensor|dense tensor",
        ),
        // a call without arguments
        (
            state(
                norm,
                call(global("torch._utils", "_rebuild_tensor_v2"), tuple(&[])),
            ),
            "norm1.weight|too few values",
        ),
        // transposed
        (
            state(qkv, tensor(float("0"), 0, &[6, 2], &[1, 6])),
            "attn_qkv.weight|strides [1, 6]|.contiguous()",
        ),
        // beyond its storage
        (
            state(qkv, tensor(float("0"), 6, &[6, 2], &[2, 1])),
            "attn_qkv.weight|beyond its storage data/0 of 68 bytes",
        ),
        // negative offset
        (
            state(qkv, tensor(float("0"), -1, &[6, 2], &[2, 1])),
            "attn_qkv.weight|beyond its storage",
        ),
        // absurd offset
        (
            state(qkv, tensor(float("0"), i32::MAX, &[6, 2], &[2, 1])),
            "attn_qkv.weight|beyond its storage",
        ),
        // negative size
        (
            state(qkv, tensor(float("0"), 0, &[-6, 2], &[2, 1])),
            "attn_qkv.weight|no shape",
        ),
        // absurd size
        (
            state(qkv, tensor(float("0"), 0, &[i32::MAX; 8], &[1; 8])),
            "attn_qkv.weight|absurd shape",
        ),
        // strides missing
        (
            state(qkv, tensor(float("0"), 0, &[6, 2], &[2])),
            "attn_qkv.weight|strides",
        ),
        // unknown storage
        (
            state(
                qkv,
                tensor(storage("QInt8Storage", "0"), 0, &[6, 2], &[2, 1]),
            ),
            "attn_qkv.weight|torch.QInt8Storage",
        ),
        // a path for a key
        (
            state(qkv, tensor(float("../0"), 0, &[6, 2], &[2, 1])),
            "attn_qkv.weight|not name a storage",
        ),
        // a key that is not there
        (
            state(qkv, tensor(float("7"), 0, &[6, 2], &[2, 1])),
            "x/data/7|missing",
        ),
        // not a storage
        (
            state(qkv, tensor(persistent(int(1)), 0, &[6, 2], &[2, 1])),
            "attn_qkv.weight|a stored value where its storage is expected",
        ),
        // a parameter of itself
        (
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
            "attn_qkv.weight|parameter of a parameter",
        ),
        // one name twice
        (
            open(ordered(&[(norm, plain(&[2], 0)), (norm, plain(&[2], 0))])),
            "norm1.weight|twice",
        ),
    ] {
        assert_told(opened, words);
    }
}

#[test]
fn tensors_are_found_wherever_they_stand() {
    let long = tensor(storage("LongStorage", "0"), 1, &[2], &[1]);
    let root = ordered(&[("w", plain(&[2, 2], 3)), ("n", long), ("epoch", int(7))]);
    let bytes = archive(&program(root));
    let file = TensorFile::from_bytes(bytes, Format::PyTorch).unwrap();
    let names: Vec<_> = file.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["w", "n"], "a plain state_dict is the root itself");
    assert_eq!(file.f32(&file.tensors()[0]).unwrap(), [3.0, 4.0, 5.0, 6.0]);
    let n = file.get("n").unwrap();
    assert_eq!((&n.dtype, n.bytes), (&Dtype::I64, 16));
    assert_eq!(
        file.bytes(n).unwrap()[..8],
        [2.0f32.to_le_bytes(), 3.0f32.to_le_bytes()].concat()
    );
    // integers
    assert_told(file.f32(n), "n is stored as i64|convert");
    let root = file.root().unwrap();
    assert_eq!(root.get("epoch").and_then(|epoch| epoch.int()), Some(7));
    assert_eq!(root.get("none").map(|none| none.is_none()), None);
    let epoch = file.tensor("epoch", root.get("epoch").unwrap());
    // a number
    assert_told(epoch, "tensor epoch is 7|dense tensor");

    // Lightning's moving average is a list without names.
    let file = TensorFile::open(golden_path("mini_ar.ckpt")).unwrap();
    let raw = golden_tensors("mini_ar.raw.safetensors");
    for tensor in file.tensors() {
        let (shape, values) = &raw[tensor.name.trim_start_matches("backbone.")];
        assert_eq!(&tensor.shape, shape, "{}", tensor.name);
        assert_eq!(&file.f32(tensor).unwrap(), values, "{}", tensor.name);
    }
    let root = file.root().unwrap();
    let shadow = root.get("ema").and_then(|ema| ema.get("shadow_params"));
    let shadow: Vec<_> = shadow.unwrap().list().unwrap().collect();
    let average = golden_tensors("mini_ar.ema.safetensors");
    let first = file.tensor("first", shadow[0]).unwrap();
    let embedding = &average["vocab_embed.embedding"];
    assert_eq!(&file.f32(&first).unwrap(), &embedding.1);
    let config = root
        .get("hyper_parameters")
        .and_then(|all| all.get("config"));
    let class = config.unwrap().object().unwrap().class;
    assert_eq!(class.global(), Some(("omegaconf.dictconfig", "DictConfig")));
    assert!(file.metadata().is_empty());
}
