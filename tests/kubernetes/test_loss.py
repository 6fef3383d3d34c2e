"""Nodes that are lost at once, with all that runs on them, and nodes that only nobody reaches any more. A cluster of its own (see
nodes.py): what is lost here is the half of it."""

import itertools
import subprocess

import pytest

from nodes import SYSTEM, Job, cluster, eventually, on, uids  # noqa: F401  (the cluster is a fixture)

NUMBERS = itertools.count()
# Kubernetes gives up the pods of a silent node after 300 s, unless they say otherwise.
IMPATIENT = [{"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
             for state in ("unreachable", "not-ready")]


def is_ready(cluster, node):
    conditions = cluster.get("node", node)["status"]["conditions"]
    return next(each["status"] for each in conditions if each["type"] == "Ready") == "True"


def running(cluster, node, pod):
    """What still runs of a pod on a node, asked of its containerd."""
    ctr = ["ctr", "--address", cluster.folder / node / "containerd.sock", "--namespace", "k8s.io"]
    ask = lambda *args: subprocess.run([*ctr, *args], check=True, capture_output=True, text=True).stdout.splitlines()
    own = set(ask("containers", "ls", "--quiet", f'labels."io.kubernetes.pod.uid"=={pod}'))
    return [line for line in ask("tasks", "ls") if line.split()[0] in own and "RUNNING" in line]


@pytest.fixture
def jobs(cluster):
    """One of each kind, with a pod on each node."""
    jobs = [Job(cluster, kind, f"job-{next(NUMBERS)}").create() for kind in ("TrainingJob", "PyTorchJob")]
    before = {job: job.now() for job in jobs}
    for job in jobs:
        assert set(on(before[job]["pods"]).values()) == {"node1", "node2"}
    return before


def only_what_was_there_is_replaced(jobs, node):
    for job, before in jobs.items():
        after = job.is_followed_by(before, 180)
        was = on(before["pods"])
        assert node not in on(after["pods"]).values()
        new = {name for name, uid in uids(after["pods"]).items() if uid != uids(before["pods"])[name]}
        assert new == {name for name in was if was[name] == node}, "the survivors' pods are the same"
        # A leader that has just begun does not know that the generation which it finds has lost a member.
        assert job.restarts() <= 1


def leaders_node(cluster):
    leader = eventually(cluster.leader, "one leads", 60)
    return cluster.get("pod", "-n", SYSTEM, leader)["spec"]["nodeName"]


def both_operators_are_ready(cluster):
    ready = lambda: cluster.get("deploy", "-n", SYSTEM, "trainyard-operator")["status"].get("readyReplicas") == 2
    eventually(ready, "both operators are ready", 180)


def test_a_node_that_is_lost_with_the_leader(cluster, jobs):
    both_operators_are_ready(cluster)
    node = leaders_node(cluster)
    cluster.tool("loss", node.removeprefix("node"))
    only_what_was_there_is_replaced(jobs, node)
    cluster.tool("back", node.removeprefix("node"))
    eventually(lambda: is_ready(cluster, node), "the node is back", 60)
    for job in jobs:
        job.ends()


def test_a_node_that_is_lost_without_the_leader(cluster, jobs):
    both_operators_are_ready(cluster)
    node = {"node1": "node2", "node2": "node1"}[leaders_node(cluster)]
    # A job without launchers is given up when Kubernetes gives it up, and does not wait for a node that cannot say that its pods are
    # gone. Without a master, for whose name workers wait in an image that is not here.
    plain = Job(cluster, "PyTorchJob", "plain")
    manifest = plain.manifest(command=["sh", "-c", "while :; do sleep 1; done"], tolerations=IMPATIENT)
    roles = manifest["spec"]["pytorchReplicaSpecs"]
    manifest["spec"]["pytorchReplicaSpecs"] = {"Worker": {**roles["Worker"], "replicas": 2}}
    plain.create(manifest)
    eventually(lambda: plain.phase() == "Running" and set(on(plain.pods()).values()) == {"node1", "node2"}, "it runs on both", 120)
    was = plain.pods()
    cluster.tool("loss", node.removeprefix("node"))
    only_what_was_there_is_replaced(jobs, node)
    stays = {name: uid for name, uid in uids(was).items() if on(was)[name] != node}

    def is_whole():
        pods = plain.pods()
        return len(pods) == 2 and node not in on(pods).values() and all(p["status"]["phase"] == "Running" for p in pods.values()) \
            and stays.items() <= uids(pods).items()

    eventually(is_whole, "the plain job has its pod on the other node", 180)
    plain.delete()
    cluster.tool("back", node.removeprefix("node"))
    eventually(lambda: is_ready(cluster, node), "the node is back", 60)
    for job in jobs:
        job.ends()


def test_a_node_that_nobody_reaches_for_a_while(cluster, jobs):
    both_operators_are_ready(cluster)
    node = {"node1": "node2", "node2": "node1"}[leaders_node(cluster)]
    number = node.removeprefix("node")
    cluster.tool("cut", number)
    only_what_was_there_is_replaced(jobs, node)
    after = {job: job.now() for job in jobs}
    # What has gone on there all the time is ended by its kubelet, and disturbs nobody.
    cluster.tool("mend", number)
    eventually(lambda: is_ready(cluster, node), "the node is back", 60)
    for before in jobs.values():
        old = next(uid for name, uid in uids(before["pods"]).items() if on(before["pods"])[name] == node)
        eventually(lambda: not running(cluster, node, old), "what was left there has been ended", 60)
    for job in jobs:
        assert job.ranks() == after[job]["ranks"] and uids(job.pods()) == uids(after[job]["pods"])
        job.ends()
