//! Paths that contain no checkpoint, and folders that cannot be written. Run with `--nocapture` to read the messages.

mod common;

use common::{Folder, ar_config, assert_told, golden, golden_tensors, pack};
use esolm_core::checkpoint::{
    Checkpoint, OpenOptions, SHARD_BYTES, StoreDtype, write_hf_folder, write_safetensors,
};

#[test]
fn paths() {
    let folder = Folder::new("paths");
    let open =
        |spec: &std::path::Path| Checkpoint::open(spec.to_str().unwrap(), &OpenOptions::default());
    let file = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    // nothing there
    assert_told(
        open(&folder.path("nowhere")),
        "nowhere|config.json|.ckpt|hf:owner/name",
    );
    // empty folder
    assert_told(
        open(folder.path("").as_path()),
        "model.safetensors|beside config.json",
    );
    file("pytorch_model.bin", b"");
    // pytorch_model.bin
    assert_told(
        open(folder.path("").as_path()),
        "the file is empty|download it again",
    );
    // shards
    for (index, words) in [
        (r#"{"#, "model.safetensors.index.json|EOF|download"),
        (r#"{"weight_map": {}}"#, "names no file"),
        (
            r#"{"weight_map": {"a": "../b.safetensors"}}"#,
            "\"../b.safetensors\"|not a file beside it",
        ),
        (
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            "\"/etc/passwd\"|not a file beside it",
        ),
        (
            r#"{"weight_map": {"a": "b.safetensors"}}"#,
            "model.safetensors.index.json: it names b.safetensors, which is not there|download",
        ),
    ] {
        file("model.safetensors.index.json", index.as_bytes());
        assert_told(open(folder.path("").as_path()), words);
    }
    file("model.safetensors", &golden("ar.ema.safetensors"));
    // no config.json
    assert_told(
        open(folder.path("").as_path()),
        "model.safetensors|without a configuration",
    );
    // bare safetensors
    assert_told(
        open(&folder.path("model.safetensors")),
        "model.safetensors|without a configuration",
    );
    for (name, bytes, words) in [
        (
            "empty.ckpt",
            b"".as_slice(),
            "the file is empty|download it again",
        ),
        (
            "old.ckpt",
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
            "before PyTorch 1.6|torch.save",
        ),
        (
            "lfs.ckpt",
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer|git lfs pull",
        ),
        (
            "page.ckpt",
            b"<!DOCTYPE html>",
            "a web page|download the file itself",
        ),
        (
            "noise.bin",
            b"0123456789abcdef",
            "other bytes|check the path",
        ),
    ] {
        assert_told(open(&file(name, bytes)), words);
    }
    let config = file("config.json", b"{\"model_type\": \"ar\", \"length\": 32}");
    let raw = OpenOptions {
        config: None,
        raw_weights: true,
        ..OpenOptions::default()
    };
    // raw weights of a folder
    assert_told(Checkpoint::open(folder.spec(), &raw), "raw weights|.ckpt");
    let missing = OpenOptions {
        config: Some(folder.path("none.json")),
        raw_weights: false,
        ..OpenOptions::default()
    };
    // missing --config
    assert_told(
        Checkpoint::open(folder.spec(), &missing),
        "cannot read|none.json",
    );
    assert_eq!(open(folder.path("").as_path()).unwrap().config().length, 32);
    std::fs::write(config, b"[]").unwrap();
    // config.json is a list
    assert_told(
        open(folder.path("").as_path()),
        "config.json|not a JSON object",
    );
}

#[test]
fn writing_leaves_all_or_nothing() {
    let folder = Folder::new("writing");
    let mut tensors = golden_tensors("ar.ema.safetensors");
    tensors.get_mut("output_layer.linear.bias").unwrap().1[5] = -65536.0;
    let large = Checkpoint::from_safetensors_bytes(&ar_config(), pack(&tensors, "F32")).unwrap();
    let small =
        Checkpoint::from_safetensors_bytes(&ar_config(), golden("ar.ema.safetensors")).unwrap();
    let content = |path: &std::path::Path| {
        let mut files: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        files
            .into_iter()
            .map(|file| (file.clone(), std::fs::read(file).unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let fails = |checkpoint, out: &std::path::Path, words: &[&str]| {
        let message = write_hf_folder(checkpoint, out, StoreDtype::F16, SHARD_BYTES)
            .unwrap_err()
            .to_string();
        println!("{message}");
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    };
    // A value that f16 cannot hold: a new folder is not created, and an old one stays as it was.
    let fresh = folder.path("fresh");
    fails(
        &large,
        &fresh,
        &[
            "output_layer.linear.bias",
            "-65536",
            "index 5",
            "65504",
            "f32",
        ],
    );
    assert!(!fresh.exists());
    let old = folder.path("old");
    write_hf_folder(&small, &old, StoreDtype::F32, SHARD_BYTES).unwrap();
    let before = content(&old);
    fails(&large, &old, &["output_layer.linear.bias"]);
    assert_eq!(content(&old), before);
    // It can be written as f32.
    write_hf_folder(&large, &fresh, StoreDtype::F32, SHARD_BYTES).unwrap();
    // The file system refuses: a folder below a file, a folder in the place of the weights.
    let file = folder.write("file", b"");
    fails(&small, &file.join("out"), &["cannot create", "file"]);
    let blocked = folder.path("blocked");
    std::fs::create_dir_all(blocked.join("model.safetensors")).unwrap();
    fails(&small, &blocked, &["cannot write", "model.safetensors"]);
    assert_eq!(content(&blocked).len(), 1);

    // A full disk.
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::StorageFull))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let message = write_safetensors(&small, &mut Full(100_000), StoreDtype::F32)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("cannot write") && message.contains("no storage space"),
        "{message}"
    );
}
