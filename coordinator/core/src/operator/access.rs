//! What the operator reads and writes on a cluster: one list, from which the RBAC rules are printed and by which the operator's
//! own client is checked at every request. What is not here cannot be done, whatever the cluster would allow.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::{Dialect, dialects};

/// What is done to objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read all.
    List,
    /// Follow all.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change one.
    Patch,
    /// Remove one.
    Delete,
}

impl Verb {
    /// As RBAC writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// In every namespace, and for kinds that are in none.
    Everywhere,
    /// In the operator's own namespace, for objects that have this name (RBAC cannot tell the name of what is yet to be made).
    Own(&'static str),
}

/// One right, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Plural, with its subresource: `pods`, `trainingjobs/status`.
    pub resource: String,
    /// What is done.
    pub verbs: BTreeSet<Verb>,
    /// Where.
    pub reach: Reach,
    /// What for.
    pub why: &'static str,
    /// Never asked for by the operator itself: the server wants it before it lets somebody write what it writes.
    pub implied: bool,
}

/// A kind of Kubernetes itself that jobs are made of.
struct Part {
    group: &'static str,
    resource: &'static str,
    verbs: &'static [Verb],
    why: &'static str,
}

use Verb::{Create, Delete, Get, List, Patch, Update, Watch};

const FOLLOW: [Verb; 2] = [List, Watch];
const KUEUE: &str = "kueue.x-k8s.io";

/// Get: a creation that finds the name taken looks whose it is, and so does a deletion that meets another incarnation.
const PARTS: [Part; 3] = [
    Part { group: "", resource: "pods", verbs: &[Get, List, Watch, Create, Delete], why: "the pods of jobs" },
    Part {
        group: "",
        resource: "services",
        verbs: &[Get, List, Watch, Create, Delete],
        why: "the names by which pods find each other",
    },
    // Get: an event of the same words may be there from before this process; then it is counted up.
    Part { group: "", resource: "events", verbs: &[Get, Create, Patch], why: "what happened to jobs" },
];

/// Objects in the operator's own namespace.
const OWN: [(&str, &str, &str, &str); 2] = [
    ("coordination.k8s.io", "leases", super::install::NAME, "who leads"),
    ("discovery.k8s.io", "endpointslices", super::install::RENDEZVOUS, "where launchers reach whoever leads"),
];

/// What else it takes to let pods of a job go together.
const GANGS: [Part; 11] = [
    Part { group: "", resource: "nodes", verbs: &FOLLOW, why: "where there is room" },
    Part { group: "", resource: "pods", verbs: &[Patch], why: "gates that are lifted when there is room for all" },
    Part { group: "", resource: "pods/status", verbs: &[Patch], why: "why a gang waits" },
    Part { group: "scheduling.k8s.io", resource: "priorityclasses", verbs: &FOLLOW, why: "whose turn it is" },
    // Of these, nothing is asked for where Kueue looks after them, or where the cluster has none.
    Part {
        group: KUEUE,
        resource: "clusterqueues",
        verbs: &[List, Watch, Patch],
        why: "whose quota it is, and what was used of it",
    },
    Part { group: KUEUE, resource: "clusterqueues/status", verbs: &[Patch], why: "how many wait in a queue" },
    Part { group: KUEUE, resource: "localqueues", verbs: &FOLLOW, why: "which queue a job waits in" },
    Part { group: KUEUE, resource: "localqueues/status", verbs: &[Patch], why: "whether a queue is in use" },
    Part { group: "", resource: "namespaces", verbs: &FOLLOW, why: "which of them a queue is for" },
    Part { group: KUEUE, resource: "cohorts", verbs: &FOLLOW, why: "who lends to whom" },
    Part { group: KUEUE, resource: "topologies", verbs: &FOLLOW, why: "which nodes are near to each other" },
];

/// What else it takes to bind them.
const BINDING: Part = Part {
    group: "",
    resource: "pods/binding",
    verbs: &[Create],
    why: "pods that name the operator as their scheduler",
};

/// What else it takes to leave jobs to other schedulers, where there are any.
const PEERS: [Part; 4] = [
    Part {
        group: KUEUE,
        resource: "workloads",
        verbs: &[Get, List, Watch, Create, Delete],
        why: "what jobs that are left to Kueue ask for",
    },
    Part { group: KUEUE, resource: "resourceflavors", verbs: &FOLLOW, why: "where Kueue sends their pods" },
    Part {
        group: "scheduling.volcano.sh",
        resource: "podgroups",
        verbs: &[Get, List, Watch, Create, Patch, Delete],
        why: "what jobs that are left to Volcano ask for",
    },
    Part {
        group: "scheduling.k8s.io",
        resource: "podgroups",
        verbs: &[Get, List, Watch, Create, Patch, Delete],
        why: "pods that the cluster's scheduler binds together or not at all",
    },
];

