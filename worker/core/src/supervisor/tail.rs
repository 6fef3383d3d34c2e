//! The last lines of a rank's output, kept for the day it fails.

use std::collections::VecDeque;

/// Lines kept. A Python traceback through torch and a launcher is about 30 lines.
const LINES: usize = 60;
/// Bytes kept of one line.
const LINE_BYTES: usize = 500;

/// A bounded memory of output lines.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    /// Remembers a line (without its end).
    pub fn push(&mut self, line: &str) {
        // Frames of C++ would push the exception itself out of the memory: torch prints up to 60 of them after it.
        if line.trim().is_empty() || is_frame(line) {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let mut end = line.len().min(LINE_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        self.lines.push_back(line[..end].to_owned());
    }

    /// The remembered lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The lines that tell why a program failed, `limit` at most: the last traceback, panic or error message with what
    /// belongs to it, or else the last lines. What survivors say about the failure of others is left out.
    pub fn meaningful(&self, limit: usize) -> Vec<&str> {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).filter(|line| !is_noise(line)).collect();
        let start = lines.iter().rposition(|line| is_opening(line));
        let from = match start {
            // A traceback's last lines say more than its first.
            Some(start) if lines.len() - start > limit => lines.len() - limit,
            Some(start) => start,
            // Without a message the end of the output is the best there is, but a few lines of it are enough.
            None => lines.len().saturating_sub(limit.min(5)),
        };
        lines[from..].to_vec()
    }
}

/// `frame #3: c10d::TCPStore::get(…)`, with or without torch's `[rank0]: ` before it.
fn is_frame(line: &str) -> bool {
    let rest = line.strip_prefix("[rank").and_then(|rest| rest.split_once("]:")).map_or(line, |(_, rest)| rest);
    rest.trim_start().starts_with("frame #")
}

/// The first line of a message about a failure.
fn is_opening(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Traceback (most recent call last)")
        || (line.starts_with("thread '") && line.contains("panicked at"))
        || line.starts_with("error:")
        || line.starts_with("Error:")
        || line.starts_with("fatal")
        || line.starts_with("Fatal")
}

/// Lines that frameworks add and that say nothing about the cause.
fn is_noise(line: &str) -> bool {
    line.contains("note: run with `RUST_BACKTRACE=1`")
        || line.contains("NCCL INFO")
        || line.contains("OMP_NUM_THREADS environment variable for each process")
}
