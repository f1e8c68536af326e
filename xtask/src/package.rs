//! The published crates: checks that each can be packed, and contains what a registry and a reader expect.

use std::fs;
use std::path::PathBuf;

use crate::system::{cargo, quietly, root, target};

/// Maximum bytes of a packed crate; the registry accepts 10 MiB.
const LIMIT: u64 = 9_000_000;
/// Keys that a manifest must have.
const KEYS: [&str; 8] = [
    "description",
    "keywords",
    "categories",
    "readme",
    "version",
    "rust-version",
    "license",
    "repository",
];
/// Files that a package must contain.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// A publishable crate of the workspace.
pub struct Package {
    pub name: String,
    /// Its packed file; set once it has been packed.
    pub file: PathBuf,
}

/// Packs every publishable crate, without building it.
///
/// # Errors
/// A sentence about a crate that cannot be packed, lacks something or is too large.
pub fn pack() -> Result<Vec<Package>, String> {
    let packages = packages()?;
    let mut pack = cargo();
    pack.current_dir(root())
        .args(["package", "--quiet", "--offline", "--allow-dirty"])
        .arg("--no-verify");
    for package in &packages {
        pack.args(["--package", &package.name]);
    }
    quietly(&mut pack)?;
    for Package { name, file } in &packages {
        let listed = cargo()
            .current_dir(root())
            .args(["package", "--quiet", "--offline", "--allow-dirty"])
            .args(["--list", "--package", name])
            .output()
            .map_err(|error| format!("cannot run cargo: {error}; install Rust"))?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        if let Some(missing) = FILES
            .iter()
            .find(|file| !listed.lines().any(|l| l == **file))
        {
            return Err(format!(
                "the package of {name} holds no {missing}; put it beside its Cargo.toml"
            ));
        }
        let bytes = fs::metadata(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?
            .len();
        if bytes > LIMIT {
            return Err(format!(
                "the package of {name} has {bytes} bytes, and may have {LIMIT}; leave files out of it"
            ));
        }
    }
    Ok(packages)
}

/// The publishable members of the workspace.
fn packages() -> Result<Vec<Package>, String> {
    let read = |folder: &str| {
        let path = root().join(folder).join("Cargo.toml");
        fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let workspace = read(".")?;
    let version =
        value(&workspace, "version").ok_or("Cargo.toml gives the workspace no version")?;
    let mut packages = Vec::new();
    for folder in members(&workspace) {
        let manifest = read(folder)?;
        if value(&manifest, "publish") == Some("false") {
            continue;
        }
        if let Some(key) = KEYS.iter().find(|key| value(&manifest, key).is_none()) {
            return Err(format!(
                "{folder}/Cargo.toml gives no {key}; a crate that is published needs one, another says `publish = false`"
            ));
        }
        let name =
            value(&manifest, "name").ok_or_else(|| format!("{folder}/Cargo.toml gives no name"))?;
        let file = target().join(format!("package/{name}-{version}.crate"));
        packages.push(Package {
            name: name.into(),
            file,
        });
    }
    Ok(packages)
}

/// The folders of a workspace's members.
fn members(workspace: &str) -> impl Iterator<Item = &str> {
    let list = workspace
        .split_once("members = [")
        .map_or("", |(_, rest)| rest);
    let list = list.split_once(']').map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2)
}

/// The first value of a key in a manifest, `key = value` or `key.workspace = true`, without quotes.
fn value<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    let value = manifest.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        let rest = rest.strip_prefix(".workspace").unwrap_or(rest);
        rest.trim_start().strip_prefix('=')
    })?;
    Some(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read() {
        let workspace = "[workspace]\nmembers = [\n    \"a\",\n    \"b/c\",\n]\n[workspace.package]\nversion = \"0.1.0\"\n";
        assert_eq!(members(workspace).collect::<Vec<_>>(), ["a", "b/c"]);
        assert_eq!(value(workspace, "version"), Some("0.1.0"));
        let manifest = "[package]\nname = \"x\"\nrust-version.workspace = true\npublish = false\n";
        assert_eq!(value(manifest, "rust-version"), Some("true"));
        assert_eq!(value(manifest, "version"), None);
        assert_eq!(value(manifest, "publish"), Some("false"));
    }

    #[test]
    fn every_crate_is_published_or_says_that_it_is_not() {
        let names: Vec<String> = packages().unwrap().into_iter().map(|p| p.name).collect();
        assert!(names.contains(&"esolm-cli".to_string()), "{names:?}");
        for private in ["esolm-web", "esolm-results", "esolm-tests", "xtask"] {
            assert!(!names.contains(&private.to_string()), "{names:?}");
        }
    }
}
