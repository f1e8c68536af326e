//! Safetensors files: those that must not open, and what each of them is told; and those that are written. Run with `--nocapture` to read
//! the messages.

mod common;

use std::io::{ErrorKind, Write};

use common::{assert_told, frame, golden};
use esolm_checkpoint::{
    Dtype, Format, SafetensorsWriter, ShardedWriter, TensorFile, TensorSpec, write_f32,
};

#[test]
fn safetensors_files() {
    let good = golden("ar.ema.safetensors");
    let open = |bytes: &[u8]| TensorFile::from_bytes(bytes.to_vec(), Format::Safetensors);
    let long = [&u64::MAX.to_le_bytes(), b"{}".as_slice()].concat();
    let one = |dtype: &str, shape: &str, offsets: &str| {
        frame(
            &format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#),
            &[0; 16],
        )
    };
    let two = |a: &str, b: &str| {
        let entry =
            |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        frame(
            &format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)),
            &[0; 16],
        )
    };
    let name = "n".repeat(5000);
    for (bytes, words) in [
        // empty file
        (vec![], "0 bytes|header length|again"),
        // four bytes
        (vec![1; 4], "4 bytes|header length|again"),
        // header beyond the file
        (good[..1000].to_vec(), "header|only 992 follow|truncated"),
        // absurd header length
        (long, "18446744073709551615|only 2 follow|truncated"),
        // a text
        (b"0123456789abcdef".to_vec(), "does not begin|header|again"),
        // data cut off
        (
            good[..good.len() - 1].to_vec(),
            "tensor backbone.|truncated|again",
        ),
        // header is not JSON
        (frame("{\"a\":", &[]), "header|JSON|EOF"),
        // header is a list
        (frame("[1, 2]", &[]), "header|JSON|object of tensors"),
        // size against shape
        (one("F32", "[2]", "[0,16]"), "tensor a|[2] of f32|16 bytes"),
        // offsets reversed
        (one("F32", "[4]", "[16,0]"), "tensor a|16 to 0|damaged"),
        // absurd shape
        (
            one("F32", "[4294967296,4294967296,16]", "[0,16]"),
            "tensor a|4294967296|16 bytes",
        ),
        // many dimensions
        (
            one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,16]"),
            "tensor a|9 dimensions|again",
        ),
        // overlap
        (two("[0,8]", "[4,12]"), "tensors a and b|overlap|again"),
        // gap
        (two("[0,8]", "[9,17]"), "tensor b|9 to 17 of 16|truncated"),
        // hidden bytes
        (
            frame(
                r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
                &[0; 16],
            ),
            "8 bytes|the header|tensor b",
        ),
        // trailing bytes
        (
            frame(
                r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                &[0; 16],
            ),
            "8 bytes|after b|nothing",
        ),
        // metadata that are not texts
        (
            frame(r#"{"__metadata__":{"step":1}}"#, &[]),
            "header|JSON|expected a string",
        ),
        // endless name
        (
            frame(
                &format!(r#"{{"{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}"#),
                &[],
            ),
            "nnn...|5000 bytes|not the name",
        ),
        // control characters in a name
        (
            frame(
                r#"{"\u001b[2J":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#,
                &[],
            ),
            "\\u{1b}[2J|not the name|again",
        ),
    ] {
        assert_told(open(&bytes), words);
    }
}

#[test]
fn what_is_written_is_read_by_this_crate_and_the_formats_own() {
    let specs = [
        TensorSpec::new("z", Dtype::F32, [2, 0]),
        TensorSpec::new("m", Dtype::I64, []),
        TensorSpec::new("a", Dtype::Bf16, [1, 3]),
        TensorSpec::new("b", Dtype::F32, [20_000]),
    ];
    let values: Vec<f32> = (0..20_000).map(|i| i as f32).collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), &[("step", "3")], &specs).unwrap();
    writer.write_all(&7i64.to_le_bytes()).unwrap();
    for x in [1.0f32, -2.0, 0.5] {
        // In pieces of any size.
        writer.write_all(&x.to_le_bytes()[2..3]).unwrap();
        writer.write_all(&x.to_le_bytes()[3..]).unwrap();
    }
    writer.f32(&values).unwrap();
    let bytes = writer.finish().unwrap();

    let file = TensorFile::from_bytes(bytes.clone(), Format::detect(&bytes).unwrap()).unwrap();
    assert_eq!(file.metadata()["step"], "3");
    let get = |name: &str| file.get(name).unwrap();
    assert!(file.f32(get("z")).unwrap().is_empty());
    assert_eq!(file.bytes(get("m")).unwrap()[..], 7i64.to_le_bytes());
    assert_eq!(file.f32(get("a")).unwrap(), [1.0, -2.0, 0.5]);
    assert_eq!(file.f32(get("b")).unwrap(), values);
    assert_eq!(bytes[0] % 8, 0, "values begin at a multiple of 8");
    let own = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for spec in &specs {
        let tensor = own.tensor(&spec.name).unwrap();
        assert_eq!(tensor.shape(), spec.shape);
        assert_eq!(tensor.data(), &file.bytes(get(&spec.name)).unwrap()[..]);
    }
}

