//! The zip and pickle readers behind `.ckpt` files.
//!
//! An input that begins as a zip is one; any other is taken for the pickle and put into a sound zip, since no mutation of a
//! pickle inside a zip would get past the checksum.
#![no_main]

#[path = "../../crates/esolm-checkpoint/tests/common/forge.rs"]
mod forge;
#[path = "../message.rs"]
mod message;

use esolm_core::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = if data.starts_with(b"PK") {
        data.to_vec()
    } else {
        forge::archive(data)
    };
    for raw_weights in [false, true] {
        match Checkpoint::from_ckpt_bytes(bytes.clone(), raw_weights) {
            Ok(checkpoint) => {
                for info in checkpoint.parameters() {
                    // A checksum can be wrong here; when it is right, the values are all there.
                    if let Ok(values) = checkpoint.f32(&info.name) {
                        assert_eq!(values.len(), info.shape.iter().product::<usize>());
                    }
                }
            }
            Err(error) => message::check(&error.to_string()),
        }
    }
});
