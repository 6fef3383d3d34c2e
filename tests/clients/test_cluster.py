"""The commands on a cluster: real etcd, API server, scheduler and controllers (see real_cluster.py for what stands in).

What is stood in for: the kubelet (a process per pod, logs served to the real API server), and Kubeflow's training
operator (pods and conditions of a PyTorchJob). Jobs and Deployments are looked after by Kubernetes' own controllers.
"""

import json
import os
import socket
import ssl
import subprocess
import threading

import pytest

from conftest import eventually, free_port
from real_cluster import Authority, Cluster, TrainingOperator

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "spec": {"scope": "Namespaced", "versions": [{
        "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]},
}
COUNT = "i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep {pause}; done; exit {code}"


def crd(group, kind, plural, *short):
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "shortNames": list(short)}
    spec = {**CRD["spec"], "group": group, "names": names}
    return {**CRD, "metadata": {"name": f"{plural}.{group}"}, "spec": spec}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    bin = os.environ.get("KUBERNETES_BIN")
    assert bin, "KUBERNETES_BIN: the folder that `tests/tools/kubernetes kube-apiserver etcd …` prints"
    one = Cluster(tmp_path_factory.mktemp("cluster"), bin)
    try:
        yield one.start([crd("kubeflow.org", "PyTorchJob", "pytorchjobs"), crd("kubeflow.org", "TFJob", "tfjobs")])
    finally:
        one.stop()


@pytest.fixture(scope="module")
def kubeflow(cluster):
    """The cluster, and somebody who looks after its PyTorchJobs."""
    operator = TrainingOperator(cluster)
    operator.start()
    yield cluster
    operator.stopping.set()
    operator.join()


def pod_spec(script, **container):
    return {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "any", "command": ["sh", "-c", script], **container}]}


def job(name, script="true", ranks=1, **container):
    spec = {"completions": ranks, "parallelism": ranks, "completionMode": "Indexed", "backoffLimit": 0,
            "template": {"spec": pod_spec(script, **container)}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"of": "tests"}}, "spec": spec}


def pytorchjob(name, script, workers=1, kind="PyTorchJob"):
    role = {"replicas": 1, "template": {"spec": {"containers": [
        {"name": "pytorch", "image": "any", "command": ["sh", "-c", script]}]}}}
    roles = {"Master": role, "Worker": {**role, "replicas": workers}}
    return {"apiVersion": "kubeflow.org/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"pytorchReplicaSpecs": roles}}


def apply(cluster, *objects):
    text = "\n---\n".join(json.dumps(each) for each in objects)
    return cluster.run("apply", "-f", "-", input=text)


def test_a_batch_job_runs_with_its_logs_and_its_exit_code(cluster):
    done = cluster.run("run", "-", input=json.dumps(job("good", COUNT.format(lines=3, pause=0.1, code=0), 2)))
    for rank in (0, 1):
        assert [f"[rank {rank}] line {i}" for i in range(3)] == [l for l in done.stdout.splitlines() if f"rank {rank}" in l]
    assert "Succeeded Job good" in done.stderr and f"on the cluster at {cluster.url}" in done.stderr
    failed = cluster.run("run", "-", input=json.dumps(job("bad", "echo oh; exit 7")), code=7)
    assert "ended with exit code 7" in failed.stderr
    assert cluster.run("get", "jobs.batch", "good", "-o", "name").stdout == "job.batch/good\n"
    described = cluster.run("describe", "good").stdout
    assert "Pods:" in described and "SuccessfulCreate" in described
    assert "SuccessfulCreate" in cluster.run("events", "good").stdout
    assert "exit code 7" in cluster.run("explain", "bad").stdout
    cluster.run("delete", "good", "bad")
    assert "no jobs found" in cluster.run("get").stderr


def test_a_deployment_becomes_available_and_goes(cluster):
    spec = pod_spec("while true; do echo tick; sleep 0.1; done")
    del spec["restartPolicy"]
    web = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec}}}
    assert "Available Deployment web" in cluster.run("run", "-", input=json.dumps(web)).stderr
    assert "tick" in cluster.run("logs", "deploy/web", "--tail", "2").stdout
    assert "web-" in cluster.run("describe", "deploy", "web").stdout
    cluster.run("delete", "deploy", "web", "--cascade", "foreground")
    assert "no deployments found" in cluster.run("get", "deploy").stderr


