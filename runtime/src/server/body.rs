//! Request bodies: bounded, then JSON or YAML.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::limit::{BODY_BYTES, BODY_TIMEOUT};
use super::protobuf;
use super::status::ApiError;

/// Reads a body, up to the limit.
pub(super) async fn read(body: Body, headers: &HeaderMap) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("limit is {BODY_BYTES} bytes; keep large data in a volume"));
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|length| length > BODY_BYTES) {
        return Err(too_large());
    }
    // A body that never comes would hold its connection's place for ever.
    let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await else {
        let seconds = BODY_TIMEOUT.as_secs();
        return Err(ApiError::bad_request(format!("the body of the request did not arrive within {seconds} seconds")));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// The media type of the body, without parameters; JSON where none is given.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bare = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if bare.is_empty() { "application/json".to_owned() } else { bare }
}

/// Whether a body of this type can be read.
pub(super) fn supported(content_type: &str) -> Result<(), ApiError> {
    decode(b"{}", content_type).map(drop).or_else(|error| match error.code() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Err(error),
        _ => Ok(()),
    })
}

/// An object from a body that is JSON or YAML by its media type.
pub(super) fn decode(bytes: &[u8], content_type: &str) -> Result<Value, ApiError> {
    match content_type {
        "application/json" | "text/json" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes),
        // `curl -d` says this of JSON; browsers could send it across origins, but then they show their Origin.
        "application/x-www-form-urlencoded" if bytes.starts_with(b"{") => json(bytes),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// JSON only.
pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad_request("the request has no body; send an object as JSON or YAML"));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}

/// YAML, of which JSON is a part.
pub(super) fn yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.starts_with(b"{")
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Ok(value);
    }
    // As in YAML 1.2: `y` is a name and `no` is a country, not booleans.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_slice_with_options(bytes, options)
        .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for_for_ever() {
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let error = read(silent, &HeaderMap::new()).await.expect_err("refused");
        assert_eq!(error.code(), 400);
    }

    #[test]
    fn json_and_yaml_give_the_same_object() {
        let expected = json!({"kind": "ConfigMap", "data": {"a": "1"}});
        assert_eq!(decode(br#"{"kind":"ConfigMap","data":{"a":"1"}}"#, "application/json"), Ok(expected.clone()));
        assert_eq!(decode(b"kind: ConfigMap\ndata: {a: \"1\"}\n", "application/yaml"), Ok(expected));
    }

    #[test]
    fn other_media_types_are_415_and_broken_bodies_400() {
        let code = |bytes: &[u8], kind: &str| decode(bytes, kind).expect_err("refused").code().as_u16();
        assert_eq!(code(b"x", "application/cbor"), 415);
        assert_eq!(code(b"{", "application/json"), 400);
        assert_eq!(code(b"", "application/json"), 400);
        assert_eq!(code(b"a: [", "application/yaml"), 400);
    }
}
