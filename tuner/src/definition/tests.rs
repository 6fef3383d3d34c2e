#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use trainyard_tuner_core::space::{Domain, Scale, Value};

use super::*;
use trainyard_tuner_core::budget::Confirm;

const WHOLE: &str = r#"
name = "wine"
seed = 7
constraints = ["depth * width <= 4096", "momentum < 0.95"]

[[objectives]]
metric = "accuracy"
goal = "maximize"
target = 0.9

[[objectives]]
metric = "latency"
goal = "minimize"

[algorithm]
name = "random"

[parameters.lr]
type = "float"
min = 1e-5
max = 1
scale = "log"

[parameters.optimizer]
type = "categorical"
choices = ["sgd", "adam"]

[parameters.momentum]
type = "float"
scale = "normal"
mean = 0.9
sd = 0.05
when = "optimizer == 'sgd'"

[parameters.depth]
type = "int"
min = 2
max = 64
step = 2

[parameters.width]
type = "ordinal"
choices = [64, 128, 256]

[parameters.nesterov]
type = "bool"
"#;

#[test]
fn a_whole_file_is_read() {
    let definition = Definition::read(WHOLE).expect("it reads");
    assert_eq!((definition.name.as_deref(), definition.seed), (Some("wine"), 7));
    assert_eq!(
        definition.objectives[0],
        Objective { name: "accuracy".to_owned(), goal: Goal::Maximize, target: Some(0.9), take: Take::Last }
    );
    assert_eq!(definition.objectives[1].name, "latency");
    assert_eq!(definition.algorithm, Algorithm::Random);
    let names: Vec<&str> = definition.space.parameters().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["lr", "optimizer", "momentum", "depth", "width", "nesterov"], "in the order of the file");
    let domains: Vec<&Domain> = definition.space.parameters().iter().map(|one| &one.domain).collect();
    assert_eq!(*domains[0], Domain::Float { min: 1e-5, max: 1.0, scale: Scale::Log, step: None });
    let normal = Scale::Normal { mean: 0.9, sd: 0.05 };
    assert_eq!(*domains[2], Domain::Float { min: f64::NEG_INFINITY, max: f64::INFINITY, scale: normal, step: None });
    assert_eq!(*domains[3], Domain::Int { min: 2, max: 64, scale: Scale::Linear, step: 2 });
    assert_eq!(*domains[4], Domain::Ordinal(vec![Value::Int(64), Value::Int(128), Value::Int(256)]));
    assert_eq!(*domains[5], Domain::Categorical(vec![Value::Bool(false), Value::Bool(true)]));
}

/// What is told of a file that has one thing in it changed: the text at the place, and the error with its hint.
fn told(from: &str, to: &str) -> Vec<(String, String)> {
    assert!(WHOLE.contains(from), "{from}");
    let text = WHOLE.replacen(from, to, 1);
    let errors = Definition::read(&text).expect_err(to);
    let shown = |error: DefinitionError| {
        let at = text[error.span.clone()].lines().next().unwrap_or_default().to_owned();
        (at, format!("{error}{}", error.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()))
    };
    errors.into_iter().map(shown).collect()
}

