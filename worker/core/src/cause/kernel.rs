//! Lines of the kernel's log that tell why a process ended: out-of-memory kills and the NVIDIA driver's Xid errors.

use serde::{Deserialize, Serialize};

use super::words::Finding;
use super::{Evidence, Kind, Verdict};
use crate::supervisor::Exit;

/// What a line of the kernel's log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelEvent {
    /// A process was killed because memory had run out.
    OutOfMemory {
        /// Which.
        pid: u32,
        /// Bytes that it had in memory and that were in no file.
        anonymous_bytes: Option<u64>,
        /// Whether it was a control group's that had run out, and not the machine's.
        limited: bool,
    },
    /// A GPU reported an error.
    Xid {
        /// The GPU, by its place on the bus.
        device: String,
        /// The number that NVIDIA gave this kind of error.
        code: u32,
        /// The process that used the GPU, where the driver knows.
        pid: Option<u32>,
        /// The rest of the line.
        words: String,
    },
}

/// Reads one line (the text of it, without priority and time).
#[must_use]
pub fn kernel_event(line: &str) -> Option<KernelEvent> {
    out_of_memory(line).or_else(|| xid_line(line))
}

/// `Memory cgroup out of memory: Killed process 1234 (python) total-vm:…kB, anon-rss:…kB, …`
fn out_of_memory(line: &str) -> Option<KernelEvent> {
    let (before, after) = line.split_once("Killed process ")?;
    let before = before.to_ascii_lowercase();
    if !before.contains("out of memory") {
        return None;
    }
    let pid = number(after)?;
    let rss = after.split_once("anon-rss:").and_then(|(_, rest)| number::<u64>(rest));
    let anonymous_bytes = rss.map(|kib| kib.saturating_mul(1024));
    Some(KernelEvent::OutOfMemory { pid, anonymous_bytes, limited: before.contains("cgroup") })
}

/// `NVRM: Xid (PCI:0000:65:00): 79, pid=1234, name=python, GPU has fallen off the bus.`
fn xid_line(line: &str) -> Option<KernelEvent> {
    let (_, rest) = line.split_once("NVRM: Xid (")?;
    let (device, rest) = rest.split_once("): ")?;
    let (code, rest) = rest.split_once(',').unwrap_or((rest, ""));
    let pid = rest.split_once("pid=").and_then(|(_, rest)| number(rest.trim_start_matches('\'')));
    let device = device.strip_prefix("PCI:").unwrap_or(device).to_owned();
    Some(KernelEvent::Xid { device, code: number(code)?, pid, words: rest.trim().to_owned() })
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits: String = text.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The kernel's log says that it killed this process for memory: how much the process had, if it says that, and whether it was a
/// control group's that had run out.
pub(super) fn killed_for_memory(evidence: &Evidence) -> Option<(Option<u64>, bool)> {
    evidence.kernel.iter().find_map(|event| match event {
        KernelEvent::OutOfMemory { pid, anonymous_bytes, limited } if Some(*pid) == evidence.pid => {
            Some((*anonymous_bytes, *limited))
        }
        KernelEvent::OutOfMemory { .. } | KernelEvent::Xid { .. } => None,
    })
}

/// A GPU error that explains the end: one of this very process, or of a GPU of this machine while the process complained
/// about its GPU.
pub(super) fn xid(evidence: &Evidence, exit: Exit, finding: Option<&Finding>) -> Option<Verdict> {
    let complains = finding.is_some_and(|finding| about_gpu(&finding.line) && !finding.secondary);
    let lost = matches!(exit, Exit::Signal(_)) && !evidence.stopped;
    let (device, code, words) = evidence.kernel.iter().find_map(|event| match event {
        KernelEvent::Xid { device, code, pid, words } => {
            let ours = pid.is_some() && *pid == evidence.pid;
            let likely = pid.is_none() && (complains || (lost && is_hardware(*code)));
            let preempted = *code == PREEMPTIVE;
            ((ours || likely) && !preempted).then_some((device, *code, words))
        }
        KernelEvent::OutOfMemory { .. } => None,
    })?;
    let said = finding.filter(|_| complains).map(|finding| format!("; the program said: {}", finding.line));
    let meaning = meaning(code).unwrap_or(words);
    let message = format!("Xid {code} on GPU {device}: {meaning}{}", said.unwrap_or_default());
    Some(Verdict::primary(Kind::GpuXid, message))
}

fn about_gpu(line: &str) -> bool {
    ["CUDA error", "CUDA driver", "cuda runtime", "CUBLAS", "CUDNN", "cuDNN", "NCCL"]
        .iter()
        .any(|word| line.contains(word))
}

/// "Preemptive cleanup": what every process on a GPU gets after an error of another.
const PREEMPTIVE: u32 = 45;

/// Errors of the GPU, its memory or its links, which no program causes.
fn is_hardware(code: u32) -> bool {
    matches!(code, 48 | 61..=64 | 74 | 79 | 92 | 94 | 95 | 119 | 120 | 140 | 143 | 149)
}

/// NVIDIA's catalogue, in short.
fn meaning(code: u32) -> Option<&'static str> {
    Some(match code {
        13 => "an illegal instruction or address in the program's GPU code",
        31 => "an illegal address in the program's GPU code (memory page fault)",
        43 => "the program's GPU work was stopped after an error",
        48 => "two bits of GPU memory are wrong (uncorrectable ECC error); the GPU needs a reset",
        61 | 62 => "the GPU's own controller stopped; the GPU needs a reset",
        63 => "a row of GPU memory is to be remapped; the GPU needs a reset",
        64 => "a row of GPU memory could not be remapped; the GPU should be replaced",
        74 => "an NVLink connection failed",
        79 => "the GPU has fallen off the bus",
        92 => "many single-bit errors of GPU memory",
        94 => "an uncorrectable error of GPU memory that hit this program only",
        95 => "an uncorrectable error of GPU memory; the GPU needs a reset",
        119 | 120 => "the GPU's system processor does not answer; the GPU needs a reset",
        140 => "an unrecovered error of GPU memory; the GPU needs a reset",
        _ => return None,
    })
}
