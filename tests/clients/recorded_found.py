"""Sequences that were answered differently once, as `generated.py` found and shrank them; for `recorded.py`."""

from recorded import (
    APPLY, CMS, DEPLOYMENTS, EVENTS, JOBS, JSON, LEASES, MERGE, PARTIAL, PARTIAL_LIST, PODS, SECRETS, SERVICES,
    STRATEGIC, cm, event, job, lease, meta, owner, pod, service, with_version,
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
    "conflicts in their order": [
        ("POST", JOBS, {**job("a"), "metadata": {"name": "a"}}),
        ("PATCH", JOBS + "/a?fieldManager=one", job("a", parallelism=3, template={"metadata": {"labels": {"l": "m"}}, "spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "main", "image": "other"}]}}), APPLY),
        ("POST", JOBS, job("b", template={"metadata": {"labels": {"l": "m"}}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}})),
    ],
}
