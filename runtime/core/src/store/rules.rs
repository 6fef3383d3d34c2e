//! What differs between resources, as data. The kind registry fills it in.

use super::object::Resource;

/// Which names a resource accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NameRule {
    /// DNS-1123 subdomain: most kinds.
    #[default]
    Subdomain,
    /// DNS-1123 label: namespaces.
    Label,
    /// DNS-1035 label (starts with a letter): services.
    ServiceLabel,
    /// Anything that can stand in a path: roles and bindings.
    PathSegment,
}

/// How the store treats one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRules {
    /// Which resource.
    pub resource: Resource,
    /// Lives in a namespace, which must exist and not be terminating when something is created in it.
    pub namespaced: bool,
    /// Has `/status`: main writes leave `status` alone, status writes leave everything else alone.
    pub status_subresource: bool,
    /// Built-in kinds let `/status` writes change labels and annotations; custom resources do not.
    pub metadata_via_status: bool,
    /// Counts `metadata.generation`.
    pub generation: bool,
    /// A change of annotations counts for the generation as one of the spec does: deployments.
    pub annotations_count: bool,
    /// Deletion is graceful, as for pods: the node agent ends them and removes them with grace 0.
    pub graceful_deletion: bool,
    /// `spec.finalizers` holds the object back as `metadata.finalizers` does: namespaces.
    pub spec_finalizers: bool,
    /// A PUT without resourceVersion overwrites: built-in kinds. Custom resources refuse it.
    pub unconditional_update: bool,
    /// Which names are accepted.
    pub name: NameRule,
}

impl ResourceRules {
    /// A custom resource with a status subresource: what most of our kinds are.
    #[must_use]
    pub fn custom(resource: Resource, namespaced: bool) -> Self {
        Self {
            resource,
            namespaced,
            status_subresource: true,
            metadata_via_status: false,
            generation: true,
            annotations_count: false,
            graceful_deletion: false,
            spec_finalizers: false,
            unconditional_update: false,
            name: NameRule::Subdomain,
        }
    }

    /// A plain built-in kind without status and generation, such as a ConfigMap.
    #[must_use]
    pub fn plain(resource: Resource, namespaced: bool) -> Self {
        Self {
            status_subresource: false,
            generation: false,
            unconditional_update: true,
            ..Self::custom(resource, namespaced)
        }
    }

    /// A built-in kind with spec and status, such as a Deployment.
    #[must_use]
    pub fn builtin(resource: Resource, namespaced: bool) -> Self {
        Self { metadata_via_status: true, unconditional_update: true, ..Self::custom(resource, namespaced) }
    }

    /// `v1` pods.
    #[must_use]
    pub fn pods() -> Self {
        Self { graceful_deletion: true, ..Self::builtin(Resource::new("", "pods"), true) }
    }

    /// `apps/v1` deployments.
    #[must_use]
    pub fn deployments() -> Self {
        Self { annotations_count: true, ..Self::builtin(Resource::new("apps", "deployments"), true) }
    }

    /// `v1` namespaces.
    #[must_use]
    pub fn namespaces() -> Self {
        Self {
            spec_finalizers: true,
            generation: false,
            name: NameRule::Label,
            ..Self::builtin(Resource::new("", "namespaces"), false)
        }
    }
}
