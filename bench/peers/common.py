"""What the peers share: data, models, one client's training, the clock, and the line that a run ends with."""

import functools
import gzip
import importlib.metadata
import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn

from cells import CELLS

DATA = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
SEED = 0


def arguments():
    """CELL ROUNDS, the arguments of every peer."""
    torch.manual_seed(SEED)
    return CELLS[sys.argv[1]], int(sys.argv[2])


def read_idx(name):
    with gzip.open(f"{DATA}/{name}-ubyte.gz") as file:
        data = file.read()
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


@functools.cache
def samples(part):
    """All images [n, 1, 28, 28] in 0..1 and labels of "train" or "t10k"."""
    images = torch.from_numpy(read_idx(f"{part}-images-idx3").astype(np.float32) / 255)
    labels = torch.from_numpy(read_idx(f"{part}-labels-idx1").astype(np.int64))
    return images.unsqueeze(1), labels


@functools.cache
def split(clients):
    """An even random split: the sample indices of every client."""
    order = np.random.default_rng(SEED).permutation(60_000)
    return torch.from_numpy(order).chunk(clients)


class Batches:
    """One client's samples in mini-batches, shuffled anew on every pass. It stands where the frameworks' examples put a
    torch DataLoader and is faster, because it slices whole batches: loading is not what is measured here."""

    def __init__(self, cell, client):
        x, y = samples("train")
        mine = split(cell.clients)[client]
        self.x, self.y, self.batch = x[mine], y[mine], cell.batch

    def __len__(self):
        return math.ceil(len(self.y) / self.batch)

    def __iter__(self):
        for rows in torch.randperm(len(self.y)).split(self.batch):
            yield self.x[rows], self.y[rows]


@functools.cache
def batches(cell, client):
    return Batches(cell, client)


def make_model(name):
    if name == "2nn":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
        )
    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10),
        )  # fmt: skip
    if name == "lenet":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def train(model, cell, client):
    """One local epoch of one client."""
    optimizer = torch.optim.SGD(model.parameters(), lr=cell.lr, momentum=cell.momentum)
    for x, y in batches(cell, client):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def stock_sgd_gets_momentum(cell):
    """For frameworks whose own client makes a plain torch.optim.SGD for every client."""
    if cell.momentum:
        torch.optim.SGD = functools.partial(torch.optim.SGD, momentum=cell.momentum)


class Clock:
    """Stamps where a round ends and the next begins."""

    def __init__(self):
        self.stamps = []

    def stamp(self):
        self.stamps.append(time.perf_counter())

    def seconds(self):
        return [after - before for before, after in zip(self.stamps, self.stamps[1:])]


@torch.no_grad()
def accuracy(model):
    model.eval()
    x, y = samples("t10k")
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(x.split(1000), y.split(1000)))
    return right / len(y)


def report(clock, model, *packages):
    """The last line of a run: what the driver reads."""
    versions = {name: importlib.metadata.version(name) for name in packages} | {"torch": torch.__version__}
    print(json.dumps({"seconds": clock.seconds(), "accuracy": accuracy(model), "versions": versions}), flush=True)
