//! The launcher, with shell scripts as ranks: exit codes, signals, the stop ladder, output, and no orphans.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn command(nproc: usize, grace: u64, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-launch"));
    command.args(["--nproc", &nproc.to_string(), "--grace", &grace.to_string(), "--", "sh", "-c", script]);
    for name in [
        "PET_NNODES",
        "PET_NODE_RANK",
        "PET_NPROC_PER_NODE",
        "OMP_NUM_THREADS",
        "TRAINYARD_JOB_TOKEN",
        "TRAINYARD_STOP_GRACE_SECONDS",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn launch(nproc: usize, script: &str) -> Output {
    command(nproc, 10, script).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn sorted(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = text(bytes).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A launcher in the background whose output is read line by line.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(nproc: usize, grace: u64, script: &str) -> Self {
        let mut child = command(nproc, grace, script).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the launcher still writes").unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Exit code, remaining output, standard error.
    fn finish(self) -> (Option<i32>, Vec<String>, String) {
        let rest: Vec<String> = self.lines.map(Result::unwrap).collect();
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), rest, text(&output.stderr))
    }
}

fn is_alive(pid: i32) -> bool {
    // A zombie has ended; only its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

fn wait_until_gone(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} outlived its launcher");
        std::thread::yield_now();
    }
}

#[test]
fn ranks_get_torchruns_environment_and_a_prefix() {
    let output = launch(2, "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $OMP_NUM_THREADS");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(sorted(&output.stdout), ["[rank 0] 0 0 2 2 0 1", "[rank 1] 1 1 2 2 0 1"]);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn one_rank_has_no_prefix_and_errors_stay_errors() {
    let output = launch(1, "echo out; echo err >&2; printf unfinished");
    assert_eq!(text(&output.stdout), "out\nunfinished\n");
    assert_eq!(text(&output.stderr), "err\n");
}

#[test]
fn all_ranks_meet_at_one_port() {
    let output = launch(3, "echo $MASTER_ADDR:$MASTER_PORT:$TRAINYARD_JOB_TOKEN");
    let told: std::collections::BTreeSet<String> =
        text(&output.stdout).lines().map(|line| line.split_once("] ").unwrap().1.to_owned()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told.first().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn the_first_failure_is_the_exit_code_and_its_last_words_are_shown() {
    let script = "if [ $RANK = 1 ]; then echo 'error: disk is full' >&2; exit 7; fi; exec sleep 60";
    let began = Instant::now();
    let output = launch(3, script);
    assert!(began.elapsed() < PATIENCE, "the others were not stopped");
    assert_eq!(output.status.code(), Some(7));
    let told = text(&output.stderr);
    assert!(told.contains("trainyard: rank 1 failed first: exit code 7; the other ranks of this pod were stopped"));
    assert!(told.contains("  | error: disk is full"), "{told}");
}

#[test]
fn a_signal_is_reported_as_128_and_its_number() {
    let output = launch(1, "kill -SEGV $$");
    assert_eq!(output.status.code(), Some(139));
    let told = text(&output.stderr);
    assert!(told.contains("rank 0 failed first: killed by SIGSEGV (exit code 139)"), "{told}");
    assert!(told.contains("hint: the program crashed in native code"), "{told}");
}

#[test]
fn a_missing_program_is_127_with_a_hint() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-launch"));
    let output = command.args(["--nproc", "2", "--", "no-such-program-here"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let told = text(&output.stderr);
    assert!(told.contains("error: cannot start `no-such-program-here`: No such file or directory"), "{told}");
    assert!(told.contains("hint: is the program installed"), "{told}");
}

#[test]
fn a_rank_that_ignores_sigterm_is_killed_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let script = "if [ $RANK = 0 ]; then until [ -e ready ]; do sleep 0.02; done; exit 5; fi
        trap '' TERM; : > ready; while :; do sleep 0.1; done";
    let began = Instant::now();
    let output = command(2, 1, script).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(began.elapsed() >= Duration::from_millis(900), "killed before its grace was over");
    assert!(began.elapsed() < PATIENCE);
}

/// Fills a pipe faster than anybody empties it: while one of them is read, the others write.
const CHATTER: &str = "yes & yes & yes & exec yes";

/// Reads all that the launcher writes, as fast as it comes, and keeps none of it.
fn swallow(mut stdout: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap())
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("the launcher does not end");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_rank_that_never_falls_silent_hides_no_other_ranks_lines() {
    let script = format!("if [ $RANK = 0 ]; then {CHATTER}; fi; echo hello; while :; do sleep 0.05; done");
    let mut child = command(2, 1, &script).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let mut line = String::new();
    while line != "[rank 1] hello\n" {
        assert!(Instant::now() < deadline, "rank 1 is not heard");
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the launcher ended");
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let reader = swallow(stdout);
    wait(&mut child);
    reader.join().unwrap();
}

#[test]
fn a_rank_that_never_falls_silent_hides_no_death() {
    let script = format!("if [ $RANK = 0 ]; then {CHATTER}; fi; exit 3");
    let mut child = command(2, 1, &script).spawn().unwrap();
    let reader = swallow(child.stdout.take().unwrap());
    assert_eq!(wait(&mut child).code(), Some(3));
    reader.join().unwrap();
}

#[test]
fn a_rank_that_never_falls_silent_hides_no_stop() {
    let mut child = command(1, 1, CHATTER).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // It has begun.
    stdout.read_exact(&mut [0; 1024]).unwrap();
    let reader = swallow(stdout);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut child).code(), Some(143));
    reader.join().unwrap();
}

#[test]
fn ranks_get_the_pods_grace_after_a_stop() {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = command(1, 10, script).env("TRAINYARD_STOP_GRACE_SECONDS", "3").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let asked = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut child).code(), Some(137));
    assert!(asked.elapsed() >= Duration::from_millis(1_400), "killed before its grace was over");
}

