//! The machine's GPUs: which there are, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Hands GPUs to pods, each to one at a time.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    present: Vec<u32>,
    held: Mutex<BTreeMap<String, Vec<u32>>>,
}

impl Gpus {
    /// Finds `/dev/nvidia<N>`; where `CUDA_VISIBLE_DEVICES` names numbers, only those are ours to give.
    pub(super) fn detect(visible: Option<&str>) -> Self {
        let names = std::fs::read_dir("/dev").into_iter().flatten().flatten();
        let found =
            names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok()).collect();
        Self::new(found, visible)
    }

    /// These, less what `visible` hides.
    pub(super) fn new(mut found: Vec<u32>, visible: Option<&str>) -> Self {
        found.sort_unstable();
        if let Some(visible) = visible {
            let allowed: Option<BTreeSet<u32>> = visible.split(',').map(|number| number.trim().parse().ok()).collect();
            // GPUs named by UUID are not numbers; then all are taken to be ours.
            if let Some(allowed) = allowed {
                found.retain(|number| allowed.contains(number));
            } else if visible.is_empty() {
                found.clear();
            }
        }
        Self { present: found, held: Mutex::default() }
    }

    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    /// Notes what a pod has from an earlier life of the agent.
    pub(super) fn restore(&self, uid: &str, gpus: Vec<u32>) {
        if !gpus.is_empty() {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), gpus);
        }
    }

    /// Gives `count` GPUs to a pod; nothing where there are not as many free. Asking again gives the same ones.
    pub(super) fn assign(&self, uid: &str, count: usize) -> Option<Vec<u32>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get(uid) {
            return Some(own.clone());
        }
        let taken: BTreeSet<u32> = held.values().flatten().copied().collect();
        let free: Vec<u32> = self.present.iter().copied().filter(|gpu| !taken.contains(gpu)).take(count).collect();
        if free.len() < count {
            return None;
        }
        held.insert(uid.to_owned(), free.clone());
        Some(free)
    }

    pub(super) fn release(&self, uid: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::Gpus;

    #[test]
    fn a_gpu_has_one_pod_at_a_time() {
        let gpus = Gpus::new(vec![3, 1, 0, 2], Some("0,1,2"));
        assert_eq!(gpus.assign("a", 2), Some(vec![0, 1]));
        assert_eq!(gpus.assign("a", 2), Some(vec![0, 1]));
        assert_eq!(gpus.assign("b", 2), None);
        gpus.release("a");
        assert_eq!(gpus.assign("b", 2), Some(vec![0, 1]));
    }
}
