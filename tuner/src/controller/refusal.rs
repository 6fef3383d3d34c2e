//! Jobs that are not made, because the server will not have them or their name is taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::DynamicObject;
use trainyard_runtime::driver::apply::FailedFn;
use trainyard_runtime::driver::{Cache, Key};

/// Why the job of a trial is not made, by trial, with the trial's uid. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<Mutex<HashMap<Key, (String, String)>>>);

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the job of this trial is not made, if that is so.
    pub(super) fn of(&self, trial: &Key, uid: &str) -> Option<String> {
        self.lock().get(trial).filter(|(of, _)| of == uid).map(|(_, why)| why.clone())
    }

    /// The trial has ended, or is gone.
    pub(super) fn forget(&self, trial: &Key) {
        self.lock().remove(trial);
    }

    /// Hears what failed. All that the controller of trials makes are their jobs, which have their names.
    pub(super) fn hearer(&self, trials: &Cache<DynamicObject>) -> FailedFn {
        let (this, trials) = (self.clone(), trials.clone());
        Arc::new(move |object, error| {
            let trial = Key::from(object);
            let uid = trials.get(&trial).and_then(|trial| trial.metadata.uid.clone());
            if let (Some(uid), Some(why)) = (uid, error.refused_create()) {
                this.lock().insert(trial, (uid, why));
            }
        })
    }
}
