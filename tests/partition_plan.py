"""fl_sim --plan partition: what it prints and draws; saved partitions, and runs that use them."""
import json
import os
import re
import shutil
import unittest

import h5py
import numpy as np

from whole_program import Case, checksum, write_images


class PartitionPlan(Case):
    def setUp(self):
        super().setUp()
        self.data = write_images(self.path("data"), train=600, test=50)
        self.common = ["--dataset", "fashion-mnist", "--data-dir", self.data]

    def plan(self, *words, ranks=0):
        run = self.succeed("--plan", "partition", *self.common, *words, ranks=ranks)
        self.assertEqual(run.err, "", str(run))
        return run.out

    def train(self, name, *words, ranks=0):
        self.succeed(*self.common, "--model", "logistic", "--rounds", 2, "--cohort", 3, "--local.batch-size", 10,
                     "--local.lr", 0.1, "--output", self.path(name), *words, ranks=ranks)
        return self.path(name)

    def test_table(self):
        """Proves that the table is the partition that a run of the same job trains on."""
        split = ["--partitioner", "dirichlet", "--dirichlet.alpha", 0.5, "--clients", 6]
        text = self.plan(*split)
        rows = re.findall(r"^ *(\d+) +(\d+) +(\d+)((?: +(?:\d+|-)){10})$", text, re.M)
        self.assertEqual([int(row[0]) for row in rows], list(range(6)), text)
        with h5py.File(self.train("x.h5", *split), "r") as file:
            part = file["partition"]
            shown = [[int(word.replace("-", "0")) for word in row[3].split()] for row in rows]
            np.testing.assert_array_equal(shown, part["histogram"][()])
            np.testing.assert_array_equal([int(row[1]) for row in rows], part["size"][()])
            for name, key in (("Jensen-Shannon", "jensen_shannon"), ("Hellinger", "hellinger"),
                              ("earth mover's", "earth_mover")):
                self.assertRegex(text, rf"{name} +mean {part.attrs[key + '_mean']:.4f}, "
                                       rf"max {part.attrs[key + '_max']:.4f}")
        self.assertIn("█", text)
        self.assertEqual(self.plan(*split, ranks=3), text)
        self.assertFalse(os.path.exists("results/fedavg-fashion-mnist-logistic-0.h5"))

    def test_job_files(self):
        """A whole job can be planned, its results too, and a key that nobody reads is refused as ever."""
        with open(self.path("job.ini"), "w") as file:
            file.write("dataset = fashion-mnist\nmodel = cnn\npartitioner = shards\nclients = 10\n"
                       f"data-dir = {self.data}\n[local]\nbatch-size = 10\nlr = 0.1\n")
        text = self.succeed("--plan", "partition", "--job", self.path("job.ini")).out
        self.assertTrue(text.startswith("shards (per-client 2), 10 clients, fashion-mnist\n"), text)
        self.fail_with(["unknown key 'shards.per'"], "--plan", "partition", *self.common, "--shards.per", 2)
        self.fail_with(["--plan knows no 'model' (choose partition or clock, or say nothing to plan the whole"],
                       "--plan", "model", *self.common)
        self.fail_with(["clients is 601 (must be at most 600"], "--plan", "partition", *self.common, "--clients", 601)

    def test_unused_clients(self):
        """Clients that the data name and the partitioner ignores are worth a warning, from a plan and from a run."""
        with open(self.path("t.csv"), "w") as file:
            file.write("x,y,site\n" + "".join(f"{i},{i % 2},{'abc'[i % 3]}\n" for i in range(60)))
        job = ["--dataset", f"csv:{self.path('t.csv')}", "--csv.label", "y", "--csv.client", "site",
               "--model", "logistic", "--rounds", 1, "--local.batch-size", 5, "--local.lr", 0.1]
        told = ("fl_sim: warning: the data name 3 clients of their own, which partitioner iid does not look at "
                "(--partitioner natural does)\n")
        for words in (["--plan", "partition"], ["--output", self.path("x.h5")]):
            self.assertEqual(self.succeed(*words, *job, "--partitioner", "iid", "--clients", 2).err, told)
            self.assertEqual(self.succeed(*words, *job, "--partitioner", "natural", "--overwrite").err, "")

    def test_pictures(self):
        picture = self.path("x.svg")
        self.fail_with(["--picture is x.pdf"], "--plan", "partition", *self.common, "--picture", "x.pdf")
        self.fail_with(["--picture-kind is pie (must be bubbles or bars)"], "--plan", "partition", *self.common,
                       "--picture", picture, "--picture-kind", "pie")
        self.fail_with(["--picture-kind needs --picture FILE"], "--plan", "partition", *self.common,
                       "--picture-kind", "bars")
        tools = self.path("tools")  # a PATH without gnuplot
        os.mkdir(tools)
        os.symlink(shutil.which("sh"), os.path.join(tools, "sh"))
        self.fail_with(["--picture needs gnuplot", "apt install gnuplot-nox"], "--plan", "partition", *self.common,
                       "--picture", picture, PATH=tools)
        if shutil.which("gnuplot") is None:
            self.skipTest("no gnuplot: nothing is drawn (apt install gnuplot-nox)")
        for kind in ("bubbles", "bars"):
            for end, start in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
                for clients in (5, 300):
                    with self.subTest(kind=kind, end=end, clients=clients):
                        picture = self.path(f"new/{kind}-{clients}{end}")
                        self.assertIn(picture, self.plan("--picture", picture, "--picture-kind", kind,
                                                         "--clients", clients))
                        with open(picture, "rb") as file:
                            data = file.read()
                        self.assertTrue(data.startswith(start))
                        self.assertGreater(len(data), 5000)
                        if end == ".svg":
                            for word in (b"client", b"samples"):
                                self.assertIn(word, data)

    def test_saved(self):
        """Proves that a run on a saved partition is bit for bit the run that it was saved from."""
        saved = self.path("p.h5")
        split = ["--partitioner", "label-count", "--label-count.k", 2, "--clients", 10]
        first = self.train("first.h5", *split, "--partition.save", saved)
        with h5py.File(saved, "r") as file, h5py.File(first, "r") as results:
            attributes = dict(file["partition"].attrs)
            self.assertEqual(attributes["partitioner"], "label-count")
            self.assertEqual(attributes["options"], "label-count.k = 2\n")
            self.assertEqual(attributes["seed"], "0")
            self.assertEqual(attributes["checksum"], results["partition"].attrs["checksum"])
            self.assertEqual(file["partition/samples"][()], 600)
            offsets, indices = file["partition/offsets"][()], file["partition/indices"][()]
            np.testing.assert_array_equal(indices, results["partition/indices"][()])
        with open(self.path("p.json"), "w") as file:
            json.dump({str(k): indices[offsets[k]:offsets[k + 1]].tolist() for k in range(10)}, file)
        for name in ("p.h5", "p.json"):
            again = self.train(f"of-{name}.h5", "--partitioner", "file", "--file.path", self.path(name), ranks=3)
            self.assertEqual(checksum(again), checksum(first))
            with h5py.File(again, "r") as results:
                self.assertEqual(results["job"].attrs["clients"], "10")  # auto
        # Planning saves as well; the same partition may be saved again, another one not.
        self.plan(*split, "--partition.save", saved)
        self.fail_with(["p.h5 exists and is not this partition"], "--plan", "partition", *self.common, *split,
                       "--seed", 1, "--partition.save", saved)
        other = write_images(self.path("other"), train=500, test=50)
        self.fail_with(["p.h5: is a partition of 600 training samples, this training set has 500"], "--plan",
                       "partition", "--dataset", "fashion-mnist", "--data-dir", other, "--partitioner", "file",
                       "--file.path", saved)

    def test_auto_clients(self):
        self.assertIn("\nclients         3, with 500 of 600 samples\n",
                      self.plan("--partitioner", "sizes", "--sizes.list", "300,100*2"))

    def test_views(self):
        """Partitioners that change what clients see train, and the same on every number of ranks."""
        for words in (["--partitioner", "feature-noise", "--clients", 6],
                      ["--partitioner", "vertical", "--clients", 4]):
            with self.subTest(words):
                sums = {checksum(self.train(f"{words[1]}-{ranks}.h5", *words, ranks=ranks)) for ranks in (0, 3)}
                plain = checksum(self.train(f"{words[1]}-iid.h5", "--partitioner", "iid", *words[2:]))
                self.assertEqual(len(sums), 1)
                self.assertNotIn(plain, sums)


if __name__ == "__main__":
    unittest.main(verbosity=2)
