//! What a Kubernetes API server promises about stored objects, as a pure state machine.
//!
//! [`Store`] holds every object, the last [`Change`]s of every resource, and the one rising resourceVersion. It is
//! changed in two strides, so that memory is never ahead of the disk: commands are staged in a [`Batch`], which sees
//! its own earlier commands; the shell writes [`Batch::rows`] to disk; then [`Store::commit`] makes them visible, or
//! the batch is dropped and nothing has happened. [`Store::step`] does both at once where there is no disk (tests, the
//! simulator). Time, uids and name suffixes are handed in.
//!
//! Reading is by [`Store::get`], [`Store::list`] (consistent pages, also at an older resourceVersion) and
//! [`Store::watch`] / [`Store::follow`]: a watcher is only a cursor into the kept changes, so that a slow one costs no
//! memory and is told `Expired` when the changes that it has not read yet are dropped.
//!
//! Invariants, derived anew by [`Store::check`] (in debug builds after every commit):
//!
//! | id | what holds |
//! |----|------------|
//! | ST-1 | every object's resourceVersion is ≤ the store's, and no two objects share one |
//! | ST-2 | an object's `metadata` says the name, namespace, uid and resourceVersion it is filed under |
//! | ST-3 | uids are unique |
//! | ST-4 | nothing lingers: an object that is being deleted has a finalizer or grace left, or was made so |
//! | ST-5 | the kept changes of a resource rise strictly, lie above its floor, and end at its last resourceVersion |
//! | ST-6 | a namespaced object's namespace exists |
//! | ST-7 | the last kept change of a name says what the store holds under that name |
//! | ST-8 | `metadata.generation` is there, and ≥ 1, exactly where the resource's rules count generations |

mod batch;
mod check;
mod command;
mod delete;
mod depth;
mod dump;
mod error;
mod list;
mod object;
mod rules;
mod state;
mod validate;
mod watch;
mod write;

pub use batch::{Batch, Rows, Transact};
pub use check::Violation;
pub use command::{
    Change, ChangeKind, Command, Create, Delete, Effect, NewObject, Outcome, Part, Preconditions, Propagation, Update,
};
pub(crate) use depth::{MAX_DEPTH, depth};
pub use error::{FieldCause, StoreError};
pub use list::{At, Candidates, ListQuery, Page};
pub(crate) use object::strings;
pub use object::{Key, Object, Resource};
pub use rules::{NameRule, ResourceRules};
pub use state::{Limits, Store};
pub use validate::{LABEL_TEXT, SUBDOMAIN_TEXT, changed_causes, new_causes};
pub use watch::{Beginning, WatchEvent, WatchQuery, WatchStart};
