//! Architectures of neural networks, as Katib's `enas` and `darts` give them to their trials.
//!
//! What `enas` chooses are parameters like others here: for each layer an operation, for each operation its parameters where it is
//! chosen, and which layers before are joined. `darts` chooses nothing: its trial does the search, and is given the space.

use serde_json::{Map, Value as Json, json};
use trainyard_proto::katib::{ExperimentSpec, NamedValue, Operation};

use super::{Findings, space};

/// More layers than this, and more operations, are a slip.
const MOST: usize = 1_000;
/// What the trials of `darts` are told, unless the experiment says otherwise.
const DARTS: [(&str, f64); 14] = [
    ("num_epochs", 50.0),
    ("w_lr", 0.025),
    ("w_lr_min", 0.001),
    ("w_momentum", 0.9),
    ("w_weight_decay", 3e-4),
    ("w_grad_clip", 5.0),
    ("alpha_lr", 3e-4),
    ("alpha_weight_decay", 1e-3),
    ("batch_size", 128.0),
    ("num_workers", 4.0),
    ("init_channels", 16.0),
    ("print_step", 50.0),
    ("num_nodes", 4.0),
    ("stem_multiplier", 3.0),
];
/// Those of them that are no whole numbers, whatever their value.
const FRACTIONS: [&str; 7] =
    ["w_lr", "w_lr_min", "w_momentum", "w_weight_decay", "w_grad_clip", "alpha_lr", "alpha_weight_decay"];

/// An algorithm that searches architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nas {
    Enas,
    Darts,
}

impl Nas {
    /// The algorithm of an experiment, if it is such a one.
    pub(super) fn of(spec: &ExperimentSpec) -> Option<Self> {
        match spec.algorithm.as_ref()?.algorithm_name.as_str() {
            "enas" => Some(Self::Enas),
            "darts" => Some(Self::Darts),
            _ => None,
        }
    }

    /// What its trials are given.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Enas => &["architecture", "nn_config"],
            Self::Darts => &["algorithm-settings", "search-space", "num-layers"],
        }
    }

    /// The names of its settings.
    pub(super) fn settings(self) -> impl Iterator<Item = &'static str> {
        const ENAS: [&str; 10] = [
            "controller_hidden_size",
            "controller_temperature",
            "controller_tanh_const",
            "controller_entropy_weight",
            "controller_baseline_decay",
            "controller_learning_rate",
            "controller_skip_target",
            "controller_skip_weight",
            "controller_train_steps",
            "controller_log_every_steps",
        ];
        let darts = DARTS.iter().map(|(name, _)| *name).filter(move |_| self == Self::Darts);
        ENAS.into_iter().filter(move |_| self == Self::Enas).chain(darts)
    }

    /// What is chosen, as parameters of our own.
    pub(super) fn parameters(self, spec: &ExperimentSpec, findings: &mut Findings) -> Map<String, Json> {
        let Some(config) = &spec.nas_config else {
            findings.add("spec.nasConfig", "say what an architecture is made of: graphConfig and operations");
            return Map::new();
        };
        let layers = config.graph_config.as_ref().and_then(|graph| graph.num_layers).unwrap_or(0);
        let layers = usize::try_from(layers).unwrap_or(0);
        if !(1..=MOST).contains(&layers) {
            findings.add("spec.nasConfig.graphConfig.numLayers", format!("expected 1 to {MOST}, found {layers}"));
        }
        let operations = config.operations.as_slice();
        if operations.is_empty() || operations.len() > MOST {
            let found = operations.len();
            findings.add("spec.nasConfig.operations", format!("expected 1 to {MOST} operations, found {found}"));
        }
        let before = findings.0.len();
        let all: Vec<Vec<(String, Vec<Json>)>> =
            operations.iter().enumerate().map(|(at, operation)| values(operation, at, findings)).collect();
        if findings.0.len() > before || !(1..=MOST).contains(&layers) {
            return Map::new();
        }
        match self {
            Self::Darts => {
                let given = darts(spec, operations, layers);
                let one = |(name, value): (&&str, String)| {
                    ((*name).to_owned(), json!({"type": "categorical", "choices": [value]}))
                };
                self.names().iter().zip(given).map(one).collect()
            }
            Self::Enas => (0..layers).flat_map(|layer| of_layer(layer, &all)).collect(),
        }
    }

    /// What a trial is given that tries these values.
    pub(super) fn assignments(
        self,
        spec: &ExperimentSpec,
        value: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Vec<NamedValue>> {
        let given: Vec<String> = match self {
            Self::Darts => self.names().iter().map(|name| value(name)).collect::<Option<_>>()?,
            Self::Enas => enas(spec, value)?.to_vec(),
        };
        let named = |(name, value): (&&str, String)| NamedValue { name: (*name).to_owned(), value };
        Some(self.names().iter().zip(given).map(named).collect())
    }
}

