//! Services of other parts that are answered at the address of the API, such as a gRPC contract that clients expect.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};

/// A service of another part. Whoever may list, or for all but the calls that only read update, the objects of a kind in all
/// namespaces may call it.
#[derive(Clone)]
pub struct Guest {
    /// What its paths begin with.
    pub prefix: &'static str,
    /// The paths that only read.
    pub reads: &'static [&'static str],
    /// Group and plural of the kind whose rights count.
    pub kind: (&'static str, &'static str),
    /// Answers a request.
    pub answer: Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
