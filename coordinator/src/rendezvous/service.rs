//! The gRPC service: who may join, and the two halves of a stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use trainyard_coordinator_core::rendezvous::{Hello, MemberId};
use trainyard_proto::rendezvous as wire;
use trainyard_runtime::driver::Key;
use wire::rendezvous_server::Rendezvous;

use super::room::{Message, ORDERS, Orders, Room};
use super::{Hub, Place, convert};

/// How long a stream may take to say hello: it is the first thing that a launcher does.
pub(super) const HELLO_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Service {
    hub: Hub,
    streams: AtomicU64,
}

impl Service {
    pub(super) const fn new(hub: Hub) -> Self {
        Self { hub, streams: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl Rendezvous for Service {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<wire::ToLauncher, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<wire::FromLauncher>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let text = |name: &'static str| -> Result<String, Status> {
            let value = request.metadata().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned).ok_or_else(|| Status::invalid_argument(format!("the metadata has no {name}")))
        };
        let key = Key::new(text(wire::NAMESPACE)?, text(wire::JOB)?);
        let token = text(wire::TOKEN)?;
        let place = self.hub.place(&key, &token)?;
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        let (orders, mut outgoing) = mpsc::channel(ORDERS);
        match place {
            Place::Over(release) => {
                // The channel is empty, and its other end is here.
                let _ = orders.try_send(Ok(release));
            }
            Place::Room(room) => {
                let visit = Visit { hub: self.hub.clone(), room, uid: token, number, orders };
                tokio::spawn(visit.run(request.into_inner()));
            }
        }
        Ok(Response::new(Box::pin(futures::stream::poll_fn(move |context| outgoing.poll_recv(context)))))
    }
}

/// A launcher's stream, as it comes in.
struct Visit {
    hub: Hub,
    room: Room,
    /// The job's.
    uid: String,
    number: u64,
    orders: Orders,
}

impl Visit {
    async fn run(self, mut incoming: Streaming<wire::FromLauncher>) {
        let stop = self.hub.stop();
        tokio::select! { () = self.listen(&mut incoming) => {}, () = stop.cancelled() => {} }
    }

    async fn listen(self, incoming: &mut Streaming<wire::FromLauncher>) {
        let refuse = |status: Status| {
            tracing::debug!(stream = self.number, %status, "a launcher's stream is ended");
            // It takes no orders any more: it will knock again.
            let _ = self.orders.try_send(Err(status));
        };
        let (member, hello) = match self.greet(incoming).await {
            Ok(greeting) => greeting,
            Err(status) => return refuse(status),
        };
        let Self { room, number: stream, orders, .. } = self;
        // The room ends the stream by dropping its sender: none may be kept here.
        let weak = orders.downgrade();
        room.tell(Message::Joined { member: member.clone(), stream, hello: Box::new(hello), orders });
        // A stream that broke is told to the room alone: nobody listens at its other end.
        while let Ok(Some(message)) = incoming.message().await {
            match convert::heard(&member, message) {
                Ok(heard) => room.tell(Message::Heard { member: member.clone(), stream, heard: Box::new(heard) }),
                Err(error) => {
                    if let Some(orders) = weak.upgrade() {
                        let _ = orders.try_send(Err(nonsense(&error)));
                    }
                    break;
                }
            }
        }
        room.tell(Message::Away { member, stream });
    }

    async fn greet(&self, incoming: &mut Streaming<wire::FromLauncher>) -> Result<(MemberId, Hello), Status> {
        let late = |_| Status::deadline_exceeded("no hello came");
        let first = tokio::time::timeout(HELLO_LIMIT, incoming.message()).await.map_err(late)??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let (member, hello) = convert::hello(first).map_err(|error| nonsense(&error))?;
        let place = self.hub.admit(&self.uid, &member.pod)?;
        Ok((member, Hello { place: Box::new(place), ..hello }))
    }
}

fn nonsense(error: &convert::Nonsense) -> Status {
    Status::invalid_argument(error.to_string())
}
