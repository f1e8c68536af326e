//! Where output goes: files through links, pipes and devices, which are never replaced; and what a quiet run shows on a
//! terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Folder, GOLDEN, esolm, root, run, succeed};

const SHORT: [&str; 7] = ["sample", "--device", "cpu", "--seed", "1", "--length", "16"];

fn names(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("a folder").flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn lines(trace: &str) -> Vec<Value> {
    let lines = trace.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

#[test]
fn a_trace_goes_through_a_pipe_a_link_and_a_device() {
    let folder = Folder::new();
    let file = folder.file("trace.jsonl");
    succeed(&[&SHORT[..], &["--trace", &file]].concat());
    let whole = lines(&fs::read_to_string(&file).expect("text"));

    let pipe = folder.file("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let end = pipe.clone();
    let reader = std::thread::spawn(move || fs::read_to_string(end).expect("text"));
    succeed(&[&SHORT[..], &["--trace", &pipe]].concat());
    assert_eq!(lines(&reader.join().expect("text")).len(), whole.len());
    assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());

    // The link stays, and its target keeps its mode.
    let link = folder.file("link");
    symlink("trace.jsonl", &link).expect("a link");
    fs::write(&file, "old").expect("writable");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("own");
    succeed(&[&SHORT[..], &["--trace", &link]].concat());
    assert!(Path::new(&link).is_symlink());
    assert_eq!(
        lines(&fs::read_to_string(&file).expect("text")).len(),
        whole.len()
    );
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    let sink = folder.file("sink");
    let made = Command::new("mknod").args([&sink, "c", "1", "3"]).output();
    // Only root may create one, and not everywhere.
    let is_made = made.is_ok_and(|made| made.status.success()) && fs::write(&sink, "").is_ok();
    if is_made {
        succeed(&[&SHORT[..], &["--trace", &sink]].concat());
        let text = folder.file("text");
        fs::write(&text, "The cat sat.").expect("writable");
        succeed(&["ppl", "--device", "cpu", "--per-document", &sink, &text]);
        let kind = fs::metadata(&sink).expect("there").file_type();
        assert!(kind.is_char_device());
        fs::remove_file(&text).expect("there");
        fs::remove_file(&sink).expect("there");
    }
    assert_eq!(names(&folder), ["link", "pipe", "trace.jsonl"]);
}

#[test]
fn a_reader_of_a_trace_that_goes_away_is_named() {
    let folder = Folder::new();
    let pipe = folder.file("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let end = pipe.clone();
    let reader = std::thread::spawn(move || drop(fs::File::open(end).expect("a pipe")));
    let output = run(&["sample", "--device", "cpu", "--trace", &pipe]);
    reader.join().expect("no panic");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("what reads it ended"), "{said}");
}

/// A link like `/dev/stdout`, pointing to a pipe and to a file.
#[cfg(target_os = "linux")]
#[test]
fn a_link_to_the_standard_output_is_written_to() {
    let folder = Folder::new();
    let link = folder.file("stdout");
    symlink("/proc/self/fd/1", &link).expect("a link");
    let plain = succeed(&SHORT);
    let both = succeed(&[&SHORT[..], &["--trace", &link]].concat());
    let trace = both.strip_suffix(&plain).expect("the text comes last");
    assert!(lines(trace).len() > 2);

    let file = folder.file("both");
    let output = fs::File::create(&file).expect("writable");
    let mut run = esolm();
    run.args(SHORT).args(["--trace", &link]).stdout(output);
    assert!(run.status().expect("it starts").success());
    let both = fs::read_to_string(&file).expect("text");
    let trace = both.strip_suffix(&plain).expect("the text comes last");
    assert!(lines(trace).len() > 2);
    assert_eq!(names(&folder), ["both", "stdout"]);
}

#[test]
fn tensors_go_to_the_standard_output() {
    let folder = Folder::new();
    let input = input(&folder);
    let model = format!("{GOLDEN}/model_a.ema.safetensors");
    let config = format!("{GOLDEN}/model_a.config.json");
    let forward = |output: &str| {
        let line = [
            "forward", "--device", "cpu", "--model", &model, "--config", &config, "--input",
            &input, "--output", output,
        ];
        let output = run(&line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        output.stdout
    };
    let file = folder.file("out");
    assert!(forward(&file).is_empty());
    assert!(forward("-") == fs::read(&file).expect("there"));
    assert_eq!(names(&folder), ["in", "out"]);
    assert!(!root().join("-").exists());
}

/// An input of `forward` for the golden models.
fn input(folder: &Folder) -> String {
    let file = folder.file("in");
    let bytes = |values: [i32; 4]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let i32s = |name, values| (name, safetensors::Dtype::I32, vec![1, 4], bytes(values));
    let tensors = [
        i32s("zt_sorted", [96, 96, 96, 96]),
        i32s("sort_idx", [3, 1, 0, 2]),
    ];
    crate::common::write(&file, &tensors);
    file
}

/// A command that cannot be stopped after a step ends at once, and leaves nothing behind. A signal that was ignored at
/// startup, as a script ignores SIGINT for background jobs, stays ignored.
#[test]
fn a_signal_leaves_no_temporary_file() {
    for (ignored, signals, code) in [
        ("", &["-INT"][..], 130),
        ("", &["-TERM"], 143),
        ("INT", &["-INT", "-TERM"], 143),
        ("TERM HUP", &["-TERM", "-HUP", "-INT"], 130),
    ] {
        let folder = Folder::new();
        let input = folder.file("in");
        // Work for many seconds.
        let (batch, length) = (256, 128i32);
        let order: Vec<u8> = (0..batch * length)
            .flat_map(|i| (i % length).to_le_bytes())
            .collect();
        let shape = vec![batch as usize, length as usize];
        let tensor = |name, bytes| (name, safetensors::Dtype::I32, shape.clone(), bytes);
        let tensors = [
            tensor("zt_sorted", vec![0; order.len()]),
            tensor("sort_idx", order),
        ];
        crate::common::write(&input, &tensors);
        let script = format!("trap '' {ignored}; exec \"$0\" \"$@\"");
        let script = if ignored.is_empty() {
            "exec \"$0\" \"$@\""
        } else {
            &script
        };
        let mut program = Command::new("sh");
        crate::common::hears_signals(&mut program);
        let mut child = program
            .current_dir(root())
            .env_remove("ESOLM_MODEL")
            .args(["-c", script, env!("CARGO_BIN_EXE_esolm")])
            .args(["forward", "--device", "cpu", "--input", &input])
            .args(["--output", &folder.file("out")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("text");
        assert!(line.starts_with("device: "), "{line}");
        assert_eq!(names(&folder).len(), 2, "one is under way");
        for signal in signals {
            let killed = Command::new("kill")
                .args([signal, &child.id().to_string()[..]])
                .status();
            assert!(killed.expect("kill runs").success());
        }
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        assert_eq!(names(&folder), ["in"]);
    }
}

/// Ctrl-S stops a terminal, which then accepts nothing, neither text nor the sequence that restores the cursor.
#[cfg(target_os = "linux")]
#[test]
fn a_stopped_terminal_does_not_keep_the_program_from_its_end() {
    let folder = Folder::new();
    let pid_file = folder.file("pid");
    let program = env!("CARGO_BIN_EXE_esolm");
    let line = format!("echo $$ > {pid_file}; exec {program} {}", SHORT.join(" "));
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &line])
        .arg(folder.file("seen"))
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script runs");
    let mut keys = terminal.stdin.take().expect("piped");
    keys.write_all(b"\x13").expect("script reads");
    let patience = || std::thread::sleep(std::time::Duration::from_millis(100));
    let listens = |pid: &str| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        let mut threads = threads.flatten().flatten();
        threads.any(|thread| {
            let name = fs::read_to_string(thread.path().join("comm"));
            name.is_ok_and(|name| name.trim() == "signals")
        })
    };
    let pid = loop {
        let pid = fs::read_to_string(&pid_file).unwrap_or_default();
        if !pid.trim().is_empty() && listens(pid.trim()) {
            break pid.trim().to_string();
        }
        let ended = terminal.try_wait().expect("script runs");
        assert!(ended.is_none(), "it ended before the signal");
        patience();
    };
    // The first signal stops after the current step, and the next one ends the program.
    for _ in 0..300 {
        let _ = Command::new("kill").args(["-TERM", &pid]).output();
        if let Some(ended) = terminal.try_wait().expect("script runs") {
            assert_eq!(ended.code(), Some(143));
            return;
        }
        patience();
    }
    let _ = Command::new("kill").args(["-KILL", &pid]).output();
    let _ = terminal.wait();
    panic!("no signal ended it");
}

/// A model is downloaded from a hub on this machine; progress bars are shown unless the run is quiet.
#[cfg(target_os = "linux")]
#[test]
fn a_quiet_download_shows_nothing() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hub = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        // It does not matter if a client hangs up.
        let streams = listener.incoming().flatten();
        streams.for_each(|stream| drop(answer(stream)));
    });
    // The terminal output of a run whose model is not yet in the cache.
    let seen = |name: &str, quiet: &str| {
        let seen = folder.file(name);
        let program = env!("CARGO_BIN_EXE_esolm");
        let line = format!(
            "{program} {} --model hf:some-one/stories {quiet}",
            SHORT.join(" ")
        );
        let status = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, &seen])
            .env("HF_HOME", folder.file(&format!("{name}-home")))
            .env("HF_ENDPOINT", &hub)
            .env("TERM", "xterm")
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("NO_COLOR")
            .envs(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|proxy| (proxy, "")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let seen = fs::read_to_string(seen).expect("text");
        assert!(status.expect("script runs").success(), "{seen}");
        // Lines added by `script` itself.
        let lines = seen.lines().filter(|line| !line.starts_with("Script "));
        lines
            .map(|line| format!("{}\n", line.trim_end()))
            .collect::<String>()
    };
    let text = succeed(&SHORT);
    assert!(seen("loud", "").contains("model.safetensors"));
    let quiet = seen("quiet", "--quiet");
    assert_eq!(quiet.trim(), text.trim());
}

