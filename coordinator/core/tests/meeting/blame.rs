//! A rank fails, and ranks of other pods fail of that: whoever is heard first, the first one is to blame.

use trainyard_coordinator_core::rendezvous::{Cause, Failure, Generation, Happened, Input, Outcome, Stage};

use crate::lab::Lab;

fn follows() -> Failure {
    let message = "RuntimeError: Connection closed by peer".to_owned();
    Failure { rank: Some(0), cause: Cause::Exception, code: 1, message, secondary: true }
}

fn first(cause: Cause) -> Failure {
    let message = "ValueError: no such file".to_owned();
    Failure { rank: Some(3), cause, code: 1, message, secondary: false }
}

impl Lab {
    /// The launcher of a pod tells of a failure of the first generation.
    fn tells(&mut self, pod: &str, failure: Failure) {
        let uid = self.world.pods[pod].metadata.uid.clone().unwrap();
        let member = self.streams[&uid].clone();
        self.step(Input::Failed { member, generation: Generation(1), failure });
        self.world.meeting = Some(self.session.view());
    }

    fn blamed(&self) -> Vec<(bool, Option<u32>)> {
        let blamed = self.happened.iter().filter_map(|event| match event {
            Happened::Failed(failure) => Some((false, failure.rank)),
            Happened::Blamed(failure) => Some((true, failure.rank)),
            Happened::Formed { .. }
            | Happened::Ready { .. }
            | Happened::Hangs { .. }
            | Happened::Straggles(_)
            | Happened::KeepsUp { .. }
            | Happened::Ended(_)
            | Happened::Broken(_) => None,
        });
        blamed.collect()
    }
}

fn two_pods(limit: u32) -> Lab {
    let mut lab = Lab::new(&format!("replicas: 2, restartPolicy: OnFailure, backoffLimit: {limit}"));
    lab.run();
    assert_eq!(lab.session.view().generation, 1);
    lab
}

#[test]
fn the_next_generation_does_not_wait_and_the_blame_is_put_right() {
    let mut lab = two_pods(3);
    lab.tells("wine-worker-0", follows());
    assert_eq!(lab.session.view().generation, 2, "it forms at once");
    lab.world.now_ms += 30;
    let told_ms = lab.session.view().last_failure.unwrap().at_ms;
    lab.tells("wine-worker-1", first(Cause::OutOfMemory));
    let view = lab.session.view();
    let last = view.last_failure.unwrap();
    assert_eq!((last.rank, last.cause, last.generation, last.at_ms), (Some(3), Cause::OutOfMemory, 1, told_ms));
    assert_eq!(last.host.as_deref(), Some("host-1"));
    assert_eq!(lab.blamed(), [(false, Some(0)), (true, Some(3))]);
    // One restart, and of the cause that it had.
    assert_eq!((view.restarts, view.generation, view.stage), (1, 2, Stage::Running));
    let spent: Vec<_> = view.spent.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(spent, [(Cause::OutOfMemory, 1)]);
    // Neither what follows, nor a second one, changes that any more.
    lab.tells("wine-worker-0", follows());
    lab.tells("wine-worker-0", first(Cause::Signal));
    assert_eq!(lab.session.view().last_failure.unwrap().cause, Cause::OutOfMemory);
    assert_eq!(lab.blamed().len(), 2);
}

#[test]
fn a_job_without_restarts_waits_a_moment_for_the_first_failure() {
    let mut lab = two_pods(0);
    lab.tells("wine-worker-0", follows());
    assert_eq!(lab.released, None);
    assert!(lab.session.deadline().is_some_and(|at| at <= lab.world.now_ms + 500));
    lab.world.now_ms += 30;
    lab.tells("wine-worker-1", first(Cause::ImportError));
    assert_eq!(lab.released, Some(Outcome::Failed(first(Cause::ImportError))));
    assert_eq!(lab.blamed(), [(false, Some(3))]);
}

#[test]
fn it_waits_no_longer_where_nobody_else_failed() {
    let mut lab = two_pods(0);
    lab.tells("wine-worker-0", follows());
    lab.pass(499);
    assert_eq!(lab.released, None);
    lab.pass(1);
    assert_eq!(lab.released, Some(Outcome::Failed(follows())));
    assert_eq!(lab.blamed(), [(false, Some(0))]);
}

#[test]
fn of_two_that_follow_the_job_ends_by_the_one_heard_first() {
    let mut lab = two_pods(0);
    lab.tells("wine-worker-0", follows());
    lab.pass(400);
    lab.tells("wine-worker-1", Failure { rank: Some(2), ..follows() });
    lab.pass(100);
    assert_eq!(lab.released, Some(Outcome::Failed(follows())));
}
