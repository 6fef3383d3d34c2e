"""The kinds that generated sequences are about, and what may stand in their objects."""

from dataclasses import dataclass, field
from typing import Callable

from generated_pods import (
    deployment,
    job,
    job_change,
    job_status,
    pod,
    pod_change,
    pod_status,
    pytorch_change,
    pytorch_job,
    replica_set,
    workload_change,
    workload_status,
)


@dataclass
class Kind:
    path: str
    api_version: str
    kind: str
    content: Callable
    weight: int = 2
    status: Callable | None = None
    scale: bool = False
    selectable: list = field(default_factory=list)
    # What may be changed of an object, for kinds whose specs are checked by many more rules on the real one than here:
    # they get specs that are right, and changes that both have an opinion of.
    changes: Callable | None = None

    @property
    def plural(self):
        return self.path.rsplit("/", 1)[1]

    @property
    def is_custom(self):
        """Whether it is served for a definition."""
        return any(name in self.api_version for name in ("kubeflow.org", "x-k8s.io"))

    @property
    def namespaced(self):
        return "{ns}" in self.path

    def named(self, name):
        """Objects outside of namespaces have the sequence's namespace in their names."""
        return name if self.namespaced else f"{name}-{{ns}}"

    def selector(self, selector):
        return selector if self.namespaced else f"of%3D{{ns}},{selector}"


def config_map(draw):
    made = {"data": draw.some({k: draw.choice("123") for k in "klm"})}
    if draw.often(0.1):
        made["binaryData"] = {draw.choice("kb"): "eA=="}
    if draw.often(0.05):
        made["immutable"] = draw.choice([True, False])
    return made


def secret(draw):
    made = draw.some(
        {
            "data": draw.some({"k": "djE=", "l": "djI=", "m": ""}),
            "stringData": draw.some({"k": "v", "s": "t"}),
        }
    )
    if draw.often(0.25):
        made["type"] = draw.choice(
            [
                "Opaque",
                "example.com/mine",
                "kubernetes.io/basic-auth",
                "kubernetes.io/dockerconfigjson",
                "kubernetes.io/tls",
                "kubernetes.io/service-account-token",
                "kubernetes.io/ssh-auth",
                "kubernetes.io/dockercfg",
            ]
        )
    if draw.often(0.05):
        made["immutable"] = True
    return made


def service(draw):
    ports = (
        [{"port": 80}],
        [{"name": "a", "port": 1}, {"name": "b", "port": 2, "protocol": "UDP"}],
        [{"port": 1}, {"port": 2}],
        [{"name": "a", "port": 1, "targetPort": draw.choice(["http", 9, 70000])}],
        [{"port": 80, "protocol": "ICMP"}],
        [{"port": 80, "appProtocol": "http"}],
    )
    spec = draw.some(
        {"ports": draw.choices(ports, [6, 6, 1, 2, 1, 1])[0], "selector": draw.some({"a": "b", "c": "d"})}, 0.85
    )
    spec["clusterIP"] = "None"
    if draw.often(0.12):
        spec = {"type": "ExternalName", "externalName": draw.choice(["example.com", "example.com.", "", "Bad Name"])} | draw.some(
            {"ports": [{"port": 80}], "clusterIP": draw.choice(["None", ""]), "selector": {"a": "b"}}, 0.2)
    elif draw.often(0.25):
        spec |= draw.some(
            {
                "type": "ClusterIP",
                "sessionAffinity": draw.choice(["None", "ClientIP"]),
                "publishNotReadyAddresses": True,
                "internalTrafficPolicy": draw.choice(["Local", "Cluster"]),
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": ["IPv4"],
            },
            0.3,
        )
    return {"spec": spec}


def lease(draw):
    return {
        "spec": draw.some(
            {
                "holderIdentity": draw.choice(["me", "you", ""]),
                "leaseDurationSeconds": draw.choice([15, 30, 0]),
                "leaseTransitions": draw.choice([0, 1, -1]),
                "acquireTime": "2026-01-01T00:00:00.000000Z",
                "renewTime": "2026-01-01T00:00:01.123456Z",
            },
            0.4,
        )
    }


