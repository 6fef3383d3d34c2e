"""Katib's own example manifests, unmodified, where they are found; population-based training and early stopping always."""

import os
import pathlib
import sys

import pytest
import yaml

from conftest import Server, eventually
from test_katib import MNIST, STAND_IN, run, trials

SHARED = pathlib.Path(os.environ.get("TRAINYARD_SHARED", pathlib.Path(__file__).parents[3] / "shared"))
FOLDER = SHARED / "data/manifests/katib"

# Beside what the manifests of test_katib hold: trials whose momentum is high tell two bad values and are in no hurry, and training that
# goes on from its checkpoint.
MORE = f"""#!{sys.executable}
import os, pathlib, sys, time
program, arguments = sys.argv[1], dict(a.lstrip("-").split("=", 1) for a in sys.argv[2:] if "=" in a)
if program == "/opt/pbt/pbt_test.py":
    file = pathlib.Path(arguments["checkpoint"]) / "training.ckpt"
    lr, left, epochs = float(arguments["lr"]), 1.0, 0
    if file.exists():
        left, epochs = map(float, file.read_text().split())
    for epoch in range(int(arguments["epochs"])):
        left, epochs = left * (1 - lr), epochs + 1
    file.write_text(f"{{left}} {{epochs}}")
    print(f"Validation-accuracy={{1 - left}}")
    print(f"epochs={{epochs}}")
elif program == "/opt/pytorch-mnist/mnist.py" and os.environ.get("IN_NO_HURRY"):
    momentum = float(arguments["momentum"])
    for epoch in range(2):
        print(f"loss={{momentum}}", flush=True)
    time.sleep(60 * (momentum > 0.7))
else:
    os.execv("OTHERS", ["OTHERS", *sys.argv[1:]])
"""


