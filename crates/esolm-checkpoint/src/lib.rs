//! A safe reader of PyTorch and safetensors files, and a writer of the latter.
//!
//! A file is untrusted: nothing in it is executed, no size it claims is believed before it was compared with the file, and each
//! thing that does not fit ends in an [`Error`] that says so in one sentence. What opens is a [`TensorFile`]: a checked directory of
//! named tensors over a file that is mapped, held in memory, or read in parts from a [`ByteSource`].
//!
//! | form | tensors | beside them |
//! |---|---|---|
//! | [safetensors](Format::Safetensors) | all | [`TensorFile::metadata`] |
//! | [`torch.save`](Format::PyTorch), PyTorch 1.6 and newer, Lightning's `.ckpt` too | those of `state_dict`, or of the root | [`TensorFile::root`]: the pickle as a tree of [`Value`]s |
//!
//! ```
//! use esolm_checkpoint::{Dtype, Format, SafetensorsWriter, TensorFile, TensorSpec};
//!
//! let specs = [TensorSpec::new("weight", Dtype::F32, [2, 3]), TensorSpec::new("bias", Dtype::F32, [2])];
//! let mut writer = SafetensorsWriter::new(Vec::new(), &[("format", "pt")], &specs)?;
//! writer.f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! writer.f32(&[0.5, -0.5])?;
//! let bytes = writer.finish()?;
//!
//! let file = TensorFile::from_bytes(bytes, Format::Safetensors)?;
//! assert_eq!(file.metadata()["format"], "pt");
//! let bias = file.get("bias").expect("it was written");
//! assert_eq!((bias.dtype.to_string().as_str(), bias.shape.as_slice()), ("f32", [2].as_slice()));
//! assert_eq!(file.f32(bias)?, [0.5, -0.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A Lightning checkpoint holds more than weights. Its pickle is read without any of the classes it names, and what they would have
//! been made of can be looked at:
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden/mini_ar.ckpt");
//! # if !std::path::Path::new(path).exists() { return Ok::<(), esolm_checkpoint::Error>(()); } // not in the packed crate
//! use esolm_checkpoint::TensorFile;
//!
//! let file = TensorFile::open(path)?;
//! for tensor in file.tensors() {
//!     println!("{} {:?} of {}", tensor.name, tensor.shape, tensor.dtype);
//! }
//! let root = file.root().expect("a .ckpt has a pickle");
//! println!("trained for {} steps", root.get("global_step").expect("Lightning counts them"));
//! // The moving average is a list of tensors without names.
//! let average = root.get("ema").and_then(|ema| ema.get("shadow_params"));
//! for (index, value) in average.and_then(|list| list.list()).into_iter().flatten().enumerate() {
//!     let values = file.f32(&file.tensor(&format!("average {index}"), value)?)?;
//!     assert!(values.iter().all(|value| value.is_finite()));
//! }
//! # Ok::<(), esolm_checkpoint::Error>(())
//! ```
//!
//! The crate also compiles for `wasm32-unknown-unknown`; there nothing is mapped and nothing touches a file system.

#[cfg(not(target_family = "wasm"))]
pub mod atomic;
mod bytes;
mod error;
mod file;
pub mod message;
mod pickle;
mod pytorch;
mod safetensors;
mod shards;
mod source;
mod tensor;
mod writer;
mod zip;

#[cfg(not(target_family = "wasm"))]
pub use atomic::AtomicFile;
pub use error::{Error, Unrecognized};
pub use file::{Format, TensorFile, TensorReader};
pub use pickle::{Object, PickleError, Value};
pub use shards::ShardedWriter;
pub use source::{ByteSource, MaybeSend, Reading};
pub use tensor::{Dtype, TensorInfo};
pub use writer::{SafetensorsWriter, TensorSpec, write_f32};
pub use zip::ZipError;
