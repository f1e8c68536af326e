//! The download size of the wasm module, which must not grow unnoticed.

use std::fs;
use std::path::Path;

use crate::system::node;

/// Compresses with Node, so that no other program is needed.
const MEASURE: &str = "\
const zlib = require('node:zlib');
const data = require('node:fs').readFileSync(process.argv[1]);
const { BROTLI_PARAM_QUALITY, BROTLI_PARAM_LGWIN, BROTLI_PARAM_SIZE_HINT } = zlib.constants;
const params = { [BROTLI_PARAM_QUALITY]: 11, [BROTLI_PARAM_LGWIN]: 24, [BROTLI_PARAM_SIZE_HINT]: data.length };
console.log(data.length, zlib.gzipSync(data, { level: 9 }).length, zlib.brotliCompressSync(data, { params }).length);";

/// Sizes of a file in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    raw: u64,
    gzip: u64,
    brotli: u64,
}

impl Sizes {
    fn of(file: &Path) -> Result<Self, String> {
        let output = node()
            .args(["-e", MEASURE])
            .arg(file)
            .output()
            .map_err(|error| format!("cannot run node: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u64> = text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [raw, gzip, brotli] => Ok(Self { raw, gzip, brotli }),
            _ => Err(format!(
                "{} cannot be measured: {}",
                file.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }

    fn json(self) -> String {
        let Self { raw, gzip, brotli } = self;
        format!("{{\n  \"raw\": {raw},\n  \"gzip\": {gzip},\n  \"brotli\": {brotli}\n}}\n")
    }

    fn from_json(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\""))?;
            let digits = rest.trim_start().strip_prefix(':')?.trim_start();
            let end = digits.find(|character: char| !character.is_ascii_digit())?;
            digits[..end].parse().ok()
        };
        Some(Self {
            raw: field("raw")?,
            gzip: field("gzip")?,
            brotli: field("brotli")?,
        })
    }
}

/// Prints the sizes of `wasm` and compares them with `record`, or writes them there.
///
/// # Errors
/// A sentence about a module that has grown by more than 5 %, or a record that cannot be read.
pub fn check(wasm: &Path, record: &Path, write: bool) -> Result<(), String> {
    let sizes = Sizes::of(wasm)?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{}: {:.2} MB, {:.2} MB with gzip, {:.2} MB with brotli",
        wasm.file_name().unwrap_or_default().display(),
        megabytes(sizes.raw),
        megabytes(sizes.gzip),
        megabytes(sizes.brotli)
    );
    if write {
        return fs::write(record, sizes.json())
            .map_err(|error| format!("cannot write {}: {error}", record.display()));
    }
    let remedy = "`cargo xtask web --size --write` records what there is now";
    let text = fs::read_to_string(record)
        .map_err(|error| format!("cannot read {}: {error}; {remedy}", record.display()))?;
    let recorded = Sizes::from_json(&text)
        .ok_or_else(|| format!("{} holds no sizes; {remedy}", record.display()))?;
    compare(sizes, recorded).map_err(|why| format!("{why}; {remedy}"))
}

fn compare(now: Sizes, recorded: Sizes) -> Result<(), String> {
    // In integers: more than 105 hundredths of the recorded size.
    if now.brotli * 100 <= recorded.brotli * 105 {
        return Ok(());
    }
    let growth = (now.brotli as f64 / recorded.brotli as f64 - 1.0) * 100.0;
    Err(format!(
        "the wasm module has grown by {growth:.1} %, from {} to {} bytes with brotli, and may by 5 %; find what it is that grew",
        recorded.brotli, now.brotli
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_noticed() {
        let sizes = |brotli| Sizes {
            raw: 10 * brotli,
            gzip: 2 * brotli,
            brotli,
        };
        assert_eq!(compare(sizes(1050), sizes(1000)), Ok(()));
        assert_eq!(compare(sizes(10), sizes(1000)), Ok(()));
        assert!(compare(sizes(1051), sizes(1000)).is_err_and(|why| why.contains("5.1 %")));
    }

    #[test]
    fn records_are_read_as_written() {
        let sizes = Sizes {
            raw: 8_000_000,
            gzip: 2_500_000,
            brotli: 1_900_000,
        };
        assert_eq!(Sizes::from_json(&sizes.json()), Some(sizes));
        assert_eq!(Sizes::from_json("{}"), None);
        assert_eq!(
            Sizes::from_json("{\"raw\": 1, \"gzip\": -2, \"brotli\": 3}"),
            None
        );
    }
}
