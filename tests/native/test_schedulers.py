"""Jobs that are left to Kueue and to Volcano, with these themselves (`tests/tools/schedulers`) beside real etcd, kube-apiserver,
kube-scheduler and kube-controller-manager. What is stood in for: the kubelet (clients/real_cluster.py). Kueue runs without its webhooks."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "clients"))

from conftest import TRAINYARD, eventually, free_port
from real_cluster import Cluster
from test_operator import Operator, create, leader, phase, pods, read, training, wait_for_end

KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
PYTORCHJOBS = "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs"
MERGE = "application/merge-patch+json"
ONE_CPU = {"cpu": "1"}


def schedulers():
    folder = os.environ.get("SCHEDULERS")
    assert folder, "SCHEDULERS: the folder that `tests/tools/schedulers volcano kueue` prints"
    return pathlib.Path(folder)


def defined(folder):
    """The kinds that a folder defines."""
    return [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    bin = os.environ.get("KUBERNETES_BIN")
    assert bin, "KUBERNETES_BIN: the folder that `tests/tools/kubernetes kube-apiserver etcd …` prints"
    one = Cluster(tmp_path_factory.mktemp("schedulers"), bin)
    try:
        printed = json.loads(subprocess.run([TRAINYARD, "install", "-o", "json", "--kubeflow"], check=True, capture_output=True,
                                            text=True).stdout)["items"]
        one.start([*(item for item in printed if item["kind"] == "CustomResourceDefinition"),
                   *defined(schedulers() / "kueue-kinds"), *defined(schedulers() / "volcano")])
        one.run("install", "--apply", "--kubeflow", "--image", "missing")
        for name in ("team", "kueue-system"):
            assert one.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})[0] == 201
        eventually(lambda: one.call("GET", "/api/v1/namespaces/team/serviceaccounts/default")[0] == 200, "its account is made")
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def operator(cluster):
    one = Operator(cluster, "operator", free_port())
    leader(one)
    yield one
    one.end()


def started(cluster, name, health, *argv):
    log = cluster.folder / f"{name}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen([*map(str, argv)], stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def is_healthy():
        return process.poll() is not None or cluster.http.request("GET", health, retries=False, timeout=30).status == 200

    try:
        eventually(is_healthy, f"{name} is healthy", 120)
        assert process.poll() is None, f"{name} has ended:\n{log.read_text()[-2000:]}"
    except BaseException:
        process.kill()
        raise
    return process


def ended(process):
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def kueue(cluster, operator):
    """Kueue with a queue of two CPUs, in which who is more important goes first."""
    health = free_port()
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration", "namespace": "kueue-system",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"}, "metrics": {"bindAddress": "0"},
        "webhook": {"port": free_port(), "host": "127.0.0.1", "certDir": str(schedulers() / "certs")},
        "leaderElection": {"leaderElect": False}, "internalCertManagement": {"enable": False},
        "controller": {"groupKindConcurrency": {}},
        "integrations": {"frameworks": ["batch/job", "kubeflow.org/pytorchjob"]},
    }
    file = cluster.folder / "kueue.json"
    file.write_text(json.dumps(config))
    process = started(cluster, "kueue", f"http://127.0.0.1:{health}/readyz", schedulers() / "kueue", "--config", file,
                      "--kubeconfig", cluster.kubeconfig, "--feature-gates", "VisibilityOnDemand=false")
    flavor = {"spec": {"nodeLabels": {"kubernetes.io/hostname": "node1"}}}
    groups = [{"coveredResources": ["cpu"], "flavors": [{"name": "here", "resources": [{"name": "cpu", "nominalQuota": "2"}]}]}]
    for path, kind, name, more in (
            ("resourceflavors", "ResourceFlavor", "here", flavor),
            ("clusterqueues", "ClusterQueue", "all", {"spec": {"namespaceSelector": {}, "resourceGroups": groups,
                                                               "preemption": {"withinClusterQueue": "LowerPriority"}}}),
            ("namespaces/team/localqueues", "LocalQueue", "team", {"spec": {"clusterQueue": "all"}})):
        body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, **more}
        code, answer = cluster.call("POST", f"{KUEUE}/{path}", body)
        assert code == 201, answer
    yield process
    ended(process)


@pytest.fixture(scope="module")
def volcano(cluster, operator):
    health, metrics = free_port(), free_port()
    process = started(cluster, "volcano", f"http://127.0.0.1:{health}/healthz", schedulers() / "volcano-scheduler", "--kubeconfig",
                      cluster.kubeconfig, "--leader-elect=false", "--enable-healthz", "--healthz-address", f"127.0.0.1:{health}",
                      "--listen-address", f"127.0.0.1:{metrics}")
    queue = "/apis/scheduling.volcano.sh/v1beta1/queues/default"
    eventually(lambda: cluster.call("GET", queue)[0] == 200, "Volcano has made its queue", 60)
    # Which its controllers would do.
    assert cluster.call("PATCH", f"{queue}/status", {"status": {"state": "Open"}}, MERGE)[0] == 200
    yield process
    ended(process)


def workload(cluster, name):
    code, answer = cluster.call("GET", f"{KUEUE}/namespaces/team/workloads/{name}")
    return answer if code == 200 else None


def is_admitted(cluster, name):
    conditions = (workload(cluster, name) or {}).get("status", {}).get("conditions", [])
    return any(each["type"] == "Admitted" and each["status"] == "True" for each in conditions)


def of(cluster, name):
    return [pod for pod in pods(cluster, "team") if pod["metadata"]["name"].startswith(f"{name}-")]


def message(cluster, name):
    return read(cluster, "team", name).get("status", {}).get("message", "")


def left_to_kueue(name, folder, **spec):
    return training(name, wait_for_end(folder), scheduler="kueue", queue="team", resources=ONE_CPU, backoffLimit=0, **spec)


def test_kueue_admits_one_job_after_the_other(cluster, kueue, tmp_path):
    create(cluster, "team", left_to_kueue("first", tmp_path))
    eventually(lambda: phase(cluster, "team", "first") == "Running", "there is quota for it", 60)
    assert is_admitted(cluster, "first")
    assert all(pod["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "node1"} for pod in of(cluster, "first")), "the flavor's"
    create(cluster, "team", left_to_kueue("second", tmp_path))
    eventually(lambda: "queue team of Kueue" in message(cluster, "second"), "it says what it waits for", 60)
    eventually(lambda: (workload(cluster, "second") or {}).get("status", {}).get("conditions"), "Kueue has looked at it", 60)
    assert not of(cluster, "second") and not is_admitted(cluster, "second")
    (tmp_path / "go").touch()
    for name in ("first", "second"):
        eventually(lambda: phase(cluster, "team", name) == "Succeeded", f"{name} ends well", 120)
        eventually(lambda: workload(cluster, name) is None, f"{name} needs its place no more", 60)


def test_kueue_evicts_a_job_for_a_more_important_one_and_lets_it_run_again(cluster, kueue, tmp_path):
    low, high = tmp_path / "low", tmp_path / "high"
    low.mkdir(), high.mkdir()
    create(cluster, "team", left_to_kueue("low", low, priority=1))
    eventually(lambda: phase(cluster, "team", "low") == "Running", "it runs", 60)
    before = workload(cluster, "low")["metadata"]["uid"]
    create(cluster, "team", left_to_kueue("high", high, priority=10))
    eventually(lambda: phase(cluster, "team", "high") == "Running", "it takes the place", 120)
    assert not of(cluster, "low")
    eventually(lambda: (there := workload(cluster, "low")) and there["metadata"]["uid"] != before, "the other one asks anew", 60)
    (high / "go").touch()
    eventually(lambda: phase(cluster, "team", "low") == "Running", "it runs again", 120)
    (low / "go").touch()
    eventually(lambda: phase(cluster, "team", "low") == "Succeeded", "and ends well", 60)
    assert read(cluster, "team", "low")["status"].get("restarts", 0) == 0, "an eviction is no failure"


def test_a_job_is_stopped_for_as_long_as_its_workload_is_inactive(cluster, kueue, tmp_path):
    create(cluster, "team", left_to_kueue("held", tmp_path))
    eventually(lambda: phase(cluster, "team", "held") == "Running", "it runs", 60)
    path = f"{KUEUE}/namespaces/team/workloads/held"
    assert cluster.call("PATCH", path, {"spec": {"active": False}}, MERGE)[0] == 200
    eventually(lambda: not of(cluster, "held"), "its pods go", 60)
    assert cluster.call("PATCH", path, {"spec": {"active": True}}, MERGE)[0] == 200
    eventually(lambda: phase(cluster, "team", "held") == "Running", "it runs again", 120)
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, "team", "held") == "Succeeded", "it ends well", 60)


def test_kueue_suspends_and_resumes_a_pytorchjob_of_ours(cluster, kueue, tmp_path):
    container = {"name": "pytorch", "image": "any", "command": ["sh", "-c", wait_for_end(tmp_path)], "resources": {"requests": ONE_CPU}}
    worker = {"replicas": 1, "template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}
    for name in ("one", "two", "three"):
        job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob",
               "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "team"}},
               "spec": {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": {"Worker": worker}}}
        assert cluster.call("POST", PYTORCHJOBS.format("team"), job)[0] == 201

    def suspended():
        items = cluster.call("GET", PYTORCHJOBS.format("team"))[1]["items"]
        return {item["metadata"]["name"] for item in items if item["spec"]["runPolicy"].get("suspend")}

    def has_ended(name):
        job = cluster.call("GET", f"{PYTORCHJOBS.format('team')}/{name}")[1]
        return any(each["type"] == "Succeeded" and each["status"] == "True" for each in job.get("status", {}).get("conditions", []))

    eventually(lambda: len(suspended()) == 1, "two have a place", 120)
    [waits] = suspended()
    runs = {"one", "two", "three"} - {waits}
    eventually(lambda: all(of(cluster, name) for name in runs) and not of(cluster, waits), "and only they have pods", 60)
    (tmp_path / "go").touch()
    for name in ("one", "two", "three"):
        eventually(lambda: has_ended(name), f"{name} ends well", 120)


def test_volcano_binds_a_gang_whole_or_not(cluster, volcano, tmp_path):
    def gang(name, cpu, replicas):
        return training(name, wait_for_end(tmp_path), scheduler="volcano", replicas=replicas, resources={"cpu": cpu})

    create(cluster, "team", gang("whole", "1", 2))
    eventually(lambda: phase(cluster, "team", "whole") == "Running", "there is room for it", 120)
    create(cluster, "team", gang("wide", "1", 3))
    path = "/apis/scheduling.volcano.sh/v1beta1/namespaces/team/podgroups/{}"

    def conditions():
        return [each["type"] for each in cluster.call("GET", path.format("wide"))[1].get("status", {}).get("conditions", [])]

    eventually(lambda: "Unschedulable" in conditions(), "Volcano has looked at it", 120)
    assert all("nodeName" not in pod["spec"] for pod in of(cluster, "wide")), "a part of it was bound"
    (tmp_path / "go").touch()
    for name in ("whole", "wide"):
        eventually(lambda: phase(cluster, "team", name) == "Succeeded", f"{name} ends well", 120)
        eventually(lambda: cluster.call("GET", path.format(name))[0] == 404, "its group goes with it", 60)