def event(draw):
    return draw.some(
        {"involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "name": draw.choice("ab"), "namespace": "{ns}"}}, 1
    ) | draw.some(
        {
            "reason": draw.choice(["Tried", "Done"]),
            "message": "to",
            "type": draw.choice(["Normal", "Warning", "Odd"]),
            "source": {"component": "generated"},
            "count": draw.choice([1, 2]),
            "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:00:00Z",
            "reportingComponent": "example.com/generated",
            "reportingInstance": "i",
            "action": "Trying",
        },
        0.6,
    )


def new_event(draw):
    return draw.some(
        {
            "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "name": draw.choice("ab"), "namespace": "{ns}"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "example.com/generated",
            "reportingInstance": "i",
            "action": "Trying",
            "reason": draw.choice(["Tried", "Done"]),
            "type": draw.choice(["Normal", "Warning", "Odd"]),
        },
        0.95,
    ) | draw.some(
        {
            "note": "to",
            "related": {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "namespace": "{ns}"},
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"},
        },
        0.3,
    )


def storage_class(draw):
    return {"provisioner": draw.choice(["example.com/a", "example.com/a", "example.com/b"])} | (
        draw.some(
            {
                "parameters": {"a": draw.choice("12")},
                "reclaimPolicy": draw.choice(["Retain", "Delete", "x"]),
                "allowVolumeExpansion": draw.choice([True, False]),
                "volumeBindingMode": draw.choice(["WaitForFirstConsumer", "Immediate", "x"]),
                "mountOptions": ["ro"],
            },
            0.4,
        )
        if draw.often(0.6)
        else {}
    )


def service_account(draw):
    return draw.some(
        {
            "secrets": [{"name": draw.choice("st")}],
            "imagePullSecrets": [{"name": "p"}],
            "automountServiceAccountToken": draw.choice([True, False]),
        }
    )


def job_conditions(draw):
    return draw.some(
        {
            "conditions": [
                {
                    "type": draw.choice(["Created", "Running", "Succeeded"]),
                    "status": "True",
                    "reason": "R",
                    "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "lastUpdateTime": "2026-01-01T00:00:00Z",
                }
            ],
            "replicaStatuses": {"Worker": draw.some({"active": 1, "selector": "a=b", "failed": 1})},
            "startTime": "2026-01-01T00:00:00Z",
        }
    )


def train_job(draw):
    return {
        "spec": {
            "runtimeRef": {"name": "torch-distributed"}
            | draw.some({"kind": "ClusterTrainingRuntime", "apiGroup": "trainer.kubeflow.org"}, 0.8)
        }
        | (
            draw.some(
                {
                    "trainer": draw.some(
                        {
                            "numNodes": draw.choice([1, 2]),
                            "image": "none",
                            "command": ["x"],
                            "env": [{"name": "A", "value": "1"}],
                            "numProcPerNode": draw.choice([1, "auto"]),
                            "resourcesPerNode": {"requests": {"cpu": draw.choice([1, "2"])}},
                        },
                        0.4,
                    ),
                    "suspend": draw.choice([True, False]),
                    "labels": {"a": "b"},
                    "managedBy": "trainer.kubeflow.org/trainjob-controller",
                    "initializer": {"dataset": {"storageUri": "hf://x"}},
                }
            )
            if draw.often(0.8)
            else {}
        )
    }


def conditions(draw):
    return {
        "conditions": [
            {
                "type": draw.choice(["Complete", "Suspended", "Failed"]),
                "status": draw.choice(["True", "False"]),
                "reason": "R",
                "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ]
    }


def anything(draw):
    return {
        "spec": draw.some(
            {
                "a": draw.choice([1, "x", None, [], {}, [1, None]]),
                "b": {"c": draw.choice([1.5, 2, 0.0, "y", True])},
                "d": [{"name": "n"}, {"name": "m"}],
                "suspend": draw.choice([True, False]),
            }
        )
    }


def any_status(draw):
    return draw.some(
        {
            "restarts": draw.choice([1, 2]),
            "terminalState": "Completed",
            "conditions": [{"type": "Completed", "status": "True"}],
        }
    )


NAMESPACED = "namespaces/{ns}"
KINDS = [
    Kind(f"/api/v1/{NAMESPACED}/configmaps", "v1", "ConfigMap", config_map, 6),
    Kind(f"/api/v1/{NAMESPACED}/secrets", "v1", "Secret", secret, selectable=["type%3DOpaque"]),
    Kind(
        f"/api/v1/{NAMESPACED}/services",
        "v1",
        "Service",
        service,
        3,
        selectable=["spec.type%3DClusterIP", "spec.clusterIP%3DNone"],
    ),
    Kind(f"/api/v1/{NAMESPACED}/serviceaccounts", "v1", "ServiceAccount", service_account, 1),
    Kind(
        f"/api/v1/{NAMESPACED}/events",
        "v1",
        "Event",
        event,
        3,
        selectable=["involvedObject.name%3Da", "type!%3DNormal", "reason%3DTried", "source%3Dgenerated"],
    ),
    Kind(
        f"/apis/events.k8s.io/v1/{NAMESPACED}/events",
        "events.k8s.io/v1",
        "Event",
        new_event,
        1,
        selectable=["regarding.name%3Da", "type!%3DNormal", "reason%3DTried", "reportingController%3Dexample.com/generated"],
    ),
    Kind(f"/apis/coordination.k8s.io/v1/{NAMESPACED}/leases", "coordination.k8s.io/v1", "Lease", lease, 3),
    Kind("/apis/storage.k8s.io/v1/storageclasses", "storage.k8s.io/v1", "StorageClass", storage_class, 1),
    Kind(
        f"/api/v1/{NAMESPACED}/pods",
        "v1",
        "Pod",
        pod,
        6,
        status=pod_status,
        changes=pod_change,
        selectable=[
            "status.phase%3DPending",
            "spec.nodeName%3D",
            "spec.restartPolicy!%3DNever",
            "spec.nodeName%3Dn,status.phase!%3DFailed",
        ],
    ),
    Kind(
        f"/apis/batch/v1/{NAMESPACED}/jobs",
        "batch/v1",
        "Job",
        job,
        4,
        status=job_status,
        changes=job_change,
        selectable=["status.successful%3D0"],
    ),
    Kind(
        f"/apis/apps/v1/{NAMESPACED}/deployments",
        "apps/v1",
        "Deployment",
        deployment,
        4,
        status=workload_status,
        scale=True,
        changes=workload_change,
    ),
    Kind(
        f"/apis/apps/v1/{NAMESPACED}/replicasets",
        "apps/v1",
        "ReplicaSet",
        replica_set,
        1,
        status=workload_status,
        scale=True,
        changes=workload_change,
        selectable=["status.replicas%3D0"],
    ),
    Kind(
        f"/apis/kubeflow.org/v1/{NAMESPACED}/pytorchjobs",
        "kubeflow.org/v1",
        "PyTorchJob",
        pytorch_job,
        5,
        status=job_conditions,
        scale=True,
        changes=pytorch_change,
    ),
    Kind(
        f"/apis/trainer.kubeflow.org/v1alpha1/{NAMESPACED}/trainjobs",
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
        train_job,
        3,
        status=conditions,
    ),
    Kind(
        f"/apis/jobset.x-k8s.io/v1alpha2/{NAMESPACED}/jobsets",
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        anything,
        3,
        status=any_status,
    ),
    Kind(
        "/apis/kueue.x-k8s.io/v1beta1/clusterqueues",
        "kueue.x-k8s.io/v1beta1",
        "ClusterQueue",
        anything,
        1,
        status=any_status,
    ),
]
