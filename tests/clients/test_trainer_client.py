"""kubeflow 0.5.0's TrainerClient, unmodified: runtimes, train, status, logs, events, delete."""

import pytest
from kubernetes import client as kubernetes_client
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import CustomTrainerContainer, TrainerClient

from conftest import eventually


@pytest.fixture
def trainer(server, namespace):
    return TrainerClient(KubernetesBackendConfig(
        client_configuration=kubernetes_client.Configuration(host=server.url), namespace=namespace))


def test_the_version_is_published(trainer, caplog):
    trainer.backend.verify_backend()
    assert "not available" not in caplog.text


def test_runtimes_are_there(trainer):
    names = {r.name for r in trainer.list_runtimes()}
    assert "torch-distributed" in names
    runtime = trainer.get_runtime("torch-distributed")
    assert runtime.trainer.framework == "torch"
    with pytest.raises(RuntimeError):
        trainer.get_runtime("absent")


def test_a_job_from_train_to_delete(trainer):
    program = "echo node $PET_NODE_RANK of $PET_NNODES with $PET_NPROC_PER_NODE at $PET_MASTER_ADDR:$PET_MASTER_PORT"
    name = trainer.train(
        runtime="torch-distributed",
        trainer=CustomTrainerContainer(image="none", num_nodes=2, resources_per_node={"cpu": "100m"}),
        options=[lambda spec, *_: spec.setdefault("spec", {}).setdefault("trainer", {}).update(
            command=["sh", "-c", program])],
    )
    job = trainer.wait_for_job_status(name, timeout=600, polling_interval=1)
    assert job.status == "Complete" and job.num_nodes == 2
    assert {s.name for s in job.steps} == {"node-0", "node-1"}
    assert [j.name for j in trainer.list_jobs()] == [name]
    for node in (0, 1):
        lines = list(trainer.get_job_logs(name, step=f"node-{node}"))
        assert lines and lines[0].startswith(f"node {node} of 2 with ")
        assert f"{name}-node-0-0.{name}:29500" in lines[0] or f"{name}-node-0-0.{name}:" in lines[0]
    assert any(e.reason for e in trainer.get_job_events(name))
    trainer.delete_job(name)
    eventually(lambda: not trainer.list_jobs(), "the job is gone")


def test_a_job_past_its_deadline_is_told_as_failed(trainer):
    """A program that fails is started again, as the runtime's Job says; the deadline ends that."""
    name = trainer.train(
        runtime="torch-distributed",
        trainer=CustomTrainerContainer(image="none", num_nodes=1),
        options=[lambda spec, *_: spec.setdefault("spec", {}).update(
            activeDeadlineSeconds=3, trainer={"command": ["sh", "-c", "echo broken; exit 3"]})],
    )
    job = trainer.wait_for_job_status(name, status={"Failed"}, timeout=600, polling_interval=1)
    assert job.status == "Failed"
