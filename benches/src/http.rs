//! One keep-alive HTTP/1.1 connection, plain or TLS, with JSON in and out.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Error;

/// Where a server is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `127.0.0.1:port`.
    pub address: String,
    /// Bearer token, where one is asked for.
    pub token: Option<String>,
    /// Whether it speaks TLS. Its certificate is not checked: it is on loopback and made for this run.
    pub tls: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    endpoint: Endpoint,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let tcp = TcpStream::connect(&endpoint.address).await?;
        tcp.set_nodelay(true)?;
        let sender = if endpoint.tls {
            let name = rustls_pki_types::ServerName::try_from("localhost").map_err(failed)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting_config()?));
            start(TokioIo::new(connector.connect(name, tcp).await?)).await?
        } else {
            start(TokioIo::new(tcp)).await?
        };
        Ok(Self { sender, endpoint: endpoint.clone() })
    }

    /// Sends one request and returns the head of the answer, with its body still to be read.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header("host", &self.endpoint.address)
            .header("accept", "application/json")
            .header("content-type", content_type(&method));
        if let Some(token) = &self.endpoint.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(failed)?;
        self.sender.ready().await.map_err(failed)?;
        self.sender.send_request(request).await.map_err(failed)
    }

    /// Sends one request and reads the whole answer; a status of 300 or more is an error.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses.
    pub async fn call(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(failed)?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(Error::Request(format!("{status}: {}", String::from_utf8_lossy(&body))))
        }
    }
}

/// A patch is one as the kubelet sends it.
fn content_type(method: &Method) -> &'static str {
    if *method == Method::PATCH { "application/strategic-merge-patch+json" } else { "application/json" }
}

async fn start<T>(io: T) -> Result<SendRequest<Full<Bytes>>, Error>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(io).await.map_err(failed)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Request(error.to_string())
}

fn trusting_config() -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
        .with_no_client_auth())
}

/// Accepts the self-signed certificate that the peer made for this run on loopback.
#[derive(Debug)]
struct TrustAll(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
