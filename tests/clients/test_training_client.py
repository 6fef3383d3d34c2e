"""kubeflow-training 1.9.4's TrainingClient, unmodified: create, conditions, pods, logs, update, delete."""

import pytest
from kubernetes import client as kubernetes_client
from kubeflow.training import TrainingClient, constants

from conftest import eventually


@pytest.fixture
def training(server, namespace):
    return TrainingClient(client_configuration=kubernetes_client.Configuration(host=server.url), namespace=namespace)


def ranks():
    """What each replica of the job runs: prints the environment that the operator promises."""
    import os
    print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "at", os.environ["MASTER_ADDR"], flush=True)


def test_a_function_runs_on_every_replica(training):
    training.create_job(name="fn", train_func=ranks, num_workers=2, num_procs_per_worker=1,
                        base_image="python", env_vars={"COLOUR": "red"})
    eventually(lambda: training.is_job_created("fn"), "the job is taken up")
    job = training.wait_for_job_conditions("fn", polling_interval=1, timeout=600)
    assert training.is_job_succeeded("fn") and not training.is_job_failed("fn")
    types = [c.type for c in job.status.conditions]
    assert types[0] == "Created" and types[-1] == "Succeeded"
    assert all(c.reason == "PyTorchJob" + c.type for c in job.status.conditions)
    assert training.get_job("fn").spec.pytorch_replica_specs is not None
    assert {j.metadata.name for j in training.list_jobs()} == {"fn"}
    names = set(training.get_job_pod_names("fn"))
    assert names == {"fn-master-0", "fn-worker-0"} or names == {"fn-worker-0", "fn-worker-1"}
    logs, _ = training.get_job_logs("fn", is_master=False)
    text = "".join(logs.values())
    assert "rank 0 of 2" in text and "rank 1 of 2" in text
    training.delete_job("fn")
    eventually(lambda: not training.list_jobs(), "the job is gone")
    eventually(lambda: not training.get_job_pod_names("fn"), "and its pods with it")


def test_logs_follow(training):
    def count():
        import time
        for n in range(3):
            print("step", n, flush=True)
            time.sleep(0.2)
    training.create_job(name="slow", train_func=count, num_workers=1, base_image="python")
    eventually(lambda: training.is_job_running("slow") or training.is_job_succeeded("slow"), "it runs", 300)
    logs, _ = training.get_job_logs("slow", is_master=True, follow=True)
    training.wait_for_job_conditions("slow", polling_interval=1, timeout=600)


def test_a_failing_function_fails_the_job(training):
    def fail():
        raise SystemExit(3)
    training.create_job(name="bad", train_func=fail, num_workers=1, base_image="python")
    eventually(lambda: _never_restart(training, "bad"), "the policy is changed")
    eventually(lambda: training.is_job_failed("bad") or training.is_job_restarting("bad"), "it fails", 300)


def _never_restart(training, name):
    """Whether the job was changed; not if its controller wrote between our read and our write."""
    job = training.get_job(name)
    assert job.spec.pytorch_replica_specs
    for replica in job.spec.pytorch_replica_specs.values():
        replica.restart_policy = "Never"
    try:
        training.update_job(name=name, job=job)
    except RuntimeError as error:
        assert error.__context__.status == 409, error.__context__
        return False
    return True


@pytest.mark.parametrize("kind", list(constants.JOB_PARAMETERS))
def test_every_kind_can_be_listed(training, kind):
    assert training.list_jobs(job_kind=kind) == []


def test_an_absent_job_is_an_error(training):
    with pytest.raises(RuntimeError):
        training.get_job("absent")