#[test]
fn a_stop_waits_for_the_checkpoint_that_is_being_written() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoints");
    std::fs::create_dir(&folder).unwrap();
    let go = home.path().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        "exec 3>{folder}/step_1.pt; echo writing; read line <{go}; echo the rest >&3; exec 3>&-; echo written; exec sleep 60",
        folder = folder.display(),
        go = go.display(),
    );
    let mut command = command(1, 10, &script);
    command.env("TRAINYARD_CHECKPOINT_PATH", &folder).env("TRAINYARD_STOP_GRACE_SECONDS", "30");
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut running = Running { child, lines };
    assert_eq!(running.line(), "writing");
    running.signal(Signal::SIGTERM);
    // Open for both, so that it does not matter here whether anybody reads.
    let mut go = std::fs::File::options().read(true).write(true).open(go).unwrap();
    std::io::Write::write_all(&mut go, b"\n").unwrap();
    let began = Instant::now();
    let (code, lines, _) = running.finish();
    assert_eq!((code, lines), (Some(143), vec!["written".to_owned()]));
    assert!(began.elapsed() < PATIENCE, "and no longer than that");
}

#[test]
fn sigterm_is_passed_on_and_a_clean_end_is_a_success() {
    let script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = Running::start(2, 10, script);
    assert!(running.line().ends_with("ready"));
    assert!(running.line().ends_with("ready"));
    running.signal(Signal::SIGTERM);
    let (code, mut rest, told) = running.finish();
    rest.sort();
    assert_eq!((code, rest), (Some(0), vec!["[rank 0] saved".to_owned(), "[rank 1] saved".to_owned()]), "{told}");
}

#[test]
fn sigint_of_ranks_that_do_not_handle_it_is_130() {
    let mut running = Running::start(1, 10, "echo ready; exec sleep 60");
    running.line();
    running.signal(Signal::SIGINT);
    let (code, _, told) = running.finish();
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("stopped by SIGINT; exit code 130"), "{told}");
}

