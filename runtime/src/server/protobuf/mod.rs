//! Bodies in Kubernetes' protobuf form, which client-go's typed clients (`kubectl create configmap`, `kubectl auth
//! can-i`) send without asking. They are read into the same JSON as every other body; answers are always JSON, which the
//! same clients accept.

mod message;
mod wire;

use serde_json::Value;

use super::status::ApiError;

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Reads a body: the envelope says what is in it.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin with k8s"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in wire::fields(envelope) {
        match field.map_err(broken)? {
            (1, wire::Field::Bytes(type_meta)) => {
                for field in wire::fields(type_meta) {
                    match field.map_err(broken)? {
                        (1, wire::Field::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, wire::Field::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, wire::Field::Bytes(body)) => raw = body,
            _ => {}
        }
    }
    let group = api_version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
    // The options of a deletion are registered in every group.
    let package = if kind == "DeleteOptions" { "meta" } else { group };
    let name = format!("{package}.{kind}");
    let mut value = message::decode(&name, raw).map_err(broken)?.ok_or_else(|| {
        ApiError::unsupported_media_type(&format!(
            "application/json for {api_version} {kind}, which has no protobuf form here"
        ))
    })?;
    value.insert("apiVersion".to_owned(), Value::from(api_version));
    value.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(value))
}

fn broken(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("the body is not protobuf: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kubectls_config_map_is_read() {
        // As `kubectl create configmap a --from-literal=x=y` sends it.
        let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\x0a\x11\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x002\x008\x00B\x00\x12\x06\x0a\x01x\x12\x01y\x1a\x00\x22\x00";
        let value = decode(body).expect("reads");
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}})
        );
    }

    #[test]
    fn what_is_broken_is_refused() {
        for body in [&b""[..], b"k8s\0\x0a", b"k8s\0\x0a\x7f", b"json"] {
            assert_eq!(decode(body).expect_err("refused").code().as_u16(), 400, "{body:?}");
        }
        let unknown = b"k8s\0\x0a\x08\x0a\x02v1\x12\x02Xx";
        assert_eq!(decode(unknown).expect_err("refused").code().as_u16(), 415);
    }
}