/// What it takes to run experiments. Trials are jobs of these kinds, whoever looks after them.
const EXPERIMENTS: [Part; 10] = [
    Part { group: "trainyard.dev", resource: "experiments", verbs: &FOLLOW, why: "what is searched" },
    Part { group: "trainyard.dev", resource: "experiments/status", verbs: &[Patch], why: "how far a search is" },
    Part {
        group: "trainyard.dev",
        resource: "trials",
        verbs: &[Get, List, Watch, Create],
        why: "the configurations that are tried",
    },
    Part { group: "trainyard.dev", resource: "trials/status", verbs: &[Patch], why: "what became of them" },
    Part { group: "trainyard.dev", resource: "trainingjobs", verbs: &TRIAL_JOBS, why: "the jobs of trials" },
    Part { group: "batch", resource: "jobs", verbs: &TRIAL_JOBS, why: "the jobs of trials" },
    Part { group: "kubeflow.org", resource: "pytorchjobs", verbs: &TRIAL_JOBS, why: "the jobs of trials" },
    Part { group: "trainer.kubeflow.org", resource: "trainjobs", verbs: &TRIAL_JOBS, why: "the jobs of trials" },
    Part { group: "", resource: "pods", verbs: &FOLLOW, why: "which pods tell for a trial" },
    Part { group: "", resource: "pods/log", verbs: &[Get], why: "what trials tell" },
];

/// Patch: they are suspended with their experiment, and go at their end as their template says. Delete: those that are stopped early.
const TRIAL_JOBS: [Verb; 6] = [Get, List, Watch, Create, Patch, Delete];

/// Objects that have others which keep them from going first.
const OWNERS: [(&str, &str, &str); 2] = [
    ("trainyard.dev", "experiments/finalizers", "trials that keep their experiment from going before them"),
    ("trainyard.dev", "trials/finalizers", "jobs that keep their trial from going before them"),
];

/// What the operator does for the pods of a job to go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gangs {
    /// Nothing: they are left to the cluster's scheduler one by one.
    Left,
    /// It opens their gates together.
    Gated,
    /// It binds those that name it as their scheduler, too.
    Bound,
}

impl Gangs {
    /// As flags say it.
    #[must_use]
    pub const fn of(gangs: bool, binds: bool) -> Self {
        match (gangs, binds) {
            (false, _) => Self::Left,
            (true, false) => Self::Gated,
            (true, true) => Self::Bound,
        }
    }
}

/// Everything that is read and written to look after the kinds that are not left to others, and after experiments if it runs these.
#[must_use]
pub fn rights(left: &BTreeSet<String>, gangs: Gangs, experiments: bool) -> Vec<Right> {
    let more = GANGS.iter().filter(|_| gangs != Gangs::Left);
    let more = more.chain(Some(&BINDING).filter(|_| gangs == Gangs::Bound));
    let more = more.chain(EXPERIMENTS.iter().filter(|_| experiments));
    let mut all: Vec<Right> = PARTS
        .iter()
        .chain(more)
        .chain(&PEERS)
        .map(|part| right(part.group, part.resource, part.verbs, Reach::Everywhere, part.why))
        .collect();
    if experiments {
        all.extend(OWNERS.map(|(group, resource, why)| Right {
            implied: true,
            ..right(group, resource, &[Update], Reach::Everywhere, why)
        }));
    }
    for dialect in dialects().iter().filter(|dialect| !is_left(**dialect, left)) {
        let info = dialect.info();
        let mut put = |resource: String, verbs: &[Verb], why| {
            all.push(right(info.group, &resource, verbs, Reach::Everywhere, why));
        };
        // Patch: restarts and generations are annotations. Delete: jobs that have a time to live after their end.
        put(info.plural.to_owned(), &[Get, List, Watch, Patch, Delete], "jobs");
        put(format!("{}/status", info.plural), &[Patch], "what becomes of jobs");
        let finalizers = right(
            info.group,
            &format!("{}/finalizers", info.plural),
            &[Update],
            Reach::Everywhere,
            "pods that keep their job from going before them, where OwnerReferencesPermissionEnforcement is on",
        );
        all.push(Right { implied: true, ..finalizers });
        for extra in dialect.extra_kinds() {
            let (group, resource) = (group_of(extra.api_version), format!("{}s", extra.kind.to_lowercase()));
            all.push(right(
                group,
                &resource,
                &[Get, List, Watch, Create, Delete],
                Reach::Everywhere,
                "what jobs remember of the runtime that they began with",
            ));
        }
        for related in dialect.related_kinds() {
            all.push(right(related.group, related.plural, &FOLLOW, Reach::Everywhere, "what jobs refer to"));
        }
    }
    for (group, resource, name, why) in OWN {
        all.push(right(group, resource, &[Get, Create, Update], Reach::Own(name), why));
    }
    merged(all)
}

