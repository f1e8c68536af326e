//! Texts that workers of Ray write, one of which is killed, against those of one machine.

use std::process::Command;

use super::{Options, Outcome};
use crate::python;
use crate::system::{forget_package, shown, target};

/// What the run on Ray needs.
const REQUIREMENTS: &str = "tests/requirements-ray.txt";
/// Lines of the file of prompts.
const PROMPTS: &str = "2000";

/// Writes the texts of many prompts on two workers and kills one of them midway.
pub fn run(options: &Options) -> Outcome {
    if !cfg!(target_os = "linux") {
        return Err(
            "Ray is run in namespaces of its own, which Linux alone has; run it there".into(),
        );
    }
    let tools = python::environment(python::REQUIREMENTS, !options.no_install)?;
    let ray = python::environment(REQUIREMENTS, !options.no_install)?;
    python::command()?;
    let wheel = python::wheel(&tools)?;
    let python = python::fresh(&ray, &wheel)?;
    // Ray looks for clouds and newer versions of itself whatever it is told, and this ends only processes of its own.
    let mut soak = Command::new("unshare");
    forget_package(&mut soak);
    soak.args(["--net", "--pid", "--fork", "--mount-proc", "sh", "-c"])
        .args(["ip link set lo up && exec \"$@\"", "sh"])
        .arg(python)
        .arg(python::project().join("tests/ray_soak.py"))
        .arg(target().join("release/esolm"))
        .arg(PROMPTS)
        .env("RAY_USAGE_STATS_ENABLED", "0")
        .env("RAY_AUTH_MODE", "disabled")
        .env("RAY_DATA_DISABLE_PROGRESS_BARS", "1");
    shown(
        &mut soak,
        "what is wrong stands above; `unshare` and `ip` must be there, and this must run as root",
    )?;
    Ok(format!(
        "{PROMPTS} texts on two workers, one of them killed midway: all as one machine writes them"
    ))
}
