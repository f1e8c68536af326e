//! `config.json`: never a panic, and what is accepted survives a round trip.
#![no_main]

#[path = "../message.rs"]
mod message;

use esolm_core::config::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match ModelConfig::from_json(text) {
        Ok(config) => {
            config.validate().expect("what is read is valid");
            assert_eq!(
                ModelConfig::from_json(&config.to_json()).as_ref(),
                Ok(&config)
            );
            if config.n_blocks < 64 {
                assert!(config.parameters().iter().all(|spec| spec.elements() > 0));
            }
        }
        Err(error) => message::check(&error.to_string()),
    }
});
