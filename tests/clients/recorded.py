"""Requests whose answers must be the same from the embedded server and from a real kube-apiserver.

A scenario is a list of steps (method, path, body, content type); `{ns}` is a fresh namespace. A body may be a function
of the answers so far. Steps named "watch" replay the events since the scenario began.
"""

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

CMS = "/api/v1/namespaces/{ns}/configmaps"
PODS = "/api/v1/namespaces/{ns}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{ns}/deployments"
JOBS = "/apis/batch/v1/namespaces/{ns}/jobs"
SECRETS = "/api/v1/namespaces/{ns}/secrets"


def cm(name, labels=None, **data):
    meta = {"name": name}
    if labels:
        meta["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def pod(name, **spec):
    containers = [{"name": "main", "image": "none", "command": ["true"]}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": containers, **spec}}


def deployment(name):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}},
                                  "spec": {"containers": [{"name": "main", "image": "none",
                                                           "env": [{"name": "A", "value": "1"}]}]}}}}


def job(name, **spec):
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"suspend": True, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}}, **spec}}


def with_version(step, change):
    """The object that step `step` answered, changed: a PUT with the version it had then."""
    def body(answers):
        import copy
        made = copy.deepcopy(answers[step])
        change(made)
        return made
    return body


SCENARIOS = {
    "create, read, replace, delete": [
        ("POST", CMS, cm("a", k="v")),
        ("GET", CMS + "/a"),
        ("POST", CMS, cm("a", k="w")),
        ("PUT", CMS + "/a", with_version(0, lambda o: o["data"].update(k="w"))),
        ("PUT", CMS + "/a", with_version(0, lambda o: o["data"].update(k="x"))),
        ("GET", CMS + "/absent"),
        ("PUT", CMS + "/absent", cm("absent", k="v")),
        ("PUT", CMS + "/a", cm("b", k="v")),
        ("DELETE", CMS + "/a"),
        ("DELETE", CMS + "/a"),
        ("watch", CMS),
    ],
    "names": [
        ("POST", CMS, cm("Not_A_Name")),
        ("POST", CMS, cm("")),
        ("POST", CMS, cm("x" * 254)),
        ("POST", CMS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}}),
        ("POST", CMS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
        ("POST", CMS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        ("POST", CMS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n", "namespace": "elsewhere"}}),
        ("POST", CMS, cm("l", labels={"bad label": "x"})),
        ("POST", CMS, "{not json"),
        ("POST", "/api/v1/namespaces/absent-namespace/configmaps", cm("a")),
        ("GET", "/api/v1/namespaces/{ns}/nonsense"),
        ("GET", "/apis/nonsense.example/v1"),
    ],
    "patches": [
        ("POST", CMS, cm("p", k="v", other="o")),
        ("PATCH", CMS + "/p", {"data": {"k": None, "new": "n"}}, MERGE),
        ("PATCH", CMS + "/p", {"data": {"new": "n"}}, MERGE),
        ("PATCH", CMS + "/p", [{"op": "add", "path": "/data/j", "value": "1"}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "test", "path": "/data/j", "value": "2"}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "remove", "path": "/data/absent"}], JSON_PATCH),
        ("PATCH", CMS + "/p", {"metadata": {"resourceVersion": "1"}, "data": {"k": "z"}}, MERGE),
        ("PATCH", CMS + "/absent", {"data": {}}, MERGE),
        ("PATCH", CMS + "/p", {}, "text/plain"),
        ("PATCH", CMS + "/p", {"metadata": {"name": "q"}}, MERGE),
        ("POST", DEPLOYMENTS, deployment("d")),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"spec": {"containers": [
            {"name": "side", "image": "none"}]}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"spec": {"containers": [
            {"name": "main", "env": [{"name": "B", "value": "2"}]},
            {"$patch": "delete", "name": "side"}]}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, STRATEGIC),
        ("watch", CMS),
    ],
    "server-side apply": [
        ("PATCH", CMS + "/s?fieldManager=one", cm("s", a="1", b="1"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=one", cm("s", a="1", b="1"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=two", cm("s", b="2"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=two&force=true", cm("s", b="2"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=one", cm("s", a="1"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=one", cm("s"), APPLY),
        ("PATCH", CMS + "/s", cm("s"), APPLY),
        ("PATCH", CMS + "/s?fieldManager=three", {"data": {"m": "merge"}}, MERGE),
        ("PATCH", CMS + "/s?fieldManager=two", cm("s", b="2", m="apply"), APPLY),
        ("PATCH", DEPLOYMENTS + "/sd?fieldManager=one", deployment("sd"), APPLY),
        ("PATCH", DEPLOYMENTS + "/sd?fieldManager=two", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sd"},
            "spec": {"template": {"spec": {"containers": [
                {"name": "main", "env": [{"name": "B", "value": "2"}]}]}}}}, APPLY),
    ],
    "finalizers": [
        ("POST", CMS, {**cm("f"), "metadata": {"name": "f", "finalizers": ["example.com/hold"]}}),
        ("DELETE", CMS + "/f"),
        ("GET", CMS + "/f"),
        ("PATCH", CMS + "/f", {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}, MERGE),
        ("PATCH", CMS + "/f", {"metadata": {"finalizers": None}}, MERGE),
        ("GET", CMS + "/f"),
        ("watch", CMS),
    ],
    "dry run": [
        ("POST", CMS + "?dryRun=All", cm("d", k="v")),
        ("GET", CMS + "/d"),
        ("POST", CMS, cm("d", k="v")),
        ("PATCH", CMS + "/d?dryRun=All", {"data": {"k": "w"}}, MERGE),
        ("DELETE", CMS + "/d?dryRun=All"),
        ("GET", CMS + "/d"),
        ("POST", CMS + "?dryRun=Some", cm("e")),
        ("watch", CMS),
    ],
    "selectors and pages": [
        ("POST", CMS, cm("a", labels={"x": "1"})),
        ("POST", CMS, cm("b", labels={"x": "2"})),
        ("POST", CMS, cm("c")),
        ("GET", CMS + "?labelSelector=x%20in%20(1,2)"),
        ("GET", CMS + "?labelSelector=!x"),
        ("GET", CMS + "?labelSelector=x%3D%3D1,x!%3D2"),
        ("GET", CMS + "?labelSelector=x%20within%20y"),
        ("GET", CMS + "?fieldSelector=metadata.name%3Db"),
        ("GET", CMS + "?limit=2"),
        ("GET", CMS + "?continue=nonsense"),
        ("DELETE", CMS + "?labelSelector=x"),
        ("GET", CMS),
        ("watch", CMS + "?labelSelector=x"),
    ],
    "field validation": [
        ("POST", JOBS + "?fieldValidation=Strict", job("j", nonsense=1)),
        ("POST", JOBS + "?fieldValidation=Ignore", job("j", nonsense=1)),
        ("POST", JOBS, job("k", parallelism="many")),
        ("POST", JOBS, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "n"}, "spec": {}}),
        ("POST", PODS, pod("p", containers=[])),
        ("POST", PODS, pod("p", restartPolicy="Sometimes")),
        ("POST", DEPLOYMENTS, {**deployment("d"), "spec": {**deployment("d")["spec"],
                                                          "selector": {"matchLabels": {"app": "other"}}}}),
    ],
    "immutable and generations": [
        ("POST", JOBS, job("g")),
        ("PATCH", JOBS + "/g", {"metadata": {"labels": {"a": "b"}}}, MERGE),
        ("PATCH", JOBS + "/g", {"spec": {"parallelism": 2}}, MERGE),
        ("PATCH", JOBS + "/g", {"status": {"active": 9}}, MERGE),
        ("PATCH", JOBS + "/g/status", {"status": {"active": 1}, "metadata": {"labels": {"no": "no"}}}, MERGE),
        ("PATCH", JOBS + "/g", {"spec": {"completionMode": "Indexed"}}, MERGE),
        ("GET", JOBS + "/g/scale"),
        ("POST", DEPLOYMENTS, deployment("sc")),
        ("GET", DEPLOYMENTS + "/sc/scale"),
        ("PATCH", DEPLOYMENTS + "/sc/scale", {"spec": {"replicas": 3}}, MERGE),
        ("DELETE", JOBS + "/g", {"preconditions": {"uid": "not-it"}}),
        ("DELETE", JOBS + "/g", {"propagationPolicy": "Background"}),
    ],
    "secrets": [
        ("POST", SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                           "stringData": {"password": "hunter2"}}),
        ("GET", SECRETS + "/s"),
        ("POST", SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t"},
                           "data": {"password": "not base64!"}}),
    ],
    "tables": [
        ("POST", CMS, cm("t", k="v")),
        ("GET", CMS, None, JSON, TABLE),
        ("GET", CMS + "/t", None, JSON, TABLE),
        ("GET", DEPLOYMENTS, None, JSON, TABLE),
        ("GET", PODS, None, JSON, TABLE),
        ("GET", JOBS, None, JSON, TABLE),
    ],
}
