"""Pods, and what is made of pods, for generated sequences."""

CONTAINER_PARTS = {
    "command": ["true"],
    "args": ["x"],
    "workingDir": "/w",
    "imagePullPolicy": "Never",
    "tty": True,
    "terminationMessagePolicy": "FallbackToLogsOnError",
}


def container(draw, name="main"):
    made = {
        "name": name,
        "image": draw.choice(["none", "none:1", "r.example.com:5000/none", "none@sha256:" + "a" * 64]),
    }
    if draw.often(0.6):
        made |= draw.some(CONTAINER_PARTS, 0.3)
    if draw.often(0.6):
        made |= draw.some(
            {
                "env": [
                    {"name": "A", "value": draw.choice("12")},
                    {
                        "name": "B",
                        "valueFrom": draw.choice(
                            [
                                {"fieldRef": {"fieldPath": "metadata.name"}},
                                {"secretKeyRef": {"name": "s", "key": "k"}},
                                {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}},
                                {"resourceFieldRef": {"resource": "limits.cpu"}},
                            ]
                        ),
                    },
                ][: draw.randint(1, 2)],
                "ports": draw.choice(
                    [
                        [{"containerPort": 80}],
                        [{"containerPort": 23456, "name": "pytorchjob-port", "protocol": "TCP"}],
                        [{"containerPort": 80, "name": "a"}, {"containerPort": 80, "name": "b", "protocol": "UDP"}],
                    ]
                ),
                "resources": draw.choice(
                    [
                        {"requests": {"cpu": "1"}},
                        {"limits": {"cpu": "2", "memory": "1Gi"}},
                        {"limits": {"nvidia.com/gpu": 1}},
                        {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"cpu": 1, "memory": "1G"}},
                        {"requests": {"cpu": "0.5"}},
                        {"limits": {"memory": "1.5Gi"}},
                        {"requests": {"memory": "1e3"}},
                    ]
                ),
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "envFrom": [{"configMapRef": {"name": "c"}}],
                "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": draw.choice([5, 1])},
                "livenessProbe": draw.choice(
                    [{"exec": {"command": ["x"]}}, {"httpGet": {"port": 80}}, {"grpc": {"port": 80}}]
                ),
                "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                "securityContext": draw.choice([{"runAsUser": 0}, {"capabilities": {"add": ["IPC_LOCK"]}}]),
            },
            0.3,
        )
    return made


def pod_spec(draw, policies=("Never", "Always", "OnFailure")):
    containers = [container(draw)] + ([container(draw, "side")] if draw.often(0.2) else [])
    spec = {
        "containers": containers,
        # Each sort has its name: who changes the sort of a volume changes more than both servers speak of.
        "volumes": [
            {"name": "v", "emptyDir": {}},
            draw.choice(
                [
                    {"name": "a", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                    {"name": "b", "configMap": {"name": "c"}},
                    {"name": "c", "secret": {"secretName": "s"}},
                    {"name": "d", "hostPath": {"path": "/h"}},
                    {"name": "e"},
                    {"name": "f", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "g", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
                    {
                        "name": "h",
                        "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.labels"}}]},
                    },
                ]
            ),
        ],
    }
    if policies != ("Always",) and draw.often(0.85):
        spec["restartPolicy"] = draw.choice(policies)
    if draw.often(0.5):
        spec |= draw.some(
            {
                "terminationGracePeriodSeconds": draw.choice([0, 30, 5]),
                "nodeSelector": {"a": "b"},
                "tolerations": [
                    draw.choice(
                        [
                            {"key": "nvidia.com/gpu", "operator": "Exists"},
                            {"operator": "Exists"},
                            {"key": "a", "value": "b", "effect": "NoSchedule"},
                            {"key": "a", "operator": "Equal", "value": "b"},
                        ]
                    )
                ],
                "hostname": "h",
                "subdomain": "s",
                "hostNetwork": True,
                "dnsPolicy": "Default",
                "shareProcessNamespace": True,
                "imagePullSecrets": [{"name": "p"}],
                "serviceAccountName": "sa",
                "securityContext": {"runAsUser": 1, "fsGroup": 2},
                "schedulerName": "kueue",
                "initContainers": [
                    {"name": "init", "image": "none", "resources": {"limits": {"cpu": draw.choice([1, "1.5"])}}}
                ],
                "schedulingGates": [{"name": "example.com/held"}],
                "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["x"]}],
                "affinity": draw.choice(
                    [
                        {
                            "nodeAffinity": {
                                "requiredDuringSchedulingIgnoredDuringExecution": {
                                    "nodeSelectorTerms": [
                                        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
                                    ]
                                }
                            }
                        },
                        {
                            "podAntiAffinity": {
                                "preferredDuringSchedulingIgnoredDuringExecution": [
                                    {
                                        "weight": 1,
                                        "podAffinityTerm": {
                                            "topologyKey": "z",
                                            "labelSelector": {"matchLabels": {"a": "b"}},
                                        },
                                    }
                                ]
                            }
                        },
                    ]
                ),
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "z",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"a": "b"}},
                    }
                ],
            },
            0.12,
        )
    return spec


