//! Files that appear whole or not at all.

use std::io::{self, Write};
use std::path::Path;

use esolm_checkpoint::AtomicFile;

use crate::failure::Failure;

/// A file that takes its name at the [commit](Pending::commit); dropped before, it was never there.
pub struct Pending(AtomicFile);

impl Pending {
    /// Begins to write `path`.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        if path.file_name().is_none() {
            return Err(Failure::usage(format!(
                "{} does not name a file to write; give a file name",
                path.display()
            )));
        }
        if path.is_dir() {
            return Err(Failure::usage(format!(
                "{} is a folder; give the name of a file to write",
                path.display()
            )));
        }
        let file = AtomicFile::create(path).map_err(|error| cannot_write(path, &error))?;
        Ok(Self(file))
    }

    /// Writes what `fill` does.
    pub fn fill(
        &mut self,
        fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
    ) -> Result<(), Failure> {
        fill(&mut self.0).map_err(|error| cannot_write(self.0.path(), &error))
    }

    /// Writes a value as one line of JSON.
    pub fn json_line(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        self.fill(|file| {
            serde_json::to_writer(&mut *file, value)?;
            file.write_all(b"\n")
        })
    }

    /// Gives the file its name, once its bytes are on the disk.
    pub fn commit(self) -> Result<(), Failure> {
        let path = self.0.path().to_path_buf();
        (self.0.commit()).map_err(|error| cannot_write(&path, &error))
    }
}

/// The sentence for a file that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write {}: {error}; check that the folder exists and has room",
        path.display()
    ))
}
