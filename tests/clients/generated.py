"""Request sequences made from a seed, in the form of `recorded.py`, and the shrinking of one whose answers differ.

A sequence is about two kinds in one namespace, and about three names: so requests meet what others have left. Refused
requests are wanted as much as accepted ones: a share of bodies gets one part changed for something else (`twist`).
"""

import copy
import json
import random

from generated_kinds import KINDS
from generated_more import between
from generated_wrong import wrong
from recorded import APPLY, JSON, JSON_PATCH, MERGE, PARTIAL, PARTIAL_LIST, STRATEGIC, TABLE

YAML = "application/yaml"
MANAGERS = ["one", "two", "three"]
FIELDS_OF_METADATA = {
    "finalizers": [["example.com/hold"], ["example.com/hold", "example.com/more"], []],
    "annotations": [{"note": "1"}, {"note": "2", "more": "x"}, {}],
    "creationTimestamp": ["2001-01-01T00:00:00Z"],
    "selfLink": ["/x"],
    "namespace": ["{ns}", "elsewhere", ""],
}
SELECTORS = [
    "x",
    "!x",
    "x%3D1",
    "x%3D%3D2",
    "x!%3D1",
    "x%20in%20(1,2)",
    "x%20notin%20(1)",
    "x,y",
    "x%3D1,y!%3D2",
    "x%20in%20",
    "x%3E1",
    "x%3D",
    "kubernetes.io/metadata.name%3D{ns}",
    "x%20in%20(1,,2)",
    "%3D1",
]
ACCEPTS = [
    TABLE,
    PARTIAL,
    YAML,
    "*/*",
    "text/html",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json; charset=utf-8",
    "application/vnd.kubernetes.protobuf;q=0.5,application/json",
]
LIST_ACCEPTS = [each for each in ACCEPTS if each != PARTIAL] + [
    PARTIAL_LIST,
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
]
VALUES = ["text", "", 0, 1, -1, 1.5, True, False, [], {}, ["text"], {"a": "b"}, "1"]


class Draw(random.Random):
    def often(self, share):
        return self.random() < share

    def some(self, options, share=0.5):
        """A part of a map, never nothing."""
        kept = {k: v for k, v in options.items() if self.often(share)}
        return kept or dict([self.choice(list(options.items()))])


def sequence(seed):
    """The scenario of a seed."""
    draw = Draw(seed)
    about = [draw.choices(KINDS, [kind.weight for kind in KINDS])[0] for _ in range(2)]
    steps = []
    for n in range(draw.randint(6, 16)):
        kind = draw.choice(about)
        make = create if n == 0 or n == 1 and draw.often(0.7) else draw.choices(*zip(*operations(kind)))[0]
        steps.append(make(draw, kind))
    last = [watched(draw, kind) for kind in {kind.plural: kind for kind in about}.values()]
    return between(Draw(f"between {seed}"), about, steps) + last


def operations(kind):
    yield from [
        (create, 14),
        (applied, 16),
        (got, 7),
        (listed, 14),
        (replaced, 12),
        (patched, 20),
        (deleted, 8),
        (collection_deleted, 2),
        (watched_from, 2),
        (odd, 3),
    ]
    yield deleted_dry, 2
    yield created_dry, 2
    if kind.kind in LISTS:
        yield patched_lists, 5
    if kind.changes:
        yield created_wrong, 8
    if kind.status:
        yield status_written, 9
    if kind.scale:
        yield scaled, 7


def named(draw):
    return draw.choices("abc", [6, 3, 1])[0]


def base(draw, kind, name, **content):
    meta = {"name": kind.named(name)}
    if draw.often(0.5):
        meta["labels"] = draw.some({"x": draw.choice("12"), "y": draw.choice("12")}, 0.7)
    if not kind.namespaced:
        meta.setdefault("labels", {})["of"] = "{ns}"
    if draw.often(0.15):
        field = draw.choice(list(FIELDS_OF_METADATA))
        meta[field] = draw.choice(FIELDS_OF_METADATA[field])
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **content}


