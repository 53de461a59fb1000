"""PyTorch itself with our trained model: load_model.py results/x.h5 MODEL FASHION_MNIST_DIRECTORY

Loads /model into a torch.nn model of the same definition and compares its accuracy on the test set with the last one
in /rounds/test_accuracy.
"""
import gzip
import os
import sys
from collections import OrderedDict

import h5py
import numpy as np
import torch
from torch import nn


def layers(**named):
    return nn.Sequential(OrderedDict(named))


# Layers without parameters are not in the state_dict, so their names are free.
MODELS = {
    "logistic": lambda: layers(flat=nn.Flatten(), fc=nn.Linear(784, 10)),
    "2nn": lambda: layers(flat=nn.Flatten(), fc1=nn.Linear(784, 200), relu1=nn.ReLU(), fc2=nn.Linear(200, 200),
                          relu2=nn.ReLU(), fc3=nn.Linear(200, 10)),
    "cnn": lambda: layers(conv1=nn.Conv2d(1, 32, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
                          conv2=nn.Conv2d(32, 64, 5, padding=2), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
                          flat=nn.Flatten(), fc1=nn.Linear(3136, 512), relu3=nn.ReLU(), fc2=nn.Linear(512, 10)),
    "lenet": lambda: layers(conv1=nn.Conv2d(1, 6, 5), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
                            conv2=nn.Conv2d(6, 16, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2), flat=nn.Flatten(),
                            fc1=nn.Linear(256, 120), relu3=nn.ReLU(), fc2=nn.Linear(120, 84), relu4=nn.ReLU(),
                            fc3=nn.Linear(84, 10)),
}


def read_idx(directory, name, header):
    """The bytes behind the header of an IDX file, gzipped or not."""
    path = os.path.join(directory, name)
    opener = open if os.path.exists(path) else gzip.open
    with opener(path if os.path.exists(path) else path + ".gz", "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header).copy()


def main(path, name, directory):
    torch.set_num_threads(1)
    with h5py.File(path, "r") as file:
        state = OrderedDict((key, torch.from_numpy(np.asarray(file["model"][key][()]))) for key in file["model"])
        accuracies = file["rounds/test_accuracy"][:]
    assert len(accuracies) > 0 and not np.isnan(accuracies[-1]), "the last round was not evaluated"

    model = MODELS[name]()
    model.load_state_dict(state, strict=True)
    model.eval()
    images = torch.from_numpy(read_idx(directory, "t10k-images-idx3-ubyte", 16)).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(read_idx(directory, "t10k-labels-idx1-ubyte", 8)).long()
    assert len(images) == len(labels) == 10000
    correct = 0
    with torch.no_grad():
        for batch, wanted in zip(images.split(500), labels.split(500)):
            correct += (model(batch.float() / 255).argmax(1) == wanted).sum().item()
    accuracy = correct / len(labels)
    print(f"{path}: {name} has accuracy {accuracy:.4f} in PyTorch, {accuracies[-1]:.4f} in the file")
    assert abs(accuracy - accuracies[-1]) <= 0.0005, "they differ by more than 0.0005"


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[2] not in MODELS:
        sys.exit(f"usage: load_model.py FILE {'|'.join(MODELS)} FASHION_MNIST_DIRECTORY")
    main(*sys.argv[1:])
