//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::Failure;

/// A file under a temporary name beside its place; [`Pending::commit`] gives it its name, dropping it removes it.
pub struct Pending {
    temporary: PathBuf,
    path: PathBuf,
    sink: Option<BufWriter<File>>,
}

impl Pending {
    /// Begins to write `path`.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let Some(name) = path.file_name() else {
            return Err(Failure::usage(format!(
                "{} names no file to write; give a file name",
                path.display()
            )));
        };
        if path.is_dir() {
            return Err(Failure::usage(format!(
                "{} is a folder; give the name of a file to write",
                path.display()
            )));
        }
        let name = name.to_string_lossy();
        // Two of one run must not share a name: the one that is dropped would remove the other.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_file_name(format!(".{name}.{}-{}.partial", unique.0, unique.1));
        let file = File::create(&temporary).map_err(|error| cannot_write(path, &error))?;
        Ok(Self {
            temporary,
            path: path.into(),
            sink: Some(BufWriter::new(file)),
        })
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes stand until the commit.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Writes a value as one line of JSON.
    pub fn json_line(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let sink = self.sink.as_mut().expect("open until the commit");
        serde_json::to_writer(&mut *sink, value)
            .map_err(io::Error::from)
            .and_then(|()| sink.write_all(b"\n"))
            .map_err(|error| cannot_write(&self.path, &error))
    }

    /// Gives the file its name, once its bytes are on the disk.
    pub fn commit(mut self) -> Result<(), Failure> {
        let sink = self.sink.take().expect("open until the commit");
        sink.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|_| {
                File::options()
                    .write(true)
                    .open(&self.temporary)?
                    .sync_all()
            })
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.sink = None;
        // After a commit it is gone already.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The sentence for a file that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write {}: {error}; check that the folder exists and has room",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("esolm-files-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("trace.jsonl");
        fs::write(&path, "old").expect("writable");

        let mut pending = Pending::create(&path).expect("writable");
        pending.json_line(&1).expect("writable");
        drop(pending);
        assert_eq!(fs::read_to_string(&path).expect("there"), "old");

        let mut pending = Pending::create(&path).expect("writable");
        pending.json_line(&[1, 2]).expect("writable");
        pending.json_line(&"x").expect("writable");
        pending.commit().expect("written");
        assert_eq!(fs::read_to_string(&path).expect("there"), "[1,2]\n\"x\"\n");
        assert_eq!(
            fs::read_dir(&folder).expect("there").count(),
            1,
            "nothing is left over"
        );

        assert!(Pending::create(&folder).is_err());
        assert!(Pending::create(&folder.join("no/such/file")).is_err());
        fs::remove_dir_all(&folder).expect("removable");
    }
}