#[test]
fn ranks_take_signals_that_whoever_started_the_launcher_ignores() {
    let launcher = env!("CARGO_BIN_EXE_trainyard-launch");
    let script = "trap '' INT QUIT HUP TERM; exec \"$0\" --nproc 1 -- grep -E 'Sig(Ign|Blk)' /proc/self/status";
    let output = Command::new("sh").args(["-c", script, launcher]).output().unwrap();
    let sets = text(&output.stdout);
    let sets: Vec<u64> =
        sets.lines().map(|line| u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap()).collect();
    // Above 31 are those that the C library keeps for itself.
    assert_eq!(sets.iter().map(|set| set & 0x7fff_ffff).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_second_signal_kills_at_once() {
    let mut running = Running::start(1, 10, "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(running.line(), "ready");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.line(), "no");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().0, Some(137));
}

#[test]
fn a_killed_launcher_leaves_no_rank() {
    let mut running = Running::start(2, 10, "echo $$; exec sleep 600");
    let pids: Vec<i32> = (0..2).map(|_| running.line().split_once("] ").unwrap().1.parse().unwrap()).collect();
    running.signal(Signal::SIGKILL);
    let status = running.child.wait().unwrap();
    assert_eq!(status.signal(), Some(9));
    pids.into_iter().for_each(wait_until_gone);
}

#[test]
fn what_a_rank_left_in_the_background_ends_with_it() {
    // One child stays in the rank's group, the other escapes into a session of its own.
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 600 & echo $!; setsid sh -c 'echo $$; : > ready; exec sleep 600' &
        until [ -e ready ]; do sleep 0.02; done";
    let output = command(1, 10, script).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let pids: Vec<i32> = text(&output.stdout).lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    pids.into_iter().for_each(wait_until_gone);
}

#[test]
fn much_output_of_many_ranks_stays_whole() {
    let output =
        launch(4, "i=0; while [ $i -lt 2000 ]; do echo \"line $i of $RANK, and some more words\"; i=$((i+1)); done");
    let lines = sorted(&output.stdout);
    assert_eq!(lines.len(), 8000);
    assert!(lines.iter().all(|line| {
        let rank = &line[6..7];
        line.starts_with("[rank ") && line.ends_with(&format!(" of {rank}, and some more words"))
    }));
}

#[test]
fn ranks_with_gpus_warn_into_files_of_ours_and_the_warnings_are_shown() {
    // A pod with two GPUs, as far as a launcher looks; the warning is one of NCCL 2.30's.
    let script = "test $RANK = 0 && exec sleep 60\n\
                  echo \"a:1:2 [0] misc/socket.cc:50 NCCL WARN Net device mlx5_0 is gone\" > $NCCL_DEBUG_FILE\n\
                  echo 'Error: ncclSystemError: see the warnings' >&2\n\
                  exit 3";
    let output = command(2, 10, script).env("CUDA_VISIBLE_DEVICES", "0,1").output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("trainyard: NCCL warned rank 1:\n  | Net device mlx5_0 is gone\n"), "{errors}");
}

#[test]
fn what_the_user_says_of_nccl_and_gloo_stays() {
    let script = "echo $GLOO_SOCKET_IFNAME,$NCCL_SOCKET_IFNAME,$NCCL_DEBUG,$NCCL_DEBUG_FILE,$NCCL_RAS_ENABLE";
    let told = |pairs: &[(&str, &str)]| {
        let mut command = command(1, 10, script);
        for name in ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"] {
            command.env_remove(name);
        }
        text(&command.env("CUDA_VISIBLE_DEVICES", "0").envs(pairs.iter().copied()).output().unwrap().stdout)
    };
    let ours = told(&[]);
    assert!(ours.starts_with("lo,=lo,WARN,/"), "a lone pod's ranks are all here: {ours}");
    assert!(ours.ends_with("nccl-generation-1-rank-0.log,1\n"), "{ours}");
    let users = told(&[("NCCL_SOCKET_IFNAME", "^docker"), ("NCCL_DEBUG", "INFO"), ("NCCL_RAS_ENABLE", "0")]);
    assert_eq!(users, ",^docker,INFO,,0\n");
    assert!(told(&[("GLOO_SOCKET_IFNAME", "")]).starts_with(",,WARN,/"), "an empty value is a value");
}

/// A program that saves its work when it is told to end, and takes its time: until somebody writes to `go`.
const SAVES: &str =
    "trap 'echo saving; read line <go; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done";

#[test]
fn behind_a_shell_a_program_has_its_grace() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("saves.sh"), SAVES).unwrap();
    let go = folder.path().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // The shell does not handle the signal, and ends by it.
    let mut child = command(1, 10, "sh saves.sh; echo never").current_dir(folder.path()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut running = Running { child, lines };
    assert_eq!(running.line(), "ready");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.line(), "saving");
    let mut go = std::fs::File::options().read(true).write(true).open(go).unwrap();
    std::io::Write::write_all(&mut go, b"\n").unwrap();
    let (code, lines, told) = running.finish();
    assert_eq!((code, lines), (Some(143), vec!["saved".to_owned()]), "{told}");
}

