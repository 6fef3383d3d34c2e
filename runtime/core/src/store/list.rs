//! Lists in pages, each at the resourceVersion of the first.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::selector::Selector;

use super::error::StoreError;
use super::object::{Key, Object, Resource};
use super::state::Store;

/// Which state a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The present one.
    #[default]
    Latest,
    /// Any state not older than this (`resourceVersionMatch=NotOlderThan`): the present one.
    NotOlderThan(u64),
    /// Exactly the state after this resourceVersion (`resourceVersionMatch=Exact`).
    Exact(u64),
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// One namespace, or all (`None`; also for cluster-scoped resources).
    pub namespace: Option<String>,
    /// Which objects.
    pub selector: Selector,
    /// `limit`; `None` or 0 for everything.
    pub limit: Option<usize>,
    /// `continue` of the page before.
    pub continue_token: Option<String>,
    /// Which state. Ignored with a continue token, which carries its own.
    pub at: At,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order of namespace and name.
    pub items: Vec<Arc<Object>>,
    /// The state that this page (and all that continue it) shows.
    pub resource_version: u64,
    /// Asks for the next page; `None` on the last.
    pub continue_token: Option<String>,
    /// How many follow, where that is known without evaluating selectors.
    pub remaining: Option<usize>,
}

/// What a list chooses from.
#[derive(Debug)]
pub struct Candidates {
    /// In order of namespace and name.
    found: Vec<Arc<Object>>,
    /// How many follow.
    more: usize,
    limit: usize,
    selector: Selector,
    resource_version: u64,
}

impl Candidates {
    /// The page.
    #[must_use]
    pub fn select(self) -> Page {
        let Self { found, mut more, limit, selector, resource_version } = self;
        let everything = selector.is_everything();
        let mut items: Vec<Arc<Object>> = Vec::new();
        for object in found {
            if items.len() == limit {
                // Whether any of the rest matches is the next page's business; it may come out empty.
                more = 1;
                break;
            }
            let object = object.on_its_own();
            if everything || selector.matches(&object) {
                items.push(object);
            }
        }
        let continue_token = items.last().filter(|_| more > 0).map(|last| encode(resource_version, last.key()));
        let remaining = (more > 0 && everything).then_some(more);
        Page { items, resource_version, continue_token, remaining }
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    /// resourceVersion of the first page.
    rv: u64,
    /// Namespace and name of the last item seen.
    after: (String, String),
}

impl Store {
    /// Lists one resource.
    ///
    /// # Errors
    /// As [`Store::candidates`].
    pub fn list(&self, resource: &Resource, query: &ListQuery) -> Result<Page, StoreError> {
        Ok(self.candidates(resource, query)?.select())
    }

    /// What a list chooses from. It looks into no object, so that a caller who holds a lock on the store need not hold it
    /// while objects are parsed and selected: that is [`Candidates::select`].
    ///
    /// # Errors
    /// `Expired` when the asked state can no longer be shown, `FutureVersion` when it is not there yet, `BadRequest`
    /// for a broken continue token.
    pub fn candidates(&self, resource: &Resource, query: &ListQuery) -> Result<Candidates, StoreError> {
        let token = query.continue_token.as_deref().filter(|t| !t.is_empty()).map(decode).transpose()?;
        let version = match (&token, query.at) {
            (Some(token), _) => token.rv,
            (None, At::Latest) => self.resource_version,
            (None, At::NotOlderThan(asked)) => self.not_future(asked).map(|()| self.resource_version)?,
            (None, At::Exact(asked)) => asked,
        };
        self.not_future(version)?;
        let past = self.undo_to(resource, version).ok_or_else(|| expired_list(token.is_some()))?;
        let after = token.map(|t| (Arc::from(t.after.0), Arc::from(t.after.1)));
        let namespace = query.namespace.as_deref();
        let limit = match query.limit {
            None | Some(0) => usize::MAX,
            Some(limit) => limit.min(self.limits.page_items),
        };
        let mut objects = self.merged(resource, namespace, after.as_ref(), &past);
        // Without a selector the page is known already, and the rest only counted.
        let selector = query.selector.clone();
        let kept = if selector.is_everything() { limit } else { usize::MAX };
        let found: Vec<Arc<Object>> = objects.by_ref().take(kept).collect();
        let more = objects.count();
        Ok(Candidates { found, more, limit, selector, resource_version: version })
    }

    fn not_future(&self, asked: u64) -> Result<(), StoreError> {
        if asked > self.resource_version {
            return Err(StoreError::FutureVersion { asked, current: self.resource_version });
        }
        Ok(())
    }

