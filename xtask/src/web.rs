//! `cargo xtask web`: the wasm module, the npm package and the page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::system::{cargo, node, quietly, root, shown, stdout, step, target, web};
use crate::{size, wasm};

/// The oldest Node that still gets fixes and that the tools run on.
const NODE: u32 = 20;
const PORT: u16 = 4173;
/// The files that the page uses; the folder's other files are for readers.
const MODEL: [&str; 4] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "model.safetensors",
];
/// Features that every maintained browser has. Listed one by one, because wasm-opt must not use any others.
const FEATURES: [&str; 7] = [
    "bulk-memory",
    "nontrapping-float-to-int",
    "sign-ext",
    "mutable-globals",
    "reference-types",
    "multivalue",
    "simd",
];

/// The command line after `web`.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    no_install: bool,
    task: Task,
}

#[derive(Debug, PartialEq, Eq)]
enum Task {
    Build,
    Serve { port: u16 },
    Size { write: bool },
}

impl Options {
    /// Parses the arguments.
    ///
    /// # Errors
    /// A sentence about the first invalid one.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut no_install, mut build, mut size, mut write, mut port) =
            (false, false, false, false, None);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--no-install" => no_install = true,
                "--build" => build = true,
                "--size" => size = true,
                "--write" => write = true,
                "--port" => {
                    let number = arguments.next().and_then(|word| word.parse().ok());
                    port = Some(
                        number.ok_or("--port wants a number up to 65535, such as --port 8000")?,
                    );
                }
                other => {
                    return Err(format!(
                        "there is no option {other}; `cargo xtask help` lists what there is"
                    ));
                }
            }
        }
        let task = match (build, size, write, port) {
            (false, true, write, None) => Task::Size { write },
            (true, false, false, None) => Task::Build,
            (false, false, false, port) => Task::Serve {
                port: port.unwrap_or(PORT),
            },
            _ => return Err("--build, --port and --size exclude each other, and --write goes with --size; give one of them".into()),
        };
        Ok(Self { no_install, task })
    }
}

/// Does what the arguments ask for.
///
/// # Errors
/// A sentence about what is missing, or about what failed.
pub fn run(options: &Options) -> Result<(), String> {
    let may_install = !options.no_install;
    match options.task {
        Task::Build => build(may_install),
        Task::Size { write } => {
            module(may_install)?;
            check_size(write)
        }
        Task::Serve { port } => {
            build(may_install)?;
            println!("==> the page is at http://localhost:{port}/ until Ctrl-C");
            let port = port.to_string();
            let preview = [
                "run",
                "--silent",
                "preview",
                "-w",
                "demo",
                "--",
                "--port",
                &port,
                "--strictPort",
            ];
            shown(
                npm().args(preview),
                "choose another port with --port, or `npm run preview -w demo` in web/ says more",
            )
        }
    }
}

/// The part for `cargo xtask test`: builds, checks the size, and tests in browsers.
///
/// # Errors
/// A sentence about what is missing, or about what failed.
pub fn test(may_install: bool) -> Result<(), String> {
    build(may_install)?;
    check_size(false)?;
    shown(
        npm().args(["run", "--silent", "typecheck"]),
        "correct the types that are named above",
    )?;
    shown(
        npm().args(["run", "--silent", "test"]),
        "what failed stands above; `npx playwright test NAME` in web/ repeats one file",
    )
}

fn module_file() -> PathBuf {
    web().join("dist/esolm_web_bg.wasm")
}

fn check_size(write: bool) -> Result<(), String> {
    size::check(&module_file(), &web().join("size.json"), write)
}

/// Everything except serving.
fn build(may_install: bool) -> Result<(), String> {
    module(may_install)?;
    step("tsc", || {
        shown(
            tool("typescript/bin/tsc").arg("--pretty"),
            "correct the types that are named above",
        )
    })?;
    step("copy the model", copy_model)?;
    step("vite build", || {
        shown(
            npm().args([
                "run",
                "--silent",
                "build",
                "-w",
                "demo",
                "--",
                "--logLevel",
                "warn",
            ]),
            "what is wrong stands above",
        )
    })
}

