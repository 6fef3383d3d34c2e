"""The recovery ladder of jobs under a real control plane and real launchers: in the same processes, in new pods, with fewer
and with more."""

import json
import os
import pathlib
import re
import signal
import sys

import pytest

from conftest import ROOT, TRAINYARD, eventually

# Each rank of each generation leaves its process id; all stay until they may go. A rank that is told to be stubborn hears
# no interruption.
RANK = """
import os, pathlib, socket, sys, time
import trainyard

folder = pathlib.Path(sys.argv[1])

def train():
    rank, world, generation = os.environ["RANK"], os.environ["WORLD_SIZE"], trainyard.generation()
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        # The place where all meet, which a launcher holds.
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))).close()
    note = folder / f"{generation}-{rank}-{world}"
    note.with_suffix(".new").write_text(str(os.getpid()))
    note.with_suffix(".new").rename(note)
    stubborn = (folder / f"stubborn-{rank}").exists() and generation == 1
    while stubborn:
        try:
            time.sleep(1000)
        except BaseException:
            pass
    while not (folder / "go").exists():
        time.sleep(0.02)

trainyard.run(train) if "cooperate" in sys.argv else train()
"""

# The same with PyTorch: all leave together, when all have seen that they may.
TORCH = """
import os, pathlib, sys, time
import torch
import torch.distributed as dist
import trainyard

folder = pathlib.Path(sys.argv[1])

def train():
    dist.init_process_group("gloo")
    note = folder / f"{trainyard.generation()}-{dist.get_rank()}-{dist.get_world_size()}"
    note.with_suffix(".new").write_text(str(os.getpid()))
    note.with_suffix(".new").rename(note)
    while True:
        may_go = torch.tensor([float((folder / "go").exists())])
        dist.all_reduce(may_go)
        if may_go.item() == dist.get_world_size():
            # Without it, the threads of gloo can abort a process that ends.
            dist.destroy_process_group()
            return
        time.sleep(0.01)

trainyard.run(train)
"""


