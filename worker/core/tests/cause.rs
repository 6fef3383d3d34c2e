//! Causes, from words that real programs said: the files in `cause/` are what Python 3.11 with PyTorch 2.13, and Rust,
//! printed when they were made to fail. NCCL's and the kernel's lines are from public reports.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use trainyard_worker_core::cause::{
    Candidate, Cause, ErrorReport, Evidence, Kind, cause, kernel_event, nccl_warning, root, suspect,
};
use trainyard_worker_core::supervisor::{Exit, Tail};

fn tail(text: &str) -> Tail {
    let mut tail = Tail::default();
    text.lines().for_each(|line| tail.push(line));
    tail
}

fn judged(text: &str, exit: Exit) -> Cause {
    cause(exit, &tail(text), &Evidence::default())
}

macro_rules! words {
    ($name:literal) => {
        include_str!(concat!("cause/", $name, ".txt"))
    };
}

fn check(text: &str, exit: Exit, kind: Kind, message: &str, secondary: bool) {
    let cause = judged(text, exit);
    assert_eq!((cause.kind, cause.secondary), (kind, secondary), "{}", cause.message);
    assert!(cause.message.starts_with(message), "{}", cause.message);
    assert_eq!(cause.code, exit.code());
}

const ONE: Exit = Exit::Code(1);

#[test]
fn exceptions_of_the_program_itself() {
    let abort = Exit::Signal(6);
    let message = "ValueError: bad batch 17: label 12 is not in 0..9 (train.py:10)";
    check(words!("value_error_then_abort"), abort, Kind::Exception, message, false);
    check(words!("chain"), ONE, Kind::Exception, "RuntimeError: cannot read the config (rdzv.py:21)", false);
    check(words!("data_loader"), ONE, Kind::Exception, "IndexError: sample 3 is corrupt (rdzv.py:27)", false);
    check(
        words!("exception_group"),
        ONE,
        Kind::Exception,
        "ExceptionGroup: two (2 sub-exceptions) (rdzv.py:18)",
        false,
    );
    check(words!("syntax_error"), ONE, Kind::Exception, "SyntaxError: invalid syntax (bad.py:1)", false);
    let panic = "panic: index out of bounds: the len is 0 but the index is 7 (p.rs:1:91)";
    check(words!("rust_panic"), Exit::Code(101), Kind::Exception, panic, false);
    // Its peers had gone when it wanted to say goodbye: that is not what ended it.
    check(words!("failed_farewell"), ONE, Kind::Exception, "ValueError: label 12 is not in 0..9 (train.py:6)", false);
}

#[test]
fn what_only_survivors_say_is_secondary() {
    check(words!("gloo_closed_by_peer"), ONE, Kind::Exception, "RuntimeError: ", true);
    check(words!("gloo_reset_by_peer"), ONE, Kind::Exception, "RuntimeError: ", true);
    check(words!("gloo_timeout"), ONE, Kind::Hang, "RuntimeError: ", true);
    let barrier = judged(words!("monitored_barrier"), ONE);
    assert_eq!((barrier.kind, barrier.secondary, barrier.blames), (Kind::Hang, true, Some(1)));
    let nccl = "\
[rank0]: Traceback (most recent call last):
[rank0]:   File \"/job/train.py\", line 31, in main
[rank0]:     dist.all_reduce(t)
[rank0]: torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:275, remote process exited or there was a network error, NCCL version 2.20.5
[rank0]: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
[rank0]: Last error:
[rank0]: socketProgress: Connection closed by remote peer 10.0.0.2<43118>";
    check(nccl, ONE, Kind::Exception, "torch.distributed.DistBackendError: NCCL error in", true);
    let watchdog = "\
[rank2]:[E ProcessGroupNCCL.cpp:616] [Rank 2] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600029 milliseconds before timing out.
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 PG GUID 0(default_pg) Rank 2] Process group watchdog thread terminated with exception: [Rank 2] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)";
    check(watchdog, Exit::Signal(6), Kind::Hang, "c10::DistBackendError: [PG ID 0", true);
    let lost = judged("Error: rank 3 is gone: connection closed", ONE);
    assert_eq!((lost.secondary, lost.blames), (true, Some(3)));
}

