//! Running `esolm` as a user does.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::failure::Error;
use crate::record;

/// The program and the folder that it runs in, so that no command line holds a path of this machine.
#[derive(Debug)]
pub struct Esolm {
    program: PathBuf,
    work: PathBuf,
}

/// An answer that stands in the work folder, with the command it came from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The command line.
    pub command: String,
    /// When it was run, UTC.
    pub date: String,
    /// What it printed.
    pub report: Value,
}

impl Esolm {
    /// The program at `program`, run in `work`, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such program, [`Error::File`] where the folder cannot be made.
    pub fn new(program: &Path, work: &Path) -> Result<Self, Error> {
        let program = fs::canonicalize(program).map_err(|_| {
            Error::Usage(format!(
                "there is no program {}; build it with `cargo build --release`, or name another with --esolm",
                program.display()
            ))
        })?;
        for folder in ["", "data", "train", "answers"] {
            let folder = work.join(folder);
            fs::create_dir_all(&folder).map_err(|source| Error::File {
                verb: "create",
                path: folder.clone(),
                source,
            })?;
        }
        Ok(Self {
            program,
            work: work.into(),
        })
    }

    /// A path in the work folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// What `esolm --version` prints.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn version(&self) -> Result<String, Error> {
        Ok(self.run(&["--version".into()])?.trim().into())
    }

    /// Runs it and returns what it printed. Its messages go to `log.txt` in the work folder.
    ///
    /// # Errors
    /// [`Error::Program`] with the last line of its messages.
    pub fn run(&self, arguments: &[String]) -> Result<String, Error> {
        let command = command_line(arguments);
        let failed = |why: String| Error::Program {
            command: command.clone(),
            why,
        };
        let output = Command::new(&self.program)
            .args(arguments)
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        let messages = String::from_utf8_lossy(&output.stderr);
        let log = self.path("log.txt");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .and_then(|mut file| write!(file, "$ {command}\n{messages}"))
            .map_err(Error::writing(&log))?;
        if !output.status.success() {
            let last = messages.lines().rev().find(|line| !line.trim().is_empty());
            return Err(failed(match last {
                Some(line) => line.trim().into(),
                None => output.status.to_string(),
            }));
        }
        String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))
    }

    /// Runs it with its messages on this terminal, for what takes long and shows its progress.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn watch(&self, arguments: &[String]) -> Result<(), Error> {
        let status = Command::new(&self.program)
            .args(arguments)
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let why = match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Error::Program {
            command: command_line(arguments),
            why,
        })
    }

    /// The answer to a command that prints JSON: the one that stands in the work folder under `key` if it came from the same command,
    /// else a new one, which is left there.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Json`], [`Error::File`].
    pub fn answer(&self, key: &str, arguments: &[String]) -> Result<Answer, Error> {
        self.kept(key, arguments, |printed| serde_json::from_str(printed))
    }

    /// The same for a command that prints a line of JSON for each line that it read: an array of them.
    ///
    /// # Errors
    /// As [`Esolm::answer`].
    pub fn answer_lines(&self, key: &str, arguments: &[String]) -> Result<Answer, Error> {
        self.kept(key, arguments, json_lines)
    }

    /// Deletes the answers whose file names fit.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(&self, about: impl Fn(&str) -> bool) -> Result<(), Error> {
        let folder = self.path("answers");
        for entry in fs::read_dir(&folder).map_err(Error::reading(&folder))? {
            let path = entry.map_err(Error::reading(&folder))?.path();
            if path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(&about)
            {
                fs::remove_file(&path).map_err(Error::writing(&path))?;
            }
        }
        Ok(())
    }

    fn kept(
        &self,
        key: &str,
        arguments: &[String],
        parse: impl Fn(&str) -> Result<Value, serde_json::Error>,
    ) -> Result<Answer, Error> {
        let path = self.path(&format!("answers/{key}.json"));
        let command = command_line(arguments);
        if let Some(answer) = record::read::<Answer>(&path)?
            && answer.command == command
        {
            return Ok(answer);
        }
        let printed = self.run(arguments)?;
        let report = parse(&printed).map_err(|source| Error::Json {
            what: format!("the answer of `{command}`"),
            source,
        })?;
        let answer = Answer {
            command,
            date: clock::now(),
            report,
        };
        record::write(&path, &answer)?;
        Ok(answer)
    }
}

/// Lines of JSON as an array.
///
/// # Errors
/// That of the first line that is none.
pub fn json_lines(text: &str) -> Result<Value, serde_json::Error> {
    let lines: Result<Vec<Value>, _> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(serde_json::from_str)
        .collect();
    lines.map(Value::from)
}

/// A command line as one would type it.
pub fn command_line(arguments: &[String]) -> String {
    let mut line = "esolm".to_string();
    for argument in arguments {
        line.push(' ');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=+:".contains(c);
        if !argument.is_empty() && argument.chars().all(is_plain) {
            line += argument;
        } else {
            line += &format!("'{}'", argument.replace('\'', r"'\''"));
        }
    }
    line
}

/// Arguments from words and numbers.
#[macro_export]
macro_rules! words {
    ($($word:expr),* $(,)?) => { Vec::from([$($word.to_string()),*]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_typed() {
        let line = command_line(&words!["sample", "--top-p", 0.9, "--prompt", "it's a"]);
        assert_eq!(line, r"esolm sample --top-p 0.9 --prompt 'it'\''s a'");
    }

    #[cfg(unix)]
    #[test]
    fn answers_are_kept_until_the_command_changes() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("esolm-answers-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let program = folder.join("stub");
        // Counts its runs and answers with the count; fails on demand.
        fs::write(
            &program,
            "#!/bin/sh\n[ \"$1\" = fail ] && { echo started >&2; echo 'esolm: no' >&2; exit 1; }\necho x >> runs\nwc -l < runs\n",
        )
        .expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        let esolm = Esolm::new(&program, &folder.join("work")).expect("there");
        let report = |argument: &str| {
            esolm
                .answer("key", &words![argument])
                .map(|answer| answer.report)
        };
        assert_eq!(report("a").expect("runs"), 1);
        assert_eq!(report("a").expect("kept"), 1);
        assert_eq!(report("b").expect("runs anew"), 2);
        let error = report("fail").expect_err("fails").to_string();
        assert!(error.contains("`esolm fail` failed: esolm: no"), "{error}");
        assert!(Esolm::new(&folder.join("none"), &folder).is_err());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