#[test]
fn behind_a_shell_a_program_has_no_more_than_its_grace() {
    let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done'; echo never";
    let mut child = command(1, 10, script).env("TRAINYARD_STOP_GRACE_SECONDS", "3").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap().parse().unwrap();
    let asked = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut child).code(), Some(143));
    assert!(asked.elapsed() >= Duration::from_millis(1_400), "killed before its grace was over");
    wait_until_gone(pid);
}

#[test]
fn unknown_words_of_variables_are_refused_as_those_of_flags_are() {
    for (name, word, known) in
        [("TRAINYARD_ON_HANG", "Restart", "`report` or `restart`"), ("TRAINYARD_SPARES", "zz", "`auto` or `off`")]
    {
        let output = command(1, 1, "echo runs").env(name, word).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{told}");
        assert!(told.contains(&format!("{name}={word}")) && told.contains(known), "{told}");
    }
}

/// Waits until nothing more fits into the pipe that the launcher writes to.
fn wait_until_full(stdout: &impl std::os::fd::AsRawFd) {
    let deadline = Instant::now() + PATIENCE;
    let (mut before, mut same) = (0, 0);
    while same < 20 {
        assert!(Instant::now() < deadline, "the launcher writes {before} bytes");
        let mut waiting = 0;
        // SAFETY: the call writes one integer, to a place that is ours.
        assert_eq!(unsafe { libc::ioctl(stdout.as_raw_fd(), libc::FIONREAD, &raw mut waiting) }, 0);
        same = if waiting > 32 * 1024 && waiting == before { same + 1 } else { 0 };
        before = waiting;
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stop_is_heard_although_nobody_reads() {
    let mut child = command(1, 1, CHATTER).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    wait_until_full(&stdout);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut child).code(), Some(143));
    drop(stdout);
}

#[test]
fn a_death_is_seen_although_nobody_reads_and_late_readers_miss_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "if [ $RANK = 1 ]; then until [ -e go ]; do sleep 0.02; done; echo last words; exit 3; fi
        echo $$ > pid; exec seq 1 100000000";
    let mut child = command(2, 1, script).current_dir(folder.path()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    wait_until_full(&stdout);
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap().trim().parse().unwrap();
    std::fs::write(folder.path().join("go"), "").unwrap();
    wait_until_gone(pid);
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(wait(&mut child).code(), Some(3));
    assert!(said.lines().any(|line| line == "[rank 1] last words"));
    let numbers =
        said.lines().filter_map(|line| line.strip_prefix("[rank 0] ")).map(|line| line.parse::<u64>().unwrap());
    // The last line may be cut off by the signal.
    let numbers: Vec<u64> = numbers.collect();
    let whole = numbers.len() - 1;
    assert!(numbers[..whole].iter().copied().eq(1..=whole as u64));
}