    /// What has to be put back to see the resource as it was at `version`; `None` where that is no longer known.
    fn undo_to(&self, resource: &Resource, version: u64) -> Option<BTreeMap<Key, Option<Arc<Object>>>> {
        let mut past = BTreeMap::new();
        let Some(window) = self.windows.get(resource) else { return Some(past) };
        if version >= window.last {
            return Some(past);
        }
        // The oldest change after `version` is the last to be undone: it wins.
        for change in window.since(version)?.rev() {
            past.insert(change.object.key().clone(), change.previous.clone());
        }
        Some(past)
    }

    /// The objects in order, with `past` in place of the present where it says something.
    fn merged<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: Option<&'a str>,
        after: Option<&(Arc<str>, Arc<str>)>,
        past: &'a BTreeMap<Key, Option<Arc<Object>>>,
    ) -> impl Iterator<Item = Arc<Object>> + use<'a> {
        let after_key = after.map(|(ns, name)| Key::new(resource.clone(), ns.clone(), name.clone()));
        let mut undone = past
            .iter()
            .filter(move |(k, _)| namespace.is_none_or(|ns| *k.namespace == *ns))
            .filter(move |(k, _)| after_key.as_ref().is_none_or(|a| *k > a))
            .peekable();
        let mut present = self.range(resource, namespace, after).peekable();
        std::iter::from_fn(move || {
            loop {
                let take_undone = match (undone.peek(), present.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (Some((u, _)), Some((p, _))) => u <= p,
                };
                if !take_undone {
                    return present.next().map(|(_, o)| Arc::clone(o));
                }
                let (key, was) = undone.next()?;
                if present.peek().is_some_and(|(p, _)| *p == key) {
                    present.next();
                }
                if let Some(was) = was {
                    return Some(Arc::clone(was));
                }
            }
        })
    }
}

fn expired_list(continued: bool) -> StoreError {
    let message = if continued {
        "The provided continue parameter is too old to display a consistent list result. Start a new list without the \
         continue parameter."
            .to_owned()
    } else {
        "The resourceVersion for the provided list is too old.".to_owned()
    };
    StoreError::Expired { message }
}

fn encode(version: u64, last: &Key) -> String {
    let token = Token { rv: version, after: (last.namespace.to_string(), last.name.to_string()) };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("numbers and strings serialise"))
}

fn decode(token: &str) -> Result<Token, StoreError> {
    let bad = |why: String| StoreError::BadRequest {
        message: format!("invalid continue token: continue key is not valid: {why}"),
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|e| bad(e.to_string()))?;
    if let Some(first) = bytes.first().filter(|b| **b != b'{') {
        return Err(bad(format!("invalid character '{}' looking for beginning of value", go_character(*first))));
    }
    serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
}

/// A byte as the API server's JSON parser shows it.
fn go_character(byte: u8) -> String {
    match byte {
        b'\'' => "\\'".to_owned(),
        0x20..=0x7e | 0xa1..=0xac | 0xae.. => char::from(byte).to_string(),
        0x00..=0x1f | 0x7f => format!("\\x{byte:02x}"),
        0x80..=0xa0 | 0xad => format!("\\u{byte:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Limits, ResourceRules, WatchQuery};
    use super::*;

    #[test]
    fn what_needs_the_store_parses_nothing() {
        let widgets = Resource::new("example.com", "widgets");
        // As read from a disk: the checks of debug builds look into what is written.
        let mut store = Store::new([ResourceRules::plain(widgets.clone(), false)], Limits::default());
        for n in 1..=4_u64 {
            let labels = json!({ "odd": (n % 2).to_string() });
            let meta = json!({ "name": format!("w{n}"), "uid": format!("u{n}"), "resourceVersion": n.to_string(), "labels": labels });
            let text = json!({ "metadata": meta }).to_string();
            store.restore_object(Object::restore(widgets.clone(), n, &text).expect("an object"));
        }
        let is_text = |object: &Arc<Object>| !Arc::ptr_eq(&object.on_its_own(), object);
        let selector = Selector::parse("odd=1", "").expect("a selector");
        let query = ListQuery { selector: selector.clone(), limit: Some(1), ..ListQuery::default() };
        let candidates = store.candidates(&widgets, &query).expect("listed");
        assert!(candidates.found.len() == 4 && candidates.found.iter().all(is_text));
        let page = candidates.select();
        assert_eq!((page.items.len(), page.continue_token.is_some()), (1, true));
        let beginning = store.begin_watch(&widgets, &WatchQuery { selector, ..WatchQuery::default() }).expect("begins");
        assert!(store.objects().all(is_text));
        assert_eq!(beginning.start().initial.len(), 2);
        assert!(store.objects().all(is_text), "nor does it stay parsed");
    }
}