/// The parameters of an operation, with all values of each.
fn values(operation: &Operation, at: usize, findings: &mut Findings) -> Vec<(String, Vec<Json>)> {
    let path = format!("spec.nasConfig.operations[{at}]");
    if operation.operation_type.is_empty() {
        findings.add(format!("{path}.operationType"), "an operation has a type, such as convolution");
    }
    let read = space::parameters(&operation.parameters, &format!("{path}.parameters"), findings);
    let list = |(name, table): (&String, &Json)| {
        let values = match table.get("choices").and_then(Json::as_array) {
            Some(choices) => choices.clone(),
            None => steps(table).unwrap_or_default(),
        };
        if values.is_empty() {
            let message = format!("`{name}` needs a list, or min, max and step of at most {MOST} values");
            findings.add(format!("{path}.parameters"), message);
        }
        (name.clone(), values)
    };
    read.iter().map(list).collect()
}

/// The values of a number with a step; those of an int have a step of 1 where nothing is said.
fn steps(table: &Json) -> Option<Vec<Json>> {
    let number = |name: &str| table.get(name).and_then(Json::as_f64);
    let is_whole = table.get("type")? == "int";
    let (min, max) = (number("min")?, number("max")?);
    let step = number("step").or(is_whole.then_some(1.0))?;
    let count = ((max - min) / step + 1e-9).floor() as usize + 1;
    let value = |at: usize| {
        let value = (at as f64).mul_add(step, min);
        if is_whole { json!(value as i64) } else { json!(value) }
    };
    (count <= MOST).then(|| (0..count).map(value).collect())
}

fn layer_name(layer: usize) -> String {
    format!("layer{layer}")
}

fn skip_name(layer: usize, from: usize) -> String {
    format!("layer{layer}_joins{from}")
}

fn value_name(layer: usize, operation: usize, parameter: usize) -> String {
    format!("layer{layer}_operation{operation}_{parameter}")
}

fn of_layer(layer: usize, operations: &[Vec<(String, Vec<Json>)>]) -> Vec<(String, Json)> {
    let places = |count: usize| -> Vec<String> { (0..count).map(|at| at.to_string()).collect() };
    let name = layer_name(layer);
    let mut all = vec![(name.clone(), json!({"type": "categorical", "choices": places(operations.len())}))];
    for (at, parameters) in operations.iter().enumerate() {
        for (parameter, (_, values)) in parameters.iter().enumerate().filter(|(_, (_, values))| values.len() > 1) {
            let mut table = json!({"type": "ordinal", "choices": places(values.len())});
            if operations.len() > 1 {
                table["when"] = json!(format!("{name} == '{at}'"));
            }
            all.push((value_name(layer, at, parameter), table));
        }
    }
    all.extend((0..layer).map(|from| (skip_name(layer, from), json!({"type": "categorical", "choices": places(2)}))));
    all
}

