"""Katib's experiments, unmodified: manifests through kubectl, and kubeflow-katib 0.19's KatibClient."""

import os
import sys

import kubeflow.katib as katib
import pytest
import yaml
from kubernetes import client as kubernetes_client

from conftest import Server, eventually

# What the images of the manifests below hold. Anything else is run as it is.
STAND_IN = f"""#!{sys.executable}
import os, struct, sys
if sys.argv[1] == "-u":
    del sys.argv[1]
program, arguments = sys.argv[1], dict(a.lstrip("-").split("=", 1) for a in sys.argv[2:] if "=" in a)
if program == "/workspace/train.py":
    print("accuracy=%.4f" % (1 - abs(int(arguments["max-depth"]) - 9) / 40 - int(arguments["n-estimators"]) / 1e4))
elif program == "/opt/pytorch-mnist/mnist.py":
    lr, momentum = float(arguments["lr"]), float(arguments["momentum"])
    file = open(arguments["log-path"], "a") if "log-path" in arguments else None
    for epoch in range(3):
        loss = (lr - 0.03) ** 2 * 1e3 + momentum + 1 / (epoch + 1)
        if file:
            print("{{metricName: accuracy, metricValue: %.4f}};{{metricName: loss, metricValue: %.4f}}" % (1 - loss / 9, loss),
                  file=file, flush=True)
            print("accuracy=7 that is not in the file")
        else:
            print("epoch %d loss=%.4f accuracy=%.4f" % (epoch, loss, 1 - loss / 9), flush=True)
elif program == "/opt/tf-mnist-with-summaries/mnist.py":
    def message(number, data):
        return bytes([number << 3 | 2, len(data)]) + data
    with open(arguments["log-path"] + "/test/events.out.tfevents.1.host", "wb") as file:
        for epoch in range(3):
            value = message(1, b"accuracy_1") + struct.pack("<Bf", 0x15, float(arguments["learning-rate"]) + epoch / 4)
            event = struct.pack("<Bd", 0x09, 1.8e9 + epoch) + bytes([0x10, epoch]) + message(5, message(1, value))
            file.write(struct.pack("<QI", len(event), 0) + event + bytes(4))
    print("accuracy=7 that is no event")
elif program == "RunTrial.py":
    architecture, config = eval(eval(arguments["architecture"])), eval(eval(arguments["nn_config"]))
    assert [len(row) for row in architecture] == list(range(1, config["num_layers"] + 1)), architecture
    chosen = [config["embedding"][str(row[0])] for row in architecture]
    assert all(one["opt_id"] == row[0] for one, row in zip(chosen, architecture)), config
    print("Validation-Accuracy=%.4f" % (sum(one["opt_type"] == "convolution" for one in chosen) / len(chosen) * 0.9))
elif program == "run_trial.py":
    print("Best-Genotype=Genotype(normal=%s, layers=%s)" % (eval(arguments["search-space"]), eval(arguments["num-layers"])))
else:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""

FOREST = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {name: forest, namespace: kubeflow-user}
spec:
  objective: {type: maximize, goal: 0.9999, objectiveMetricName: accuracy}
  algorithm: {algorithmName: bayesianoptimization}
  parallelTrialCount: 3
  maxTrialCount: 5
  maxFailedTrialCount: 3
  parameters:
    - {name: n_estimators, parameterType: int, feasibleSpace: {min: "50", max: "300"}}
    - {name: max_depth, parameterType: int, feasibleSpace: {min: "3", max: "20"}}
  trialTemplate:
    primaryContainerName: training-container
    trialParameters:
      - {name: n_estimators, reference: n_estimators}
      - {name: max_depth, reference: max_depth}
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            containers:
              - name: training-container
                image: myregistry.example.com/ml/rf-trainer:v1
                command:
                  - "python"
                  - "/workspace/train.py"
                  - "--n-estimators=${trialParameters.n_estimators}"
                  - "--max-depth=${trialParameters.max_depth}"
            restartPolicy: Never
"""