def server(folder, **env):
    """A server for whose pods the images' programs are there."""
    programs, others = folder / "programs", folder / "others"
    programs.mkdir(), others.mkdir()
    (others / "python").write_text(STAND_IN)
    (others / "python").chmod(0o755)
    for name in ("python", "python3"):
        (programs / name).write_text(MORE.replace("OTHERS", str(others / "python")))
        (programs / name).chmod(0o755)
    made = Server(folder / "home")
    made.env |= env | {"PATH": f"{programs}:{os.environ['PATH']}"}
    made.start()
    return made


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    made = server(tmp_path_factory.mktemp("katib"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    made = server(tmp_path_factory.mktemp("patient"), IN_NO_HURRY="1")
    yield made
    made.stop()


def shared(name):
    """A manifest as it is, if it is there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path.read_text()


def ended(plane, name):
    manifest = shared(name)
    object = run(plane, manifest)
    last = object["status"]["conditions"][-1]
    return object, last


@pytest.mark.parametrize("name, trials_of_it", [
    ("hp-tuning__bayesian-optimization", 12), ("hp-tuning__grid", 12), ("hp-tuning__hyperopt-distribution", 12),
    ("hp-tuning__optuna-distribution", 12), ("hp-tuning__tpe", 12), ("hp-tuning__simple-pbt", 2),
    ("metrics-collector__custom-metrics-collector", 12), ("metrics-collector__file-metrics-collector", 12),
    ("nas__darts-cpu", 1), ("nas__enas-cpu", 3), ("resume-experiment__from-volume-resume", 12),
    ("trial-template__trial-metadata-substitution", 12)])
def test_a_manifest_runs_as_it_is(plane, name, trials_of_it):
    object, last = ended(plane, f"{name}.yaml")
    status = object["status"]
    assert (last["type"], last["reason"]) == ("Succeeded", "ExperimentMaxTrialsReached"), status
    assert status["trials"] == status["trialsSucceeded"] == trials_of_it, status
    best = status["currentOptimalTrial"]
    assert best["bestTrialName"] in status["succeededTrialList"]
    assert best["observation"]["metrics"][0]["name"] == object["spec"]["objective"]["objectiveMetricName"]


@pytest.mark.parametrize("name, expected", [
    ("argo__argo-workflow", "Workflow of argoproj.io/v1alpha1"), ("tekton__pipeline-run", "PipelineRun of tekton.dev/v1beta1"),
    ("kubeflow-training-operator__mpijob-horovod", "MPIJob"), ("kubeflow-training-operator__tfjob-mnist-with-summaries", "TFJob")])
def test_a_manifest_of_a_kind_that_is_not_run_says_so(plane, name, expected):
    if name.startswith("argo"):
        plane.kubectl("create", "namespace", "argo", check=False)
    _, last = ended(plane, f"{name}.yaml")
    assert (last["type"], last["reason"]) == ("Failed", "ExperimentFailed")
    assert "spec.trialTemplate.trialSpec.kind" in last["message"] and expected in last["message"], last


def stopped(plane, manifest, change=None):
    done = run(plane, manifest, change)
    status, name = done["status"], done["metadata"]["name"]
    early = {trial["metadata"]["name"]: trial for trial in trials(plane, name)
             if trial["status"]["conditions"][-1]["type"] == "EarlyStopped"}
    assert status["trialsEarlyStopped"] == len(early) > 0, status
    assert sorted(status["earlyStoppedTrialList"]) == sorted(early)
    assert status["trialsSucceeded"] + len(early) == status["trials"] == done["spec"]["maxTrialCount"]
    for trial in early.values():
        last = trial["status"]["conditions"][-1]
        assert (last["status"], last["reason"]) == ("True", "TrialEarlyStopped")
        assert "median" in last["message"], last
        momentum = {a["name"]: a["value"] for a in trial["spec"]["parameterAssignments"]}["momentum"]
        metric = trial["status"]["observation"]["metrics"][0]
        assert float(metric["latest"]) == float(momentum) > 0.7, "it told what it had until then"
    assert status["currentOptimalTrial"]["bestTrialName"] in status["succeededTrialList"]
    shown = plane.kubectl("get", "trials.v1beta1.kubeflow.org", *early, "-n", "kubeflow").stdout
    assert shown.count("EarlyStopped") == len(early), shown


def test_trials_that_are_worse_than_the_median_are_stopped(patient):
    def change(object):
        object["metadata"]["name"] = "early"
        object["spec"] |= {"maxTrialCount": 10, "parallelTrialCount": 2, "maxFailedTrialCount": 3}
        object["spec"]["objective"] = {"type": "minimize", "objectiveMetricName": "loss"}
        object["spec"]["earlyStopping"] = {"algorithmName": "medianstop", "algorithmSettings": [
            {"name": "min_trials_required", "value": "1"}, {"name": "start_step", "value": "2"}]}
    stopped(patient, MNIST, change)


def test_the_manifest_of_early_stopping_stops_trials(patient):
    stopped(patient, shared("early-stopping__median-stop.yaml"))


POPULATION = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {name: population, namespace: kubeflow}
spec:
  objective: {type: maximize, objectiveMetricName: Validation-accuracy, additionalMetricNames: [epochs]}
  algorithm:
    algorithmName: pbt
    algorithmSettings:
      - {name: suggestion_trial_dir, value: /var/log/katib/checkpoints/}
      - {name: n_population, value: "5"}
      - {name: truncation_threshold, value: "0.4"}
  resumePolicy: FromVolume
  parallelTrialCount: 3
  maxTrialCount: 20
  parameters:
    - {name: lr, parameterType: double, feasibleSpace: {min: "0.0001", max: "0.02", step: "0.0001"}}
  trialTemplate:
    primaryContainerName: training-container
    trialParameters: [{name: learningRate, description: x, reference: lr}]
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            containers:
              - name: training-container
                image: ghcr.io/kubeflow/katib/simple-pbt:latest
                command: ["python3", "/opt/pbt/pbt_test.py", "--epochs=20", "--lr=${trialParameters.learningRate}",
                          "--checkpoint=/var/log/katib/checkpoints/"]
            restartPolicy: Never
"""
LABELS = "pbt.suggestion.katib.kubeflow.org"


def test_a_population_goes_on_from_the_checkpoints_of_its_best(plane):
    status = run(plane, POPULATION)["status"]
    assert status["trialsSucceeded"] == 20, status
    all = {trial["metadata"]["name"]: trial for trial in trials(plane, "population")}
    rate = {name: float(trial["spec"]["parameterAssignments"][0]["value"]) for name, trial in all.items()}
    told = {name: {m["name"]: float(m["latest"]) for m in trial["status"]["observation"]["metrics"]}
            for name, trial in all.items()}
    # What each trial tells is what comes of its own rate after what its parents came to.
    left, taken_over = {}, 0
    for name in sorted(all, key=lambda name: int(name.rsplit("-", 1)[1])):
        labels = all[name]["metadata"]["labels"]
        assert all[name]["spec"]["labels"].items() <= labels.items()
        generation, parent = int(labels[f"{LABELS}/generation"]), labels.get(f"{LABELS}/parent")
        before = int(all[parent]["metadata"]["labels"][f"{LABELS}/generation"]) if parent else -1
        assert generation == before + 1
        assert told[name]["epochs"] == 20 * (generation + 1)
        left[name] = left.get(parent, 1) * (1 - rate[name]) ** 20
        assert told[name]["Validation-accuracy"] == pytest.approx(1 - left[name])
        taken_over += bool(parent) and rate[name] != rate[parent]
    generations = [int(trial["metadata"]["labels"][f"{LABELS}/generation"]) for trial in all.values()]
    assert generations.count(0) == 5 and max(generations) >= 3, generations
    assert taken_over > 0, "nobody took over from another"
    shown = {one["name"]: one["labels"] for one in
             plane.get("suggestions.v1beta1.kubeflow.org", "population", "-n", "kubeflow")["status"]["suggestions"]}
    assert shown == {name: trial["spec"]["labels"] for name, trial in all.items()}
    plane.kubectl("delete", "experiments.v1beta1.kubeflow.org", "population", "-n", "kubeflow")
    eventually(lambda: "population-pbt" not in plane.kubectl("get", "pvc", "-n", "kubeflow").stdout, "the checkpoints go", 60)
