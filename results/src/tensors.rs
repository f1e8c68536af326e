//! Token arrays as safetensors files: 8 bytes with the header's length, the header as JSON, the numbers.

use std::fs;
use std::path::Path;

use crate::failure::Error;

/// Writes `tokens`, int32 [N, L], as the only tensor of a file.
///
/// # Errors
/// [`Error::Data`] where the rows differ in length or a token is no int32, [`Error::File`] where it cannot be written.
pub fn write_tokens(path: &Path, rows: &[Vec<u32>]) -> Result<(), Error> {
    let length = rows.first().map_or(0, Vec::len);
    if rows.iter().any(|row| row.len() != length) {
        return Err(Error::Data(
            "the samples differ in length, so they make no array; sample them with one --length"
                .into(),
        ));
    }
    let bytes = rows.len() * length * 4;
    let mut header = format!(
        "{{\"tokens\":{{\"dtype\":\"I32\",\"shape\":[{},{length}],\"data_offsets\":[0,{bytes}]}}}}",
        rows.len()
    );
    // The numbers start at a multiple of 8 bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for &token in rows.iter().flatten() {
        let token = i32::try_from(token).map_err(|_| {
            Error::Data(format!(
                "the token {token} does not fit int32; use a model with a smaller vocabulary"
            ))
        })?;
        file.extend_from_slice(&token.to_le_bytes());
    }
    fs::write(path, file).map_err(Error::writing(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_the_format_says() {
        let path =
            std::env::temp_dir().join(format!("esolm-results-{}.safetensors", std::process::id()));
        write_tokens(&path, &[vec![1, 2, 3], vec![4, 5, 6]]).expect("written");
        let file = fs::read(&path).expect("there");
        fs::remove_file(&path).expect("removed");
        let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
        assert_eq!(length % 8, 0);
        let header: serde_json::Value =
            serde_json::from_slice(&file[8..8 + length]).expect("JSON, spaces at its end");
        assert_eq!(header["tokens"]["shape"], serde_json::json!([2, 3]));
        assert_eq!(
            header["tokens"]["data_offsets"],
            serde_json::json!([0, file.len() - 8 - length])
        );
        assert_eq!(file[8 + length..][..8], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert!(write_tokens(&path, &[vec![1], vec![]]).is_err());
    }
}
