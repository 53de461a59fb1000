"""FedAvg on real data, number by number: FLamby's heart disease data against a reference in double precision.

The reference shares nothing with fl_sim: it reads the hospitals' files itself, draws the same batches with a generator
of its own (Philox 4x32-10, Salmon et al., SC 2011), and does logistic regression with NumPy.
"""
import json
import os
import unittest

import h5py
import numpy as np

from whole_program import Case, columns

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
MASK = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


class Stream:
    """The stream (seed, purpose, round, client), as src/base/rng.h defines it."""

    def __init__(self, seed, purpose, round_, client):
        name = 2166136261
        for byte in purpose.encode():
            name = ((name ^ byte) * 16777619) & MASK
        self.key, self.counter, self.words = (seed & MASK, seed >> 32), [0, client, round_, name], []

    def bits(self):
        if not self.words:
            self.words = philox(self.counter, self.key)
            self.counter[0] += 1
        return self.words.pop(0)

    def below(self, n):
        """A number below n, without bias."""
        limit = (1 << 64) - 1 - ((1 << 64) - 1) % n
        while True:
            draw = (self.bits() << 32) | self.bits()
            if draw < limit:
                return draw % n

    def shuffle(self, items):
        for i in range(len(items), 1, -1):
            j = self.below(i)
            items[i - 1], items[j] = items[j], items[i - 1]


def read_hospitals(folder):
    """Per hospital the training inputs [n, 13], standardised, and labels; and the test set's, standardised by all."""
    with open(os.path.join(folder, "test_rows.json")) as file:
        test_rows = json.load(file)
    rows, owner, is_test = [], [], []
    for k, name in enumerate(HOSPITALS):
        kept = []
        with open(os.path.join(folder, f"processed.{name}.data")) as file:
            for line in file:
                cells = line.strip().split(",")
                cells = cells[:10] + cells[13:]
                if len(cells) == 11 and "?" not in cells:
                    kept.append([float(cell) for cell in cells])
        rows += kept
        owner += [k] * len(kept)
        is_test += [i in set(test_rows[name]) for i in range(len(kept))]
    rows, owner, is_test = np.array(rows), np.array(owner), np.array(is_test)
    labels = (rows[:, 10] != 0).astype(float)
    numbers = np.delete(rows[:, :10], [2, 6], axis=1)
    dummies = [(rows[:, c:c + 1] == np.unique(rows[:, c])[1:]).astype(float) for c in (2, 6)]
    inputs = np.concatenate([numbers, *dummies], axis=1)
    spread = lambda of: np.where(of.std(0, ddof=1) > 1e-12, of.std(0, ddof=1), 1)  # 1 for a constant column
    standard = lambda x, of: (x - of.mean(0)) / spread(of)
    train = []
    for k in range(4):
        own = inputs[(owner == k) & ~is_test]
        train.append((standard(own, own), labels[(owner == k) & ~is_test]))
    test = standard(inputs[is_test], inputs[~is_test]), labels[is_test]
    return train, test


def loss_of(score, label):
    return np.logaddexp(0, score) - label * score


def fedavg(train, test, rounds, steps, batch_size, lr, seed):
    """Each round's training loss (hospitals' means over the samples seen, weighted by their sizes), and the final model's
    loss and accuracy on the test set.
    """
    w, b, total = np.zeros(13), 0.0, sum(len(y) for x, y in train)
    losses = []
    for round_ in range(1, rounds + 1):
        new_w, new_b, loss = np.zeros(13), 0.0, 0.0
        for k, (x, y) in enumerate(train):
            stream, order, place = Stream(seed, "shuffle", round_, k), list(range(len(y))), 0
            seen, lost = 0, 0.0
            own_w, own_b = w.copy(), b
            for _ in range(steps):
                if place == 0:
                    stream.shuffle(order)
                batch = order[place:place + batch_size]
                place = place + batch_size if place + batch_size < len(y) else 0
                score = x[batch] @ own_w + own_b
                lost += loss_of(score, y[batch]).sum()
                seen += len(batch)
                error = (1 / (1 + np.exp(-score)) - y[batch]) / len(batch)
                own_w, own_b = own_w - lr * error @ x[batch], own_b - lr * error.sum()
            loss += len(y) / total * lost / seen
            new_w += len(y) / total * own_w
            new_b += len(y) / total * own_b
        w, b = new_w, new_b
        losses.append(loss)
    score = test[0] @ w + b
    return np.array(losses), loss_of(score, test[1]).mean(), np.mean((score > 0) == (test[1] > 0.5))


class HeartReference(Case):
    def test_every_rounds_training_loss(self):
        """Proves that fl_sim's FedAvg is the reference's, on the same data, weights and batches, to 1e-6."""
        data = os.environ.get("FL_SIM_DATA", "")
        folder = os.path.join(data, "heart")
        if not data or not os.path.exists(os.path.join(folder, "test_rows.json")):
            self.skipTest("the heart disease data are not on this machine (FL_SIM_DATA names their folder)")
        train, test = read_hospitals(folder)
        self.assertEqual([len(y) for x, y in train], [199, 172, 30, 85])
        self.assertEqual(len(test[1]), 104 + 89 + 16 + 45)
        zeros = self.path("zeros.h5")
        with h5py.File(zeros, "w") as file:
            file["fc.weight"], file["fc.bias"] = np.zeros((1, 13), np.float32), np.zeros(1, np.float32)
        for seed, ranks in ((0, 0), (3, 3)):
            with self.subTest(seed=seed):
                output = self.path(f"heart-{seed}.h5")
                self.succeed("--dataset", "heart", "--data-dir", data, "--heart.standardise", "pooled", "--partitioner",
                             "natural", "--model", "logistic", "--objective", "binary", "--init", zeros, "--cohort", 4,
                             "--rounds", 15, "--local.steps", 100, "--local.batch-size", 4, "--local.lr", 0.001,
                             "--seed", seed, "--output", output, ranks=ranks)
                losses, test_loss, test_accuracy = fedavg(train, test, 15, 100, 4, 0.001, seed)
                rounds = columns(output, "rounds")
                np.testing.assert_allclose(rounds["train_loss"], losses, rtol=0, atol=1e-6)
                self.assertAlmostEqual(rounds["test_loss"][-1], test_loss, delta=1e-6)
                self.assertEqual(rounds["test_accuracy"][-1], test_accuracy)
                print(f"seed {seed}: largest deviation {np.abs(rounds['train_loss'] - losses).max():.1e}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
