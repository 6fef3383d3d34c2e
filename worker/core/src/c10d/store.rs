//! What the store holds, who waits for what, and the answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::request::{self, Refusal, Request};

/// A connection, numbered by whoever accepts it.
pub type ClientId = u64;

/// All keys and values together. A rendezvous takes kilobytes; object collectives may take more.
const STORE_BYTES: usize = 1024 * 1024 * 1024;

/// Answers to what a client asks at once. One that does not take so much would be let go anyway; this is before they are made.
const ANSWERS_BYTES: usize = 64 * 1024 * 1024;

/// Answers to a wait and to a check.
const STOP_WAITING: u8 = 0;
const WAIT_CANCELLED: u8 = 1;
const READY: u8 = 0;
const NOT_READY: u8 = 1;

/// Something that happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'bytes> {
    /// It was accepted.
    Connected(ClientId),
    /// It sent bytes.
    Received(ClientId, &'bytes [u8]),
    /// It ended.
    Disconnected(ClientId),
}

/// Something to do with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes.
    Send(ClientId, Vec<u8>),
    /// End it; it is forgotten here already.
    Close(ClientId, Refusal),
}

#[derive(Debug, Default)]
struct Client {
    greeted: bool,
    /// Bytes that are no whole request yet.
    inbox: Vec<u8>,
    pending: Option<Pending>,
}

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pending {
    Keys(Vec<Vec<u8>>),
    Barrier(Vec<u8>),
}

/// The store and its clients.
#[derive(Debug, Default)]
pub struct Store {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    queues: BTreeMap<Vec<u8>, VecDeque<Vec<u8>>>,
    /// Bytes in `values` and `queues`, keys included.
    held: usize,
    clients: BTreeMap<ClientId, Client>,
    /// Who waits for a key, in the order of arrival.
    waiting: BTreeMap<Vec<u8>, Vec<ClientId>>,
    /// Who has come to a barrier.
    barriers: BTreeMap<Vec<u8>, BTreeSet<ClientId>>,
    /// Requests taken so far.
    requests: u64,
}