def body(draw, kind, name):
    made = base(draw, kind, name, **kind.content(draw))
    if draw.often(0.05):
        nulled(draw, made)
    return twist(draw, made, kind) if draw.often(0.15) else made


def twist(draw, value, kind):
    """`value` with one part changed for something else, gone, or beside something unknown."""
    made = copy.deepcopy(value)
    # Definitions of custom kinds say less about types than a table of Go structs does.
    inside = kind.changes is None and not kind.is_custom and kind.kind != "Secret"
    places = walk(made if inside or "metadata" not in made else made["metadata"])
    holder, key = draw.choice([place for place in places if place[1] != "namespace"] or [(made, "kind")])
    how = draw.randrange(5)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        other = key.capitalize() if isinstance(key, str) and key not in ("kind", "apiVersion") else "x"
        holder[draw.choice(["nonsense", other])] = draw.choice(VALUES)
    elif how == 2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = draw.choice(VALUES)
    return made


def nulled(draw, value):
    """With one field that is said to be nothing."""
    places = [(holder, key) for holder, key in walk(value)
              if isinstance(holder, dict) and key not in ("apiVersion", "kind", "name", "metadata", "namespace", "spec", "image")]
    if places:
        holder, key = draw.choice(places)
        holder[key] = None


def walk(value):
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from walk(value[key])


def query(draw, **options):
    """`?a=b`, of options each of which comes with its share."""
    taken = [f"{name}={draw.choice(values)}" for name, (share, values) in options.items() if draw.often(share)]
    return "?" + "&".join(taken) if taken else ""


def for_writes(draw, **more):
    return query(
        draw,
        dryRun=(0.07, ["All", "All", "Some", ""]),
        fieldManager=(0.5, MANAGERS),
        fieldValidation=(0.15, ["Strict", "Warn", "Ignore"]),
        **more,
    )


def create(draw, kind):
    made = body(draw, kind, named(draw))
    kinds = draw.choices(
        [JSON, YAML, "application/json; charset=utf-8", "text/plain", "application/cbor", MERGE], [80, 8, 3, 1, 1, 1]
    )[0]
    if draw.often(0.05) and isinstance(made.get("metadata"), dict):
        made["metadata"].pop("name", None)
        made["metadata"]["generateName"] = draw.choice(["gen-", "gen-", "gen-", "Bad_"])
    raw = json.dumps(made) if kinds == YAML else made
    if draw.often(0.02):
        raw = draw.choice(["", "{", "[]", '"text"', "{}", '{"metadata": {}}'])
    if kind.kind == "Service":
        raw = without_search(raw)
    return ["POST", kind.path + for_writes(draw), raw, kinds, accept(draw, 0.05)]


def without_search(body):
    """A service that has no name wants no address: the real server tries all that there are, one by one, and none fits."""
    text = isinstance(body, str)
    try:
        made = json.loads(body) if text else body
    except ValueError:
        return body
    if not isinstance(made, dict):
        return body
    meta = made.get("metadata")
    if isinstance(meta, dict) and (meta.get("name") or meta.get("generateName")) and isinstance(made.get("spec"), dict):
        return body
    spec = made.get("spec") if isinstance(made.get("spec"), dict) else {}
    made = {**made, "spec": {**spec, "clusterIP": "None"}}
    return json.dumps(made) if text else made


def accept(draw, share, accepts=ACCEPTS):
    return draw.choice(accepts) if draw.often(share) else JSON


def applied(draw, kind):
    name = named(draw)
    made = base(draw, kind, name, **kind.content(draw))
    if kind.changes and draw.often(0.5):
        made |= kind.changes(draw)
    elif draw.often(0.4) and not kind.changes:  # a part of what others write
        for field in list(made):
            if field not in ("apiVersion", "kind", "metadata") and isinstance(made[field], dict) and made[field]:
                made[field] = draw.some(made[field])
    if draw.often(0.08):
        nulled(draw, made)
    manager = draw.choice(MANAGERS) if draw.often(0.97) else ""
    more = query(
        draw,
        force=(0.35, ["true", "true", "false"]),
        dryRun=(0.07, ["All"]),
        fieldValidation=(0.1, ["Strict", "Ignore"]),
    ).replace("?", "&")
    return ["PATCH", f"{kind.path}/{kind.named(name)}?fieldManager={manager}{more}", made, APPLY, accept(draw, 0.03)]


