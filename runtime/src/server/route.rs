//! What a path asks for. Pure: no request, no registry.

/// A path, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/`: the list of paths.
    Root,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`.
    GroupVersion(GroupVersion),
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz` and their single checks.
    Health,
    /// `/metrics`.
    Metrics,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`.
    OpenApiV3(GroupVersion),
    /// Objects.
    Resource(ResourcePath),
    /// Nothing of ours.
    Unknown,
}

/// An API group and version; the core group is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupVersion {
    /// Empty for the core group.
    pub(crate) group: String,
    /// `v1`, …
    pub(crate) version: String,
}

/// `/apis/{group}/{version}[/namespaces/{namespace}]/{plural}[/{name}[/{subresource}]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// Group and version.
    pub(crate) gv: GroupVersion,
    /// The namespace named by the path.
    pub(crate) namespace: Option<String>,
    /// `pods`, …
    pub(crate) plural: String,
    /// The object named by the path.
    pub(crate) name: Option<String>,
    /// `status`, `scale`, `log`, …; what follows it is kept with slashes.
    pub(crate) subresource: Option<String>,
}

impl Route {
    /// Reads a request path, still percent-encoded.
    pub(crate) fn parse(path: &str) -> Self {
        let Some(segments) = segments(path) else { return Self::Unknown };
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [] => Self::Root,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["version"] => Self::Version,
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["metrics"] => Self::Metrics,
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3Index,
            ["openapi", "v3", "api", version] => Self::OpenApiV3(gv("", version)),
            ["openapi", "v3", "apis", group, version] => Self::OpenApiV3(gv(group, version)),
            ["api", version] => Self::GroupVersion(gv("", version)),
            ["apis", group, version] => Self::GroupVersion(gv(group, version)),
            ["api", version, rest @ ..] => resource(gv("", version), rest),
            ["apis", group, version, rest @ ..] => resource(gv(group, version), rest),
            [..] => Self::Unknown,
        }
    }
}

fn gv(group: &str, version: &str) -> GroupVersion {
    GroupVersion { group: group.to_owned(), version: version.to_owned() }
}

fn resource(gv: GroupVersion, rest: &[&str]) -> Route {
    let own = |text: &&str| Some((*text).to_owned());
    let (namespace, rest) = match rest {
        // `namespaces/x` and its subresources are the namespace object itself, not things inside it.
        ["namespaces", name, subresource @ ("status" | "finalize")] if gv.group.is_empty() => {
            return Route::Resource(ResourcePath {
                gv,
                namespace: None,
                plural: "namespaces".to_owned(),
                name: own(name),
                subresource: own(subresource),
            });
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (own(namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, own(name), None),
        [plural, name, subresource @ ..] => (*plural, own(name), Some(subresource.join("/"))),
        [] => return Route::Unknown,
    };
    Route::Resource(ResourcePath { gv, namespace, plural: plural.to_owned(), name, subresource })
}

/// Decoded segments without empty ones at the ends; `None` where the encoding is broken or a segment is a dot segment.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Some(Vec::new());
    }
    path.split('/').map(decode).collect()
}

fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    // A name that could walk a file tree or split a path never reaches a handler.
    let walks = text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']);
    (!walks).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> ResourcePath {
        let Route::Resource(found) = Route::parse(path) else { panic!("{path} is no resource") };
        found
    }

    #[test]
    fn objects_are_found_in_and_outside_namespaces() {
        let pod = parsed("/api/v1/namespaces/team/pods/p-0/log");
        assert_eq!(pod.namespace.as_deref(), Some("team"));
        assert_eq!(
            (pod.plural.as_str(), pod.name.as_deref(), pod.subresource.as_deref()),
            ("pods", Some("p-0"), Some("log"))
        );
        let everywhere = parsed("/apis/kubeflow.org/v1/pytorchjobs");
        assert_eq!((everywhere.namespace, everywhere.name), (None, None));
        assert_eq!(everywhere.gv.group, "kubeflow.org");
    }

    #[test]
    fn a_namespace_is_an_object_and_a_place() {
        let object = parsed("/api/v1/namespaces/team");
        assert_eq!(
            (object.plural.as_str(), object.name.as_deref(), object.namespace),
            ("namespaces", Some("team"), None)
        );
        let finalize = parsed("/api/v1/namespaces/team/finalize");
        assert_eq!((finalize.plural.as_str(), finalize.subresource.as_deref()), ("namespaces", Some("finalize")));
        let place = parsed("/api/v1/namespaces/team/secrets");
        assert_eq!((place.plural.as_str(), place.namespace.as_deref()), ("secrets", Some("team")));
    }

    #[test]
    fn paths_that_walk_are_nothing() {
        for path in
            ["/api/v1/namespaces/..%2f..%2fetc/pods", "/api/v1/pods/%2e%2e", "/api/v1//pods", "/api/v1/pods/%zz"]
        {
            assert_eq!(Route::parse(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_told_apart() {
        assert_eq!(Route::parse("/"), Route::Root);
        assert_eq!(Route::parse("/readyz/etcd"), Route::Health);
        assert_eq!(Route::parse("/apis/apps"), Route::Group("apps".to_owned()));
        assert_eq!(Route::parse("/openapi/v3/apis/apps/v1"), Route::OpenApiV3(gv("apps", "v1")));
        assert_eq!(Route::parse("/favicon.ico"), Route::Unknown);
    }
}
