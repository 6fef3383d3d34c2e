//! Kinds by the words that users know them by, from the server's discovery documents.

use serde_json::Value;
use trainyard_runtime::kinds::{self, Kind};
use trainyard_runtime_core::schema::closest;

use crate::api::{Api, ApiError};
use crate::error::CliError;
use crate::session::Session;

/// Kinds that are jobs: (group, plural), in the order in which a bare name is looked for.
pub(crate) const JOBS: [(&str, &str); 9] = [
    ("trainyard.dev", "trainingjobs"),
    ("kubeflow.org", "pytorchjobs"),
    ("trainer.kubeflow.org", "trainjobs"),
    ("kubeflow.org", "tfjobs"),
    ("kubeflow.org", "mpijobs"),
    ("kubeflow.org", "xgboostjobs"),
    ("kubeflow.org", "paddlejobs"),
    ("kubeflow.org", "jaxjobs"),
    ("batch", "jobs"),
];

/// A kind of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) namespaced: bool,
}

impl Resource {
    fn of_kind(kind: &Kind) -> Self {
        Self {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            plural: kind.plural.to_owned(),
            singular: kind.singular.to_owned(),
            kind: kind.kind.to_owned(),
            short_names: kind.short_names.iter().map(|&name| name.to_owned()).collect(),
            namespaced: kind.namespaced,
        }
    }

    /// `v1`, `batch/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection; `None` for all namespaces.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("{root}/namespaces/{namespace}/{}", self.plural)
            }
            Some(_) | None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(Some(namespace)))
    }

    /// `pytorchjob.kubeflow.org`, as kubectl prints names.
    pub(crate) fn qualified_singular(&self) -> String {
        if self.group.is_empty() { self.singular.clone() } else { format!("{}.{}", self.singular, self.group) }
    }

    /// Whether this kind is a job.
    pub(crate) fn is_job(&self) -> bool {
        JOBS.contains(&(self.group.as_str(), self.plural.as_str()))
    }

    /// Whether [`crate::job::pod_selector`] finds the pods of an object of this kind.
    pub(crate) fn has_pods(&self) -> bool {
        let sets = ["deployments", "replicasets", "statefulsets", "daemonsets"];
        self.is_job() || self.group == "apps" && sets.contains(&self.plural.as_str())
    }

    fn answers_to(&self, word: &str) -> bool {
        let (name, group) = word.split_once('.').map_or((word, None), |(name, group)| (name, Some(group)));
        let named = self.plural == name
            || self.singular == name
            || self.kind.to_lowercase() == name
            || self.short_names.iter().any(|short| short == name);
        let versioned = format!("{}.{}", self.version, self.group);
        named
            && group.is_none_or(|group| {
                self.group == group || versioned == group || self.group.starts_with(&format!("{group}."))
            })
    }
}

/// All kinds of a server, in its order.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub(crate) resources: Vec<Resource>,
}

impl Discovery {
    /// The kinds of a session: our own registry where the server is in this process, else what the server says.
    pub(crate) async fn of_session(session: &Session) -> Result<Self, ApiError> {
        if session.embedded.is_some() {
            return Ok(Self { resources: kinds::registry().iter().map(Resource::of_kind).collect() });
        }
        Self::load(&session.api).await
    }

    /// Asks the server: two requests where it knows aggregated discovery, else one for each group.
    pub(crate) async fn load(api: &Api) -> Result<Self, ApiError> {
        let (core, groups) = futures::future::try_join(api.discovery("/api"), api.discovery("/apis")).await?;
        if core["kind"] == "APIGroupDiscoveryList" && groups["kind"] == "APIGroupDiscoveryList" {
            return Ok(Self { resources: aggregated(&core).chain(aggregated(&groups)).collect() });
        }
        let mut resources = group_version(api, "/api/v1", "", "v1").await?;
        let preferred = groups["groups"].as_array().into_iter().flatten().filter_map(|group| {
            let name = group["name"].as_str()?;
            let version = group["preferredVersion"]["version"].as_str()?;
            Some((name.to_owned(), version.to_owned()))
        });
        let requests = preferred.map(|(group, version)| async move {
            let path = format!("/apis/{group}/{version}");
            group_version(api, &path, &group, &version).await
        });
        // An aggregated API that is down must not take the others with it.
        for answer in futures::future::join_all(requests).await {
            match answer {
                Ok(more) => resources.extend(more),
                Err(error) => tracing::debug!(%error, "a group of the API could not be discovered"),
            }
        }
        Ok(Self { resources })
    }