/// The architecture, and what it is made of.
fn enas(spec: &ExperimentSpec, value: &dyn Fn(&str) -> Option<String>) -> Option<[String; 2]> {
    let config = spec.nas_config.as_ref()?;
    let graph = config.graph_config.as_ref()?;
    let operations = config.operations.as_slice();
    let all: Vec<Vec<(String, Vec<Json>)>> =
        operations.iter().map(|operation| values(operation, 0, &mut Findings::default())).collect();
    let place = |name: &str| value(name).and_then(|text| text.parse::<usize>().ok());
    let layers = usize::try_from(graph.num_layers?).ok()?;
    let (mut architecture, mut embedding) = (Vec::new(), Map::new());
    for layer in 0..layers {
        let at = place(&layer_name(layer))?;
        // Operations with values are numbered in their order, the last parameter changing first.
        let (mut id, mut given) = (0, Map::new());
        for (parameter, (name, values)) in all.get(at)?.iter().enumerate() {
            let chosen = if values.len() > 1 { place(&value_name(layer, at, parameter))? } else { 0 };
            id = id * values.len() + chosen;
            given.insert(name.clone(), values.get(chosen)?.clone());
        }
        let count = |parameters: &Vec<(String, Vec<Json>)>| {
            parameters.iter().map(|(_, values)| values.len()).product::<usize>()
        };
        id += all[..at].iter().map(count).sum::<usize>();
        let joined = (0..layer).map(|from| place(&skip_name(layer, from)));
        let row: Option<Vec<usize>> = std::iter::once(Some(id)).chain(joined).collect();
        architecture.push(json!(row?));
        let kind = &operations[at].operation_type;
        embedding.insert(id.to_string(), json!({"opt_id": id, "opt_type": kind, "opt_params": given}));
    }
    let described = json!({
        "num_layers": layers, "input_sizes": graph.input_sizes, "output_sizes": graph.output_sizes, "embedding": embedding,
    });
    Some([written(&Json::Array(architecture)), written(&described)])
}

/// Settings, operations and layers.
fn darts(spec: &ExperimentSpec, operations: &[Operation], layers: usize) -> [String; 3] {
    let default = |(name, number): &(&str, f64)| {
        let value = if FRACTIONS.contains(name) { json!(number) } else { json!(*number as i64) };
        ((*name).to_owned(), value)
    };
    let mut settings: Map<String, Json> = DARTS.iter().map(default).collect();
    for setting in spec.algorithm.iter().flat_map(|algorithm| algorithm.algorithm_settings.iter().flatten()) {
        let value = if setting.value == "None" { Json::Null } else { json!(setting.value) };
        settings.insert(setting.name.clone(), value);
    }
    let names = operations.iter().flat_map(|operation| {
        let kind = &operation.operation_type;
        let sizes = operation.parameters.first().and_then(|one| one.feasible_space.list.clone());
        match sizes {
            Some(sizes) if kind != "skip_connection" => {
                sizes.iter().map(|size| format!("{kind}_{size}x{size}")).collect()
            }
            _ => vec![kind.clone()],
        }
    });
    let names: Vec<String> = names.collect();
    [written(&Json::Object(settings)), written(&json!(names)), layers.to_string()]
}

