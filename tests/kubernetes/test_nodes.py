"""TrainingJobs and PyTorchJobs on a cluster of real parts: two kubelets with containerd, and the operator that
`trainyard install` puts there, in pods of its own. Nothing is stood in for; only the images are made here, and there is no registry.

The image of users has a shell and nothing of ours: the program comes by the init container.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import ROOT, TRAINYARD, eventually

TOOL = ROOT / "tests" / "tools" / "cluster"
SYSTEM, OURS, USERS = "trainyard-system", "docker.io/local/trainyard:test", "docker.io/local/user:test"


def libraries(root):
    """What a program that is not linked statically needs beside it."""
    for path in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", TRAINYARD], capture_output=True, text=True).stdout):
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def images(cluster, folder):
    ours, users = folder / "ours", folder / "users"
    ours.mkdir()
    shutil.copy(TRAINYARD, ours / "trainyard")
    libraries(ours)
    for name in ("bin", "tmp", "proc", "sys", "dev", "etc"):
        (users / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox (busybox-static) is needed for an image"
    shutil.copy(busybox, users / "bin" / "busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (users / "bin" / applet).symlink_to("busybox")
    (users / "tmp").chmod(0o1777)
    libraries(users)
    cluster.tool("image", OURS, ours)
    cluster.tool("image", USERS, users)


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINYARD_", "KUBE"))}
        self.env |= {"KUBECONFIG": str(self.kubeconfig), "TRAINYARD_HOME": str(folder / "home"), "NO_COLOR": "1"}

    def tool(self, verb, *args, **more):
        return subprocess.run([TOOL, verb, "--dir", self.folder, *args], check=True, **more)

    def trainyard(self, *args, code=0, input=None, timeout=120):
        argv = [TRAINYARD, *map(str, args), "--context", "real"]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, input=input, timeout=timeout)
        assert done.returncode == code, f"trainyard {args} -> {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done

    def kubectl(self, *args, input=None):
        argv = [os.environ["KUBECTL"], *map(str, args)]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, input=input, timeout=120)
        assert done.returncode == 0, f"kubectl {args} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def pods(self, job):
        items = self.get("pods", "-l", f"training.kubeflow.org/job-name={job}")["items"]
        return {pod["metadata"]["name"]: pod for pod in items if "deletionTimestamp" not in pod["metadata"]}

    def status(self, job, kind="trainingjob"):
        return self.get(kind, job).get("status", {})

    def runs(self, job):
        def together():
            status = self.status(job)
            return status.get("phase") == "Running" and status.get("generation") and self.pods(job)

        return eventually(together, f"{job} runs, and its launchers have met", 120)

    def ranks(self, pod):
        """The pids of a pod's ranks, by what they wrote down."""
        return self.kubectl("exec", pod, "--", "sh", "-c", "cat /tmp/rank").split()

    def let_go(self, job):
        for pod in self.pods(job):
            self.kubectl("exec", pod, "--", "touch", "/tmp/go")

    def ends(self, job, phase="Succeeded"):
        eventually(lambda: self.status(job).get("phase") == phase, f"{job} has {phase.lower()}", 120)

    def operators(self):
        items = self.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trainyard-operator")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def leader(self):
        holder = self.get("lease", "-n", SYSTEM, "trainyard-operator")["spec"].get("holderIdentity") or ""
        return holder.split("_")[0]


@pytest.fixture(scope="module")
def cluster():
    # The path of a socket is short.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ty-"))
    one = Cluster(folder)
    try:
        one.tool("up", "--nodes", "2", stdout=subprocess.DEVNULL)
        work = folder / "images"
        work.mkdir()
        images(one, work)
        shutil.rmtree(work)
        one.trainyard("install", "--apply", "--kubeflow", "--image", OURS)
        yield one
        if logs := os.environ.get("TRAINYARD_KEEP_LOGS"):
            one.kubectl("logs", "-n", SYSTEM, "deploy/trainyard-operator", "--all-pods", "--tail", "-1")
            shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)
    finally:
        one.tool("down")
        shutil.rmtree(folder, ignore_errors=True)


# A rank that says where it is, and ends when it is told to. Kubernetes makes one dollar of two.
WAITS = "echo $$$$ > /tmp/rank; echo rank $RANK up; while [ ! -e /tmp/go ]; do sleep 0.2; done; echo rank $RANK done"
# One pod on each node.
APART = [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
          "labelSelector": {"matchExpressions": [{"key": "training.kubeflow.org/job-name", "operator": "Exists"}]}}]


def training(name, script, **spec):
    pod = {"spec": {"terminationGracePeriodSeconds": 2, "topologySpreadConstraints": APART, "containers": [{"name": "trainer"}]}}
    return {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
            "spec": {"replicas": 2, "image": USERS, "command": ["sh", "-c", script], "restartPolicy": "OnFailure",
                     "template": pod, **spec}}


def create(cluster, job):
    cluster.kubectl("create", "-f", "-", input=json.dumps(job))


def uids(pods):
    return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


def test_the_operator_runs_on_both_nodes(cluster):
    ready = lambda: cluster.get("deploy", "-n", SYSTEM, "trainyard-operator")["status"].get("readyReplicas") == 2
    eventually(ready, "both operators are ready", 120)
    assert {pod["spec"]["nodeName"] for pod in cluster.operators()} == {"node1", "node2"}
    assert cluster.leader() in {pod["metadata"]["name"] for pod in cluster.operators()}


