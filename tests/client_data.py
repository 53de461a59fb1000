"""What clients hold, in whole runs: lists for testing, clients held out, hidden groups, given weights. The same for every
number of ranks and of machines."""
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


if __name__ == "__main__":
    unittest.main()
