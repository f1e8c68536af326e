//! The safetensors header path, with a configuration small enough that a mutated file can still open.
#![no_main]

#[path = "../message.rs"]
mod message;

use esolm_core::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

const CONFIG: &str =
    r#"{"model_type":"ar","hidden_size":2,"n_blocks":1,"n_heads":1,"length":4,"vocab_size":3}"#;

fuzz_target!(|data: &[u8]| {
    match Checkpoint::from_safetensors_bytes(CONFIG, data.to_vec()) {
        Ok(checkpoint) => {
            for info in checkpoint.parameters() {
                let values = checkpoint.f32(&info.name).expect("what opens can be read");
                assert_eq!(values.len(), info.shape.iter().product::<usize>());
            }
        }
        Err(error) => message::check(&error.to_string()),
    }
});
