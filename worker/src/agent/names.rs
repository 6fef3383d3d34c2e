//! Names and addresses of pods and services on this node: what `/etc/hosts` of a pod says.
//!
//! All pods share the machine's network. Each has a loopback address of its own, so that a name leads to "its" pod
//! and two pods may listen on the same port if they listen on their own address.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Service};

/// What is known of a pod for its names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodNames {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    host_name: Option<String>,
    subdomain: Option<String>,
    ip: String,
    /// Finished pods keep their address, but services no longer lead to them.
    finished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ServiceNames {
    selector: BTreeMap<String, String>,
    /// The label by which it is found.
    found_by: Option<(String, String)>,
}

/// A name within a namespace.
type Named = (String, String);

/// Everything on this node that has a name. Most pods have ended, and most services lead to such: what is written costs as much as those that
/// have not.
#[derive(Debug, Default)]
pub(super) struct Names {
    pods: BTreeMap<String, PodNames>,
    /// The uids of those that have not ended.
    open: BTreeSet<String>,
    /// How many pods have each address.
    taken: BTreeMap<String, u32>,
    services: BTreeMap<Named, ServiceNames>,
    /// Services by one of the labels that they ask for: namespace, label and value.
    wanting: BTreeMap<(String, String, String), BTreeSet<String>>,
    written: BTreeMap<PathBuf, String>,
}

impl Names {
    /// Notes a pod; its address is chosen when it is first seen. Whether anything changed.
    pub(super) fn put_pod(&mut self, pod: &Pod, known_ip: Option<&str>) -> bool {
        let meta = &pod.metadata;
        let (Some(uid), Some(name)) = (&meta.uid, &meta.name) else { return false };
        let namespace = meta.namespace.clone().unwrap_or_default();
        let ip = match (self.pods.get(uid), known_ip) {
            (Some(known), _) => known.ip.clone(),
            (None, Some(ip)) => ip.to_owned(),
            (None, None) => self.free_ip(&namespace, name),
        };
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let names = PodNames {
            namespace,
            name: name.clone(),
            labels: meta.labels.clone().unwrap_or_default(),
            host_name: spec.and_then(|spec| spec.hostname.clone()),
            subdomain: spec.and_then(|spec| spec.subdomain.clone()),
            ip,
            finished: matches!(phase, Some("Succeeded" | "Failed")),
        };
        if self.pods.get(uid) == Some(&names) {
            return false;
        }
        if names.finished {
            self.open.remove(uid);
        } else {
            self.open.insert(uid.clone());
        }
        if !self.pods.contains_key(uid) {
            *self.taken.entry(names.ip.clone()).or_default() += 1;
        }
        self.pods.insert(uid.clone(), names);
        true
    }

