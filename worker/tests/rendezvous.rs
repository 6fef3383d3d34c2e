//! The launcher on a line to a coordinator, which is played by the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes is the failure, or of no interest")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use trainyard_proto::rendezvous::from_launcher::Message as Said;
use trainyard_proto::rendezvous::rendezvous_server::{Rendezvous, RendezvousServer};
use trainyard_proto::rendezvous::to_launcher::Message as Order;
use trainyard_proto::rendezvous::{
    Cause, Failure, FromLauncher, Halt, Hello, JOB, Release, Seat, Stopped, Succeeded, TOKEN, ToLauncher, World,
    release, standing::Standing,
};

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream of a launcher, in the test's hands.
struct Line {
    heard: UnboundedReceiver<Said>,
    say: UnboundedSender<Result<ToLauncher, Status>>,
    job: (String, String),
}

struct Service(UnboundedSender<Line>);

#[tonic::async_trait]
impl Rendezvous for Service {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<ToLauncher, Status>> + Send>>;

    async fn join(&self, request: Request<Streaming<FromLauncher>>) -> Result<Response<Self::JoinStream>, Status> {
        let text =
            |key| request.metadata().get(key).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let job = (text(JOB), text(TOKEN));
        let (tell, heard) = unbounded();
        let (say, said) = unbounded();
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(FromLauncher { message: Some(message) })) = messages.message().await {
                let _ = tell.unbounded_send(message);
            }
        });
        self.0.unbounded_send(Line { heard, say, job }).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(said)))
    }
}

/// A coordinator, until it is dropped.
struct Coordinator {
    lines: UnboundedReceiver<Line>,
    server: tokio::task::JoinHandle<()>,
}