def test_a_pytorchjob_is_followed_to_its_exit_code(kubeflow):
    done = kubeflow.run("run", "-", input=json.dumps(pytorchjob("ptj", "echo hello from $RANK; sleep 1; exit 3", workers=2)), code=3)
    assert {f"[rank {n}] hello from {n}" for n in range(3)} <= set(done.stdout.splitlines())
    assert "Failed PyTorchJob ptj" in done.stderr
    assert "Failed" in kubeflow.run("get").stdout
    kubeflow.run("delete", "pytorchjob", "ptj")


def test_a_pytorchjob_is_suspended_and_resumed(kubeflow):
    apply(kubeflow, pytorchjob("nap", "sleep 60"))
    pods = "/api/v1/namespaces/default/pods?labelSelector=training.kubeflow.org%2Fjob-name%3Dnap"
    running = lambda: [pod["status"].get("phase") for pod in kubeflow.call("GET", pods)[1]["items"]].count("Running")
    eventually(lambda: running() == 2, "both ranks run")
    kubeflow.run("suspend", "nap")
    eventually(lambda: not kubeflow.call("GET", pods)[1]["items"], "its pods go")
    eventually(lambda: "Suspended" in kubeflow.run("get").stdout, "it is said to be suspended")
    kubeflow.run("resume", "nap")
    eventually(lambda: running() == 2, "both ranks run again")
    kubeflow.run("delete", "nap")
    eventually(lambda: not kubeflow.call("GET", pods)[1]["items"], "the pods went with their owner")


def test_a_batch_job_is_suspended_and_resumed(cluster):
    apply(cluster, job("pause", "sleep 60"))
    status = lambda: cluster.call("GET", "/apis/batch/v1/namespaces/default/jobs/pause")[1]["status"]
    eventually(lambda: status().get("ready") == 1, "it runs")
    cluster.run("suspend", "pause")
    eventually(lambda: not status().get("active"), "its pod goes")
    cluster.run("resume", "pause")
    eventually(lambda: status().get("ready") == 1, "it runs again")
    cluster.run("delete", "pause", "--cascade", "orphan", "--no-wait")
    left = lambda: cluster.call("GET", "/api/v1/namespaces/default/pods")[1]["items"]
    eventually(lambda: cluster.call("GET", "/apis/batch/v1/namespaces/default/jobs/pause")[0] == 404, "the job goes")
    names = [pod["metadata"]["name"] for pod in left()]
    assert len(names) == 1 and not left()[0]["metadata"].get("ownerReferences")
    cluster.run("delete", "pod", names[0])


def test_logs_follow_many_pods_and_outlive_a_broken_stream(cluster):
    apply(cluster, job("talk", COUNT.format(lines=12, pause=0.1, code=0), 2))
    cluster.node.cut = 4
    done = cluster.run("logs", "-f", "talk")
    assert cluster.node.cut is None, "no stream was cut"
    for rank in (0, 1):
        assert [l for l in done.stdout.splitlines() if f"rank {rank}" in l] == [f"[rank {rank}] line {i}" for i in range(12)]
    one = cluster.run("logs", "talk", "--rank", "1").stdout.splitlines()
    assert one == [f"[rank 1] line {i}" for i in range(12)]
    assert len(cluster.run("logs", "talk", "--tail", "3").stdout.splitlines()) == 3
    cluster.run("delete", "talk")


def test_explain_says_what_scheduler_and_kubelet_say(cluster):
    apply(cluster, job("big", resources={"requests": {"cpu": "100"}}), job("pull", image="missing"))
    told = lambda name, words: eventually(lambda: words in cluster.run("explain", name).stdout, f"explain says {words}")
    told("big", "Insufficient cpu")
    told("pull", "ImagePullBackOff")
    assert "hint: ask for less" in cluster.run("explain", "big").stdout
    text = cluster.run("explain", "pull").stdout
    assert "Job pull is Pending" in text and "check the name and tag of `missing`" in text
    assert "Warning" in cluster.run("events", "big").stdout
    assert "`trainyard explain pull`" in cluster.run("logs", "pull", code=1).stderr
    cluster.run("delete", "big", "pull")


