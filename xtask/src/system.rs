//! This machine: its Linux distribution, programs, apt and folders.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

/// The Linux distribution.
#[derive(Debug, Default)]
pub struct System {
    /// `debian`, `ubuntu`, `fedora`, ...
    pub id: String,
    /// `bookworm`, ...
    pub codename: String,
    pub root: bool,
}

impl System {
    pub fn read() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut system = Self::parse(&release);
        system.root = stdout("id", &["-u"]).is_some_and(|id| id.trim() == "0");
        system
    }

    pub fn parse(release: &str) -> Self {
        let value = |key: &str| {
            let line = release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_string())
                .unwrap_or_default()
        };
        Self {
            id: value("ID"),
            codename: value("VERSION_CODENAME"),
            root: false,
        }
    }

    /// Whether this program may install packages.
    pub fn can_install(&self) -> bool {
        self.root && self.id == "debian" && stdout("apt-get", &["--version"]).is_some()
    }
}

/// Runs apt-get quietly, unless it fails.
pub fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    quietly(&mut command)
}

/// Runs a command whose output matters only if it fails.
///
/// # Errors
/// A sentence with the last line of its output.
pub fn quietly(command: &mut Command) -> Result<(), String> {
    let name = said(command);
    let output = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(format!("{name} failed: {last}"))
}

/// A command as one would type it.
pub fn said(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// All apt sources of this machine.
fn sources() -> Vec<String> {
    let folder = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let mut files: Vec<PathBuf> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.push("/etc/apt/sources.list".into());
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

/// Whether the apt sources name a suite.
pub fn has_suite(suite: &str) -> bool {
    let lines = |text: &String| {
        text.lines()
            .any(|line| !line.starts_with('#') && line.contains(suite))
    };
    sources().iter().any(lines)
}

/// An apt source for suites on the mirror that this machine already uses, so that a site's proxies and mirrors are
/// kept.
pub fn source_of(codename: &str, suites: &str) -> Option<String> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let uri = sources()
        .iter()
        .find_map(|text| mirror_in(text, codename))?;
    Some(format!(
        "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
    ))
}

/// The mirror of a release's main archive, in either format of apt sources.
fn mirror_in(sources: &str, codename: &str) -> Option<String> {
    for stanza in sources.split("\n\n") {
        let field = |key: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(key).map(str::trim))
        };
        let has = |key: &str, word: &str| {
            field(key).is_some_and(|words| words.split_whitespace().any(|one| one == word))
        };
        if let (true, true, Some(uri)) = (
            has("Suites:", codename),
            has("Components:", "main"),
            field("URIs:"),
        ) {
            return Some(uri.to_string());
        }
    }
    sources.lines().find_map(|line| {
        // deb [options] URI bookworm main ...
        let line = line.strip_prefix("deb ")?.trim_start();
        let line = line.strip_prefix('[').map_or(line, |rest| {
            rest.split_once(']').map_or("", |(_, rest)| rest)
        });
        let mut words = line.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|component| component == "main")).then(|| uri.to_string())
    })
}

/// The output of a program, if it exists and succeeds.
pub fn stdout(program: &str, arguments: &[&str]) -> Option<String> {
    let Output { status, stdout, .. } = Command::new(program).args(arguments).output().ok()?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_package(&mut cargo);
    cargo
}

/// Removes the variables that cargo set for this program's own package. Build scripts that the command runs would see
/// them, and some crates would be recompiled if they changed.
pub fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Runs a command whose output is shown to the user.
pub fn shown(command: &mut Command, remedy: &str) -> Result<(), String> {
    let name = said(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name} failed; {remedy}"))
    }
}

/// Performs a step and prints one line about it, completed when it is done.
pub fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    print!("==> {name} ...");
    // If the terminal rejects this, it will reject the rest too.
    let _ = io::stdout().flush();
    let began = Instant::now();
    let result = work();
    match &result {
        Ok(()) => println!(" {:.0} s", began.elapsed().as_secs_f64()),
        Err(_) => println!(" failed"),
    }
    result.map_err(|why| format!("{name}: {why}"))
}

/// Node, in `web/`.
pub fn node() -> Command {
    let mut command = Command::new("node");
    command.current_dir(web());
    command
}

/// A program from a crate in the registry: the one on the PATH, or else one installed among cargo's build outputs here.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn program(
    name: &str,
    package: &str,
    version: Option<&str>,
    may_install: bool,
) -> Result<PathBuf, String> {
    let tools = target().join("tools");
    let mine = tools
        .join("bin")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let is_right = |program: &Path| {
        stdout(&program.to_string_lossy(), &["--version"])
            .is_some_and(|said| version.is_none() || said.split_whitespace().nth(1) == version)
    };
    let on_path = PathBuf::from(name);
    if let Some(found) = [&on_path, &mine]
        .into_iter()
        .find(|program| is_right(program))
    {
        return Ok(found.clone());
    }
    let mut words = vec!["install".to_string(), package.into()];
    words.extend(version.map(|version| format!("--version={version}")));
    let what = [Some(name), version].into_iter().flatten();
    let what = what.collect::<Vec<_>>().join(" ");
    let remedy = format!("`cargo {}` installs it", words.join(" "));
    if !may_install {
        return Err(format!("the command {what} is missing; {remedy}"));
    }
    println!(
        "==> cargo {} into {} (some minutes, once)",
        words.join(" "),
        tools.display()
    );
    quietly(cargo().args(&words).args(["--quiet", "--root"]).arg(&tools))
        .map_err(|why| format!("{why}; {remedy}"))?;
    if is_right(&mine) {
        Ok(mine)
    } else {
        let place = mine.display();
        Err(format!("{place} is not {what}; remove it, and {remedy}"))
    }
}

/// The repository's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The folder of the npm package and the page.
pub fn web() -> PathBuf {
    root().join("web")
}

/// A folder that is removed on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it cannot be removed, it is in the system's temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

pub fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_recognised() {
        let system = System::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_CODENAME=bookworm\nID=debian\n",
        );
        assert_eq!(
            (system.id.as_str(), system.codename.as_str()),
            ("debian", "bookworm")
        );
        assert!(!system.can_install(), "not as an ordinary user");
        assert_eq!(System::parse("ID=\"opensuse-leap\"\n").id, "opensuse-leap");
        assert_eq!(System::parse("").id, "");
    }

    #[test]
    fn the_mirror_is_the_one_in_use() {
        let mirror = Some("http://mirror.test/debian".to_string());
        let stanzas = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror_in(stanzas, "bookworm"), mirror);
        let lines = "# deb http://old.test bookworm main\ndeb [arch=amd64 trusted=yes] http://mirror.test/debian bookworm main contrib\n";
        assert_eq!(mirror_in(lines, "bookworm"), mirror);
        assert_eq!(
            mirror_in("deb http://mirror.test/debian trixie main\n", "bookworm"),
            None
        );
        assert_eq!(mirror_in("", "bookworm"), None);
    }

    #[test]
    fn cargo_is_not_told_of_this_package() {
        let cargo = cargo();
        let removed = |name| cargo.get_envs().any(|change| change == (name, None));
        assert!(removed("CARGO_PKG_NAME".as_ref()) && removed("CARGO_MANIFEST_DIR".as_ref()));
    }

    #[test]
    fn commands_are_said_as_they_are_typed() {
        let mut command = Command::new("/somewhere/bin/wasm-bindgen");
        command.args(["--target", "web"]);
        assert_eq!(said(&command), "wasm-bindgen --target web");
    }
}
