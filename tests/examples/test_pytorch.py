"""Real PyTorch: DDP on gloo through a TrainingJob, and a PyTorchJob whose command is torch.distributed.run."""

import os
import re
import subprocess

import pytest

from conftest import ROOT, TRAINYARD


@pytest.mark.parametrize("manifest, ranks", [("pytorch-ddp.yaml", 4), ("pytorchjob-digits.yaml", 3)])
def test_pytorch_trains_the_digits(tmp_path, manifest, ranks):
    env = {**os.environ, "TRAINYARD_HOME": str(tmp_path / "home"), "NO_COLOR": "1",
           "PATH": os.environ["TORCH_BIN"] + ":" + os.environ["PATH"]}
    env.pop("KUBECONFIG", None)
    done = subprocess.run([TRAINYARD, "run", str(ROOT / "examples" / manifest)], env=env, capture_output=True,
                          text=True, timeout=600, cwd=ROOT)
    out = done.stdout + done.stderr
    assert done.returncode == 0, out[-4000:]
    assert float(re.search(r"test_accuracy[=: ]+([0-9.]+)", out).group(1)) > 0.9
    assert f"world_size={ranks}" in out or f"of {ranks}" in out or f"[rank {ranks - 1}]" in out


def test_torchs_own_clients_work_with_the_launchers_store():
    python = os.path.join(os.environ["TORCH_BIN"], "python")
    done = subprocess.run([TRAINYARD, "launch", "--nproc", "3", "--", python, str(ROOT / "tests/examples/torch_store.py")],
                          capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"rank {rank}: store ok" in done.stdout for rank in range(3))
