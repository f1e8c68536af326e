//! A GPU adapter for the tests. macOS (Metal) and Windows (WARP) bring one; Linux needs a Vulkan driver, for which Mesa's software
//! driver lavapipe will do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// From this version on lavapipe runs compute about ten times as fast as the version of Debian 12.
const FAST_MESA: u32 = 25;
const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];
/// Written by this program, and by nothing else.
const BACKPORTS: &str = "/etc/apt/sources.list.d/esolm-backports.sources";

/// What the machine has.
#[derive(Debug, PartialEq, Eq)]
enum Driver {
    Good,
    /// There is one, but the tests will take long.
    Slow,
    /// What is missing.
    Missing(&'static str),
}

/// Sees to it that there is an adapter: installs a driver where this program can, else says how to get one.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn ensure(may_install: bool) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let system = System::read();
    let driver = driver(&system);
    match driver {
        Driver::Good => return Ok(()),
        Driver::Slow if !(may_install && system.can_install()) => {
            println!(
                "Mesa's software driver is older than {FAST_MESA}, so the tests take long; {}",
                system.remedy()
            );
            return Ok(());
        }
        Driver::Missing(what) if !(may_install && system.can_install()) => {
            return Err(format!(
                "{what}, so there is no GPU adapter to test on; {}",
                system.remedy()
            ));
        }
        _ => {}
    }
    install(&system)?;
    match self::driver(&system) {
        Driver::Missing(what) => Err(format!(
            "{what}, though its packages were installed; {}",
            system.remedy()
        )),
        _ => Ok(()),
    }
}

/// The Linux that this runs on.
#[derive(Debug, Default)]
struct System {
    /// `debian`, `ubuntu`, `fedora`, ...
    id: String,
    /// `bookworm`, ...
    codename: String,
    root: bool,
}

impl System {
    fn read() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut system = Self::parse(&release);
        system.root = stdout("id", &["-u"]).is_some_and(|id| id.trim() == "0");
        system
    }

    fn parse(release: &str) -> Self {
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

    fn can_install(&self) -> bool {
        self.root && self.id == "debian" && stdout("apt-get", &["--version"]).is_some()
    }

    /// Debian 12 has the fast driver in its backports alone.
    fn needs_backports(&self) -> bool {
        self.id == "debian" && self.codename == "bookworm"
    }

    /// How to get a driver here.
    fn remedy(&self) -> String {
        let command = match self.id.as_str() {
            "debian" => {
                return "run `cargo xtask test` as root once, which installs mesa-vulkan-drivers and libvulkan1".into();
            }
            "ubuntu" | "linuxmint" | "pop" => "sudo apt-get install mesa-vulkan-drivers libvulkan1",
            "fedora" | "rhel" | "centos" | "rocky" | "almalinux" => "sudo dnf install mesa-vulkan-drivers vulkan-loader",
            "arch" | "manjaro" | "endeavouros" => "sudo pacman -S vulkan-swrast vulkan-icd-loader",
            "alpine" => "apk add mesa-vulkan-swrast vulkan-loader",
            id if id.starts_with("opensuse") => "sudo zypper install libvulkan_lvp libvulkan1",
            "nixos" => "set hardware.graphics.enable = true",
            _ => return "install a Vulkan driver (Mesa's lavapipe will do) and the Vulkan loader libvulkan.so.1".into(),
        };
        format!("`{command}` installs one")
    }
}

fn driver(system: &System) -> Driver {
    if !loader() {
        return Driver::Missing("the Vulkan loader libvulkan.so.1 is missing");
    }
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .any(|key| std::env::var_os(key).is_some());
    if named {
        return Driver::Good;
    }
    let manifests = manifests();
    if manifests.is_empty() {
        return Driver::Missing("no Vulkan driver is installed");
    }
    // Another maker's driver has a GPU behind it; Mesa's files say nothing about whether there is one.
    let foreign = manifests
        .iter()
        .any(|name| name.contains("nvidia") || name.contains("amd_pro"));
    let old = system.id == "debian"
        && stdout(
            "dpkg-query",
            &["-W", "-f", "${Version}", "mesa-vulkan-drivers"],
        )
        .and_then(|version| major(&version))
        .is_some_and(|major| major < FAST_MESA);
    if old && !foreign {
        Driver::Slow
    } else {
        Driver::Good
    }
}