def got(draw, kind):
    path = f"{kind.path}/{kind.named(named(draw))}"
    if kind.status and draw.often(0.1):
        path += "/status"
    asked = query(
        draw,
        resourceVersion=(0.08, ["0", "{version:%s/a}" % kind.plural, "nonsense"]),
        includeObject=(0.05, ["None", "Metadata", "Object"]),
        pretty=(0.03, ["true"]),
    )
    return ["GET", path + asked, None, JSON, accept(draw, 0.4)]


def selectors(draw, kind, share=0.4):
    fields = [
        "metadata.name%3D" + kind.named("a"),
        "metadata.name!%3D" + kind.named("a"),
        "metadata.namespace%3D{ns}",
        "nonsense%3Da",
        "metadata.name%3D" + kind.named("a") + ",metadata.namespace%3D{ns}",
        *kind.selectable,
    ]
    out = [f"labelSelector={kind.selector(draw.choice(SELECTORS))}"] if draw.often(share) or not kind.namespaced else []
    return out + ([f"fieldSelector={draw.choice(fields)}"] if draw.often(share / 2) else [])


def listed(draw, kind):
    taken = selectors(draw, kind)
    if draw.often(0.35):
        taken.append(f"limit={draw.choice([1, 1, 2, 500, 0, -1])}")
        if draw.often(0.5):
            taken.append("continue={continue}")
    elif draw.often(0.35):
        version = draw.choice(["0", "{since}", "{list}", "{version:%s/a}" % kind.plural, "nonsense"])
        match = draw.choice(["", "", "Exact", "NotOlderThan", "Nonsense"] if version != "nonsense" else [""])
        taken.append(f"resourceVersion={version}" + (f"&resourceVersionMatch={match}" if match else ""))
    if draw.often(0.05):
        taken.append(
            draw.choice(
                [
                    "includeObject=None",
                    "includeObject=Object",
                    "timeoutSeconds=5",
                    "allowWatchBookmarks=true",
                    "sendInitialEvents=false",
                    "nonsense=1",
                    "limit=many",
                ]
            )
        )
    if not kind.namespaced and not any("labelSelector" in each for each in taken):
        taken.append("labelSelector=" + kind.selector("x"))
    return ["GET", kind.path + ("?" + "&".join(taken) if taken else ""), None, JSON, accept(draw, 0.3, LIST_ACCEPTS)]


def replaced(draw, kind):
    name = named(draw)
    if kind.changes or kind.is_custom or draw.often(0.65):
        made = {"$changed": f"{kind.plural}/{kind.named(name)}", "by": change(draw, kind)}
        # With the uid of one that has gone a PUT makes none; without, some kinds are made by it.
        made["by"].setdefault("metadata", {}).setdefault("uid", None)
    else:
        made = base(draw, kind, name, **kind.content(draw))
        if draw.often(0.5):
            known = draw.choice(["version", "first"])
            made["metadata"]["resourceVersion"] = "{%s:%s/%s}" % (known, kind.plural, kind.named(name))
    return ["PUT", f"{kind.path}/{kind.named(name)}" + for_writes(draw), made, JSON, accept(draw, 0.03)]