#[test]
fn each_error_has_its_place_and_what_was_expected() {
    for (from, to, at, part) in [
        ("name = \"wine\"", "nam = \"wine\"", "nam", "nam: there is no key `nam` here"),
        ("seed = 7", "seed = -7", "-7", "seed: expected 0 or more, found -7"),
        ("seed = 7", "seed = 'x'", "'x'", "seed: expected a whole number, found the text \"x\""),
        (
            "goal = \"maximize\"",
            "goal = \"maximise!\"",
            "\"maximise!\"",
            "objectives[0].goal: expected \"minimize\" or \"maximize\", found \"maximise!\"; did you mean",
        ),
        ("target = 0.9", "target = 'high'", "'high'", "objectives[0].target: expected a number"),
        ("metric = \"latency\"", "metrik = \"latency\"", "metrik", "did you mean `metric`?"),
        ("metric = \"latency\"", "metric = \"accuracy\"", "[[objectives]]", "metric \"accuracy\" is in two objectives"),
        (
            "name = \"random\"",
            "name = \"randm\"",
            "\"randm\"",
            "algorithm.name: there is no algorithm \"randm\" (did you mean random?)",
        ),
        ("name = \"random\"", "name = \"random\"\ngamma = 1", "gamma", "algorithm.gamma: there is no key `gamma` here"),
        (
            "name = \"random\"",
            "name = \"tpe\"\ngamma = 2",
            "2",
            "algorithm.gamma: expected a number from 0.001 to 1, found 2",
        ),
        (
            "name = \"random\"",
            "name = \"gp\"\nstartup = -1",
            "-1",
            "algorithm.startup: expected a number from 0 to 1000000, found -1",
        ),
        ("name = \"random\"", "name = \"gp\"\ngamma = 1", "gamma", "algorithm.gamma: there is no key `gamma` here"),
        ("name = \"random\"", "name = \"cmaes\"", "[algorithm]", "cmaes has one objective"),
        ("name = \"random\"", "name = \"gp\"", "[algorithm]", "gp has one objective"),
        ("name = \"random\"", "name = \"grid\"", "[algorithm]", "give `lr` a step"),
        (
            "type = \"float\"\nmin",
            "type = \"floot\"\nmin",
            "\"floot\"",
            "parameters.lr.type: expected one of float, int, bool, ordinal, categorical, found \"floot\"; did you mean \"float\"?",
        ),
        ("min = 1e-5", "min = 0", "[parameters.lr]", "parameters.lr: min is above 0 on a log scale, found 0"),
        ("min = 1e-5\n", "", "[parameters.lr]", "parameters.lr.min: `min` is missing: the least value"),
        ("scale = \"log\"", "scale = \"logg\"", "\"logg\"", "did you mean \"log\"?"),
        ("sd = 0.05\n", "", "[parameters.momentum]", "`sd` is missing: the standard deviation of the values"),
        ("step = 2", "step = 0.5", "0.5", "parameters.depth.step: expected a whole number, found 0.5"),
        (
            "choices = [64, 128, 256]",
            "choices = [64, [1]]",
            "[1]",
            "parameters.width.choices[1]: expected a text, a number, true or false, found a list",
        ),
        ("choices = [64, 128, 256]", "choice = [64]", "choice", "did you mean `choices`?"),
        (
            "when = \"optimizer == 'sgd'\"",
            "when = \"optimizer == 'sgdm'\"",
            "'",
            "parameters.momentum.when: its condition `optimizer == 'sgdm'`: `optimizer` can never be this: `sgdm` is none of sgd, adam (did you mean `sgd`?)",
        ),
        (
            "when = \"optimizer == 'sgd'\"",
            "when = \"optimizer = 'sgd'\"",
            "=",
            "parameters.momentum.when: `=` is no part of an expression; to compare write ==",
        ),
        (
            "\"momentum < 0.95\"",
            "\"momentun < 0.95\"",
            "m",
            "constraints[1]: the constraint `momentun < 0.95`: there is no parameter `momentun` (did you mean `momentum`?)",
        ),
        ("\"momentum < 0.95\"", "3", "3", "constraints[1]: expected a condition as a text"),
        (
            "[parameters.nesterov]\ntype = \"bool\"",
            "[parameters]\nnesterov = 3",
            "3",
            "parameters.nesterov: expected a table with type and its values, found 3",
        ),
    ] {
        let told = told(from, to);
        assert!(told.iter().any(|(place, error)| place == at && error.contains(part)), "{to}: {told:?}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    let errors = Definition::read("name = \n").expect_err("no TOML");
    assert!(errors.len() == 1 && errors[0].span.start >= 6, "{errors:?}");
    let errors = Definition::read("").expect_err("nothing");
    let told: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(told, ["objective", "parameters"]);
}

#[test]
fn many_errors_are_told_at_once_in_the_order_of_the_file() {
    let text = WHOLE
        .replace("min = 1e-5", "min = 'a'")
        .replace("type = \"bool\"", "type = \"boolean\"")
        .replace("seed = 7", "sead = 7");
    let errors = Definition::read(&text).expect_err("wrong");
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["sead", "parameters.lr.min", "parameters.nesterov.type"]);
}

const TRIAL: &str = r#"
objective = {metric = "loss", goal = "minimize", take = "best"}
budget = {trials = 8, parallel = 2, time = "1h30m"}

[parameters.lr]
type = "float"
min = 1e-5
max = 1
scale = "log"

[trial]
command = ["python", "train.py", "--lr={lr}"]
env = {OMP_NUM_THREADS = 1}
retries = 2
keep = "failed"
"#;

#[test]
fn a_command_is_a_job() {
    let definition = Definition::read(TRIAL).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
        "spec": {
            "command": ["python", "train.py", "--lr={lr}"], "env": {"OMP_NUM_THREADS": "1"},
            "restartPolicy": "OnFailure", "backoffLimit": 2,
        },
    });
    let setup = definition.setup().unwrap();
    assert_eq!(setup.job, expected);
    assert_eq!(setup.keep, trainyard_tuner_core::control::Keep::Failed);
    let budget = Budget { trials: Some(8), parallel: 2, failures: None, seconds: Some(5_400), confirm: None };
    assert_eq!(setup.budget, budget);
}

