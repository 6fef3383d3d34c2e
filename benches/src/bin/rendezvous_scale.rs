//! How long hundreds of launchers take to have the order of the next generation after one of them failed: the real
//! service behind its UNIX socket, with its controllers and its API server; the launchers are simulated, each with a
//! connection of its own.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use clap::Parser;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use prost::Message as _;
use serde_json::json;
use tokio::sync::mpsc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};
use trainyard_benches::Error;
use trainyard_benches::samples::Samples;
use trainyard_coordinator::{Config, Coordinator};
use trainyard_proto::rendezvous as wire;
use trainyard_runtime::embedded::{Embedded, Options};
use wire::from_launcher::Message as Say;
use wire::to_launcher::Message as Order;

/// A step that takes longer is not going to end.
const PATIENCE: Duration = Duration::from_secs(120);
const JOB: &str = "large";

#[derive(Parser)]
struct Arguments {
    /// Launchers
    #[arg(long, default_value_t = 512)]
    launchers: u32,
    /// Ranks of each
    #[arg(long, default_value_t = 8)]
    ranks: u32,
    /// Failures
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// Leaves orders as they come: each launcher reads its own on its own machine, not all of them on this one.
#[derive(Clone, Copy, Default)]
struct Unread;

impl Codec for Unread {
    type Encode = wire::FromLauncher;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Unread {
    type Item = wire::FromLauncher;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(length)))
    }
}

/// A launcher's side of a stream.
struct Launcher {
    index: u32,
    say: mpsc::Sender<wire::FromLauncher>,
    orders: Streaming<Bytes>,
}

impl Launcher {
    async fn join(socket: &Path, token: &str, hello: wire::Hello) -> Result<Self, Error> {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        let (say, said) = mpsc::channel(16);
        let index = hello.index.unwrap_or_default();
        let _ = say.send(wire::FromLauncher { message: Some(Say::Hello(hello)) }).await;
        let said = futures::stream::unfold(said, |mut said| async move { said.recv().await.map(|next| (next, said)) });
        let mut request = Request::new(said);
        for (name, value) in [(wire::NAMESPACE, "default"), (wire::JOB, JOB), (wire::TOKEN, token)] {
            request.metadata_mut().insert(name, value.parse().map_err(failed)?);
        }
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(failed)?;
        let path = http::uri::PathAndQuery::from_static("/trainyard.rendezvous.v1.Rendezvous/Join");
        let orders = client.streaming(request, path, Unread).await.map_err(failed)?.into_inner();
        Ok(Self { index, say, orders })
    }

    async fn say(&self, message: Say) -> Result<(), Error> {
        self.say.send(wire::FromLauncher { message: Some(message) }).await.map_err(failed)
    }

    /// The next order to form, and when it was here.
    async fn formed(&mut self) -> Result<(Bytes, Instant), Error> {
        loop {
            let order = tokio::time::timeout(PATIENCE, self.orders.message()).await.map_err(failed)?.map_err(failed)?;
            let order = order.ok_or_else(|| Error::Request("the stream ended".to_owned()))?;
            // Field 2, of a length: to halt.
            if order.first() != Some(&0x12) {
                return Ok((order, Instant::now()));
            }
        }
    }

    async fn start(&self, generation: u64) -> Result<(), Error> {
        let port = 20_000 + (self.index + u32::try_from(generation).unwrap_or(0) * 7) % 10_000;
        self.say(Say::Holds(wire::Holds { port, seen: generation })).await?;
        self.say(Say::Ready(wire::Ready { generation })).await
    }
}

fn hello(pod: &str, index: u32, ranks: u32) -> wire::Hello {
    let idle = wire::standing::Standing::Idle(wire::Idle {});
    wire::Hello {
        member: Some(wire::Member { pod: pod.to_owned(), incarnation: 1 }),
        index: Some(index),
        address: format!("10.0.{}.{}", index / 250, index % 250 + 1),
        port: 20_000 + index,
        ranks,
        seen: 0,
        standing: Some(wire::Standing { standing: Some(idle) }),
        host: format!("host-{index}"),
    }
}

