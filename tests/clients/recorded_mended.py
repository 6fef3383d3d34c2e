"""More sequences that were answered differently once: of Kubernetes' own kinds, and of custom ones."""

from recorded import (
    APPLY, CMS, DEPLOYMENTS, EVENTS, JOBS, JSON, JSON_PATCH, LEASES, MERGE, PODS, SERVICES, STRATEGIC, TABLE, cm, deployment, event, job, lease, pod,
)
from recorded_found import STORAGE_CLASSES

PYTORCHJOBS = "/apis/kubeflow.org/v1/namespaces/{ns}/pytorchjobs"
NEW_EVENTS = "/apis/events.k8s.io/v1/namespaces/{ns}/events"
TRAINJOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{ns}/trainjobs"
TRAINJOB = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "a"},
            "spec": {"runtimeRef": {"name": "r", "apiGroup": None}}}
HEADLESS = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}
SELECTING = {**HEADLESS, "spec": {**HEADLESS["spec"], "selector": {"a": "b"}}}
NEW_EVENT = {"metadata": {"name": "a"}, "regarding": {"namespace": "{ns}"}, "eventTime": "2026-01-01T00:00:00.000000Z",
             "reportingController": "x.y/z", "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal"}
SERIES = {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}
BAD = {"labels": {"bad key": "x"}}


def pytorchjob(role="Worker", name="a", **replicas):
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name}, "spec": {"pytorchReplicaSpecs": {
        role: {"replicas": 1, **replicas}}}}


def indexed(**policies):
    return job("a", completionMode="Indexed", completions=3, parallelism=1, **policies)


