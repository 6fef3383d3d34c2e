"""A server that others can reach: TLS, tokens, roles per namespace, and nothing without them."""

import base64
import json
import os
import subprocess

import pytest
import urllib3

from conftest import TRAINYARD, eventually, free_port

urllib3.disable_warnings()

ANN, BOB, ROOT = "ann-0123456789abcdef", "bob-0123456789abcdef", "root-0123456789abcdef"


def begin(folder, *options):
    """A server that others can reach; what it answers, and where it logs."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    tokens = folder / "tokens"
    tokens.write_text(f"{ANN} ann default=edit\n{BOB} bob *=view\n{ROOT} root *=admin\n")
    tokens.chmod(0o600)
    port = free_port()
    env = {**os.environ, "TRAINYARD_HOME": str(folder / "home")}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([TRAINYARD, "up", "--listen", f"0.0.0.0:{port}", "--tls-cert", folder / "cert.pem",
                                   "--tls-key", folder / "key.pem", "--token-file", tokens, *options],
                                  env=env, stdout=log, stderr=log)
    pool = urllib3.PoolManager(ca_certs=str(folder / "cert.pem"))

    def call(method, path, token=None, body=None, content_type="application/json"):
        headers = {"content-type": content_type, **({"authorization": f"Bearer {token}"} if token else {})}
        answer = pool.request(method, f"https://127.0.0.1:{port}{path}", headers=headers, retries=False,
                              body=json.dumps(body) if body else None)
        return answer.status, answer.data.decode()
    call.log = folder / "log"
    try:
        eventually(lambda: call("GET", "/readyz", ROOT)[0] == 200, "it is ready")
        yield call
    finally:
        server.terminate()
        server.wait(timeout=120)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    yield from begin(tmp_path_factory.mktemp("guarded"))


def config_map(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


CMS = "/api/v1/namespaces/{}/configmaps"


def test_nobody_enters_without_a_token(guarded):
    assert guarded("GET", CMS.format("default"))[0] == 401
    assert guarded("GET", CMS.format("default"), "wrong-0123456789abcdef")[0] == 401


def test_roles_are_per_namespace(guarded):
    assert guarded("POST", CMS.format("default"), ANN, config_map("anns"))[0] == 201
    status, text = guarded("POST", CMS.format("kube-system"), ANN, config_map("anns"))
    message = json.loads(text)["message"]
    assert status == 403 and 'User "ann" cannot create resource "configmaps"' in message and '"kube-system"' in message
    assert guarded("GET", CMS.format("kube-system"), ANN)[0] == 403


def test_a_viewer_reads_but_neither_writes_nor_sees_secrets(guarded):
    assert guarded("GET", CMS.format("default"), BOB)[0] == 200
    assert guarded("GET", "/api/v1/nodes", BOB)[0] == 200
    assert guarded("POST", CMS.format("default"), BOB, config_map("bobs"))[0] == 403
    assert guarded("GET", "/api/v1/namespaces/default/secrets", BOB)[0] == 403
    assert guarded("GET", "/api/v1/namespaces/default/secrets", ANN)[0] == 200


@pytest.fixture(scope="module", params=["", "-vv", "-vvv"])
def chatty(request, tmp_path_factory):
    """Servers that say more and more, at last all that they and their libraries have to say."""
    for call in begin(tmp_path_factory.mktemp("chatty"), *request.param.split()):
        call.quiet = not request.param
        yield call


def test_tokens_and_secrets_are_not_in_the_log(chatty):
    secrets = "/api/v1/namespaces/default/secrets"
    plain = {"a": "hunter2", "b": "correct-horse", "c": "battery-staple"}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
    meta = {"name": "s", "labels": {"seen-in-the-log": "no"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"a": plain["a"]}}
    assert chatty("POST", secrets, ROOT, secret)[0] == 201
    merge, apply, strategic = (f"application/{kind}" for kind in
                               ("merge-patch+json", "apply-patch+yaml", "strategic-merge-patch+json"))
    assert chatty("PATCH", f"{secrets}/s", ROOT, {"data": {"b": encoded["b"]}}, merge)[0] == 200
    applied = {**secret, "stringData": {"c": plain["c"]}}
    assert chatty("PATCH", f"{secrets}/s?fieldManager=m&force=true", ROOT, applied, apply)[0] == 200
    assert chatty("GET", secrets, ANN)[0] == 200
    # Refusals show what they refuse, and log lines show refusals.
    assert chatty("POST", secrets, ROOT, {**secret, "metadata": {"name": "Not A Name"}})[0] == 422
    assert chatty("POST", secrets, ROOT, {**secret, "data": {"b": plain["b"] + "!"}, "metadata": {"name": "t"}})[0] == 400
    assert chatty("PUT", f"{secrets}/s", ROOT, {**secret, "type": plain["c"]})[0] == 422
    assert chatty("PATCH", f"{secrets}/s", ROOT, {"data": {"$patch": plain["c"]}}, strategic)[0] >= 400
    assert chatty("POST", secrets, BOB, secret)[0] == 403
    assert chatty("GET", secrets, ROOT[:-1])[0] == 401
    assert chatty("DELETE", f"{secrets}/s", ROOT)[0] == 200
    read = lambda: chatty.log.read_text(errors="replace")
    eventually(lambda: "control plane ready" in read(), "the control plane is ready")
    log = read()
    assert chatty.quiet or "secrets" in log, "requests are told of"
    for word in (ANN, BOB, ROOT, ROOT[:-1], *plain.values(), *encoded.values()):
        # In whatever form bytes are shown.
        assert word not in log and str(list(word.encode()))[1:-1] not in log, word


def test_a_token_file_that_others_can_read_is_refused(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{ROOT} root *=admin\n")
    tokens.chmod(0o644)
    done = subprocess.run([TRAINYARD, "up", "--listen", "127.0.0.1:0", "--token-file", tokens],
                          env={**os.environ, "TRAINYARD_HOME": str(tmp_path / "home")}, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "chmod 600" in done.stderr and ROOT not in done.stderr


def test_a_large_body_is_refused(guarded):
    big = {**config_map("big"), "data": {"x": "x" * (4 << 20)}}
    try:
        assert guarded("POST", CMS.format("default"), ROOT, big)[0] == 413
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError):
        pass  # the server may close before the whole body was sent
    assert guarded("GET", CMS.format("default") + "/big", ROOT)[0] == 404