/// A node with room for all, and the job; gives the job's uid and those of its pods, by index.
async fn set_up(client: kube::Client, launchers: u32) -> Result<(String, Vec<String>), Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "here"}})).map_err(failed)?;
    nodes.create(&PostParams::default(), &node).await.map_err(failed)?;
    let amounts = json!({"cpu": "4096", "memory": "4096Gi", "pods": "10000"});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"status": {"allocatable": amounts, "capacity": amounts, "conditions": ready}});
    nodes.patch_status("here", &PatchParams::default(), &Patch::Merge(&status)).await.map_err(failed)?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("trainyard.dev", "v1alpha1", "TrainingJob"));
    let jobs: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
    let spec = json!({
        "replicas": launchers, "command": ["train"], "restartPolicy": "OnFailure", "backoffLimit": 100_000,
    });
    let job = json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": JOB}, "spec": spec,
    });
    let job = jobs.create(&PostParams::default(), &serde_json::from_value(job).map_err(failed)?).await;
    let token = job.map_err(failed)?.metadata.uid.unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let began = Instant::now();
    loop {
        let all = pods.list(&ListParams::default()).await.map_err(failed)?.items;
        let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if all.len() == launchers as usize && all.iter().all(bound) {
            let mut uids = vec![String::new(); launchers as usize];
            for pod in &all {
                run_pod(&pods, pod).await?;
                let name = pod.metadata.name.clone().unwrap_or_default();
                let index = name.rsplit('-').next().and_then(|index| index.parse::<usize>().ok()).unwrap_or_default();
                uids[index] = pod.metadata.uid.clone().unwrap_or_default();
            }
            return Ok((token, uids));
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::Request(format!("{} of {launchers} pods after {PATIENCE:?}", all.len())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a node agent would say.
async fn run_pod(pods: &Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let name = container.map(|container| container.name.as_str()).unwrap_or_default();
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let status = json!({"status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{
            "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
        }],
    }});
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&status)).await.map_err(failed)?;
    Ok(())
}

/// The world into which all were ordered.
fn ordered(formed: &[(Bytes, Instant)]) -> Result<wire::World, Error> {
    let same = formed.windows(2).all(|pair| pair[0].0 == pair[1].0);
    let order = formed.first().and_then(|(order, _)| wire::ToLauncher::decode(order.clone()).ok());
    match order.and_then(|order| order.message) {
        Some(Order::Form(world)) if same && world.seats.len() == formed.len() => Ok(world),
        other => Err(Error::Request(format!("not all were ordered into the same world: {other:?}"))),
    }
}

/// One launcher fails; how long until all have the order of the next generation.
async fn round(launchers: &mut [Launcher], generation: u64, who: usize) -> Result<(u64, Duration), Error> {
    let failure = wire::Failure {
        rank: None,
        cause: wire::Cause::Signal.into(),
        code: 137,
        message: "killed".to_owned(),
        secondary: false,
    };
    let began = Instant::now();
    launchers[who].say(Say::Failed(wire::Failed { generation, failure: Some(failure) })).await?;
    let formed = try_join_all(launchers.iter_mut().map(Launcher::formed)).await?;
    let last = formed.iter().map(|(_, at)| *at).max().unwrap_or(began);
    let next = ordered(&formed)?.generation;
    for launcher in launchers.iter() {
        launcher.start(next).await?;
    }
    Ok((next, last - began))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let home = tempfile::tempdir()?;
    let server = Embedded::open(Options::new(home.path())).await.map_err(failed)?;
    let socket = home.path().join("rendezvous.sock");
    let config = Config { rendezvous: Some(socket.clone()), ..Config::default() };
    let coordinator = Coordinator::start(server.client(), config).await.map_err(failed)?;
    coordinator.ready().await;
    let (token, pods) = set_up(server.client(), arguments.launchers).await?;
    let began = Instant::now();
    let hellos = (0..).zip(&pods).map(|(index, pod)| hello(pod, index, arguments.ranks));
    let mut launchers = try_join_all(hellos.map(|hello| Launcher::join(&socket, &token, hello))).await?;
    let formed = try_join_all(launchers.iter_mut().map(Launcher::formed)).await?;
    let first = began.elapsed();
    let mut generation = ordered(&formed)?.generation;
    for launcher in &launchers {
        launcher.start(generation).await?;
    }
    let mut samples = Samples::default();
    for number in 0..=arguments.rounds {
        // Generations that live for less time than this are followed by a pause, on purpose.
        tokio::time::sleep(Duration::from_millis(5_200)).await;
        let who = number * 37 % launchers.len();
        let (next, took) = round(&mut launchers, generation, who).await?;
        generation = next;
        if number > 0 {
            samples.push(took);
        }
    }
    let mut out = std::io::stdout().lock();
    let ranks = arguments.launchers * arguments.ranks;
    writeln!(out, "| {} launchers, {ranks} ranks, ms | p50 / p99 / max | limit |", arguments.launchers)?;
    writeln!(out, "|---|---|---|")?;
    writeln!(out, "| one fails, until all have the order to form the next generation | {} | 250 |", samples.line())?;
    writeln!(out, "| all connect and join, until all have the first order | {} | |", first.as_millis())?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Request(error.to_string())
}
