//! How ranks get on, told to launchers whose own ranks show nothing: often only rank 0 writes lines.

use serde::{Deserialize, Serialize};
use trainyard_proto::pace::Tempo;

/// Silence that nobody has told of yet counts for as long as this: a little more than lies between two messages.
const UNHEARD_MS: i64 = 300;

/// The signs of this launcher's own ranks, as they were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    signs: u64,
    last_ms: Option<i64>,
}

impl Told {
    pub(super) fn tell(&mut self, now_ms: i64, (since_ms, usual_ms): (i64, i64)) -> Tempo {
        if self.last_ms.replace(since_ms) != Some(since_ms) {
            self.signs += 1;
        }
        Tempo { signs: self.signs, silent_ms: now_ms - since_ms, usual_ms }
    }
}

/// What was heard of other launchers' ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Others {
    tempo: Tempo,
    since_ms: i64,
    heard_ms: i64,
    pub(super) paused: bool,
}

impl Others {
    pub(super) fn hear(known: Option<Self>, now_ms: i64, tempo: Tempo, paused: bool) -> Self {
        let since_ms = now_ms - tempo.silent_ms;
        // The message that took the shortest way tells best when the sign was.
        let same = known.filter(|known| known.tempo.signs == tempo.signs);
        let since_ms = same.map_or(since_ms, |known| known.since_ms.min(since_ms));
        Self { tempo, since_ms, heard_ms: now_ms, paused }
    }

    /// The last sign that is known of, and the usual time from one to the next.
    pub(super) const fn last(&self) -> (i64, i64) {
        (self.since_ms, self.tempo.usual_ms)
    }

    /// The same for a judgement: there may have been a sign after the last message.
    pub(super) fn silence(&self, now_ms: i64) -> (i64, i64) {
        let unheard_ms = now_ms - self.heard_ms - UNHEARD_MS;
        (self.since_ms + unheard_ms.max(0), self.tempo.usual_ms)
    }
}
