//! How the launchers of a job and its coordinator speak: `proto/rendezvous.proto`, compiled.

#![expect(missing_docs, reason = "the contract is documented in its .proto file, from which this is made")]
#![expect(clippy::doc_markdown, clippy::missing_errors_doc, reason = "generated")]

tonic::include_proto!("trainyard.rendezvous.v1");

/// gRPC metadata of a stream: the job's namespace.
pub const NAMESPACE: &str = "trainyard-namespace";
/// gRPC metadata of a stream: the job's name.
pub const JOB: &str = "trainyard-job";
/// gRPC metadata of a stream: what the pods of the job were given and nobody else.
pub const TOKEN: &str = "trainyard-job-token";