def test_a_job_runs_on_two_nodes_and_is_followed(cluster):
    text = json.dumps(training("good", "echo hello from $RANK of $WORLD_SIZE on $TRAINYARD_POD_IP; test -n \"$MASTER_ADDR\""))
    done = cluster.trainyard("run", "-", input=text)
    assert {(rank, size) for rank, size in re.findall(r"hello from (\d) of (\d)", done.stdout)} == {("0", "2"), ("1", "2")}
    pods = cluster.pods("good")
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {"node1", "node2"}
    for pod in pods.values():
        assert pod["spec"]["initContainers"][0]["image"] == OURS and pod["spec"]["containers"][0]["image"] == USERS
    bad = json.dumps(training("bad", "exit 7", backoffLimit=0))
    assert "exit code 7" in cluster.trainyard("run", "-", input=bad, code=7).stderr
    cluster.trainyard("delete", "good", "bad")


def test_a_killed_rank_starts_again_in_its_pod(cluster):
    create(cluster, training("rank", WAITS))
    before = cluster.runs("rank")
    first = cluster.status("rank")["generation"]
    pid = eventually(lambda: cluster.ranks("rank-worker-1")[0], "it wrote its pid down")
    cluster.kubectl("exec", "rank-worker-1", "--", "kill", "-9", pid)
    eventually(lambda: cluster.status("rank").get("generation", 0) > first and cluster.status("rank")["phase"] == "Running",
               "the next generation runs", 60)
    after = cluster.pods("rank")
    assert uids(after) == uids(before), "the pods are the same"
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for pod in after.values())
    status = cluster.status("rank")
    assert (status["restarts"], status["lastFailure"]["rank"], status["lastFailure"]["code"]) == (1, 1, 137), status
    cluster.let_go("rank")
    cluster.ends("rank")
    cluster.trainyard("delete", "rank")


def test_a_killed_pod_is_replaced_and_the_other_stays(cluster):
    create(cluster, training("pod", WAITS))
    before = cluster.runs("pod")
    cluster.kubectl("delete", "pod", "pod-worker-1", "--grace-period=0", "--force")
    replaced = lambda: (pods := cluster.pods("pod")) and "pod-worker-1" in pods and \
        uids(pods)["pod-worker-1"] != uids(before)["pod-worker-1"] and cluster.status("pod")["phase"] == "Running"
    eventually(replaced, "a new pod takes its place", 120)
    assert uids(cluster.pods("pod"))["pod-worker-0"] == uids(before)["pod-worker-0"], "the survivor's pod is the same"
    cluster.let_go("pod")
    cluster.ends("pod")
    cluster.trainyard("delete", "pod")


def test_a_drained_node_gives_its_pod_to_the_other(cluster):
    job = training("drain", WAITS)
    job["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"] = "ScheduleAnyway"
    create(cluster, job)
    before = cluster.runs("drain")
    moves, stays = sorted(before, key=lambda name: before[name]["spec"]["nodeName"] == "node1")
    cluster.kubectl("drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    "--pod-selector", "training.kubeflow.org/job-name=drain")
    there = lambda: {name: pod["spec"].get("nodeName") for name, pod in cluster.pods("drain").items()}
    eventually(lambda: set(there().values()) == {"node1"} and len(there()) == 2 and cluster.status("drain")["phase"] == "Running",
               "both run on the other node", 120)
    assert uids(cluster.pods("drain"))[stays] == uids(before)[stays]
    cluster.kubectl("uncordon", "node2")
    cluster.let_go("drain")
    cluster.ends("drain")
    cluster.trainyard("delete", "drain")


def test_a_killed_operator_is_followed_and_training_goes_on(cluster):
    create(cluster, training("calm", WAITS))
    before, status = cluster.runs("calm"), cluster.status("calm")
    pids = {pod: eventually(lambda: cluster.ranks(pod), "it wrote its pid down") for pod in before}
    old = cluster.leader()
    cluster.kubectl("delete", "pod", "-n", SYSTEM, old, "--grace-period=0", "--force")
    eventually(lambda: cluster.leader() not in ("", old), "another one leads", 60)
    # A rank that fails now is started again by the new leader, to which the launchers have come back.
    assert {pod: cluster.ranks(pod) for pod in before} == pids, "no rank was touched"
    cluster.kubectl("exec", "calm-worker-0", "--", "kill", "-9", pids["calm-worker-0"][0])
    eventually(lambda: cluster.status("calm").get("generation", 0) > status["generation"]
               and cluster.status("calm")["phase"] == "Running", "the next generation runs", 90)
    assert uids(cluster.pods("calm")) == uids(before)
    cluster.let_go("calm")
    cluster.ends("calm")
    assert cluster.status("calm")["restarts"] == 1
    cluster.trainyard("delete", "calm")


def test_a_job_is_suspended_resumed_and_deleted(cluster):
    create(cluster, training("nap", WAITS))
    cluster.runs("nap")
    cluster.trainyard("suspend", "nap")
    eventually(lambda: cluster.status("nap")["phase"] == "Suspended" and not cluster.pods("nap"), "its pods go", 60)
    cluster.trainyard("resume", "nap")
    cluster.runs("nap")
    cluster.trainyard("delete", "nap")
    eventually(lambda: not cluster.get("pods", "-l", "training.kubeflow.org/job-name=nap")["items"], "nothing is left", 120)


def test_a_pytorchjob_with_torchrun_gets_our_launcher(cluster):
    role = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [
        {"name": "pytorch", "image": USERS,
         "command": ["torchrun", "--no-python", "sh", "-c", "echo rank $RANK of $WORLD_SIZE at $MASTER_ADDR"]}]}}}
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "torch"},
           "spec": {"nprocPerNode": "2", "pytorchReplicaSpecs": {"Master": role, "Worker": role}}}
    done = cluster.trainyard("run", "-", input=json.dumps(job))
    assert {int(rank) for rank in re.findall(r"rank (\d) of 4", done.stdout)} == {0, 1, 2, 3}, done.stdout
    cluster.trainyard("delete", "pytorchjob", "torch")
