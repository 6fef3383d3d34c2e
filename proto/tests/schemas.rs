//! `proto/schemas.json` is what `schemars` writes for the types today.

use std::path::Path;
use std::{env, fs};

use k8s_openapi::api::{apps, batch, coordination, core, events, scheduling, storage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use trainyard_proto::kind::KINDS;
use trainyard_proto::{katib, kubeflow, schema, trainer, trainyard, tuning};

/// With this variable the test writes the file.
const UPDATE: &str = "TRAINYARD_UPDATE_SCHEMAS";

struct Written {
    generator: SchemaGenerator,
    kinds: Map<String, Value>,
}

impl Written {
    fn kind<T: JsonSchema + k8s_openapi::Resource>(mut self) -> Self {
        let schema = self.generator.subschema_for::<T>().to_value();
        let name = schema::reference(&schema).expect("a kind is a named type").to_owned();
        self.kinds.insert(format!("{} {}", T::API_VERSION, T::KIND), json!(name));
        self
    }

    fn part<T: JsonSchema>(mut self) -> Self {
        self.generator.subschema_for::<T>();
        self
    }
}

fn written() -> Value {
    let all = Written { generator: SchemaSettings::draft2020_12().into_generator(), kinds: Map::new() }
        .kind::<core::v1::Namespace>()
        .kind::<core::v1::Pod>()
        .kind::<core::v1::Service>()
        .kind::<core::v1::ConfigMap>()
        .kind::<core::v1::Secret>()
        .kind::<core::v1::Node>()
        .kind::<core::v1::Event>()
        .kind::<core::v1::ServiceAccount>()
        .kind::<core::v1::PersistentVolumeClaim>()
        .kind::<core::v1::PersistentVolume>()
        .kind::<core::v1::ResourceQuota>()
        .kind::<core::v1::LimitRange>()
        .kind::<apps::v1::Deployment>()
        .kind::<apps::v1::ReplicaSet>()
        .kind::<batch::v1::Job>()
        .kind::<events::v1::Event>()
        .kind::<coordination::v1::Lease>()
        .kind::<scheduling::v1::PriorityClass>()
        .kind::<storage::v1::StorageClass>()
        .kind::<trainyard::TrainingJob>()
        .kind::<tuning::Experiment>()
        .kind::<tuning::Trial>()
        .kind::<katib::Experiment>()
        .kind::<katib::Trial>()
        .kind::<katib::Suggestion>()
        .kind::<kubeflow::PyTorchJob>()
        .kind::<kubeflow::TFJob>()
        .kind::<kubeflow::MPIJob>()
        .kind::<kubeflow::XGBoostJob>()
        .kind::<kubeflow::PaddleJob>()
        .kind::<kubeflow::JAXJob>()
        .kind::<trainer::TrainJob>()
        .kind::<trainer::ClusterTrainingRuntime>()
        .kind::<trainer::TrainingRuntime>()
        .part::<ObjectMeta>()
        .part::<ListMeta>();
    let Written { mut generator, kinds } = all;
    json!({"kinds": kinds, "$defs": generator.take_definitions(true)})
}

#[test]
fn the_file_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas.json");
    let text = serde_json::to_string_pretty(&written()).expect("JSON") + "\n";
    if env::var_os(UPDATE).is_some() {
        fs::write(&path, &text).expect("the file is written");
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let differs = known.lines().zip(text.lines()).position(|(known, now)| known != now);
    assert!(
        known == text,
        "{} differs from the types from line {} on: write it anew with {UPDATE}=1 cargo test -p trainyard-proto --test schemas",
        path.display(),
        differs.unwrap_or_else(|| known.lines().count().min(text.lines().count())) + 1,
    );
}

/// `schemars` gives the second one of two types of the same name a number; whoever looks for it by its name would find the first.
#[test]
fn no_two_types_have_the_same_name() {
    let written = written();
    let definitions = written["$defs"].as_object().expect("definitions");
    for name in definitions.keys() {
        let Some(first) = name.strip_suffix('2') else { continue };
        assert!(
            !definitions.contains_key(first),
            "two types are named {first}: give one another name (schemars(rename))"
        );
    }
}

#[test]
fn what_is_packed_is_the_file() {
    let written = written();
    for (kind, name) in written["kinds"].as_object().expect("kinds") {
        let (api_version, kind) = kind.split_once(' ').expect("a version and a kind");
        assert_eq!(schema::of(api_version, kind), name.as_str());
    }
    for (name, definition) in written["$defs"].as_object().expect("definitions") {
        assert_eq!(schema::definition(name).as_ref(), Some(definition));
    }
    assert_eq!(schema::of("v1", "Nothing"), None);
    assert!(KINDS.iter().all(|kind| schema::of(kind.api_version, kind.kind).is_some()));
}

#[test]
fn a_definition_comes_with_what_it_refers_to() {
    let job = schema::of("batch/v1", "Job").expect("a job");
    let all = schema::definitions([job], |_| false);
    assert!(all.contains_key(job) && all.keys().any(|name| name.ends_with(".PodSpec")));
    let fewer = schema::definitions([job], |name| name.ends_with(".PodTemplateSpec"));
    assert!(fewer.contains_key(job) && !fewer.keys().any(|name| name.ends_with(".PodSpec")));
}
