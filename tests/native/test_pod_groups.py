"""Gangs where Kubernetes has PodGroups of its own (1.37, behind the gate GenericWorkload): real etcd, kube-apiserver, kube-scheduler
and kube-controller-manager of that version. What is stood in for: the kubelet (clients/real_cluster.py)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "clients"))

from conftest import TRAINYARD, eventually, free_port
from real_cluster import Cluster
from test_operator import Operator, create, leader, phase, pods, read, training, wait_for_end

GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/team/podgroups"
GATE = ("--feature-gates", "GenericWorkload=true")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    bin = os.environ.get("KUBERNETES_BIN")
    assert bin, "KUBERNETES_BIN: the folder that `KUBERNETES_VERSION=1.37.2 tests/tools/kubernetes kube-apiserver etcd …` prints"
    more = {"kube-apiserver": [*GATE, "--runtime-config", "scheduling.k8s.io/v1beta1=true"], "kube-scheduler": GATE,
            # A group that is deleted stays until that has seen that no pod names it any more.
            "kube-controller-manager": [*GATE, "--controllers", "podgroup-protection-controller"]}
    one = Cluster(tmp_path_factory.mktemp("native"), bin, more)
    try:
        argv = [TRAINYARD, "install", "-o", "json"]
        printed = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)["items"]
        one.start([item for item in printed if item["kind"] == "CustomResourceDefinition"])
        one.run("install", "--apply", "--image", "missing")
        assert one.call("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})[0] == 201
        eventually(lambda: one.call("GET", "/api/v1/namespaces/team/serviceaccounts/default")[0] == 200, "its account is made")
        yield one
    finally:
        one.stop()


@pytest.fixture
def operator(cluster):
    one = Operator(cluster, "native", free_port())
    leader(one)
    yield one
    one.end()


def groups(cluster):
    return cluster.call("GET", GROUPS)[1]["items"]


def conditions(group):
    return {each["type"]: each["status"] for each in group.get("status", {}).get("conditions", [])}


def test_a_gang_is_a_pod_group_that_the_clusters_scheduler_binds_whole(cluster, operator, tmp_path):
    create(cluster, "team", training("whole", wait_for_end(tmp_path), replicas=3))
    eventually(lambda: phase(cluster, "team", "whole") == "Running", "it runs", 60)
    [group] = groups(cluster)
    assert group["spec"]["schedulingPolicy"]["gang"]["minCount"] == 3
    names = {pod["spec"]["schedulingGroup"]["podGroupName"] for pod in pods(cluster, "team")}
    assert names == {group["metadata"]["name"]}
    eventually(lambda: conditions(groups(cluster)[0]).get("PodGroupInitiallyScheduled") == "True", "its scheduler took it as one")
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, "team", "whole") == "Succeeded", "it ends well", 60)
    eventually(lambda: groups(cluster) == [], "the group goes with the job's place")


def test_a_gang_that_has_no_room_is_held_whole_and_goes_when_it_is_smaller(cluster, operator, tmp_path):
    template = {"spec": {"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "trainer", "resources": {"requests": {"cpu": "1500m"}}}]}}
    job = training("wide", wait_for_end(tmp_path), replicas=3, template=template)
    create(cluster, "team", job)
    def wide():
        return [pod for pod in pods(cluster, "team") if pod["metadata"]["name"].startswith("wide")]

    eventually(lambda: len(groups(cluster)) == 1 and len(wide()) == 3, "group and pods are there")
    eventually(lambda: "4.5 CPUs" in cluster.run("explain", "wide", "-n", "team").stdout, "it is told why it waits")
    assert all("nodeName" not in pod["spec"] for pod in wide()), "a part of it was bound"
    path = "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingjobs/wide"
    assert cluster.call("PATCH", path, {"spec": {"replicas": 2}}, "application/merge-patch+json")[0] == 200
    eventually(lambda: phase(cluster, "team", "wide") == "Running", "two of it fit", 60)
    [group] = groups(cluster)
    assert group["spec"]["schedulingPolicy"]["gang"]["minCount"] == 2
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, "team", "wide") == "Succeeded", "it ends well", 60)
    assert read(cluster, "team", "wide")["status"].get("restarts", 0) == 0


def test_a_suspended_gang_gives_its_group_back(cluster, operator, tmp_path):
    create(cluster, "team", training("paused", wait_for_end(tmp_path)))
    eventually(lambda: phase(cluster, "team", "paused") == "Running", "it runs", 60)
    [first] = groups(cluster)
    path = "/apis/trainyard.dev/v1alpha1/namespaces/team/trainingjobs/paused"
    for suspended, wanted in ((True, "Suspended"), (False, "Running")):
        patch = {"spec": {"suspend": suspended}}
        assert cluster.call("PATCH", path, patch, "application/merge-patch+json")[0] == 200
        eventually(lambda: phase(cluster, "team", "paused") == wanted, f"it is {wanted}", 60)
        if suspended:
            eventually(lambda: groups(cluster) == [], "the group is gone")
    [second] = groups(cluster)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, "team", "paused") == "Succeeded", "it ends well", 60)