/// Builds the wasm module with its JavaScript, in `web/dist`.
fn module(may_install: bool) -> Result<(), String> {
    wasm::ensure_std(may_install)?;
    let bindgen = wasm::bindgen(may_install)?;
    check_node()?;
    packages(may_install)?;
    step("cargo build", || {
        let mut build = cargo();
        build.current_dir(root()).args([
            "build",
            "--quiet",
            "--profile",
            "web",
            "-p",
            "esolm-web",
            "--target",
            wasm::TARGET,
        ]);
        shown(&mut build, "what is wrong stands above")
    })?;
    let built = target().join(wasm::TARGET).join("web/esolm_web.wasm");
    let module = module_file();
    if modified(&module) > modified(&built) && web().join("dist/esolm_web.d.ts").exists() {
        println!("==> the wasm module is up to date");
        return Ok(());
    }

    // Built elsewhere first, so that everything in dist is always complete.
    let bound = target().join(wasm::TARGET).join("web/bindgen");
    step("wasm-bindgen", || {
        let _ = fs::remove_dir_all(&bound);
        quietly(
            Command::new(&bindgen)
                // Names are half of the file, and would slow wasm-opt down.
                .args(["--remove-name-section", "--remove-producers-section"])
                .args(["--target", "web", "--out-dir"])
                .arg(&bound)
                .args(["--out-name", "esolm_web"])
                .arg(&built),
        )
    })?;
    step("wasm-opt", || {
        let small = bound.join("small.wasm");
        let mut optimize = tool("binaryen/bin/wasm-opt");
        // Starts from the minimal feature set: by default, wasm-opt would use all features that the module declares.
        // Further passes make the file smaller but not its compressed form, and take minutes.
        optimize.args(["-O1", "--mvp-features"]);
        optimize.args(FEATURES.map(|feature| format!("--enable-{feature}")));
        optimize.args(["--strip-debug", "--strip-producers", "-o"]);
        quietly(optimize.arg(&small).arg(bound.join("esolm_web_bg.wasm")))?;
        fs::rename(&small, bound.join("esolm_web_bg.wasm"))
            .and_then(|()| copy_folder(&bound, &web().join("dist")))
            .map_err(|error| format!("web/dist cannot be written: {error}; check the folder's owner and the room on the disk"))
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

fn copy_model() -> Result<(), String> {
    let from = root().join("models/stories");
    let to = web().join("demo/public/models/stories");
    let copy = || {
        fs::create_dir_all(&to)?;
        for name in MODEL {
            fs::copy(from.join(name), to.join(name))?;
        }
        std::io::Result::Ok(())
    };
    copy().map_err(|error| {
        format!(
            "{} cannot be copied to {}: {error}; check both folders",
            from.display(),
            to.display()
        )
    })
}

/// A program of an npm package, run through node because npm's own links are scripts for the platform's shell.
fn tool(path: &str) -> Command {
    let mut command = node();
    command.arg(format!("node_modules/{path}"));
    command
}

fn npm() -> Command {
    let mut command = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
    command.current_dir(web());
    command
}

fn check_node() -> Result<(), String> {
    let remedy = "install Node from https://nodejs.org or by your system's packages";
    let version = stdout("node", &["--version"])
        .ok_or_else(|| format!("Node is missing, with which the page is built; {remedy}"))?;
    match major(&version) {
        Some(found) if found >= NODE => Ok(()),
        _ => Err(format!(
            "Node {} is too old, {NODE} or newer is needed; {remedy}",
            version.trim()
        )),
    }
}

/// The major version: 20 for `v20.11.1`.
fn major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Installs the packages of the lock file, unless they are present.
fn packages(may_install: bool) -> Result<(), String> {
    // npm writes this file when it is done.
    let installed = modified(&web().join("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= modified(&web().join("package-lock.json")) {
        return Ok(());
    }
    if !may_install {
        return Err(
            "the npm packages of web/package-lock.json are not installed; `npm ci` in web/ installs them"
                .into(),
        );
    }
    step("npm ci", || {
        quietly(npm().args(["ci", "--silent"]))
            .map_err(|why| format!("{why}; check the network, and `npm ci` in web/ says more"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Options, String> {
        Options::parse(line.iter().map(ToString::to_string))
    }

    #[test]
    fn arguments_are_read() {
        let task = |line: &[&str]| parse(line).map(|options| options.task);
        assert_eq!(task(&[]), Ok(Task::Serve { port: PORT }));
        assert_eq!(task(&["--port", "80"]), Ok(Task::Serve { port: 80 }));
        assert_eq!(task(&["--build"]), Ok(Task::Build));
        assert_eq!(task(&["--size"]), Ok(Task::Size { write: false }));
        assert_eq!(task(&["--size", "--write"]), Ok(Task::Size { write: true }));
        assert!(parse(&["--no-install"]).is_ok_and(|options| options.no_install));
        for wrong in [
            &["--port"][..],
            &["--port", "99999"],
            &["--write"],
            &["--build", "--size"],
            &["--build", "--port", "80"],
            &["stories"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn versions_of_node_are_read() {
        assert_eq!(major("v20.11.1\n"), Some(20));
        assert_eq!(major("20"), None);
    }
}
