//! What a browser build needs from Rust: the standard library for wasm32, and the command wasm-bindgen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::system::{
    Scratch, System, apt, cargo, make, program, quietly, root, source_of, stdout, write,
};

pub const TARGET: &str = "wasm32-unknown-unknown";

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into())
}

/// Makes sure that the toolchain can compile for the browser.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn ensure_std(may_install: bool) -> Result<(), String> {
    if has_std()? {
        return Ok(());
    }
    let missing = format!("Rust's standard library for {TARGET} is missing");
    let remedy = format!("`rustup target add {TARGET}` installs it");
    if !may_install {
        return Err(format!("{missing}; {remedy}"));
    }
    // The same variable keeps rustup from downloading anything by itself.
    let may_fetch = std::env::var("RUSTUP_AUTO_INSTALL").map_or(true, |value| value != "0");
    if may_fetch && stdout("rustup", &["--version"]).is_some() {
        println!("==> rustup target add {TARGET}");
        let added = quietly(Command::new("rustup").args(["target", "add", TARGET]));
        if added.is_ok() && has_std()? {
            return Ok(());
        }
    }
    let system = System::read();
    if !system.can_install() {
        return Err(format!("{missing}; {remedy}"));
    }
    build_std(&system).map_err(|why| format!("{missing}, and {why}; {remedy}"))?;
    if has_std()? {
        return Ok(());
    }
    Err(format!(
        "{missing}, though it was built from Debian's rust-src; {remedy}"
    ))
}

/// Whether a program that uses the standard library compiles. A folder that exists may be of another version.
fn has_std() -> Result<bool, String> {
    let scratch = Scratch::new("esolm-std-check")?;
    let source = scratch.0.join("check.rs");
    let text =
        "pub fn f() -> String { format!(\"{:?}\", std::collections::HashMap::<u8, u8>::new()) }\n";
    write(&source, text)?;
    let output = Command::new(rustc())
        .args(["--target", TARGET, "--crate-type", "cdylib", "-o"])
        .arg(scratch.0.join("check.wasm"))
        .arg(&source)
        .output()
        .map_err(|error| format!("cannot run rustc: {error}; install Rust"))?;
    Ok(output.status.success())
}

/// Builds the standard library from the sources that Debian ships for exactly this compiler, and installs it where
/// rustup would.
fn build_std(system: &System) -> Result<(), String> {
    let rustc = rustc();
    let version = stdout(&rustc, &["--version"]).unwrap_or_default();
    let version = version
        .split_whitespace()
        .nth(1)
        .ok_or("rustc does not say its version")?;
    println!(
        "==> building the standard library {version} for {TARGET} from Debian's rust-src (a minute or two)"
    );
    let scratch = Scratch::new("esolm-std")?;
    let source = debian_source(system, version, &scratch.0)?;

    // Cargo builds as much of the standard library as a program needs; this one needs all of it.
    let package = scratch.0.join("package");
    make(&package.join("src"))?;
    write(&package.join("src/lib.rs"), "")?;
    let manifest = "[package]\nname = \"esolm_needs_std\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    write(&package.join("Cargo.toml"), manifest)?;
    let built = scratch.0.join("target");
    quietly(
        cargo()
            .current_dir(&package)
            // Building it is an unstable feature, which this variable enables on a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &source)
            .env("RUSTFLAGS", "")
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(["-Zbuild-std=std,panic_abort,test", "--target-dir"])
            .arg(&built),
    )?;

    let sysroot = stdout(&rustc, &["--print", "sysroot"]).ok_or("rustc does not say its folder")?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    install_std(&built.join(TARGET).join("release/deps"), &folder)
        .map_err(|error| format!("{} cannot be written: {error}", folder.display()))
}

/// Copies a built library into a toolchain in one move, so that it is complete or absent.
fn install_std(built: &Path, folder: &Path) -> std::io::Result<()> {
    let new = folder.join("lib.new");
    fs::create_dir_all(&new)?;
    for entry in fs::read_dir(built)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_os_string();
        let name_text = name.to_string_lossy();
        if name_text.ends_with(".rlib") && !name_text.starts_with("libesolm_needs_std") {
            fs::copy(&path, new.join(name))?;
        }
    }
    let lib = folder.join("lib");
    if lib.exists() {
        fs::remove_dir_all(&lib)?;
    }
    fs::rename(new, lib)
}

