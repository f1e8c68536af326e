//! Loading takes the memory of the largest tensor, not of the file. A test binary of its own: it reads the process's peak.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufWriter, Write};

use common::Folder;
use esolm_core::checkpoint::{Checkpoint, OpenOptions};
use esolm_core::config::{ModelConfig, ParamSpec};

/// Peak resident memory of this process in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn loading_stays_below_1_3_times_the_file() {
    let json = r#"{"model_type":"ar","hidden_size":512,"n_blocks":8,"n_heads":8,"length":64,"vocab_size":20000}"#;
    let parameters = ModelConfig::from_json(json).unwrap().parameters();
    let folder = Folder::new("memory");
    folder.write("config.json", json.as_bytes());
    let path = folder.path("model.safetensors");
    // f16, so that the converted values are twice as large as the stored ones; written piece by piece.
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for spec in &parameters {
        let start = end;
        end += 2 * spec.elements();
        header.insert(
            spec.name.clone(),
            serde_json::json!({ "dtype": "F16", "shape": spec.shape, "data_offsets": [start, end] }),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = BufWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for _ in 0..end / 2 {
        file.write_all(&half::f16::from_f32(0.5).to_le_bytes())
            .unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();

    let before = peak();
    let checkpoint = Checkpoint::open(folder.spec(), &OpenOptions::default()).unwrap();
    for spec in &parameters {
        let values = checkpoint.f32(&spec.name).unwrap();
        assert_eq!(values.len() as u64, spec.elements());
        assert!(values.iter().all(|&x| x == 0.5));
    }
    let (grown, size) = (peak() - before, checkpoint.file_bytes());
    let largest = parameters.iter().map(ParamSpec::elements).max().unwrap() * 4;
    println!(
        "file {size}, largest tensor as f32 {largest}, memory grown by {grown}: {:.2} x the file",
        grown as f64 / size as f64
    );
    assert!(
        grown as f64 <= 1.3 * size as f64,
        "{grown} bytes for a file of {size}"
    );
    assert!(
        grown >= largest,
        "the measurement missed the largest tensor"
    );
}
