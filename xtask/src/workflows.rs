//! Workflows run elsewhere and seldom, so what they say is held to the repository here: commands, versions, commits.

use std::collections::BTreeMap;
use std::fs;

use crate::system::root;
use crate::{shader_stats, soak, test, web};

fn read(path: &str) -> String {
    let text = fs::read_to_string(root().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All workflows, each with its name.
fn workflows() -> Vec<(String, String)> {
    let folder = ".github/workflows";
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let all: Vec<_> = names
        .map(|name| (name.clone(), read(&format!("{folder}/{name}"))))
        .collect();
    assert!(all.iter().any(|(name, _)| name == "release.yml"));
    all
}

/// What follows a word in each line that has it, without quotes and the comment behind it.
fn values<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (_, value) = line.split_once(word)?;
        let value = value.split(" #").next()?;
        Some(value.trim().trim_matches(['"', ',']))
    })
}

fn the<'a>(text: &'a str, word: &'a str) -> &'a str {
    let value = values(text, word).next();
    value.unwrap_or_else(|| panic!("nothing says {word:?}"))
}

/// Reads a command line as `cargo xtask` does.
fn understood(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace().map(ToString::to_string);
    match words.next().unwrap_or_default().as_str() {
        "test" => test::Options::parse(words).map(drop),
        "web" => web::Options::parse(words).map(drop),
        "soak" => soak::Options::parse(words).map(drop),
        "shader-stats" => shader_stats::Options::parse(words).map(drop),
        "python" => words
            .find(|word| !root().join("crates/esolm-python").join(word).exists())
            .map_or(Ok(()), |word| Err(format!("there is no test {word}"))),
        // Its other words are read elsewhere; in prose there may be none.
        "results" => match words.next().as_deref() {
            None | Some("run" | "render" | "compare") => Ok(()),
            Some(other) => Err(format!("results has no command {other}")),
        },
        "help" => Ok(()),
        other => Err(format!("there is no task {other:?}")),
    }
}

#[test]
fn every_command_exists() {
    let ci = read(".github/workflows/ci.yml");
    let mut texts = workflows();
    for path in ["docs/releasing.md", "docs/testing.md", "README.md"] {
        texts.push((path.into(), read(path)));
    }
    let mut count = 0;
    for (name, text) in &texts {
        for line in text.split("cargo xtask ").skip(1) {
            let end = line.find(['`', '\n', '&', ',', '#', '(']);
            let line = line[..end.unwrap_or(line.len())].trim();
            // In prose the command is but named.
            if line.is_empty() || line.contains("...") {
                continue;
            }
            let lines = if line.contains("$OPTIONS") {
                values(&ci, "options:")
                    .map(|options| line.replace("$OPTIONS", options))
                    .collect()
            } else {
                vec![line.to_string()]
            };
            for line in lines {
                // What a reader is to put in.
                let line = line.replace(" NAME", " x").replace(" N", " 1");
                if let Err(why) = understood(&line) {
                    panic!("{name} has `cargo xtask {line}`: {why}");
                }
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_action_is_one_commit() {
    let mut commits = BTreeMap::<String, String>::new();
    for (name, text) in workflows() {
        for used in values(&text, "uses:") {
            // one of ours, at the same commit
            if let Some(file) = used.strip_prefix("$/") {
                assert!(root().join(file).exists(), "{name} calls {used}");
                continue;
            }
            let (action, commit) = used.split_once('@').unwrap();
            let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit, "{name}: {used} names no commit");
            let before = commits.entry(action.into()).or_insert(commit.into());
            assert_eq!(before, commit, "{name}: {action} has two commits");
        }
    }
    assert!(commits.len() > 8, "{commits:?}");
}

#[test]
fn versions_agree() {
    let workspace = read("Cargo.toml");
    let rust = format!("{}.0", the(&workspace, "rust-version = "));
    let is_rust = |said: &String| {
        let end = said.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        said[..end.unwrap_or(said.len())] == rust
    };
    let mut said = Vec::new();
    for (_, text) in workflows() {
        for word in [
            "RUST:",
            "rust-toolchain:",
            "container: rust:",
            "rustup toolchain install ",
        ] {
            said.extend(values(&text, word).map(ToString::to_string));
        }
    }
    let dist = read("dist-workspace.toml");
    said.push(the(&read("Containerfile"), "FROM rust:").into());
    said.retain(|version| !version.contains("$RUST"));
    assert!(
        said.len() > 5 && said.iter().all(is_rust),
        "{said:?}, not {rust}"
    );

    let version = the(&dist, "cargo-dist-version = ");
    let ci = read(".github/workflows/ci.yml");
    assert!(
        ci.contains(&format!("cargo-dist@{version},"))
            || ci.contains(&format!("cargo-dist@{version}\n"))
    );

    let package = read("web/package.json");
    let named = format!("\"version\": \"{}\"", the(&workspace, "version = "));
    assert!(
        package.contains(&named),
        "web/package.json does not say {named}"
    );
    let address = the(&workspace, "repository = ");
    assert!(
        package.contains(&format!("git+{address}.git")),
        "web/package.json does not name {address}"
    );
}