MENDED = {
    "families of a service's addresses": [
        ("POST", SERVICES, HEADLESS),
        ("PATCH", SERVICES + "/a", {"spec": {"clusterIP": None}}, MERGE),
        ("GET", SERVICES + "/a"),
        ("PUT", SERVICES + "/a", {**HEADLESS, "spec": {"ports": [{"port": 80}]}}),
        ("PUT", SERVICES + "/a", SELECTING),
        ("PATCH", SERVICES + "/a", {"spec": {"selector": {"a": "b"}}}, MERGE),
        ("PATCH", SERVICES + "/a", {"spec": {"ipFamilies": ["IPv4"]}}, MERGE),
        ("PATCH", SERVICES + "/a", {"spec": {"ipFamilyPolicy": "SingleStack"}}, MERGE),
        ("PUT", SERVICES + "/a", SELECTING),
        ("PATCH", SERVICES + "/a", {"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": None}}, MERGE),
        ("POST", SERVICES, {**HEADLESS, "metadata": {"name": "b"}, "spec": {**HEADLESS["spec"], "ipFamilyPolicy": "SingleStack",
                                                                              "ipFamilies": ["IPv4", "IPv6"]}}),
    ],
    "scales to what there is": [
        ("POST", DEPLOYMENTS, deployment("a")),
        ("PATCH", DEPLOYMENTS + "/a/scale", {}, MERGE),
        ("GET", DEPLOYMENTS + "/a"),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=two", {}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=two", {"spec": {"replicas": 3}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a?fieldManager=x", {"spec": {"replicas": 4}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/a/scale?fieldManager=two", {"spec": {"replicas": 4}}, MERGE),
        ("GET", DEPLOYMENTS + "/a"),
        ("PATCH", DEPLOYMENTS + "/b?fieldManager=one", deployment("b"), APPLY),
        ("PATCH", DEPLOYMENTS + "/b/scale?fieldManager=two", {"spec": {"replicas": 2}}, MERGE),
        ("PATCH", DEPLOYMENTS + "/b/scale?fieldManager=three", {
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "b"}, "spec": {"replicas": 3}}, APPLY),
        ("GET", DEPLOYMENTS + "/b"),
    ],
    "parameters that say nothing": [
        ("POST", STORAGE_CLASSES, {"metadata": {"name": "a-{ns}"}, "provisioner": "example.com/a"}),
        ("PATCH", STORAGE_CLASSES + "/a-{ns}", {"parameters": {}}, MERGE),
        ("PATCH", STORAGE_CLASSES + "/a-{ns}", {"parameters": {"a": None}}, STRATEGIC),
        ("DELETE", STORAGE_CLASSES + "/a-{ns}"),
    ],
    "objects without a version": [
        ("POST", CMS, cm("a")),
        *[("PATCH", CMS + "/a", patch, MERGE) for patch in (
            {"apiVersion": None}, {"kind": None}, {"kind": None, "apiVersion": None}, {"apiVersion": ""}, {"kind": "Secret"})],
        ("PATCH", CMS + "/a", {"kind": None, "apiVersion": None, "data": {"x": "y"}}, STRATEGIC),
        ("PATCH", CMS + "/a", [{"op": "remove", "path": "/apiVersion"}], JSON_PATCH),
        ("POST", CMS, '{"Kind": "X"}'),
        ("POST", DEPLOYMENTS, '{"KIND": "ConfigMap", "apiVersion": "v1"}'),
        ("PUT", CMS + "/a", "null"),
        ("PUT", CMS + "/a", "[]"),
    ],
    "newer events": [
        *[("POST", NEW_EVENTS, {"metadata": {"name": "a"}, "series": series}) for series in ({}, {"count": 1}, SERIES)],
        ("POST", NEW_EVENTS, {**NEW_EVENT, "deprecatedCount": 1}),
        ("POST", NEW_EVENTS, NEW_EVENT),
        *[("PATCH", NEW_EVENTS + "/a", patch, MERGE) for patch in (
            {"deprecatedCount": 1}, {"deprecatedSource": {"component": "x"}}, {"eventTime": "2027-01-01T00:00:00.000000Z"},
            {"series": {"count": 1}}, {"series": SERIES}, {"related": {"name": "x"}}, {"eventTime": None}, {"type": "Odd"})],
        ("POST", EVENTS, {}),
        ("POST", EVENTS, {"metadata": BAD, "involvedObject": {"namespace": "{ns}"}}),
        ("POST", NEW_EVENTS, {"metadata": BAD, "regarding": {"namespace": "{ns}"}}),
    ],
    "all that is wrong at once": [
        ("POST", CMS, {**cm("a"), "metadata": {"name": "a", "finalizers": ["example.com/hold"]}}),
        ("PATCH", CMS + "/a", {"metadata": BAD, "data": {"bad key": "x"}}, MERGE),
        ("DELETE", CMS + "/a?orphanDependents=false"),
        ("PATCH", CMS + "/a", {"metadata": {"finalizers": ["example.com/hold", "example.com/x"]}, "data": {"bad key": "1"}}, MERGE),
        ("PATCH", CMS + "/a", {"metadata": {"finalizers": None}}, MERGE),
        ("POST", DEPLOYMENTS, deployment("a")),
        ("PATCH", DEPLOYMENTS + "/a", {"metadata": BAD, "spec": {"replicas": -1}}, MERGE),
        ("POST", EVENTS, event("a")),
        ("PATCH", EVENTS + "/a", {"metadata": {"finalizers": ["example.com/hold"]}}, MERGE),
        ("DELETE", EVENTS + "/a", {"dryRun": ["All"], "orphanDependents": False}),
        ("PATCH", EVENTS + "/a", {"metadata": {"finalizers": None}}, MERGE),
    ],
    "what is looked at first": [
        ("POST", LEASES, lease("a", holderIdentity="me")),
        ("PUT", LEASES + "/a", lease("a", leaseTransitions=-1)),
        ("POST", CMS, cm("a")),
        ("PATCH", CMS + "/a?fieldManager=one", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}, APPLY),
        *[("PATCH", CMS + f"/{name}?fieldManager=two", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"},
                                                          "data": {"a": "d"}}, APPLY) for name in "an"],
        ("PATCH", CMS + "/a", {"metadata": {"resourceVersion": "1"}, "nonsense": 1}, MERGE),
        ("POST", PODS, pod("p", containers=[{"name": "main", "image": " none"}])),
        ("POST", DEPLOYMENTS, {**deployment("d"), "spec": {**deployment("d")["spec"], "template": {"metadata": {"labels": {"app": "a"}},
                               "spec": {"containers": [{"name": "main", "image": " none"}]}}}}),
    ],
    "whose object it is": [
        ("POST", CMS, cm("a")),
        *[("PATCH", CMS + "/a" + asked, {"metadata": {"uid": "other", **more}}, MERGE) for asked, more in (
            ("", {}), ("?dryRun=All", {"resourceVersion": "1"}), ("", {"finalizers": ["bad"]}))],
        ("PATCH", CMS + "/a", {"metadata": {"uid": ""}}, MERGE),
        *[("PATCH", CMS + f"/{name}?fieldManager=one", {**cm(name), "metadata": {"name": name, "uid": "other"}}, APPLY) for name in "ab"],
        ("PUT", CMS + "/a", {"$changed": "configmaps/a", "by": {"metadata": {"uid": "other"}}}),
        ("POST", SERVICES, HEADLESS),
        ("PUT", SERVICES + "/a", {"$changed": "services/a", "by": {"metadata": {"uid": "other"}}}),
        ("POST", JOBS, job("a")),
        ("PUT", JOBS + "/a", {"$changed": "jobs/a", "by": {"metadata": {"uid": "other"}}}),
        ("PATCH", JOBS + "/a", {"metadata": {"managedFields": []}}, STRATEGIC),
        ("PATCH", JOBS + "/a", "null", JSON_PATCH),
        ("PATCH", JOBS + "/a", '{"kind": 5}', STRATEGIC),
        ("DELETE", JOBS + "/a?propagationPolicy=Background"),
    ],
    "made to end": [
        ("PATCH", LEASES + "/a?fieldManager=one", {**lease("a"), "metadata": {"name": "a", "deletionTimestamp": "2001-01-01T00:00:00Z"}}, APPLY),
        ("GET", LEASES + "/a"),
        ("PATCH", LEASES + "/a?fieldManager=one", {**lease("a"), "metadata": {"name": "a"}}, APPLY),
        ("GET", LEASES + "/a"),
        ("PUT", LEASES + "/b", {**lease("b"), "metadata": {"name": "b", "deletionTimestamp": "2001-01-01T00:00:00Z"}}),
        ("PUT", LEASES + "/b", lease("b", holderIdentity="me")),
        ("GET", LEASES + "/b"),
        ("POST", LEASES, {**lease("c"), "metadata": {"name": "c", "deletionTimestamp": "2001-01-01T00:00:00Z"}}),
        ("PUT", LEASES + "/d", {**lease("d"), "metadata": {"name": "d", "deletionTimestamp": "2001-01-01T00:00:00Z"}}),
        ("DELETE", LEASES + "/d"),
        ("GET", LEASES + "/d"),
        ("watch", LEASES),
    ],
    "names and finalizers that are seldom": [
        ("POST", EVENTS, {**event("a"), "metadata": {"name": "Bad_Name"}}),
        ("POST", NEW_EVENTS, {**NEW_EVENT, "metadata": {"name": "Bad_Other"}}),
        ("POST", LEASES, {**lease("a"), "metadata": {"name": "a", "finalizers": ["bad"]}}),
        ("PATCH", LEASES + "/a", {"metadata": {"finalizers": ["bad key/x"]}}, MERGE),
        ("PATCH", CMS + "/c?fieldManager=one", {**cm("c"), "metadata": {"name": "c", "resourceVersion": "1"}}, APPLY),
        ("PUT", LEASES + "/a?dryRun=All", {"$changed": "leases/a", "by": {"metadata": {"uid": "other"}}}),
        ("POST", CMS, {**cm("b"), "kind": "Status"}),
        ("POST", PODS, {**pod("p"), "kind": "Status", "status": {"phase": "Pending"}}),
        ("PATCH", CMS + "/c", '{"Kind": "X"}', MERGE),
        ("PATCH", CMS + "/c", '{"KIND": "X"}', STRATEGIC),
        ("POST", SERVICES, {**HEADLESS, "spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": "None", "ports": [{"name": "a"}]}}),
        ("POST", SERVICES, {**HEADLESS, "spec": {"clusterIP": "text"}}),
        ("PATCH", SERVICES + "/a?fieldManager=one", {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "annotations": BAD["labels"]},
            "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP"}}, APPLY),
        ("POST", PODS + "?dryRun=All", pod("p", containers=[{"name": "main", "image": "none", "resources": {"limits": {"cpu": None, "memory": "1Gi"}}}])),
        ("POST", SERVICES, {**HEADLESS, "spec": {"type": "ExternalName", "externalName": "example.com"}}, JSON, TABLE),
    ],
    "bookmarks that are asked for": [
        ("POST", CMS, cm("a")),
        *[("watch from here", CMS + "?fieldSelector=metadata.name%3Da&" + asked) for asked in (
            "allowWatchBookmarks=true", "resourceVersion=0&allowWatchBookmarks=true", "resourceVersion=0", "",
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")],
    ],
    "who runs a job": [
        ("POST", JOBS + "?dryRun=All", job("a", managedBy=managed)) for managed in (
            "no-domain", "", "/x", "x/", "example.com/mine", "Bad_Host/x", "example.com/a b", "example.com/" + 60 * "a")
    ],
    "policies of jobs": [
        *[("POST", JOBS + "?dryRun=All", job("a", podFailurePolicy={"rules": [rule]})) for rule in (
            {}, {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0, 2], "containerName": "x"}},
            {"action": "Sometimes", "onExitCodes": {"operator": "Sometimes", "values": []}, "onPodConditions": [{"type": "a b", "status": "x"}]})],
        *[("POST", JOBS + "?dryRun=All", indexed(successPolicy={"rules": rules})) for rules in (
            [], [{}], [{"succeededIndexes": "0,2"}], [{"succeededIndexes": "0-9"}], [{"succeededIndexes": "x", "succeededCount": -1}],
            [{"succeededIndexes": "1,1"}], [{"succeededIndexes": "0", "succeededCount": 2}], [{"succeededCount": 9}])],
        ("POST", JOBS + "?dryRun=All", job("a", successPolicy={"rules": []})),
        ("POST", JOBS + "?dryRun=All", indexed(maxFailedIndexes=9, backoffLimitPerIndex=1)),
        ("POST", JOBS + "?dryRun=All", indexed(maxFailedIndexes=1)),
    ],
    "what pods may do": [
        ("POST", PODS + "?dryRun=All", pod("a", securityContext=context)) for context in (
            {"seccompProfile": {"type": "Localhost"}}, {"seccompProfile": {"type": "Localhost", "localhostProfile": "/a/../b"}},
            {"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "a"}}, {"seccompProfile": {}},
            {"appArmorProfile": {"type": "Localhost"}}, {"appArmorProfile": {"type": "Unconfined", "localhostProfile": "x"}},
            {"appArmorProfile": {"type": "Sometimes"}}, {"sysctls": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]},
            {"sysctls": [{"name": "Bad..Name", "value": "1"}, {"name": "", "value": "1"}]}, {"fsGroupChangePolicy": "Sometimes"})
    ],
    "devices that pods claim": [
        ("POST", PODS + "?dryRun=All", pod("a", resourceClaims=claims)) for claims in (
            [{"name": "gpu"}], [{"name": "Bad_Name", "resourceClaimName": "Bad_Name"}],
            [{"name": "gpu", "resourceClaimName": "one", "resourceClaimTemplateName": "two"}])
    ],
}