impl Coordinator {
    fn listen(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let incoming = futures::stream::unfold(listener, |listener| async move {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let (tell, lines) = unbounded();
        let service = RendezvousServer::new(Service(tell));
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        Self { lines, server: tokio::spawn(async move { server.await.unwrap() }) }
    }

    /// The next stream, and its first message.
    async fn line(&mut self) -> (Line, Hello) {
        let mut line = soon(self.lines.next()).await;
        match line.hear().await {
            Said::Hello(hello) => (line, hello),
            other => panic!("not a hello: {other:?}"),
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Line {
    /// What the launcher says next that decides something.
    async fn hear(&mut self) -> Said {
        loop {
            match soon(self.heard.next()).await {
                Said::Pulse(_) => {}
                said => return said,
            }
        }
    }

    /// The next word on ranks: ports are held whenever they are.
    async fn report(&mut self) -> Said {
        loop {
            match self.hear().await {
                Said::Holds(_) => {}
                said => return said,
            }
        }
    }

    fn order(&self, order: Order) {
        self.say.unbounded_send(Ok(ToLauncher { message: Some(order) })).unwrap();
    }
}

async fn soon<T>(what: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time").expect("it comes")
}

/// A launcher with two ranks.
struct Launcher {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Launcher {
    fn start(rendezvous: &Path, script: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard-launch"));
        command.args(["--nproc", "2", "--", "sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").envs([
            ("TRAINYARD_RENDEZVOUS", format!("unix:{}", rendezvous.display()).as_str()),
            ("TRAINYARD_POD_UID", "uid-0"),
            ("TRAINYARD_JOB", "wine"),
            ("TRAINYARD_JOB_TOKEN", "secret"),
            ("PET_NNODES", "2"),
            ("PET_NODE_RANK", "0"),
            ("PET_MASTER_ADDR", "127.0.0.1"),
            ("PET_MASTER_PORT", "0"),
        ]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next two lines, sorted.
    fn lines(&mut self) -> [String; 2] {
        let mut lines = [(); 2].map(|()| self.lines.next().unwrap().unwrap());
        lines.sort();
        lines
    }

    fn finish(self) -> (Option<i32>, String) {
        let rest: Vec<String> = self.lines.map(Result::unwrap).collect();
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), format!("{rest:?} {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A world in which the launcher has ranks 2 and 3.
fn world(generation: u64, hello: &Hello) -> World {
    let seat = |node_rank, first_rank, address: &str, port| Seat {
        member: hello.member.clone().filter(|_| node_rank == 1),
        node_rank,
        first_rank,
        ranks: 2,
        address: address.to_owned(),
        port,
    };
    let seats = vec![seat(0, 0, "10.0.0.1", 4000), seat(1, 2, &hello.address, hello.port)];
    World { generation, seats, restarts: 0, digest: 42 + generation }
}

const RANKS: &str = "echo $RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT in $TRAINYARD_GENERATION; exec sleep 600";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn training_goes_on_without_the_coordinator_which_finds_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    // The launcher is there first, and knocks until somebody opens.
    let mut launcher = Launcher::start(&path, RANKS);
    let mut coordinator = Coordinator::listen(&path);
    let (mut line, hello) = coordinator.line().await;
    assert_eq!(line.job, ("wine".to_owned(), "secret".to_owned()));
    assert_eq!((hello.index, hello.ranks, hello.seen), (Some(0), 2, 0));
    assert!(matches!(hello.standing.as_ref().unwrap().standing, Some(Standing::Idle(_))));
    line.order(Order::Form(world(7, &hello)));
    assert_eq!(launcher.lines(), ["[rank 2] 2 of 4 at 10.0.0.1:4000 in 7", "[rank 3] 3 of 4 at 10.0.0.1:4000 in 7"]);
    assert!(matches!(line.report().await, Said::Ready(ready) if ready.generation == 7));

    drop((line, coordinator));
    let mut coordinator = Coordinator::listen(&path);
    let (mut line, again) = coordinator.line().await;
    assert_eq!((again.member.as_ref(), again.seen), (hello.member.as_ref(), 7));
    assert_ne!(again.port, hello.port, "the last one may have been given away");
    match again.standing.as_ref().unwrap().standing.as_ref().unwrap() {
        Standing::Running(part) => {
            assert_eq!((part.generation, part.digest, part.seat.as_ref().unwrap().first_rank), (7, 49, 2));
            assert_eq!((part.pods, part.ranks), (2, 4), "of the whole world");
        }
        other => panic!("{other:?}"),
    }
    // Old orders are refused; halted ranks are no failure; a new generation has its number in the lines.
    line.order(Order::Form(world(6, &hello)));
    line.order(Order::Halt(Halt { generation: 7 }));
    line.order(Order::Form(world(9, &again)));
    assert_eq!(
        launcher.lines(),
        ["[rank 2 gen 9] 2 of 4 at 10.0.0.1:4000 in 9", "[rank 3 gen 9] 3 of 4 at 10.0.0.1:4000 in 9"]
    );
    assert!(matches!(line.report().await, Said::Ready(ready) if ready.generation == 9));
    line.order(Order::Release(Release { outcome: Some(release::Outcome::Stopped(Stopped {})) }));
    let (code, told) = launcher.finish();
    assert_eq!(code, Some(143), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_reported_and_the_job_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    let mut coordinator = Coordinator::listen(&path);
    let launcher = Launcher::start(&path, "[ $RANK = 3 ] && exit 9; exec sleep 600");
    let (mut line, hello) = coordinator.line().await;
    line.order(Order::Form(world(1, &hello)));
    let failure = loop {
        match line.report().await {
            Said::Failed(failed) => break failed.failure.unwrap(),
            Said::Ready(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((failure.rank, failure.cause(), failure.code), (Some(3), Cause::ExitCode, 9));
    // It says so again to a coordinator that has not heard.
    drop((line, coordinator));
    let mut coordinator = Coordinator::listen(&path);
    let (line, again) = coordinator.line().await;
    match again.standing.unwrap().standing.unwrap() {
        Standing::Failed(failed) => assert_eq!((failed.generation, failed.failure), (1, Some(failure))),
        other => panic!("{other:?}"),
    }
    // Another rank was the first.
    let first = Failure {
        rank: Some(0),
        cause: Cause::OutOfMemory.into(),
        code: 137,
        message: "no memory".to_owned(),
        secondary: false,
    };
    line.order(Order::Release(Release { outcome: Some(release::Outcome::Failed(first)) }));
    let (code, told) = launcher.finish();
    assert_eq!(code, Some(137), "{told}");
    assert!(told.contains("trainyard: the job failed, not here: rank 0: no memory; exit code 137"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failure_that_others_followed_from_is_told_when_it_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    let told = folder.path().join("told");
    let mut coordinator = Coordinator::listen(&path);
    let script = format!(
        "raise() {{ printf 'Traceback (most recent call last):\\n  File \"t.py\", line 1, in <module>\\n%s\\n' \"$1\" >&2; }}
        case $RANK in
            2) until [ -e {0}.deaf ]; do sleep 0.01; done
                raise 'RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:4'; exit 1;;
            3) trap '' TERM; >{0}.deaf; while [ ! -e {0} ]; do sleep 0.01; done; raise 'ValueError: no such file'; exit 3;;
            *) exec sleep 600;;
        esac",
        told.display()
    );
    let launcher = Launcher::start(&path, &script);
    let (mut line, hello) = coordinator.line().await;
    line.order(Order::Form(world(1, &hello)));
    let mut failed = async || loop {
        if let Said::Failed(failed) = line.report().await {
            break (failed.generation, failed.failure.unwrap());
        }
    };
    let (generation, follows) = failed().await;
    assert_eq!((generation, follows.rank, follows.secondary), (1, Some(2), true), "{follows:?}");
    std::fs::write(told, "").unwrap();
    let (generation, first) = failed().await;
    assert_eq!((generation, first.rank, first.code, first.secondary), (1, Some(3), 3, false), "{first:?}");
    assert!(first.message.starts_with("ValueError: no such file"), "{first:?}");
    line.order(Order::Release(Release { outcome: Some(release::Outcome::Failed(first)) }));
    assert_eq!(launcher.finish().0, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_finished_waits_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    let mut coordinator = Coordinator::listen(&path);
    let mut launcher = Launcher::start(&path, "echo done $TRAINYARD_GENERATION");
    let (mut line, hello) = coordinator.line().await;
    for generation in [1, 2] {
        // The second time because a rank elsewhere failed meanwhile.
        line.order(Order::Form(world(generation, &hello)));
        assert!(launcher.lines().iter().all(|said| said.ends_with(&format!("done {generation}"))));
        while !matches!(line.report().await, Said::Finished(finished) if finished.generation == generation) {}
        assert_eq!(launcher.child.try_wait().unwrap(), None);
    }
    line.order(Order::Release(Release { outcome: Some(release::Outcome::Succeeded(Succeeded {})) }));
    let (code, told) = launcher.finish();
    assert_eq!(code, Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_escaped_from_a_generation_is_not_beside_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    let escaped = folder.path().join("escaped");
    let script = format!(
        "if [ $TRAINYARD_GENERATION = 1 ] && [ $RANK = 3 ]; then
            setsid -f sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 600'
            until [ -e {0} ]; do sleep 0.02; done; exit 9
        fi; [ $TRAINYARD_GENERATION = 1 ] || echo up; exec sleep 600",
        escaped.display()
    );
    let mut coordinator = Coordinator::listen(&path);
    let mut launcher = Launcher::start(&path, &script);
    let (mut line, hello) = coordinator.line().await;
    line.order(Order::Form(world(1, &hello)));
    while !matches!(line.report().await, Said::Failed(_)) {}
    line.order(Order::Form(world(2, &hello)));
    assert_eq!(launcher.lines(), ["[rank 2 gen 2] up", "[rank 3 gen 2] up"]);
    let pid: u32 = std::fs::read_to_string(escaped).unwrap().trim().parse().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while state().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')) {
        assert!(std::time::Instant::now() < deadline, "it is beside generation 2");
        tokio::task::yield_now().await;
    }
    line.order(Order::Release(Release { outcome: Some(release::Outcome::Stopped(Stopped {})) }));
    assert_eq!(launcher.finish().0, Some(143));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes the minute that a launcher whose ranks ended well waits"]
async fn who_has_finished_does_not_wait_for_somebody_who_is_no_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendezvous.sock");
    let mut coordinator = Coordinator::listen(&path);
    let launcher = Launcher::start(&path, "echo done");
    let (mut line, hello) = coordinator.line().await;
    line.order(Order::Form(world(1, &hello)));
    while !matches!(line.report().await, Said::Finished(_)) {}
    drop((line, coordinator));
    std::fs::remove_file(&path).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        // Each is kept for a while, and then hung up on.
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            taken.push(stream);
            std::thread::sleep(Duration::from_secs(3));
            taken.clear();
        }
    });
    let began = std::time::Instant::now();
    assert_eq!(launcher.finish().0, Some(0));
    assert!(began.elapsed() < Duration::from_secs(90));
}
