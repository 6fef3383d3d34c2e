"""Checkpoints as torch and safetensors write them, under running jobs: what is told of them, also when the writer is killed
in the midst of a write, and what a stop waits for.
"""

import json
import os
import pathlib
import signal
import sys

import pytest

from conftest import eventually

TORCH = os.path.join(os.environ["TORCH_BIN"], "python")
WRITER = pathlib.Path(__file__).parent / "writer.py"


class Job:
    """A TrainingJob whose ranks do as they are told."""

    def __init__(self, server, home, name, ranks, **spec):
        self.server, self.home, self.name, self.ranks = server, pathlib.Path(home), name, ranks
        for folder in ("commands", "begun"):
            (self.home / folder).mkdir()
        self.apply({
            "procsPerReplica": ranks,
            "command": [TORCH, str(WRITER), str(self.home)],
            "env": {"PYTHONPATH": os.environ.get("CHECKPOINT_PACKAGES", "")},
            "checkpoint": {"path": str(self.home / "saves"), "everySeconds": 1},
            **spec,
        })

    def apply(self, spec):
        job = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": self.name}, "spec": spec}
        self.server.kubectl("apply", "-f", "-", input=json.dumps(job))

    def begun(self, times):
        eventually(lambda: len(list((self.home / "begun").iterdir())) == times * self.ranks, "all ranks begin", 180)

    def order(self, how, step=0):
        draft = self.home / "order"
        draft.write_text(f"{how} {step}")
        draft.rename(self.home / "commands" / f"{len(list((self.home / 'commands').iterdir())):03}")

    @property
    def status(self):
        return self.server.get("trainingjob", self.name).get("status", {})

    def saved(self, step, seconds=60):
        """The newest checkpoint is that of this step; its path."""
        def path():
            found = self.status.get("checkpoint", {})
            assert found.get("step") == step, found
            return found["path"]
        return eventually(path, f"the checkpoint of step {step} is in the status", seconds)

    def stuck(self):
        """The rank that is in the midst of a write."""
        file = self.home / "stuck"
        return int(eventually(lambda: file.exists() and file.read_text(), "a rank is in the midst of a write", 60))

    def kill(self):
        os.kill(self.stuck(), signal.SIGKILL)
        (self.home / "stuck").unlink()

    def let_go(self):
        (self.home / "stuck").unlink()
        (self.home / "go").touch()

    def pods(self):
        return self.server.get("pods", "-l", f"training.kubeflow.org/job-name={self.name}")["items"]


@pytest.fixture
def start(own_server, tmp_path):
    """Starts a job; no rank outlives the test."""
    jobs = []

    def start(name, ranks, **spec):
        jobs.append(Job(own_server, tmp_path, name, ranks, **spec))
        return jobs[-1]

    yield start
    (tmp_path / "go").touch()
    for job in jobs:
        own_server.kubectl("delete", "trainingjob", job.name, "--wait=false")
        eventually(lambda: not job.pods(), "its pods are gone", 60)


def test_what_torch_and_safetensors_write(start, tmp_path):
    job = start("layouts", 2)
    job.begun(1)
    for step, (how, ending) in enumerate([("zip", ".pt"), ("legacy", ".pt"), ("safetensors", ".safetensors"), ("dcp", ""),
                                          ("dcp-async", ""), ("zip", ".pt")], start=1):
        job.order(how, step * 10)
        assert job.saved(step * 10) == str(tmp_path / "saves" / f"step_{step * 10}{ending}")

    # Under its name for writing it does not count, though it is whole and of a later step.
    job.order("moved", 70)
    job.stuck()
    (tmp_path / "saves" / "step_65.pt").write_bytes((tmp_path / "saves" / "step_10.pt").read_bytes())
    job.saved(65)
    job.let_go()
    job.saved(70)
    # Without its last byte it does not count either. A note of the newest is not asked.
    job.order("cut", 90)
    job.order("latest", 90)
    job.order("zip", 80)
    job.saved(80)
    # Until all is quiet, shards that an index lists could get company.
    job.order("sharded", 100)
    assert job.saved(100) == str(tmp_path / "saves" / "step_100")
    job.order("end")
    eventually(lambda: job.status.get("phase") == "Succeeded", "the job ends", 60)


