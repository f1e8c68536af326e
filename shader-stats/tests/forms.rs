//! Every form of every shader through the compiler of a real GPU's driver; and how this program says what it does not like.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A kernel that spills wherever it is compiled: as many values at once as two chips have registers, of which none can be had again.
const SPILLS: &str = "\
@group(0) @binding(0) var<storage, read_write> data: array<vec4<f32>>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
LOADS
    workgroupBarrier();
STORES
}";
const SIMPLE: &str = "\
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    data[id.x] = data[id.x] / 3u + arrayLength(&data);
}";

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn run(forms: &Path, spills: &Path, table: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_esolm-shader-stats"))
        .args([forms, spills, table])
        .args(options)
        .output()
        .expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder of made-up forms, a list of those that spill and a table, which is written.
struct Made(tempfile::TempDir);

impl Made {
    fn new(forms: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in forms {
            fs::write(folder.path().join(name).with_extension("wgsl"), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, list: &str, options: &[&str]) -> Output {
        fs::write(self.path("list"), list).unwrap();
        run(
            self.0.path(),
            &self.path("list"),
            &self.path("table"),
            options,
        )
    }
}

/// The forms are those that the workspace's test `shaders` writes down, in the same folder for what is built or in the workspace's own.
#[test]
fn every_form_compiles_and_converts_and_no_other_spills() {
    let folders = [
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        &here("../target/tmp"),
    ];
    let forms = folders.map(|folder| folder.join("shaders"));
    let forms = forms
        .iter()
        .find(|folder| folder.exists())
        .unwrap_or(&forms[1]);
    let output = run(
        forms,
        &here("spills.txt"),
        &here("../docs/shader-stats.tsv"),
        &[],
    );
    assert!(output.status.success(), "{}", errors(&output));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_form_that_spills_is_named_and_one_that_does_not_is_taken_off() {
    let each = |line: &dyn Fn(usize) -> String| (0..160).map(line).collect::<Vec<_>>().join("\n");
    let text = SPILLS
        .replace(
            "LOADS",
            &each(&|i| format!("    let v{i} = data[id.x * 160u + {i}u];")),
        )
        .replace(
            "STORES",
            &each(&|i| format!("    data[id.y * 160u + {}u] = v{i};", 159 - i)),
        );
    let made = Made::new(&[("greedy", &text), ("modest", SIMPLE)]);
    let output = made.run("# none\n", &["--write"]);
    assert_eq!(output.status.code(), Some(1));
    let said = errors(&output);
    assert!(
        said.contains(
            "greedy spills registers on navi10, navi21, navi31, vega10 and is not on the list"
        ),
        "{said}"
    );
    assert!(!said.contains("modest"), "{said}");

    let output = made.run("greedy\n", &[]);
    assert!(output.status.success(), "{}", errors(&output));
    let output = made.run("greedy\nmodest\n", &[]);
    let said = errors(&output);
    assert!(
        said.contains("modest spills no registers any more or is gone; take it off"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_table_of_other_forms_is_told_apart() {
    let made = Made::new(&[("first", SIMPLE)]);
    let output = made.run("", &["--write"]);
    assert!(output.status.success(), "{}", errors(&output));
    let table = fs::read_to_string(made.path("table")).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("first\t"))
        .collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(
        table.lines().nth(1).unwrap().starts_with("# Mesa "),
        "{table}"
    );
    for row in rows {
        let words: Vec<&str> = row.split('\t').collect();
        assert!(["32", "64"].contains(&words[2]), "{row}");
        let numbers: Vec<u64> = words[3..]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect();
        let [waves, vgprs, sgprs, 0, 0, 0, 0, code] = numbers[..] else {
            panic!("{row}");
        };
        assert!(waves > 0 && vgprs > 0 && sgprs > 0 && code > 0, "{row}");
    }
    fs::write(made.path("second.wgsl"), SIMPLE).unwrap();
    let output = made.run("", &[]);
    assert!(
        errors(&output).contains("lacks second on navi10"),
        "{}",
        errors(&output)
    );
    fs::remove_file(made.path("first.wgsl")).unwrap();
    let output = made.run("", &[]);
    assert!(
        errors(&output).contains("still has first on navi10"),
        "{}",
        errors(&output)
    );
}

#[test]
fn what_is_missing_is_said_in_a_sentence() {
    let made = Made::new(&[]);
    let said = errors(&made.run("", &[]));
    assert!(said.contains("holds no .wgsl files; `cargo test"), "{said}");

    let made = Made::new(&[("broken", "fn main() { nothing }")]);
    let said = errors(&made.run("", &[]));
    assert!(
        said.contains("broken.wgsl: naga refuses it as WGSL"),
        "{said}"
    );

    let made = Made::new(&[("simple", SIMPLE)]);
    fs::write(made.path("driver.json"), "{}").unwrap();
    let with = |manifest: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_esolm-shader-stats"))
            .args([made.0.path(), &made.path("list"), &made.path("table")])
            .env("ESOLM_RADV", made.path(manifest))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        errors(&output)
    };
    let said = with("driver.json");
    assert!(
        said.contains("for navi31: ") && said.contains("mesa-vulkan-drivers"),
        "{said}"
    );
    let said = with("nowhere.json");
    assert!(
        said.contains("ESOLM_RADV names") && said.contains("which is not there"),
        "{said}"
    );
}

#[test]
fn naga_is_the_one_that_the_engine_has() {
    let version = |folder: &str| {
        let lock = fs::read_to_string(here(folder).join("Cargo.lock")).unwrap();
        let (_, naga) = lock
            .split_once("name = \"naga\"\nversion = ")
            .expect("naga");
        naga.lines().next().unwrap().to_string()
    };
    assert_eq!(
        version("."),
        version(".."),
        "`cargo update -p naga` in one of the two"
    );
}
