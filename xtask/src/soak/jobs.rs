//! Jobs that are killed at random, compared with undisturbed ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use super::{Options, Outcome};
use crate::system::{Scratch, cargo, shown, target, write};

/// Lines per job.
const LINES: usize = 48;
/// The jobs, as typed on the command line.
const JOBS: [&[&str]; 3] = [
    &["sample", "--length", "64", "--batch", "2"],
    &["score", "--alpha0", "0.5", "--batch", "2"],
    &["ppl", "--alpha0", "1", "--batch", "2"],
];

/// Kills jobs `options.kills` times, each at a random moment of its run, sometimes twice in a row before any progress,
/// and resumes them.
pub fn run(options: &Options) -> Outcome {
    // The same package selection as for the tests, since another one would recompile all of Burn.
    shown(
        cargo().args([
            "test",
            "--release",
            "--workspace",
            "--test",
            "sample",
            "--no-run",
        ]),
        "what is wrong stands above",
    )?;
    let esolm = target().join("release/esolm");
    let scratch = Scratch::new("esolm-jobs")?;
    let folder = &scratch.0;
    let input = |command: &str| folder.join(format!("{command}.in.jsonl"));
    for command in ["sample", "score", "ppl"] {
        let field = if command == "sample" {
            "prompt"
        } else {
            "text"
        };
        let line = |n: usize| {
            format!("{{\"id\": {n}, \"{field}\": \"Once upon a time, {n} little cats\"}}\n")
        };
        write(&input(command), &(0..LINES).map(line).collect::<String>())?;
    }
    // Printed so that a run can be repeated; any seed will do.
    let mut random = Random(
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |now| now.as_nanos() as u64)
            | 1,
    );
    println!("seed {}", random.0);
    let (mut kills, mut runs, mut torn) = (0, 0, 0);
    for (index, words) in JOBS.iter().enumerate() {
        let command = words[0];
        let start = |output: &Path| start(&esolm, words, &input(command), output);
        let whole = folder.join(format!("{command}.whole.jsonl"));
        let began = Instant::now();
        succeed(start(&whole)?)?;
        let time = began.elapsed();
        let expected = read(&whole)?;
        let wanted = options.kills * (index as u32 + 1) / JOBS.len() as u32;
        while kills < wanted {
            runs += 1;
            let output = folder.join(format!("{command}.{runs}.jsonl"));
            loop {
                let mut child = start(&output)?;
                // The last run of a job is not killed.
                if kills < wanted {
                    sleep(time.mul_f64(random.share() * 0.6));
                }
                if kills >= wanted || child.try_wait().is_ok_and(|status| status.is_some()) {
                    succeed(child)?;
                    break;
                }
                // SIGKILL, which a program cannot handle.
                child
                    .kill()
                    .map_err(|error| format!("cannot kill: {error}"))?;
                child
                    .wait()
                    .map_err(|error| format!("cannot wait: {error}"))?;
                kills += 1;
                let there = fs::read(&output).unwrap_or_default();
                let lines = there
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1);
                torn += u32::from(lines < there.len());
                if !expected.starts_with(&there[..lines]) {
                    return Err(format!(
                        "after kill {kills} the results of {command} are others"
                    ));
                }
                // A partial line, as a power failure may leave it; a kill hardly ever does.
                if random.share() < 0.3 {
                    torn += u32::from(tear(&output, &expected[lines..], &mut random)?);
                }
            }
            if read(&output)? != expected {
                return Err(format!(
                    "{command}, killed again and again, gives other results than undisturbed; seed {}",
                    random.0
                ));
            }
        }
    }
    Ok(format!(
        "{runs} jobs of {LINES} lines (sample, score, ppl) killed {kills} times at random, {torn} times with a torn line: no line lost, doubled or changed"
    ))
}

fn start(esolm: &Path, words: &[&str], input: &Path, output: &Path) -> Result<Child, String> {
    Command::new(esolm)
        .args(words)
        .args(["--device", "cpu", "--quiet", "--resume", "--input"])
        .arg(input)
        .arg("--output")
        .arg(output)
        .env_remove("ESOLM_MODEL")
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("esolm does not start: {error}"))
}

fn succeed(mut child: Child) -> Result<(), String> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "a job ended with {status}; what it said stands above"
        )),
        Err(error) => Err(format!("cannot wait for a job: {error}")),
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Appends part of the next line to whole ones, and says whether it did.
fn tear(path: &Path, rest: &[u8], random: &mut Random) -> Result<bool, String> {
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let part = &line[..(line.len() as f64 * random.share()) as usize];
    let whole = fs::read(path).unwrap_or_default();
    // A line that is already partial is left as it is.
    if whole.last().is_some_and(|&byte| byte != b'\n') || part.is_empty() || whole.is_empty() {
        return Ok(false);
    }
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(part))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(true)
}

/// xorshift64: good enough to choose moments.
struct Random(u64);

impl Random {
    /// A number from 0 to 1.
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_torn_once() {
        let scratch = Scratch::new("esolm-tear").unwrap();
        let path = scratch.0.join("lines");
        let mut random = Random(1 << 40);
        let mut tear = |there: &str| {
            write(&path, there).unwrap();
            let torn = tear(&path, "x".repeat(1000).as_bytes(), &mut random).unwrap();
            (torn, read(&path).unwrap().len() > there.len())
        };
        assert_eq!(tear("a whole line\n"), (true, true));
        assert_eq!(tear("a whole line\npart of"), (false, false));
        assert_eq!(tear(""), (false, false));
    }
}
