//! Inputs in the forms of other systems and other tools: byte order marks, carriage returns, padded vocabularies.

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Folder, Tensors, esolm, root, succeed, write};
use safetensors::Dtype;

/// Runs the program with this standard input to a success.
fn fed(input: &str, arguments: &[&str]) -> String {
    let mut child = esolm()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn byte_order_marks_and_carriage_returns_are_no_part_of_a_text() {
    let story = "Once upon a time there was a dog.\nIt was happy.\n";
    let foreign = format!("\u{feff}{}", story.replace('\n', "\r\n"));
    let folder = Folder::new();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.file(name), text).expect("writable");
        folder.file(name)
    };
    let ppl = ["ppl", "--device", "cpu", "--quiet", "--json"];
    let [plain, marked] = [("plain.txt", story), ("marked.txt", &foreign)].map(|(name, text)| {
        let report = succeed(&[&ppl[..], &[&file(name, text)]].concat());
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        report["exact"].clone()
    });
    assert!(!plain.is_null());
    assert_eq!(plain, marked);

    let line = "{\"context\":\"Once upon a\",\"choices\":[\" time\",\" dog\"]}\n";
    let score = ["score", "--device", "cpu", "--quiet"];
    let [plain, marked] =
        [line.to_string(), format!("\u{feff}{line}")].map(|text| fed(&text, &score));
    assert_eq!(plain, marked);

    let sample = [
        "sample", "--seed", "1", "--length", "40", "--device", "cpu", "--quiet", "--prompt", "-",
    ];
    assert_eq!(fed(story, &sample), fed(&foreign, &sample));
}

/// The model that ships with 63 more rows in its vocabulary, which would always be drawn.
#[test]
fn padding_is_never_drawn() {
    let folder = Folder::new();
    let shipped = root().join("models/stories");
    let weights = std::fs::read(shipped.join("model.safetensors")).expect("weights");
    let view = safetensors::SafeTensors::deserialize(&weights).expect("safetensors");
    let padded: Vec<_> = (view.tensors().into_iter())
        .map(|(name, tensor)| {
            let (mut shape, mut bytes) = (tensor.shape().to_vec(), tensor.data().to_vec());
            if shape[0] == 2049 {
                let row = bytes.len() / 2049;
                let wide = row / shape.iter().skip(1).product::<usize>();
                // 100 in either precision, for the bias.
                let value: &[u8] = match (name.ends_with("bias"), wide) {
                    (true, 4) => &100f32.to_le_bytes(),
                    (true, _) => &[0x40, 0x56],
                    (false, _) => &[0],
                };
                let padding = value.iter().copied().cycle().take(63 * row);
                bytes.extend(padding);
                shape[0] = 2112;
            }
            (name, tensor.dtype(), shape, bytes)
        })
        .collect();
    let named: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = (padded.iter())
        .map(|(name, dtype, shape, bytes)| (name.as_str(), *dtype, shape.clone(), bytes.clone()))
        .collect();
    write(&folder.file("model.safetensors"), &named);
    let config = std::fs::read_to_string(shipped.join("config.json")).expect("a configuration");
    let config = config.replace("2049", "2112");
    std::fs::write(folder.file("config.json"), config).expect("writable");
    let tokenizer = shipped.join("tokenizer.json");
    std::fs::copy(&tokenizer, folder.file("tokenizer.json")).expect("writable");
    assert_eq!(
        Tensors::read(folder.file("model.safetensors")).shape("backbone.output_layer.linear.bias"),
        [2112]
    );

    let model = folder.path().to_str().expect("UTF-8");
    for rest in [
        &[][..],
        &["--top-p", "0.9"],
        &["--temperature", "0"],
        &["--tokenizer", "none"],
    ] {
        let sample = [
            "sample", "--seed", "1", "--length", "48", "--device", "cpu", "--quiet",
        ];
        let sample = [&sample[..], rest].concat();
        let plain = succeed(&sample);
        assert_eq!(
            succeed(&[&sample[..], &["--model", model]].concat()),
            plain,
            "{rest:?}"
        );
    }
    let tokenizer = tokenizer.to_str().expect("UTF-8");
    std::fs::remove_file(folder.file("tokenizer.json")).expect("it is there");
    let given = [
        "sample", "--seed", "1", "--length", "48", "--device", "gpu", "--quiet",
    ];
    let plain = succeed(&given);
    assert_eq!(
        succeed(&[&given[..], &["--model", model, "--tokenizer", tokenizer]].concat()),
        plain
    );
}