    pub(super) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(gone) = self.pods.remove(uid) else { return false };
        self.open.remove(uid);
        if let Some(count) = self.taken.get_mut(&gone.ip) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(&gone.ip);
            }
        }
        true
    }

    pub(super) fn put_service(&mut self, service: &Service) -> bool {
        let meta = &service.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        if self.services.get(&key).is_some_and(|known| known.selector == selector) {
            return false;
        }
        self.remove_named(&key);
        // By the label that the fewest have: that of its job, say, and not that of its role.
        let having = |pair: &(&String, &String)| {
            let place = (key.0.clone(), pair.0.clone(), pair.1.clone());
            self.wanting.get(&place).map_or(0, BTreeSet::len)
        };
        let found_by = selector.iter().min_by_key(having).map(|(label, value)| (label.clone(), value.clone()));
        if let Some((label, value)) = found_by.clone() {
            self.wanting.entry((key.0.clone(), label, value)).or_default().insert(key.1.clone());
        }
        self.services.insert(key, ServiceNames { selector, found_by });
        true
    }

    fn remove_named(&mut self, key: &Named) -> bool {
        let Some(gone) = self.services.remove(key) else { return false };
        let Some((label, value)) = gone.found_by else { return true };
        let place = (key.0.clone(), label, value);
        if let Some(names) = self.wanting.get_mut(&place) {
            names.remove(&key.1);
            if names.is_empty() {
                self.wanting.remove(&place);
            }
        }
        true
    }

    pub(super) fn remove_service(&mut self, service: &Service) -> bool {
        let meta = &service.metadata;
        self.remove_named(&(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()))
    }

    pub(super) fn ip(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).map(|pod| pod.ip.as_str())
    }

    /// 127.x.y.z chosen by the pod's name, so that a pod that is made again under its name tends to keep its address.
    /// 127.0/16 stays the machine's.
    fn free_ip(&self, namespace: &str, name: &str) -> String {
        let mut hasher = DefaultHasher::new();
        (namespace, name).hash(&mut hasher);
        let start = hasher.finish();
        (0..)
            .map(|step: u64| {
                let n = start.wrapping_add(step);
                format!("127.{}.{}.{}", 1 + n % 250, 1 + n / 250 % 250, 1 + n / 62_500 % 250)
            })
            .find(|ip| !self.taken.contains_key(ip))
            .unwrap_or_default()
    }

    /// The pods that have not ended.
    fn open(&self) -> impl Iterator<Item = &PodNames> {
        self.open.iter().filter_map(|uid| self.pods.get(uid))
    }

    /// Name → addresses as a pod of `namespace` resolves them.
    pub(super) fn table(&self, namespace: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut add = |short: &str, within: &str, ip: &str| {
            let mut put = |name: String| {
                table.entry(name).or_default().insert(ip.to_owned());
            };
            if within == namespace {
                put(short.to_owned());
            }
            put(format!("{short}.{within}"));
            put(format!("{short}.{within}.svc"));
            put(format!("{short}.{within}.svc.cluster.local"));
        };
        for pod in self.open() {
            for (label, value) in &pod.labels {
                let services = self.wanting.get(&(pod.namespace.clone(), label.clone(), value.clone()));
                for service in services.into_iter().flatten() {
                    let names = self.services.get(&(pod.namespace.clone(), service.clone()));
                    let mut wanted = names.iter().flat_map(|names| &names.selector);
                    if wanted.all(|(label, value)| pod.labels.get(label) == Some(value)) {
                        add(service, &pod.namespace, &pod.ip);
                    }
                }
            }
        }
        for pod in self.open() {
            if let Some(subdomain) = &pod.subdomain {
                let host = pod.host_name.as_deref().unwrap_or(&pod.name);
                add(&format!("{host}.{subdomain}"), &pod.namespace, &pod.ip);
            }
        }
        // A pod knows itself by its bare name; a service of that name, which leads to the same pod, comes first.
        for pod in self.open().filter(|pod| pod.namespace == namespace) {
            for name in [Some(&pod.name), pod.host_name.as_ref()].into_iter().flatten() {
                table.entry(name.clone()).or_insert_with(|| BTreeSet::from([pod.ip.clone()]));
            }
        }
        table
    }

    /// The hosts file of a namespace, written if it is not yet as it should be.
    pub(super) fn hosts_file(&mut self, home: &Path, namespace: &str) -> io::Result<PathBuf> {
        let path = home.join("hosts").join(namespace);
        let mut by_ip: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, ips) in self.table(namespace) {
            for ip in ips {
                by_ip.entry(ip).or_default().push(name.clone());
            }
        }
        let mut text = fs::read_to_string("/etc/hosts").unwrap_or_else(|_| "127.0.0.1 localhost\n".to_owned());
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for (ip, names) in by_ip {
            text.push_str(&ip);
            for name in names {
                text.push(' ');
                text.push_str(&name);
            }
            text.push('\n');
        }
        if self.written.get(&path) != Some(&text) {
            overwrite(&path, &text)?;
            self.written.insert(path.clone(), text);
        }
        Ok(path)
    }

    /// Brings the files that are in use up to date.
    pub(super) fn refresh(&mut self, home: &Path) {
        let namespaces: Vec<String> =
            self.written.keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        for namespace in namespaces {
            if let Err(error) = self.hosts_file(home, &namespace) {
                tracing::warn!(namespace, %error, "the hosts file of a namespace could not be written");
            }
        }
    }
}

