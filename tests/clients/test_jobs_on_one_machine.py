"""Manifests written for a cluster, on one machine: what the documentation of each field says is what happens."""

import datetime
import json
import pathlib
import textwrap
import time

import pytest

from conftest import eventually


@pytest.fixture
def k(server, namespace):
    def call(*args, **kwargs):
        return server.kubectl("-n", namespace, *args, **kwargs)
    call.json = lambda *args: json.loads(call("get", *args, "-o", "json").stdout)
    call.namespace = namespace
    call.server = server
    return call


def pytorchjob(name, command, workers=0, run_policy="{}", restart="Never", pod="", container="", master=True):
    """A PyTorchJob whose replicas all run the shell command."""
    def role(replicas):
        return textwrap.dedent(f"""
            replicas: {replicas}
            restartPolicy: {restart}
            template:
              spec:
                {pod}
                containers:
                - name: pytorch
                  image: docker.io/example/none:1
                  command: [bash, -c, {json.dumps(command)}]
                  {container}
            """)
    specs = ""
    if master:
        specs += "    Master:\n" + textwrap.indent(role(1).strip("\n"), " " * 6) + "\n"
    if workers:
        specs += "    Worker:\n" + textwrap.indent(role(workers).strip("\n"), " " * 6) + "\n"
    return (f"apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {{name: {name}}}\nspec:\n"
            f"  runPolicy: {run_policy}\n  pytorchReplicaSpecs:\n{specs}")


def conditions(k, name, kind="pytorchjob"):
    return {c["type"]: c for c in k.json(kind, name).get("status", {}).get("conditions", [])}


def finished(k, name, kind="pytorchjob", seconds=120):
    def probe():
        now = conditions(k, name, kind)
        return next((t for t in ("Succeeded", "Failed") if now.get(t, {}).get("status") == "True"), None)
    return eventually(probe, f"{name} is finished", seconds)


def test_environment_is_what_the_operator_promises(k, tmp_path):
    # Each waits for all: a service does not lead to a master that has finished.
    k("apply", "-f", "-", input=pytorchjob(
        "env", "echo $RANK $WORLD_SIZE $MASTER_ADDR $PET_NNODES $PET_NODE_RANK $PET_NPROC_PER_NODE $PYTHONUNBUFFERED; "
               "getent hosts $MASTER_ADDR >/dev/null && echo resolved; "
               f"touch {tmp_path}/$RANK; until [ $(ls {tmp_path} | wc -l) = 3 ]; do sleep 0.05; done", workers=2))
    assert finished(k, "env") == "Succeeded"
    for pod, rank in (("env-master-0", 0), ("env-worker-0", 1), ("env-worker-1", 2)):
        eventually(lambda: k("logs", pod).stdout.startswith(f"{rank} 3 env-master-0 3 {rank} auto 1\nresolved"),
                   f"the log of {pod}")
    labels = k.json("pod", "env-worker-1")["metadata"]["labels"]
    assert labels["training.kubeflow.org/job-name"] == "env"
    assert labels["training.kubeflow.org/replica-type"] == "worker"
    assert labels["training.kubeflow.org/replica-index"] == "1"
    assert labels["training.kubeflow.org/operator-name"] == "pytorchjob-controller"
    assert k.json("service", "env-worker-1")["spec"]["clusterIP"] == "None"


def test_status_has_upstream_shape(k):
    k("apply", "-f", "-", input=pytorchjob("shape", "true", workers=1))
    assert finished(k, "shape") == "Succeeded"
    status = k.json("pytorchjob", "shape")["status"]
    assert [c["type"] for c in status["conditions"]] == ["Created", "Running", "Succeeded"] or \
        [c["type"] for c in status["conditions"]] == ["Created", "Succeeded"]
    assert status["conditions"][-1]["reason"] == "PyTorchJobSucceeded"
    assert status["startTime"] and status["completionTime"]
    assert status["replicaStatuses"]["Master"].get("succeeded") == 1
    row = k("get", "pytorchjob", "shape").stdout.split("\n")
    assert row[0].split() == ["NAME", "STATE", "AGE"] and row[1].split()[1] == "Succeeded"


def test_images_are_ignored_with_an_event(k):
    k("apply", "-f", "-", input=pytorchjob("image", "true"))
    finished(k, "image")
    eventually(lambda: "docker.io/example/none:1" in k("events").stdout, "an event names the ignored image")


def test_exit_code_policy(k):
    k("apply", "-f", "-", input=pytorchjob("permanent", "exit 3", restart="ExitCode"))
    assert finished(k, "permanent") == "Failed"
    # 130 is retryable: the pod is made anew, and the second try (the marker is there) succeeds.
    marker = f"/tmp/trainyard-test-{k.namespace}"
    k("apply", "-f", "-", input=pytorchjob(
        "retry", f"if [ -e {marker} ]; then rm {marker}; exit 0; fi; touch {marker}; exit 130", restart="ExitCode"))
    assert finished(k, "retry") == "Succeeded"


