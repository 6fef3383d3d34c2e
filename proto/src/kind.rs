//! What an API server must know about a custom kind beside its schema.

/// A column of `kubectl get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// JSON path from the object's root, with a leading dot.
    pub path: &'static str,
    /// 0 is always shown; greater values only in the wide table.
    pub priority: u8,
}

/// The scale subresource of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Where the wanted number of replicas is.
    pub spec_path: &'static str,
    /// Where the observed number of replicas is.
    pub status_path: &'static str,
    /// Where the pods' label selector is, in text form.
    pub selector_path: &'static str,
}

/// Everything about a custom kind that is not in its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// API group.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// `group/version`.
    pub api_version: &'static str,
    /// CamelCase kind.
    pub kind: &'static str,
    /// Lower-case plural, as in URLs.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Abbreviations for `kubectl`.
    pub short_names: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is served.
    pub status: bool,
    /// The scale subresource, if served.
    pub scale: Option<Scale>,
    /// Columns between NAME and AGE.
    pub columns: &'static [Column],
}

/// A kind defined by this crate.
pub trait CustomKind: schemars::JsonSchema {
    /// Its registration.
    const INFO: KindInfo;
}

/// Every kind defined by this crate, in the order in which discovery lists them.
pub const KINDS: &[KindInfo] = &[
    <crate::trainyard::TrainingJob as CustomKind>::INFO,
    <crate::kubeflow::PyTorchJob as CustomKind>::INFO,
    <crate::kubeflow::TFJob as CustomKind>::INFO,
    <crate::kubeflow::MPIJob as CustomKind>::INFO,
    <crate::kubeflow::XGBoostJob as CustomKind>::INFO,
    <crate::kubeflow::PaddleJob as CustomKind>::INFO,
    <crate::kubeflow::JAXJob as CustomKind>::INFO,
    <crate::trainer::TrainJob as CustomKind>::INFO,
    <crate::trainer::TrainingRuntime as CustomKind>::INFO,
    <crate::trainer::ClusterTrainingRuntime as CustomKind>::INFO,
    <crate::katib::Experiment as CustomKind>::INFO,
    <crate::katib::Trial as CustomKind>::INFO,
    <crate::katib::Suggestion as CustomKind>::INFO,
    <crate::tuning::Experiment as CustomKind>::INFO,
    <crate::tuning::Trial as CustomKind>::INFO,
];

/// Defines a kind: the struct with its type header, its registration, and the traits by which clients find it.
macro_rules! custom_kind {
    (
        $(#[$doc:meta])*
        $name:ident, group: $group:literal, version: $version:literal, plural: $plural:literal, singular: $singular:literal,
        short: [$($short:literal),*], scope: $scope:ident, spec: $spec:ty, status: $($status:ty)?; scale: $scale:expr,
        columns: $columns:expr $(,)?
    ) => {
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        $(#[$doc])*
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// APIVersion defines the versioned schema of this representation of an object.
            #[serde(default = "default_api_version")]
            pub api_version: String,
            /// Kind is a string value representing the REST resource this object represents.
            #[serde(default = "default_kind")]
            pub kind: String,
            /// Standard object's metadata.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is wanted.
            pub spec: $spec,
            $(
                /// What was observed. Written by the controller.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub status: Option<$status>,
            )?
        }

        fn default_api_version() -> String {
            <$name as k8s_openapi::Resource>::API_VERSION.to_owned()
        }

        fn default_kind() -> String {
            <$name as k8s_openapi::Resource>::KIND.to_owned()
        }

        impl k8s_openapi::Resource for $name {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($name);
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = crate::kind::scope::$scope;
        }

        impl k8s_openapi::Metadata for $name {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }

        impl crate::kind::CustomKind for $name {
            const INFO: crate::kind::KindInfo = crate::kind::KindInfo {
                group: $group,
                version: $version,
                api_version: concat!($group, "/", $version),
                kind: stringify!($name),
                plural: $plural,
                singular: $singular,
                short_names: &[$($short),*],
                namespaced: crate::kind::scope::$scope::NAMESPACED,
                status: crate::kind::has_status!($($status)?),
                scale: $scale,
                columns: $columns,
            };
        }
    };
}
pub(crate) use custom_kind;

macro_rules! has_status {
    () => {
        false
    };
    ($status:ty) => {
        true
    };
}
pub(crate) use has_status;

/// Scopes under the names that [`custom_kind`] uses.
pub(crate) mod scope {
    pub(crate) use k8s_openapi::{ClusterResourceScope as Cluster, NamespaceResourceScope as Namespaced};

    /// Whether a scope is inside a namespace.
    pub(crate) trait InNamespace {
        const NAMESPACED: bool;
    }
    impl InNamespace for Namespaced {
        const NAMESPACED: bool = true;
    }
    impl InNamespace for Cluster {
        const NAMESPACED: bool = false;
    }
}
