//! Why a job is where it is.

use trainyard_proto::plan::Reason;

use crate::gang::GangView;
use crate::view::JobView;

/// Why the job is where it is: the life cycle's reasons, then the scheduler's for each gang of it that waits.
#[must_use]
pub fn explain(job: &JobView, gangs: Option<&GangView>, now_ms: i64) -> Vec<Reason> {
    let mut reasons = crate::job::plan(job, now_ms).reasons;
    if let Some(view) = gangs {
        reasons.extend(crate::gang::place(view, now_ms).plan.reasons);
    }
    reasons
}