/// Writes in place: running pods have this very file mounted. One write, then the cut, so that a reader in between
/// finds every name, at worst some twice.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// Replaces names by addresses in a text, where a pod cannot have a hosts file of its own. Only whole names count:
/// `job-master-0` in `tcp://job-master-0:29500` is one, in `my-job-master-0.log` it is not.
pub(super) fn replace_names(text: &str, table: &BTreeMap<String, BTreeSet<String>>) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_end);
        match table.get(word).and_then(BTreeSet::first) {
            Some(ip) => out.push_str(ip),
            None => out.push_str(word),
        }
        let gap_end = tail.find(is_part).unwrap_or(tail.len());
        let (gap, next) = tail.split_at(gap_end);
        out.push_str(gap);
        rest = next;
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        for (uid, name, role) in [("u0", "j-master-0", "master"), ("u1", "j-worker-0", "worker")] {
            let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "labels": {"role": role}}});
            assert!(names.put_pod(&serde_json::from_value(pod).expect("a pod"), None));
        }
        let service =
            json!({"metadata": {"name": "j-master-0", "namespace": "ns"}, "spec": {"selector": {"role": "master"}}});
        names.put_service(&serde_json::from_value(service).expect("a service"));
        names
    }

    #[test]
    fn services_lead_to_their_pods_under_all_their_names() {
        let names = names();
        let ip = names.ip("u0").expect("an address").to_owned();
        let own = names.table("ns");
        for name in ["j-master-0", "j-master-0.ns", "j-master-0.ns.svc", "j-master-0.ns.svc.cluster.local"] {
            assert_eq!(own.get(name), Some(&BTreeSet::from([ip.clone()])), "{name}");
        }
        let other = names.table("other");
        assert!(other.contains_key("j-master-0.ns") && !other.contains_key("j-master-0"));
        assert_ne!(names.ip("u0"), names.ip("u1"));
    }

    #[test]
    fn what_has_ended_costs_nothing_and_has_no_name() {
        let mut names = Names::default();
        let labels = |at: u32| json!({"job": format!("j-{at}"), "operator": "o", "role": "worker"});
        for at in 0..50_u32 {
            let (name, uid) = (format!("j-{at}-worker-0"), format!("u{at}"));
            let service = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"selector": labels(at)}});
            assert!(names.put_service(&serde_json::from_value(service.clone()).expect("a service")));
            assert!(!names.put_service(&serde_json::from_value(service).expect("a service")), "it is known");
            let mut pod =
                json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "labels": labels(at)}, "status": {}});
            assert!(names.put_pod(&serde_json::from_value(pod.clone()).expect("a pod"), None));
            pod["status"]["phase"] = json!("Succeeded");
            assert!(at >= 48 || names.put_pod(&serde_json::from_value(pod).expect("a pod"), None));
        }
        let bare: Vec<String> = names.table("ns").into_keys().filter(|name| !name.contains('.')).collect();
        assert_eq!(bare, ["j-48-worker-0", "j-49-worker-0"]);
        // A pod's labels lead to as many services as lead to it.
        assert_eq!(names.wanting.values().map(BTreeSet::len).max(), Some(1), "{:?}", names.wanting.keys());
        assert_eq!((names.open.len(), names.taken.len()), (2, 50));
        for at in 0..50_u32 {
            assert!(names.remove_pod(&format!("u{at}")));
            assert!(names.remove_named(&("ns".to_owned(), format!("j-{at}-worker-0"))));
        }
        assert!(names.open.is_empty() && names.taken.is_empty() && names.wanting.is_empty());
    }

    #[test]
    fn only_whole_names_are_replaced() {
        let table = BTreeMap::from([("j-master-0".to_owned(), BTreeSet::from(["127.1.1.1".to_owned()]))]);
        let text = "tcp://j-master-0:29500 my-j-master-0.log j-master-0.txt j-master-0";
        assert_eq!(replace_names(text, &table), "tcp://127.1.1.1:29500 my-j-master-0.log j-master-0.txt 127.1.1.1");
    }

    #[test]
    fn the_hosts_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().expect("a folder");
        let mut names = names();
        let path = names.hosts_file(home.path(), "ns").expect("written");
        let inode = fs::metadata(&path).expect("metadata").ino();
        assert!(names.remove_pod("u1"));
        names.refresh(home.path());
        assert_eq!(fs::metadata(&path).expect("metadata").ino(), inode);
        assert!(!fs::read_to_string(&path).expect("text").contains("j-worker-0"));
    }
}