/// Whether the kind of a dialect is left to somebody else: named as `pytorchjobs.kubeflow.org`.
#[must_use]
pub fn is_left(dialect: &dyn Dialect, left: &BTreeSet<String>) -> bool {
    let info = dialect.info();
    left.contains(&format!("{}.{}", info.plural, info.group))
}

fn group_of(api_version: &'static str) -> &'static str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn right(group: &'static str, resource: &str, verbs: &[Verb], reach: Reach, why: &'static str) -> Right {
    let verbs = verbs.iter().copied().collect();
    Right { group, resource: resource.to_owned(), verbs, reach, why, implied: false }
}

/// Two dialects may need the same.
fn merged(all: Vec<Right>) -> Vec<Right> {
    let mut known: BTreeMap<(&str, String, Reach), Right> = BTreeMap::new();
    for one in all {
        let key = (one.group, one.resource.clone(), one.reach);
        known.entry(key).and_modify(|right| right.verbs.extend(&one.verbs)).or_insert(one);
    }
    known.into_values().collect()
}

/// A request, as far as rights go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// API group; empty for the core.
    pub group: String,
    /// Plural, with its subresource.
    pub resource: String,
    /// What is to be done.
    pub verb: Verb,
    /// Where.
    pub namespace: Option<String>,
    /// To which object.
    pub name: Option<String>,
}

/// Reads a request to an API server. `None`: it is about no object (`/version`), and no right is needed.
///
/// # Errors
/// With a sentence, when it is nothing that the operator ever does.
pub fn asked(method: &str, path: &str, query: &str) -> Result<Option<Asked>, String> {
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match words.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", [].as_slice()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name) = match rest {
        [] if method == "GET" => return Ok(None),
        [resource] => ((*resource).to_owned(), None),
        [resource, name] => ((*resource).to_owned(), Some(*name)),
        [resource, name, sub] => (format!("{resource}/{sub}"), Some(*name)),
        [] | [_, _, _, ..] => return Err(format!("{method} {path} is nothing that an operator does")),
    };
    let watches = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
    let verb = match (method, name) {
        ("GET", Some(_)) => Get,
        ("GET", None) if watches => Watch,
        ("GET", None) => List,
        ("POST", _) => Create,
        ("PUT", Some(_)) => Update,
        ("PATCH", Some(_)) => Patch,
        ("DELETE", Some(_)) => Delete,
        _ => return Err(format!("{method} {path} is nothing that an operator does")),
    };
    let text = str::to_owned;
    Ok(Some(Asked { group: group.to_owned(), resource, verb, namespace: namespace.map(text), name: name.map(text) }))
}

