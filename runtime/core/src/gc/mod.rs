//! Owner garbage collection and the emptying of namespaces, as decisions.
//!
//! [`Graph`] mirrors who owns whom. It is fed the store's changes in order ([`Graph::observe`]) and asked what to do
//! ([`Graph::plan`]); each [`Action`] is one write that the shell carries out with the named uid as precondition, and
//! whose effect comes back as a change. Planning with nothing new to look at plans nothing; when an action failed, what it
//! was planned for ([`Step::cause`]) is looked at again with [`Graph::retry`].
//!
//! The rules are those of the API's own garbage collector:
//!
//! - An object whose owners are all absent (by uid; an owner in another namespace counts as absent) is deleted. While
//!   some owner is present, references to absent ones are taken off.
//! - *Foreground*: an owner with finalizer `foregroundDeletion` has everything that only it owns deleted first, in the
//!   foreground too; when nothing is left that blocks it (`blockOwnerDeletion`), the finalizer is taken off. A circle of
//!   such owners is cut by no longer blocking.
//! - *Orphan*: an owner with finalizer `orphan` is taken off its dependents' references, then the finalizer off it.
//! - A namespace that is being deleted has everything in it deleted; when it is empty its finalizer is taken off.
//!
//! Invariants, derived anew by [`Graph::check`]:
//!
//! | id | what holds |
//! |----|------------|
//! | GC-1 | `dependents` is exactly the inverse of the nodes' owner references |
//! | GC-2 | `members` lists exactly the nodes in each namespace |
//! | GC-3 | every node is filed under its key and no two share one |

mod event;
mod graph;
mod plan;

pub use event::expired_events;
pub use graph::{Graph, Owner};
pub use plan::{Action, Step};
