"""Same job, same bits: whatever the number of ranks, the deal, the order of arrival or the shared memory.

Every case is run without mpirun, and compared with runs on several ranks: the model, and everything measured but times
and places. By default a covering subset of (algorithm, model, group size, ranks); FL_SIM_FULL=1 runs all.
"""
import itertools
import unittest

import h5py
import numpy as np

from whole_program import FULL, Case, checksum, columns

ALGORITHMS = {
    "fedavg": [],
    "fedprox": ["--fedprox.mu", 0.1],
    "scaffold": [],
    "fedadam": ["--server.lr", 0.01],
    "pwfl": ["--pwfl.models", 3, "--pwfl.inner", "scaffold"],
}
MODELS = ["2nn", "lenet"]
GROUP_SIZES = [1, 3, 8]
RANKS = [1, 2, 3, 5]

# 23 clients of unequal size, 7 a round: nothing divides evenly.


class SameBits(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=3, quiet="true")

    def train(self, name, *options, ranks=0, **environment):
        path = self.path(name + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, ranks=ranks, **environment)
        return path

    def assert_learned_something(self, path):
        loss = columns(path, "rounds")["train_loss"]
        self.assertTrue(np.all(np.isfinite(loss)), loss)

    def compare(self, options, ranks, name="run", **environment):
        """Without mpirun and on each of these numbers of ranks, under the environment. Returns the last file."""
        expected = self.train(name, *options, **environment)
        self.assert_learned_something(expected)
        for n in ranks:
            actual = self.train(f"{name}-{n}", *options, ranks=n, **environment)
            self.assert_same(expected, actual, f"{options} on {n} ranks {environment}")
        return actual

    def test_number_of_ranks(self):
        sums = {}
        values = (list(enumerate(axis)) for axis in (ALGORITHMS, MODELS, GROUP_SIZES))
        for (i, algorithm), (j, model), (k, group) in itertools.product(*values):
            # By default one number of ranks each, such that it meets every algorithm, model and group size.
            ranks = RANKS if FULL else [RANKS[(i + 2 * j + k) % len(RANKS)]]
            options = ["--algorithm", algorithm, *ALGORITHMS[algorithm], "--model", model, "--group-size", group]
            with self.subTest(algorithm=algorithm, model=model, group_size=group, ranks=ranks):
                path = self.compare(options, ranks, f"{algorithm}-{model}-{group}")
                sums[algorithm, model, group] = checksum(path)
        # A job that changes nothing would pass all the above.
        for model in MODELS:
            self.assertEqual(len({sums.get((algorithm, model, 1)) for algorithm in ALGORITHMS}), len(ALGORITHMS), sums)

    def test_local_options(self):
        for model, group in (("2nn", 3), ("lenet", 1)):
            self.compare(["--algorithm", "scaffold", "--model", model, "--group-size", group, "--local.momentum", 0.9,
                          "--local.nesterov", "--local.weight-decay", 0.001, "--local.clip-norm", 1, "--local.epochs", 2,
                          "--local.lr-decay", 0.9, "--weighting", "samples", "--evaluate-every", 2,
                          "--fashion-mnist.normalize", "standard"], RANKS if FULL else [3], model)

    def test_more_ranks_than_clients(self):
        self.compare(["--model", "2nn", "--algorithm", "scaffold", "--cohort", 2], [5])

    def test_diverging_client(self):
        for algorithm, group in (("scaffold", 1), ("scaffold", 3), ("fedadam", 8)):
            options = ["--algorithm", algorithm, "--model", "2nn", "--group-size", group, "--rounds", 5]
            name = f"{algorithm}-{group}"
            clean = self.train(name + "-clean", *options)
            clients = columns(clean, "clients")
            sampled = clients["client"][clients["round"] == 2]
            # One that trains again later: then it must be known what it remembers.
            later = clients["client"][clients["round"] > 2]
            client = next((c for c in sampled if c in later), sampled[0])
            path = self.compare([*options, "--inject", f"nan-update@2:{client}"], RANKS if FULL else [2, 3], name)
            self.assertNotEqual(checksum(path), checksum(clean))
            self.assertEqual(list(columns(path, "rounds")["failed"]), [0, 1, 0, 0, 0])
            found = columns(path, "clients")
            self.assertEqual([(r, c) for r, c, s in zip(found["round"], found["client"], found["status"]) if s != 0],
                             [(2, client)])

    def test_delays_and_deals(self):
        disturbed = dict(FL_SIM_TEST="delay=20,deal=random")
        for algorithm, model, group in (("fedavg", "lenet", 1), ("scaffold", "2nn", 1), ("scaffold", "2nn", 3),
                                        ("pwfl", "2nn", 3)):
            options = ["--algorithm", algorithm, *ALGORITHMS[algorithm], "--model", model, "--group-size", group,
                       "--rounds", 6]
            name = f"{algorithm}-{group}"
            expected = self.train(name, *options)
            for n in RANKS[1:] if FULL else [3, 5]:
                for attempt in range(3 if FULL else 1):
                    actual = self.train(f"{name}-{n}-{attempt}", *options, ranks=n, **disturbed)
                    self.assert_same(expected, actual, f"{options} on {n} disturbed ranks")
                    moved = columns(actual, "rounds")["bytes_state"].sum()
                    # With two hosts or more, 42 client rounds of 23 clients cannot all find their state at home.
                    self.assertEqual(moved > 0, algorithm != "fedavg" and n > 2, f"{moved} bytes of state moved")

    def test_slow_rank(self):
        """A rank that takes four times as long gets less to do, and the model stays the same."""
        options = ["--algorithm", "scaffold", "--model", "2nn", "--cohort", 20, "--rounds", 12]
        expected = self.train("even", *options)
        actual = self.train("slow", *options, "--inject", "slow-rank@1:2:4", ranks=3)
        self.assert_same(expected, actual, "a slow rank")
        clients = columns(actual, "clients")

        def share(first, last):
            rows = (clients["round"] >= first) & (clients["round"] <= last)
            return clients["steps"][rows & (clients["rank"] == 2)].sum() / clients["steps"][rows].sum()

        self.assertAlmostEqual(share(1, 1), 0.5, delta=0.1)
        self.assertLess(share(7, 12), 0.35)  # a fifth where nothing else disturbs

    def test_without_shared_memory(self):
        options = ["--algorithm", "fedavg", "--model", "2nn"]
        expected = self.train("shared", *options)
        actual = self.train("copies", *options, ranks=3, FL_SIM_TEST="no-window")
        self.assert_same(expected, actual, "no-window")

    def test_several_machines(self):
        """Ranks that do not share memory with all others: 2 + 1, 3 + 2, and without memory to share."""
        options = ["--algorithm", "scaffold", "--model", "lenet"]
        expected = self.train("one", *options)
        for n in (2, 3, 5):
            actual = self.train(f"machines-{n}", *options, ranks=n, FL_SIM_TEST="machines=2")
            self.assert_same(expected, actual, f"{n} ranks on two machines")
        actual = self.train("copies", *options, ranks=3, FL_SIM_TEST="machines=2,no-window")
        self.assert_same(expected, actual, "two machines without shared memory")

    def test_run_again_from_results_file(self):
        first = self.train("first", "--algorithm", "scaffold", "--model", "lenet", "--group-size", 3, ranks=3)
        for n in (0, 2):
            again = self.path(f"again-{n}.h5")
            self.succeed("--job", first, "--output", again, "--quiet", ranks=n)
            self.assert_same(first, again, f"again, {n} ranks")
            with h5py.File(first, "r") as left, h5py.File(again, "r") as right:
                self.assertEqual({**left["job"].attrs, "output": again}, dict(right["job"].attrs))

    def test_seed_matters(self):
        one, other = (self.train(f"seed-{seed}", "--model", "2nn", "--seed", seed) for seed in (0, 1))
        self.assertNotEqual(checksum(one), checksum(other))

    def test_float_sums_are_close(self):
        options = ["--model", "2nn", "--algorithm", "fedavg"]
        exact = self.train("exact", *options)
        for n in (0, 3):
            rough = self.train(f"float-{n}", *options, "--sum", "float", ranks=n)
            with h5py.File(exact, "r") as left, h5py.File(rough, "r") as right:
                for name in left["model"]:
                    np.testing.assert_allclose(left["model"][name][()], right["model"][name][()], rtol=0, atol=1e-4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
