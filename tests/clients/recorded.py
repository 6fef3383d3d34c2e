"""Requests whose answers must be the same from the embedded server and from a real kube-apiserver.

A scenario is a list of steps (method, path, body, content type, accept); `{ns}` is a fresh namespace. A body may be a
function of the answers so far. Steps named "watch" replay the events since the scenario began, "watch from here" what a
watch with the parameters of its path sends first.
"""

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

CMS = "/api/v1/namespaces/{ns}/configmaps"
PODS = "/api/v1/namespaces/{ns}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{ns}/deployments"
JOBS = "/apis/batch/v1/namespaces/{ns}/jobs"
SERVICES = "/api/v1/namespaces/{ns}/services"
EVENTS = "/api/v1/namespaces/{ns}/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
REPLICASETS = "/apis/apps/v1/namespaces/{ns}/replicasets"
QUOTAS = "/api/v1/namespaces/{ns}/resourcequotas"
CLAIMS = "/api/v1/namespaces/{ns}/persistentvolumeclaims"
NAMESPACE = "/api/v1/namespaces/{ns}"
NODES = "/api/v1/nodes"
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


def service(name, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def lease(name, **spec):
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


def event(name, **fields):
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": {
        "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "namespace": "{ns}"}, "reason": "Tried",
        "message": "to", "type": "Normal", "source": {"component": "recorded"}, **fields}


def meta(name, **fields):
    made = cm(name)
    made["metadata"].update(fields)
    return made