#[test]
fn many_tensors_are_several_files_with_an_index() {
    let sizes = [3, 0, 4, 1, 9, 2, 2];
    let specs: Vec<_> = (sizes.iter().enumerate())
        .map(|(i, &n)| TensorSpec::new(format!("t{i}"), Dtype::F32, [n]))
        .collect();
    let values: Vec<f32> = (0..sizes.iter().sum::<usize>()).map(|i| i as f32).collect();
    // At most five values: the one of nine is a file of its own.
    let of = |most: u64| {
        let mut names = Vec::new();
        let create = |name: &str| {
            names.push(name.to_string());
            Ok(Vec::new())
        };
        let mut writer = ShardedWriter::new(&[("format", "pt")], &specs, most, create).unwrap();
        // Across the ends of tensors and files.
        for values in values.chunks(2) {
            write_f32(&mut writer, values).unwrap();
        }
        let index = writer.index().map(String::from);
        let files = writer.finish().unwrap();
        (names, index, files)
    };
    let (names, index, files) = of(20);
    let expected = [&["t0", "t1"][..], &["t2", "t3"], &["t4"], &["t5", "t6"]];
    let index: serde_json::Value = serde_json::from_str(&index.unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 84);
    let mut left = &values[..];
    for ((number, bytes), tensors) in files.into_iter().enumerate().zip(expected) {
        assert_eq!(
            names[number],
            format!("model-0000{}-of-00004.safetensors", number + 1)
        );
        let file = TensorFile::from_bytes(bytes, Format::Safetensors).unwrap();
        let found: Vec<&str> = file.tensors().iter().map(|t| &t.name[..]).collect();
        assert_eq!(found, tensors);
        assert_eq!(file.metadata()["format"], "pt");
        for tensor in file.tensors() {
            assert_eq!(index["weight_map"][&tensor.name], names[number]);
            let (own, rest) = left.split_at(tensor.shape[0]);
            assert_eq!(file.f32(tensor).unwrap(), own);
            left = rest;
        }
    }
    assert!(left.is_empty());

    let (names, index, files) = of(84);
    assert_eq!((names, index), (vec!["model.safetensors".into()], None));
    let file = TensorFile::from_bytes(files.concat(), Format::Safetensors).unwrap();
    assert_eq!(file.tensors().len(), sizes.len());
}

#[test]
fn what_several_files_lack_or_have_too_much_of_is_told() {
    let specs = ["a", "b"].map(|name| TensorSpec::new(name, Dtype::F32, [2]));
    for (bytes, word) in [(12, "4 bytes of tensors are missing"), (20, "more values")] {
        let create = |_: &str| Ok(Vec::new());
        let written = ShardedWriter::new(&[], &specs, 8, create).and_then(|mut writer| {
            writer.write_all(&vec![0; bytes])?;
            writer.finish()
        });
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_tensor_is_read_in_stretches() {
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let specs = [TensorSpec::new("a", Dtype::F32, [100, 10])];
    let mut writer = SafetensorsWriter::new(Vec::new(), &[], &specs).unwrap();
    writer.f32(&values).unwrap();
    let file = TensorFile::from_bytes(writer.finish().unwrap(), Format::Safetensors).unwrap();
    let reader = file.reader(file.get("a").unwrap()).unwrap();
    assert_eq!(reader.len(), 1000);
    for stretch in [0..1000, 0..0, 7..8, 990..1000] {
        assert_eq!(
            reader.f32(stretch.clone()).unwrap(),
            values[stretch.clone()]
        );
        let bytes = reader.with_bytes(stretch.clone(), <[u8]>::to_vec);
        assert_eq!(bytes.len(), 4 * stretch.len());
    }
}

#[test]
fn what_is_not_a_file_is_not_written() {
    let refused = |specs: &[TensorSpec], bytes: &[u8], word: &str| {
        let written = SafetensorsWriter::new(Vec::new(), &[], specs).and_then(|mut writer| {
            writer.write_all(bytes)?;
            writer.finish()
        });
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(word), "{error}");
    };
    let one = |shape: &[usize]| TensorSpec::new("a", Dtype::F32, shape);
    refused(&[one(&[2])], &[0; 4], "4 bytes of tensors are missing");
    refused(&[one(&[2])], &[0; 12], "more values than the shapes say");
    refused(
        &[one(&[2]), one(&[2])],
        &[0; 16],
        "tensor a is to be written twice",
    );
    refused(&[one(&[usize::MAX, 2])], &[], "no size");
    let other = TensorSpec::new("a", Dtype::Other("F8_E4M3".into()), [1]);
    refused(&[other], &[0], "no size");
}
