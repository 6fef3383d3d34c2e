"""A rank that writes checkpoints with the real libraries, as it is told: the files in commands/ are its orders, in the
order of their names. All ranks see all of them.

Beside it lie `stuck`, which it makes when it is in the midst of a write that it was told to stop in, and `go`, which
lets it go on.
"""

import os
import pathlib
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

HOME = pathlib.Path(sys.argv[1])
SAVES = HOME / "saves"
STATE = {"weights": torch.arange(4096.0), "half": torch.ones(8, 8, dtype=torch.bfloat16), "step": 7}
RANK = int(os.environ["RANK"])


def say(text):
    print(text, flush=True)


class Halfway:
    """A file that stops in its middle until it may go on."""

    def __init__(self, path):
        self.file, self.written = open(path, "wb"), 0

    def write(self, data):
        before, self.written = self.written, self.written + len(data)
        if before < 9000 <= self.written:
            cut = 9000 - before
            self.file.write(data[:cut])
            self.file.flush()
            stop()
            data = data[cut:]
        self.file.write(data)
        return len(data)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def stop():
    (HOME / "stuck").write_text(str(os.getpid()))
    while not (HOME / "go").exists():
        time.sleep(0.02)


def stop_when_synced():
    """A part of a distributed checkpoint is written, and its table of contents is not."""
    real = os.fsync

    def fsync(file):
        real(file)
        stop()

    os.fsync = fsync


def save(how, step):
    path = SAVES / f"step_{step}.pt"
    if how == "dcp":
        return dcp.save(STATE, checkpoint_id=SAVES / f"step_{step}")
    if how == "dcp-async":
        return dcp.async_save(STATE, checkpoint_id=SAVES / f"step_{step}").result()
    if how == "dcp-half":
        if RANK == 1:
            stop_when_synced()
        return dcp.save(STATE, checkpoint_id=SAVES / f"step_{step}")
    if RANK != 0:
        return None
    if how == "zip":
        torch.save(STATE, path)
    elif how == "legacy":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    elif how == "safetensors":
        from safetensors.torch import save_file
        save_file({"weights": STATE["weights"]}, SAVES / f"step_{step}.safetensors")
    elif how == "sharded":
        import json
        from safetensors.torch import save_file
        folder = SAVES / f"step_{step}"
        folder.mkdir()
        names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        for at, name in enumerate(names):
            save_file({f"w{at}": STATE["weights"]}, folder / name)
        index = {"metadata": {}, "weight_map": {f"w{at}": name for at, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "moved":
        torch.save(STATE, f"{path}.tmp")
        stop()
        os.replace(f"{path}.tmp", path)
    elif how == "cut":
        torch.save(STATE, path)
        os.truncate(path, os.path.getsize(path) - 1)
    elif how == "latest":
        (SAVES / "latest").write_text(f"step_{step}")
    elif how in ("half", "half-legacy"):
        file = Halfway(path)
        torch.save(STATE, file, _use_new_zipfile_serialization=how == "half")
        file.close()
    else:
        raise ValueError(how)
    return None


def main():
    dist.init_process_group("gloo")
    SAVES.mkdir(exist_ok=True)
    # What was ordered before was for the ranks before.
    at = len(list((HOME / "commands").iterdir()))
    (HOME / "begun" / f"{RANK}-{os.getpid()}").touch()
    while True:
        order = HOME / "commands" / f"{at:03}"
        if not order.exists():
            time.sleep(0.02)
            continue
        how, step = order.read_text().split()
        if how == "end":
            return
        if how == "steps":
            if RANK == 0:
                say(f"step={step}/1000 loss=0.5")
        else:
            save(how, int(step))
        at += 1


if __name__ == "__main__":
    main()
