//! A GPU adapter for the tests. macOS (Metal) and Windows (WARP) include one; Linux needs a Vulkan driver, and Mesa's
//! software driver lavapipe is enough.

use std::fs;
use std::path::{Path, PathBuf};

use crate::system::{System, apt, has_suite, source_of, stdout};

/// From this version on, lavapipe runs compute about ten times as fast as the version in Debian 12.
const FAST_MESA: u32 = 25;
const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];
/// Written only by this program.
const BACKPORTS: &str = "/etc/apt/sources.list.d/esolm-backports.sources";

/// The state of the machine.
#[derive(Debug, PartialEq, Eq)]
enum Driver {
    Good,
    /// There is a driver, but the tests will take long.
    Slow,
    /// What is missing.
    Missing(&'static str),
}

/// Makes sure that there is an adapter: installs a driver if possible, otherwise says how to get one.
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
                remedy(&system)
            );
            return Ok(());
        }
        Driver::Missing(what) if !(may_install && system.can_install()) => {
            return Err(format!(
                "{what}, so there is no GPU adapter to test on; {}",
                remedy(&system)
            ));
        }
        _ => {}
    }
    install(&system)?;
    match self::driver(&system) {
        Driver::Missing(what) => Err(format!(
            "{what}, though its packages were installed; {}",
            remedy(&system)
        )),
        _ => Ok(()),
    }
}

/// Makes sure that Mesa's AMD driver is present, whose compiler is used for the shaders; no graphics card is needed.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn ensure_amd(may_install: bool) -> Result<(), String> {
    let there = || {
        let named = std::env::var_os("ESOLM_RADV").is_some();
        named
            || manifests()
                .iter()
                .any(|name| name.starts_with("radeon_icd"))
    };
    if !cfg!(target_os = "linux") || there() {
        return Ok(());
    }
    let system = System::read();
    if may_install && system.can_install() {
        install(&system)?;
    }
    if there() {
        return Ok(());
    }
    Err(format!(
        "Mesa's AMD driver is missing, whose compiler the shaders go through; {}",
        remedy(&system)
    ))
}

/// Debian 12 has the fast driver only in its backports.
fn needs_backports(system: &System) -> bool {
    system.id == "debian" && system.codename == "bookworm"
}

/// How to get a driver on this system.
fn remedy(system: &System) -> String {
    let command = match system.id.as_str() {
        "debian" => {
            return "run `cargo xtask test` as root once, which installs mesa-vulkan-drivers and libvulkan1".into();
        }
        "ubuntu" | "linuxmint" | "pop" => "sudo apt-get install mesa-vulkan-drivers libvulkan1",
        "fedora" | "rhel" | "centos" | "rocky" | "almalinux" => "sudo dnf install mesa-vulkan-drivers vulkan-loader",
        "arch" | "manjaro" | "endeavouros" => "sudo pacman -S vulkan-swrast vulkan-radeon vulkan-icd-loader",
        "alpine" => "apk add mesa-vulkan-swrast mesa-vulkan-ati vulkan-loader",
        id if id.starts_with("opensuse") => "sudo zypper install libvulkan_lvp libvulkan_radeon libvulkan1",
        "nixos" => "set hardware.graphics.enable = true",
        _ => return "install a Vulkan driver (Mesa's lavapipe will do) and the Vulkan loader libvulkan.so.1".into(),
    };
    format!("`{command}` installs one")
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
    // A driver from another vendor has a GPU behind it; Mesa's manifests do not say whether there is one.
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

/// Whether the library is present through which Vulkan programs find their drivers.
fn loader() -> bool {
    let listed = ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .find_map(|program| stdout(program, &["-p"]))
        .is_some_and(|list| list.contains("libvulkan.so.1"));
    // For systems without `ldconfig -p`, and folders named only in the environment.
    let paths = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = paths.split(':').filter(|folder| !folder.is_empty()).chain([
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/run/opengl-driver/lib",
    ]);
    listed || folders.any(|folder| Path::new(folder).join("libvulkan.so.1").exists())
}

/// File names of the driver manifests that the loader reads.
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

/// The major version: 25 for `25.0.7-2~bpo12+1`; an epoch such as `1:` is ignored.
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
    if needs_backports(system) {
        if !Path::new(BACKPORTS).exists() && !has_suite("bookworm-backports") {
            let entry = source_of(&system.codename, "bookworm-backports").ok_or("the apt sources of this machine name no Debian mirror; add bookworm-backports to them")?;
            fs::write(BACKPORTS, entry)
                .map_err(|error| format!("cannot write {BACKPORTS}: {error}; run as root"))?;
        }
        arguments.extend(["-t", "bookworm-backports"]);
    }
    arguments.extend(PACKAGES);
    apt(&["-qq", "update"])?;
    apt(&arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_have_remedies() {
        let system = System::parse("VERSION_CODENAME=bookworm\nID=debian\n");
        assert!(needs_backports(&system));
        assert!(remedy(&system).contains("as root"));
        assert!(remedy(&System::parse("ID=\"opensuse-leap\"\n")).contains("zypper"));
        assert!(remedy(&System::parse("ID=fedora")).contains("dnf"));
        assert!(remedy(&System::parse("")).contains("libvulkan.so.1"));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("25.0.7-2~bpo12+1"), Some(25));
        assert_eq!(major("1:22.3.6-1"), Some(22));
        assert_eq!(major(""), None);
    }
}
