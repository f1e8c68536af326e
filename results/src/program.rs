//! Running `esolm` as a user does.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::arguments::Common;
use crate::error::Error;
use crate::record::{self, Answer};

/// The program and the folder that it runs in, so that no command line holds a path of this machine.
#[derive(Debug)]
pub struct Esolm {
    program: PathBuf,
    work: PathBuf,
    /// For `--device`.
    pub device: String,
}

/// An answer in the work folder.
#[derive(Debug, Serialize, Deserialize)]
struct KeptAnswer<T> {
    #[serde(flatten)]
    answer: Answer<T>,
    /// Digests of the files that the command names, as it left them: another run may replace them under the same names.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

impl Esolm {
    /// The program that the arguments name, in the work folder that they name, which is created if need be.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such program, [`Error::File`] where the folder cannot be created.
    pub fn new(common: &Common) -> Result<Self, Error> {
        let program = fs::canonicalize(&common.esolm).map_err(|_| {
            let path = common.esolm.display();
            Error::Usage(format!(
                "there is no program {path}; build it with `cargo build --release`, or name another with --esolm"
            ))
        })?;
        let answers = common.work.join("answers");
        fs::create_dir_all(&answers).map_err(Error::file("create", &answers))?;
        Ok(Self {
            program,
            work: common.work.clone(),
            device: common.device.clone(),
        })
    }

    /// A path in the work folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Runs a command line of `esolm`, as one types it in a shell, and returns what it printed. Its messages go to `log.txt` in the work
    /// folder, or to this terminal, for what takes long and shows its progress.
    ///
    /// # Errors
    /// [`Error::Program`] with the last line of its messages.
    pub fn run(&self, command: &str, show: bool) -> Result<String, Error> {
        let failed = |why: String| Error::Program(command.into(), why);
        let output = Command::new(&self.program)
            .args(arguments(command)?)
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .stderr(if show {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            .output()
            .map_err(|error| failed(error.to_string()))?;
        let messages = String::from_utf8_lossy(&output.stderr);
        let log = self.path("log.txt");
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let written = file.and_then(|mut file| write!(file, "$ {command}\n{messages}"));
        written.map_err(Error::file("write", &log))?;
        if !output.status.success() {
            let last = messages.lines().rfind(|line| !line.trim().is_empty());
            return Err(failed(
                last.map_or(output.status.to_string(), |line| line.trim().into()),
            ));
        }
        String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))
    }

    /// The answer to a command that prints JSON, as `parse` reads it: the one that is kept in the work folder under `key` if it came from
    /// the same command and the files that this names are the same, else a new one, which is then kept there.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Json`], [`Error::File`].
    pub fn answer<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        command: String,
        parse: fn(&str) -> serde_json::Result<T>,
    ) -> Result<Answer<T>, Error> {
        let path = self.path(&format!("answers/{key}.json"));
        let named = arguments(&command)?;
        let kept: Option<KeptAnswer<T>> = record::read(&path)?;
        if let Some(kept) = kept.filter(|kept| kept.answer.command == command)
            && kept.files == self.digests(&named)?
        {
            return Ok(kept.answer);
        }
        let printed = self.run(&command, false)?;
        let what = format!("the answer of `{command}`");
        let report = parse(&printed).map_err(Error::json(what))?;
        let date = record::now();
        let answer = Answer {
            command,
            date,
            report,
        };
        let files = self.digests(&named)?;
        let kept = KeptAnswer { answer, files };
        record::write(&path, &kept)?;
        Ok(kept.answer)
    }

    /// The SHA-256, in hexadecimal, of each of `names` that is a file in the work folder.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn digests(&self, names: &[String]) -> Result<BTreeMap<String, String>, Error> {
        let mut digests = BTreeMap::new();
        for name in names {
            let path = self.path(name);
            if path.is_file() {
                let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
                digests.insert(name.clone(), format!("{:x}", Sha256::digest(bytes)));
            }
        }
        Ok(digests)
    }

    /// Deletes the answers whose keys fit.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(&self, is_stale: impl Fn(&str) -> bool) -> Result<(), Error> {
        let folder = self.path("answers");
        for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
            let path = entry.map_err(Error::file("read", &folder))?.path();
            let key = path.file_stem().and_then(|name| name.to_str());
            if key.is_some_and(&is_stale) {
                fs::remove_file(&path).map_err(Error::file("delete", &path))?;
            }
        }
        Ok(())
    }

    /// Writes `rows`, all of one length, as the tensor `tokens` (int32 [N, L]) of a safetensors file in the work folder.
    ///
    /// # Errors
    /// [`Error::Data`] where the rows differ in length or a token exceeds int32, [`Error::File`] where the file cannot be written.
    pub fn write_tokens(&self, name: &str, rows: &[&[u32]]) -> Result<(), Error> {
        let refused = || {
            Error::Data(
                "the samples are not an array of int32; sample them with one --length".into(),
            )
        };
        let length = rows.first().map_or(0, |row| row.len());
        let is_array = rows.iter().all(|row| row.len() == length);
        let tokens: Result<Vec<i32>, _> = rows.concat().into_iter().map(i32::try_from).collect();
        let tokens = tokens.ok().filter(|_| is_array).ok_or_else(refused)?;
        let bytes: Vec<u8> = tokens.into_iter().flat_map(i32::to_le_bytes).collect();
        let path = self.path(name);
        let specs = [TensorSpec::new("tokens", Dtype::I32, [rows.len(), length])];
        SafetensorsWriter::new(Vec::new(), &[], &specs)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.finish()))
            .map_err(Error::file("write", &path))
            .and_then(|file| record::replace(&path, &file))
            .map(|_| ())
    }
}

/// The words of a command line behind the program's name.
fn arguments(command: &str) -> Result<Vec<String>, Error> {
    let open = || Error::Program(command.into(), "a quote is not closed".into());
    let words = shlex::split(command).ok_or_else(open)?;
    Ok(words.into_iter().skip(1).collect())
}

/// One value of JSON, or what is wrong with it.
pub fn json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text)
}

/// Values from lines of JSON, or what is wrong with the first line that is not valid.
pub fn json_lines<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.collect()
}
