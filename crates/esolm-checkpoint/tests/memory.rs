//! Loading takes the memory of the largest tensor, not of the file. A separate test binary, since it measures the peak of the process.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufWriter, Write};

use common::Folder;
use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorFile, TensorSpec};

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
    // f16, so that the converted values are twice as large as the stored ones.
    let sizes = [1, 10 << 20, 1 << 20, 5 << 20, 4 << 20, 3 << 20, 10 << 20];
    let specs: Vec<_> = (0..)
        .zip(sizes)
        .map(|(index, n): (usize, usize)| TensorSpec::new(format!("{index}"), Dtype::F16, [n]))
        .collect();
    let folder = Folder::new("memory");
    let path = folder.path("model.safetensors");
    let sink = BufWriter::new(std::fs::File::create(&path).unwrap());
    let mut writer = SafetensorsWriter::new(sink, &[], &specs).unwrap();
    for _ in 0..sizes.iter().sum() {
        let half = half::f16::from_f32(0.5).to_le_bytes();
        writer.write_all(&half).unwrap();
    }
    let sink = writer.finish().unwrap();
    sink.into_inner().unwrap().sync_all().unwrap();

    let before = peak();
    let file = TensorFile::open(&path).unwrap();
    for (tensor, n) in file.tensors().iter().zip(sizes) {
        let values = file.f32(tensor).unwrap();
        assert_eq!(values.len(), n);
        assert!(values.iter().all(|&x| x == 0.5));
    }
    let (grown, size) = (peak() - before, file.file_bytes());
    let largest = 4 * (10 << 20);
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
