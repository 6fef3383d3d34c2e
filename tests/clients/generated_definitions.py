"""The definitions under which a real kube-apiserver serves the custom kinds that are part of the embedded one."""

import copy

from generated_kinds import KINDS

# What controller-gen writes into definitions for the lists and maps of pod templates, from the markers of k8s.io/api.
KEYS = {
    "containers": ["name"],
    "initContainers": ["name"],
    "ephemeralContainers": ["name"],
    "volumes": ["name"],
    "env": ["name"],
    "volumeMounts": ["mountPath"],
    "volumeDevices": ["devicePath"],
    "ports": ["containerPort", "protocol"],
    "hostAliases": ["ip"],
    "topologySpreadConstraints": ["topologyKey", "whenUnsatisfiable"],
    "schedulingGates": ["name"],
    "imagePullSecrets": ["name"],
    "resourceClaims": ["name"],
}
ATOMIC = {
    "nodeSelector",
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "labelSelector",
    "matchLabelKeys",
    "requiredDuringSchedulingIgnoredDuringExecution",
}


def definitions(printed):
    """From what `trainyard install --kubeflow -o json` prints; and those of kinds whose schema is not known here."""
    made = [copy.deepcopy(each) for each in printed if each["kind"] == "CustomResourceDefinition"]
    for each in made:
        for version in each["spec"]["versions"]:
            mark(version["schema"]["openAPIV3Schema"])
    return made + [
        open_definition(kind)
        for kind in KINDS
        if kind.api_version.split("/")[0] in ("jobset.x-k8s.io", "kueue.x-k8s.io")
    ]


def mark(schema):
    for name, field in schema.get("properties", {}).items():
        items = field.get("items", {}).get("properties", {})
        keys = KEYS.get(name, [])
        if keys and all(key in items for key in keys):
            field |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
            if "protocol" in keys:
                items["protocol"]["default"] = "TCP"
            if name == "imagePullSecrets":
                items["name"]["default"] = ""
                field["items"]["x-kubernetes-map-type"] = "atomic"
        if name in ATOMIC and field.get("type") == "object":
            field["x-kubernetes-map-type"] = "atomic"
        for inner in (field, field.get("items", {}), field.get("additionalProperties", {})):
            if isinstance(inner, dict):
                mark(inner)


# Heading, type and path, as JobSet and Kueue define them.
COLUMNS = {
    "JobSet": [
        ("TerminalState", "string", ".status.terminalState"),
        ("Restarts", "string", ".status.restarts"),
        ("Completed", "string", '.status.conditions[?(@.type=="Completed")].status'),
        ("Suspended", "string", ".spec.suspend"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
    "ClusterQueue": [
        ("Cohort", "string", ".spec.cohort"),
        ("Pending", "integer", ".status.pendingWorkloads"),
        ("Admitted", "integer", ".status.admittedWorkloads"),
        ("Active", "string", '.status.conditions[?(@.type=="Active")].status'),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
}


def open_definition(kind):
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    group, version = kind.api_version.split("/")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved"}},
        "spec": {
            "group": group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {"plural": kind.plural, "singular": kind.kind.lower(), "kind": kind.kind},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": type, "jsonPath": path} for name, type, path in COLUMNS[kind.kind]
                    ],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": free, "status": free}}},
                }
            ],
        },
    }