MNIST = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {name: mnist, namespace: kubeflow}
spec:
  objective: {type: minimize, objectiveMetricName: loss, additionalMetricNames: [accuracy]}
  algorithm: {algorithmName: random}
  parallelTrialCount: 2
  maxTrialCount: 3
  maxFailedTrialCount: 1
  parameters:
    - {name: lr, parameterType: double, feasibleSpace: {min: "0.01", max: "0.05", step: "0.01"}}
    - {name: momentum, parameterType: double, feasibleSpace: {min: "0.5", max: "0.9", step: "0.1"}}
  trialTemplate:
    retain: true
    primaryContainerName: training-container
    trialParameters:
      - {name: learningRate, description: x, reference: lr}
      - {name: momentum, description: x, reference: momentum}
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            containers:
              - name: training-container
                image: ghcr.io/kubeflow/katib/pytorch-mnist-cpu:latest
                command: ["python3", "/opt/pytorch-mnist/mnist.py", "--epochs=1",
                          "--lr=${trialParameters.learningRate}", "--momentum=${trialParameters.momentum}"]
            restartPolicy: Never
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A server for whose pods the images' programs are there."""
    folder = tmp_path_factory.mktemp("katib")
    programs = folder / "programs"
    programs.mkdir()
    for name in ("python", "python3"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    server = Server(folder / "home")
    server.env["PATH"] = f"{programs}:{os.environ['PATH']}"
    server.start()
    server.kubectl("create", "namespace", "kubeflow-user")
    yield server
    server.stop()


@pytest.fixture
def client(plane):
    return katib.KatibClient(client_configuration=kubernetes_client.Configuration(host=plane.url), namespace="kubeflow")


def run(plane, manifest, change=None):
    """Applies an experiment, and gives it back when it has ended."""
    object = yaml.safe_load(manifest)
    if change:
        change(object)
    name, namespace = object["metadata"]["name"], object["metadata"]["namespace"]
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(object))

    def ended():
        found = plane.get("experiments.v1beta1.kubeflow.org", name, "-n", namespace)
        last = found.get("status", {}).get("conditions", [{}])[-1]
        return found if last.get("type") in ("Succeeded", "Failed") else None
    return eventually(ended, f"{name} ends", 300)


def trials(plane, name, namespace="kubeflow"):
    return plane.get("trials.v1beta1.kubeflow.org", "-n", namespace, "-l", f"katib.kubeflow.org/experiment={name}")["items"]


def test_an_experiment_runs_to_its_end_and_kubectl_shows_it(plane):
    done = run(plane, FOREST)
    status = done["status"]
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [
        ("Created", "True"), ("Running", "False"), ("Succeeded", "True")]
    assert status["conditions"][-1]["reason"] == "ExperimentMaxTrialsReached"
    assert status["trials"] == status["trialsSucceeded"] == 5
    told = {t["metadata"]["name"]: float(t["status"]["observation"]["metrics"][0]["max"])
            for t in trials(plane, "forest", "kubeflow-user")}
    assert sorted(told) == sorted(status["succeededTrialList"]) and len(told) == 5
    best = status["currentOptimalTrial"]
    assert told[best["bestTrialName"]] == max(told.values()) == float(best["observation"]["metrics"][0]["latest"])
    assert [a["name"] for a in best["parameterAssignments"]] == ["n_estimators", "max_depth"]
    shown = plane.kubectl("get", "experiments,trials,suggestions", "-n", "kubeflow-user").stdout
    rows = [line.split() for line in shown.splitlines() if line]
    assert rows[0] == ["NAME", "TYPE", "STATUS", "AGE"]
    assert rows[1][:3] == ["experiment.kubeflow.org/forest", "Succeeded", "True"]
    assert ["trial.kubeflow.org/forest-0", "Succeeded", "True"] in [row[:3] for row in rows]
    assert ["NAME", "TYPE", "STATUS", "REQUESTED", "ASSIGNED", "AGE"] in rows
    assert ["suggestion.kubeflow.org/forest", "Succeeded", "True", "5", "5"] in [row[:5] for row in rows]
    # Jobs of trials that have ended are not retained.
    eventually(lambda: not plane.get("jobs", "-n", "kubeflow-user")["items"], "the jobs are gone")
    both = plane.trainyard("get", "experiments", "-n", "kubeflow-user").stdout
    assert "forest" in both and "Succeeded" in both


@pytest.mark.parametrize("algorithm", ["grid", "tpe", "multivariate-tpe", "cmaes", "sobol"])
def test_algorithms_run(plane, algorithm):
    def change(object):
        object["metadata"]["name"] = algorithm
        object["spec"]["algorithm"]["algorithmName"] = algorithm
    status = run(plane, MNIST, change)["status"]
    assert status["trialsSucceeded"] == 3
    metrics = {m["name"]: m for m in status["currentOptimalTrial"]["observation"]["metrics"]}
    assert list(metrics) == ["loss", "accuracy"]
    assert float(metrics["loss"]["min"]) == float(metrics["loss"]["latest"]) < float(metrics["loss"]["max"])
    assert len({tuple(a["value"] for a in t["spec"]["parameterAssignments"]) for t in trials(plane, algorithm)}) == 3