class Ranks:
    """What the ranks of a job say of themselves."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        (folder / "rank.py").write_text(RANK)
        (folder / "torch_rank.py").write_text(TORCH)

    def command(self, *more):
        return [sys.executable, str(self.folder / "rank.py"), str(self.folder), *more]

    def worlds(self):
        """Of each generation, the process of each rank, and how many there are to be."""
        found = {}
        for note in self.folder.iterdir():
            if match := re.fullmatch(r"(\d+)-(\d+)-(\d+)", note.name):
                generation, rank, world = map(int, match.groups())
                found.setdefault((generation, world), {})[rank] = int(note.read_text())
        return found

    def formed(self, size, after=0):
        """The first whole world of this size after this generation: its number, and the processes by rank."""
        def look():
            for (generation, world), ranks in sorted(self.worlds().items()):
                if generation > after and world == size and len(ranks) == size:
                    return generation, ranks
        return eventually(look, f"{size} ranks after generation {after}; there are {self.worlds()}", seconds=90)

    def finish(self):
        (self.folder / "go").touch()


@pytest.fixture
def ranks(tmp_path):
    return Ranks(tmp_path / "ranks")


def training_job(server, name, command, **spec):
    job = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
           "spec": {"command": command, "restartPolicy": "OnFailure", **spec}}
    server.kubectl("apply", "-f", "-", input=json.dumps(job))


def phase(server, kind, name, wanted, seconds=60):
    def look():
        status = server.get(kind, name).get("status", {})
        of_conditions = [c["type"] for c in status.get("conditions", []) if c["status"] == "True"]
        return status if wanted in (status.get("phase"), *of_conditions) else None
    return eventually(look, f"{kind} {name} is {wanted}", seconds)


def node(server):
    return server.get("nodes")["items"][0]["metadata"]["name"]


def launcher_of(pid):
    return int(re.search(r"PPid:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))


def shrunk(server, ranks, name, lost):
    """An elastic job of three pods that lost one of them, and has no room for another: its generation and processes."""
    training_job(server, name, ranks.command(), elastic={"minReplicas": 1, "maxReplicas": 3}, backoffLimit=9,
                 recovery={"returnSeconds": 2})
    first, _ = ranks.formed(3)
    server.kubectl("cordon", node(server))
    server.kubectl("delete", "pod", f"{name}-worker-{lost}", "--wait=false")
    return ranks.formed(2, after=first)


def test_an_elastic_job_goes_on_with_fewer_pods_and_grows_again(own_server, ranks):
    # The pod with the first rank: another one must take its place in all that follows.
    second, _ = shrunk(own_server, ranks, "shrink", 0)
    status = eventually(lambda: (s := phase(own_server, "trainingjob", "shrink", "Running")) and s["ranks"] == 2 and s,
                        "the status has two ranks")
    assert status["missing"] == ["shrink-worker-0"] and status["restarts"] == 1
    assert status["lastFailure"]["cause"] == "nodeLost" and status["lastFailure"]["pod"] == "shrink-worker-0"
    told = own_server.trainyard("explain", "shrink").stdout
    assert "pods that have not joined: shrink-worker-0" in told and "cordon" in told, told
    own_server.kubectl("uncordon", node(own_server))
    ranks.formed(3, after=second)
    ranks.finish()
    status = phase(own_server, "trainingjob", "shrink", "Succeeded")
    assert status["restarts"] == 1, "growing is no failure"


def test_an_elastic_job_with_fewer_pods_is_adopted_as_it_is(own_server, ranks):
    second, before = shrunk(own_server, ranks, "few", 2)
    own_server.kill()
    own_server.start()
    told = eventually(lambda: (s := phase(own_server, "trainingjob", "few", "Running")) and s.get("ranks") == 2 and s,
                      "it was adopted")
    assert told["missing"] == ["few-worker-2"] and told["restarts"] == 1, told
    assert all(pathlib.Path(f"/proc/{pid}").exists() for pid in before.values()), "the same processes run"
    own_server.kubectl("uncordon", node(own_server))
    ranks.formed(3, after=second)
    ranks.finish()
    assert phase(own_server, "trainingjob", "few", "Succeeded")["restarts"] == 1


def queues(*quotas):
    """Queues that lend each other CPUs and take back what they lent: (name, nominal quota)."""
    preemption = {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"}
    for name, cpu in quotas:
        groups = [{"coveredResources": ["cpu"], "flavors": [{"name": "default", "resources": [{"name": "cpu", "nominalQuota": cpu}]}]}]
        spec = {"cohortName": "all", "namespaceSelector": {}, "preemption": preemption, "resourceGroups": groups}
        version = "kueue.x-k8s.io/v1beta2"
        yield {"apiVersion": version, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}
        yield {"apiVersion": version, "kind": "LocalQueue", "metadata": {"name": name, "namespace": "default"}, "spec": {"clusterQueue": name}}


def test_an_elastic_job_gives_back_what_it_borrowed_and_grows_again(own_server, ranks, tmp_path):
    """It shrinks to what is left without a restart, which it has none of, and those of its pods that stay are not touched."""
    items = list(queues(("lent", "100m"), ("owns", "200m")))
    own_server.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    training_job(own_server, "borrower", ranks.command(), elastic={"minReplicas": 1, "maxReplicas": 3}, backoffLimit=0,
                 recovery={"returnSeconds": 2}, queue="lent", resources={"cpu": "100m"})
    first, _ = ranks.formed(3)
    pods = lambda: {pod["metadata"]["name"]: pod for pod in own_server.get("pods")["items"] if pod["metadata"]["name"].startswith("borrower")}
    before = pods()
    done = tmp_path / "owner-done"
    wait = f"while [ ! -e {done} ]; do sleep 0.1; done"
    training_job(own_server, "owner", ["bash", "-c", wait], replicas=2, queue="owns", resources={"cpu": "100m"})
    # What has just begun is left alone for a minute.
    second, left = ranks.formed(1, after=first)
    phase(own_server, "trainingjob", "owner", "Running", seconds=120)
    status = eventually(lambda: (s := phase(own_server, "trainingjob", "borrower", "Running")) and s["ranks"] == 1 and s, "it has one rank")
    assert status["restarts"] == 0 and status["missing"] == ["borrower-worker-1", "borrower-worker-2"], status
    after = eventually(lambda: len(now := pods()) == 3 and now, "the other pods wait")
    uid = lambda pods, at: pods[f"borrower-worker-{at}"]["metadata"]["uid"]
    assert [uid(after, at) == uid(before, at) for at in range(3)] == [True, False, False]
    assert not any(after[f"borrower-worker-{at}"]["spec"].get("nodeName") for at in (1, 2)), after
    assert "quota" in own_server.trainyard("explain", "borrower").stdout
    assert pathlib.Path(f"/proc/{left[0]}").exists(), "nobody touched it since"
    done.touch()
    phase(own_server, "trainingjob", "owner", "Succeeded")
    ranks.formed(3, after=second)
    status = eventually(lambda: (s := phase(own_server, "trainingjob", "borrower", "Running")) and s["ranks"] == 3 and s, "it has grown")
    assert status["restarts"] == 0 and uid(pods(), 0) == uid(before, 0), status
    ranks.finish()
    assert phase(own_server, "trainingjob", "borrower", "Succeeded")["restarts"] == 0


def test_an_elastic_pytorchjob_shrinks_while_the_quota_is_too_small(own_server, ranks):
    main = {"name": "pytorch", "image": "none", "command": ["torchrun"], "args": ["--no-python", *ranks.command()]}
    worker = {"replicas": 2, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [main]}}}
    elastic = {"minReplicas": 1, "maxReplicas": 2, "nProcPerNode": 1, "maxRestarts": 9,
               "rdzvConf": [{"key": "last_call_timeout", "value": "2"}]}
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "quota"},
           "spec": {"elasticPolicy": elastic, "pytorchReplicaSpecs": {"Worker": worker}}}
    own_server.kubectl("apply", "-f", "-", input=json.dumps(job))
    first, processes = ranks.formed(2)
    own_server.kubectl("create", "quota", "small", "--hard=pods=1")
    os.kill(launcher_of(processes[1]), signal.SIGKILL)
    second, left = ranks.formed(1, after=first)
    eventually(lambda: not pathlib.Path(f"/proc/{processes[1]}").exists(), "the rank ended with its launcher")
    # A status of this kind has no place for it.
    told = eventually(lambda: "not joined" in (text := own_server.trainyard("explain", "quota").stdout) and text,
                      "explain says who is missing")
    assert "pods that have not joined: quota-worker-1" in told, told
    assert re.search(r"a launcher \(pod quota-worker-1, host \S+\) was lost", told), told
    own_server.kubectl("delete", "quota", "small")
    third, grown = ranks.formed(2, after=second)
    ranks.finish()
    phase(own_server, "pytorchjob", "quota", "Succeeded")


def test_the_others_stay_in_their_processes_when_one_is_killed(own_server, ranks):
    training_job(own_server, "calm", ranks.command("cooperate"), replicas=2, procsPerReplica=2)
    first, before = ranks.formed(4)
    os.kill(before[1], signal.SIGKILL)
    second, after = ranks.formed(4, after=first)
    assert {rank: after[rank] for rank in (0, 2, 3)} == {rank: before[rank] for rank in (0, 2, 3)}
    assert after[1] != before[1]
    ranks.finish()
    assert phase(own_server, "trainingjob", "calm", "Succeeded")["restarts"] == 1


def test_a_process_that_hears_no_interruption_is_replaced(own_server, ranks):
    (ranks.folder / "stubborn-0").touch()
    training_job(own_server, "deaf", ranks.command("cooperate"), procsPerReplica=3)
    first, before = ranks.formed(3)
    os.kill(before[1], signal.SIGKILL)
    second, after = ranks.formed(3, after=first)
    assert after[2] == before[2] and after[0] != before[0] and after[1] != before[1]
    eventually(lambda: not pathlib.Path(f"/proc/{before[0]}").exists(), "the stubborn process is gone")
    ranks.finish()
    # What would not join was no failure of its own.
    assert phase(own_server, "trainingjob", "deaf", "Succeeded")["restarts"] == 1


@pytest.mark.skipif("TORCH_BIN" not in os.environ, reason="TORCH_BIN names no interpreter with torch")
def test_pytorch_goes_on_in_the_same_processes(own_server, ranks):
    command = [os.environ["TORCH_BIN"] + "/python", str(ranks.folder / "torch_rank.py"), str(ranks.folder)]
    training_job(own_server, "gloo", command, replicas=2, procsPerReplica=2)
    first, before = ranks.formed(4)
    # The one at whose address all meet.
    os.kill(before[0], signal.SIGKILL)
    second, after = ranks.formed(4, after=first)
    assert {rank: after[rank] for rank in (1, 2, 3)} == {rank: before[rank] for rank in (1, 2, 3)}
    ranks.finish()
    assert phase(own_server, "trainingjob", "gloo", "Succeeded")["restarts"] == 1


def test_rust_ranks_stay_in_their_processes_and_lose_nothing(own_server):
    """What comes out is what comes out of a training that nothing befell, to the last digit."""
    command = ["trainyard", "example", "wine-ddp", "--epochs", "10", "--hidden", "32", "--log-every", "1"]
    training_job(own_server, "quiet", command, procsPerReplica=3)
    # Where all meet.
    training_job(own_server, "wine", [*command, "--fail-at-step", "200", "--fail-rank", "0"], procsPerReplica=3)
    logs = {}
    for name, restarts in (("quiet", 0), ("wine", 1)):
        assert phase(own_server, "trainingjob", name, "Succeeded")["restarts"] == restarts
        logs[name] = own_server.trainyard("logs", name).stdout
    starts = re.findall(r"rank (\d) of 3 takes 11 of each 33 wines(, from step \d+ on)? \(process (\d+)\)", logs["wine"])
    first = {rank: process for rank, steps, process in starts if not steps}
    second = {rank: process for rank, steps, process in starts if steps}
    assert len(starts) == 6 and sorted(second) == ["0", "1", "2"], starts
    assert second["0"] != first["0"] and (second["1"], second["2"]) == (first["1"], first["2"])
    ends = [re.findall(r"step=330/330 loss=\S+|test_accuracy=\S+", log) for log in logs.values()]
    assert ends[0] == ends[1] and len(ends[0]) == 2