def test_on_failure_restarts_and_backoff_limit_ends_it(k):
    k("apply", "-f", "-", input=pytorchjob("loop", "exit 1", restart="OnFailure", run_policy="{backoffLimit: 1}"))
    assert finished(k, "loop", seconds=120) == "Failed"
    assert "backoff" in conditions(k, "loop")["Failed"]["message"].lower()


def test_active_deadline_is_exact(k):
    k("apply", "-f", "-", input=pytorchjob("late", "sleep 100", run_policy="{activeDeadlineSeconds: 2}"))
    assert finished(k, "late") == "Failed"
    assert "deadline" in conditions(k, "late")["Failed"]["message"].lower()
    eventually(lambda: not [p for p in k.json("pods")["items"] if p["status"]["phase"] == "Running"], "nothing runs")


def queue_of_a_cpu(k):
    """A queue of one CPU, which each job of a CPU has alone."""
    flavor = {"name": "default", "resources": [{"name": "cpu", "nominalQuota": 1}]}
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue", "metadata": {"name": k.namespace},
             "spec": {"namespaceSelector": {}, "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [flavor]}]}}
    local = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue", "metadata": {"name": "one"},
             "spec": {"clusterQueue": k.namespace}}
    k("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [queue, local]}))


def queued(name, command, limit=None):
    spec = {"queue": "one", "command": ["bash", "-c", command], "resources": {"requests": {"cpu": 1}}}
    spec |= {"activeDeadlineSeconds": limit} if limit else {}
    return json.dumps({"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec})


def test_a_job_that_waits_in_a_queue_has_its_run_limit_left(k, tmp_path):
    queue_of_a_cpu(k)
    phase = lambda name: k.json("trainingjob", name).get("status", {}).get("phase")
    age = lambda name: time.time() - datetime.datetime.fromisoformat(k.json("trainingjob", name)["metadata"]["creationTimestamp"]).timestamp()
    k("apply", "-f", "-", input=queued("first", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"))
    eventually(lambda: phase("first") == "Running", "it has the quota")
    k("apply", "-f", "-", input=queued("second", "true", limit=3))
    k("apply", "-f", "-", input=queued("third", f"touch {tmp_path}/ran; sleep 100", limit=3))
    eventually(lambda: age("third") > 5, "they wait for longer than they may run", 60)
    assert (phase("second"), phase("third")) == ("Pending", "Pending")
    (tmp_path / "go").touch()
    assert finished(k, "second", "trainingjob") == "Succeeded"
    assert finished(k, "third", "trainingjob") == "Failed"
    assert "activeDeadlineSeconds of 3" in conditions(k, "third", "trainingjob")["Failed"]["message"]
    assert (tmp_path / "ran").exists(), "it had its time"


def test_ttl_removes_the_finished_job(k):
    k("apply", "-f", "-", input=pytorchjob("short", "true", run_policy="{ttlSecondsAfterFinished: 1}"))
    eventually(lambda: k("get", "pytorchjob", "short", check=False).returncode != 0, "the job is gone")


@pytest.mark.parametrize("policy, left", [("None", 2), ("All", 0), ("Running", 1)])
def test_clean_pod_policy(k, policy, left):
    command = 'if [ "$RANK" = 0 ]; then exit 0; else sleep 100; fi'
    k("apply", "-f", "-", input=pytorchjob("clean", command, workers=1, run_policy=f"{{cleanPodPolicy: {policy}}}",
                                           pod="terminationGracePeriodSeconds: 1"))
    assert finished(k, "clean") == "Succeeded"
    eventually(lambda: len(k.json("pods")["items"]) == left, f"{left} pods are left")


def test_suspend_and_resume(k):
    k("apply", "-f", "-", input=pytorchjob("pause", "sleep 100", pod="terminationGracePeriodSeconds: 1"))
    eventually(lambda: conditions(k, "pause").get("Running", {}).get("status") == "True", "it runs")
    k("patch", "pytorchjob", "pause", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    eventually(lambda: not k.json("pods")["items"], "its pods are gone")
    has = lambda: {name: each["status"] for name, each in conditions(k, "pause").items()}
    eventually(lambda: (has()["Suspended"], has()["Running"]) == ("True", "False"), "it says so")
    k("patch", "pytorchjob", "pause", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    eventually(lambda: conditions(k, "pause").get("Running", {}).get("status") == "True", "it runs again")
    assert conditions(k, "pause")["Suspended"]["status"] == "False"


def test_gpus_that_are_not_there_are_waited_for_with_a_reason(k):
    k("apply", "-f", "-", input=pytorchjob("gpu", "true", container='resources: {limits: {nvidia.com/gpu: "64"}}'))
    def reason():
        for pod in k.json("pods")["items"]:
            for c in pod["status"].get("conditions", []):
                if c["type"] == "PodScheduled" and c["status"] == "False":
                    return c["message"]
    message = eventually(reason, "the pod says why it waits")
    assert "nvidia.com/gpu" in message and "64" in message
    out = k.server.trainyard("explain", "gpu", "-n", k.namespace)
    assert "nvidia.com/gpu" in out.stdout


def test_volumes_are_where_the_manifest_says(k):
    k("create", "configmap", "settings", "--from-literal=colour=red")
    k("create", "secret", "generic", "secret", "--from-literal=password=hunter2")
    k("apply", "-f", "-", input=f"""
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: volumes}}
spec:
  restartPolicy: Never
  volumes:
  - {{name: config, configMap: {{name: settings}}}}
  - {{name: secret, secret: {{secretName: secret}}}}
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
  - {{name: host, hostPath: {{path: /usr, type: Directory}}}}
  containers:
  - name: main
    image: none
    command: [sh, -ec, "cat /etc/settings/colour; cat /var/run/secret/password; echo x > /scratch/deep/f; cat /scratch/deep/f; echo kept > /data/f; test -d /host/bin"]
    volumeMounts:
    - {{name: config, mountPath: /etc/settings}}
    - {{name: secret, mountPath: /var/run/secret, readOnly: true}}
    - {{name: scratch, mountPath: /scratch/deep}}
    - {{name: data, mountPath: /data}}
    - {{name: host, mountPath: /host, readOnly: true}}
""")
    eventually(lambda: k.json("pod", "volumes")["status"]["phase"] in ("Succeeded", "Failed"), "the pod ends")
    assert k("logs", "volumes").stdout == "redhunter2x\n"
    assert k.json("pod", "volumes")["status"]["phase"] == "Succeeded"
    assert k.json("pvc", "data")["status"]["phase"] == "Bound"
    # What was written to the claim is there for the next pod.
    k("apply", "-f", "-", input="""
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  containers:
  - {name: main, image: none, command: [cat, /data/f], volumeMounts: [{name: data, mountPath: /data}]}
""")
    eventually(lambda: k("logs", "reader", check=False).stdout == "kept\n", "the claim kept the file")


def test_values_from_and_references_expand(k):
    k("create", "configmap", "settings", "--from-literal=colour=red")
    k("create", "secret", "generic", "secret", "--from-literal=PASSWORD=hunter2")
    k("apply", "-f", "-", input="""
apiVersion: v1
kind: Pod
metadata: {name: values, labels: {tier: back}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: none
    command: [sh, -c, "echo $(COLOUR) $(MIXED) $PASSWORD $NAME $TIER $CPU '$$(COLOUR)'"]
    resources: {limits: {cpu: "1"}}
    envFrom: [{secretRef: {name: secret}}]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: MIXED, value: "very-$(COLOUR)"}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
""")
    eventually(lambda: k("logs", "values", check=False).stdout == "red very-red hunter2 values back 1 $(COLOUR)\n",
               "the values are in the log")


def test_a_missing_program_is_named(k):
    k("apply", "-f", "-", input="""
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {name: missing}
spec: {command: [no-such-program, --flag]}
""")
    assert finished(k, "missing", "trainingjob") == "Failed"
    assert "no-such-program" in json.dumps(k.json("trainingjob", "missing")["status"])


def test_a_wrong_manifest_gets_a_condition_not_a_crash(k):
    k("apply", "-f", "-", input=pytorchjob("wrong", "true").replace("name: pytorch\n", "name: other\n"))
    assert finished(k, "wrong") == "Failed"
    assert "pytorch" in conditions(k, "wrong")["Failed"]["message"]


def test_deleting_a_job_leaves_nothing(k):
    marker = f"trainyard-orphan-{k.namespace}"
    k("apply", "-f", "-", input=pytorchjob("gone", f"exec -a {marker} sleep 1000", workers=1,
                                           pod="terminationGracePeriodSeconds: 1"))
    eventually(lambda: conditions(k, "gone").get("Running", {}).get("status") == "True", "it runs")
    eventually(lambda: len(_named(marker)) == 2, "both of its processes are there")
    k("delete", "pytorchjob", "gone", "--timeout=120s")
    eventually(lambda: not k.json("pods")["items"] and not k.json("services")["items"], "pods and services are gone")
    eventually(lambda: not _named(marker), "and no process is left")


def _named(marker):
    out = []
    for process in pathlib.Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(marker.encode() + b"\0"):
                out.append(process.name)
        except OSError:
            pass
    return out
