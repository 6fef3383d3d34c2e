#!/usr/bin/env python3
"""Records how a library writes a checkpoint: the folder's listing after each change, and what a recogniser may look at.

    python tests/checkpoints/record.py orbax > worker/core/tests/checkpoints/orbax.json

Run it with a Python that has the library. The recordings are replayed by worker/core/tests/checkpoints.rs: the libraries
are too heavy to be installed for a test.
"""

import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

HEAD, TAIL, TEXT = 64, 128, 8192
LOOKED_AT = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def orbax(folder):
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    tree = {"weights": jnp.ones((64, 64)), "bias": jnp.zeros(64)}
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
        for step in (100, 200):
            manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    return ["orbax-checkpoint", "jax"]


def lightning(folder):
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(40, 8)), batch_size=4)
    saves = ModelCheckpoint(dirpath=folder, every_n_train_steps=5, save_top_k=-1, save_last=True)
    lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[saves], enable_progress_bar=False,
                      enable_model_summary=False).fit(Line(), data)
    return ["lightning", "torch"]


def trainer(folder):
    import torch
    import transformers

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, _):
            return {"input_ids": torch.ones(4, dtype=torch.long), "labels": torch.ones(4, dtype=torch.long)}

    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8)
    arguments = transformers.TrainingArguments(output_dir=folder, max_steps=10, save_steps=5, use_cpu=True, report_to=[],
                                               per_device_train_batch_size=4, disable_tqdm=True)
    transformers.Trainer(transformers.GPT2LMHeadModel(config), arguments, train_dataset=Data()).train()
    return ["transformers", "accelerate", "safetensors", "torch"]


def legacy(folder):
    import torch

    layer = torch.nn.Linear(4, 2)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(4)).sum().backward()
    adam.step()
    state = {"model": layer.state_dict(), "optimizer": adam.state_dict(), "step": 30, "half": torch.ones(3, dtype=torch.bfloat16),
             "view": torch.arange(10)[2:4], "nothing": torch.empty(0)}
    torch.save(state, os.path.join(folder, "step_30.pt"), _use_new_zipfile_serialization=False)
    return ["torch"]


def listing(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        try:
            meta = path.lstat()
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(folder))] = [meta.st_size, meta.st_mtime_ns // 1_000_000]
        except OSError:  # gone already
            pass
    return found


def watch(folder, line):
    """Tells of each listing that differs from the one before, until it is asked to end."""
    states, last = [], None
    while True:
        now = listing(folder)
        if now != last:
            states.append({"atMs": time.time_ns() // 1_000_000, "files": now})
            last = now
        if line.poll():
            line.send(states)
            return


def changes(states):
    """Of each state only what is new."""
    before = {}
    for state in states:
        now = state["files"]
        changed = {path: file for path, file in now.items() if before.get(path) != file}
        yield {"atMs": state["atMs"], "changed": changed, "gone": [path for path in before if path not in now]}
        before = now


def contents(folder):
    """Of each file that has a form, what can be seen at its ends."""
    seen = {}
    for name, (size, _) in listing(folder).items():
        data = (pathlib.Path(folder) / name).read_bytes()
        if name.endswith((".index.json", "trainer_state.json", ".metadata")):
            seen[name] = {"head": data[:TEXT].hex(), "tail": data[-TAIL:].hex()}
        elif name.endswith(LOOKED_AT):
            head = HEAD if data.startswith(b"PK") else TEXT
            if name.endswith(".safetensors"):
                head = 8 + int.from_bytes(data[:8], "little")
            seen[name] = {"head": data[:head].hex(), "tail": data[-TAIL:].hex()}
    return seen


def main():
    write = {each.__name__: each for each in (orbax, lightning, trainer, legacy)}[sys.argv[1]]
    out, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as home:
        folder = os.path.join(home, "checkpoints")
        os.mkdir(folder)
        ours, theirs = multiprocessing.Pipe()
        watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(folder, theirs), daemon=True)
        watcher.start()
        packages = write(folder)
        ours.send(None)
        states = ours.recv()
        watcher.join()
        by = {name: importlib.metadata.version(name) for name in packages}
        states[-1]["files"] = listing(folder)
        json.dump({"by": by, "states": list(changes(states)), "contents": contents(folder)}, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
