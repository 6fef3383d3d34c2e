//! Names of signals, and which of them a program brings upon itself.

/// By number, on Linux; the same on all architectures that we build for.
const NAMES: [(i32, &str); 17] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL (illegal instruction)"),
    (5, "SIGTRAP"),
    (6, "SIGABRT (the program aborted itself)"),
    (7, "SIGBUS (bad memory access; also when shared memory is full)"),
    (8, "SIGFPE (arithmetic error)"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV (segmentation fault)"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (24, "SIGXCPU (CPU time limit)"),
    (31, "SIGSYS (forbidden system call)"),
];

/// The signal in words.
pub(super) fn name(number: i32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}

/// Whether it comes from what the program did, not from somebody who sent it.
pub(super) fn is_crash(number: i32) -> bool {
    matches!(number, 4..=8 | 11 | 31)
}

/// An exit code in words.
pub(super) fn exit_code(code: i32) -> String {
    match code {
        126 => "exit code 126: the program cannot be executed".to_owned(),
        127 => "exit code 127: the program was not found".to_owned(),
        129..=159 => {
            let name = name(code - 128);
            let short = name.split(' ').next().unwrap_or_default();
            format!("exit code {code}, which is what a shell says for {short}")
        }
        _ => format!("exit code {code}"),
    }
}