#[test]
fn an_object_says_what_its_file_says() {
    for file in [WHOLE, TRIAL] {
        let spec = Definition::spec(file).unwrap();
        let read = Definition::of_spec(&spec).unwrap();
        assert_eq!(read, Definition { name: None, ..Definition::read(file).unwrap() });
    }
}

#[test]
fn what_is_wrong_with_a_trial_is_told_with_its_place() {
    let told = |from: &str, to: &str| {
        let errors = Definition::read(&TRIAL.replace(from, to)).unwrap_err();
        errors.iter().map(|error| format!("{error} / {}", error.hint.as_deref().unwrap_or("-"))).collect::<Vec<_>>()
    };
    let wrong = told("{lr}", "{lrr}");
    assert!(wrong[0].starts_with("trial.command: the parameter `lr` has no place in it"), "{wrong:?}");
    assert!(wrong[0].ends_with("/ {lrr} is no parameter; did you mean {lr}?"), "{wrong:?}");
    assert!(told("\"1h30m\"", "\"soon\"")[0].starts_with("budget.time: expected a time such as"));
    assert!(told("trials = 8", "trials = 0")[0].starts_with("budget.trials: expected 1 or more, found 0"));
    assert!(told("retries = 2", "retires = 2")[0].contains("there is no key `retires` here"));
    assert!(told("\"failed\"", "\"some\"")[0].starts_with("trial.keep: expected \"recent\""));
    let job = TRIAL.replace("[trial]\ncommand", "[trial.job]\napiVersion = \"batch/v1\"\nkind = \"Jobb\"\nspec");
    let wrong = Definition::read(&job).unwrap_err();
    assert_eq!(wrong[0].hint.as_deref(), Some("did you mean Job?"));
}

const RUNGS: &str = r#"
objective = {metric = "loss", goal = "minimize"}
algorithm = "bohb"
stopping = [{rule = "median", start = 3, trials = 4, against = "best"}, {rule = "threshold", upper = 9}]

[parameters.lr]
type = "float"
min = 1e-5
max = 1

[fidelity]
parameter = "epochs"
min = 1
max = 81

[trial]
command = ["train", "--lr={lr}", "--epochs={epochs}", "--checkpoint={trial.checkpoint}"]
"#;

#[test]
fn a_resource_and_rules_are_read() {
    let definition = Definition::read(RUNGS).unwrap();
    let fidelity = definition.fidelity.clone().unwrap();
    assert_eq!((fidelity.ladder.parameter(), fidelity.checkpoints.as_str()), (Some("epochs"), "checkpoints"));
    assert_eq!(fidelity.ladder.resources(), [1.0, 3.0, 9.0, 27.0, 81.0]);
    assert_eq!(definition.algorithm, Algorithm::Hyperband(Model::Tpe(Default::default())));
    let against = trainyard_tuner_core::stopping::Against::Best;
    let median = Rule::Percentile { percentile: 50.0, against, start: 3, trials: 4 };
    let threshold = Rule::Threshold { lower: None, upper: Some(9.0), start: 0 };
    assert_eq!(definition.stopping().unwrap().rules, [median, threshold]);
    let job = definition.first_job("e").unwrap();
    let command = &job["spec"]["command"];
    assert_eq!((&command[2], &command[3]), (&"--epochs=1".into(), &"--checkpoint=checkpoints/e/0".into()));
    let spec = Definition::spec(RUNGS).unwrap();
    assert_eq!(Definition::of_spec(&spec).unwrap(), definition);
}

#[test]
fn steps_as_the_resource_are_a_rule_by_which_trials_are_stopped() {
    let text = RUNGS.replace("parameter = \"epochs\"\n", "").replace("\"bohb\"", "\"asha\"");
    let definition = Definition::read(&text).unwrap();
    let rules = definition.stopping().unwrap().rules;
    assert!(matches!(&rules[2], Rule::Halving { ladder, brackets: false } if ladder.resources().len() == 5));
    assert!(definition.experiment().ladder().is_none(), "each configuration has one trial");
}

