"""Who takes part, in whole runs: the same on any number of ranks and after an interruption; and what it costs to ask
clients before a cohort is drawn.
"""
import os
import signal
import unittest

import h5py
import numpy as np

import resume
from whole_program import Case, checksum, columns

TIME = ["--devices", "lognormal"]
AWAY = [*TIME, "--availability", "markov", "--markov.on", 60, "--markov.off", 30]
WAYS = {
    "unbiased": ["--uniform.weights", "unbiased"],
    "cyclic": ["--sampler", "cyclic", "--cyclic.groups", 3],
    "poisson": ["--sampler", "poisson", "--algorithm", "scaffold"],
    "clustered": ["--sampler", "clustered"],
    "active": ["--sampler", "active", "--active.sharpness", 1],
    "oort": ["--sampler", "oort", *TIME, "--oort.step", 1, "--oort.window", 2, "--oort.exploration", 0.5],
    "oort of rounds": ["--sampler", "oort", "--fair.weight", 0.2, "--group-size", 3, "--local.momentum", 0.9],
    "pow-d": ["--sampler", "poc", "--poc.d", 12, "--weighting", "uniform"],
    "pow-d in time": ["--sampler", "poc", "--poc.d", 12, *AWAY],
    "cpow-d": ["--sampler", "poc", "--poc.d", 12, "--poc.variant", "cpow"],
    "rpow-d": ["--sampler", "poc", "--poc.d", 12, "--poc.variant", "rpow"],
    "optimal": ["--sampler", "optimal", "--algorithm", "scaffold"],
    "AOCS": ["--sampler", "optimal", "--optimal.chances", "approximate", "--optimal.candidates", 15, *TIME],
    "fedcs": ["--sampler", "fedcs", *TIME, "--fedcs.oracle-deadline", 8],
    "tifl": ["--sampler", "tifl", *TIME, "--tifl.every", 1, "--evaluate-clients", 1, "--evaluate-split", "validation",
             "--partition.validation-fraction", 0.2],
    "tifl, unbiased": ["--sampler", "tifl", *TIME, "--tifl.policy", "uniform", "--tifl.weights", "unbiased"],
    "refl": ["--sampler", "refl", *AWAY],
}
BIASED = {"oort", "pow-d", "pow-d in time", "tifl", "fedcs"}


