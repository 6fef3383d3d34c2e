//! The rendezvous as launchers see it: over its UNIX socket, with the controllers and the API server behind it. The launchers
//! are played here, one message at a time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lab;

use std::os::linux::net::SocketAddrExt as _;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use lab::{DEADLINE, Lab, has, report};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming};
use trainyard_coordinator::rendezvous::addresses;
use trainyard_proto::rendezvous as wire;
use wire::from_launcher::Message as Say;
use wire::rendezvous_client::RendezvousClient;
use wire::to_launcher::Message as Order;

const TRAINING: (&str, &str) = ("trainyard.dev/v1alpha1", "TrainingJob");

fn job(name: &str, spec: &Value) -> Value {
    let mut all = json!({"replicas": 2, "command": ["train", "forever"]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": TRAINING.0, "kind": TRAINING.1, "metadata": {"name": name}, "spec": all})
}

/// A launcher's side of a stream.
struct Launcher {
    hello: wire::Hello,
    say: mpsc::Sender<wire::FromLauncher>,
    orders: Streaming<wire::ToLauncher>,
}

impl Launcher {
    async fn hear(&mut self) -> Result<Option<Order>, Status> {
        let next = tokio::time::timeout(DEADLINE, self.orders.message()).await;
        next.expect("an order comes").map(|order| order.map(|order| order.message.unwrap()))
    }

    async fn formed(&mut self) -> wire::World {
        loop {
            match self.hear().await.unwrap() {
                Some(Order::Form(world)) => return world,
                // It comes first where the next generation cannot begin at once.
                Some(Order::Halt(_)) => {}
                other => panic!("no order to form: {other:?}"),
            }
        }
    }

    async fn released(&mut self) -> wire::release::Outcome {
        match self.hear().await.unwrap() {
            Some(Order::Release(release)) => release.outcome.unwrap(),
            other => panic!("no release: {other:?}"),
        }
    }

    async fn say(&self, message: Say) {
        self.say.send(wire::FromLauncher { message: Some(message) }).await.unwrap();
    }

    async fn start(&self, world: &wire::World) {
        let seen = world.generation;
        self.say(Say::Holds(wire::Holds { port: self.hello.port + 100 * u32::try_from(seen).unwrap(), seen })).await;
        self.say(Say::Ready(wire::Ready { generation: seen })).await;
    }

    async fn fail(&self, generation: u64, rank: u32) {
        let failure = wire::Failure {
            rank: Some(rank),
            cause: wire::Cause::OutOfMemory.into(),
            code: 137,
            message: "\nMemoryError: no room\nmore".to_owned(),
            secondary: false,
        };
        self.say(Say::Failed(wire::Failed { generation, failure: Some(failure) })).await;
    }
}

/// The seat that a launcher has in a world, as it tells of it later.
fn part(launcher: &wire::Hello, world: &wire::World) -> wire::standing::Standing {
    let seat = world.seats.iter().find(|seat| seat.member == launcher.member).unwrap().clone();
    let (generation, digest, restarts) = (world.generation, world.digest, world.restarts);
    let (pods, ranks) = (world.seats.len().try_into().unwrap(), world.seats.iter().map(|seat| seat.ranks).sum());
    wire::standing::Standing::Running(wire::Part { generation, digest, restarts, seat: Some(seat), pods, ranks })
}

fn hello(pod: &str, index: u32) -> wire::Hello {
    let idle = wire::standing::Standing::Idle(wire::Idle {});
    wire::Hello {
        member: Some(wire::Member { pod: pod.to_owned(), incarnation: 1 }),
        index: Some(index),
        address: format!("127.0.0.{}", index + 1),
        port: 20_000 + index,
        ranks: 2,
        seen: 0,
        standing: Some(wire::Standing { standing: Some(idle) }),
        host: format!("host-{index}"),
    }
}

async fn try_join(lab: &Lab, job: &str, token: &str, hello: wire::Hello) -> Result<Launcher, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{}", lab.socket().display())).unwrap();
    let connected = async {
        loop {
            // A server that is just starting listens in a moment.
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let channel = tokio::time::timeout(DEADLINE, connected).await.expect("somebody listens");
    try_join_over(channel, job, token, hello).await
}

/// The door that any user can open.
async fn open_door(lab: &Lab) -> tonic::transport::Channel {
    let address = addresses(&lab.socket()).open;
    let name = address.strip_prefix("unix:@").unwrap();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = Some(tokio::net::UnixStream::from_std(stream).unwrap());
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.take().unwrap();
        async move { std::io::Result::Ok(hyper_util::rt::TokioIo::new(stream)) }
    });
    tonic::transport::Endpoint::from_static("http://rendezvous").connect_with_connector(connector).await.unwrap()
}

async fn try_join_over(
    channel: tonic::transport::Channel,
    job: &str,
    token: &str,
    hello: wire::Hello,
) -> Result<Launcher, Status> {
    let (say, said) = mpsc::channel(16);
    say.send(wire::FromLauncher { message: Some(Say::Hello(hello.clone())) }).await.unwrap();
    let said = futures::stream::unfold(said, |mut said| async move { said.recv().await.map(|next| (next, said)) });
    let mut request = Request::new(said);
    for (name, value) in [(wire::NAMESPACE, "default"), (wire::JOB, job), (wire::TOKEN, token)] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let orders = RendezvousClient::new(channel).join(request).await?.into_inner();
    Ok(Launcher { hello, say, orders })
}

async fn uid(lab: &Lab, name: &str) -> String {
    lab.api(TRAINING.0, TRAINING.1).get(name).await.unwrap().metadata.uid.unwrap()
}

async fn join(lab: &Lab, job: &str, hello: wire::Hello) -> Launcher {
    try_join(lab, job, &uid(lab, job).await, hello).await.unwrap()
}

/// The pod of this name, when it runs; another than `not`.
async fn running(lab: &Lab, name: &str, not: Option<&str>) -> Pod {
    let runs = |pod: &Value| pod["status"]["phase"] == "Running" && pod["metadata"]["uid"].as_str() != not;
    serde_json::from_value(lab.until("v1", "Pod", name, runs).await).unwrap()
}

/// A job of two pods, with the launchers of both.
async fn pair(lab: &Lab, name: &str, spec: &Value) -> (Launcher, Launcher, [Pod; 2]) {
    lab.create(job(name, spec)).await;
    let pods =
        [running(lab, &format!("{name}-worker-0"), None).await, running(lab, &format!("{name}-worker-1"), None).await];
    let one = join(lab, name, hello(pods[0].metadata.uid.as_deref().unwrap(), 0)).await;
    let two = join(lab, name, hello(pods[1].metadata.uid.as_deref().unwrap(), 1)).await;
    (one, two, pods)
}

async fn status(lab: &Lab, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    lab.until(TRAINING.0, TRAINING.1, name, |job| holds(&job["status"])).await["status"].clone()
}

async fn events(lab: &Lab, reason: &str) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(lab.client.clone(), "default");
    let all = api.list(&ListParams::default()).await.unwrap().items;
    all.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).filter_map(|event| event.message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_that_fail_are_started_again_in_the_pods_that_are_there() {
    let lab = Lab::open().await;
    let (mut one, mut two, pods) = pair(&lab, "able", &json!({"restartPolicy": "OnFailure"})).await;
    let world = one.formed().await;
    assert_eq!(two.formed().await, world);
    assert_eq!((world.generation, world.restarts, world.seats.len()), (1, 0, 2));
    one.start(&world).await;
    two.start(&world).await;
    let seen = status(&lab, "able", |status| status["generation"] == 1 && status["phase"] == "Running").await;
    assert_eq!(seen["ranks"], 4);

    two.fail(1, 3).await;
    let next = one.formed().await;
    assert_eq!(two.formed().await, next);
    assert_eq!((next.generation, next.restarts), (2, 1));
    // What is said of a generation that is over changes nothing.
    one.fail(1, 0).await;
    one.say(Say::Finished(wire::Finished { generation: 1 })).await;
    one.start(&next).await;
    two.start(&next).await;
    let seen = status(&lab, "able", |status| status["generation"] == 2 && status["phase"] == "Running").await;
    assert_eq!(seen["restarts"], 1);
    let last = &seen["lastFailure"];
    assert_eq!(last["rank"], 3);
    assert_eq!(last["host"], "host-1");
    assert_eq!(last["pod"], "able-worker-1");
    assert_eq!(last["cause"], "outOfMemory");
    assert!(last["recoveredMs"].as_i64().is_some(), "{last}");

    one.say(Say::Finished(wire::Finished { generation: 2 })).await;
    two.say(Say::Finished(wire::Finished { generation: 2 })).await;
    for launcher in [&mut one, &mut two] {
        assert_eq!(launcher.released().await, wire::release::Outcome::Succeeded(wire::Succeeded {}));
    }
    for pod in &pods {
        report(&lab.pods(), pod, "Succeeded", Some(0)).await;
    }
    status(&lab, "able", |status| status["phase"] == "Succeeded").await;
    let now: Vec<_> = lab.pods().list(&ListParams::default()).await.unwrap().items;
    let uids = |pods: &[Pod]| pods.iter().map(|pod| pod.metadata.uid.clone()).collect::<Vec<_>>();
    assert_eq!(uids(&now), uids(&pods), "no pod was made anew");
    let failed = events(&lab, "RankFailed").await;
    assert_eq!(failed, ["Rank 3 on host-1 failed in generation 1 (outOfMemory, exit code 137): MemoryError: no room"]);
    let formed = events(&lab, "GenerationFormed").await;
    assert!(formed.iter().any(|text| text.starts_with("Generation 2: 4 ranks in 2 pods, ")), "{formed:?}");
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_not_borne_fails_the_job_once_and_says_why() {
    let lab = Lab::open().await;
    let (mut one, mut two, pods) = pair(&lab, "once", &json!({})).await;
    let world = one.formed().await;
    two.formed().await;
    one.start(&world).await;
    two.start(&world).await;
    one.fail(1, 1).await;
    for launcher in [&mut one, &mut two] {
        let wire::release::Outcome::Failed(failure) = launcher.released().await else { panic!("not a failure") };
        assert_eq!((failure.rank, failure.code), (Some(1), 137));
    }
    for pod in &pods {
        report(&lab.pods(), pod, "Failed", Some(1)).await;
    }
    let seen = status(&lab, "once", |status| status["phase"] == "Failed").await;
    assert_eq!(seen["exitCode"], 137, "the rank's, not the launcher's");
    let message = seen["message"].as_str().unwrap();
    assert!(
        message.contains("rank 1 (pod once-worker-0, host host-0) ran out of memory: MemoryError: no room"),
        "{message}"
    );
    assert_eq!(seen["restarts"], 0);
    assert_eq!(lab.pods().list(&ListParams::default()).await.unwrap().items.len(), 2, "nothing was started again");
    // Whoever knocks late is told at once.
    let mut late = join(&lab, "once", one.hello.clone()).await;
    assert!(matches!(late.released().await, wire::release::Outcome::Failed(_)));
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_pod_is_replaced_alone_while_the_others_wait() {
    let lab = Lab::open().await;
    let (mut one, mut two, pods) = pair(&lab, "lost", &json!({"restartPolicy": "OnFailure"})).await;
    let world = one.formed().await;
    two.formed().await;
    one.start(&world).await;
    two.start(&world).await;
    status(&lab, "lost", |status| status["phase"] == "Running").await;
    report(&lab.pods(), &pods[1], "Failed", Some(137)).await;
    assert_eq!(one.hear().await.unwrap(), Some(Order::Halt(wire::Halt { generation: 1 })));
    drop(two);
    let old = pods[1].metadata.uid.as_deref();
    let new = running(&lab, "lost-worker-1", old).await;
    let mut two = join(&lab, "lost", hello(new.metadata.uid.as_deref().unwrap(), 1)).await;
    let next = one.formed().await;
    assert_eq!(two.formed().await, next);
    assert_eq!((next.generation, next.restarts), (2, 1));
    one.start(&next).await;
    two.start(&next).await;
    let seen = status(&lab, "lost", |status| status["generation"] == 2 && status["phase"] == "Running").await;
    assert_eq!(seen["restarts"], 1, "one loss is one restart");
    assert_eq!(seen["lastFailure"]["cause"], "nodeLost");
    let first = lab.pods().get("lost-worker-0").await.unwrap();
    assert_eq!(first.metadata.uid, pods[0].metadata.uid, "the other one stays");
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_again_adopts_what_runs() {
    let mut lab = Lab::open().await;
    let (mut one, mut two, _) = pair(&lab, "kept", &json!({"restartPolicy": "OnFailure"})).await;
    let world = one.formed().await;
    two.formed().await;
    one.start(&world).await;
    two.start(&world).await;
    status(&lab, "kept", |status| status["phase"] == "Running").await;
    // What was not told when the server stops is not told later.
    formed(&lab, 1).await;
    lab.stop().await;
    assert!(!matches!(one.hear().await, Ok(Some(_))), "a server that stops orders nothing");
    lab.start().await;
    let back = |launcher: &Launcher| {
        let standing = part(&launcher.hello, &world);
        let port = launcher.hello.port + 50;
        wire::Hello {
            port,
            seen: 1,
            standing: Some(wire::Standing { standing: Some(standing) }),
            ..launcher.hello.clone()
        }
    };
    let mut one = join(&lab, "kept", back(&one)).await;
    let mut two = join(&lab, "kept", back(&two)).await;
    // The first order after the adoption is for what fails next: the world that ran was not started again.
    two.fail(1, 2).await;
    let next = one.formed().await;
    assert_eq!(two.formed().await, next);
    assert!(next.generation > 16, "numbers of the block before are not given out again: {}", next.generation);
    assert_eq!(next.restarts, 1);
    one.start(&next).await;
    two.start(&next).await;
    let told = formed(&lab, next.generation).await;
    let first: Vec<_> = told.iter().filter(|(text, _)| text.starts_with("Generation 1: ")).collect();
    assert_eq!(first, [&("Generation 1: 4 ranks in 2 pods".to_owned(), 1)], "it was formed once: {told:?}");
    lab.close().await;
}

/// What was told of generations that were formed, and how often, once this one is told of. The events of a job come in order.
async fn formed(lab: &Lab, generation: u64) -> Vec<(String, i32)> {
    let api: Api<Event> = Api::namespaced(lab.client.clone(), "default");
    let wait = async {
        loop {
            let all = api.list(&ListParams::default()).await.unwrap().items;
            let of = all.into_iter().filter(|event| event.reason.as_deref() == Some("GenerationFormed"));
            let told: Vec<_> = of.filter_map(|event| Some((event.message?, event.count.unwrap_or_default()))).collect();
            if told.iter().any(|(text, _)| text.starts_with(&format!("Generation {generation}: "))) {
                return told;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the generation is told of")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_not_joined_is_named() {
    let lab = Lab::open().await;
    lab.create(job("half", &json!({}))).await;
    let first = running(&lab, "half-worker-0", None).await;
    running(&lab, "half-worker-1", None).await;
    let _one = join(&lab, "half", hello(first.metadata.uid.as_deref().unwrap(), 0)).await;
    let seen = status(&lab, "half", |status| status["missing"].is_array()).await;
    assert_eq!(seen["missing"], json!(["half-worker-1"]));
    assert!(seen["message"].as_str().unwrap().contains("half-worker-1"), "{seen}");
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_join_is_told_why() {
    let lab = Lab::open().await;
    lab.create(job("shut", &json!({}))).await;
    let pod = running(&lab, "shut-worker-0", None).await.metadata.uid.unwrap();
    let token = uid(&lab, "shut").await;
    let refused = async |job: &str, token: &str, hello: wire::Hello| match try_join(&lab, job, token, hello).await {
        Ok(mut launcher) => launcher.hear().await.expect_err("it is refused").code(),
        Err(status) => status.code(),
    };
    assert_eq!(refused("shut", "guess", hello(&pod, 0)).await, Code::Unauthenticated);
    assert_eq!(refused("other", &token, hello(&pod, 0)).await, Code::NotFound);
    assert_eq!(refused("shut", &token, hello("stranger", 0)).await, Code::Unavailable);
    assert_eq!(refused("shut", &token, wire::Hello { port: 0, ..hello(&pod, 0) }).await, Code::InvalidArgument);
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_open_door_is_open_to_those_with_the_token() {
    let lab = Lab::open().await;
    lab.create(job("door", &json!({"replicas": 1}))).await;
    let pod = running(&lab, "door-worker-0", None).await.metadata.uid.unwrap();
    let token = uid(&lab, "door").await;
    let guessed = try_join_over(open_door(&lab).await, "door", "guess", hello(&pod, 0)).await;
    assert_eq!(guessed.err().unwrap().code(), Code::Unauthenticated);
    let mut launcher = try_join_over(open_door(&lab).await, "door", &token, hello(&pod, 0)).await.unwrap();
    assert_eq!(launcher.formed().await.seats.len(), 1);
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_launchers_of_a_pod_the_newer_one_counts() {
    let lab = Lab::open().await;
    lab.create(job("twin", &json!({"replicas": 1}))).await;
    let pod = running(&lab, "twin-worker-0", None).await.metadata.uid.unwrap();
    let newer = wire::Hello { member: Some(wire::Member { pod: pod.clone(), incarnation: 2 }), ..hello(&pod, 0) };
    let mut new = join(&lab, "twin", newer.clone()).await;
    let world = new.formed().await;
    let mut old = join(&lab, "twin", hello(&pod, 0)).await;
    assert_eq!(old.hear().await.unwrap_err().code(), Code::Aborted);
    new.start(&world).await;
    new.say(Say::Finished(wire::Finished { generation: 1 })).await;
    assert_eq!(new.released().await, wire::release::Outcome::Succeeded(wire::Succeeded {}));
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_job_releases_its_launchers() {
    let lab = Lab::open().await;
    let (mut one, mut two, _) = pair(&lab, "rest", &json!({})).await;
    one.formed().await;
    two.formed().await;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    lab.api(TRAINING.0, TRAINING.1).patch("rest", &PatchParams::default(), &suspend).await.unwrap();
    for launcher in [&mut one, &mut two] {
        assert_eq!(launcher.released().await, wire::release::Outcome::Stopped(wire::Stopped {}));
    }
    lab.until(TRAINING.0, TRAINING.1, "rest", |job| has(job, "Suspended")).await;
    lab.api(TRAINING.0, TRAINING.1).delete("rest", &DeleteParams::default()).await.unwrap();
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_gets_another_size_starts_again_and_has_not_failed() {
    let lab = Lab::open().await;
    let (mut one, mut two, pods) = pair(&lab, "grow", &json!({"restartPolicy": "Never"})).await;
    let world = one.formed().await;
    two.formed().await;
    one.start(&world).await;
    two.start(&world).await;
    status(&lab, "grow", |status| status["generation"] == 1 && status["phase"] == "Running").await;
    let resize = Patch::Merge(json!({"spec": {"replicas": 3}}));
    lab.api(TRAINING.0, TRAINING.1).patch("grow", &PatchParams::default(), &resize).await.unwrap();
    for launcher in [&mut one, &mut two] {
        assert_eq!(launcher.released().await, wire::release::Outcome::Stopped(wire::Stopped {}));
    }
    let mut launchers = Vec::new();
    for index in 0..3_u32 {
        let old = pods.get(index as usize).and_then(|pod| pod.metadata.uid.clone());
        let pod = running(&lab, &format!("grow-worker-{index}"), old.as_deref()).await;
        launchers.push(join(&lab, "grow", hello(pod.metadata.uid.as_deref().unwrap(), index)).await);
    }
    for launcher in &mut launchers {
        let world = launcher.formed().await;
        assert_eq!((world.seats.len(), world.restarts), (3, 0));
        assert!(world.generation > 1);
        launcher.start(&world).await;
    }
    let seen = status(&lab, "grow", |status| status["ranks"] == 6 && status["phase"] == "Running").await;
    assert_eq!((&seen["restarts"], &seen["lastFailure"]), (&json!(0), &Value::Null));
    lab.close().await;
}
