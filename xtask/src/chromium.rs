//! A Chromium for the tests in a browser.

use std::path::{Path, PathBuf};

use crate::system::{System, apt};

/// As which it is installed; the tests (`web/tests/chromium.ts`) know further places.
const NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
];

/// Sees to it that there is one: installs it where this program can, else says how to get it.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn ensure(may_install: bool) -> Result<(), String> {
    if let Some(named) = std::env::var_os("ESOLM_CHROMIUM") {
        let path = Path::new(&named);
        return if path.exists() {
            Ok(())
        } else {
            Err(format!(
                "ESOLM_CHROMIUM names {}, which is not there; correct or unset it",
                path.display()
            ))
        };
    }
    // Elsewhere browsers are not on the PATH; the tests look where they are and say what is missing.
    if !cfg!(target_os = "linux") || on_path() {
        return Ok(());
    }
    let system = System::read();
    if !(may_install && system.can_install()) {
        return Err(format!(
            "no Chromium is installed, in which the browser tests run; {}",
            remedy(&system.id)
        ));
    }
    println!("==> installing chromium");
    apt(&["-qq", "update"])?;
    apt(&[
        "-qq",
        "-y",
        "--no-install-recommends",
        "install",
        "chromium",
    ])?;
    if on_path() {
        Ok(())
    } else {
        Err(format!(
            "no Chromium is there, though its package was installed; {}",
            remedy(&system.id)
        ))
    }
}

fn on_path() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES
        .iter()
        .any(|name| folders.iter().any(|folder| folder.join(name).is_file()))
}

fn remedy(system: &str) -> String {
    let command = match system {
        "debian" => return "run `cargo xtask test` as root once, which installs chromium, or name one in ESOLM_CHROMIUM; --no-web leaves these tests out".into(),
        "fedora" => "sudo dnf install chromium",
        "arch" | "manjaro" | "endeavouros" => "sudo pacman -S chromium",
        "alpine" => "apk add chromium",
        id if id.starts_with("opensuse") => "sudo zypper install chromium",
        _ => "npx playwright install chromium",
    };
    format!(
        "`{command}` installs it, or name one in ESOLM_CHROMIUM; --no-web leaves these tests out"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_has_a_remedy() {
        for id in ["debian", "fedora", "opensuse-leap", ""] {
            let text = remedy(id);
            assert!(
                text.contains("chromium") && text.contains("--no-web"),
                "{id}: {text}"
            );
        }
    }
}
