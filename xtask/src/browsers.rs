//! The browsers in which page and package are tested: Chromium, Firefox and WebKitGTK.

use std::path::{Path, PathBuf};

use crate::system::{System, apt};

/// A browser, and how to get it.
struct Browser {
    name: &'static str,
    /// Sets of alternative programs; one of each set must be on the PATH.
    programs: &'static [&'static [&'static str]],
    /// The variable that gives the path of the first one if it is not on the PATH.
    variable: &'static str,
    /// Debian packages.
    packages: &'static [&'static str],
    /// Other systems, and the command to install it there.
    commands: &'static [(&'static [&'static str], &'static str)],
    /// How to get it on all other systems.
    otherwise: &'static str,
    /// Whether the variable may be `none`, since some systems do not have this browser; its tests are then skipped.
    may_be_left_out: bool,
}

const ARCH: &[&str] = &["arch", "manjaro", "endeavouros"];
const UBUNTU: &[&str] = &["ubuntu", "linuxmint", "pop"];
const NONE: &str = "none";

/// The tests (`web/tests/chromium.ts`, `web/tests/engines`) look in further places.
const BROWSERS: [Browser; 3] = [
    Browser {
        name: "Chromium",
        programs: &[&[
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
            "chrome",
        ]],
        variable: "ESOLM_CHROMIUM",
        packages: &["chromium"],
        commands: &[
            (&["fedora"], "sudo dnf install chromium"),
            (ARCH, "sudo pacman -S chromium"),
            (&["alpine"], "apk add chromium"),
            (&["opensuse"], "sudo zypper install chromium"),
        ],
        otherwise: "`npx playwright install chromium` installs it",
        may_be_left_out: false,
    },
    Browser {
        name: "Firefox",
        programs: &[&["firefox-esr", "firefox"]],
        variable: "ESOLM_FIREFOX",
        packages: &["firefox-esr"],
        commands: &[
            (&["fedora"], "sudo dnf install firefox"),
            (ARCH, "sudo pacman -S firefox"),
            (&["alpine"], "apk add firefox"),
            (&["opensuse"], "sudo zypper install MozillaFirefox"),
        ],
        otherwise: "install it from https://www.mozilla.org/firefox",
        may_be_left_out: false,
    },
    Browser {
        name: "WebKitGTK",
        programs: &[&["WebKitWebDriver"], &["Xvfb"]],
        variable: "ESOLM_WEBKIT",
        packages: &["webkit2gtk-driver", "xvfb"],
        commands: &[(UBUNTU, "sudo apt-get install webkit2gtk-driver xvfb")],
        otherwise: "install its WebKitWebDriver and MiniBrowser, and Xvfb",
        may_be_left_out: true,
    },
];

/// Makes sure that the browsers are present: installs them if possible, otherwise says how to get them.
///
/// # Errors
/// A sentence about what is missing and how to get it.
pub fn ensure(may_install: bool) -> Result<(), String> {
    for browser in &BROWSERS {
        browser.check_named()?;
    }
    // On other systems, browsers are not on the PATH and there is no WebKitGTK; the tests look in the usual places and
    // say what is missing.
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let missing = || -> Vec<&Browser> { BROWSERS.iter().filter(|one| !one.is_there()).collect() };
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let system = System::read();
    let installs = may_install && system.can_install();
    if installs {
        let packages: Vec<_> = wanted
            .iter()
            .flat_map(|one| one.packages)
            .copied()
            .collect();
        println!("==> installing {}", packages.join(", "));
        apt(&["-qq", "update"])?;
        let mut words = vec!["-qq", "-y", "--no-install-recommends", "install"];
        words.extend(packages);
        apt(&words)?;
    }
    let Some(browser) = missing().into_iter().next() else {
        return Ok(());
    };
    let name = browser.name;
    let remedy = browser.remedy(&system.id);
    Err(if installs {
        format!("no {name} is there, though its packages were installed; {remedy}")
    } else {
        format!("no {name} is installed, in which the browser tests run; {remedy}")
    })
}

impl Browser {
    /// Refuses a variable whose path does not exist.
    fn check_named(&self) -> Result<(), String> {
        let Self { name, variable, .. } = self;
        let Some(named) = std::env::var_os(variable) else {
            return Ok(());
        };
        if self.is_left_out() {
            println!("{variable}={NONE}: the tests in {name} are left out");
            return Ok(());
        }
        let path = Path::new(&named);
        if path.exists() {
            return Ok(());
        }
        Err(format!(
            "{variable} names {}, which is not there; correct or unset it",
            path.display()
        ))
    }

    fn is_left_out(&self) -> bool {
        self.may_be_left_out && std::env::var_os(self.variable).is_some_and(|named| named == NONE)
    }

    /// Whether the tests will find it.
    fn is_there(&self) -> bool {
        let named = std::env::var_os(self.variable).is_some();
        let sought = self.programs.iter().skip(usize::from(named));
        self.is_left_out() || sought.into_iter().all(|names| on_path(names))
    }

    /// How to get it on a system, or do without it.
    fn remedy(&self, system: &str) -> String {
        let variable = self.variable;
        let is_of = |id: &&str| system == *id || (*id == "opensuse" && system.starts_with(*id));
        let command = self
            .commands
            .iter()
            .find(|(ids, _)| ids.iter().any(is_of))
            .map(|(_, command)| format!("`{command}` installs it"));
        let get = match command {
            _ if system == "debian" => format!(
                "run `cargo xtask test` as root once, which installs {}",
                self.packages.join(" and ")
            ),
            Some(command) => command,
            None => self.otherwise.into(),
        };
        let first = self.programs[0][0];
        let without = if self.may_be_left_out {
            format!("{variable}={NONE} leaves its tests out")
        } else {
            "--no-web leaves these tests out".into()
        };
        format!("{get}, or name its program, such as {first}, in {variable}; {without}")
    }
}

fn on_path(names: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names
        .iter()
        .any(|name| folders.iter().any(|folder| folder.join(name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_has_a_remedy_for_every_browser() {
        for browser in &BROWSERS {
            for id in ["debian", "ubuntu", "fedora", "arch", "opensuse-leap", ""] {
                let text = browser.remedy(id);
                assert!(
                    text.contains(browser.variable) && text.contains(" leaves "),
                    "{}, {id}: {text}",
                    browser.name
                );
            }
        }
        let [chromium, firefox, webkit] = &BROWSERS;
        assert!(chromium.remedy("opensuse-leap").contains("zypper"));
        assert!(firefox.remedy("debian").contains("firefox-esr"));
        assert!(webkit.remedy("ubuntu").contains("webkit2gtk-driver xvfb"));
        assert!(webkit.remedy("fedora").contains("ESOLM_WEBKIT=none"));
    }
}
