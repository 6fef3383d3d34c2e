"""The Python `kubernetes` client: list, watch, resume a watch, page, and the errors it raises."""

import pytest
from kubernetes import client, watch
from kubernetes.client.rest import ApiException


@pytest.fixture
def core(server):
    return client.CoreV1Api(client.ApiClient(client.Configuration(host=server.url)))


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def test_list_watch_and_resume(core, namespace):
    for n in range(3):
        core.create_namespaced_config_map(namespace, config_map(f"c{n}"))
    listed = core.list_namespaced_config_map(namespace)
    names = [c.metadata.name for c in listed.items]
    assert [f"c{n}" for n in range(3)] == [n for n in names if n.startswith("c")]

    core.create_namespaced_config_map(namespace, config_map("c3"))
    core.patch_namespaced_config_map("c3", namespace, {"data": {"k": "v"}})
    core.delete_namespaced_config_map("c3", namespace)

    seen = []
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, namespace,
                               resource_version=listed.metadata.resource_version, timeout_seconds=10):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            version = event["object"].metadata.resource_version
            stream.stop()
    assert seen == [("ADDED", "c3"), ("MODIFIED", "c3")]

    resumed = []
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, namespace, resource_version=version, timeout_seconds=10):
        resumed.append((event["type"], event["object"].metadata.name))
        stream.stop()
    assert resumed == [("DELETED", "c3")]


def test_pages_give_each_object_once(core, namespace):
    for n in range(7):
        core.create_namespaced_config_map(namespace, config_map(f"p{n}"))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(namespace, limit=3, _continue=token)
        assert len(page.items) <= 3
        names += [c.metadata.name for c in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert sorted(n for n in names if n.startswith("p")) == [f"p{n}" for n in range(7)]
    assert len(names) == len(set(names))


def test_errors_have_their_codes(core, namespace):
    with pytest.raises(ApiException) as absent:
        core.read_namespaced_config_map("absent", namespace)
    assert absent.value.status == 404
    made = core.create_namespaced_config_map(namespace, config_map("c"))
    with pytest.raises(ApiException) as twice:
        core.create_namespaced_config_map(namespace, config_map("c"))
    assert twice.value.status == 409
    core.patch_namespaced_config_map("c", namespace, {"data": {"a": "1"}})
    made.data = {"b": "2"}
    with pytest.raises(ApiException) as stale:
        core.replace_namespaced_config_map("c", namespace, made)
    assert stale.value.status == 409
    with pytest.raises(ApiException) as invalid:
        core.create_namespaced_config_map(namespace, config_map("Bad_Name"))
    assert invalid.value.status == 422
    assert "metadata.name" in invalid.value.body


def test_a_strange_origin_is_refused(server):
    import urllib.request
    import urllib.error
    for header in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        request = urllib.request.Request(server.url + "/api/v1/namespaces", headers=header)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 403
