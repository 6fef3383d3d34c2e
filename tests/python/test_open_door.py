"""Launchers of other users and in containers, which cannot open the control plane's socket: their ranks start again in
their pods all the same."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile

import pytest

import conftest
from conftest import Server, eventually
from test_recovery import Ranks, phase, training_job

# A rank fails when it is told to, and stays until it may go.
RANK = """
note=$1/$TRAINYARD_GENERATION-$RANK-$WORLD_SIZE
echo $$ > $note.new; mv $note.new $note
while ! test -e $1/go; do
  test -e $1/fail-$RANK-$TRAINYARD_GENERATION && exit 3
  sleep 0.05
done
"""
SETTINGS = '[containers]\ndefault_ulimits=[]\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
IMAGE = "localhost/trainyard-open-door:1"
IN_IMAGE = ("sh", "sleep", "test", "mv", "touch")


@pytest.fixture
def folder():
    """One that any user can reach and write."""
    at = pathlib.Path(tempfile.mkdtemp(prefix="trainyard-test-", dir="/tmp"))
    at.chmod(0o777)
    yield at
    shutil.rmtree(at)


@pytest.fixture
def ranks(folder):
    found = Ranks(folder / "ranks")
    found.folder.chmod(0o777)
    (found.folder / "rank.sh").write_text(RANK)
    return found


def uids(server):
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in server.get("pods")["items"]}


def restarts_in_place(server, ranks, name):
    first, _ = ranks.formed(4)
    before = uids(server)
    (ranks.folder / f"fail-1-{first}").touch()
    second, _ = ranks.formed(4, after=first)
    assert uids(server) == before and len(before) == 2, "no new pods"
    # They find the next control plane, too.
    server.kill()
    server.start()
    (ranks.folder / f"fail-2-{second}").touch()
    ranks.formed(4, after=second)
    ranks.finish()
    assert phase(server, "trainingjob", name, "Succeeded")["restarts"] == 2
    assert uids(server) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_ranks_of_another_user_start_again_in_their_pods(tmp_path, folder, ranks, monkeypatch):
    # Where that user can execute it.
    binary = folder / "trainyard"
    shutil.copy(conftest.TRAINYARD, binary)
    monkeypatch.setattr(conftest, "TRAINYARD", str(binary))
    server = Server(tmp_path / "home").start()
    try:
        training_job(server, "other", ["sh", str(ranks.folder / "rank.sh"), str(ranks.folder)], replicas=2,
                     procsPerReplica=2, template={"spec": {"securityContext": {"runAsUser": 12345}}})
        restarts_in_place(server, ranks, "other")
        owners = {note.stat().st_uid for note in ranks.folder.iterdir() if re.fullmatch(r"\d+-\d+-\d+", note.name)}
        assert owners == {12345}
    finally:
        server.stop()


def make_image(at):
    """A shell, and the libraries that trainyard needs."""
    root = at / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    busybox = shutil.which("busybox")
    if not busybox or not shutil.which("podman"):
        return "podman or busybox is missing"
    shutil.copy(busybox, root / "bin/busybox")
    for name in IN_IMAGE:
        (root / "bin" / name).symlink_to("busybox")
    for library in re.findall(r"/\S+", subprocess.run(["ldd", conftest.TRAINYARD], capture_output=True, text=True).stdout):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    with tarfile.open(at / "root.tar", "w") as tar:
        tar.add(root, ".")
    subprocess.run(["podman", "rmi", IMAGE], capture_output=True)  # an earlier run's
    made = subprocess.run(["podman", "import", str(at / "root.tar"), IMAGE], capture_output=True, text=True)
    if made.returncode == 0:
        made = subprocess.run(["podman", "run", "--rm", "--network", "host", IMAGE, "/bin/test", "1"], capture_output=True, text=True)
    return made.stderr if made.returncode else None


def test_ranks_in_containers_start_again_in_their_pods(tmp_path, folder, ranks, monkeypatch):
    settings = tmp_path / "containers.conf"
    settings.write_text(SETTINGS)
    monkeypatch.setenv("CONTAINERS_CONF", str(settings))
    if why := make_image(tmp_path / "image"):
        pytest.skip(f"podman cannot be used here: {why}")
    server = Server(tmp_path / "home", "--containers", "podman").start()
    try:
        volume = {"name": "ranks", "hostPath": {"path": str(ranks.folder)}}
        training_job(server, "boxed", ["sh", "/ranks/rank.sh", "/ranks"], replicas=2, procsPerReplica=2, image=IMAGE,
                     volumes=[volume], volumeMounts=[{"name": "ranks", "mountPath": "/ranks"}])
        restarts_in_place(server, ranks, "boxed")
    finally:
        server.kubectl("delete", "trainingjob", "boxed", check=False)
        eventually(lambda: not server.get("pods")["items"], "the containers are gone")
        server.stop()
