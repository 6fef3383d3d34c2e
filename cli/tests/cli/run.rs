//! `trainyard run` from the manifest to the exit code, with real processes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A machine that builds and tests at the same time is slow; a test that hangs must still end.
const DEADLINE: Duration = Duration::from_secs(60);

/// A TrainingJob that runs a shell script.
fn job(name: &str, procs: u32, script: &str) -> String {
    format!(
        "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}}}\n\
         spec:\n  procsPerReplica: {procs}\n  command:\n    - sh\n    - -c\n    - |\n      {}\n",
        script.replace('\n', "\n      ")
    )
}

fn both(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Processes that still have the state folder in their environment: ours as a variable, those of pods in their `PATH`.
fn leftovers(place: &Place) -> Vec<String> {
    let mark = place.home().display().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ours = processes.filter_map(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let ours = environment.windows(mark.len()).any(|part| part == mark.as_bytes());
        ours.then(|| std::fs::read(entry.path().join("cmdline")).ok()).flatten()
    });
    ours.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

fn eventually(what: &str, probe: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !probe() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_main_job_trains_and_its_exit_code_is_ours() {
    let place = Place::new();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/wine-ddp.yaml");
    let output = place.run(&["run", manifest]);
    let (out, err) = both(&output);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("[rank 0] "), "ranks are told apart: {out}");
    let accuracy = err.split("test_accuracy=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let accuracy: f64 = accuracy.and_then(|number| number.parse().ok()).expect("the summary tells the accuracy");
    assert!(accuracy > 0.65, "{accuracy}");
    for word in ["Created", "Running 4/4 ranks", "Succeeded", "Records", "hint:"] {
        assert!(err.contains(word), "{word}: {err}");
    }
    assert_eq!(leftovers(&place), Vec::<String>::new());
    let (listed, _) = both(&place.run(&["get"]));
    assert!(listed.contains("Succeeded"), "the records stay: {listed}");
    let (log, _) = both(&place.run(&["logs", "wine-ddp", "--rank", "0", "--tail", "1"]));
    assert!(log.contains("test_accuracy") && log.lines().count() == 1, "{log}");
}

#[test]
fn a_crashing_rank_is_named_with_its_code_and_its_last_words() {
    let place = Place::new();
    let script = "if [ $RANK = 2 ]; then echo 'ValueError: bad batch' >&2; exit 7; fi\nexec sleep 1000";
    place.write("job.yaml", &job("crash", 4, script));
    let output = place.run(&["run", "job.yaml"]);
    let (out, err) = both(&output);
    assert_eq!(output.status.code(), Some(7), "{out}{err}");
    assert!(err.contains("rank 2 (crash-worker-0) ended with exit code 7"), "{err}");
    assert!(err.contains("  | ValueError: bad batch"), "{err}");
    assert!(out.contains("[rank 2] ValueError: bad batch"), "{out}");
    assert!(err.contains("trainyard logs crash"), "the next command is told: {err}");
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn a_missing_program_and_a_signal_have_the_codes_of_a_shell() {
    let place = Place::new();
    place.write("missing.yaml", &job("missing", 1, "exec no-such-program"));
    let output = place.run(&["run", "missing.yaml"]);
    let (_, err) = both(&output);
    assert_eq!(output.status.code(), Some(127), "{err}");
    assert!(err.contains("no-such-program") && err.contains("hint:"), "{err}");

    place.write("signal.yaml", &job("signal", 1, "kill -SEGV $$$$"));
    let output = place.run(&["run", "signal.yaml"]);
    let (_, err) = both(&output);
    assert_eq!(output.status.code(), Some(139), "{err}");
    assert!(err.contains("SIGSEGV"), "{err}");
}

#[test]
fn a_relative_program_works_in_the_callers_folder_and_beside_the_manifest() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("jobs")).expect("a folder");
    let manifest = "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: here}\n\
                    spec: {command: [sh, train.sh]}\n";
    place.write("train.sh", "echo from the folder of the caller\n");
    place.write("jobs/train.sh", "echo from the folder of the manifest\n").write("jobs/job.yaml", manifest);
    let (out, err) = both(&place.run(&["run", "jobs/job.yaml"]));
    assert_eq!(out, "from the folder of the caller\n", "{err}");
    std::fs::remove_file(place.path().join("train.sh")).expect("the file was there");
    let (out, err) = both(&place.run(&["run", "jobs/job.yaml"]));
    assert_eq!(out, "from the folder of the manifest\n", "{err}");
    assert!(err.contains("Replaced"), "a finished job of that name makes room: {err}");
}

/// A run in the background, stopped at the end of the test whatever happens.
struct Running(Child);

impl Running {
    fn start(place: &Place, args: &[&str]) -> Self {
        let mut command = place.command(args);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs"))
    }

    /// Reads stdout until a line holds `mark`.
    fn until(&mut self, mark: &str) -> BufReader<&mut std::process::ChildStdout> {
        let mut reader = BufReader::new(self.0.stdout.as_mut().expect("stdout is piped"));
        let mut line = String::new();
        while !line.contains(mark) {
            line.clear();
            assert!(reader.read_line(&mut line).expect("stdout can be read") > 0, "ended before `{mark}`");
        }
        reader
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    fn end(mut self) -> (Option<i32>, String) {
        let status = self.0.wait().expect("it can be waited for");
        let mut err = String::new();
        self.0.stderr.take().expect("stderr is piped").read_to_string(&mut err).expect("text");
        (status.code(), err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn ctrl_c_stops_the_job_and_says_how_to_go_on() {
    let place = Place::new();
    place.write("job.yaml", &job("long", 2, "echo started\nexec sleep 1000"));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    drop(run.until("started"));
    run.signal(Signal::SIGINT);
    let (code, err) = run.end();
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("trainyard resume long") && err.contains("trainyard delete long"), "{err}");
    eventually("no process is left", || leftovers(&place).is_empty());
    let (listed, _) = both(&place.run(&["get"]));
    assert!(listed.contains("Suspended"), "{listed}");
}

#[test]
fn a_second_ctrl_c_kills_ranks_that_do_not_listen() {
    let place = Place::new();
    place.write("job.yaml", &job("deaf", 1, "trap '' TERM\necho started\nwhile :; do sleep 1; done"));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    drop(run.until("started"));
    run.signal(Signal::SIGINT);
    // The second press must be told from an echo of the first.
    let mut err = BufReader::new(run.0.stderr.take().expect("stderr is piped"));
    let mut line = String::new();
    while !line.contains("Stopping") {
        line.clear();
        assert!(err.read_line(&mut line).expect("stderr can be read") > 0, "it ended too early");
    }
    let started = Instant::now();
    while run.0.try_wait().expect("it can be waited for").is_none() {
        if started.elapsed() > Duration::from_millis(500) {
            run.signal(Signal::SIGINT);
        }
        assert!(started.elapsed() < Duration::from_secs(20), "a deaf rank is killed long before its grace is over");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(run.0.wait().expect("it has ended").code(), Some(130));
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn other_terminals_see_the_job_while_it_runs() {
    let place = Place::new();
    place.write("job.yaml", &job("shared", 2, "echo started\nexec sleep 1000"));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    drop(run.until("started"));
    let (listed, err) = both(&place.run(&["get"]));
    assert!(listed.contains("shared"), "{listed}{err}");
    let (log, err) = both(&place.run(&["logs", "shared", "--rank", "1"]));
    assert_eq!(log, "[rank 1] started\n", "{err}");
    let (top, err) = both(&place.run(&["top"]));
    assert!(top.contains("shared-worker-0") && top.contains("sleep 1000"), "{top}{err}");
    let (config, _) = both(&place.run(&["kubeconfig"]));
    assert!(config.contains("server: http://127.0.0.1:"), "{config}");
    let deleted = place.run(&["delete", "shared"]);
    assert!(deleted.status.success(), "{deleted:?}");
    let (code, err) = run.end();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("was deleted while it was followed"), "{err}");
    eventually("no process is left", || leftovers(&place).is_empty());
}

#[test]
fn a_reader_that_goes_away_stops_the_job() {
    let place = Place::new();
    place.write("job.yaml", &job("piped", 1, "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done"));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    drop(run.until("tick"));
    drop(run.0.stdout.take());
    let (code, err) = run.end();
    assert_eq!(code, Some(141), "{err}");
    assert!(err.contains("Stopped TrainingJob piped"), "{err}");
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn a_full_disk_below_the_output_does_not_end_the_job() {
    let place = Place::new();
    place.write("job.yaml", &job("full", 1, "echo one; sleep 1; echo two"));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a device");
    let output = place.command(&["run", "job.yaml"]).stdout(full).output().expect("the binary runs");
    let (_, err) = both(&output);
    assert!(err.contains("the job goes on") && err.contains("Succeeded TrainingJob full"), "{err}");
    assert_eq!(output.status.code(), Some(1), "its output is not complete: {err}");
}

#[test]
fn ctrl_c_stops_every_job_of_the_manifest() {
    let place = Place::new();
    let one = job("one", 1, "echo started; exec sleep 1000");
    place.write("two.yaml", &format!("{one}\n---\n{}", job("two", 1, "exec sleep 1000")));
    let mut run = Running::start(&place, &["run", "two.yaml"]);
    drop(run.until("started"));
    run.signal(Signal::SIGINT);
    let (code, err) = run.end();
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("TrainingJob one was stopped") && err.contains("TrainingJob two was stopped"), "{err}");
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn another_run_takes_the_place_of_a_control_plane_that_was_killed() {
    let place = Place::new();
    let script = "i=0; while [ ! -e go ]; do echo tick $i; i=$((i+1)); sleep 0.2; done; echo end";
    place.write("first.yaml", &job("first", 1, "echo started; exec sleep 1000"));
    place.write("second.yaml", &job("second", 1, script));
    let mut first = Running::start(&place, &["run", "first.yaml"]);
    drop(first.until("started"));
    let mut second = Running::start(&place, &["run", "second.yaml"]);
    drop(second.until("tick 1"));
    first.0.kill().expect("it runs");
    first.0.wait().expect("it can be waited for");
    let place_taken = || both(&place.run(&["get", "first"])).0.contains("Running");
    eventually("there is a server again", place_taken);
    place.write("go", "");
    let mut out = String::new();
    second.0.stdout.as_mut().expect("stdout is piped").read_to_string(&mut out).expect("text");
    let (code, err) = second.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("end\n"), "the log goes on: {out}{err}");
    assert!(!out.contains("tick 1\n"), "nothing is shown twice: {out}");
    let deleted = place.run(&["delete", "first"]);
    assert!(deleted.status.success(), "{deleted:?}");
    eventually("no process is left", || leftovers(&place).is_empty());
}

#[test]
fn suspend_and_delete_end_what_a_killed_run_left_behind() {
    for (verb, after) in [("suspend", "Suspended"), ("delete", "")] {
        let place = Place::new();
        place.write("job.yaml", &job("left", 2, "echo started; exec sleep 1000"));
        let mut run = Running::start(&place, &["run", "job.yaml"]);
        drop(run.until("started"));
        run.0.kill().expect("it runs");
        run.0.wait().expect("it can be waited for");
        assert!(!leftovers(&place).is_empty(), "ranks outlive a killed control plane");
        let done = place.run(&[verb, "left"]);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(leftovers(&place), Vec::<String>::new(), "{verb}");
        assert!(both(&place.run(&["get"])).0.contains(after), "{verb}");
    }
}

#[test]
fn a_flood_of_lines_is_shown_to_its_last() {
    let place = Place::new();
    place.write("job.yaml", &job("flood", 1, "seq 150000"));
    let (out, err) = both(&place.run(&["run", "job.yaml"]));
    assert_eq!(out.lines().count(), 150_000, "{err}");
    assert!(out.ends_with("\n150000\n"), "{err}");
}

#[test]
fn delete_goes_on_behind_a_name_that_is_not_there() {
    let place = Place::new();
    place.write("job.yaml", &job("there", 1, "true"));
    assert!(place.run(&["run", "job.yaml"]).status.success());
    let output = place.run(&["delete", "absent", "there"]);
    let (out, err) = both(&output);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("`absent`") && out.contains("there deleted"), "{out}{err}");
}

#[test]
fn a_huge_manifest_is_refused_and_a_long_line_is_not_shown_whole() {
    let place = Place::new();
    place.write("long.yaml", &"a".repeat(100_000));
    let output = place.run(&["run", "long.yaml"]);
    let (_, err) = both(&output);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.len() < 2000 && err.contains("long.yaml:1:1"), "{} bytes", err.len());
    place.write("huge.yaml", &"# comment\n".repeat(2_000_000));
    let output = place.run(&["run", "huge.yaml"]);
    let (_, err) = both(&output);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("larger than 16 MiB"), "{err}");
}

#[test]
fn a_job_that_is_out_of_time_says_so() {
    let place = Place::new();
    let slow = job("slow", 1, "exec sleep 1000").replace("spec:\n", "spec:\n  activeDeadlineSeconds: 1\n");
    place.write("job.yaml", &slow);
    let output = place.run(&["run", "job.yaml"]);
    let (_, err) = both(&output);
    assert!(!output.status.success(), "{err}");
    assert!(err.contains("longer than its activeDeadlineSeconds of 1") && !err.contains("ended with"), "{err}");
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn a_restart_in_place_is_told_once_and_keeps_the_log() {
    let place = Place::new();
    let flaky = job("flaky", 1, "echo try\n[ -e again ] || { touch again; exit 1; }");
    place.write("job.yaml", &flaky.replace("spec:\n", "spec:\n  restartPolicy: OnFailure\n  backoffLimit: 1\n"));
    let output = place.run(&["run", "job.yaml"]);
    let (out, err) = both(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(out.lines().filter(|line| *line == "try").count(), 2, "{out}");
    assert_eq!(err.matches("Restarting all ranks (restart 1").count(), 1, "{err}");
    let told = format!("{out}{err}");
    assert!(told.contains("generation 1: rank 0 failed: exit code 1"), "{told}");
    let (log, err) = both(&place.run(&["logs", "flaky"]));
    assert_eq!(log.lines().filter(|line| *line == "try").count(), 2, "{log} {err}");
}

#[test]
fn a_restart_of_all_pods_is_told_once_and_changes_no_name() {
    let place = Place::new();
    let flaky = job("flaky", 1, "echo try\n[ -e again ] || { touch again; exit 1; }");
    let policy = "spec:\n  restartPolicy: OnFailure\n  backoffLimit: 1\n  recovery: {inPlace: false}\n";
    place.write("job.yaml", &flaky.replace("spec:\n", policy));
    let output = place.run(&["run", "job.yaml"]);
    let (out, err) = both(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(out.lines().filter(|line| *line == "try").count(), 2, "{out}");
    assert!(!err.contains("TrainingJobRestarting"), "{err}");
    assert_eq!(err.matches("Restarting").count(), 1, "{err}");
    assert!(err.contains("all ranks (restart 1 of 1): rank 0") && err.contains("  | try"), "{err}");
    let (before, err) = both(&place.run(&["logs", "flaky", "--previous"]));
    assert_eq!(before.lines().next(), Some("try"), "what the first ranks said is still there: {err}");
}

/// A PyTorchJob whose worker fails at once, and whose master does not notice.
fn crash_loop(policy: &str) -> String {
    let role = |name: &str, script: &str| {
        format!(
            "    {name}:\n      replicas: 1\n      restartPolicy: OnFailure\n      template:\n        spec:\n          containers:\n          \
             - {{name: pytorch, image: none, command: [sh, -c, '{script}']}}\n"
        )
    };
    let roles = role("Master", "exec sleep 1000") + &role("Worker", "echo ModuleNotFoundError: cloudpickle; exit 1");
    format!(
        "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {{name: loop}}\nspec:\n{policy}  pytorchReplicaSpecs:\n{roles}"
    )
}

#[test]
fn a_crash_loop_shows_each_restart_its_last_words_and_how_to_bound_it() {
    let place = Place::new();
    place.write("job.yaml", &crash_loop(""));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    let mut reader = BufReader::new(run.0.stderr.take().expect("stderr is piped"));
    let mut err = String::new();
    while !err.contains("restart 2 of this pod, in 10s") {
        assert!(reader.read_line(&mut err).expect("stderr can be read") > 0, "{err}");
    }
    run.signal(Signal::SIGINT);
    reader.read_to_string(&mut err).expect("text");
    assert_eq!(run.0.wait().expect("it ends").code(), Some(130), "{err}");
    assert!(err.contains("loop-worker-0 ended with exit code 1: restart"), "{err}");
    let restarts = err.matches("Restarting loop-worker-0").count();
    assert_eq!(err.matches("  | ModuleNotFoundError: cloudpickle").count(), restarts, "{err}");
    assert_eq!(err.matches("spec.runPolicy.backoffLimit: 3").count(), 1, "{err}");
    eventually("no process is left", || leftovers(&place).is_empty());

    let bounded = Place::new();
    bounded.write("job.yaml", &crash_loop("  runPolicy: {backoffLimit: 1}\n"));
    let output = bounded.run(&["run", "job.yaml"]);
    let (_, err) = both(&output);
    assert!(!output.status.success(), "{err}");
    assert!(err.contains("of this pod, backoffLimit 1") && !err.contains("nothing bounds"), "{err}");
    assert_eq!(leftovers(&bounded), Vec::<String>::new());
}

#[test]
fn finished_ranks_are_told_as_finished() {
    let place = Place::new();
    let script = "echo here; [ $RANK = 0 ] || exec sleep 1000; exit 0";
    // Where ranks may start again in place their launchers wait for each other, and so do the pods.
    let spec = "spec:\n  replicas: 2\n  recovery: {inPlace: false}\n";
    place.write("job.yaml", &job("uneven", 1, script).replace("spec:\n", spec));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    let mut reader = BufReader::new(run.0.stderr.take().expect("stderr is piped"));
    let mut err = String::new();
    while !err.contains("1 rank, 1 of 2 has finished") {
        assert!(reader.read_line(&mut err).expect("stderr can be read") > 0, "{err}");
    }
    run.signal(Signal::SIGINT);
    assert_eq!(run.0.wait().expect("it ends").code(), Some(130));
}

#[test]
fn logs_outlive_the_pods_that_a_job_takes_away() {
    let place = Place::new();
    let all = job("tidy", 2, "echo said by $RANK").replace("spec:\n", "spec:\n  cleanPodPolicy: All\n");
    place.write("job.yaml", &all);
    let output = place.run(&["run", "job.yaml"]);
    assert!(output.status.success(), "{output:?}");
    // Whoever comes next ends what the first run had no time for.
    place.write("next.yaml", &job("next", 1, "true"));
    assert!(place.run(&["run", "next.yaml"]).status.success());
    let (log, err) = both(&place.run(&["logs", "tidy", "--rank", "1"]));
    assert_eq!(log, "[rank 1] said by 1\n", "{err}");
    assert!(place.run(&["delete", "tidy"]).status.success());
    assert_eq!(place.run(&["logs", "tidy"]).status.code(), Some(3), "a deleted job has no log");
}

#[test]
fn the_last_lines_of_a_rank_are_its_own() {
    let place = Place::new();
    let script = "[ $RANK = 1 ] && echo mine && echo mine too; [ -e mine ] || { [ $RANK = 1 ] && touch mine; }\n\
                  while [ ! -e mine ]; do sleep 0.05; done; [ $RANK = 0 ] && seq 50 && echo end; exec sleep 1000";
    place.write("job.yaml", &job("tails", 2, script));
    let mut run = Running::start(&place, &["run", "job.yaml"]);
    drop(run.until("[rank 0] end"));
    let mut logs = Running::start(&place, &["logs", "-f", "tails", "--rank", "1", "--tail", "1"]);
    let mut line = String::new();
    BufReader::new(logs.0.stdout.as_mut().expect("stdout is piped")).read_line(&mut line).expect("text");
    assert_eq!(line, "[rank 1] mine too\n");
    run.signal(Signal::SIGINT);
    let (code, err) = run.end();
    assert_eq!(code, Some(130), "{err}");
    logs.0.kill().expect("it waits for a server");
    let mut rest = String::new();
    logs.0.stdout.as_mut().expect("stdout is piped").read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "", "nothing twice");
}

#[test]
fn a_run_says_which_other_jobs_it_takes_over_and_leaves_behind() {
    let place = Place::new();
    place.write("left.yaml", &job("left", 1, "echo started; exec sleep 1000"));
    let mut run = Running::start(&place, &["run", "left.yaml"]);
    drop(run.until("started"));
    run.0.kill().expect("it runs");
    run.0.wait().expect("it can be waited for");
    place.write("quick.yaml", &job("quick", 1, "true"));
    let output = place.run(&["run", "quick.yaml"]);
    let (_, err) = both(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("Adopted TrainingJob left (1 pod)"), "{err}");
    assert!(err.contains("TrainingJob left (1 pod) goes on"), "{err}");
    assert!(err.contains("`trainyard up`") && err.contains("`trainyard delete trainingjob left`"), "{err}");
    assert!(place.run(&["delete", "trainingjob", "left"]).status.success());
    assert_eq!(leftovers(&place), Vec::<String>::new());
}

#[test]
fn an_image_is_needed_only_where_pods_are_containers() {
    let place = Place::new();
    place.write("job.yaml", &job("bare", 1, "true"));
    for processes in [&["validate", "job.yaml"][..], &["run", "--dry-run", "job.yaml"]] {
        let output = place.run(processes);
        assert!(output.status.success(), "{processes:?}: {output:?}");
    }
    for containers in
        [&["validate", "--context", "some", "job.yaml"][..], &["run", "--dry-run", "--context", "some", "job.yaml"]]
    {
        let output = place.run(containers);
        let (_, err) = both(&output);
        assert_eq!(output.status.code(), Some(2), "{containers:?}: {err}");
        assert!(err.contains("`image` is missing") && err.contains("job.yaml:"), "{containers:?}: {err}");
    }
}

/// A child that a server was about to start when it was killed has its lock until it runs its own program.
#[test]
fn the_lock_of_a_server_that_was_killed_is_waited_for() {
    let place = Place::new();
    std::fs::create_dir(place.home()).expect("a folder");
    let lock = std::fs::File::create(place.home().join("server.lock")).expect("a file");
    lock.lock().expect("the lock");
    let mut killed = std::process::Command::new("true").spawn().expect("a process");
    killed.wait().expect("its end");
    let info = format!(r#"{{"pid": {}, "url": "http://127.0.0.1:1", "version": "0"}}"#, killed.id());
    std::fs::write(place.home().join("server.json"), info).expect("a file");
    let command =
        place.command(&["get", "pods"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(500));
    drop(lock);
    let output = command.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", both(&output).1);
}
