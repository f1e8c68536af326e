//! Running the built program from the root of the repository, as a user would.

// Each test program uses only part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use safetensors::SafeTensors;

/// Golden data of the published code, relative to the repository.
pub const GOLDEN: &str = "tests/fixtures/golden";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program, without those of the user's environment variables that would change its behaviour.
pub fn esolm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esolm"));
    command
        .current_dir(root())
        .env_remove("ESOLM_MODEL")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    hears_signals(&mut command);
    command
}

/// Restores the default handling of signals that the tests' own environment ignores: a shell ignores SIGINT for
/// background jobs, and the program respects that.
#[cfg(unix)]
pub fn hears_signals(command: &mut Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    use std::os::unix::process::CommandExt;

    let reset = || {
        for which in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the default handling runs no code of this program.
            unsafe { signal(which, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec, it only makes system calls.
    unsafe { command.pre_exec(reset) };
}

#[cfg(not(unix))]
pub fn hears_signals(_: &mut Command) {}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    let output = esolm().args(arguments).output();
    output.expect("the program starts")
}

/// Runs it, expecting success, and returns its stdout.
pub fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "esolm {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// A folder that is removed when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("esolm-cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a UTF-8 path").into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A small chat model in its own folder, with some fields of its configuration changed.
pub fn chat_model(out: &Path, fields: &serde_json::Value) {
    let golden = root().join("tests/fixtures/golden-llm/chat");
    std::fs::create_dir_all(out).expect("a new folder");
    let files = [
        "model_bd3lm/model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    for file in files {
        let name = Path::new(file).file_name().expect("a name");
        std::fs::copy(golden.join(file), out.join(name)).expect("writable");
    }
    let config = std::fs::read(golden.join("model_bd3lm/config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let all = config.as_object_mut().expect("an object");
    all.extend(fields.as_object().expect("an object").clone());
    std::fs::write(out.join("config.json"), config.to_string()).expect("writable");
}

/// A safetensors file in memory.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn read(path: impl AsRef<Path>) -> Self {
        Self(std::fs::read(path).expect("a safetensors file"))
    }

    pub fn golden(name: &str) -> Self {
        Self::read(root().join(GOLDEN).join(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.view(|tensors| tensors.tensor(name).is_ok())
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(|tensors| tensors.tensor(name).expect(name).shape().to_vec())
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.view(|tensors| tensors.tensor(name).expect(name).data().to_vec())
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let four = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
        self.bytes(name).chunks_exact(4).map(four).collect()
    }

    pub fn i32(&self, name: &str) -> Vec<i32> {
        let four = |b: &[u8]| i32::from_le_bytes(b.try_into().expect("four bytes"));
        self.bytes(name).chunks_exact(4).map(four).collect()
    }

    fn view<T>(&self, look: impl FnOnce(&SafeTensors) -> T) -> T {
        look(&SafeTensors::deserialize(&self.0).expect("safetensors"))
    }
}

/// Writes a safetensors file.
pub fn write(path: &str, tensors: &[(&str, safetensors::Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (*name, view.expect("bytes that fit the shape"))
    });
    safetensors::serialize_to_file(views, None, Path::new(path)).expect("writable");
}

/// The largest difference of two arrays.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