def test_any_kind_is_listed_and_described(cluster):
    widget = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "labels": {"of": "tests"}},
              "spec": {"size": 3}}
    apply(cluster, crd("example.com", "Widget", "widgets", "wd"))
    eventually(lambda: cluster.call("GET", "/apis/example.com/v1/widgets")[0] == 200, "the kind is served")
    apply(cluster, widget)
    for words in (["wd"], ["widgets", "-A"], ["widget", "-l", "of=tests"], ["widgets.example.com", "-o", "wide"]):
        assert "w " in cluster.run("get", *words).stdout
    assert "no widgets found" in cluster.run("get", "wd", "-l", "of=others").stderr
    assert cluster.run("get", "wd", "-o", "name").stdout == "widget.example.com/w\n"
    assert json.loads(cluster.run("get", "wd", "w", "-o", "json").stdout)["spec"] == {"size": 3}
    assert "size: 3" in cluster.run("get", "wd", "w", "-o", "yaml").stdout
    assert "size: 3" in cluster.run("describe", "widget", "w").stdout
    assert "kube-system" in cluster.run("get", "ns").stdout
    assert "node1" in cluster.run("get", "no", "-o", "wide").stdout
    cluster.run("delete", "wd/w")


def test_kinds_that_the_cluster_does_not_know(cluster):
    training = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "t"},
                "spec": {"image": "any", "command": ["true"]}}
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}}
    text = "\n---\n".join(json.dumps(each) for each in (first, training))
    done = cluster.run("run", "-", input=text, code=2)
    assert "this cluster does not know TrainingJob" in done.stderr and "as a PyTorchJob" in done.stderr
    assert cluster.call("GET", "/api/v1/namespaces/default/configmaps/first")[0] == 404, "nothing was started"
    mpi = {"apiVersion": "kubeflow.org/v1", "kind": "MPIJob", "metadata": {"name": "m"}, "spec": {"mpiReplicaSpecs": {
        "Launcher": {"template": {"spec": pod_spec("true")}}}}}
    done = cluster.run("run", "-", input=json.dumps(mpi), code=2)
    assert "this cluster does not know MPIJob" in done.stderr and "training operator" in done.stderr


def test_a_kind_without_a_controller_is_explained(kubeflow):
    tf = {"apiVersion": "kubeflow.org/v1", "kind": "TFJob", "metadata": {"name": "alone"}, "spec": {}}
    assert kubeflow.call("POST", "/apis/kubeflow.org/v1/namespaces/default/tfjobs", tf)[0] == 201
    assert "the Kubeflow training operator does not seem to run there" in kubeflow.run("explain", "alone").stdout
    kubeflow.run("delete", "tfjob", "alone")