#[test]
fn what_is_wrong_with_a_resource_or_a_rule_is_told_with_its_place() {
    for (from, to, at, part) in [
        ("\"bohb\"", "\"bobh\"", "\"bobh\"", "did you mean bohb?"),
        ("\"bohb\"", "\"tpe\"", "\"tpe\"", "[fidelity] is for asha, hyperband and bohb"),
        ("[fidelity]\nparameter = \"epochs\"\nmin = 1\nmax = 81\n", "", "\"bohb\"", "bohb needs [fidelity]"),
        ("algorithm = \"bohb\"", "algorithm = {name = 'asha', sampler = 'tpo'}", "'tpo'", "did you mean \"tpe\"?"),
        ("parameter = \"epochs\"", "parameter = \"lr\"", "\"lr\"", "`lr` is among the parameters that are searched"),
        ("parameter = \"epochs\"", "paramter = \"epochs\"", "paramter", "did you mean `parameter`?"),
        ("{epochs}", "{epoch}", "[\"train\"", "the parameter `epochs` has no place in it; write {epochs}"),
        ("max = 81", "max = 2", "[fidelity]", "fidelity: from 1 to 2 there is no step by a factor of 3"),
        ("max = 81", "max = 81\neta = 1", "1", "fidelity.eta: expected a number from 1.1 to 1000000, found 1"),
        ("max = 81\n", "", "[fidelity]", "`max` is missing: the most that a trial gets"),
        ("rule = \"median\"", "rule = \"medain\"", "\"medain\"", "did you mean \"median\"?"),
        ("against = \"best\"", "against = \"rest\"", "\"rest\"", "did you mean \"best\"?"),
        ("trials = 4", "trails = 4", "trails", "did you mean `trials`?"),
        ("upper = 9", "start = 9", "{rule = \"threshold\"", "`lower` is missing: the least value that is of use"),
        ("rule = \"threshold\"", "rule = \"patience\"", "upper", "stopping[1].upper: there is no key `upper` here"),
        ("start = 3", "metric = \"los\"", "\"los\"", "no objective has the metric \"los\"; did you mean \"loss\"?"),
    ] {
        assert!(RUNGS.contains(from), "{from}");
        let text = RUNGS.replacen(from, to, 1);
        let errors = Definition::read(&text).expect_err(to);
        let told: Vec<(&str, String)> = errors
            .iter()
            .map(|error| (&text[error.span.clone()], format!("{error}; {}", error.hint.as_deref().unwrap_or("-"))))
            .collect();
        assert!(told.iter().any(|(place, error)| place.starts_with(at) && error.contains(part)), "{to}: {told:?}");
    }
}

#[test]
fn the_best_are_tried_again_as_often_as_is_said() {
    let read = |budget: &str, more: &str| {
        let text = format!("objective = {{metric = 'a', goal = 'minimize'}}\nparameters.x = {{type = 'bool'}}\n{more}");
        let text = if more.is_empty() {
            text
        } else {
            text.replacen("objective = ", "objectives = [", 1).replacen(
                "}\n",
                "}, {metric = 'b', goal = 'minimize'}]\n",
                1,
            )
        };
        Definition::read(&format!("{text}\nbudget = {{{budget}}}")).map(|definition| definition.budget.confirm)
    };
    let confirm = |candidates, repeats| Ok(Some(Confirm { candidates, repeats }));
    assert_eq!(read("trials = 9", ""), Ok(None));
    assert_eq!(read("repeats = 5", ""), confirm(3, 5));
    assert_eq!(read("repeats = 2, candidates = 1", ""), confirm(1, 2));
    for (budget, more, told) in [
        ("repeats = 1", "", "expected 2 to 1000, found 1"),
        ("repeats = 3, candidates = 0", "", "expected 1 to 100, found 0"),
        ("candidates = 3", "", "say with `repeats` how often"),
        ("repeats = 'x'", "", "expected a whole number"),
        ("repeats = 3", "algorithm = 'random'", "trials of several objectives are not tried again"),
    ] {
        let errors = read(budget, more).expect_err(budget);
        assert!(errors.iter().any(|error| error.message.contains(told)), "{budget}: {errors:?}");
    }
}
