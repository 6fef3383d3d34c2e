//! What a Python stack says about a rank that does not move.

use serde::{Deserialize, Serialize};

use super::Waits;

/// Names that, called on the line where a rank waits, mean that it waits for others.
const COLLECTIVES: [&str; 14] = [
    "all_reduce",
    "allreduce",
    "all_gather",
    "allgather",
    "all_to_all",
    "reduce_scatter",
    "broadcast",
    "barrier",
    "init_process_group",
    "scatter(",
    "gather(",
    "recv(",
    ".backward(",
    ".wait(",
];
/// Functions of torch that are in no file of `torch/distributed` and wait for others: the backward pass ends with the
/// reduction of the gradients.
const WAITING: [&str; 2] = ["_engine_run_backward", "_wait_for_computation_stream"];
/// Frames that only wrap others.
const WRAPPERS: [&str; 4] = ["wrapper", "_fn", "decorate_context", "inner"];

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Its qualified name.
    pub function: String,
    /// As Python knows it.
    pub file: String,
    /// From 1.
    pub line: u32,
}

impl Frame {
    fn name(&self) -> &str {
        self.function.rsplit('.').next().unwrap_or(&self.function)
    }

    fn place(&self) -> String {
        format!("{} ({}:{})", self.function, short(&self.file), self.line)
    }

    fn is_collective(&self) -> bool {
        self.file.contains("/torch/distributed/") || WAITING.contains(&self.name())
    }

    fn is_loader(&self) -> bool {
        self.file.contains("/torch/utils/data/")
    }

    fn is_checkpoint(&self) -> bool {
        let name = self.name().to_ascii_lowercase();
        name.contains("checkpoint")
            || name.starts_with("save_")
            || self.file.ends_with("/torch/serialization.py")
            || ["/torch/distributed/checkpoint/", "/safetensors/", "/orbax/"]
                .iter()
                .any(|part| self.file.contains(part))
    }
}

/// What a stack, innermost frame first, waits in. `text` is the innermost frame's line of source.
#[must_use]
pub fn waits(frames: &[Frame], text: Option<&str>) -> Waits {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    let Some(innermost) = frames.first() else { return Waits::default() };
    let checkpoint = frames.iter().any(Frame::is_checkpoint) || text.is_some_and(|text| text.contains("fsync("));
    let loader = frames.iter().any(Frame::is_loader);
    let calls = text.is_some_and(|text| COLLECTIVES.iter().any(|name| text.contains(name)));
    let collective = innermost.is_collective() || calls;
    // The function that the program called says more than what is inside it.
    let inside =
        frames.iter().take_while(|frame| frame.is_collective()).filter(|frame| !WRAPPERS.contains(&frame.name()));
    let place = match (inside.last(), text) {
        (Some(frame), _) if !WAITING.contains(&frame.name()) => frame.place(),
        (Some(_), _) => "the backward pass".to_owned(),
        (None, Some(text)) => format!("`{text}` in {}", innermost.place()),
        (None, None) => innermost.place(),
    };
    Waits { place, collective, checkpoint, loader, unread: false, stack: frames.iter().map(Frame::place).collect() }
}

/// The end of a path: enough to know the file.
fn short(path: &str) -> &str {
    if let Some((_, inside)) = path.rsplit_once("/site-packages/") {
        return inside;
    }
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame { function: function.to_owned(), file: file.to_owned(), line }
    }

    #[test]
    fn a_collective_is_named_as_the_program_called_it() {
        let c10d = "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py";
        let logger = "/venv/lib/python3.11/site-packages/torch/distributed/c10d_logger.py";
        let stack = [
            frame("_wait", c10d, 7),
            frame("all_reduce", c10d, 3156),
            frame("_exception_logger.<locals>.wrapper", logger, 83),
            frame("main", "/work/job/train.py", 12),
        ];
        let waits = waits(&stack, Some("work.wait()"));
        assert!(waits.collective && !waits.checkpoint);
        assert_eq!(waits.place, "all_reduce (torch/distributed/distributed_c10d.py:3156)");
        assert_eq!(waits.stack[3], "main (job/train.py:12)");
    }

    #[test]
    fn what_the_program_does_itself_is_shown_with_its_line() {
        let waits = waits(&[frame("Loader.fetch", "/work/job/train.py", 12)], Some("  time.sleep(60)\n"));
        assert!(!waits.collective && !waits.checkpoint);
        assert_eq!(waits.place, "`time.sleep(60)` in Loader.fetch (job/train.py:12)");
    }

    #[test]
    fn waiting_for_others_is_seen_in_the_line_too() {
        for text in ["work.wait()", "loss.backward()", "dist.barrier()"] {
            assert!(waits(&[frame("main", "train.py", 1)], Some(text)).collective, "{text}");
        }
        let autograd = "/x/site-packages/torch/autograd/graph.py";
        let backward = waits(&[frame("_engine_run_backward", autograd, 1)], None);
        assert!(backward.collective);
        assert_eq!(backward.place, "the backward pass");
    }

    #[test]
    fn checkpoints_are_known_by_their_functions() {
        let save = "/x/site-packages/torch/serialization.py";
        assert!(waits(&[frame("_save", save, 1), frame("main", "train.py", 1)], None).checkpoint);
        assert!(waits(&[frame("write", "io.py", 1), frame("Run.save_checkpoint", "train.py", 1)], None).checkpoint);
        assert!(waits(&[frame("main", "train.py", 1)], Some("os.fsync(f.fileno())")).checkpoint);
        assert_eq!(waits(&[], None), Waits::default());
    }
}
