//! What packages install beside the program: the manual pages and the completions, as the program writes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use crate::serving::BINARY;

fn run(words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(words);
    // What stands in the environment of the machine that packs is nobody's default.
    command.env("POSTRIDER_TOKEN", "prt_hunter2").env("POSTRIDER_URL", "http://hunter2.example");
    command.output().unwrap()
}

fn out(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn page(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .replace('\\', "")
}

#[test]
fn every_command_has_a_page_of_this_version_that_says_nothing_of_the_machine_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("another.1"), "").unwrap();
    let told = out(&["manual", folder.path().to_str().unwrap()]);
    let files: BTreeSet<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "another.1")
        .collect();
    assert!(told.starts_with(&format!("{} pages in ", files.len())), "only what it wrote is counted: {told}");

    let source = format!("\"postrider {}\"", env!("CARGO_PKG_VERSION"));
    let mut named = BTreeSet::from(["postrider.1".to_owned()]);
    for file in &files {
        let text = page(folder.path(), file);
        let title = text.lines().find(|line| line.starts_with(".TH ")).expect("a title").to_owned();
        let (_, behind) = title.split_once(" 1 ").unwrap_or_default();
        assert_eq!(behind, format!("\" \" {source} Postrider"), "date, source and manual of {file}");
        assert!(!text.contains("hunter2"), "{file}");
        let (_, commands) = text.split_once(".SH SUBCOMMANDS\n").unwrap_or_default();
        named.extend(
            commands.lines().filter_map(|line| line.strip_suffix("(1)")).map(|name| format!("{name}.1")),
        );
    }
    assert_eq!(files, named, "left: pages, right: those that other pages name");

    let rotate = page(folder.path(), "postrider-configs-rotate.1");
    assert!(rotate.contains("\nfBpostrider configs rotatefR [OPTIONS] <CONFIG-ID>\n"), "{rotate}");
    assert!(rotate.contains("fBPOSTRIDER_TOKENfR environment variable"), "{rotate}");
    let serve = page(folder.path(), "postrider-serve.1");
    let workers = serve.lines().find(|line| line.starts_with("Threads that deliver")).expect("--workers");
    assert!(workers.contains("One per core. [env: POSTRIDER_WORKERS]"), "{workers}");
}

#[test]
fn a_shell_reads_the_completions_and_finds_a_command_and_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("postrider.bash");
    std::fs::write(&file, out(&["completions", "bash"])).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let script = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _postrider postrider "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[*]}""#;
    for (words, wanted) in [
        (&["configs", "ro"][..], "rotate"),
        (&["configs", "jobs", "ca"], "cancel"),
        (&["configs", "rotate", "--ou"], "--output"),
        (&["configs", "rotate", "--output", ""], "text json"),
    ] {
        let output = Command::new("bash")
            .args(["--norc", "-c", script, "bash"])
            .arg(&file)
            .arg("postrider")
            .args(words)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), wanted, "{words:?}: {output:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(out(&["completions", shell]).contains("rotate"), "{shell}");
    }
    assert_eq!(run(&["completions", "csh"]).status.code(), Some(2));
}
