"""Clusters of real parts for tests: two kubelets with containerd, and the operator that `trainyard install` puts there, in pods of its
own. Nothing is stood in for; only the images are made here, and there is no registry.

The image of users has a shell and nothing of ours: the program comes by the init container. The operator has the rights that were
printed for it and no others: its account is a service account, and RBAC is on.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import pytest

import conftest
from conftest import ROOT, TRAINYARD

TOOL = ROOT / "tests" / "tools" / "cluster"
SYSTEM, OURS, USERS = "trainyard-system", "docker.io/local/trainyard:test", "docker.io/local/user:test"

# A cluster is taken down by whoever brought it up, also when that is asked to end.
signal.signal(signal.SIGTERM, lambda *_: pytest.exit("asked to end", returncode=1))


def eventually(probe, what, seconds=30):
    """To ask costs a process or more, and the clusters want the processors."""
    return conftest.eventually(probe, what, seconds, pause=0.3)


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
        self.last_words = []
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

    def operators(self):
        items = self.get("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trainyard-operator")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def log(self, operator):
        return self.kubectl("logs", "-n", SYSTEM, operator, "--tail=-1")

    def kill(self, operator):
        """Its log goes with it, so it is kept."""
        self.last_words.append(self.log(operator))
        self.kubectl("delete", "pod", "-n", SYSTEM, operator, "--grace-period=0", "--force")

    def refused(self):
        """What the operators asked for and were not given, after all that was done; also those that were killed."""
        logs = "".join([*self.last_words, *(self.log(pod["metadata"]["name"]) for pod in self.operators())])
        assert "leads from now on" in logs
        return [line for line in logs.splitlines() if "was not sent" in line or "forbidden" in line.lower()]

    def leader(self):
        holder = self.get("lease", "-n", SYSTEM, "trainyard-operator")["spec"].get("holderIdentity") or ""
        return holder.split("_")[0]


@pytest.fixture(scope="module")
def cluster(request):
    """A module says by INSTALL what else `trainyard install` is to be told."""
    # The path of a socket is short.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ty-"))
    one = Cluster(folder)
    try:
        one.tool("up", "--nodes", "2", stdout=subprocess.DEVNULL)
        work = folder / "images"
        work.mkdir()
        images(one, work)
        shutil.rmtree(work)
        one.trainyard("install", "--apply", "--kubeflow", *getattr(request.module, "INSTALL", ()), "--image", OURS)
        yield one
        if logs := os.environ.get("TRAINYARD_KEEP_LOGS"):
            one.kubectl("logs", "-n", SYSTEM, "deploy/trainyard-operator", "--all-pods", "--tail", "-1")
            shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)
    finally:
        one.tool("down")
        shutil.rmtree(folder, ignore_errors=True)


# A rank that says where it is, and ends when it is told to. Kubernetes makes one dollar of two.
WAITS = "echo $$$$ > /tmp/rank; echo rank $RANK up; while [ ! -e /tmp/go ]; do sleep 0.2; done; echo rank $RANK done"
# One pod on each node; where there is only one node, both on that.
APART = [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
          "labelSelector": {"matchExpressions": [{"key": "training.kubeflow.org/job-name", "operator": "Exists"}]}}]


def uids(pods):
    return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


def on(pods):
    return {name: pod["spec"].get("nodeName") for name, pod in pods.items()}


class Job:
    """A job of two pods, of either kind; its launchers meet at the operator."""

    def __init__(self, cluster, kind, name):
        self.cluster, self.kind, self.name = cluster, kind, name

    def manifest(self, script=WAITS, command=None, container=None, **pod):
        spec = {"terminationGracePeriodSeconds": 2, "topologySpreadConstraints": APART, **pod}
        container = container or {}
        if self.kind == "TrainingJob":
            spec["containers"] = [{"name": "trainer", **container}]
            return {"apiVersion": "trainyard.dev/v1alpha1", "kind": self.kind, "metadata": {"name": self.name},
                    "spec": {"replicas": 2, "image": USERS, "command": command or ["sh", "-c", script],
                             "restartPolicy": "OnFailure", "template": {"spec": spec}}}
        # torchrun makes one dollar of two, too.
        command = command or ["torchrun", "--no-python", "sh", "-c", script.replace("$$", "$$$$")]
        spec["containers"] = [{"name": "pytorch", "image": USERS, "command": command, **container}]
        role = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": spec}}
        return {"apiVersion": "kubeflow.org/v1", "kind": self.kind, "metadata": {"name": self.name},
                "spec": {"nprocPerNode": "1", "pytorchReplicaSpecs": {"Master": role, "Worker": role}}}

    def create(self, manifest=None, **more):
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest or self.manifest(**more)))
        return self

    def object(self):
        return self.cluster.get(self.kind.lower(), self.name)

    def pods(self):
        return self.cluster.pods(self.name)

    def phase(self):
        status = self.object().get("status", {})
        if self.kind == "TrainingJob":
            return status.get("phase")
        held = [each["type"] for each in status.get("conditions", []) if each["status"] == "True"]
        order = ("Succeeded", "Failed", "Suspended", "Restarting", "Running", "Created")
        return next((each for each in order if each in held), None)

    def ranks(self):
        """The pid of each pod's rank, by what it wrote down."""
        return {pod: self.cluster.kubectl("exec", pod, "--", "cat", "/tmp/rank").strip() for pod in self.pods()}

    def runs(self, seconds=120):
        """Its pods, when both run a rank."""

        def together():
            pods = self.pods()
            return self.phase() == "Running" and len(pods) == 2 and all(self.ranks().values()) and pods

        return eventually(together, f"{self.name} runs", seconds)

    def is_followed_by(self, before, seconds=120):
        """Its pods and their ranks, when all ranks are others than before."""

        def anew():
            pods, ranks = self.pods(), self.ranks()
            stay = set(uids(pods).items()) & set(uids(before["pods"]).items())
            is_anew = len(pods) == len(ranks) == 2 and all(ranks[pod] != before["ranks"][pod] for pod, _ in stay)
            return is_anew and self.phase() == "Running" and {"pods": pods, "ranks": ranks}

        return eventually(anew, f"the next generation of {self.name} runs", seconds)

    def now(self):
        return {"pods": self.runs(), "ranks": self.ranks()}

    def restarts(self):
        ledger = json.loads(self.object()["metadata"].get("annotations", {}).get("trainyard.dev/restarts", "{}"))
        return ledger.get("restarts", 0) + ledger.get("inPlace", 0)

    def ends(self):
        for pod in self.pods():
            self.cluster.kubectl("exec", pod, "--", "touch", "/tmp/go")
        eventually(lambda: self.phase() == "Succeeded", f"{self.name} has succeeded", 120)
        self.delete()

    def delete(self):
        self.cluster.trainyard("delete", self.kind.lower(), self.name)