def change(draw, kind):
    """A merge patch."""
    made = (kind.changes or kind.content)(draw)
    if draw.often(0.3) and not kind.changes:
        for field in list(made):
            if isinstance(made[field], dict) and made[field]:
                gone = list(made[field])
                made[field] = {draw.choice(gone): None} if draw.often(0.4) else draw.some(made[field])
    if draw.often(0.4):
        made = {
            "metadata": draw.choice(
                [
                    {"labels": {"x": draw.choice(["1", "2", None])}},
                    {"annotations": {"note": "3"}},
                    {"finalizers": None},
                    {"finalizers": ["example.com/hold"]},
                    {"labels": None if kind.kind != "Job" else {"x": "3"}},
                    {"resourceVersion": "{first:%s/%s}" % (kind.plural, kind.named("a"))},
                    {"generateName": "x-"},
                ]
            ),
            **(made if draw.often(0.5) else {}),
        }
    return made


def patched(draw, kind):
    name = named(draw)
    kinds = draw.choices([MERGE, STRATEGIC, JSON_PATCH, JSON], [8, 8, 4, 0.3])[0]
    made = operations_of(draw, kind) if kinds == JSON_PATCH else change(draw, kind)
    if kinds == STRATEGIC and draw.often(0.1) and isinstance(made, dict):
        made["$patch"] = draw.choice(["replace", "delete", "merge", "nonsense"])
    if draw.often(0.1) and isinstance(made, dict) and kind.kind == "ConfigMap":
        made = twist(draw, made, kind)
    if draw.often(0.05) and isinstance(made, dict):
        nulled(draw, made)
    if draw.often(0.02) and kinds != JSON_PATCH:
        made = draw.choice(["", "{", "[]", "null", {}])
    return [
        "PATCH",
        f"{kind.path}/{kind.named(name)}" + for_writes(draw, force=(0.02, ["true"])),
        made,
        kinds,
        accept(draw, 0.03),
    ]


def operations_of(draw, kind):
    """A JSON patch."""
    content = base(draw, kind, "a", **(kind.changes or kind.content)(draw))
    out = []
    for _ in range(draw.randint(1, 3)):
        # Of what holds all metadata more is compared than is said here.
        places = [place for place in pointers(content) if place[0] != "/metadata"]
        # Which version an object is read in without saying one is asked of its kind only.
        places = [place for place in places if place[0] not in ("/apiVersion", "/kind")]
        if kind.kind == "Job":  # the real one has labels of a Job's uid
            places = [place for place in places if place[0].startswith("/spec")] or places
        pointer, value = draw.choice(places)
        op = draw.choices(["add", "replace", "remove", "test", "copy", "move", "nonsense"], [6, 4, 3, 2, 1, 1, 0.3])[0]
        if op == "remove" and pointer.endswith("/image"):  # what is said of images is one of the accepted differences
            op = "replace"
        one = {"op": op, "path": pointer}
        if op in ("add", "replace", "test"):
            one["value"] = value
        if op in ("copy", "move"):
            one["from"] = draw.choice(places)[0]
        out.append(one)
    return out


def pointers(value, path=""):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        at = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield at, each
        yield from pointers(each, at)


def options_of_delete(draw, kind):
    # What is deleted otherwise waits on the real one for a collector that is not there.
    place = f"{kind.plural}/{kind.named('a')}"
    return draw.some(
        {
            "gracePeriodSeconds": draw.choice([0, 5, -1]),
            "dryRun": draw.choice([["All"], ["Some"], []]),
            "propagationPolicy": "Background",
            "orphanDependents": False,
            "preconditions": draw.choice(
                [
                    {"uid": "{uid:%s}" % place},
                    {"uid": "no"},
                    {"resourceVersion": "{version:%s}" % place},
                    {"resourceVersion": "{first:%s}" % place},
                ]
            ),
            "apiVersion": "v1",
            "kind": "DeleteOptions",
        },
        0.25,
    )


def deleted_dry(draw, kind):
    """Policies that need a collector, which the real one has none of here: what would be."""
    path = f"{kind.path}/{kind.named(named(draw))}"
    policy = draw.choice(["Foreground", "Orphan", "Background", "Sometimes"])
    if draw.often(0.4):
        return ["DELETE", f"{path}?dryRun=All&propagationPolicy={policy}"]
    if draw.often(0.2):
        return ["DELETE", path + "?dryRun=All&orphanDependents=" + draw.choice(["true", "false"])]
    options = options_of_delete(draw, kind) | {"propagationPolicy": policy, "dryRun": ["All"]}
    return ["DELETE", path, options]


