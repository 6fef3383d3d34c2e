//! Which of the forms that a client accepts we answer in. Pure.

use super::status::ApiError;

/// The bytes of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

/// The shape of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// The object itself.
    #[default]
    Whole,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `PartialObjectMetadata`.
    Partial,
    /// `PartialObjectMetadataList`.
    PartialList,
    /// `APIGroupDiscoveryList`.
    AggregatedDiscovery,
}

/// A form to answer in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// The bytes.
    pub(crate) media: Media,
    /// The shape.
    pub(crate) view: View,
}

/// The first form in `accept` that we can make; the client lists them in its order of preference (`q` is ignored
/// between ones that we make, as kubectl and client-go never use it). Protobuf is skipped: its clients list JSON behind.
pub(crate) fn negotiate(accept: Option<&str>) -> Result<Form, ApiError> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else { return Ok(Form::default()) };
    accept.split(',').find_map(form).ok_or_else(ApiError::not_acceptable)
}

fn form(clause: &str) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    let media = match parts.next()? {
        "application/json" | "application/*" | "*/*" | "text/json" | "text/*" => Media::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Media::Yaml,
        _ => return None,
    };
    let (mut shape, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => shape = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    let view = match (shape, group, version) {
        ("", _, _) => View::Whole,
        // v1beta1 has the same fields, but says so in its apiVersion: clients list v1 as well.
        ("Table", "meta.k8s.io", "v1") => View::Table,
        ("PartialObjectMetadata", "meta.k8s.io", "v1") => View::Partial,
        ("PartialObjectMetadataList", "meta.k8s.io", "v1") => View::PartialList,
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => View::AggregatedDiscovery,
        _ => return None,
    };
    Some(Form { media, view })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(accept: &str) -> View {
        negotiate(Some(accept)).expect("acceptable").view
    }

    #[test]
    fn kubectls_wishes_come_true() {
        let tables = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(tables), View::Table);
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(view(discovery), View::AggregatedDiscovery);
        assert_eq!(view("application/vnd.kubernetes.protobuf,application/json"), View::Whole);
        assert_eq!(
            view(
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            ),
            View::Partial
        );
    }

    #[test]
    fn protobuf_alone_is_refused() {
        let error = negotiate(Some("application/vnd.kubernetes.protobuf")).expect_err("nothing to fall back on");
        assert_eq!(error.code(), http::StatusCode::NOT_ACCEPTABLE);
    }

    #[test]
    fn absent_and_any_mean_json() {
        for accept in [None, Some(""), Some("*/*"), Some("application/json, text/plain")] {
            assert_eq!(negotiate(accept).expect("acceptable"), Form::default());
        }
        assert_eq!(negotiate(Some("application/yaml")).expect("acceptable").media, Media::Yaml);
    }
}