@pytest.mark.parametrize("how", ["half", "dcp-half"])
def test_what_a_killed_rank_was_writing_does_not_count(start, own_server, tmp_path, how):
    job = start("killed", 2, restartPolicy="OnFailure", backoffLimit=3)
    job.begun(1)
    job.order("zip", 10)
    job.saved(10)
    job.order("steps", 17)
    eventually(lambda: job.status.get("progress", {}).get("step") == 17, "the progress is told")
    job.order(how, 20)
    job.kill()
    job.begun(2)
    lost = eventually(lambda: job.status.get("lastFailure", {}).get("recoveredMs") and job.status, "it runs again", 60)
    assert lost["lastFailure"]["lostSteps"] == 7
    assert (lost["checkpoint"]["step"], lost["generation"]) == (10, 2)
    assert "7 steps were lost" in own_server.trainyard("explain", "killed").stdout
    told = [condition["message"] for condition in lost["conditions"] if condition["type"] == "Running"]
    assert any("is running again" in message and "7 steps were lost" in message for message in told), told
    torn = [path for path in (tmp_path / "saves").rglob("*") if "step_20" in str(path) and path.is_file()]
    assert torn, "the write had begun"
    # It does not count later either: of two that were written at the same time the one of the later step would be told.
    job.order("zip", 15)
    job.saved(15)
    for path in torn:
        os.utime(path, (os.path.getmtime(tmp_path / "saves" / "step_15.pt") - 4,) * 2)
    job.order("zip", 16)
    job.saved(16)


def test_a_suspension_waits_for_the_write(start, own_server, tmp_path):
    job = start("wait", 1, template={"spec": {"terminationGracePeriodSeconds": 120}})
    job.begun(1)
    job.order("zip", 10)
    job.saved(10)
    job.order("half", 20)
    writer = job.stuck()
    own_server.trainyard("suspend", "wait")
    eventually(lambda: [pod for pod in job.pods() if pod["metadata"].get("deletionTimestamp")], "its pod is to end")
    # It was told to end, twice over: by the node agent and by the coordinator. A later write is seen while it waits.
    (tmp_path / "saves" / "step_12.pt").write_bytes((tmp_path / "saves" / "step_10.pt").read_bytes())
    job.saved(12)
    os.kill(writer, 0)
    job.let_go()
    job.saved(20)
    eventually(lambda: not job.pods(), "its pod is gone", 60)
    assert job.status["phase"] == "Suspended" and job.status["checkpoint"]["step"] == 20
    (tmp_path / "go").unlink()
    own_server.trainyard("resume", "wait")
    job.begun(2)
    job.order("zip", 30)
    job.saved(30)


def test_a_suspension_waits_no_longer_than_the_grace(start, own_server):
    job = start("short", 1, template={"spec": {"terminationGracePeriodSeconds": 3}})
    job.begun(1)
    job.order("zip", 10)
    job.saved(10)
    job.order("half", 20)
    job.stuck()
    own_server.trainyard("suspend", "short")
    eventually(lambda: not job.pods(), "its pod is gone", 60)
    assert job.status["checkpoint"]["step"] == 10


def test_a_pod_that_has_to_make_room_ends_after_the_write(start, own_server):
    """A scheduler that preempts a pod deletes it, with its grace."""
    job = start("room", 1, restartPolicy="OnFailure")
    job.begun(1)
    job.order("half", 10)
    writer = job.stuck()
    [pod] = [pod["metadata"] for pod in job.pods()]
    own_server.kubectl("delete", "pod", pod["name"], "--wait=false")
    eventually(lambda: [pod for pod in job.pods() if pod["metadata"].get("deletionTimestamp")], "the pod is to end")
    os.kill(writer, 0)
    job.let_go()
    eventually(lambda: pod["uid"] not in [pod["metadata"]["uid"] for pod in job.pods()], "the pod is gone", 60)
    assert job.status["checkpoint"]["step"] == 10
    # Its successor goes on.
    job.begun(2)
    job.order("zip", 20)
    job.saved(20)


LAST = """
import os, sys
header = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
os.makedirs(sys.argv[1])
with open(sys.argv[1] + "/step_5.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header + b"1234")
"""


@pytest.mark.parametrize("in_place", [True, False])
def test_the_checkpoint_that_is_written_last_is_told(own_server, tmp_path, in_place):
    job = {
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "last"},
        "spec": {
            "command": [sys.executable, "-c", LAST, str(tmp_path / "saves")],
            "recovery": {"inPlace": in_place},
            # Nobody looks by himself before the end.
            "checkpoint": {"path": str(tmp_path / "saves"), "everySeconds": 3600},
        },
    }
    own_server.kubectl("apply", "-f", "-", input=json.dumps(job))
    def ended():
        status = own_server.get("trainingjob", "last").get("status", {})
        return status if status.get("phase") == "Succeeded" else None
    status = eventually(ended, "the job ends", 60)
    assert status["checkpoint"]["step"] == 5
    assert status["checkpoint"]["path"] == str(tmp_path / "saves" / "step_5.safetensors")
