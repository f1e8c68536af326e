//! Files that appear complete or not at all.

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

    // Two writers of the same file do not interfere; the last commit wins.
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
    assert!(refused(&folder.path("")).contains("names a folder"));
    assert!(refused(folder.path("").parent().unwrap()).contains("is a folder"));
    assert!(refused(Path::new("..")).contains("not name a file"));
    // Reported immediately: the rename would fail only after everything is written.
    assert!(refused(&folder.path("new/")).contains("names a folder"));
    // The operating system's own message.
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

/// Writing a file removes temporary files left by a killed process, but not those still being written or those of other files.
#[test]
fn stale_temporary_files_are_removed() {
    let folder = Folder::new("atomic-stale");
    let path = folder.path("a.txt");
    folder.write(".a.txt.Abc123.esolm.partial", b"half");
    folder.write(".b.txt.Abc123.esolm.partial", b"half");
    folder.write(".a.txt.partial", b"somebody's own");
    let mut living = AtomicFile::create(&path).unwrap();
    atomic::write(&path, b"whole").unwrap();
    let left = names(&folder);
    assert_eq!(left.len(), 4, "{left:?}");
    for name in [".a.txt.partial", ".b.txt.Abc123.esolm.partial", "a.txt"] {
        assert!(left.iter().any(|left| left == name), "{left:?}");
    }
    living.write_all(b"later").unwrap();
    living.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"later");
}

#[cfg(unix)]
mod unix {
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_have_the_permissions_of_any_new_file_or_of_the_one_before() {
        let folder = Folder::new("atomic-modes");
        let usual = folder.write("usual", b"");
        let path = folder.path("a");
        atomic::write(&path, b"").unwrap();
        assert_eq!(mode(&path), mode(&usual));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let before = fs::metadata(&path).unwrap();
        atomic::write(&path, b"new").unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::metadata(&path).unwrap().uid(), before.uid());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = Folder::new("atomic-links");
        fs::create_dir(folder.path("far")).unwrap();
        let target = folder.write("far/a", b"old");
        let link = folder.path("link");
        symlink("far/a", &link).unwrap();
        let chain = folder.path("chain");
        symlink("link", &chain).unwrap();
        for (path, text) in [(&link, "first"), (&chain, "second")] {
            atomic::write(path, text).unwrap();
            assert!(link.is_symlink() && chain.is_symlink());
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
        }
        // Writing through a dangling link creates its target.
        let dangling = folder.path("dangling");
        symlink("far/b", &dangling).unwrap();
        atomic::write(&dangling, b"made").unwrap();
        assert!(dangling.is_symlink());
        assert_eq!(fs::read(folder.path("far/b")).unwrap(), b"made");
        let nowhere = folder.path("nowhere");
        symlink("no/such/folder", &nowhere).unwrap();
        let error = AtomicFile::create(&nowhere).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        let [one, two] = ["one", "two"].map(|name| folder.path(name));
        symlink("two", &one).unwrap();
        symlink("one", &two).unwrap();
        let error = AtomicFile::create(&one).unwrap_err().to_string();
        assert!(error.contains("circle"), "{error}");
        symlink("far", folder.path("to-folder")).unwrap();
        let error = AtomicFile::create(folder.path("to-folder")).unwrap_err();
        assert!(error.to_string().contains("is a folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path("far")).unwrap().count(), 2);
    }

    #[test]
    fn what_is_not_a_regular_file_is_written_to_and_not_replaced() {
        let folder = Folder::new("atomic-streams");
        let link = folder.path("link");
        symlink("linked", &link).unwrap();
        // A pipe each: a process that another test starts has a copy of what is open here until it is the other program, so
        // the first reader's end may still be open when the second text is written.
        for (name, written) in [("pipe", folder.path("pipe")), ("linked", link.clone())] {
            let pipe = folder.path(name);
            let made = Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            let end = pipe.clone();
            let reader = std::thread::spawn(move || fs::read(end).unwrap());
            let mut file = AtomicFile::create(&written).unwrap();
            file.write_all(b"through the ").unwrap();
            file.sync().unwrap();
            file.write_all(b"pipe").unwrap();
            file.commit().unwrap();
            assert_eq!(reader.join().unwrap(), b"through the pipe");
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
            assert!(link.is_symlink());
        }

        let socket = folder.path("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let mut stream = listener.accept().unwrap().0;
            stream.read_to_string(&mut text).map(|_| text)
        });
        atomic::write(&socket, b"through the socket").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), "through the socket");
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(names(&folder).len(), 4);

        // A second /dev/null, which only root may create.
        let sink = folder.path("sink");
        let made = Command::new("mknod")
            .arg(&sink)
            .args(["c", "1", "3"])
            .output();
        if made.unwrap().status.success() && fs::write(&sink, b"").is_ok() {
            atomic::write(&sink, b"gone").unwrap();
            let kind = fs::metadata(&sink).unwrap().file_type();
            assert!(kind.is_char_device());
            assert_eq!(names(&folder).len(), 5);
        }
    }

    /// Anything but a file that appears at the path during the write is not replaced.
    #[test]
    fn what_stands_there_in_the_end_is_not_replaced_unless_it_is_a_file() {
        let folder = Folder::new("atomic-meanwhile");
        let path = folder.path("out");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = file.commit().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        assert_eq!(names(&folder), ["out"]);
    }

    /// Nobody wants to overwrite a disk's first blocks. Only root may create such a node; no device has this number.
    #[test]
    fn disks_are_refused() {
        let folder = Folder::new("atomic-disk");
        let disk = folder.path("disk");
        let made = Command::new("mknod")
            .arg(&disk)
            .args(["b", "240", "99"])
            .output();
        if !made.unwrap().status.success() {
            return;
        }
        for path in [&disk, &folder.path("link")] {
            if path != &disk {
                symlink("disk", path).unwrap();
            }
            for error in [
                AtomicFile::create(path).unwrap_err(),
                atomic::is_stream(path).unwrap_err(),
            ] {
                assert!(error.to_string().contains("block device"), "{error}");
            }
        }
        let kind = fs::metadata(&disk).unwrap().file_type();
        assert!(kind.is_block_device());
    }

    /// Only a regular file can have been left by a killed process.
    #[test]
    fn pipes_and_links_with_the_name_of_a_temporary_file_stay() {
        let folder = Folder::new("atomic-stale-pipe");
        let pipe = folder.path(".a.txt.Abc123.esolm.partial");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        folder.write("own", b"own");
        symlink("own", folder.path(".a.txt.Def456.esolm.partial")).unwrap();
        let path = folder.path("a.txt");
        atomic::write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(&folder).len(), 4);
    }

    /// Like `/dev/fd/3` with `3>> file` in a shell.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_descriptor_is_written_to_although_a_file_is_behind_it() {
        use std::os::fd::AsRawFd;

        let folder = Folder::new("atomic-descriptors");
        let path = folder.write("a", b"before, ");
        let open = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let link = folder.path("link");
        symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        atomic::write(&link, b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before, after");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(names(&folder).len(), 2);
    }
}
