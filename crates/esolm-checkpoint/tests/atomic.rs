//! Files that appear whole or not at all.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::Folder;
use esolm_checkpoint::{AtomicFile, atomic};

fn names(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path("")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = Folder::new("atomic");
    let path = folder.write("a.txt", b"old");
    let mut dropped = AtomicFile::create(&path).unwrap();
    dropped.write_all(b"half").unwrap();
    dropped.flush().unwrap();
    assert_eq!(names(&folder).len(), 2);
    drop(dropped);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(&folder), ["a.txt"]);

    // Two of one name do not meet; the last one to be committed stays.
    let mut first = AtomicFile::create(&path).unwrap();
    let mut second = AtomicFile::create(&path).unwrap();
    first.write_all(b"first").unwrap();
    second.write_all(b"second").unwrap();
    second.commit().unwrap();
    first.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    atomic::write(&path, "whole").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole");
    assert_eq!(names(&folder), ["a.txt"]);
}

#[test]
fn what_cannot_be_a_file_is_refused() {
    let folder = Folder::new("atomic-bad");
    let refused = |path: &Path| AtomicFile::create(path).unwrap_err().to_string();
    assert!(refused(&folder.path("")).contains("not a regular file"));
    assert!(refused(Path::new("..")).contains("not name a file"));
    // Said at once: the rename would be refused only when everything is written.
    assert!(refused(&folder.path("new/")).contains("names a folder"));
    // The system's own words.
    let nowhere = refused(&folder.path("no/such/file"));
    let own = fs::File::create(folder.path("no/such/file")).unwrap_err();
    assert_eq!(nowhere, own.to_string());
    assert!(names(&folder).is_empty());
}

#[test]
fn names_may_be_as_long_as_the_system_takes() {
    let folder = Folder::new("atomic-long");
    let path = folder.path(&"n".repeat(250));
    atomic::write(&path, b"whole").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole");
}

#[cfg(unix)]
#[test]
fn files_have_the_permissions_of_any_new_file_and_devices_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let folder = Folder::new("atomic-unix");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let usual = folder.write("usual", b"");
    let path = folder.path("a");
    atomic::write(&path, b"").unwrap();
    assert_eq!(mode(&path), mode(&usual));

    let device = folder.path("device");
    symlink("/dev/null", &device).unwrap();
    assert!(atomic::write(&device, b"").is_err());
    assert!(device.is_symlink(), "a rename would have replaced it");
}