impl Store {
    /// Takes one input and says what to do about it.
    pub fn step(&mut self, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Connected(id) => {
                self.clients.insert(id, Client::default());
            }
            Input::Received(id, bytes) => self.receive(id, bytes, out),
            Input::Disconnected(id) => self.forget(id),
        }
        debug_assert!(self.check());
    }

    /// How many connections there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many requests were taken in all; greetings are none.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The key for which a client waits; of several, the first that is missing.
    pub fn waits_for(&self, id: ClientId) -> Option<&[u8]> {
        match self.clients.get(&id)?.pending.as_ref()? {
            Pending::Keys(keys) => keys.iter().find(|key| !self.is_there(key)).or(keys.first()).map(Vec::as_slice),
            Pending::Barrier(key) => Some(key),
        }
    }

    fn receive(&mut self, id: ClientId, bytes: &[u8], out: &mut Vec<Output>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.inbox.extend_from_slice(bytes);
        let mut inbox = std::mem::take(&mut client.inbox);
        let mut greeted = client.greeted;
        let mut taken = 0;
        let mut owed = 0_usize;
        let refusal = loop {
            let next = if greeted {
                request::request(&inbox[taken..]).map(|found| found.map(|(request, size)| (Some(request), size)))
            } else {
                request::greeting(&inbox[taken..]).map(|found| found.map(|size| (None, size)))
            };
            match next {
                Ok(Some((Some(request), size))) => {
                    taken += size;
                    self.requests += 1;
                    owed = owed.saturating_add(self.answer_bytes(&request));
                    if owed > ANSWERS_BYTES {
                        let (length, limit) = (owed as u64, ANSWERS_BYTES as u64);
                        break Some(Refusal::TooLong { what: "the answers to requests", length, limit });
                    }
                    if let Err(refusal) = self.answer(id, request, out) {
                        break Some(refusal);
                    }
                }
                Ok(Some((None, size))) => {
                    taken += size;
                    greeted = true;
                }
                Ok(None) => break None,
                Err(refusal) => break Some(refusal),
            }
        };
        if let Some(refusal) = refusal {
            self.forget(id);
            out.push(Output::Close(id, refusal));
        } else if let Some(client) = self.clients.get_mut(&id) {
            inbox.drain(..taken);
            client.inbox = inbox;
            client.greeted = greeted;
        }
    }

    /// How long an answer would be that holds what is in the store; the others are short.
    fn answer_bytes(&self, request: &Request) -> usize {
        let value = |key: &Vec<u8>| size_of::<u64>() + self.values.get(key).map_or(0, Vec::len);
        match request {
            Request::Get { key } | Request::CompareSet { key, .. } => value(key),
            Request::MultiGet { keys } => keys.iter().map(value).fold(0, usize::saturating_add),
            Request::ListKeys => self.values.keys().map(|key| size_of::<u64>() + key.len()).sum(),
            Request::Pop { queue } => {
                self.queues.get(queue).and_then(VecDeque::front).map_or(0, |value| size_of::<u64>() + value.len())
            }
            Request::Set { .. }
            | Request::Add { .. }
            | Request::Check { .. }
            | Request::Wait { .. }
            | Request::CountKeys
            | Request::Delete { .. }
            | Request::Append { .. }
            | Request::MultiSet { .. }
            | Request::CancelWait
            | Request::Ping { .. }
            | Request::Push { .. }
            | Request::QueueLength { .. }
            | Request::Barrier { .. } => 0,
        }
    }

    fn answer(&mut self, id: ClientId, request: Request, out: &mut Vec<Output>) -> Result<(), Refusal> {
        let mut send = |bytes: Vec<u8>| out.push(Output::Send(id, bytes));
        match request {
            Request::Ping { nonce } => send(nonce.to_vec()),
            Request::Get { key } => send(block(self.values.get(&key).map_or(&[], Vec::as_slice))),
            Request::MultiGet { keys } => {
                let values = keys.iter().map(|key| block(self.values.get(key).map_or(&[], Vec::as_slice)));
                send(values.collect::<Vec<_>>().concat());
            }
            Request::Check { keys } => send(vec![if self.all_there(&keys) { READY } else { NOT_READY }]),
            Request::CountKeys => send(number(self.values.len())),
            Request::ListKeys => {
                let mut answer = number(self.values.len());
                self.values.keys().for_each(|key| answer.extend(block(key)));
                send(answer);
            }
            Request::QueueLength { queue } => send(number(self.queues.get(&queue).map_or(0, VecDeque::len))),
            Request::Delete { key } => send(number(usize::from(self.remove(&key)))),
            Request::Pop { queue } => send(self.pop(&queue)),
            Request::CancelWait => {
                self.stop_waiting(id);
                send(vec![WAIT_CANCELLED]);
            }
            Request::Set { key, value } => self.set(key, value, out)?,
            Request::MultiSet { pairs } => {
                for (key, value) in pairs {
                    self.set(key, value, out)?;
                }
            }
            Request::Append { key, value } => {
                let mut whole = self.values.get(&key).cloned().unwrap_or_default();
                whole.extend(value);
                self.set(key, whole, out)?;
            }
            Request::Add { key, amount } => {
                let sum = self.sum(&key, amount)?;
                self.set(key, sum.to_string().into_bytes(), out)?;
                out.push(Output::Send(id, sum.to_le_bytes().to_vec()));
            }
            Request::CompareSet { key, expected, desired } => {
                let now = self.compare_set(key, expected, desired, out)?;
                out.push(Output::Send(id, block(&now)));
            }
            Request::Push { queue, value } => self.push(queue, value, out)?,
            Request::Wait { keys } => self.wait(id, keys, out),
            Request::Barrier { key, world_size } => self.barrier(id, key, world_size, out),
        }
        Ok(())
    }

    // ---- values ----

    fn set(&mut self, key: Vec<u8>, value: Vec<u8>, out: &mut Vec<Output>) -> Result<(), Refusal> {
        let before = self.values.get(&key).map_or(0, |value| key.len() + value.len());
        let held = self.held - before + key.len() + value.len();
        if held > STORE_BYTES {
            return Err(Refusal::Full(STORE_BYTES));
        }
        self.held = held;
        self.values.insert(key.clone(), value);
        self.wake(&key, usize::MAX, out);
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.values.remove(key) else { return false };
        self.held -= key.len() + value.len();
        true
    }

    fn sum(&self, key: &[u8], amount: i64) -> Result<i64, Refusal> {
        let Some(value) = self.values.get(key) else { return Ok(amount) };
        let before: i64 =
            std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).ok_or(Refusal::NotANumber)?;
        Ok(before.wrapping_add(amount))
    }

    /// The value afterwards; for a key that is not there and should be, torch's server gives back what was expected.
    fn compare_set(
        &mut self,
        key: Vec<u8>,
        expected: Vec<u8>,
        desired: Vec<u8>,
        out: &mut Vec<Output>,
    ) -> Result<Vec<u8>, Refusal> {
        match self.values.get(&key) {
            None if !expected.is_empty() => Ok(expected),
            Some(value) if *value != expected => Ok(value.clone()),
            None | Some(_) => {
                self.set(key, desired.clone(), out)?;
                Ok(desired)
            }
        }
    }

    // ---- queues ----

    fn push(&mut self, queue: Vec<u8>, value: Vec<u8>, out: &mut Vec<Output>) -> Result<(), Refusal> {
        let held = self.held + value.len() + queue.len();
        if held > STORE_BYTES {
            return Err(Refusal::Full(STORE_BYTES));
        }
        self.held = held;
        self.queues.entry(queue.clone()).or_default().push_back(value);
        // One value, one taker: the others go on waiting.
        self.wake(&queue, 1, out);
        Ok(())
    }

    /// How many values there were, then the first of them.
    fn pop(&mut self, name: &[u8]) -> Vec<u8> {
        let Some(queue) = self.queues.get_mut(name) else { return number(0) };
        let mut answer = number(queue.len());
        if let Some(value) = queue.pop_front() {
            self.held -= name.len() + value.len();
            answer.extend(block(&value));
        }
        if queue.is_empty() {
            self.queues.remove(name);
        }
        answer
    }

    // ---- waiting ----

    /// A queue with something in it counts as a key that is there.
    fn all_there(&self, keys: &[Vec<u8>]) -> bool {
        keys.iter().all(|key| self.is_there(key))
    }

    fn is_there(&self, key: &[u8]) -> bool {
        self.values.contains_key(key) || self.queues.contains_key(key)
    }

    fn wait(&mut self, id: ClientId, mut keys: Vec<Vec<u8>>, out: &mut Vec<Output>) {
        self.stop_waiting(id);
        // Nobody is listed twice for a key.
        keys.sort();
        keys.dedup();
        if self.all_there(&keys) {
            out.push(Output::Send(id, vec![STOP_WAITING]));
            return;
        }
        for key in &keys {
            self.waiting.entry(key.clone()).or_default().push(id);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.pending = Some(Pending::Keys(keys));
        }
    }

    /// Tells those who wait for `key` and have all they wait for, in the order of arrival, but no more than `limit`.
    ///
    /// One pass over the list: thousands wait for the last key of a barrier.
    fn wake(&mut self, key: &[u8], limit: usize, out: &mut Vec<Output>) {
        let Some(waiting) = self.waiting.remove(key) else { return };
        let (mut woken, mut rest) = (Vec::new(), Vec::new());
        for id in waiting {
            let pending = self.clients.get(&id).and_then(|client| client.pending.as_ref());
            let ready = matches!(pending, Some(Pending::Keys(keys)) if self.all_there(keys));
            let list = if ready && woken.len() < limit { &mut woken } else { &mut rest };
            list.push(id);
        }
        if !rest.is_empty() {
            self.waiting.insert(key.to_vec(), rest);
        }
        for id in woken {
            self.stop_waiting(id);
            out.push(Output::Send(id, vec![STOP_WAITING]));
        }
    }

    /// The last to come lets all go; then the barrier can be used again.
    fn barrier(&mut self, id: ClientId, key: Vec<u8>, world_size: i64, out: &mut Vec<Output>) {
        self.stop_waiting(id);
        let there = self.barriers.entry(key.clone()).or_default();
        there.insert(id);
        let complete = i64::try_from(there.len()).is_ok_and(|count| count >= world_size);
        if let Some(client) = self.clients.get_mut(&id) {
            client.pending = Some(Pending::Barrier(key.clone()));
        }
        if complete {
            for id in self.barriers.remove(&key).unwrap_or_default() {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.pending = None;
                }
                out.push(Output::Send(id, vec![STOP_WAITING]));
            }
        }
    }

    fn stop_waiting(&mut self, id: ClientId) {
        match self.clients.get_mut(&id).and_then(|client| client.pending.take()) {
            None => {}
            Some(Pending::Keys(keys)) => {
                for key in keys {
                    if let Some(waiting) = self.waiting.get_mut(&key) {
                        waiting.retain(|other| *other != id);
                        if waiting.is_empty() {
                            self.waiting.remove(&key);
                        }
                    }
                }
            }
            Some(Pending::Barrier(key)) => {
                if let Some(there) = self.barriers.get_mut(&key) {
                    there.remove(&id);
                    if there.is_empty() {
                        self.barriers.remove(&key);
                    }
                }
            }
        }
    }

    fn forget(&mut self, id: ClientId) {
        self.stop_waiting(id);
        self.clients.remove(&id);
    }

    /// Re-derives every cross-reference.
    fn check(&self) -> bool {
        let pending = |id: &ClientId| self.clients.get(id).and_then(|client| client.pending.as_ref());
        let waiting = self.waiting.iter().all(|(key, ids)| {
            !ids.is_empty()
                && ids.iter().all(|id| matches!(pending(id), Some(Pending::Keys(keys)) if keys.contains(key)))
        });
        let barriers = self.barriers.iter().all(|(key, ids)| {
            !ids.is_empty() && ids.iter().all(|id| pending(id) == Some(&Pending::Barrier(key.clone())))
        });
        let nobody_forgotten = self.clients.values().all(|client| match &client.pending {
            Some(Pending::Keys(keys)) => !self.all_there(keys) || keys.iter().any(|key| self.queues.contains_key(key)),
            Some(Pending::Barrier(_)) | None => true,
        });
        waiting && barriers && nobody_forgotten
    }
}

/// Bytes with their length in front, as every value goes over the wire.
fn block(bytes: &[u8]) -> Vec<u8> {
    let mut framed = number(bytes.len());
    framed.extend_from_slice(bytes);
    framed
}

fn number(count: usize) -> Vec<u8> {
    (count as u64).to_le_bytes().to_vec()
}