def test_validate_asks_for_images_and_the_cluster(kubeflow):
    bare = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "t"}, "spec": {"command": ["x"]}}
    assert "spec.image of TrainingJob t" in kubeflow.run("validate", "-", input=json.dumps(bare), code=2).stderr
    ptj = pytorchjob("p", "true")
    del ptj["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["image"]
    path = "spec.pytorchReplicaSpecs.Master.template.spec.containers[0].image of PyTorchJob p"
    assert path in kubeflow.run("validate", "-", input=json.dumps(ptj), code=2).stderr
    wrong = job("typo")
    wrong["spec"]["backofLimit"] = 1
    assert "spec.backofLimit of Job typo" in kubeflow.run("validate", "-", input=json.dumps(wrong), code=2).stderr
    assert "is valid" in kubeflow.run("run", "--dry-run", "-", input=json.dumps(job("dry"))).stdout
    assert kubeflow.call("GET", "/apis/batch/v1/namespaces/default/jobs/dry")[0] == 404, "a dry run keeps nothing"


def test_versions_and_metrics(cluster):
    assert "server v1." in cluster.run("version").stdout
    assert "metrics-server" in cluster.run("top", code=4).stderr


def test_errors_of_kubeconfigs_name_the_file(cluster, tmp_path):
    done = cluster.run("get", context="prud", code=2)
    assert "there is no context `prud` in" in done.stderr and str(cluster.kubeconfig) in done.stderr and "real" in done.stderr
    assert "nowhere" in cluster.run("get", kubeconfig=tmp_path / "nowhere", code=2).stderr
    (tmp_path / "text").write_text("}{")
    assert "cannot use the kubeconfig" in cluster.run("get", kubeconfig=tmp_path / "text", code=2).stderr
    plugin = cluster.write_kubeconfig(tmp_path / "plugin", None, user={"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "interactiveMode": "Never"}})
    done = cluster.run("get", kubeconfig=plugin, code=4)
    assert "credentials from `no-such-login`" in done.stderr and "context `real`" in done.stderr


def test_errors_of_connections_say_what_to_do(cluster, tmp_path):
    nobody = cluster.write_kubeconfig(tmp_path / "nobody", "admin", server=f"https://127.0.0.1:{free_port()}")
    done = cluster.run("get", kubeconfig=nobody, code=4)
    assert "context `real`" in done.stderr and "VPN" in done.stderr
    other = cluster.write_kubeconfig(tmp_path / "other", "admin", authority=Authority(tmp_path / "pki").file)
    assert "certificate is not trusted" in cluster.run("get", kubeconfig=other, code=4).stderr
    crt, key = cluster.authority.issue("old", "/CN=old/O=system:masters", days=0)
    with Impostor(crt, key) as port:
        late = cluster.write_kubeconfig(tmp_path / "late", "admin", server=f"https://127.0.0.1:{port}")
        said = lambda: cluster.run("get", kubeconfig=late, code=4).stderr
        eventually(lambda: "certificate has expired" in said(), "the certificate expires")


def test_errors_of_rights_say_whom_to_ask_for_what(cluster, tmp_path):
    wrong = cluster.write_kubeconfig(tmp_path / "wrong", "nobody")
    done = cluster.run("get", "pods", kubeconfig=wrong, code=1)
    assert "does not accept the credentials of context `real`" in done.stderr and str(wrong) in done.stderr
    crt, key = cluster.authority.issue("past", "/CN=past/O=system:masters", days=0)
    past = cluster.write_kubeconfig(tmp_path / "past", None, user={"client-certificate": str(crt), "client-key": str(key)})
    said = lambda: cluster.run("get", "pods", kubeconfig=past, code=1).stderr
    eventually(lambda: "the client certificate of user `u`" in said() and "expired" in said(), "the certificate expires")
    dev = cluster.write_kubeconfig(tmp_path / "dev", "dev")
    done = cluster.run("get", "pods", kubeconfig=dev, code=1)
    assert "user `dev` may not list pods in namespace `default`" in done.stderr
    assert "--verb=list --resource=pods" in done.stderr and "--user=dev" in done.stderr
    assert "user `dev` may not get jobs.batch" in cluster.run("run", "-", input=json.dumps(job("no")), kubeconfig=dev, code=1).stderr


class Impostor:
    """A TLS server with a certificate of our choice that answers nothing."""

    def __init__(self, crt, key):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(crt, key)

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        return self.socket.getsockname()[1]

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                self.tls.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    def __exit__(self, *_):
        self.socket.close()


def test_a_run_that_is_ended_suspends_its_job(cluster, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(job("long", "echo up; sleep 60")))
    argv, env = cluster.command("run", tmp_path / "job.json")
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline().strip().endswith("up")
        run.terminate()  # as Ctrl-C does; SIGINT itself is ignored under some runners
        _, said = run.communicate(timeout=120)
    assert run.returncode == 143, said
    assert cluster.call("GET", "/apis/batch/v1/namespaces/default/jobs/long")[1]["spec"]["suspend"] is True
    cluster.run("delete", "long")