def created_dry(draw, kind):
    """Objects of owners that there are not, which would be collected."""
    made = body(draw, kind, named(draw))
    owner = {"apiVersion": "v1", "kind": draw.choice(["ConfigMap", "ConfigMap", "Event"]), "name": "o", "uid": "o-uid"}
    owner |= draw.some({"controller": True, "blockOwnerDeletion": draw.choice([True, False])}, 0.4)
    others = [owner, {**owner, "uid": "p-uid"}, {**owner, "name": ""}, {**owner, "apiVersion": ""}]
    if isinstance(made.get("metadata"), dict):
        made["metadata"]["ownerReferences"] = [owner] + ([draw.choice(others)] if draw.often(0.4) else [])
    return ["POST", kind.path + "?dryRun=All", made]


def created_wrong(draw, kind):
    """A pod, or what is made of pods, with one thing that is refused or warned of."""
    made = base(draw, kind, named(draw), **kind.content(draw))
    spec = made["spec"]
    for role in draw.choice(list(spec.get("pytorchReplicaSpecs", {}).values()) or [None]), spec:
        if role and "template" in role:
            spec = role["template"]["spec"]
            break
    if not kind.is_custom:
        wrong(draw, spec)
    return ["POST", kind.path + for_writes(draw), made]


# Lists that strategic patches merge: where they are, their key, and some items.
CONTAINERS = ("containers", "name", [{"name": "main", "image": "other"}, {"name": "side", "image": "none"},
                                     {"name": "main", "image": "none", "env": [{"name": "A", "value": "3"}, {"name": "C", "value": "4"}]}])
VOLUMES = ("volumes", "name", [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}])
LISTS = {
    "Deployment": (["spec", "template", "spec"], [CONTAINERS, VOLUMES]),
    "ReplicaSet": (["spec", "template", "spec"], [CONTAINERS]),
    "Pod": (["spec"], [CONTAINERS]),
    "Service": (["spec"], [("ports", "port", [{"port": 80, "name": "a"}, {"port": 2, "name": "b", "targetPort": 9}])]),
    "ServiceAccount": ([], [("secrets", "name", [{"name": "s"}, {"name": "u"}]),
                            ("imagePullSecrets", "name", [{"name": "p"}, {"name": "q"}])]),
}


