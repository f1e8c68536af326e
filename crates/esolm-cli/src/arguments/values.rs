//! Values of options, read from their text, with their ranges.

use std::net::IpAddr;

use esolm::EngineError;
use esolm::request::MAX_BATCH;

use crate::failure;

/// Any option that the library reads from text itself.
pub fn parse<T: std::str::FromStr<Err = EngineError>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error| failure::engine_sentence(&error))
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("it must be a whole number, 1 or more".into()),
    }
}

/// A number of texts at once.
pub fn batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_BATCH).contains(&n) => Ok(n),
        _ => Err(format!("it must be a whole number from 1 to {MAX_BATCH}")),
    }
}

pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..f64::INFINITY).contains(&seconds) => Ok(seconds),
        _ => Err("it must be a number of seconds, 0 or more".into()),
    }
}

/// A whole number of a type that has no negative ones.
pub fn whole<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr,
{
    let most = if size_of::<T>() == 4 {
        u64::from(u32::MAX)
    } else {
        u64::MAX
    };
    text.parse()
        .map_err(|_| format!("it must be a whole number from 0 to {most}"))
}

pub fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("it must be a number from 0 to 1".into()),
    }
}

/// The origin of a web page as a browser sends it, which never ends in a path.
pub fn origin(text: &str) -> Result<String, String> {
    let is_one = text.split_once("://").is_some_and(|(scheme, host)| {
        let is_of_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        !scheme.is_empty()
            && scheme.chars().all(is_of_scheme)
            && !host.is_empty()
            && host.chars().all(is_of_host)
    });
    match is_one {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("it must be an origin such as https://example.org, without a path".into()),
    }
}

/// The numeric address of an interface.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        "it must be an address of this machine in numbers, such as 127.0.0.1 or 0.0.0.0".into()
    })
}

pub fn port(text: &str) -> Result<u16, String> {
    let range = format!("it must be a whole number from 0 to {}", u16::MAX);
    text.parse().map_err(|_| range)
}

/// The name of a host, without scheme and port.
pub fn host_name(text: &str) -> Result<String, String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match !text.is_empty() && text.chars().all(is_of_name) {
        true => Ok(text.into()),
        false => {
            Err("it must be the name of a host such as esolm.example.org, without a port".into())
        }
    }
}

/// Text in which `\n` stands for a newline.
pub fn stop_string(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("it must have at least one character".into()),
        false => Ok(text.replace("\\n", "\n")),
    }
}

pub fn top_k(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(k) if k > 0 => Ok(k),
        _ => Err(format!("it must be a whole number from 1 to {}", u32::MAX)),
    }
}

pub fn min_p(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("it must be a number from 0 to 1".into()),
    }
}

pub fn top_p(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("it must be a number above 0, up to 1".into()),
    }
}

pub fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        // Dividing by less would overflow logits; 0 is meant.
        Ok(x) if x == 0.0 || (1e-6..=1e6).contains(&x) => Ok(x),
        _ => Err("it must be 0 (the most likely token) or a number from 1e-6 to 1e6".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_ranges() {
        assert!(share("0").is_ok() && share("1").is_ok() && share("0.25").is_ok());
        assert!(share("-0.1").is_err() && share("nan").is_err() && share("1.1").is_err());
        assert!(top_p("1").is_ok() && top_p("0").is_err() && top_p("inf").is_err());
        assert!(top_k("1").is_ok() && top_k("0").is_err() && top_k("4294967296").is_err());
        assert!(min_p("0").is_ok() && min_p("1").is_ok() && min_p("1.1").is_err());
        assert!(min_p("-0.1").is_err() && min_p("nan").is_err());
        assert!(temperature("0").is_ok() && temperature("1e-9").is_err());
        assert!(temperature("-1").is_err() && temperature("NaN").is_err());
        assert!(at_least_one("1").is_ok() && at_least_one("0").is_err());
        assert!(at_least_one("99999999999999999999999").is_err());
    }
}
