"""`preflight: true`: a good machine passes and the job runs; a bad link is named and the program never starts."""

import json

from conftest import eventually

PROGRAM = ["sh", "-c", "echo the program runs as $RANK of $WORLD_SIZE"]


def job(name, **spec):
    return json.dumps({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
        "spec": {"replicas": 2, "preflight": True, "command": PROGRAM, **spec},
    })


def finished(server, namespace, name):
    def probe():
        status = server.get("trainingjob", name, "-n", namespace).get("status", {})
        return status if status.get("phase") in ("Succeeded", "Failed") else None
    return eventually(probe, f"{name} is finished", seconds=300)


def log(server, namespace, pod):
    return server.kubectl("logs", pod, "-n", namespace).stdout


def test_a_good_machine_passes_and_the_job_runs(server, namespace):
    server.kubectl("apply", "-n", namespace, "-f", "-", input=job("good"))
    status = finished(server, namespace, "good")
    first = log(server, namespace, "good-worker-0")
    assert status["phase"] == "Succeeded", (status, first)
    for word in ("1 link: median", "all-reduce of 1 MiB", "all-reduce of 64 MiB", "no findings"):
        assert word in first, first
    # In whatever place: it writes to another stream than the check.
    assert "the program runs as 0 of 2" in first, first
    assert log(server, namespace, "good-worker-1").rstrip() == "the program runs as 1 of 2"


def test_a_bad_link_is_named_and_the_program_never_starts(server, namespace):
    manifest = job("bad", restartPolicy="OnFailure", env={"TRAINYARD_PREFLIGHT_DEAD_LINK": "0-1"})
    server.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)
    status = finished(server, namespace, "bad")
    assert status["phase"] == "Failed", status
    # A bad link is as bad a moment later.
    assert status.get("restarts", 0) == 0, status
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Failed")
    for word in ("did not pass the check before the job", "rank 0 (", " – rank 1 (", "Connection refused",
                 "nodeSelector", "preflight: false"):
        assert word in message, message
    for pod in ("bad-worker-0", "bad-worker-1"):
        assert "the program runs" not in log(server, namespace, pod)
    said = server.trainyard("explain", "bad", "-n", namespace).stdout
    assert "did not pass the check before the job" in said, said