/// A pipe in the place of a file that would be removed belongs to somebody else, and is never removed.
#[test]
fn convert_removes_nothing_but_files() {
    let folder = Folder::new();
    let (model, out) = (folder.file("model"), folder.file("out"));
    succeed(&["convert", "models/stories", &model, "--tokenizer", "none"]);
    fs::remove_file(format!("{model}/generation_config.json")).expect("it is there");
    fs::create_dir(&out).expect("a folder");
    let pipe = format!("{out}/tokenizer.json");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let output = run(&["convert", &model, &out, "--force"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("is not a regular file"), "{errors}");
    assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
    assert!(!fs::exists(format!("{out}/model.safetensors")).expect("a folder"));
}

/// Answers like the hub for the files of the small model.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(bytes) = line.to_lowercase().trim().strip_prefix("range: bytes=") {
            let (from, to) = bytes.split_once('-').expect("a range");
            range = Some((
                from.parse::<usize>().expect("a number"),
                to.parse::<usize>(),
            ));
        } else if line.trim().is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.strip_prefix("/some-one/stories/resolve/main/");
    let file = name.and_then(|name| fs::read(root().join("models/stories").join(name)).ok());
    let Some(file) = file else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let last = file.len() - 1;
    let (from, to) = range.map_or((0, last), |(from, to)| (from, to.unwrap_or(last).min(last)));
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{to}/{}\r\nETag: \"{}\"\r\n\
         X-Repo-Commit: 0123456789abcdef\r\nConnection: close\r\n\r\n",
        to + 1 - from,
        file.len(),
        file.len(),
    )?;
    stream.write_all(&file[from..=to])
}
