"""The embedded API server through the real kubectl: every verb a user of a cluster knows."""

import json
import os
import subprocess
import textwrap

import pytest

from conftest import KUBECTL, eventually

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: demo, tier: back}}
data: {colour: red, size: big}
"""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: none, command: [sleep, "1000"]}
"""

JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: hello}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: main, image: none, command: [sh, -c, "echo hello from $WHO"], env: [{name: WHO, value: a job}]}
"""


@pytest.fixture
def k(server, namespace):
    def call(*args, **kwargs):
        return server.kubectl("-n", namespace, *args, **kwargs)
    call.json = lambda *args: json.loads(call("get", *args, "-o", "json").stdout)
    call.namespace = namespace
    return call


def test_api_resources_lists_our_kinds_and_the_core_ones(server):
    out = server.kubectl("api-resources").stdout
    for word in ("pods", "deployments", "jobs", "pytorchjobs", "trainingjobs", "trainjobs", "clustertrainingruntimes"):
        assert f"\n{word} " in "\n" + out, word
    versions = server.kubectl("api-versions").stdout.split()
    assert {"v1", "apps/v1", "batch/v1", "kubeflow.org/v1", "trainyard.dev/v1alpha1"} <= set(versions)


def test_explain_follows_the_path_into_the_schema(server):
    assert "FIELD: image" in server.kubectl("explain", "pod.spec.containers.image").stdout
    out = server.kubectl("explain", "trainingjob.spec").stdout
    assert "procsPerReplica" in out and "<" in out
    assert "pytorchReplicaSpecs" in server.kubectl("explain", "pytorchjob.spec").stdout
    wrong = server.kubectl("explain", "pod.spec.nonsense", check=False)
    assert wrong.returncode != 0 and "nonsense" in wrong.stderr


def test_client_side_apply_creates_configures_and_prunes_fields(k):
    assert "created" in k("apply", "-f", "-", input=CONFIG_MAP).stdout
    assert "unchanged" in k("apply", "-f", "-", input=CONFIG_MAP).stdout
    changed = CONFIG_MAP.replace("size: big", "shape: round")
    assert "configured" in k("apply", "-f", "-", input=changed).stdout
    assert k.json("configmap", "settings")["data"] == {"colour": "red", "shape": "round"}


def test_client_side_apply_merges_lists_by_key(k):
    k("apply", "-f", "-", input=DEPLOYMENT)
    k("patch", "deployment", "web", "-p",
      '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"none","command":["sleep","1000"]}]}}}}')
    k("apply", "-f", "-", input=DEPLOYMENT.replace('"1000"', '"2000"'))
    containers = k.json("deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert {c["name"]: c["command"][1] for c in containers} == {"main": "2000", "side": "1000"}


def test_server_side_apply_owns_fields_and_reports_conflicts(k):
    k("apply", "--server-side", "--field-manager=one", "-f", "-", input=CONFIG_MAP)
    other = CONFIG_MAP.replace("red", "blue").replace(", size: big", "")
    clash = k("apply", "--server-side", "--field-manager=two", "-f", "-", input=other, check=False)
    assert clash.returncode != 0
    assert 'conflict with "one"' in clash.stderr and ".data.colour" in clash.stderr
    k("apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-", input=other)
    assert k.json("configmap", "settings")["data"] == {"colour": "blue", "size": "big"}
    # "one" no longer wants `size`; nobody else owns it, so it goes. `colour` is two's now and stays.
    k("apply", "--server-side", "--field-manager=one", "-f", "-",
      input="{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {}}")
    assert k.json("configmap", "settings")["data"] == {"colour": "blue"}
    managers = {m["manager"] for m in json.loads(
        k("get", "cm", "settings", "-o", "json", "--show-managed-fields").stdout)["metadata"]["managedFields"]}
    assert "two" in managers


def test_get_in_every_format(k):
    k("apply", "-f", "-", input=CONFIG_MAP)
    table = k("get", "configmap").stdout
    assert table.split("\n")[0].split() == ["NAME", "DATA", "AGE"] and "settings" in table
    assert k("get", "cm", "settings", "-o", "name").stdout.strip() == "configmap/settings"
    assert k("get", "cm", "settings", "-o", "jsonpath={.data.colour}").stdout == "red"
    assert "colour: red" in k("get", "cm", "settings", "-o", "yaml").stdout
    assert k("get", "cm", "-o", "custom-columns=N:.metadata.name", "--no-headers").stdout.split() == ["settings"]
    assert k.namespace in k("get", "cm", "-A").stdout
    assert "app=demo" in k("get", "cm", "--show-labels").stdout


def test_selectors(k):
    k("apply", "-f", "-", input=CONFIG_MAP)
    k("create", "configmap", "other")
    names = lambda *args: k("get", "cm", "-o", "name", *args).stdout.split()
    assert names("-l", "app=demo") == ["configmap/settings"]
    assert names("-l", "app in (demo, x),tier!=front") == ["configmap/settings"]
    assert "configmap/settings" not in names("-l", "!app") and "configmap/other" in names("-l", "!app")
    assert names("--field-selector", "metadata.name=other") == ["configmap/other"]
    bad = k("get", "cm", "--field-selector", "data.colour=red", check=False)
    assert bad.returncode != 0 and "data.colour" in bad.stderr and "known field selector" in bad.stderr


def test_watch_sees_each_change(k, server):
    k("create", "configmap", "watched")
    env = {**server.env, "KUBECONFIG": str(server.kubeconfig)}
    watch = subprocess.Popen(
        [KUBECTL, "-n", k.namespace, "get", "cm", "watched", "-w", "-o", "jsonpath={.data.n}{'\\n'}"],
        env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert watch.stdout.readline() == "\n"
        for n in ("1", "2", "3"):
            k("patch", "cm", "watched", "--type=merge", "-p", json.dumps({"data": {"n": n}}))
            assert watch.stdout.readline() == n + "\n"
    finally:
        watch.kill()


def test_describe_shows_the_object_and_its_events(k):
    k("apply", "-f", "-", input=JOB)
    k("wait", "--for=condition=complete", "job/hello", "--timeout=120s")
    out = k("describe", "job", "hello").stdout
    assert "Pods Statuses" in out and "SuccessfulCreate" in out
    pod = k("get", "pods", "-o", "name").stdout.strip()
    out = k("describe", pod).stdout
    assert "Exit Code:" in out and "Node:" in out and "Events:" in out
    node = k("get", "nodes", "-o", "name").stdout.strip()
    assert "Allocatable:" in k("describe", node).stdout


def test_edit_writes_what_the_editor_left(k, server, tmp_path):
    k("apply", "-f", "-", input=CONFIG_MAP)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/colour: red/colour: green/' \"$1\"\n")
    editor.chmod(0o755)
    env = {**server.env, "KUBECONFIG": str(server.kubeconfig), "KUBE_EDITOR": str(editor)}
    done = subprocess.run([KUBECTL, "-n", k.namespace, "edit", "cm", "settings"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert k.json("cm", "settings")["data"]["colour"] == "green"


def test_all_kinds_of_patch(k):
    k("apply", "-f", "-", input=DEPLOYMENT)
    k("patch", "deployment", "web", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":1}]')
    assert k.json("deployment", "web")["spec"]["replicas"] == 1
    k("patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"annotations":{"a":"b","c":"d"}}}')
    k("patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"annotations":{"c":null}}}')
    annotations = k.json("deployment", "web")["metadata"]["annotations"]
    assert annotations["a"] == "b" and "c" not in annotations
    k("patch", "deployment", "web", "--type=strategic", "-p",
      '{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"X","value":"1"}]}]}}}}')
    main = k.json("deployment", "web")["spec"]["template"]["spec"]["containers"][0]
    assert main["command"] == ["sleep", "1000"] and main["env"] == [{"name": "X", "value": "1"}]
    failed = k("patch", "deployment", "web", "--type=json",
               "-p", '[{"op":"test","path":"/spec/replicas","value":7}]', check=False)
    assert failed.returncode != 0


def test_label_and_annotate(k):
    k("create", "configmap", "c")
    k("label", "cm", "c", "a=b")
    assert k("label", "cm", "c", "a=c", check=False).returncode != 0
    k("label", "cm", "c", "a=c", "--overwrite")
    k("annotate", "cm", "c", "note=hello")
    meta = k.json("cm", "c")["metadata"]
    assert meta["labels"] == {"a": "c"} and meta["annotations"] == {"note": "hello"}
    k("label", "cm", "c", "a-")
    assert "a" not in k.json("cm", "c")["metadata"].get("labels", {})


def test_scale_and_rollout(k):
    k("apply", "-f", "-", input=DEPLOYMENT)
    k("rollout", "status", "deployment/web", "--timeout=120s")
    k("scale", "deployment/web", "--replicas=3")
    k("wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/web", "--timeout=120s")
    assert len(k.json("pods", "-l", "app=web")["items"]) == 3
    assert k("scale", "deployment/web", "--current-replicas=9", "--replicas=1", check=False).returncode != 0
    first = {p["metadata"]["uid"] for p in k.json("pods", "-l", "app=web")["items"]}
    k("rollout", "restart", "deployment/web")
    k("rollout", "status", "deployment/web", "--timeout=120s")
    now = {p["metadata"]["uid"] for p in k.json("pods", "-l", "app=web")["items"]
           if "deletionTimestamp" not in p["metadata"]}
    assert not first & now
    k("scale", "deployment/web", "--replicas=0")
    eventually(lambda: not k.json("pods", "-l", "app=web")["items"], "no pods left")


def test_a_job_runs_and_its_log_is_there(k):
    k("apply", "-f", "-", input=JOB)
    k("wait", "--for=condition=complete", "job/hello", "--timeout=120s")
    assert k("logs", "job/hello").stdout == "hello from a job\n"
    assert k("logs", "job/hello", "--timestamps").stdout.split(" ", 1)[1] == "hello from a job\n"
    row = k("get", "job", "hello", "--no-headers").stdout.split()
    assert row[1] == "Complete" and row[2] == "1/1"


def test_logs_follow_until_the_end(k):
    slow = JOB.replace('"echo hello from $WHO"', '"for i in 1 2 3; do echo line $i; sleep 0.2; done"')
    k("apply", "-f", "-", input=slow)
    eventually(lambda: k("get", "pods", "-o", "jsonpath={.items[0].status.phase}").stdout in ("Running", "Succeeded"),
               "the pod runs")
    assert k("logs", "-f", "job/hello").stdout == "line 1\nline 2\nline 3\n"
    assert k("logs", "job/hello", "--tail=1").stdout == "line 3\n"


def test_wait_for_deletion_and_finalizers(k):
    k("create", "configmap", "held")
    k("patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":["example.com/hold"]}}')
    k("delete", "cm", "held", "--wait=false")
    assert "deletionTimestamp" in k.json("cm", "held")["metadata"]
    k("patch", "cm", "held", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    k("wait", "--for=delete", "cm/held", "--timeout=120s")


@pytest.mark.parametrize("cascade, pods_left", [("background", 0), ("foreground", 0), ("orphan", 2)])
def test_delete_cascades(k, cascade, pods_left):
    k("apply", "-f", "-", input=DEPLOYMENT)
    k("rollout", "status", "deployment/web", "--timeout=120s")
    k("delete", "deployment", "web", f"--cascade={cascade}", "--timeout=120s")
    if cascade == "orphan":
        sets = k.json("rs")["items"]
        assert len(sets) == 1 and not sets[0]["metadata"].get("ownerReferences")
    else:
        eventually(lambda: not k.json("rs")["items"], "replica sets are gone")
    eventually(lambda: len(k.json("pods")["items"]) == pods_left, "pods left")


def test_events(k):
    k("apply", "-f", "-", input=JOB)
    k("wait", "--for=condition=complete", "job/hello", "--timeout=120s")
    eventually(lambda: "SuccessfulCreate" in k("events").stdout, "the event is listed")
    assert "SuccessfulCreate" in k("get", "events").stdout
    assert "SuccessfulCreate" in k("events", "--for", "job/hello").stdout


def test_dry_run_changes_nothing(k):
    assert "server dry run" in k("apply", "--dry-run=server", "-f", "-", input=CONFIG_MAP).stdout
    assert k("get", "cm", "settings", check=False).returncode != 0
    k("create", "configmap", "c")
    k("delete", "cm", "c", "--dry-run=server")
    k("patch", "cm", "c", "--dry-run=server", "--type=merge", "-p", '{"data":{"a":"b"}}')
    assert "data" not in k.json("cm", "c")


def test_diff_shows_what_apply_would_change(k):
    k("apply", "-f", "-", input=CONFIG_MAP)
    assert k("diff", "-f", "-", input=CONFIG_MAP, check=False).returncode == 0
    changed = k("diff", "-f", "-", input=CONFIG_MAP.replace("red", "blue"), check=False)
    assert changed.returncode == 1 and "+  colour: blue" in changed.stdout


def test_replace_with_an_old_version_conflicts(k):
    k("apply", "-f", "-", input=CONFIG_MAP)
    old = k("get", "cm", "settings", "-o", "json").stdout
    k("label", "cm", "settings", "new=label")
    clash = k("replace", "-f", "-", input=old, check=False)
    assert clash.returncode != 0 and "the object has been modified" in clash.stderr


@pytest.mark.parametrize("args, code, words", [
    (("get", "cm", "absent"), 1, 'configmaps "absent" not found'),
    (("get", "nonsense"), 1, "the server doesn't have a resource type"),
    (("delete", "cm", "absent"), 1, "not found"),
])
def test_usual_errors(k, args, code, words):
    done = k(*args, check=False)
    assert done.returncode == code and words in done.stderr


def test_errors_carry_the_field_path(k):
    k("create", "configmap", "twice")
    again = k("create", "configmap", "twice", check=False)
    assert 'configmaps "twice" already exists' in again.stderr
    unknown = k("create", "-f", "-", check=False, input=JOB.replace("restartPolicy", "restartPolcy"))
    assert unknown.returncode != 0 and 'unknown field "spec.template.spec.restartPolcy"' in unknown.stderr
    wrong = textwrap.dedent("""
        apiVersion: kubeflow.org/v1
        kind: PyTorchJob
        metadata: {name: wrong}
        spec:
          pytorchReplicaSpecs:
            Master:
              replicas: many
              template: {spec: {containers: [{name: pytorch, image: x}]}}
        """)
    typed = k("create", "-f", "-", check=False, input=wrong)
    assert typed.returncode != 0 and "replicas" in typed.stderr
    name = k("create", "configmap", "Not_A_Name", check=False)
    assert name.returncode != 0 and "metadata.name" in name.stderr


def test_a_pytorchjob_scales_through_its_subresource(k):
    k("apply", "-f", "-", input=textwrap.dedent("""
        apiVersion: kubeflow.org/v1
        kind: PyTorchJob
        metadata: {name: scaled}
        spec:
          runPolicy: {suspend: true}
          pytorchReplicaSpecs:
            Worker:
              replicas: 1
              template: {spec: {containers: [{name: pytorch, image: x, command: [sleep, "9"]}]}}
        """))
    k("scale", "pytorchjob/scaled", "--replicas=2")
    assert k.json("pytorchjob", "scaled")["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2


def test_namespaces_take_their_objects_along(server):
    server.kubectl("create", "namespace", "doomed")
    server.kubectl("-n", "doomed", "create", "configmap", "c")
    server.kubectl("delete", "namespace", "doomed", "--timeout=120s")
    assert server.kubectl("get", "namespace", "doomed", check=False).returncode != 0
    gone = server.kubectl("-n", "doomed", "create", "configmap", "c", check=False)
    assert gone.returncode != 0 and "not found" in gone.stderr


def test_secrets_stay_out_of_tables(k):
    k("create", "secret", "generic", "s", "--from-literal=password=hunter2")
    assert k.json("secret", "s")["data"] == {"password": "aHVudGVyMg=="}
    for args in (("get", "secrets"), ("get", "secrets", "-o", "wide"), ("describe", "secret", "s")):
        out = k(*args).stdout
        assert "hunter2" not in out and "aHVudGVyMg" not in out


@pytest.fixture
def priority_class(server, namespace):
    """Makes classes, and takes them away again: they are there for every namespace."""
    names = []

    def make(name, value, **fields):
        names.append(f"{name}-{namespace}")
        server.kubectl("create", "-f", "-", input=json.dumps({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": names[-1]}, "value": value, **fields}))
        return names[-1]
    yield make
    server.kubectl("delete", "priorityclass", *names)


@pytest.mark.parametrize("how", [("create",), ("apply", "--server-side")])
def test_a_pod_has_the_priority_of_its_class(k, priority_class, how):
    def spec(**fields):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "main", "image": "none", "command": ["true"]}], **fields}}
        made = k(*how, "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod), check=False)
        return json.loads(made.stdout)["spec"] if made.returncode == 0 else made.stderr
    high = priority_class("high", 7, preemptionPolicy="Never")
    named = spec(priorityClassName=high)
    assert (named["priority"], named["preemptionPolicy"]) == (7, "Never")
    assert "must not be provided in pod spec; priority admission controller computed 7" in spec(priorityClassName=high, priority=5)
    assert "no PriorityClass with name absent was found" in spec(priorityClassName="absent")
    assert not spec().get("priorityClassName")
    default = priority_class("default", 3, globalDefault=True)
    assert (spec()["priority"], spec()["priorityClassName"]) == (3, default)
