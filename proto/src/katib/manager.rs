//! Where Katib's clients ask what trials told: `proto/katib.proto`, compiled.

#![expect(missing_docs, reason = "the contract is documented in its .proto file, from which this is made")]
#![expect(clippy::doc_markdown, clippy::missing_errors_doc, reason = "generated")]

tonic::include_proto!("api.v1.beta1");
