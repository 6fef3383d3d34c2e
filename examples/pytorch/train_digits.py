"""Trains a classifier of handwritten digits with PyTorch DDP on CPUs (gloo).

Works under anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: `trainyard launch`, a TrainingJob, a
PyTorchJob, torchrun; and alone, without any of them. The data are the 1,797 digits that scikit-learn carries.
"""

import argparse
import gc
import json
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128, help="samples per step, over all ranks together")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=5, help="steps between two progress lines")
    parser.add_argument("--output", help="folder for the model and its metrics")
    return parser.parse_args()


def load(seed):
    digits = load_digits()
    parts = train_test_split(
        digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    return TensorDataset(train_x.float(), train_y.long()), TensorDataset(test_x.float(), test_y.long())


def accuracy(model, data, rank, world):
    """Each rank looks at its share; the counts are added up."""
    features, labels = data.tensors
    with torch.no_grad():
        right = (model(features[rank::world]).argmax(1) == labels[rank::world]).sum().to(torch.int64)
    dist.all_reduce(right)
    return right.item() / len(labels)


def train(args):
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(args.seed)
    samples, test = load(args.seed)
    sampler = DistributedSampler(samples, world, rank, shuffle=True, seed=args.seed)
    loader = DataLoader(samples, batch_size=max(1, args.batch // world), sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()

    steps, step = args.epochs * len(loader), 0
    if rank == 0:
        print(f"world_size={world} train_samples={len(samples)} test_samples={len(test)}", flush=True)
    for epoch in range(1, args.epochs + 1):
        sampler.set_epoch(epoch)
        for features, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(features), labels)
            loss.backward()
            optimizer.step()
            step += 1
            if rank == 0 and (step % args.log_every == 0 or step == steps):
                print(f"epoch={epoch}/{args.epochs} step={step}/{steps} loss={loss.item():.4f}", flush=True)

    result = accuracy(model.module, test, rank, world)
    if rank == 0:
        print(f"test_accuracy={result:.4f}", flush=True)
        if args.output:
            os.makedirs(args.output, exist_ok=True)
            torch.save(model.module.state_dict(), os.path.join(args.output, "model.pt"))
            with open(os.path.join(args.output, "metrics.json"), "w", encoding="utf-8") as file:
                json.dump({"testAccuracy": result, "epochs": args.epochs, "ranks": world}, file)


def main():
    args = arguments()
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        os.environ.setdefault(name, alone)
    dist.init_process_group("gloo")
    train(args)
    # The model holds the group. Gone must both be before Python ends: gloo's threads that are left then abort the process.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
