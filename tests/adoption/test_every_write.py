"""The control plane is killed at each write of the object store, before and after it reaches the disk; then it is started
again, and the job must end as if nothing had happened: adopted and not started anew, no rank twice, no line of a log lost.

`TRAINYARD_STRIDE=1` kills at every write; without it, at every fifth of each scenario.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import truth
from conftest import Server, eventually

HERE = pathlib.Path(__file__).parent
STRIDE = int(os.environ.get("TRAINYARD_STRIDE", "5"))
NAME = "steady"


@pytest.fixture(scope="session")
def killer(tmp_path_factory):
    library = tmp_path_factory.mktemp("killer") / "kill_at_write.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "kill_at_write.c", "-ldl"], check=True)
    return library


class Trial:
    """One scenario on one home folder, with a server that dies at its n-th write."""

    def __init__(self, folder, killer, at, when):
        self.truth = folder / "truth"
        self.truth.mkdir(parents=True)
        self.armed, self.counted = folder / "armed", folder / "count"
        self.server = Server(folder / "home")
        self.server.env.update(LD_PRELOAD=str(killer), KILL_ARMED=str(self.armed), KILL_COUNT=str(self.counted),
                               KILL_AT=str(at), KILL_WHEN=when)
        self.server.start()
        # Commands are not to be killed, and a server that is started again neither.
        del self.server.env["LD_PRELOAD"]
        self.armed.touch()

    def does(self, action, seconds=40):
        """Carries out what a user would do, again if the server dies meanwhile."""
        def attempt():
            self.revive()
            return action()
        return eventually(attempt, f"{action.__name__} is done", seconds)

    def revive(self):
        if self.server.process.poll() is not None:
            self.server.start()

    def apply(self, spec):
        manifest = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": NAME},
                    "spec": {"command": [sys.executable, str(HERE / "rank.py")],
                             "replicas": 2, "procsPerReplica": 2, **spec,
                             "env": {"TRUTH": str(self.truth), **spec.get("env", {})}}}
        self.does(lambda: self.server.kubectl("apply", "-f", "-", input=json.dumps(manifest)))

    def job(self):
        return self.server.get("trainingjob", NAME)

    def reaches(self, *phases):
        def job_there():
            job = self.job()
            return job if job.get("status", {}).get("phase") in phases else None
        return self.does(job_there)

    def pods(self):
        return self.server.get("pods", "-l", f"training.kubeflow.org/job-name={NAME}")["items"]

    def starts(self, rank):
        return truth.starts(self.truth, rank)

    def check_logs(self, start=None):
        """What the ranks printed (in the given start, or ever) is in the logs of their pods: all of it, once, in order."""
        logged = "\n".join(self.server.kubectl("logs", pod["metadata"]["name"]).stdout for pod in self.pods())
        for rank in range(4):
            mine = f"rank {rank} start " + (f"{start} " if start else "")
            said, shown = truth.said_and_shown(self.truth, rank, mine, logged)
            assert shown == said, f"rank {rank}"

    def processes(self):
        return truth.processes(self.truth)

    def end(self):
        self.server.stop()
        eventually(lambda: not self.processes(), "no process is left")


def runs_through(trial):
    trial.apply({"env": {"LINES": "25"}})
    job = trial.reaches("Succeeded", "Failed")
    assert job["status"]["phase"] == "Succeeded", job["status"]
    assert [trial.starts(rank) for rank in range(4)] == [1] * 4, "adopted, not started anew"
    assert (job["status"]["exitCode"], job["status"]["restarts"]) == (0, 0)
    trial.does(lambda: trial.check_logs() is None)


def fails_and_is_started_again(trial):
    trial.apply({"env": {"LINES": "25", "FAIL_ONCE": "3:7"}, "restartPolicy": "OnFailure", "backoffLimit": 1})
    job = trial.reaches("Succeeded", "Failed")
    assert job["status"]["phase"] == "Succeeded", job["status"]
    assert job["status"]["restarts"] == 1
    assert [trial.starts(rank) for rank in range(4)] == [2] * 4
    trial.does(lambda: trial.check_logs(start=2) is None)


def fails_for_good(trial):
    trial.apply({"env": {"LINES": "500", "FAIL_ONCE": "2:7"}})
    job = trial.reaches("Succeeded", "Failed")
    assert job["status"]["phase"] == "Failed", job["status"]
    assert job["status"]["exitCode"] == 7, "the exit code of the rank that failed is not lost"
    assert [trial.starts(rank) for rank in range(4)] == [1] * 4


def is_suspended_resumed_and_deleted(trial):
    def patch(suspend):
        body = json.dumps({"spec": {"suspend": suspend}})
        trial.does(lambda: trial.server.kubectl("patch", "trainingjob", NAME, "--type=merge", "-p", body))
    trial.apply({"env": {"LINES": "2000"}})
    trial.does(lambda: all(trial.starts(rank) == 1 for rank in range(4)))
    patch(True)
    trial.reaches("Suspended")
    trial.does(lambda: not trial.processes())
    patch(False)
    trial.does(lambda: all(trial.starts(rank) == 2 for rank in range(4)))
    def delete():
        trial.server.kubectl("delete", "trainingjob", NAME, "--ignore-not-found", "--timeout=20s")
        return not trial.pods()
    trial.does(delete)
    trial.does(lambda: not trial.processes())


SCENARIOS = [runs_through, fails_and_is_started_again, fails_for_good, is_suspended_resumed_and_deleted]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_killed_at_each_write(scenario, when, killer, tmp_path):
    def play(name, at):
        trial = Trial(tmp_path / name, killer, at, when)
        try:
            scenario(trial)
            truth.check_never_double(trial.truth)
        except BaseException as error:
            error.add_note(f"killed {when} write {at}; server: {trial.server.log()}")
            raise
        finally:
            trial.end()
        return trial
    counted = play("counted", 0)
    writes = int(counted.counted.read_text())
    assert writes >= 5, "the scenario writes"
    # The two halves begin at different writes, so that together they meet more of them.
    first = 1 if when == "before" else 1 + STRIDE // 2
    for at in range(first, writes + 1, STRIDE):
        play(f"at-{at}", at)
