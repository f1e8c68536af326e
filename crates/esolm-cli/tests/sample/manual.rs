//! Completion scripts and manual pages include every command and all its options.

use super::{Folder, succeed};

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = succeed(&["--help"]);
    let list = help.split_once("Commands:\n").expect("a list").1;
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&name| name != "help")
        .map(String::from)
        .collect()
}

/// The long options that the help of a command lists.
fn options(command: &str) -> Vec<String> {
    let help = succeed(&[command, "--help"]);
    let words = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let starts = line.starts_with('-');
        let long = line.split([' ', ',']).find(|word| word.starts_with("--"))?;
        starts.then(|| long.trim_end_matches([':', '.']).into())
    });
    words.collect()
}

#[test]
fn completions_and_pages_name_every_option() {
    let commands = commands();
    for name in ["sample", "score", "ppl", "train", "completions", "man"] {
        assert!(commands.contains(&name.to_string()), "{commands:?}");
    }
    let folder = Folder::new();
    let pages = folder.file("deep/man1");
    succeed(&["man", &pages]);
    let page = |name: &str| {
        let text = std::fs::read_to_string(format!("{pages}/{name}.1")).expect(name);
        assert!(text.contains(".TH "), "{name}");
        text.replace("\\-", "-")
    };
    let first = page("esolm");
    assert!(first.contains(".SH SYNOPSIS\nesolm <COMMAND>\n"), "{first}");
    let synopsis = ".SH SYNOPSIS\nesolm ppl [OPTIONS] [FILE]...\n";
    assert!(page("esolm-ppl").contains(synopsis));
    let shells = ["bash", "zsh", "fish", "powershell", "elvish"]
        .map(|shell| (shell, succeed(&["completions", shell])));
    let mut seen = 0;
    for command in &commands {
        assert!(first.contains(command.as_str()), "{command}");
        let page = page(&format!("esolm-{command}"));
        let options = options(command);
        assert!(options.contains(&"--help".into()), "{command}: {options:?}");
        for option in &options {
            assert!(
                page.contains(option.as_str()),
                "esolm-{command}.1 lacks {option}"
            );
            for (shell, script) in &shells {
                // fish writes them without the dashes.
                let name = match *shell {
                    "fish" => format!("-l {}", option.trim_start_matches('-')),
                    _ => option.clone(),
                };
                assert!(
                    script.contains(&name),
                    "{shell} lacks {option} of {command}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} options were seen");
    // Overwrites the existing pages.
    succeed(&["man", &pages]);
}

/// Bash loads the script, and completes with it.
#[cfg(target_os = "linux")]
#[test]
fn bash_completes_with_it() {
    let folder = Folder::new();
    let script = folder.file("esolm.bash");
    std::fs::write(&script, succeed(&["completions", "bash"])).expect("written");
    let typed = "COMP_WORDS=(esolm sample --stop-s); COMP_CWORD=2; _esolm esolm --stop-s sample; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .args(["--norc", "-c", &format!("source '{script}'; {typed}")])
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.trim(),
        "--stop-string",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