/// The right by which a request is allowed, if there is one. `own` is the operator's namespace.
#[must_use]
pub fn allowing<'list>(rights: &'list [Right], own: &str, asked: &Asked) -> Option<&'list Right> {
    rights.iter().filter(|right| !right.implied).find(|right| {
        let reaches = match right.reach {
            Reach::Everywhere => true,
            Reach::Own(name) => {
                asked.namespace.as_deref() == Some(own) && asked.name.as_deref().is_none_or(|asked| asked == name)
            }
        };
        right.group == asked.group && right.resource == asked.resource && right.verbs.contains(&asked.verb) && reaches
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(method: &str, path: &str, query: &str) -> bool {
        let asked = asked(method, path, query).unwrap().unwrap();
        allowing(&rights(&BTreeSet::new(), Gangs::Left, false), "trainyard-system", &asked).is_some()
    }

    #[test]
    fn what_the_controllers_do_is_on_the_list_and_nothing_else() {
        assert!(may("GET", "/api/v1/pods", "watch=true&resourceVersion=1"));
        assert!(may("POST", "/api/v1/namespaces/team/pods", ""));
        assert!(may("DELETE", "/api/v1/namespaces/team/pods/p", ""));
        assert!(may("PATCH", "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingjobs/t/status", ""));
        assert!(may("GET", "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes", ""));
        assert!(!may("PATCH", "/api/v1/namespaces/team/pods/p", ""));
        assert!(!may("GET", "/api/v1/namespaces/team/secrets/s", ""));
        assert!(!may("GET", "/api/v1/nodes", ""));
        assert!(!may("POST", "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingjobs", ""));
        assert!(!may("PUT", "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingjobs/t/finalizers", ""));
        assert!(!may("DELETE", "/api/v1/namespaces/team", ""));
        assert_eq!(asked("GET", "/version", ""), Ok(None));
        assert!(asked("DELETE", "/api/v1/namespaces/team/pods", "").is_err(), "never all at once");
    }

    #[test]
    fn nodes_are_looked_at_and_pods_changed_only_for_gangs() {
        let [bare, gangs, bound] =
            [Gangs::Left, Gangs::Gated, Gangs::Bound].map(|gangs| rights(&BTreeSet::new(), gangs, false));
        let has = |rights: &[Right], method: &str, path: &str| {
            allowing(rights, "own", &asked(method, path, "").unwrap().unwrap()).is_some()
        };
        let pod = "/api/v1/namespaces/team/pods/p";
        let binding = format!("{pod}/binding");
        for (method, path) in [("GET", "/api/v1/nodes"), ("PATCH", pod)] {
            assert!(!has(&bare, method, path) && has(&gangs, method, path), "{path}");
        }
        assert!(!has(&gangs, "POST", &binding) && has(&bound, "POST", &binding));
        assert!(!has(&gangs, "PATCH", "/api/v1/nodes/n"));
        let queue = "/apis/kueue.x-k8s.io/v1beta2/clusterqueues/q";
        assert!(has(&gangs, "PATCH", &format!("{queue}/status")) && !has(&gangs, "PUT", queue));
        assert!(
            !has(&gangs, "POST", "/apis/kueue.x-k8s.io/v1beta2/clusterqueues"),
            "whoever runs the cluster makes them"
        );
        assert!(!has(&bare, "GET", "/apis/kueue.x-k8s.io/v1beta2/clusterqueues"));
    }

    #[test]
    fn jobs_are_made_and_logs_read_only_for_experiments() {
        let [without, with] = [false, true].map(|experiments| rights(&BTreeSet::new(), Gangs::Left, experiments));
        let has = |rights: &[Right], method: &str, path: &str| {
            allowing(rights, "own", &asked(method, path, "").unwrap().unwrap()).is_some()
        };
        let trainyard = "/apis/trainyard.dev/v1alpha1/namespaces/team";
        for (method, path) in [
            ("GET", "/api/v1/namespaces/team/pods/p/log".to_owned()),
            ("GET", "/apis/trainyard.dev/v1alpha1/experiments".to_owned()),
            ("POST", format!("{trainyard}/trials")),
            ("POST", format!("{trainyard}/trainingjobs")),
            ("POST", "/apis/batch/v1/namespaces/team/jobs".to_owned()),
        ] {
            assert!(!has(&without, method, &path) && has(&with, method, &path), "{path}");
        }
        assert!(!has(&with, "POST", &format!("{trainyard}/experiments")), "whoever searches makes them");
        assert!(!has(&with, "DELETE", &format!("{trainyard}/trials/t")), "what was tried is not forgotten");
    }

    #[test]
    fn the_lease_is_the_only_one_and_in_its_own_namespace() {
        let leases = "/apis/coordination.k8s.io/v1/namespaces";
        assert!(may("PUT", &format!("{leases}/trainyard-system/leases/trainyard-operator"), ""));
        assert!(!may("PUT", &format!("{leases}/trainyard-system/leases/other"), ""));
        assert!(!may("PUT", &format!("{leases}/kube-system/leases/trainyard-operator"), ""));
    }

    #[test]
    fn a_kind_that_is_left_to_others_needs_no_rights() {
        let left = BTreeSet::from(["pytorchjobs.kubeflow.org".to_owned(), "trainjobs.trainer.kubeflow.org".to_owned()]);
        let rights = rights(&left, Gangs::Bound, false);
        assert!(rights.iter().all(|right| !right.group.contains("kubeflow")), "{rights:?}");
        assert!(rights.iter().all(|right| right.resource != "configmaps"), "only they need one");
    }
}
