//! What pods ask for, read once for all that ask for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::rule::{self, Asked};
use super::role_name;

/// Pods that ask for the same.
pub(super) struct Group<'view> {
    pub(super) asked: Arc<Asked>,
    pub(super) pods: Vec<&'view Pod>,
}

/// What pods ask for, by a hash of what is read of them: most ask for what others have asked for, and reading it takes longer than
/// looking it up.
#[derive(Default)]
pub(super) struct Catalogue<'view>(BTreeMap<u64, Vec<(&'view Pod, Arc<Asked>)>>);

impl<'view> Catalogue<'view> {
    fn asked(&mut self, pod: &'view Pod, keys: &BTreeSet<&str>) -> Result<Arc<Asked>, String> {
        let known = self.0.entry(rule::rough_hash(pod)).or_default();
        let found = known.iter().find(|(other, _)| role_name(other) == role_name(pod) && rule::alike(other, pod, keys));
        if let Some((_, asked)) = found {
            return Ok(Arc::clone(asked));
        }
        let asked = Arc::new(rule::asked(pod, keys)?);
        known.push((pod, Arc::clone(&asked)));
        Ok(asked)
    }

    /// The pods by what they ask for. With `lenient`, what does not read asks for nothing.
    pub(super) fn group(
        &mut self,
        pods: &[&'view Pod],
        keys: &BTreeSet<&str>,
        lenient: bool,
    ) -> Result<Vec<Group<'view>>, String> {
        let mut groups: Vec<Group<'view>> = Vec::new();
        for pod in pods {
            if let Some(group) = groups.iter_mut().find(|group| rule::alike(group.pods[0], pod, keys)) {
                group.pods.push(pod);
                continue;
            }
            let asked = match self.asked(pod, keys) {
                Err(_) if lenient => Arc::default(),
                asked => asked?,
            };
            match groups.iter_mut().find(|group| group.asked.is_the_same(&asked)) {
                Some(group) => group.pods.push(pod),
                None => groups.push(Group { asked, pods: vec![pod] }),
            }
        }
        Ok(groups)
    }
}