#[test]
fn memory_that_could_not_be_had() {
    check(words!("memory_error"), ONE, Kind::OutOfMemory, "MemoryError (train.py:15)", false);
    check(words!("torch_cpu_memory"), ONE, Kind::OutOfMemory, "RuntimeError: [enforce fail at alloc_cpu", false);
    check(words!("bad_alloc"), Exit::Signal(6), Kind::OutOfMemory, "std::bad_alloc: std::bad_alloc", false);
    let cuda = "\
Traceback (most recent call last):
  File \"/job/train.py\", line 4, in <module>
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB";
    check(cuda, ONE, Kind::OutOfMemory, "torch.OutOfMemoryError: CUDA out of memory. Tried", false);
    let rust = "memory allocation of 1099511627776 bytes failed";
    check(rust, Exit::Signal(6), Kind::OutOfMemory, rust, false);
}

#[test]
fn the_kernels_killer_is_told_from_somebodys_kill() {
    let killed = Exit::Signal(9);
    let of = |evidence: &Evidence| cause(killed, &tail("step=3 loss=0.5"), evidence);
    let bare = of(&Evidence::default());
    assert_eq!((bare.kind, bare.code, bare.message.as_str()), (Kind::Signal, 137, "killed by SIGKILL"));
    let limit = Evidence { cgroup_oom_kills: 1, memory_limit_bytes: Some(2 << 30), ..Evidence::default() };
    assert_eq!(of(&limit).kind, Kind::OutOfMemory);
    assert_eq!(of(&limit).message, "killed by the kernel: the memory limit of 2.0 GiB was reached");
    let ours = Evidence { stopped: true, ..limit };
    assert_eq!((of(&ours).kind, of(&ours).secondary), (Kind::Signal, true), "we killed it ourselves");
    let line = "Memory cgroup out of memory: Killed process 4711 (python) total-vm:9204908kB, anon-rss:1048576kB, file-rss:0kB";
    let named =
        |pid| Evidence { pid: Some(pid), kernel: kernel_event(line).into_iter().collect(), ..Evidence::default() };
    assert_eq!(of(&named(4711)).message, "killed by the kernel while it used 1.0 GiB: its memory limit was reached");
    let whole = line.replace("Memory cgroup out", "Out");
    let whole = Evidence { pid: Some(4711), kernel: vec![kernel_event(&whole).unwrap()], ..Evidence::default() };
    assert_eq!(of(&whole).message, "killed by the kernel while it used 1.0 GiB: the machine ran out of memory");
    assert_eq!(of(&named(4712)).kind, Kind::Signal, "another process was killed");
    let shell = cause(Exit::Code(137), &tail("Killed"), &Evidence { machine_oom_kills: 1, ..Evidence::default() });
    assert_eq!(shell.kind, Kind::OutOfMemory);
    let worker =
        "Traceback (most recent call last):\nRuntimeError: DataLoader worker (pid 9) is killed by signal: Killed. ";
    let child = cause(ONE, &tail(worker), &Evidence { cgroup_oom_kills: 1, ..Evidence::default() });
    assert_eq!(child.kind, Kind::OutOfMemory);
}

#[test]
fn modules_and_libraries_that_are_missing() {
    let message = "ModuleNotFoundError: No module named 'nosuchmodule' (train.py:17)";
    check(words!("import_error"), ONE, Kind::ImportError, message, false);
    check(words!("no_module"), ONE, Kind::ImportError, "/venv/bin/python: No module named nosuch", false);
    let library = "\
Traceback (most recent call last):
  File \"<string>\", line 1, in <module>
OSError: libcudart.so.99: cannot open shared object file: No such file or directory";
    check(library, ONE, Kind::ImportError, "OSError: libcudart.so.99", false);
    // Tried, caught and logged, and something else then ended the program.
    let later = format!("{}\nstep=1 loss=2\nTraceback (most recent call last):\nKeyError: 'x'", words!("import_error"));
    check(&later, ONE, Kind::Exception, "KeyError: 'x'", false);
}

