//! What a real GPU's compiler makes of every form of every shader, without the GPU: registers, spills, shared memory, waves and code
//! size on four of AMD's chips, by Mesa's driver. And that every form converts to what Metal and Direct3D 12 read.
//!
//! `cargo xtask shader-stats` runs it.

mod convert;
mod driver;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::{env, fs};

use ash::vk;

use convert::Parsed;
use driver::Compiler;
use table::Table;

const USAGE: &str = "\
Usage: esolm-shader-stats FORMS SPILLS TABLE [--write]

Compiles the .wgsl files in the folder FORMS for AMD's chips and converts them to MSL and HLSL. Fails if one does not
compile or convert, if those that spill registers are not those that the file SPILLS lists, and if the file TABLE is
of other forms.
  --write   write the numbers to TABLE

ESOLM_RADV names the manifest of Mesa's AMD driver (radeon_icd.json) where it is not among the system's.";

const PROGRAM: &str = env!("CARGO_PKG_NAME");
/// The chips by the names that the driver's variable takes.
const CHIPS: [&str; 4] = ["navi31", "navi21", "navi10", "vega10"];
/// The first argument of this program's own processes, one for each chip.
const COMPILE: &str = "compile-for-one-chip";
/// How to get what may be missing.
const REMEDY: &str =
    "Debian's packages mesa-vulkan-drivers and libvulkan1 have both, the driver and the loader";

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the Vulkan loader cannot be loaded ({0}); {REMEDY}")]
    Loader(String),
    #[error(
        "no manifest of Mesa's AMD driver (radeon_icd*.json) is among the system's Vulkan drivers; {REMEDY}"
    )]
    NoManifest,
    #[error("ESOLM_RADV names {}, which is not there; correct or unset it", .0.display())]
    ManifestGone(PathBuf),
    #[error("Mesa's AMD driver does not open its null device ({0}); {REMEDY}")]
    Driver(vk::Result),
    #[error("Mesa's AMD driver opened no null device; version 25 does, later ones may have none")]
    NoDevice,
    #[error(
        "the device that opened is not Mesa's null device for this chip but {0:?}; version 25 has one, later ones may have none"
    )]
    OtherDevice(String),
    #[error(
        "the driver tells nothing of {0:?}, which is in the table; take another version of Mesa, 25 for one"
    )]
    Statistic(&'static str),
    #[error("the driver does not compile it: {0}")]
    Compilation(#[from] vk::Result),
    #[error("naga refuses it as {language}: {why}")]
    Conversion { language: &'static str, why: String },
    #[error("{}: {why}", form.display())]
    Form { form: PathBuf, why: Box<Error> },
    #[error("for {chip}: {why}")]
    Chip { chip: &'static str, why: String },
    #[error("cannot {doing} {what}: {why}")]
    System {
        doing: &'static str,
        what: String,
        why: io::Error,
    },
    #[error("{} holds no .wgsl files; `cargo test --workspace --release --test shaders` writes them", .0.display())]
    NoForms(PathBuf),
    #[error("{0}")]
    Table(String),
}

impl Error {
    fn conversion(language: &'static str, why: impl ToString) -> Self {
        let why = why.to_string();
        Self::Conversion { language, why }
    }

    fn system(doing: &'static str, what: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = what.display().to_string();
        move |why| Self::System { doing, what, why }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        [COMPILE, chip, forms] => compile(chip, Path::new(forms)),
        [forms, spills, table] => check(forms.as_ref(), spills.as_ref(), table.as_ref(), false),
        [forms, spills, table, "--write"] => {
            check(forms.as_ref(), spills.as_ref(), table.as_ref(), true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{PROGRAM}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles all forms for all chips and holds them to the list of those that spill and to the table.
fn check(forms: &Path, spills: &Path, table: &Path, write: bool) -> Result<(), Error> {
    let manifest = manifest()?;
    for file in files(forms)? {
        let converted = Parsed::new(&read(&file)?).and_then(|parsed| {
            parsed.msl()?;
            parsed.hlsl()
        });
        converted.map_err(|why| of(&file, why))?;
    }
    // A driver's compiler may end the process that it runs in, and reads its chip from the environment: so each has one of its own.
    let running = CHIPS.map(|chip| start(chip, forms, &manifest));
    let ended = running.map(|process| {
        let wait = process?.wait_with_output();
        wait.map_err(Error::system(
            "wait for",
            "a process of this program".as_ref(),
        ))
    });
    let mut printed = Vec::new();
    for (chip, output) in CHIPS.into_iter().zip(ended) {
        let numbers = numbers(output?).map_err(|why| Error::Chip { chip, why })?;
        printed.push((chip, numbers));
    }
    let now = Table::new(&printed).map_err(Error::Table)?;
    println!("{}", now.summary());
    if write {
        fs::write(table, now.to_string()).map_err(Error::system("write", table))?;
    }
    let mut faults = now.against_list(&read(spills)?);
    faults.extend(now.against_file(&read(table)?));
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Table(faults.join("\n")))
}

/// What the process for a chip printed.
///
/// # Errors
/// The sentence with which it ended; or where it ended, if that was the driver's doing.
fn numbers(output: Output) -> Result<String, String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    // The driver may have written something before it.
    if let Some((_, sentence)) = errors.split_once(&format!("{PROGRAM}: ")) {
        return Err(sentence.trim_end().to_string());
    }
    let last = printed.lines().skip(1).last();
    let after = last
        .and_then(|row| row.split('\t').next())
        .map(|form| format!(" after {form}"));
    Err(format!(
        "the driver's compiler ended with {}{}; it wrote {:?}",
        output.status,
        after.unwrap_or_default(),
        errors.trim_end()
    ))
}

/// Starts this program for one chip; it prints what [`Table::new`] reads.
fn start(chip: &str, forms: &Path, manifest: &Path) -> Result<Child, Error> {
    let program = env::current_exe().map_err(Error::system("find", "this program".as_ref()))?;
    Command::new(&program)
        .args([COMPILE, chip])
        .arg(forms)
        .env("RADV_FORCE_FAMILY", chip)
        // The variable's later name.
        .env("AMD_FORCE_FAMILY", chip)
        .env("VK_DRIVER_FILES", manifest)
        // What loaders from before that variable read.
        .env("VK_ICD_FILENAMES", manifest)
        // Compiled anew each time, and nothing left in the user's cache.
        .env("MESA_SHADER_CACHE_DISABLE", "true")
        .env_remove("RADV_DEBUG")
        .env_remove("RADV_PERFTEST")
        .env_remove("ACO_DEBUG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::system("start", &program))
}

/// Compiles all forms for the chip, which the environment names to the driver.
fn compile(chip: &str, forms: &Path) -> Result<(), Error> {
    let compiler = Compiler::open(chip)?;
    // Line by line, so that where the driver's compiler ends the process it can be said at which form.
    let mut out = io::stdout().lock();
    let mut print = |line: String| {
        writeln!(out, "{line}").map_err(Error::system("write to", "standard output".as_ref()))
    };
    print(compiler.version.clone())?;
    for file in files(forms)? {
        let text = read(&file)?;
        let numbers = Parsed::new(&text).and_then(|parsed| compiler.compile(&parsed));
        let numbers = numbers.map_err(|why| of(&file, why))?;
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let name = file.file_stem().unwrap_or_default().display();
        print(format!("{name}\t{}", numbers.join("\t")))?;
    }
    Ok(())
}

/// The files of a folder that are shaders, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoForms(folder.to_path_buf()));
        }
        entries => entries.map_err(Error::system("read", folder))?,
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|end| end == "wgsl"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::NoForms(folder.to_path_buf()));
    }
    Ok(files)
}

/// The file through which the loader finds the driver.
fn manifest() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os("ESOLM_RADV") {
        let named = PathBuf::from(named);
        return if named.exists() {
            Ok(named)
        } else {
            Err(Error::ManifestGone(named))
        };
    }
    let folders = [
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
        "/run/opengl-driver/share/vulkan/icd.d",
    ];
    // Some systems put the processor's name into the file's, and one for each kind beside the other.
    let ours = [
        "radeon_icd.json".into(),
        format!("radeon_icd.{}.json", env::consts::ARCH),
    ];
    folders
        .iter()
        .flat_map(|folder| ours.iter().map(|name| Path::new(folder).join(name)))
        .find(|file| file.exists())
        .ok_or(Error::NoManifest)
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(Error::system("read", file))
}

fn of(form: &Path, why: Error) -> Error {
    Error::Form {
        form: form.to_path_buf(),
        why: Box::new(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn where_a_compiler_ended_is_said() {
        let output = |status, stdout: &str, stderr: &str| Output {
            status: ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let said = numbers(output(6, "Mesa 25\nnorm-16-0\t1\n", "ACO ERROR\n")).unwrap_err();
        for part in ["SIGABRT", "after norm-16-0;", "ACO ERROR"] {
            assert!(said.contains(part), "{said}");
        }
        let said = numbers(output(6, "", "")).unwrap_err();
        assert!(!said.contains("after"), "{said}");
        let stderr = format!("a driver's word\n{PROGRAM}: the form is odd\n");
        assert_eq!(
            numbers(output(256, "Mesa 25\n", &stderr)).unwrap_err(),
            "the form is odd"
        );
        assert_eq!(
            numbers(output(0, "Mesa 25\n", "a driver's word")).unwrap(),
            "Mesa 25\n"
        );
    }
}
