//! Replays the corpora of the fuzz targets on the stable compiler.

use std::path::Path;

#[path = "../../../fuzz/src/patch.rs"]
mod patch;
#[path = "../../../fuzz/src/selector.rs"]
mod selector;

/// Runs every input of a corpus; the name of a failing one is the last that was printed.
#[expect(clippy::disallowed_methods, reason = "the core reads no files; its tests read their corpus")]
fn replay(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut inputs: Vec<_> =
        folder.read_dir().expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 8, "the corpus of {name} is there");
    for input in inputs {
        eprintln!("{}", input.display());
        run(&std::fs::read(&input).expect("an input"));
    }
}

#[test]
fn patches() {
    replay("patch", patch::run);
}

#[test]
fn selectors() {
    replay("selector", selector::run);
}
