//! The Python package: its wheel, and its tests in an environment that has nothing but the wheel and what the tests need.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::system::{cargo, forget_package, make, quietly, root, shown, target, write};

/// What all tests in Python need.
pub const REQUIREMENTS: &str = "tests/requirements.txt";

/// Builds the wheel and runs the package's tests: `cargo xtask python [--no-install] [WORDS FOR PYTEST]`.
///
/// # Errors
/// A sentence about what is missing, or about what failed.
pub fn run(words: impl Iterator<Item = String>) -> Result<(), String> {
    let words: Vec<String> = words.collect();
    let (options, words): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word == "--no-install");
    command()?;
    test(options.is_empty(), &words)
}

/// Builds the command, which the package has to agree with. The package itself is maturin's to build.
///
/// # Errors
/// A sentence about what failed.
pub fn command() -> Result<(), String> {
    shown(
        cargo()
            .args(["build", "--release", "--workspace"])
            .args(["--exclude", "esolm-python"]),
        "what is wrong stands above",
    )
}

/// As [`run`], where the command is built already.
///
/// # Errors
/// As [`run`].
pub fn test(may_install: bool, words: &[String]) -> Result<(), String> {
    let tools = environment(REQUIREMENTS, may_install)?;
    let wheel = wheel(&tools)?;
    let python = fresh(&tools, &wheel)?;
    let mut pytest = Command::new(python);
    forget_package(&mut pytest);
    pytest
        .args(["-m", "pytest"])
        .args(words)
        .current_dir(project())
        .env("CARGO_TARGET_DIR", target())
        // Whatever a test would fetch is here, or it is not wanted.
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_DATASETS_OFFLINE", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    shown(&mut pytest, "what is wrong stands above")
}

/// The folder of the package.
pub fn project() -> PathBuf {
    root().join("crates/esolm-python")
}

/// The Python of an environment with what a list of requirements names. It is made once; another list gets another one. The tests of the
/// server's clients use the same (crates/esolm-cli/tests/serve/clients.rs).
///
/// # Errors
/// A sentence about what is missing.
pub fn environment(requirements: &str, may_install: bool) -> Result<PathBuf, String> {
    let list = root().join(requirements);
    let text = fs::read_to_string(&list)
        .map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = target()
        .join("tmp")
        .join(format!("python-{:016x}", hasher.finish()));
    let python = python_of(&folder);
    let whole = folder.join("whole");
    if whole.exists() {
        return Ok(python);
    }
    let remedy = format!("`pip install -r {requirements}` installs what the tests need");
    if !may_install {
        return Err(format!("{} is missing; {remedy}", folder.display()));
    }
    println!("==> pip install -r {requirements} (some minutes, once)");
    // Of an interrupted one.
    let _ = fs::remove_dir_all(&folder);
    make(&target().join("tmp"))?;
    venv(&folder, &[])?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "-r"])
        .arg(&list);
    quietly(&mut pip).map_err(|why| format!("{why}; {remedy}"))?;
    write(&whole, "")?;
    Ok(python)
}

/// Builds the wheel from what the workspace's other builds compile.
///
/// # Errors
/// A sentence about what failed.
pub fn wheel(tools: &Path) -> Result<PathBuf, String> {
    let folder = target().join("wheels");
    // One of another version would be found beside it.
    let _ = fs::remove_dir_all(&folder);
    let mut maturin = Command::new(tools);
    forget_package(&mut maturin);
    maturin
        .current_dir(project())
        .env("CARGO_TARGET_DIR", target())
        .args(["-m", "maturin", "build", "--release"])
        .args(["--features", "workspace", "--out"])
        .arg(&folder);
    shown(&mut maturin, "what is wrong stands above")?;
    let found = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut wheels = found.map(|entry| entry.path());
    (wheels.find(|path| path.extension().is_some_and(|end| end == "whl")))
        .ok_or_else(|| format!("maturin left no wheel in {}", folder.display()))
}

/// The Python of a new environment with a wheel, which sees the packages of `tools` beside it.
///
/// # Errors
/// A sentence about what failed.
pub fn fresh(tools: &Path, wheel: &Path) -> Result<PathBuf, String> {
    let folder = target().join("tmp/python-wheel");
    let _ = fs::remove_dir_all(&folder);
    venv(&folder, &["--without-pip"])?;
    let python = python_of(&folder);
    let place = |python: &Path| {
        let code = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let output = Command::new(python).args(["-c", code]).output();
        let output = output.map_err(|error| format!("cannot run {}: {error}", python.display()))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let beside = Path::new(&place(&python)?).join("tools.pth");
    write(&beside, &format!("{}\n", place(tools)?))?;
    let mut pip = Command::new(tools);
    pip.args(["-m", "pip", "--python"])
        .arg(&python)
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(["--no-index", "--no-deps"])
        .arg(wheel);
    quietly(&mut pip)?;
    Ok(python)
}

fn venv(folder: &Path, options: &[&str]) -> Result<(), String> {
    let program = if cfg!(windows) { "python" } else { "python3" };
    let mut venv = Command::new(program);
    venv.args(["-m", "venv"]).args(options).arg(folder);
    quietly(&mut venv).map_err(|why| format!("{why}; install Python 3 with venv and pip"))
}

fn python_of(folder: &Path) -> PathBuf {
    let bin = if cfg!(windows) { "Scripts" } else { "bin" };
    folder.join(bin).join("python")
}