class Samplers(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=5, model="2nn", quiet="true")

    def train(self, name, *options, ranks=0):
        path = self.path(name.replace(" ", "-") + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, "--overwrite", ranks=ranks)
        return path

    def test_any_number_of_ranks(self):
        """One hash on 1, 2, 3 and 5 ranks, and another one than without."""
        plain = checksum(self.train("plain"))
        for name, options in WAYS.items():
            with self.subTest(name):
                expected = self.train(name, *options)
                self.assertNotEqual(checksum(expected), plain)
                for ranks in (2, 3, 5) if "oort" in name or "pow" in name or name == "optimal" else (3,):
                    self.assert_same(expected, self.train(f"{name}-{ranks}", *options, ranks=ranks), f"{name} on {ranks}")

    def test_what_is_said(self):
        """The header names what is biased; the plan knows a round without training."""
        for name in ("pow-d", "pow-d in time", "oort", "optimal", "tifl", "clustered", "fedcs"):
            with self.subTest(name):
                options = ["--job", self.job, *WAYS[name], "--quiet", "false", "--rounds", 1]
                run = self.succeed(*options, "--output", self.path(name + ".h5"))
                sampler = WAYS[name][1]
                self.assertIn(f"({sampler}{', biased' if name in BIASED else ''})", run.out)
                if "--availability" not in options:
                    self.assertIn("rounds", self.succeed("--plan", *options).out)
                if "--devices" in options:
                    self.assertRegex(self.succeed("--plan", "clock", *options).out, r"\nasked +\d+")

    def test_the_largest_losses_train(self):
        """Where all are asked, who trains in round 2 are those on whose samples the model of round 1 did worst."""
        whole = ["--local.batch-size", 5000, "--group-size", 1]
        poc = ["--sampler", "poc", "--poc.d", 23, "--cohort", 3]
        clients = columns(self.train("poc", *poc, *whole, "--rounds", 2), "clients")
        chosen = sorted(clients["client"][clients["round"] == 2])
        one = self.train("one", *poc, *whole, "--rounds", 1)
        all_of_them = columns(self.train("all", *whole, "--init", one, "--cohort", 23, "--rounds", 1), "clients")
        worst = all_of_them["client"][np.argsort(-all_of_them["loss_before"])[:3]]
        self.assertEqual(chosen, sorted(worst))
        asked_first = clients["loss_before"][clients["round"] == 2]
        np.testing.assert_allclose(np.sort(asked_first), np.sort(all_of_them["loss_before"])[-3:], rtol=1e-5)

    def test_asking_is_charged(self):
        """Each of 12 that are asked is sent the model and answers with 8 bytes; those that train are not sent it again."""
        rounds = columns(self.train("bytes", *WAYS["pow-d"]), "rounds")
        model = columns(self.train("plain"), "rounds")["bytes_up"][0] // 7
        np.testing.assert_array_equal(rounds["bytes_down"], [7 * model] + 4 * [12 * model])
        np.testing.assert_array_equal(rounds["bytes_up"], [7 * model] + 4 * [7 * model + 12 * 8])
        path = self.train("norms", *WAYS["optimal"])
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        np.testing.assert_array_equal(rounds["bytes_down"], 23 * 2 * model)  # SCAFFOLD sends two
        started = np.bincount(clients["round"], minlength=6)[1:]
        np.testing.assert_array_equal(rounds["bytes_up"], started * 2 * model + 23 * 8)

    def test_asking_takes_time(self):
        """Equal devices without a network: all are through with the question when the one with the most samples is, one
        forward pass a sample; then the cohort trains, three passes a sample."""
        options = ["--devices", "uniform", "--devices.down-bps", 0, "--devices.up-bps", 0, "--devices.seconds-per-sample",
                   0.01]
        for name, more, passes in (("pow", WAYS["pow-d"], 1), ("cpow", WAYS["cpow-d"], 1),
                                   ("norms", ["--sampler", "optimal"], 3)):
            with self.subTest(name):
                path = self.train(name, *options, *more)
                rounds, clients = columns(path, "rounds"), columns(path, "clients")
                begin = rounds["virtual_seconds"] - rounds["round_seconds_virtual"]
                with h5py.File(path) as file:
                    sizes = np.diff(file["partition/offsets"][()])
                for number in range(2, 6):
                    mine = clients["round"] == number
                    asking = clients["start_seconds"][mine] - begin[number - 1]
                    self.assertEqual(len(set(np.round(asking, 6))), 1)
                    # Of 12 of 23, drawn by size, the largest is known to be asked where all are.
                    seen = {"cpow": min(10, sizes.max()), "norms": sizes.max()}.get(name)
                    if seen is not None:
                        self.assertAlmostEqual(asking[0], passes * 0.01 * seen, 5)
                    else:
                        self.assertIn(round(asking[0] / 0.01), sizes)
                        self.assertGreaterEqual(asking[0] + 1e-6, 0.01 * clients["samples"][mine].max())
                    trains = clients["compute_seconds_virtual"][mine]
                    expected = 0 if name == "norms" else 0.03 * clients["samples_seen"][mine]
                    np.testing.assert_allclose(trains, expected, atol=1e-5)
                np.testing.assert_allclose(begin[1:], rounds["virtual_seconds"][:-1], atol=1e-6)

    def test_one_pass_more(self):
        """Whoever is asked by training alone is left as it was: with all chances 1 the run is that without questions."""
        for algorithm in ("fedavg", "scaffold", "ditto"):
            options = ["--algorithm", algorithm, "--cohort", 23, "--partition.test-fraction", 0.2, "--rounds", 3]
            options += ["--evaluate-clients", 1]
            asked = self.train(algorithm, *options, "--sampler", "optimal")
            plain = self.train(algorithm + "-plain", *options, "--uniform.weights", "unbiased")
            self.assertEqual(checksum(asked), checksum(plain), algorithm)

    def test_a_crash_costs_no_bit(self):
        whole = self.train("whole", *WAYS["pow-d in time"])
        path = self.path("crash.h5")
        options = ["--job", self.job, *WAYS["pow-d in time"], "--output", path, "--checkpoint-every", 1, "--resume", "auto"]
        with self.start(*options, "--inject", "rank-crash@4:1", ranks=3) as run:
            run.wait()
            self.assertNotEqual(run.code, 0, str(run))
        self.succeed(*options, "--inject", "rank-crash@4:1", ranks=3)
        self.assert_same(whole, path, "after a crash")

    def test_refusals(self):
        for options, words in (
                (["--sampler", "poc"], ["the job does not say", "poc.d"]),
                (["--sampler", "poc", "--poc.d", 12, "--algorithm", "mime"], ["sampler is poc", "several times in a round"]),
                (["--sampler", "poc", "--poc.d", 12, "--algorithm", "ifca"], ["sampler is poc", "has several models"]),
                (["--sampler", "poc", "--poc.d", 12, "--algorithm", "centralized"], ["sampler is poc", "no clients to ask"]),
                (["--sampler", "poisson", "--aggregator", "median", "--weighting", "uniform"], ["aggregator", "median"]),
                (["--sampler", "poisson", "--algorithm", "afl", "--cohort", 23],
                 ["sampler is poisson", "algorithm afl sets weights"]),
                (["--fair.weight", 0.5], ["fair.weight is set, but sampler is uniform"]),
                (["--sampler", "fedcs", *TIME, "--fedcs.oracle-deadline", 1e-3],
                 ["no client is through before fedcs.oracle-deadline"]),
                (["--sampler", "refl", *TIME, "--availability.probability", 0.5], ["sampler refl", "follows rounds"]),
                (["--sampler", "oort", "--algorithm", "fedsgd"], ["oort", "squared losses"])):
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, *options, "--output", self.path("refused.h5"), "--overwrite")


class SamplersResumed(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=10, model="2nn")

    whole, begin = resume.Resume.whole, resume.Resume.begin
    interrupt, go_on = resume.Resume.interrupt, resume.Resume.go_on

    def test_memory_survives(self):
        for name in ("oort", "pow-d in time", "rpow-d", "tifl", "active"):
            with self.subTest(name):
                expected = self.whole(*WAYS[name])
                path = self.path("again.h5")
                self.interrupt(self.begin(path, *WAYS[name]))
                self.assertLess(len(columns(path, "rounds")["round"]), 10)
                self.go_on(path, *WAYS[name], ranks=2)
                self.assert_same(expected, path, name)
                os.remove(path)

    def test_no_time_left_while_they_are_asked(self):
        """A signal that comes while clients are asked drops the round, whoever is slow; nothing of it stays."""
        options = ["--sampler", "optimal", "--algorithm", "scaffold", "--local.epochs", 4]
        expected = self.whole(*options)
        for ranks in (0, 3):
            path = self.path(f"dropped-{ranks}.h5")
            run = self.begin(path, *options, "--grace", 0, ranks=ranks, delay=100)
            self.interrupt(run, signal.SIGUSR1)
            self.go_on(path, *options)
            self.assert_same(expected, path, f"dropped on {ranks} ranks")


if __name__ == "__main__":
    unittest.main(verbosity=2)
