//! Jobs whose lines come from pipes, or go there.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::common::{Folder, esolm};
use super::jobs::{done, input, job, refused, whole};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// From a pipe to a pipe; a named pipe stays one.
#[test]
fn a_job_goes_through_pipes() {
    use std::os::unix::fs::FileTypeExt;

    let folder = Folder::new();
    let input = input(&folder);
    let whole = whole(&folder, &input);
    let through = |arguments: &[&str]| {
        let mut command = esolm();
        command
            .args([
                "sample", "--device", "cpu", "--length", "24", "--quiet", "--input", "-",
            ])
            .args(arguments)
            .stdin(fs::File::open(&input).expect("the input"));
        command
    };
    assert!(done(through(&[])).stdout == whole);
    assert!(done(through(&["--output", "-"])).stdout == whole);
    let pipe = folder.file("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .expect("mkfifo")
            .success()
    );
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe).expect("read"))
    };
    done(through(&["--output", &pipe]));
    assert!(reader.join().expect("read") == whole);
    assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
    assert!(!fs::exists(format!("{pipe}.job")).expect("a folder"));
    // Input that can be read only once can be neither sharded nor resumed.
    for (rest, said) in [
        (&["--shard", "1/2"][..], "--shard needs an input"),
        (
            &["--resume", "--output", &folder.file("x")],
            "--resume needs an input",
        ),
    ] {
        let (code, errors) = refused(through(rest));
        assert!(code == 2 && errors.contains(said), "{errors}");
    }
    let (code, errors) = refused(job(&input, &pipe, &["--resume"]));
    assert!(
        code == 2 && errors.contains("--resume needs an output"),
        "{errors}"
    );
}

/// A job that reads what is written to it; also the lines of its output.
fn listening() -> (Child, Receiver<Value>) {
    let mut child = esolm()
        .args([
            "sample", "--device", "cpu", "--length", "24", "--input", "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (hears, heard) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = hears.send(serde_json::from_str(&line).expect("JSON"));
        }
    });
    (child, heard)
}

#[test]
fn a_line_is_answered_when_it_arrives() {
    let (mut child, heard) = listening();
    let mut stdin = child.stdin.take().expect("a pipe");
    for number in 1..=3 {
        writeln!(stdin, "{{\"id\": {number}}}").expect("it reads");
        let line = heard.recv_timeout(PATIENCE).expect("a result");
        assert_eq!(line["id"], number);
    }
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_signal_ends_the_wait_for_a_line() {
    let (mut child, heard) = listening();
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "{{}}").expect("it reads");
    heard.recv_timeout(PATIENCE).expect("a result");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("sent");
    let (tells, told) = channel();
    let mut stderr = child.stderr.take().expect("a pipe");
    std::thread::spawn(move || {
        let mut errors = String::new();
        stderr.read_to_string(&mut errors).expect("text");
        let _ = tells.send(errors);
    });
    let errors = told.recv_timeout(PATIENCE).expect("it ends");
    assert!(errors.contains("interrupted after 1 line in "), "{errors}");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    drop(stdin);
}
