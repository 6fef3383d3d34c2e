"""TrainingJobs and PyTorchJobs on a cluster of real parts (see nodes.py): what is done to their ranks, their pods, their nodes and the
operator, and what they make of it."""

import itertools
import json
import re

import pytest

from nodes import OURS, SYSTEM, USERS, Job, cluster, eventually, on, uids  # noqa: F401  (the cluster is a fixture)


NUMBERS = itertools.count()


@pytest.fixture(params=["TrainingJob", "PyTorchJob"])
def job(cluster, request):
    return Job(cluster, request.param, f"job-{next(NUMBERS)}")


def replaced(job, before):
    """The names of the pods that are others than before, when the next generation runs."""
    after = job.is_followed_by(before)
    return {name for name, uid in uids(after["pods"]).items() if uid != uids(before["pods"])[name]}


def test_the_operator_runs_on_both_nodes(cluster):
    ready = lambda: cluster.get("deploy", "-n", SYSTEM, "trainyard-operator")["status"].get("readyReplicas") == 2
    eventually(ready, "both operators are ready", 120)
    assert {pod["spec"]["nodeName"] for pod in cluster.operators()} == {"node1", "node2"}
    assert cluster.leader() in {pod["metadata"]["name"] for pod in cluster.operators()}


def test_a_job_runs_on_two_nodes_and_is_followed(cluster):
    good = Job(cluster, "TrainingJob", "good")
    text = json.dumps(good.manifest("echo hello from $RANK of $WORLD_SIZE on $TRAINYARD_POD_IP; test -n \"$MASTER_ADDR\""))
    done = cluster.trainyard("run", "-", input=text)
    assert {(rank, size) for rank, size in re.findall(r"hello from (\d) of (\d)", done.stdout)} == {("0", "2"), ("1", "2")}
    pods = good.pods()
    assert set(on(pods).values()) == {"node1", "node2"}
    for pod in pods.values():
        assert pod["spec"]["initContainers"][0]["image"] == OURS and pod["spec"]["containers"][0]["image"] == USERS
    bad = Job(cluster, "TrainingJob", "bad").manifest("exit 7")
    bad["spec"]["backoffLimit"] = 0
    assert "exit code 7" in cluster.trainyard("run", "-", input=json.dumps(bad), code=7).stderr
    cluster.trainyard("delete", "good", "bad")


def test_a_pytorchjob_with_torchrun_gets_our_launcher(cluster):
    torch = Job(cluster, "PyTorchJob", "torch").manifest("echo rank $RANK of $WORLD_SIZE at $MASTER_ADDR")
    torch["spec"]["nprocPerNode"] = "2"
    done = cluster.trainyard("run", "-", input=json.dumps(torch))
    assert {int(rank) for rank in re.findall(r"rank (\d) of 4", done.stdout)} == {0, 1, 2, 3}, done.stdout
    cluster.trainyard("delete", "pytorchjob", "torch")


def test_a_killed_rank_starts_again_in_its_pod(cluster, job):
    before = job.create().now()
    pod = max(before["pods"])
    cluster.kubectl("exec", pod, "--", "kill", "-9", before["ranks"][pod])
    assert replaced(job, before) == set()
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for pod in job.pods().values())
    assert job.restarts() == 1
    if job.kind == "TrainingJob":
        failure = job.object()["status"]["lastFailure"]
        assert (failure["rank"], failure["code"]) == (1, 137), failure
    job.ends()


def test_a_killed_pod_is_replaced_and_the_other_stays(cluster, job):
    before = job.create().now()
    pod = max(before["pods"])
    cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    assert replaced(job, before) == {pod}
    job.ends()


def test_a_pod_that_is_asked_to_go_is_replaced_and_the_other_stays(cluster, job):
    before = job.create().now()
    pod = min(before["pods"])  # the first rank's
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}
    cluster.kubectl("create", "--raw", f"/api/v1/namespaces/default/pods/{pod}/eviction", "-f", "-", input=json.dumps(eviction))
    assert replaced(job, before) == {pod}
    job.ends()


def test_a_pod_that_its_kubelet_evicts_is_replaced_and_the_other_stays(cluster, job):
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    job.create(container=mount, volumes=[{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}])
    before = job.now()
    pod = max(before["pods"])
    cluster.kubectl("exec", pod, "--", "dd", "if=/dev/zero", "of=/scratch/full", "bs=1M", "count=4")
    assert replaced(job, before) == {pod}
    events = cluster.get("events", "--field-selector", f"involvedObject.name={pod},reason=Evicted")["items"]
    assert events, "the kubelet evicted it"
    job.ends()


def test_a_drained_node_gives_its_pod_to_the_other(cluster, job):
    before = job.create().now()
    away = next(name for name, node in on(before["pods"]).items() if node == "node2")
    cluster.kubectl("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    "--pod-selector", f"training.kubeflow.org/job-name={job.name}")
    assert replaced(job, before) == {away}
    assert set(on(job.pods()).values()) == {"node1"}
    cluster.kubectl("uncordon", "node2")
    job.ends()


def test_a_killed_operator_is_followed_and_training_goes_on(cluster, job):
    before = job.create().now()
    old = cluster.leader()
    cluster.kill(old)
    eventually(lambda: cluster.leader() not in ("", old), "another one leads", 60)
    assert job.ranks() == before["ranks"], "no rank was touched"
    # A rank that fails now is started again by the new leader, to which the launchers have come back.
    pod = min(before["pods"])
    cluster.kubectl("exec", pod, "--", "kill", "-9", before["ranks"][pod])
    assert replaced(job, before) == set()
    assert job.restarts() == 1
    job.ends()


def test_a_job_is_suspended_resumed_and_deleted(cluster, job):
    job.create().runs()
    cluster.trainyard("suspend", job.kind.lower(), job.name)
    eventually(lambda: job.phase() == "Suspended" and not job.pods(), "its pods go", 60)
    cluster.trainyard("resume", job.kind.lower(), job.name)
    job.runs()
    assert job.restarts() == 0
    job.delete()
    selector = f"training.kubeflow.org/job-name={job.name}"
    gone = lambda: not any(cluster.get(kind, "-l", selector)["items"] for kind in ("pods", "services"))
    eventually(gone, "nothing is left", 120)


def test_nothing_was_asked_for_that_the_operators_account_may_not_do(cluster):
    """After all of the above: neither its own list nor the cluster's roles refused a request."""
    refused = cluster.refused()
    assert not refused, refused[:3]