def test_metrics_are_read_from_a_file(plane):
    def change(object):
        object["metadata"]["name"] = "file"
        spec = object["spec"]
        spec["metricsCollectorSpec"] = {
            "source": {"filter": {"metricsFormat": [r"{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)}"]},
                       "fileSystemPath": {"path": "/katib/mnist.log", "kind": "File"}},
            "collector": {"kind": "File"}}
        spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]["command"].append(
            "--log-path=/katib/mnist.log")
    status = run(plane, MNIST, change)["status"]
    assert status["trialsSucceeded"] == 3, status
    metrics = {m["name"]: m for m in status["currentOptimalTrial"]["observation"]["metrics"]}
    assert float(metrics["accuracy"]["max"]) < 1, "what is printed is not the file"
    assert float(metrics["loss"]["min"]) < float(metrics["loss"]["max"])


def test_metrics_are_read_from_event_files(plane):
    def change(object):
        object["metadata"]["name"] = "events"
        spec = object["spec"]
        spec["objective"] = {"type": "maximize", "objectiveMetricName": "accuracy"}
        spec["metricsCollectorSpec"] = {
            "source": {"fileSystemPath": {"path": "/mnist-with-summaries-logs/test", "kind": "Directory"}},
            "collector": {"kind": "TensorFlowEvent"}}
        spec["parameters"] = spec["parameters"][:1]
        spec["trialTemplate"]["trialParameters"] = spec["trialTemplate"]["trialParameters"][:1]
        spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]["command"] = [
            "python", "/opt/tf-mnist-with-summaries/mnist.py", "--learning-rate=${trialParameters.learningRate}",
            "--log-path=/mnist-with-summaries-logs"]
    status = run(plane, MNIST, change)["status"]
    assert status["trialsSucceeded"] == 3, status
    for trial in trials(plane, "events"):
        metric = trial["status"]["observation"]["metrics"][0]
        lr = float(trial["spec"]["parameterAssignments"][0]["value"])
        assert [float(metric[name]) for name in ("min", "max", "latest")] == pytest.approx([lr, lr + 0.5, lr + 0.5])


def network(algorithm, metric, command, names):
    def change(object):
        object["metadata"]["name"] = algorithm
        spec = object["spec"]
        spec["objective"] = {"type": "maximize", "objectiveMetricName": metric}
        spec["algorithm"] = {"algorithmName": algorithm}
        size = {"name": "filter_size", "parameterType": "categorical", "feasibleSpace": {"list": ["3", "5"]}}
        spec["nasConfig"] = {
            "graphConfig": {"numLayers": 2, "inputSizes": [32, 32, 3], "outputSizes": [10]},
            "operations": [{"operationType": "convolution", "parameters": [size]},
                           {"operationType": "max_pooling", "parameters": [size]}]}
        del spec["parameters"]
        template = spec["trialTemplate"]
        template["trialParameters"] = [{"name": f"p{at}", "reference": name} for at, (name, _) in enumerate(names)]
        template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]["command"] = command + [
            f'--{option}="${{trialParameters.p{at}}}"' for at, (_, option) in enumerate(names)]
    return change


def test_networks_are_searched(plane):
    change = network("enas", "Validation-Accuracy", ["python3", "-u", "RunTrial.py"],
                     [("architecture", "architecture"), ("nn_config", "nn_config")])
    status = run(plane, MNIST, change)["status"]
    assert status["trialsSucceeded"] == 3, status
    tried = {trial["spec"]["parameterAssignments"][0]["value"] for trial in trials(plane, "enas")}
    assert len(tried) == 3, "no architecture is tried twice"
    assert [a["name"] for a in status["currentOptimalTrial"]["parameterAssignments"]] == ["architecture", "nn_config"]


def test_darts_tells_the_network_that_its_trial_found(plane):
    names = [(name, name) for name in ("algorithm-settings", "search-space", "num-layers")]
    change = network("darts", "Best-Genotype", ["python3", "run_trial.py"], names)

    def once(object):
        change(object)
        object["spec"] |= {"maxTrialCount": 1, "parallelTrialCount": 1}
        object["spec"]["metricsCollectorSpec"] = {
            "collector": {"kind": "StdOut"}, "source": {"filter": {"metricsFormat": ["([\\w-]+)=(Genotype.*)"]}}}
    best = run(plane, MNIST, once)["status"]["currentOptimalTrial"]
    found = "Genotype(normal=['convolution_3x3', 'convolution_5x5', 'max_pooling_3x3', 'max_pooling_5x5'], layers=2)"
    assert best["observation"]["metrics"] == [{"name": "Best-Genotype", "min": found, "max": found, "latest": found}]


