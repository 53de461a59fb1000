"""What clients hold, in whole runs: lists for testing, clients held out, hidden groups, given weights. The same for every
number of ranks and of machines."""
import json
import os
import tempfile
import unittest

import h5py
import numpy as np

from whole_program import Case, checksum, columns, write_images

BASE = {"dataset": "fashion-mnist", "model": "2nn", "clients": 12, "cohort": 4, "rounds": 3,
        "partitioner": "inner-dirichlet", "inner-dirichlet.alpha": 0.5, "local.batch-size": 10, "local.lr": 0.05,
        "quiet": "true"}
CLIENT_DATA = {"partition.test-fraction": 0.2, "partition.validation-fraction": 0.1, "holdout-clients": 3,
               "shift.kind": "rotation", "shift.groups": 4}


def csr(group, name):
    """The lists of a partition."""
    offsets, indices = group[name + "offsets"][:], group[name + "indices"][:]
    return [indices[a:b] for a, b in zip(offsets[:-1], offsets[1:])]


class ClientData(Case):
    @classmethod
    def setUpClass(cls):
        cls._data = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(cls._data.cleanup)
        cls.data = write_images(os.path.join(cls._data.name, "data"), train=1000)

    def options(self, output, changes):
        values = {**BASE, "data-dir": self.data, "output": output, **changes}
        return [word for key, value in values.items() for word in ("--" + key, value)]

    def train(self, name, changes, ranks=0, **environment):
        path = self.path(name + ".h5")
        self.succeed(*self.options(path, changes), ranks=ranks, **environment)
        return path

    def test_lists_and_groups(self):
        with h5py.File(self.train("lists", CLIENT_DATA)) as file:
            group = file["partition"]
            lists = {name: csr(group, name) for name in ("", "validation_", "test_")}
            everything = np.concatenate([part for parts in lists.values() for part in parts])
            self.assertEqual(len(everything), 12 * (1000 // 12))
            self.assertEqual(len(np.unique(everything)), len(everything))
            for train, validation, test in zip(*lists.values()):
                self.assertEqual((len(train), len(validation), len(test)), (83 - 8 - 17, 8, 17))
            holdout, shift = group["holdout"][:], group["shift_group"][:]
            self.assertEqual(len(np.unique(holdout)), 3)
            self.assertEqual(sorted(shift), sorted(list(range(4)) * 3))
            self.assertFalse(set(holdout) & set(file["clients/client"][:]), "a client that is held out trained")
        with h5py.File(self.train("plain", {})) as file:
            self.assertFalse({"test_offsets", "validation_offsets", "holdout", "shift_group"} & set(file["partition"]))

    def test_same_for_every_number_of_ranks_and_machines(self):
        expected = self.train("alone", CLIENT_DATA)
        for name, ranks, hooks in (("one", 1, ""), ("three", 3, ""), ("machines", 4, "machines=2"),
                                   ("no-window", 3, "no-window")):
            path = self.train(name, CLIENT_DATA, ranks, **({"FL_SIM_TEST": hooks} if hooks else {}))
            self.assertEqual(checksum(path), checksum(expected), name)
            with h5py.File(path) as found, h5py.File(expected) as wanted:
                self.assertEqual(set(found["partition"]), set(wanted["partition"]))
                for key in found["partition"]:
                    self.assertTrue(np.array_equal(found["partition"][key][()], wanted["partition"][key][()]), key)

    def test_every_shift_changes_the_model(self):
        sums = {checksum(self.train("none", {}))}
        for kind in ("labels", "rotation", "intensity"):
            sums.add(checksum(self.train(kind, {"shift.kind": kind})))
        self.assertEqual(len(sums), 4)

    def test_given_weights(self):
        """A results file's model is where the next run starts: a first local step sees its loss."""
        first = self.train("first", {"rounds": 5})
        # h5py is how a state_dict gets into a file: float64, at the root, with PyTorch's counter beside.
        exported = self.path("net.h5")
        with h5py.File(first) as results, h5py.File(exported, "w") as file:
            for name in results["model"]:
                file[name] = results["model"][name][()].astype(np.float64)
            file["bn.num_batches_tracked"] = 3
        runs = [self.train(f"from-{i}", {"init": path, "seed": 1}, ranks)
                for i, (path, ranks) in enumerate([(first, 0), (exported, 0), (first, 3)])]
        self.assertEqual(len({checksum(path) for path in runs}), 1)
        fresh = self.train("fresh", {"seed": 1})
        self.assertNotEqual(checksum(fresh), checksum(runs[0]))
        before = [columns(path, "clients")["loss_before"][:4].mean() for path in (runs[0], fresh)]
        self.assertLess(before[0], before[1])

        output = self.path("x.h5")
        self.fail_with([exported + ": /", "lacks fc.weight, fc.bias"],
                       *self.options(output, {"init": exported, "model": "logistic"}), ranks=3)
        self.fail_with(["/nowhere.h5"], *self.options(output, {"init": "/nowhere.h5"}))

    def test_what_cannot_be_is_refused(self):
        for ranks, changes, words in (
                (3, {"holdout-clients": 9}, ["cohort is 4", "1 to 3", "9 that are held out"]),
                (0, {"holdout-clients": 12}, ["holdout-clients is 12", "less than 12", "somebody has to train"]),
                (0, {"partition.test-fraction": 0.6, "partition.validation-fraction": 0.4},
                 ["partition.test-fraction is 0.6", "together less than 1"]),
                (3, {"dataset": "fcube", "data-dir": "auto", "shift.kind": "rotation"},
                 ["shift.kind rotation needs square images", "[3]"]),
                (0, {"dataset": "fcube", "data-dir": "auto", "shift.kind": "intensity"},
                 ["shift.kind intensity needs bytes, or numbers from 0"]),
                (0, {"shift.kind": "labels", "shift.groups": 11}, ["shift.groups is 11", "at most 10"]),
                (0, {"shift.groups": 3}, ["shift.groups", "shift.kind is none"]),
                (0, {"inner-dirichlet.size": 84}, ["12 clients cannot hold 84 samples each, there are 1000"])):
            with self.subTest(changes=changes):
                self.fail_with(words, *self.options(self.path("x.h5"), changes), ranks=ranks)


class OwnTests(Case):
    """Users whose test samples are known by name, in every format that knows them: their clients evaluate on these."""

    # user: number of training samples, of test samples. One never trains, one has nothing to test with.
    USERS = {"ann": (9, 4), "bob": (12, 0), "cyn": (7, 3), "dan": (0, 5), "eve": (11, 6)}
    JOB = {"model": "logistic", "partitioner": "natural", "rounds": 3, "local.batch-size": 5, "local.lr": 0.3,
           "evaluate-clients": 1, "metrics": "f1,auc,balanced-accuracy", "overwrite": "true"}

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(2)
        self.rows = {}  # part: [(user, x, y)]
        for part in (0, 1):
            self.rows[part] = [(user, np.round(random.normal(size=3) + i % 2, 4).astype(np.float32), i % 2)
                               for user, counts in self.USERS.items() for i in range(counts[part])]

    def leaf(self):
        for part, name in enumerate(("train", "test")):
            users = {}
            for user, x, y in self.rows[part]:
                data = users.setdefault(user, {"x": [], "y": []})
                data["x"].append([float(v) for v in x])
                data["y"].append(y)
            os.makedirs(self.path(f"leaf/{name}"))
            with open(self.path(f"leaf/{name}/data.json"), "w") as file:
                json.dump({"users": list(users), "num_samples": [len(u["y"]) for u in users.values()],
                           "user_data": users}, file)
        return {"dataset": "leaf:" + self.path("leaf")}

    def csv(self):
        for part, name in enumerate(("train", "test")):
            with open(self.path(name + ".csv"), "w") as file:
                print("a,b,c,who,y", *[",".join([*(f"{v:.4f}" for v in x), user, str(y)])
                                       for user, x, y in self.rows[part]], sep="\n", file=file)
        return {"dataset": "csv:" + self.path("train.csv"), "csv.test": self.path("test.csv"), "csv.label": "y",
                "csv.client": "who"}

    def npz(self):
        arrays = {}
        for part, end in enumerate(("", "_test")):
            users, arrays["x" + end], arrays["y" + end] = map(np.array, zip(*self.rows[part]))
            arrays["client" + end] = [10 * list(self.USERS).index(user) for user in users]
        np.savez(self.path("t.npz"), **arrays)
        return {"dataset": "npz:" + self.path("t.npz")}

    def words(self, changes):
        values = {**self.JOB, "output": self.path("x.h5"), **changes}
        return [word for key, value in values.items() for word in ("--" + key, value)]

    def test_every_format(self):
        sums = set()
        for name, job in (("leaf", self.leaf()), ("csv", self.csv()), ("npz", self.npz())):
            for ranks, hooks in ((0, ""), (3, ""), (4, "machines=2"), (3, "no-window")):
                with self.subTest(name, ranks=ranks, hooks=hooks):
                    run = self.succeed(*self.words(job), ranks=ranks, **({"FL_SIM_TEST": hooks} if hooks else {}))
                    self.assertRegex(run.out, "clients evaluate on what the test set has of their own: 3 of 4 clients, "
                                              "13 of 18 samples")
                    sums.add(checksum(self.path("x.h5")))
                    self.check_evaluations()
        self.assertEqual(len(sums), 1)

    def check_evaluations(self):
        """By NumPy, of the model after the last round."""
        with h5py.File(self.path("x.h5")) as file:
            weight, bias = file["model/fc.weight"][:], file["model/fc.bias"][:]
            self.assertEqual(file["partition"].attrs["test_indices_are_of"], "the test set")
            lists = csr(file["partition"], "test_")
        clients = [user for user, counts in self.USERS.items() if counts[0] > 0]  # in the order of their names
        table = columns(self.path("x.h5"), "evaluations")
        last = {name: values[table["round"] == 3] for name, values in table.items()}
        self.assertEqual(list(last["client"]), [0, 2, 3])
        figures = {"accuracy": [], "f1": [], "balanced_accuracy": [], "auc": []}
        for i, client in enumerate(last["client"]):
            own = [j for j, row in enumerate(self.rows[1]) if row[0] == clients[client]]
            self.assertEqual(list(lists[client]), own)
            x, y = np.array([self.rows[1][j][1] for j in own]), np.array([self.rows[1][j][2] for j in own])
            scores = x @ weight.T + bias
            guess, margin = scores.argmax(1), scores[:, 1] - scores[:, 0]
            hits = [np.sum((guess == c) & (y == c)) for c in (0, 1)]
            figures["accuracy"].append(np.mean(guess == y))
            figures["f1"].append(np.mean([2 * hits[c] / (np.sum(guess == c) + np.sum(y == c)) for c in (0, 1)]))
            figures["balanced_accuracy"].append(np.mean([hits[c] / np.sum(y == c) for c in (0, 1)]))
            figures["auc"].append(np.mean(np.subtract.outer(margin[y == 1], margin[y == 0]) > 0))
            self.assertEqual(last["samples"][i], len(own))
            for name, values in figures.items():
                self.assertAlmostEqual(last[name][i], values[-1], places=6, msg=name)
        rounds = columns(self.path("x.h5"), "rounds")
        for name, values in figures.items():
            self.assertAlmostEqual(rounds["clients_" + name][-1], np.average(values, weights=last["samples"]), places=6)
            self.assertAlmostEqual(rounds["clients_mean_" + name][-1], np.mean(values), places=6)

    def test_own_models(self):
        """An algorithm with a model of each client, and going on where a run was, with the metrics that it had."""
        job = {**self.leaf(), "algorithm": "finetune", "checkpoint-every": 1, "keep-checkpoint": "true"}
        whole = self.path("whole.h5")
        self.succeed(*self.words({**job, "output": whole, "rounds": 4}))
        self.succeed(*self.words({**job, "overwrite": "false", "resume": "auto"}), ranks=2)
        self.succeed(*self.words({**job, "overwrite": "false", "resume": "auto", "rounds": 4}), ranks=3)
        self.assert_same(whole, self.path("x.h5"), "finetune")
        self.assertTrue(np.isfinite(columns(whole, "rounds")["personal_mean_f1"]).all())

    def test_where_there_are_none(self):
        """Users that are dealt out; samples that clients are asked to keep; nobody who evaluates; a shift."""
        job = self.leaf()
        self.fail_with(["evaluate-clients is 1, but no client keeps samples", "partition.test-fraction",
                        "the test set has samples of these users", "natural"],
                       *self.words({**job, "partitioner": "iid", "clients": 3}))
        self.fail_with(["no client keeps samples", "shift.kind is none"],
                       *self.words({**job, "shift.kind": "labels", "shift.groups": 2}))
        self.fail_with(["algorithm finetune gives clients models of their own", "partition.validation-fraction"],
                       *self.words({**job, "algorithm": "finetune", "evaluate-split": "validation"}))
        for changes in ({"partition.test-fraction": 0.3}, {"evaluate-clients": 0}):
            run = self.succeed(*self.words({**job, **changes}))
            self.assertNotIn("of their own", run.out)
            with h5py.File(self.path("x.h5")) as file:
                self.assertNotIn("test_indices_are_of", file["partition"].attrs)
        # Two users a client.
        run = self.succeed(*self.words({**job, "natural.group": 2}))
        self.assertIn("their own: 2 of 2 clients, 13 of 18 samples", run.out)
        np.savez(self.path("t.npz"), x=np.eye(4), y=np.arange(4), client=np.arange(4), client_test=np.arange(4))
        self.fail_with(["has client_test, but no x_test"], *self.words({"dataset": "npz:" + self.path("t.npz")}))


if __name__ == "__main__":
    unittest.main()
