//! The zip and pickle readers behind `.ckpt` files.
//!
//! An input that begins as a zip is one; any other is taken for the pickle and put into a sound zip, since no mutation of a
//! pickle inside a zip would get past the checksum.
#![no_main]

#[path = "../message.rs"]
mod message;

use esolm_core::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = if data.starts_with(b"PK") {
        data.to_vec()
    } else {
        wrap(data)
    };
    for raw_weights in [false, true] {
        match Checkpoint::from_ckpt_bytes(bytes.clone(), raw_weights) {
            Ok(checkpoint) => {
                for info in checkpoint.tensors() {
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

/// A zip as torch.save writes it, with `pickle` as data.pkl and one storage of 256 bytes.
fn wrap(pickle: &[u8]) -> Vec<u8> {
    let storage = [0x3f; 256];
    let entries: [(&str, &[u8]); 2] = [("x/data.pkl", pickle), ("x/data/0", &storage)];
    let (mut bytes, mut directory) = (Vec::with_capacity(pickle.len() + 512), Vec::new());
    for (name, data) in entries {
        let offset = bytes.len() as u32;
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // version, flags, method, time, date
        fields.extend(crc32fast::hash(data).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]); // extra field
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&fields);
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00\x02\x00\x02\x00");
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}
