"""Sequences that were answered differently once, as `generated.py` found and shrank them; for `recorded.py`."""

from recorded import (
    APPLY, CMS, DEPLOYMENTS, EVENTS, JOBS, JSON, JSON_PATCH, LEASES, MERGE, PARTIAL, PARTIAL_LIST, PODS, SECRETS, SERVICES,
    STRATEGIC, TABLE, cm, deployment, event, job, lease, meta, owner, pod, service, with_version,
)

PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"
STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"

FOUND = {
    "amounts and defaults inside pods": [
        ("POST", PODS, pod("a", containers=[{"name": "main", "image": "none", "resources": {
            "requests": {"cpu": "0.5"}, "limits": {"cpu": 1, "memory": "1.5Gi", "example.com/gpu": "1000m"}}}])),
        ("PUT", PODS + "/a", with_version(0, lambda o: o["spec"]["containers"][0]["resources"]["requests"].update(cpu=0.5))),
        ("POST", PODS, pod("b", serviceAccountName="sa", hostNetwork=True, containers=[{
            "name": "main", "image": "none", "ports": [{"containerPort": 80}], "livenessProbe": {"grpc": {"port": 80}},
            "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}], volumes=[
                {"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.labels"}}]}}])),
        ("PATCH", PODS + "/b/status", {"status": {"podIP": "10.0.0.1"}}, MERGE),
    ],
    "types of secrets": [
        *[("POST", SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": f"kubernetes.io/{kind}"})
          for kind in ("tls", "basic-auth", "ssh-auth", "dockercfg", "dockerconfigjson", "service-account-token")],
        ("POST", SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        ("PATCH", SECRETS + "/s", {"type": "kubernetes.io/tls"}, MERGE),
    ],
    "more of events": [
        ("POST", EVENTS, event("a", involvedObject={"kind": "ConfigMap", "name": "a"})),
        ("POST", "/apis/events.k8s.io/v1/namespaces/{ns}/events", {"metadata": {"name": "b"}}),
        ("PATCH", EVENTS + "/a?fieldManager=one", event("a"), APPLY),
        ("PATCH", EVENTS + "/a?fieldManager=two", event("a", reportingInstance="i"), APPLY),
        ("DELETE", EVENTS + "/a", {"propagationPolicy": "Foreground"}),
    ],
    "classes": [
        ("POST", PRIORITIES, {"metadata": {"name": "a-{ns}"}, "value": 5, "preemptionPolicy": "Sometimes"}),
        ("POST", PRIORITIES, {"metadata": {"name": "a-{ns}"}, "value": 2000000000}),
        ("POST", PRIORITIES, {"metadata": {"name": "a-{ns}"}, "value": 5, "globalDefault": False}),
        ("PATCH", PRIORITIES + "/a-{ns}", {"value": 6, "preemptionPolicy": "Never"}, MERGE),
        ("DELETE", PRIORITIES + "/a-{ns}"),
        ("POST", STORAGE_CLASSES, {"metadata": {"name": "a-{ns}"}, "provisioner": "example.com/a", "volumeBindingMode": "Never"}),
        ("POST", STORAGE_CLASSES, {"metadata": {"name": "a-{ns}"}, "provisioner": "example.com/a"}),
        ("PATCH", STORAGE_CLASSES + "/a-{ns}", {"provisioner": "example.com/b", "parameters": {"a": "b"}}, MERGE),
        ("DELETE", STORAGE_CLASSES + "/a-{ns}"),
    ],
    "warnings": [
        ("POST", CMS, meta("b", ownerReferences=[owner(), owner()])),
        ("POST", LEASES, {**lease("a", leaseTransitions=-1), "nonsense": 1}),
    ],
    "made by an update": [
        ("PUT", LEASES + "/a", lease("a", holderIdentity="me")),
        ("PUT", SERVICES + "/a", service("a", clusterIP="None")),
        ("PUT", EVENTS + "/a", event("a")),
        ("PUT", SECRETS + "/a", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
        ("PATCH", LEASES + "/b", {"spec": {"holderIdentity": "me"}}, MERGE),
    ],
    "names that are missing": [
        ("PUT", CMS + "/a", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
        ("PATCH", CMS + "/a?fieldManager=one", {"apiVersion": "v1", "kind": "ConfigMap"}, APPLY),
        ("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}}),
        ("PUT", DEPLOYMENTS + "/a/scale", {"spec": {"replicas": 1}}),
    ],
    "views that do not fit": [
        ("POST", CMS, cm("a")),
        ("GET", CMS + "/a", None, JSON, PARTIAL_LIST + ",application/json"),
        ("GET", CMS, None, JSON, PARTIAL),
        ("GET", CMS + "/a", None, JSON, "text/html"),
        ("GET", CMS + "/a?watch=1&timeoutSeconds=1"),
        ("HEAD", CMS + "/a"),
        ("GET", CMS + "/a?resourceVersion=nonsense"),
        ("GET", "/api/v9/namespaces/{ns}/configmaps"),
    ],
    "parameters that do not fit": [
        ("POST", CMS + "?dryRun=", cm("a")),
        ("GET", CMS + "?labelSelector=%3D1"),
        ("GET", CMS + "?labelSelector=x,%3D1"),
        ("GET", CMS + "?watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1&timeoutSeconds=1"),
        ("GET", CMS + "?continue=nonsense&resourceVersion=1&resourceVersionMatch=Exact"),
        ("POST", CMS, {"apiVersion": ["v1"], "kind": "ConfigMap", "metadata": {"name": "a"}}),
        ("POST", LEASES, lease("a", renewTime="then")),
        ("POST", LEASES, lease("a", renewTime="2026-01-01T00:00:00.5Z")),
        ("POST", SERVICES, service("a", clusterIP="None", ports=[{"port": 1, "protocol": "ICMP"}])),
        ("POST", CMS, cm("a")),
        ("PATCH", CMS + "/a", {"metadata": {"$patch": "merge"}}, STRATEGIC),
        ("PATCH", CMS + "/a?fieldManager=one", {**cm("a"), "data": {"k": False}}, APPLY),
        ("PATCH", CMS + "/a", {"metadata": {"generateName": "x-"}}, MERGE),
    ],
    "classes that pods name": [
        ("POST", PODS, pod("a", priorityClassName="absent")),
        ("PATCH", PODS + "/a?fieldManager=one", pod("a", priorityClassName="absent"), APPLY),
        ("POST", PODS, pod("a", priority=5)),
        ("POST", PODS, pod("a", priorityClassName="system-node-critical", containers=[{"name": {}}])),
        ("POST", PODS, pod("a", priorityClassName="system-node-critical")),
        ("PUT", PODS + "/a", pod("a", priorityClassName="system-node-critical")),
        ("PATCH", PODS + "/b?fieldManager=one", pod("b", priorityClassName="system-cluster-critical"), APPLY),
        ("GET", PODS + "/b"),
    ],
    "the end of an object": [
        ("POST", CMS, cm("a")),
        ("PUT", CMS + "/a", meta("a", deletionTimestamp="2001-01-01T00:00:00Z", deletionGracePeriodSeconds=5)),
        ("PATCH", CMS + "/a", {"metadata": {"deletionGracePeriodSeconds": 0, "finalizers": ["example.com/hold"]}}, MERGE),
        ("PATCH", CMS + "/a", {"metadata": {"finalizers": ["example.com/hold"]}}, MERGE),
        ("DELETE", CMS + "/a"),
        ("PATCH", CMS + "/a", {"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}}, MERGE),
        ("PATCH", CMS + "/a", {"metadata": {"deletionGracePeriodSeconds": 9}}, MERGE),
        ("PATCH", CMS + "/a", {"metadata": {"finalizers": None}}, MERGE),
        ("watch", CMS),
    ],
    "strategies and deadlines of deployments": [
        ("POST", DEPLOYMENTS, deployment("a")),
        ("PATCH", DEPLOYMENTS + "/a?fieldManager=one&force=true", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"strategy": {"type": "Recreate"}}}, APPLY),
        ("PATCH", DEPLOYMENTS + "/a", {"spec": {"strategy": {"type": "Recreate"}}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a", {"spec": {"template": {"spec": {"activeDeadlineSeconds": 5}}}}, MERGE),
    ],
    "writes of a status": [
        ("POST", DEPLOYMENTS, {**deployment("a"), "metadata": {"name": "a", "labels": {"x": "1"}}}),
        ("PUT", DEPLOYMENTS + "/a/status", deployment("a")),
        ("PATCH", DEPLOYMENTS + "/a/status", {"status": {}, "metadata": {"labels": {"x": "2"}}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a/status", {"status": {"replicas": 1}}, MERGE),
        ("POST", JOBS, {**job("j"), "metadata": {"name": "j", "labels": {"x": "1"}}}),
        ("PATCH", JOBS + "/j/status", {"status": {}}, MERGE),
    ],
    "who scaled": [
        ("POST", DEPLOYMENTS, {**deployment("a"), "spec": {**deployment("a")["spec"], "replicas": 1}}),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=two", {"spec": {"replicas": 3}}, MERGE),
        ("GET", DEPLOYMENTS + "/a"),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=two", {"spec": {"replicas": 0}}, MERGE),
        ("GET", DEPLOYMENTS + "/a"),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=three", {"spec": {"replicas": 2}}, MERGE),
        ("GET", DEPLOYMENTS + "/a"),
    ],
    "pods that are over": [
        ("POST", PODS, pod("a")),
        ("PATCH", PODS + "/a/status", {"status": {"phase": "Failed"}}, MERGE),
        ("GET", PODS + "/a", None, JSON, TABLE),
        ("POST", PODS, pod("b")),
        ("PATCH", PODS + "/b/status", {"status": {"phase": "Succeeded"}}, MERGE),
        ("GET", PODS, None, JSON, TABLE),
    ],
    "a patch that makes no object": [
        ("POST", CMS, cm("a", labels={"x": "1"})),
        ("PATCH", CMS + "/a", [{"op": "move", "path": "/metadata/name", "from": "/metadata/labels"}], JSON_PATCH),
    ],
    "conflicts in their order": [
        ("POST", PODS, pod("p")),
        ("PATCH", PODS + "/p/status", {"metadata": {"labels": {"x": "2"}}}, MERGE),
        ("PATCH", PODS + "/p?fieldManager=one", {**pod("p", containers=[{"name": "main", "image": "other"}]), "metadata": {
            "name": "p", "labels": {"x": "1"}}}, APPLY),
        ("POST", JOBS, {**job("a"), "metadata": {"name": "a"}}),
        ("PATCH", JOBS + "/a?fieldManager=one", job("a", parallelism=3, template={"metadata": {"labels": {"l": "m"}}, "spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "main", "image": "other"}]}}), APPLY),
        ("POST", JOBS, job("b", template={"metadata": {"labels": {"l": "m"}}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}})),
    ],
}