/// As the programs in Katib's images read it: JSON as Python writes it, in single quotes.
fn written(value: &Json) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Json::String(text) => format!("'{text}'"),
        Json::Array(items) => format!("[{}]", joined(items.iter().map(written).collect())),
        Json::Object(entries) => {
            let entry = |(name, entry): (&String, &Json)| format!("'{name}': {}", written(entry));
            format!("{{{}}}", joined(entries.iter().map(entry).collect()))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    fn spec(algorithm: &str, change: impl FnOnce(&mut Json)) -> ExperimentSpec {
        let list = |name: &str, values: &[&str]| json!({"name": name, "parameterType": "categorical", "feasibleSpace": {"list": values}});
        let size = json!({"name": "pool_size", "parameterType": "int", "feasibleSpace": {"min": "2", "max": "3", "step": "1"}});
        let mut spec = json!({
            "algorithm": {"algorithmName": algorithm},
            "nasConfig": {
                "graphConfig": {"numLayers": 2, "inputSizes": [32, 32, 3], "outputSizes": [10]},
                "operations": [
                    {"operationType": "convolution", "parameters": [
                        list("filter_size", &["3", "5", "7"]), list("stride", &["1", "2"]), list("num_filter", &["32"]),
                    ]},
                    {"operationType": "reduction", "parameters": [list("reduction_type", &["max_pooling"]), size]},
                ],
            },
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn given(spec: &ExperimentSpec, values: &[(&str, &str)]) -> Vec<String> {
        let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let all = Nas::of(spec).unwrap().assignments(spec, &value).unwrap();
        all.into_iter().map(|one| one.value).collect()
    }

    #[test]
    fn enas_chooses_operations_their_parameters_and_joints() {
        let spec = spec("enas", |_| {});
        let mut findings = Findings::default();
        let parameters = Json::Object(Nas::Enas.parameters(&spec, &mut findings));
        assert_eq!(findings.0, []);
        let ordinal = |count: usize, when: &str| {
            let choices: Vec<String> = (0..count).map(|at| at.to_string()).collect();
            json!({"type": "ordinal", "choices": choices, "when": when})
        };
        let either = json!({"type": "categorical", "choices": ["0", "1"]});
        let expected = json!({
            "layer0": either,
            "layer0_operation0_0": ordinal(3, "layer0 == '0'"),
            "layer0_operation0_1": ordinal(2, "layer0 == '0'"),
            "layer0_operation1_1": ordinal(2, "layer0 == '1'"),
            "layer1": either,
            "layer1_operation0_0": ordinal(3, "layer1 == '0'"),
            "layer1_operation0_1": ordinal(2, "layer1 == '0'"),
            "layer1_operation1_1": ordinal(2, "layer1 == '1'"),
            "layer1_joins0": either,
        });
        assert_eq!(parameters, expected);
        let chosen = [
            ("layer0", "0"),
            ("layer0_operation0_0", "2"),
            ("layer0_operation0_1", "1"),
            ("layer1", "1"),
            ("layer1_operation1_1", "0"),
            ("layer1_joins0", "1"),
        ];
        // Of six convolutions the last, then the first reduction, joined with the layer before.
        let config = "{'num_layers': 2, 'input_sizes': [32, 32, 3], 'output_sizes': [10], 'embedding': \
                      {'5': {'opt_id': 5, 'opt_type': 'convolution', 'opt_params': \
                      {'filter_size': '7', 'stride': '2', 'num_filter': '32'}}, \
                      '6': {'opt_id': 6, 'opt_type': 'reduction', 'opt_params': \
                      {'reduction_type': 'max_pooling', 'pool_size': 2}}}}";
        assert_eq!(given(&spec, &chosen), ["[[5], [6, 1]]", config]);
    }

    #[test]
    fn darts_is_given_its_space() {
        let spec = spec("darts", |spec| {
            spec["algorithm"]["algorithmSettings"] =
                json!([{"name": "num_epochs", "value": "1"}, {"name": "batch_size", "value": "None"}]);
            let operations = spec["nasConfig"]["operations"].as_array_mut().unwrap();
            operations[1] = json!({"operationType": "skip_connection"});
        });
        let mut findings = Findings::default();
        let parameters = Nas::Darts.parameters(&spec, &mut findings);
        assert_eq!(findings.0, []);
        let texts: Vec<&str> = parameters.values().map(|table| table["choices"][0].as_str().unwrap()).collect();
        let settings = "{'num_epochs': '1', 'w_lr': 0.025, 'w_lr_min': 0.001, 'w_momentum': 0.9, 'w_weight_decay': 0.0003, \
                        'w_grad_clip': 5.0, 'alpha_lr': 0.0003, 'alpha_weight_decay': 0.001, 'batch_size': null, \
                        'num_workers': 4, 'init_channels': 16, 'print_step': 50, 'num_nodes': 4, 'stem_multiplier': 3}";
        let space = "['convolution_3x3', 'convolution_5x5', 'convolution_7x7', 'skip_connection']";
        assert_eq!(texts, [settings, space, "2"]);
        let values: Vec<(&str, &str)> = parameters.keys().map(String::as_str).zip(texts.iter().copied()).collect();
        assert_eq!(given(&spec, &values), texts);
    }

    #[test]
    fn what_is_wrong_with_a_network_is_told() {
        let spec = spec("enas", |spec| {
            spec["nasConfig"]["graphConfig"]["numLayers"] = json!(0);
            spec["nasConfig"]["operations"][1]["operationType"] = json!("");
            spec["nasConfig"]["operations"][1]["parameters"][1]["parameterType"] = json!("double");
            spec["nasConfig"]["operations"][1]["parameters"][1]["feasibleSpace"] = json!({"min": "0", "max": "1"});
        });
        let mut findings = Findings::default();
        Nas::Enas.parameters(&spec, &mut findings);
        let told: Vec<String> = findings.0.iter().map(ToString::to_string).collect();
        let expected = [
            "spec.nasConfig.graphConfig.numLayers: expected 1 to 1000, found 0",
            "spec.nasConfig.operations[1].operationType: an operation has a type, such as convolution",
            "spec.nasConfig.operations[1].parameters: `pool_size` needs a list, or min, max and step of at most 1000 values",
        ];
        assert_eq!(told, expected);
    }
}
