//! List, then watch, for as long as somebody listens. A watch that breaks is taken up again.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use crate::api::{Api, ApiError, Change};

/// The wait before a broken watch is taken up again: long enough not to load a server that is being restarted.
const RETRY: Duration = Duration::from_millis(200);

/// What an observation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Job,
    Pod,
    Event,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// An object as it is now.
    Present(Subject, Value),
    /// An object that went away, in its last state.
    Gone(Subject, Value),
    /// Everything that exists has been reported.
    Listed(Subject, Vec<String>),
    /// The server did not answer; we try again.
    Lost(Subject, String),
    /// It answers again.
    Back(Subject),
    /// A line of a container's log.
    Line(super::stream::Line),
    /// A container's log came to its end.
    LogEnded(super::stream::Key),
}

/// Reports objects of a collection (a path with its selectors) until the receiver is dropped.
pub(crate) async fn observe(api: Api, path: String, subject: Subject, to: Sender<Seen>) {
    let mut lost = false;
    loop {
        let outcome = once(&api, &path, subject, &to, &mut lost).await;
        if to.is_closed() {
            return;
        }
        if let Err(error) = outcome {
            if !lost && to.send(Seen::Lost(subject, error.to_string())).await.is_err() {
                return;
            }
            lost = true;
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// One list and the watch from it. `Ok` when the watch has to begin anew.
async fn once(api: &Api, path: &str, subject: Subject, to: &Sender<Seen>, lost: &mut bool) -> Result<(), ApiError> {
    let list = api.get(path).await?;
    if std::mem::take(lost) && to.send(Seen::Back(subject)).await.is_err() {
        return Ok(());
    }
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let uids = items.iter().filter_map(|item| item["metadata"]["uid"].as_str()).map(str::to_owned).collect();
    for item in items {
        if to.send(Seen::Present(subject, item.clone())).await.is_err() {
            return Ok(());
        }
    }
    if to.send(Seen::Listed(subject, uids)).await.is_err() {
        return Ok(());
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let join = if path.contains('?') { '&' } else { '?' };
    let mut changes = api.watch(&format!("{path}{join}watch=true&resourceVersion={version}"), false).await?;
    while let Some(change) = changes.next().await {
        let seen = match change? {
            Change::Present(object) => Seen::Present(subject, object),
            Change::Gone(object) => Seen::Gone(subject, object),
            Change::Bookmark => continue,
            Change::Expired => return Ok(()),
        };
        if to.send(seen).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
