//! The fuzz targets on a stable compiler: the whole committed corpus, then seeded mutations of it, a few seconds a
//! target at most. `make fuzz` runs the same functions under libFuzzer.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::Target;

/// Mutations of each target's corpus.
const MUTATIONS: usize = 20_000;

/// After this long a target's mutations end, however many were made.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Longest input that mutations grow to.
const INPUT_MAX: usize = 8 * 1024;

/// A small generator: the same inputs on every run and machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides.max(1)
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs the target; where it panics, says on which input.
fn run(name: &str, target: Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name}: {what} is handled wrongly; its bytes: {hex}");
    }
}

/// One to four changes: a byte, a bit, a cut, a piece twice, a piece of another input, a number at its end.
fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(input.len() + 1);
        let len = 1 + dice.roll(16);
        match dice.roll(7) {
            0 => input.insert(at, u8::try_from(dice.roll(256)).unwrap()),
            1 if at < input.len() => input[at] ^= 1 << dice.roll(8),
            2 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'%', b'&'][dice.roll(8)],
            3 => input.truncate(at),
            4 => {
                let piece: Vec<u8> = input[at..].iter().copied().take(len).collect();
                input.splice(at..at, piece);
            }
            5 => {
                let from = dice.roll(other.len() + 1);
                let piece: Vec<u8> = other[from..].iter().copied().take(len).collect();
                input.splice(at..at, piece);
            }
            _ => drop(input.drain(at..(at + len).min(input.len()))),
        }
    }
    input.truncate(INPUT_MAX);
}

#[test]
fn every_target_takes_its_corpus_and_mutations_of_it() {
    let threads: Vec<_> = targets::ALL
        .into_iter()
        .enumerate()
        .map(|(number, (name, target))| std::thread::spawn(move || fuzz(number, name, target)))
        .collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn fuzz(number: usize, name: &str, target: Target) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 3, "{name} has a corpus");
    for (path, input) in &corpus {
        run(name, target, input, &path.display().to_string());
    }
    let (mut dice, began) = (Dice(number as u64), Instant::now());
    for _ in 0..MUTATIONS {
        let mut input = corpus[dice.roll(corpus.len())].1.clone();
        let other = &corpus[dice.roll(corpus.len())].1;
        mutate(&mut input, other, &mut dice);
        run(name, target, &input, "a mutation");
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
}

#[test]
fn every_target_has_a_program_for_libfuzzer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in targets::ALL {
        let program = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("targets::{name}(bytes)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    assert_eq!(fs::read_dir(root.join("corpus")).unwrap().count(), targets::ALL.len());
}