#[test]
fn ranks_that_did_not_meet() {
    let text = words!("store_waits_for_clients");
    check(text, ONE, Kind::RendezvousTimeout, "torch.distributed.DistStoreError: Timed out after 4 seconds", true);
    let text = words!("client_timeout");
    check(
        text,
        ONE,
        Kind::RendezvousTimeout,
        "torch.distributed.DistNetworkError: The client socket has timed out",
        true,
    );
    check(words!("store_wait"), ONE, Kind::RendezvousTimeout, "torch.distributed.DistStoreError: wait timeout", true);
    let ours = judged("Error: rank 2 is missing at the rendezvous (4 expected) after 30 s", ONE);
    assert_eq!((ours.kind, ours.blames), (Kind::RendezvousTimeout, Some(2)));
}

#[test]
fn crashes_in_native_code() {
    let segv = Exit::Signal(11);
    check(words!("faulthandler"), segv, Kind::Signal, "Segmentation fault (train.py:14)", false);
    check("step=3 loss=1", segv, Kind::Signal, "killed by SIGSEGV (segmentation fault)", false);
    check("free(): invalid pointer", Exit::Signal(6), Kind::Signal, "free(): invalid pointer", false);
    check("what", Exit::Signal(15), Kind::Signal, "killed by SIGTERM", false);
    let text = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no such layer";
    check(text, Exit::Signal(6), Kind::Exception, "std::runtime_error: no such layer", false);
}

#[test]
fn bare_exit_codes() {
    check("", Exit::Code(3), Kind::ExitCode, "exit code 3", false);
    check("step=1", Exit::Code(143), Kind::ExitCode, "exit code 143, which is what a shell says for SIGTERM", false);
    let text = "usage: train.py [--lr LR]\ntrain.py: error: unrecognized arguments: --lrx 1";
    check(text, Exit::Code(2), Kind::ExitCode, "train.py: error: unrecognized arguments: --lrx 1", false);
    check(words!("sys_exit"), ONE, Kind::ExitCode, "exit code 1", false);
    check(words!("torchrun"), ONE, Kind::ExitCode, "torchrun: rank 1 failed first, with exit code 3", false);
}

#[test]
fn gpu_errors_of_the_kernels_log() {
    let of = |line: &str, text: &str, exit, pid| {
        let kernel = kernel_event(line).into_iter().collect();
        cause(exit, &tail(text), &Evidence { kernel, pid: Some(pid), ..Evidence::default() })
    };
    let bus = "NVRM: Xid (PCI:0000:65:00): 79, pid=4711, name=python, GPU has fallen off the bus.";
    let cuda = "Traceback (most recent call last):\ntorch.AcceleratorError: CUDA error: unspecified launch failure";
    let cause = of(bus, cuda, ONE, 4711);
    assert_eq!(cause.kind, Kind::GpuXid);
    let message = "Xid 79 on GPU 0000:65:00: the GPU has fallen off the bus; the program said: torch.AcceleratorError: CUDA error: unspecified launch failure";
    assert_eq!(cause.message, message);
    assert_eq!(of(bus, "step=1", Exit::Signal(9), 1).kind, Kind::Signal, "another process's");
    let unknown = "NVRM: Xid (PCI:0000:65:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error";
    assert_eq!(of(unknown, cuda, ONE, 1).kind, Kind::GpuXid);
    assert_eq!(of(unknown, "ValueError: x", ONE, 1).kind, Kind::ExitCode, "it did not complain about its GPU");
    let cleanup = "NVRM: Xid (PCI:0000:65:00): 45, pid=4711, name=python, Ch 00000008";
    assert_eq!(of(cleanup, cuda, ONE, 4711).kind, Kind::Exception);
}

#[test]
fn torchs_error_file_speaks_where_the_output_is_silent() {
    let report = ErrorReport::parse(include_str!("cause/record.json")).unwrap();
    let evidence = Evidence { report: Some(report), ..Evidence::default() };
    let cause = cause(ONE, &tail(""), &evidence);
    assert_eq!((cause.kind, cause.message.as_str()), (Kind::Exception, "KeyError: 'lr' (rdzv.py:12)"));
    assert_eq!(ErrorReport::parse("{\"message\": {\"mess"), None);
}

#[test]
fn a_rank_that_stood_still_was_hanging_whatever_we_ended_it_with() {
    let stalled = Some("stood still in all_reduce (train.py:30)".to_owned());
    let evidence = Evidence { stalled, stopped: true, ..Evidence::default() };
    let cause = cause(Exit::Signal(9), &tail("step=3"), &evidence);
    assert_eq!((cause.kind, cause.secondary), (Kind::Hang, false));
    assert_eq!(cause.message, "stood still in all_reduce (train.py:30)");
}