def test_what_is_wrong_is_told_in_the_status(plane):
    def change(object):
        object["metadata"]["name"] = "wrong"
        object["spec"]["algorithm"]["algorithmName"] = "bayesian-optimization"
        object["spec"]["trialTemplate"]["trialParameters"][0]["reference"] = "learning_rate"
    last = run(plane, MNIST, change)["status"]["conditions"][-1]
    assert (last["type"], last["reason"]) == ("Failed", "ExperimentFailed")
    assert "spec.algorithm.algorithmName: expected one of random" in last["message"]
    assert "did you mean bayesianoptimization?" in last["message"]
    assert "there is no parameter `learning_rate`" in last["message"]


def objective(parameters):
    # Braces in the source are no places: {a} {lr}
    for step in range(3):
        result = 4 * int(parameters["a"]) - float(parameters["b"]) ** 2 + step / 10
        print(f"result={result} step={step}")
    print(f"kind={len(parameters['kind'])}")


def test_a_function_is_tuned_from_python(plane, client):
    client.tune(
        name="tune", objective=objective, objective_metric_name="result", additional_metric_names=["kind"],
        parameters={"a": katib.search.int(min=10, max=20), "b": katib.search.double(min=0.1, max=0.2),
                    "kind": katib.search.categorical(["x", "yy"])},
        max_trial_count=4, parallel_trial_count=2, resources_per_trial={"cpu": "100m"}, retain_trials=True)
    experiment = client.wait_for_experiment_condition("tune", timeout=300, polling_interval=1)
    assert experiment.status.trials_succeeded == 4 and client.is_experiment_succeeded("tune")
    assert not client.is_experiment_running("tune")
    details = {d["name"]: d for d in client.get_success_trial_details("tune")}
    assert sorted(details) == [f"tune-{n}" for n in range(4)]
    result = {name: {m.name: m for m in d["metrics"]}["result"] for name, d in details.items()}
    best = client.get_optimal_hyperparameters("tune")
    assert float(result[best.best_trial_name].max) == max(float(m.max) for m in result.values())
    for name, detail in details.items():
        given = {a.name: a.value for a in detail["parameter_assignments"]}
        expected = 4 * int(given["a"]) - float(given["b"]) ** 2
        metrics = {m.name: m for m in detail["metrics"]}
        assert float(metrics["result"].min) == pytest.approx(expected)
        assert float(metrics["result"].latest) == pytest.approx(expected + 0.2)
        assert int(metrics["kind"].latest) == len(given["kind"])
        log = client.get_trial_metrics(name, db_manager_address=f"127.0.0.1:{plane.port}")
        told = [float(entry.metric.value) for entry in log if entry.metric.name == "result"]
        assert told == pytest.approx([expected, expected + 0.1, expected + 0.2])
        assert all(entry.time_stamp.startswith("20") for entry in log)
    assert client.get_suggestion("tune").status.suggestion_count == 4
    assert "tune" in {e.metadata.name for e in client.list_experiments()}
    assert len(client.list_trials("tune")) == 4 and client.get_trial("tune-0").spec.run_spec
    client.delete_experiment("tune")
    eventually(lambda: not client.list_trials("tune"), "the trials are gone")
    with pytest.raises(RuntimeError):
        client.get_experiment("tune")
    with pytest.raises(RuntimeError):
        client.get_trial_metrics("tune-0", db_manager_address=f"127.0.0.1:{plane.port}")


def test_a_larger_budget_resumes_an_experiment(plane, client):
    object = yaml.safe_load(MNIST)
    object["metadata"]["name"] = "more"
    object["spec"]["resumePolicy"] = "LongRunning"
    client.create_experiment(object)
    client.wait_for_experiment_condition("more", timeout=300, polling_interval=1)
    client.edit_experiment_budget("more", max_trial_count=5, parallel_trial_count=1)
    eventually(lambda: client.get_experiment("more").status.trials == 5, "two more trials")
    experiment = client.wait_for_experiment_condition("more", timeout=300, polling_interval=1)
    assert experiment.status.trials_succeeded == 5
    assert [c.type for c in experiment.status.conditions] == ["Created", "Restarting", "Running", "Succeeded"]


def test_an_experiment_goes_on_when_the_server_is_killed(plane):
    object = yaml.safe_load(MNIST)
    object["metadata"]["name"] = "killed"
    object["spec"] |= {"maxTrialCount": 8, "parallelTrialCount": 2}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(object))
    eventually(lambda: len(trials(plane, "killed")) >= 3, "some trials are there")
    plane.kill()
    plane.start()
    done = run(plane, yaml.safe_dump(object))
    assert done["status"]["trialsSucceeded"] == 8
    assert sorted(done["status"]["succeededTrialList"]) == [f"killed-{n}" for n in range(8)]