def patched_lists(draw, kind):
    """A strategic patch with directives for lists."""
    where, lists = LISTS[kind.kind]
    field, key, items = draw.choice(lists)
    items = [copy.deepcopy(item) for item in draw.sample(items, draw.randint(1, len(items)))]
    inner = {field: items}
    how = draw.randrange(6)
    if how == 0:
        items[0] = {"$patch": draw.choice(["delete", "delete", "merge", "nonsense"]), key: items[0][key]}
    elif how == 1:
        items.insert(0, {"$patch": "replace"})
    elif how == 2:
        order = [{key: item[key]} for item in items]
        draw.shuffle(order)
        inner["$setElementOrder/" + field] = order + ([{key: "more"}] if draw.often(0.3) and key == "name" else [])
    elif how == 3:
        items[0].pop(key)
    elif how == 4 and kind.kind == "Deployment":
        where, inner = ["spec"], {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    elif how == 5:
        where, inner = ["metadata"], {draw.choice(["finalizers", "$deleteFromPrimitiveList/finalizers"]): ["example.com/hold"]}
    for name in reversed(where):
        inner = {name: inner}
    return ["PATCH", f"{kind.path}/{kind.named(named(draw))}" + for_writes(draw), inner, STRATEGIC]


def deleted(draw, kind):
    path = f"{kind.path}/{kind.named(named(draw))}"
    if kind.kind == "Job":  # what becomes of its pods without a word is one of the accepted differences
        return ["DELETE", path + "?propagationPolicy=" + "Background"]
    if draw.often(0.3):
        return [
            "DELETE",
            path
            + query(
                draw,
                propagationPolicy=(0.5, ["Background"]),
                gracePeriodSeconds=(0.3, ["0", "5"]),
                dryRun=(0.2, ["All"]),
            ),
        ]
    made = options_of_delete(draw, kind) if draw.often(0.6) else None
    return ["DELETE", path, made, JSON, accept(draw, 0.05)] if made else ["DELETE", path]


def collection_deleted(draw, kind):
    taken = selectors(draw, kind, 0.7)
    if not kind.namespaced and not any("labelSelector" in each for each in taken):
        taken.append("labelSelector=" + kind.selector("x"))
    taken += [draw.choice(["dryRun=All", "limit=1", "propagationPolicy=Background", "gracePeriodSeconds=0"])] if draw.often(0.4) else []
    taken += ["propagationPolicy=Background"] if kind.kind == "Job" else []
    return ["DELETE", kind.path + ("?" + "&".join(taken) if taken else "")]


def status_written(draw, kind):
    name = named(draw)
    path = f"{kind.path}/{kind.named(name)}/status"
    made = {"status": kind.status(draw)}
    if draw.often(0.2):
        made["metadata"] = draw.choice(
            [
                {"labels": {"x": "2"}},
                {"annotations": {"s": "t"}},
                {"finalizers": None},
                {"resourceVersion": "{first:%s/%s}" % (kind.plural, kind.named(name))},
            ]
        )
    if draw.often(0.1):
        made = {**(kind.changes or kind.content)(draw), **made}
    how = draw.randrange(4)
    if how == 0:
        return ["PUT", path + for_writes(draw), {"$changed": f"{kind.plural}/{kind.named(name)}", "by": made}]
    if how == 1:
        meta = {**made.get("metadata", {}), "name": kind.named(name)}
        whole = {"apiVersion": kind.api_version, "kind": kind.kind, **made, "metadata": meta}
        force = "&force=true" if draw.often(0.4) else ""
        return ["PATCH", f"{path}?fieldManager={draw.choice(MANAGERS)}{force}", whole, APPLY]
    return ["PATCH", path + for_writes(draw), made, draw.choice([MERGE, STRATEGIC, MERGE])]


def scaled(draw, kind):
    name = kind.named(named(draw))
    path = f"{kind.path}/{name}/scale"
    spec = {"spec": {"replicas": draw.choice([1, 1, 2, 3, 3, -1, "2"])}}
    how = draw.randrange(5)
    if how == 0:
        return ["GET", path, None, JSON, accept(draw, 0.1)]
    if how == 1:
        return ["PUT", path + for_writes(draw), {"$changed": f"{kind.plural}/{name}/scale", "by": spec}]
    if how == 2:
        return [
            "PATCH",
            path,
            [{"op": "replace", "path": "/spec/replicas", "value": draw.choice([1, 2, 5])}],
            JSON_PATCH,
        ]
    if how == 3 and draw.often(0.3):
        return [
            "PATCH",
            path + "?fieldManager=one&force=true",
            {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, **spec},
            APPLY,
        ]
    return [
        "PATCH",
        path + for_writes(draw),
        spec,
        draw.choice([MERGE, MERGE if "." in kind.api_version else STRATEGIC]),
    ]


def watched(draw, kind):
    taken = selectors(draw, kind)
    if not kind.namespaced and not any("labelSelector" in each for each in taken):
        taken.append("labelSelector=" + kind.selector("x"))
    view = draw.choice([TABLE, PARTIAL]) if draw.often(0.3) else JSON
    return ["watch", kind.path + ("?" + "&".join(taken) if taken else ""), view]


def watched_from(draw, kind):
    step = watched(draw, kind)
    version = draw.choice(
        [
            "resourceVersion=0",
            "resourceVersion={list}",
            "resourceVersion={version:%s/a}" % kind.plural,
            "resourceVersion=nonsense",
            "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan",
            # The real one is told late of versions that its other resources have reached.
            "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion="
            + ("0" if kind.is_custom else "{list}"),
            "resourceVersion={first:%s/a}&allowWatchBookmarks=true" % kind.plural,
            "resourceVersion={since}",
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={list}",
            "sendInitialEvents=true",
            "resourceVersionMatch=Exact&resourceVersion={list}",
            "limit=1",
            "allowWatchBookmarks=true",
        ]
    )
    return ["watch from here", step[1] + ("&" if "?" in step[1] else "?") + version, step[2]]


def odd(draw, kind):
    """Verbs and places that nobody means."""
    path = f"{kind.path}/{kind.named('a')}"
    return draw.choice(
        [
            ["PATCH", kind.path, {}, MERGE],
            ["POST", path if not kind.is_custom else kind.path, base(draw, kind, "a", **kind.content(draw))],
            ["GET", path + "/nonsense"],
            ["GET", path + "/scale"],
            ["PATCH", path + "/status", {"status": {}}, MERGE],
            ["GET", kind.path.replace("/v1", "/v9", 1)],
            ["PUT", path, base(draw, kind, "b")],
            ["DELETE", path + "/status"],
            ["GET", path + "?watch=1&timeoutSeconds=1&resourceVersion={list}"],
            ["POST", kind.path + "?dryRun=All&dryRun=All", body(draw, kind, "c")],
            ["HEAD", path],
            ["OPTIONS", path],
            ["POST", kind.path, json.dumps(body(draw, kind, "c"))[:-3]],
            ["PATCH", path, {"metadata": {"labels": {"x": "1"}}}, "application/json"],
            ["GET", path + "/status"],
            ["PUT", path + "/status", base(draw, kind, "a", status={})],
        ]
    )


def shrunk(steps, difference, tries=100):
    """The smallest sequence found whose last step is answered differently in the way in which that of `steps` is."""
    way = difference(steps)
    if way is None:
        return steps

    def attempt(candidate):
        nonlocal steps, tries
        if tries <= 0 or not candidate:
            return False
        tries -= 1
        found = difference(candidate)
        same = (
            found and found.at == len(candidate) - 1 and found.codes == way.codes and set(found.where) & set(way.where)
        )
        if same:
            steps = candidate
        return bool(same)

    size = max(1, len(steps) // 2)
    while size:
        at = len(steps) - 1 - size
        while at >= 0:
            attempt(steps[:at] + steps[at + size :])
            at = min(at, len(steps) - 1) - size
        attempt(steps[size:])
        size //= 2
    while tries > 0 and any(attempt(candidate) for candidate in simpler(steps)):
        pass
    return steps


def simpler(steps):
    for n in reversed(range(len(steps))):
        method, path, *rest = steps[n]
        if "?" in path and "watch" not in method:
            start, _, asked = path.partition("?")
            parts = asked.split("&")
            for leave in range(len(parts)):
                if "of%3D{ns}" in parts[leave] or "dryRun" in parts[leave]:
                    continue
                kept = "&".join(parts[:leave] + parts[leave + 1 :])
                yield with_step(steps, n, [method, start + ("?" + kept if kept else ""), *rest])
        if len(rest) == 3 and rest[2] != JSON:
            yield with_step(steps, n, [method, path, rest[0], rest[1], JSON])
        if rest and isinstance(rest[0], (dict, list)):
            for holder_path in paths_of(rest[0]):
                yield with_step(steps, n, [method, path, without(rest[0], holder_path), *rest[1:]])


def with_step(steps, n, step):
    return steps[:n] + [step] + steps[n + 1 :]


def paths_of(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        if key in ("apiVersion", "kind", "$changed", "name", "op", "path", "image"):
            continue
        if key not in ("by", "metadata", "dryRun"):
            yield path + (key,)
        yield from paths_of(each, path + (key,))


def without(value, path):
    made = copy.deepcopy(value)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return made