def owner(**fields):
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "o-uid", **fields}


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
    "services": [
        ("POST", SERVICES, service("h", clusterIP="None", selector={"a": "b"}, ports=[{"port": 80}])),
        ("POST", SERVICES, service("n", clusterIP="None", selector={"a": "b"})),
        ("POST", SERVICES, service("two", clusterIP="None", ports=[{"name": "a", "port": 1},
                                                                 {"name": "b", "port": 2, "protocol": "UDP"}])),
        ("POST", SERVICES, service("unnamed", clusterIP="None", ports=[{"port": 1}, {"port": 2}])),
        ("POST", SERVICES, service("range", clusterIP="None", ports=[{"port": 70000}])),
        ("POST", SERVICES, service("e", type="ExternalName", externalName="example.com")),
        ("POST", SERVICES, service("e2", type="ExternalName")),
        ("POST", SERVICES, service("c", ports=[{"port": 80, "targetPort": "http"}])),
        ("POST", SERVICES, service("nothing")),
        ("POST", SERVICES, service("1digit", clusterIP="None")),
        ("POST", SERVICES, service("t", type="Sometimes", ports=[{"port": 1}])),
        ("PATCH", SERVICES + "/h", {"spec": {"ports": [{"port": 80, "name": "web"}]}}, MERGE),
        ("PATCH", SERVICES + "/h", {"spec": {"clusterIP": "10.96.3.4"}}, MERGE),
        ("PATCH", SERVICES + "/two", {"spec": {"ports": [{"port": 2, "targetPort": 9}]}}, STRATEGIC),
        ("PUT", SERVICES + "/n", service("n", selector={"a": "c"})),
        ("DELETE", SERVICES + "/h"),
    ],
    "namespaces": [
        ("GET", NAMESPACE),
        ("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "{ns}"}}),
        ("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "with.dot"}}),
        ("PATCH", NAMESPACE, {"metadata": {"labels": {"kubernetes.io/metadata.name": "x", "a": "b"}}}, MERGE),
        ("PATCH", NAMESPACE, {"spec": {"finalizers": []}}, MERGE),
        ("POST", CMS, meta("hold", finalizers=["example.com/hold"])),
        ("DELETE", NAMESPACE),
        ("POST", CMS, cm("late")),
        ("POST", PODS, pod("late")),
    ],
    "events": [
        ("POST", EVENTS, event("a.1", count=1, firstTimestamp="2026-01-01T00:00:00Z",
                               lastTimestamp="2026-01-01T00:00:00Z")),
        ("GET", EVENTS + "?fieldSelector=involvedObject.name%3Da,type%3DNormal"),
        ("GET", EVENTS + "?fieldSelector=involvedObject.name%3Db"),
        ("GET", EVENTS + "?fieldSelector=nonsense%3Db"),
        ("PATCH", EVENTS + "/a.1", {"count": 2}, MERGE),
        ("POST", EVENTS, event("a.2", involvedObject={"kind": "ConfigMap", "name": "a", "namespace": "elsewhere"})),
        ("GET", "/apis/events.k8s.io/v1/namespaces/{ns}/events/a.1"),
    ],
    "leases": [
        ("POST", LEASES, lease("l", holderIdentity="me", leaseDurationSeconds=15,
                               acquireTime="2026-01-01T00:00:00.000000Z", renewTime="2026-01-01T00:00:00.000000Z")),
        ("PUT", LEASES + "/l", with_version(0, lambda o: o["spec"].update(holderIdentity="you", leaseTransitions=1))),
        ("PUT", LEASES + "/l", with_version(0, lambda o: o["spec"].update(holderIdentity="late"))),
        ("POST", LEASES, lease("bad", leaseDurationSeconds=0)),
        ("POST", LEASES, lease("bad", leaseTransitions=-1)),
        ("POST", LEASES, lease("micro", renewTime="2026-01-01T00:00:00Z")),
    ],
    "scale": [
        ("POST", DEPLOYMENTS, deployment("sc")),
        ("GET", DEPLOYMENTS + "/sc/scale"),
        ("PUT", DEPLOYMENTS + "/sc/scale", with_version(1, lambda o: o["spec"].update(replicas=2))),
        ("PUT", DEPLOYMENTS + "/sc/scale", with_version(1, lambda o: o["spec"].update(replicas=4))),
        ("PATCH", DEPLOYMENTS + "/sc/scale", {"spec": {"replicas": -1}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/sc/scale", [{"op": "replace", "path": "/spec/replicas", "value": 5}], JSON_PATCH),
        ("PATCH", DEPLOYMENTS + "/absent/scale", {"spec": {"replicas": 1}}, MERGE),
        ("GET", DEPLOYMENTS + "/sc"),
        ("PUT", DEPLOYMENTS + "/sc/scale", {"apiVersion": "autoscaling/v1", "kind": "Scale",
                                           "metadata": {"name": "other", "namespace": "{ns}"}, "spec": {"replicas": 1}}),
    ],
    "status": [
        ("POST", PODS, pod("p", schedulingGates=[{"name": "example.com/held"}])),
        ("PATCH", PODS + "/p/status", {"status": {"phase": "Running", "message": "said"}}, MERGE),
        ("PATCH", PODS + "/p", {"status": {"message": "not here"}}, MERGE),
        ("PATCH", PODS + "/p/status", {"status": {"conditions": [
            {"type": "Ready", "status": "True"}]}}, STRATEGIC),
        ("PATCH", PODS + "/p/status", {"status": {"conditions": [
            {"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]}}, STRATEGIC),
        ("PATCH", PODS + "/p/status?fieldManager=one", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                                                       "status": {"message": "applied"}}, APPLY),
        ("PATCH", PODS + "/p/status?fieldManager=one&force=true", {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"message": "applied"}}, APPLY),
        ("GET", PODS + "/p/status"),
        ("PATCH", CMS + "/p/status", {}, MERGE),
        ("POST", NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-{ns}"},
                         "status": {"capacity": {"cpu": "1"}}}),
        ("PATCH", NODES + "/node-{ns}/status", {"status": {"capacity": {"cpu": "2"}, "nodeInfo": {"machineID": "m"}}}, MERGE),
        ("PATCH", NODES + "/node-{ns}", {"spec": {"unschedulable": True}}, MERGE),
        ("DELETE", NODES + "/node-{ns}"),
        ("DELETE", NODES + "/node-{ns}"),
    ],
    "pods": [
        ("POST", PODS, pod("p", schedulingGates=[{"name": "example.com/held"}])),
        ("PATCH", PODS + "/p", {"spec": {"containers": [{"name": "main", "image": "other"}]}}, STRATEGIC),
        ("PATCH", PODS + "/p", {"spec": {"activeDeadlineSeconds": 5}}, MERGE),
        ("PATCH", PODS + "/p", {"spec": {"hostname": "no"}}, MERGE),
        ("PATCH", PODS + "/p", {"spec": {"schedulingGates": [{"name": "example.com/more"}]}}, MERGE),
        ("POST", PODS + "/p/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                                       "target": {"kind": "Node", "name": "nowhere"}}),
        ("PATCH", PODS + "/p", {"spec": {"schedulingGates": None}}, MERGE),
        ("POST", PODS + "/p/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                                       "target": {"kind": "Node", "name": "nowhere"}}),
        ("GET", PODS + "?fieldSelector=spec.nodeName%3Dnowhere"),
        ("POST", PODS + "/p/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
                                       "target": {"kind": "Node", "name": "elsewhere"}}),
        ("DELETE", PODS + "/p", {"gracePeriodSeconds": 7}),
        ("DELETE", PODS + "/p", {"gracePeriodSeconds": 3}),
        ("DELETE", PODS + "/p", {"gracePeriodSeconds": 0}),
        ("POST", PODS, pod("q", volumes=[{"name": "v", "emptyDir": {}}], containers=[
            {"name": "Main", "image": "none"}])),
        ("POST", PODS, pod("q", containers=[{"name": "a", "image": "none"}, {"name": "a", "image": "none"}])),
        ("POST", PODS, pod("q", containers=[{"name": "a", "image": "none", "volumeMounts": [
            {"name": "absent", "mountPath": "/m"}]}])),
        ("POST", PODS, pod("q", containers=[{"name": "a", "image": "none", "resources": {
            "requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}])),
        ("POST", PODS, pod("q", containers=[{"name": "a", "image": "none", "env": [{"name": "bad=name"}]}])),
        ("POST", PODS, pod("q", terminationGracePeriodSeconds=-1)),
    ],
    "deletecollection": [
        ("POST", CMS, cm("a", labels={"x": "1"})),
        ("POST", CMS, cm("b", labels={"x": "2"})),
        ("POST", CMS, meta("c", labels={"x": "1"}, finalizers=["example.com/hold"])),
        ("DELETE", CMS + "?labelSelector=x%3D1&dryRun=All"),
        ("DELETE", CMS + "?labelSelector=x%3D1"),
        ("GET", CMS + "?labelSelector=x"),
        ("DELETE", CMS + "?fieldSelector=metadata.name%3Db"),
        ("DELETE", CMS + "?labelSelector=x%20in"),
        ("PATCH", CMS + "/c", {"metadata": {"finalizers": None}}, MERGE),
        ("watch", CMS),
    ],
    "versions of lists": [
        ("POST", CMS, cm("a", labels={"x": "1"})),
        # Consistent: it waits until kube-apiserver's cache, from which the next ones may be answered, has the object.
        ("GET", CMS + "?labelSelector=x"),
        ("GET", CMS + "?resourceVersion=0&labelSelector=x"),
        ("GET", CMS + "?resourceVersion={since}&resourceVersionMatch=Exact&labelSelector=x"),
        ("GET", CMS + "?resourceVersion={since}&resourceVersionMatch=NotOlderThan&labelSelector=x"),
        ("GET", CMS + "?resourceVersion={since}&labelSelector=x"),
        ("GET", CMS + "?resourceVersion=0&resourceVersionMatch=Exact"),
        ("GET", CMS + "?resourceVersionMatch=Exact"),
        ("GET", CMS + "?resourceVersionMatch=Sometimes&resourceVersion=1"),
        ("GET", CMS + "?resourceVersion=nonsense"),
        ("GET", CMS + "/a?resourceVersion=0"),
        ("GET", CMS + "?limit=nonsense"),
        ("GET", CMS + "?sendInitialEvents=true"),
    ],
    "watches": [
        ("POST", CMS, cm("a", labels={"x": "1"})),
        ("watch", CMS + "?labelSelector=x"),
        ("watch from here", CMS + "?labelSelector=x&sendInitialEvents=true&allowWatchBookmarks=true"
                                "&resourceVersionMatch=NotOlderThan"),
        ("watch from here", CMS + "?labelSelector=x&resourceVersion=0"),
        ("GET", CMS + "?watch=1&sendInitialEvents=true&timeoutSeconds=1"),
        ("GET", CMS + "?watch=1&resourceVersion=nonsense&timeoutSeconds=1"),
        ("PATCH", CMS + "/a", {"metadata": {"labels": {"x": None}}}, MERGE),
        ("PATCH", CMS + "/a", {"metadata": {"labels": {"x": "2"}}}, MERGE),
        ("watch", CMS + "?labelSelector=x"),
        ("watch", CMS + "?fieldSelector=metadata.name%3Da"),
        ("watch from here", CMS + "?labelSelector=x", PARTIAL),
    ],
    "partial objects": [
        ("POST", CMS, cm("a", labels={"x": "1"}, k="v")),
        ("GET", CMS + "/a", None, JSON, PARTIAL),
        ("GET", CMS + "?labelSelector=x", None, JSON, PARTIAL_LIST),
        ("GET", CMS + "/a", None, JSON, "application/json;as=Nonsense;v=v1;g=meta.k8s.io"),
        ("PATCH", CMS + "/a", {"metadata": {"labels": {"y": "2"}}}, MERGE, PARTIAL),
    ],
    "deletion": [
        ("POST", CMS, cm("a")),
        ("DELETE", CMS + "/a", {"preconditions": {"uid": "not-it"}}),
        ("DELETE", CMS + "/a", {"preconditions": {"resourceVersion": "1"}}),
        ("DELETE", CMS + "/a", {"propagationPolicy": "Sometimes"}),
        ("DELETE", CMS + "/a", {"propagationPolicy": "Orphan", "orphanDependents": True}),
        ("DELETE", CMS + "/a?gracePeriodSeconds=5"),
        ("POST", CMS, cm("b")),
        ("DELETE", CMS + "/b?propagationPolicy=Background"),
        ("POST", JOBS, job("j")),
        ("DELETE", JOBS + "/absent", {"propagationPolicy": "Foreground"}),
        ("DELETE", JOBS + "/j", {"propagationPolicy": "Background", "dryRun": ["All"]}),
        ("DELETE", JOBS + "/j", {"propagationPolicy": "Background"}),
    ],
    "owners": [
        ("POST", CMS, meta("a", ownerReferences=[owner()])),
        ("POST", CMS, meta("b", ownerReferences=[owner(uid="")])),
        ("POST", CMS, meta("b", ownerReferences=[owner(name="")])),
        ("POST", CMS, meta("b", ownerReferences=[owner(apiVersion="")])),
        ("POST", CMS, meta("b", ownerReferences=[owner(apiVersion="v1", kind="Event")])),
        ("POST", CMS, meta("b", ownerReferences=[owner(controller=True), owner(uid="p-uid", controller=True)])),
        ("POST", CMS, meta("b", ownerReferences=[owner(), owner()])),
    ],
    "metadata": [
        ("POST", CMS, meta("v", resourceVersion="1")),
        ("POST", CMS, meta("u", uid="mine", creationTimestamp="2001-01-01T00:00:00Z")),
        ("POST", CMS, meta("l", labels={"a": "x" * 64})),
        ("POST", CMS, meta("l", labels={"x" * 64: "a"})),
        ("POST", CMS, meta("l", labels={"a": "b c"})),
        ("POST", CMS, meta("l", labels={"example.com/a/b": "c"})),
        ("POST", CMS, meta("l", labels={"Example.com/a": "c"})),
        ("POST", CMS, meta("n", annotations={"bad key": "x"})),
        ("POST", CMS, meta("n", annotations={"big": "x" * (256 * 1024 + 1)})),
        ("POST", CMS, meta("f", finalizers=["unqualified"])),
        ("POST", CMS, meta("f", finalizers=["example.com/a b"])),
        ("POST", CMS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "Bad_"}}),
        ("POST", CMS, cm("k", **{"bad key": "v"})),
        ("POST", CMS, {**cm("k", a="v"), "binaryData": {"a": "eA=="}}),
        ("POST", CMS, {**cm("k"), "binaryData": {"a": "not base64!"}}),
        ("POST", CMS, {**cm("k"), "data": {"a": 1}}),
        ("PUT", CMS + "/u", meta("u", uid="other")),
        ("PATCH", CMS + "/u", {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}}, MERGE),
        ("POST", CMS + "/u", cm("u")),
        ("PUT", CMS, cm("u")),
    ],
    "apply of lists": [
        ("PATCH", SERVICES + "/s?fieldManager=one", service("s", clusterIP="None", ports=[
            {"name": "a", "port": 1}, {"name": "b", "port": 2}]), APPLY),
        ("PATCH", SERVICES + "/s?fieldManager=two", service("s", ports=[{"name": "c", "port": 3, "protocol": "TCP"}]), APPLY),
        ("PATCH", SERVICES + "/s?fieldManager=two", service("s", ports=[{"name": "x", "port": 1, "protocol": "TCP"}]), APPLY),
        ("PATCH", SERVICES + "/s?fieldManager=one", service("s", clusterIP="None", ports=[{"name": "b", "port": 2}]), APPLY),
        ("PATCH", SERVICES + "/s?fieldManager=two", service("s"), APPLY),
        ("PATCH", SERVICES + "/s?fieldManager=two", service("s", ports=[
            {"port": 9, "protocol": "TCP"}, {"port": 9, "protocol": "TCP"}]), APPLY),
        ("PATCH", CMS + "/f?fieldManager=one", meta("f", finalizers=["example.com/a"]), APPLY),
        ("PATCH", CMS + "/f?fieldManager=two", meta("f", finalizers=["example.com/b"]), APPLY),
        ("PATCH", CMS + "/f?fieldManager=one", meta("f"), APPLY),
        ("PATCH", CMS + "/f?fieldManager=two", meta("f"), APPLY),
        ("PATCH", CMS + "/m?fieldManager=one", meta("m", managedFields=[{"manager": "x", "operation": "Apply"}]), APPLY),
        ("PATCH", CMS + "/m?fieldManager=one", cm("other"), APPLY),
        ("PATCH", CMS + "/m?fieldManager=one&fieldValidation=Strict", {**cm("m"), "nonsense": 1}, APPLY),
        ("PATCH", JOBS + "/j?fieldManager=one", job("j"), APPLY),
        ("PATCH", JOBS + "/j/status?fieldManager=one", {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
                                                       "status": {"active": 2}}, APPLY),
    ],
    "strategic directives": [
        ("POST", DEPLOYMENTS, deployment("d")),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"spec": {"containers": [
            {"name": "two", "image": "none"}, {"name": "one", "image": "none"}],
            "$setElementOrder/containers": [{"name": "two"}, {"name": "main"}, {"name": "one"}]}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"spec": {"containers": [
            {"$patch": "replace"}, {"name": "only", "image": "none"}]}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"metadata": {"annotations": {"a": "1", "b": "2"}}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"metadata": {
            "annotations": {"$patch": "replace", "c": "3"}}}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"metadata": {"annotations": {"note": "1"}}}, STRATEGIC),
        ("PATCH", DEPLOYMENTS + "/d", {"spec": {"template": {"spec": {"containers": [{"image": "nameless"}]}}}}, STRATEGIC),
        ("POST", CMS, meta("f", finalizers=["example.com/a", "example.com/b"])),
        ("PATCH", CMS + "/f", {"metadata": {"finalizers": ["example.com/c"]}}, STRATEGIC),
        ("PATCH", CMS + "/f", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}, STRATEGIC),
        ("PATCH", CMS + "/f", {"metadata": {"finalizers": None}, "data": {"$patch": "delete"}}, STRATEGIC),
    ],
    "json patches": [
        ("POST", CMS, meta("p", annotations={"a": "1", "with/slash": "2"})),
        ("PATCH", CMS + "/p", [{"op": "copy", "from": "/metadata/annotations/a", "path": "/metadata/annotations/b"},
                               {"op": "move", "from": "/metadata/annotations/with~1slash",
                                "path": "/metadata/annotations/moved"}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "replace", "path": "/metadata/annotations/absent", "value": "1"}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "add", "path": "/data/k", "value": "no parent"}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "nonsense", "path": "/data"}], JSON_PATCH),
        ("PATCH", CMS + "/p", {"op": "add"}, JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "replace", "path": "", "value": {}}], JSON_PATCH),
        ("PATCH", CMS + "/p", [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}], JSON_PATCH),
        ("PATCH", CMS + "/p", "[", JSON_PATCH),
        ("PATCH", CMS + "/p", [], MERGE),
        ("PATCH", CMS + "/p", "{", MERGE),
    ],
    "quotas and claims": [
        ("POST", CLAIMS, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
            "storageClassName": "s", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ("POST", CLAIMS, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "d"}, "spec": {}}),
        ("POST", QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                          "spec": {"hard": {"nonsense": "1"}}}),
        ("POST", QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                          "spec": {"hard": {"pods": "-1"}}}),
        ("POST", QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                          "spec": {"hard": {"pods": "9", "requests.cpu": "1", "requests.nvidia.com/gpu": "1"}}}),
        ("DELETE", CLAIMS + "/absent"),
        ("DELETE", QUOTAS + "/q"),
        ("POST", "/api/v1/namespaces/{ns}/serviceaccounts", {"metadata": {"name": "a"}}),
        ("DELETE", "/api/v1/namespaces/{ns}/serviceaccounts/a"),
    ],
    "replica sets": [
        ("POST", REPLICASETS, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}, "spec": {
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}}}),
        ("PATCH", REPLICASETS + "/r", {"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {
            "metadata": {"labels": {"a": "c"}}}}}, MERGE),
        ("PATCH", REPLICASETS + "/r", {"spec": {"replicas": -1}}, MERGE),
        ("POST", DEPLOYMENTS, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "none"}, "spec": {}}),
    ],
    "more of apply": [
        ("POST", DEPLOYMENTS + "?fieldManager=maker", deployment("d")),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 3}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one&force=true", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 3}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d/scale?fieldManager=scaler", {"spec": {"replicas": 4}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 3}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"nonsense": 3}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one&dryRun=All", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "resourceVersion": "1"}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/n?fieldManager=one", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "n"}, "spec": {"replicas": 3}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {"apiVersion": "v1", "kind": "Deployment", "metadata": {"name": "d"}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", {"kind": "Deployment", "metadata": {"name": "d"}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=one", "a: [", APPLY),
        ("PATCH", DEPLOYMENTS + "/d?fieldManager=" + "x" * 129, deployment("d"), APPLY),
        ("PATCH", DEPLOYMENTS + "/d?force=true&fieldManager=two", {"metadata": {"labels": {"a": "b"}}}, MERGE),
    ],
    "finalizers and their deletion": [
        ("POST", CMS, meta("f", finalizers=["example.com/hold"])),
        ("DELETE", CMS + "/f"),
        ("DELETE", CMS + "/f"),
        ("POST", CMS, cm("f")),
        ("PUT", CMS + "/f", with_version(1, lambda o: o["metadata"].pop("deletionTimestamp"))),
        ("PATCH", CMS + "/f", {"metadata": {"finalizers": ["example.com/new"]}}, MERGE),
        ("PATCH", CMS + "/f", {"data": {"still": "writable"}}, MERGE),
        ("PATCH", CMS + "/f?dryRun=All", {"metadata": {"finalizers": []}}, MERGE),
        ("PATCH", CMS + "/f", [{"op": "remove", "path": "/metadata/finalizers"}], JSON_PATCH),
        ("PATCH", CMS + "/f", {"data": {"gone": "yes"}}, MERGE),
        ("watch", CMS),
    ],
    "pages": [
        *[("POST", CMS, cm(name, labels={"x": "1"})) for name in "abcde"],
        ("GET", CMS + "?labelSelector=x&limit=2"),
        ("GET", lambda answers: CMS + "?labelSelector=x&limit=2&continue=" + answers[5]["metadata"]["continue"]),
        ("DELETE", CMS + "/e"),
        ("GET", lambda answers: CMS + "?labelSelector=x&limit=5&continue=" + answers[6]["metadata"]["continue"]),
        ("GET", lambda answers: CMS + "?labelSelector=x&resourceVersion=1&continue=" + answers[6]["metadata"]["continue"]),
        ("GET", CMS + "?limit=-1&labelSelector=x"),
        ("GET", CMS + "?fieldSelector=metadata.name!%3Da&labelSelector=x"),
        ("GET", CMS + "?fieldSelector=data.k%3Da"),
        ("GET", PODS + "?fieldSelector=spec.nonsense%3Da"),
        ("GET", PODS + "?fieldSelector=status.phase%3D%3DRunning"),
        ("GET", "/api/v1/configmaps?labelSelector=x%3Dnobody"),
        ("GET", CMS + "?labelSelector=x%3D" + "y" * 64),
    ],
    "subresources and verbs": [
        ("POST", "/api/v1/configmaps", cm("a")),
        ("PATCH", CMS, {}, MERGE),
        ("GET", CMS + "/a/nonsense"),
        ("GET", PODS + "/absent/log"),
        ("POST", PODS + "/absent/binding", {"target": {"kind": "Node", "name": "n"}}),
        ("POST", PODS + "/absent/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "absent"}}),
        ("PUT", JOBS + "/absent/status", job("absent")),
        ("GET", "/apis/batch/v1/namespaces/{ns}/nonsense"),
        ("GET", "/apis/batch/v9"),
        ("POST", CMS, ""),
        ("POST", CMS, "[]"),
        ("POST", CMS, cm("a"), "application/nonsense"),
        ("POST", CMS + "?fieldValidation=Nonsense", cm("a")),
        ("POST", CMS + "?fieldValidation=Strict", '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "twice"},'
                                                  ' "data": {"a": "1", "a": "2"}}'),
        ("POST", CMS + "?fieldManager=" + "x" * 129, cm("m")),
        ("DELETE", CMS + "/absent?dryRun=All"),
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