# Of kinds that a definition gives the real server.
CUSTOM = {
    "kinds of custom objects": [
        ("POST", PYTORCHJOBS, pytorchjob()),
        *[("PATCH", PYTORCHJOBS + "/a", patch, MERGE) for patch in (
            {"kind": "X"}, {"kind": None}, {"apiVersion": None}, {"apiVersion": "kubeflow.org/v2"}, {"apiVersion": "v1"},
            {"kind": "Pod", "apiVersion": "v1"}, {"kind": ""}, {"kind": 5})],
        *[("PUT", PYTORCHJOBS + "/a", {"$changed": "pytorchjobs/a", "by": change}) for change in (
            {"kind": "X"}, {"apiVersion": None}, {"apiVersion": "kubeflow.org/v2"}, {"kind": "Pod", "apiVersion": "v1"})],
        *[("POST", PYTORCHJOBS, pytorchjob(name="b") | change) for change in (
            {"kind": "X"}, {"apiVersion": None}, {"kind": "MPIJob"}, {"kind": "Pod", "apiVersion": "v1"})],
    ],
    "replicas of custom objects": [
        *[("POST", PYTORCHJOBS, pytorchjob(replicas=replicas)) for replicas in (-1, "x", 1.5)],
        ("POST", PYTORCHJOBS, {**pytorchjob(), "spec": "x"}),
        ("PATCH", PYTORCHJOBS + "/a?fieldManager=two", pytorchjob(replicas=None), APPLY),
        ("POST", PYTORCHJOBS, {**pytorchjob("Master"), "status": {"replicaStatuses": {"Worker": {"active": -1}}}}),
        ("GET", PYTORCHJOBS + "/a/scale"),
        ("PATCH", PYTORCHJOBS + "/a/scale", {"spec": {"replicas": 2}}, MERGE),
        ("GET", PYTORCHJOBS + "/a/scale"),
        ("PATCH", PYTORCHJOBS + "/a/scale?fieldManager=two", {}, MERGE),
        ("GET", PYTORCHJOBS + "/a"),
    ],
    "finalizers of custom objects": [
        ("POST", PYTORCHJOBS, {**pytorchjob(), "metadata": {"name": "a", "finalizers": ["bad", "kubernetes"]}}),
        ("PATCH", PYTORCHJOBS + "/a", {"metadata": {"finalizers": ["bad", "bad.example.com"]}}, MERGE),
    ],
    "nothing in the place of a value": [
        ("POST", TRAINJOBS, TRAINJOB),
        ("PATCH", TRAINJOBS + "/a?fieldManager=one", {**TRAINJOB, "spec": {"runtimeRef": {"name": "r", "apiGroup": "trainer.kubeflow.org"}}}, APPLY),
        ("PATCH", TRAINJOBS + "/a?fieldManager=one", TRAINJOB, APPLY),
    ],
    "custom objects of which nothing is left": [
        ("PATCH", PYTORCHJOBS + "/a?fieldManager=one", pytorchjob(), APPLY),
        ("PATCH", PYTORCHJOBS + "/a?fieldManager=one", {**pytorchjob(), "spec": {}}, APPLY),
        ("PATCH", PYTORCHJOBS + "/a?fieldManager=one", {**pytorchjob(), "spec": {"pytorchReplicaSpecs": {}}}, APPLY),
        ("PATCH", PYTORCHJOBS + "/a/status?fieldManager=two", {
            **pytorchjob(), "metadata": {"name": "a", "resourceVersion": "1"}, "status": {"startTime": "2026-01-01T00:00:00Z"}}, APPLY),
        ("POST", PYTORCHJOBS + "?dryRun=All", {**pytorchjob(), "metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Event", "name": "o", "uid": "u"}]}}),
    ],
}