/// Unpacks the package `rust-src` of a version, possibly from a suite that this machine does not use. The machine's apt
/// is not changed.
fn debian_source(system: &System, version: &str, scratch: &Path) -> Result<PathBuf, String> {
    let suites = "testing sid stable-backports";
    let entry = source_of(&system.codename, suites)
        .ok_or("the apt sources of this machine name no Debian mirror")?;
    for folder in ["sources", "lists/partial", "cache/archives/partial"] {
        make(&scratch.join(folder))?;
    }
    write(&scratch.join("sources/std.sources"), &entry)?;
    let path = |folder: &str| scratch.join(folder).display().to_string();
    let options = [
        "Dir::Etc::sourcelist=/dev/null".to_string(),
        format!("Dir::Etc::sourceparts={}", path("sources")),
        format!("Dir::State::Lists={}", path("lists")),
        format!("Dir::Cache={}", path("cache")),
    ];
    let options: Vec<&str> = options
        .iter()
        .flat_map(|option| ["-o", option.as_str()])
        .collect();
    apt(&[&options[..], &["-qq", "update"]].concat())?;
    let known = stdout(
        "apt-cache",
        &[&options[..], &["madison", "rust-src"]].concat(),
    );
    let package = package_version(&known.unwrap_or_default(), version)
        .ok_or_else(|| format!("Debian has no rust-src {version}"))?;
    quietly(
        Command::new("apt-get")
            .current_dir(scratch)
            .args(&options)
            .args(["-qq", "download", &format!("rust-src={package}")]),
    )?;
    let archive = fs::read_dir(scratch)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get downloaded nothing")?;
    quietly(
        Command::new("dpkg")
            .arg("-x")
            .args([&archive, &scratch.join("files")]),
    )?;
    let library = scratch.join(format!("files/usr/src/rustc-{version}/library"));
    if library.is_dir() {
        Ok(library)
    } else {
        Err(format!("Debian's rust-src {package} holds no library"))
    }
}

/// The package version for an upstream version, from the output of `apt-cache madison`: `name | version | archive`.
fn package_version(listed: &str, upstream: &str) -> Option<String> {
    listed
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|version| {
            version
                .strip_prefix(upstream)
                .is_some_and(|rest| rest.starts_with(['+', '-']))
        })
        .map(str::to_string)
}

/// The command wasm-bindgen in the version of the lock file: the interface between the crate and the command changes
/// with every version.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn bindgen(may_install: bool) -> Result<PathBuf, String> {
    let lock = root().join("Cargo.lock");
    let text = fs::read_to_string(&lock)
        .map_err(|error| format!("cannot read {}: {error}", lock.display()))?;
    let version = locked(&text, "wasm-bindgen").ok_or("Cargo.lock names no wasm-bindgen")?;
    program(
        "wasm-bindgen",
        "wasm-bindgen-cli",
        Some(&version),
        may_install,
    )
}

/// The version of a package in a Cargo.lock.
fn locked(lock: &str, name: &str) -> Option<String> {
    let name = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines
        .nth(1)?
        .strip_prefix("version = \"")?
        .strip_suffix('"')?;
    Some(version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let lock = "[[package]]\nname = \"wasm-bindgen-macro\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\nsource = \"registry\"\n";
        assert_eq!(locked(lock, "wasm-bindgen").as_deref(), Some("0.2.130"));
        assert_eq!(locked(lock, "wasm"), None);
        let listed = " rust-src | 1.95.1+dfsg1-1 | http://m sid/main\n rust-src | 1.95.0+dfsg1-2 | http://m forky/main\n";
        assert_eq!(
            package_version(listed, "1.95.0").as_deref(),
            Some("1.95.0+dfsg1-2")
        );
        assert_eq!(package_version(listed, "1.9"), None);
        assert_eq!(package_version("", "1.95.0"), None);
    }
}