    /// The kind that a word means: plural, singular, short name or kind, with or without its group.
    pub(crate) fn find(&self, word: &str) -> Option<&Resource> {
        let found = self.all(word);
        // Of kinds that share a name our own is meant.
        found.iter().find(|resource| resource.group == "trainyard.dev").or(found.first()).copied()
    }

    /// All kinds that a word may mean, each in the version that its group prefers.
    pub(crate) fn all(&self, word: &str) -> Vec<&Resource> {
        let word = word.to_lowercase();
        let mut found: Vec<&Resource> = Vec::new();
        for resource in self.resources.iter().filter(|resource| resource.answers_to(&word)) {
            if found.iter().all(|known| known.group != resource.group) {
                found.push(resource);
            }
        }
        found
    }

    /// As [`Self::find`], with an error that names the nearest word.
    pub(crate) fn need(&self, word: &str) -> Result<&Resource, CliError> {
        self.find(word).ok_or_else(|| {
            let words = self.resources.iter().flat_map(|r| [r.plural.as_str(), r.singular.as_str()]);
            let hint = match closest(word, words) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "jobs, pods, services, events and nodes are the usual ones".to_owned(),
            };
            CliError::Usage { message: format!("the server has no kind `{word}`"), hint }
        })
    }

    /// The kind of an object.
    pub(crate) fn of(&self, object: &Value) -> Option<&Resource> {
        let api_version = object["apiVersion"].as_str()?;
        let kind = object["kind"].as_str()?;
        self.resources.iter().find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// The kinds that are jobs, in the order in which names are looked for.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Resource> {
        JOBS.iter()
            .filter_map(|(group, plural)| self.resources.iter().find(|r| r.group == *group && r.plural == *plural))
    }
}

/// The listable kinds of an aggregated discovery document, in all versions: that which the group prefers comes first, and is what a word means.
fn aggregated(document: &Value) -> impl Iterator<Item = Resource> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_group = move |group: &Value| {
        let name = text(&group["metadata"]["name"]);
        let mut resources = Vec::new();
        for version in group["versions"].as_array().into_iter().flatten() {
            for item in version["resources"].as_array().into_iter().flatten() {
                let plural = text(&item["resource"]);
                let listable = item["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
                // Versions come in order of preference.
                if !listable {
                    continue;
                }
                let kind = text(&item["responseKind"]["kind"]);
                let singular = Some(text(&item["singularResource"])).filter(|name| !name.is_empty());
                resources.push(Resource {
                    group: name.clone(),
                    version: text(&version["version"]),
                    singular: singular.unwrap_or_else(|| kind.to_lowercase()),
                    short_names: item["shortNames"].as_array().into_iter().flatten().map(text).collect(),
                    namespaced: item["scope"] == "Namespaced",
                    plural,
                    kind,
                });
            }
        }
        resources
    };
    document["items"].as_array().into_iter().flatten().flat_map(of_group)
}

async fn group_version(api: &Api, path: &str, group: &str, version: &str) -> Result<Vec<Resource>, ApiError> {
    let list = api.get(path).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = |item: &Value| {
        let plural = text(&item["name"]);
        let kind = text(&item["kind"]);
        let singular = Some(text(&item["singularName"])).filter(|name| !name.is_empty());
        let listable = item["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
        (!plural.contains('/') && listable).then(|| Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            singular: singular.unwrap_or_else(|| kind.to_lowercase()),
            short_names: item["shortNames"].as_array().into_iter().flatten().map(text).collect(),
            namespaced: item["namespaced"].as_bool().unwrap_or(false),
            plural,
            kind,
        })
    };
    Ok(list["resources"].as_array().into_iter().flatten().filter_map(resource).collect())
}