def pod(draw):
    # Gates keep everybody from scheduling it.
    return {"spec": pod_spec(draw)}


def pod_status(draw):
    conditions = [
        {
            "type": draw.choice(["Ready", "PodScheduled", "example.com/mine"]),
            "status": draw.choice(["True", "False"]),
            "reason": "R",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    return draw.some(
        {
            "phase": draw.choice(["Running", "Succeeded", "Failed", "Odd"]),
            "message": "m",
            "conditions": conditions,
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "startTime": "2026-01-01T00:00:00Z",
            "reason": "Evicted",
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "none",
                    "imageID": "",
                    "ready": True,
                    "restartCount": draw.choice([0, 1]),
                    "state": draw.choice(
                        [
                            {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                            {"terminated": {"exitCode": 1, "reason": "Error"}},
                            {"waiting": {"reason": "W"}},
                        ]
                    ),
                }
            ],
        },
        0.4,
    )


def template(draw, labels=None, policies=("Never", "OnFailure")):
    made = {"spec": pod_spec(draw, policies)}
    made["spec"].pop("schedulingGates", None)
    if labels or draw.often(0.3):
        made["metadata"] = {"labels": labels or {"l": "m"}}
    return made


def job(draw):
    # With labels of its own: the real one gives a Job those of its template, and with them its uid, at its second write.
    spec = {"suspend": draw.choice([True, True, True, False]), "template": template(draw, {"l": "m"})}
    spec |= draw.some(
        {
            "parallelism": draw.choice([1, 2, 0, 0, -1]),
            "completions": draw.choice([1, 2]),
            "completionMode": "NonIndexed",
            "backoffLimit": draw.choice([0, 3]),
            "ttlSecondsAfterFinished": draw.choice([10, 0]),
            "activeDeadlineSeconds": 10,
            "managedBy": "kueue.x-k8s.io/multikueue",
            "podReplacementPolicy": "Failed",
        },
        0.2,
    )
    return {"spec": spec}


def job_status(draw):
    return draw.some(
        {
            "active": draw.choice([1, 2]),
            "succeeded": 1,
            "failed": 1,
            "ready": 1,
            "conditions": [{"type": draw.choice(["Suspended", "Mine"]), "status": "True"}],
        },
        0.3,
    )


def deployment(draw):
    spec = {
        "replicas": draw.choice([0, 1, 2]),
        "selector": {"matchLabels": {"app": "a"}},
        "template": template(draw, {"app": draw.choice("aaaab")}, ("Always",)),
    }
    if draw.often(0.4):
        spec |= draw.some(
            {
                "strategy": draw.choice(
                    [{"type": "Recreate"}, {"rollingUpdate": {"maxSurge": draw.choice([1, "50%"])}}]
                ),
                "minReadySeconds": 1,
                "revisionHistoryLimit": draw.choice([2, 0]),
                "paused": True,
                "progressDeadlineSeconds": 10,
            },
            0.3,
        )
    return {"spec": spec}


def replica_set(draw):
    made = deployment(draw)
    return {
        "spec": {k: v for k, v in made["spec"].items() if k in ("replicas", "selector", "template", "minReadySeconds")}
    }


def workload_status(draw):
    return {"replicas": 3} | draw.some(
        {
            "readyReplicas": draw.choice([1, 3]),
            "observedGeneration": 1,
            "conditions": [
                {"type": draw.choice(["Available", "Progressing"]), "status": draw.choice(["True", "False"])}
            ],
        },
        0.4,
    )


def pytorch_job(draw):
    replicas = {
        role: {
            "replicas": draw.choice([1, 2]),
            "restartPolicy": draw.choice(["Never", "OnFailure", "ExitCode"]),
            "template": template(draw),
        }
        for role in draw.choice([["Master"], ["Master", "Worker"], ["Worker"]])
    }
    spec = {"pytorchReplicaSpecs": replicas}
    if draw.often(0.5):
        spec |= draw.some(
            {
                "runPolicy": draw.some(
                    {
                        "cleanPodPolicy": draw.choice(["All", "None", "Running"]),
                        "backoffLimit": draw.choice([1, 3]),
                        "suspend": True,
                        "ttlSecondsAfterFinished": 5,
                        "schedulingPolicy": {"minAvailable": 2, "queue": "q"},
                    },
                    0.4,
                ),
                "nprocPerNode": draw.choice(["auto", "2"]),
                "elasticPolicy": {"minReplicas": 1, "maxReplicas": draw.choice([2, 3]), "rdzvBackend": "c10d"},
            },
            0.5,
        )
    return {"spec": spec}


def containers_change(draw):
    return [{"name": "main"} | draw.some({"image": draw.choice(["other", "other:1"])}, 1)]


def pod_change(draw):
    return {
        "spec": draw.some(
            {
                "containers": containers_change(draw),
                "activeDeadlineSeconds": draw.choice([5, 9]),
                "hostname": "changed",
                "schedulingGates": None,
            },
            0.3,
        )
    }


def job_change(draw):
    return {
        "spec": draw.some(
            {
                "parallelism": draw.choice([1, 2, 3]),
                "suspend": draw.choice([True, False]),
                "backoffLimit": 2,
                "activeDeadlineSeconds": 20,
            },
            0.3,
        )
    }


def workload_change(draw):
    return {
        "spec": draw.some(
            {
                "replicas": draw.choice([0, 1, 3]),
                "minReadySeconds": draw.choice([2, None]),
                "template": {
                    "spec": {
                        "containers": [
                            containers_change(draw)[0]
                            | draw.some(
                                {
                                    "env": [{"name": draw.choice("AC"), "value": "3"}],
                                    "ports": [{"containerPort": 81}],
                                    "resources": {"limits": {"cpu": draw.choice([2, "2"])}},
                                },
                                0.3,
                            )
                        ],
                        "volumes": [{"name": draw.choice("vw"), "emptyDir": {}}],
                    }
                },
            },
            0.4,
        )
    }


def pytorch_change(draw):
    role = draw.choice(["Master", "Worker"])
    return {
        "spec": draw.some(
            {
                "runPolicy": draw.some({"suspend": draw.choice([True, False]), "backoffLimit": 2}),
                "nprocPerNode": "3",
                "pytorchReplicaSpecs": {
                    role: draw.some(
                        {"replicas": draw.choice([1, 3]), "template": {"spec": {"containers": containers_change(draw)}}}
                    )
                },
            }
        )
    }