#[test]
fn the_root_is_named_even_if_it_is_seen_last() {
    let survivor = judged(words!("gloo_closed_by_peer"), ONE);
    // Rank 1 raised the exception, and was ended by us before Python had left.
    let told = Evidence { stopped: true, ..Evidence::default() };
    let raised = cause(Exit::Signal(15), &tail(words!("value_error_then_abort")), &told);
    assert_eq!((raised.kind, raised.secondary), (Kind::Exception, false));
    let stopped = cause(Exit::Signal(15), &tail("step=3 loss=0.1"), &told);
    let of = |rank, at_ms, cause: &Cause| Candidate { rank, at_ms, cause: cause.clone() };
    let failures = [of(0, 10, &survivor), of(2, 12, &stopped), of(1, 40, &raised)];
    assert_eq!(root(&failures), Some(2));
    assert_eq!(root(&failures[..2]), Some(0), "nobody's own: the first");
    assert_eq!(root(&[]), None);
    let accuser = judged(words!("monitored_barrier"), ONE);
    assert_eq!(root(&[of(0, 10, &accuser), of(1, 11, &survivor)]), Some(1), "the one that is named");
}

#[test]
fn a_rank_that_still_runs_is_suspected_by_its_last_words_only() {
    let leaving = suspect(&tail(words!("value_error_then_abort"))).unwrap();
    assert_eq!((leaving.kind, leaving.secondary), (Kind::Exception, false));
    let went_on = format!("{}\nstep=4 loss=0.25", words!("value_error_then_abort"));
    assert_eq!(suspect(&tail(&went_on)), None, "it had caught the exception");
    assert_eq!(suspect(&tail("error: cannot open data; using the cache")), None, "an error message ends nothing");
    assert!(suspect(&tail(words!("gloo_closed_by_peer"))).unwrap().secondary);
}

#[test]
fn nccls_warnings_tell_what_its_error_words_do_not() {
    let nccl = |text: &str, warnings: &[&str]| {
        let nccl = warnings.iter().filter_map(|line| nccl_warning(line)).map(str::to_owned).collect();
        cause(ONE, &tail(text), &Evidence { nccl, ..Evidence::default() })
    };
    let error = "Traceback (most recent call last):\ntorch.distributed.DistBackendError: NCCL error in: x.cpp:3690, \
                 unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.3";
    let said = "torch.distributed.DistBackendError: NCCL error in: x.cpp:3690, unhandled system error (run with \
                NCCL_DEBUG=INFO for details), NCCL version 2.30.3";
    let verbs = "node-1:812:907 [0] transport/net_ib.cc:120 NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory";
    let peer =
        "node-1:812:907 [0] misc/socket.cc:50 NCCL WARN socketProgress: Connection closed by remote peer node-2<45333>";
    let own = nccl(error, &[verbs, "node-1:812:907 [0] NCCL INFO channel 0", peer]);
    let words = "Call to ibv_reg_mr failed with error Cannot allocate memory";
    assert_eq!((own.kind, own.secondary, own.message), (Kind::OutOfMemory, false, format!("{said}; NCCL: {words}")));
    assert!(nccl(error, &[peer]).secondary, "the peer is to blame");
    assert_eq!(nccl("", &[verbs]).message, format!("NCCL: {words}"), "the program said nothing");
    let other = "Traceback (most recent call last):\nKeyError: 'lr'";
    assert_eq!(nccl(other, &[verbs]).message, "KeyError: 'lr'", "it failed of something else");
    let watchdog = "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [Rank 0] Watchdog \
                    caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE) ran for 600000 ms";
    assert_eq!(nccl(watchdog, &[verbs]).kind, Kind::Hang);
}

#[test]
fn what_the_check_before_the_job_found_is_the_cause() {
    let report = "2 ranks on 1 machine\n\n1 finding:\n  rank 0 (a) – rank 1 (b): Connection refused\n\
                  trainyard preflight: rank 0 (a) – rank 1 (b): Connection reset by peer";
    check(report, ONE, Kind::Preflight, "rank 0 (a) – rank 1 (b): Connection reset by peer", false);
}