/// Whether the library through which every Vulkan program finds its drivers is there.
fn loader() -> bool {
    let listed = ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .find_map(|program| stdout(program, &["-p"]))
        .is_some_and(|list| list.contains("libvulkan.so.1"));
    // Systems without ldconfig -p, and folders that only the environment names.
    let paths = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = paths.split(':').filter(|folder| !folder.is_empty()).chain([
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/run/opengl-driver/lib",
    ]);
    listed || folders.any(|folder| Path::new(folder).join("libvulkan.so.1").exists())
}

/// Names of the driver manifests that the loader reads.
fn manifests() -> Vec<String> {
    let mut folders: Vec<PathBuf> = [
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
        "/run/opengl-driver/share/vulkan/icd.d",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    if let Some(home) = std::env::var_os("HOME") {
        folders.push(Path::new(&home).join(".local/share/vulkan/icd.d"));
    }
    folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect()
}

/// `25.0.7-2~bpo12+1` is 25; an epoch such as `1:` does not count.
fn major(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split('.').next()?.parse().ok()
}

fn install(system: &System) -> Result<(), String> {
    println!(
        "==> installing a software Vulkan driver ({})",
        PACKAGES.join(", ")
    );
    let mut arguments = vec!["-qq", "-y", "--no-install-recommends", "install"];
    if system.needs_backports() {
        if !Path::new(BACKPORTS).exists() && !has_backports() {
            let entry = backports_entry().ok_or("the apt sources of this machine name no Debian mirror; add bookworm-backports to them")?;
            fs::write(BACKPORTS, entry)
                .map_err(|error| format!("cannot write {BACKPORTS}: {error}; run as root"))?;
        }
        arguments.extend(["-t", "bookworm-backports"]);
    }
    arguments.extend(PACKAGES);
    apt(&["-qq", "update"])?;
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .map_err(|error| format!("cannot run apt-get: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(format!("apt-get {} failed: {last}", arguments.join(" ")))
}

/// All apt sources of the machine.
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

fn has_backports() -> bool {
    let lines = |text: &String| {
        text.lines()
            .any(|line| !line.starts_with('#') && line.contains("bookworm-backports"))
    };
    sources().iter().any(lines)
}

/// The backports of the mirror that this machine uses already, so that proxies and mirrors of a site stay in use.
fn backports_entry() -> Option<String> {
    sources().iter().find_map(|text| entry_from(text))
}

fn entry_from(sources: &str) -> Option<String> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let entry = |uri: &str| {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: bookworm-backports\nComponents: main\nSigned-By: {KEYRING}\n"
        )
    };
    for stanza in sources.split("\n\n") {
        let field = |key: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(key).map(str::trim))
        };
        let is_main = field("Suites:")
            .is_some_and(|suites| suites.split_whitespace().any(|suite| suite == "bookworm"))
            && field("Components:")
                .is_some_and(|components| components.split_whitespace().any(|c| c == "main"));
        if let (true, Some(uri)) = (is_main, field("URIs:")) {
            return Some(entry(uri));
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
        (suite == "bookworm" && words.any(|component| component == "main")).then(|| entry(uri))
    })
}

fn stdout(program: &str, arguments: &[&str]) -> Option<String> {
    let Output { status, stdout, .. } = Command::new(program).args(arguments).output().ok()?;
    status
        .success()
        .then(|| String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_recognised() {
        let system = System::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_CODENAME=bookworm\nID=debian\n",
        );
        assert!(system.needs_backports());
        assert!(!system.can_install(), "not as an ordinary user");
        assert!(system.remedy().contains("as root"));
        assert!(
            System::parse("ID=\"opensuse-leap\"\n")
                .remedy()
                .contains("zypper")
        );
        assert!(System::parse("ID=fedora").remedy().contains("dnf"));
        assert!(System::parse("").remedy().contains("libvulkan.so.1"));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("25.0.7-2~bpo12+1"), Some(25));
        assert_eq!(major("1:22.3.6-1"), Some(22));
        assert_eq!(major(""), None);
    }

    #[test]
    fn backports_come_from_the_mirror_in_use() {
        let stanzas = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert!(entry_from(stanzas).is_some_and(|entry| {
            entry.contains("URIs: http://mirror.test/debian\nSuites: bookworm-backports\n")
        }));
        let lines = "# deb http://old.test bookworm main\ndeb [arch=amd64 trusted=yes] http://mirror.test/debian bookworm main contrib\n";
        assert!(
            entry_from(lines)
                .is_some_and(|entry| entry.contains("URIs: http://mirror.test/debian\n"))
        );
        assert_eq!(
            entry_from("deb http://mirror.test/debian trixie main\n"),
            None
        );
        assert_eq!(entry_from(""), None);
    }
}
