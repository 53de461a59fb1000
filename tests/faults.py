"""Faults that a job asks for: each one does what it says, a rank that stops is named and ends the run, and what can be
saved is saved.
"""
import unittest

import h5py
import numpy

from whole_program import Case, columns


class Faults(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=600, rounds=6, clients=12, cohort=6, model="2nn", algorithm="scaffold", quiet="true")

    def train(self, name, *options, ranks=0):
        path = self.path(name + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, ranks=ranks)
        return path

    def drawn_in(self, path, round_number):
        clients = columns(path, "clients")
        return [int(c) for c in clients["client"][clients["round"] == round_number]]

    def test_clients(self):
        """The client named, and no other one, is lost, left out or slow, on every number of ranks."""
        whole = self.train("whole")
        lost, bad = self.drawn_in(whole, 2)[:2]
        slow = self.drawn_in(whole, 3)[0]
        faults = f"client-crash@2:{lost},nan-update@2:{bad},slow-client@3:{slow}:1.5"
        first = self.train("one", "--inject", faults)
        found = columns(first, "clients")
        status = {(int(r), int(c)): int(s) for r, c, s in zip(found["round"], found["client"], found["status"])}
        self.assertEqual({key: value for key, value in status.items() if value}, {(2, lost): 4, (2, bad): 1})
        seconds = found["seconds"][(found["round"] == 3) & (found["client"] == slow)]
        self.assertGreater(seconds[0], 1.5)
        self.assert_same(first, self.train("three", "--inject", faults, ranks=3), "faults on 3 ranks")
        # Nobody takes a slow client for a dead one.
        self.train("slow", "--inject", f"slow-client@3:{slow}:5", "--stall-timeout", 2, ranks=3)

    def test_refused_in_one_exchange(self):
        """A client whose gradient is refused in mime's first exchange counts in none of the round: the model is that of
        a run without it.
        """
        rng = numpy.random.default_rng(1)
        x, y = rng.standard_normal((30, 4)).astype("f"), numpy.arange(30) % 2
        client = numpy.arange(30) // 10
        x[client == 2] *= 1e5  # gradients beyond what can be summed, steps that are not
        models = []
        for name, chosen in (("three", client < 3), ("two", client < 2)):
            data, output = self.path(name + ".npz"), self.path(name + ".h5")
            numpy.savez(data, x=x[chosen], y=y[chosen], client=client[chosen], x_test=x[:2], y_test=y[:2])
            self.succeed("--dataset", f"npz:{data}", "--partitioner", "natural", "--model", "logistic", "--algorithm",
                         "mime", "--rounds", 1, "--local.steps", 1, "--local.batch-size", 10, "--local.lr", 1e-3,
                         "--quiet", "--output", output, ranks=2)
            with h5py.File(output) as file:
                models.append([file["model"][key][()] for key in file["model"]])
        self.assertEqual(list(columns(self.path("three.h5"), "clients")["status"]), [0, 0, 1])
        for three, two in zip(*models):
            numpy.testing.assert_allclose(three, two, rtol=0, atol=1e-7)

    def test_slow_rank(self):
        whole, slow = self.train("whole"), self.train("slow", "--inject", "slow-rank@2:1:5", ranks=3)
        self.assert_same(whole, slow, "slow rank")

    def test_rank_dies(self):
        whole = self.train("whole")
        for rank in (0, 2):
            path = self.path(f"dead-{rank}.h5")
            options = ["--job", self.job, "--output", path, "--checkpoint-every", 1, "--resume", "auto", "--inject",
                       f"rank-crash@4:{rank}"]
            run = self.start(*options, ranks=3).wait()
            self.assertGreater(run.code, 0, str(run))
            self.assertTrue(run.gone(), str(run))
            self.succeed(*options, ranks=2)
            self.assertGreaterEqual(int(self.resumed(path)), 2)
            for table in ("rounds", "clients"):
                columns(path, table)
            self.assert_same(whole, path, f"rank {rank} died")

    def test_what_a_death_costs(self):
        """At most twice as many rounds as lie between checkpoints, the one under way included, however slow the disk."""
        whole = self.train("whole")
        for every in (1, 2):
            path = self.path(f"every-{every}.h5")
            options = ["--job", self.job, "--output", path, "--checkpoint-every", every, "--resume", "auto", "--inject",
                       "rank-crash@6:2"]
            run = self.start(*options, ranks=3, FL_SIM_TEST="slow-disk=400").wait()
            self.assertGreater(run.code, 0, str(run))
            self.assertGreaterEqual(len(columns(path, "rounds")["round"]), 6 - 2 * every)
            self.succeed(*options, ranks=3)
            self.assertGreaterEqual(int(self.resumed(path)), 6 - 2 * every)
            self.assert_same(whole, path, f"every {every}")

    def test_target_reached_before_a_death(self):
        """The round that reached the target is the last one, also if a rank dies while the next is under way: the
        checkpoint of the round before it is complete by then.
        """
        rounds = columns(self.train("whole"), "rounds")
        best = max(range(2, 5), key=lambda i: rounds["test_accuracy"][i])
        target = rounds["test_accuracy"][best]
        first = next(i for i in range(6) if rounds["test_accuracy"][i] >= target)
        options = ["--target-accuracy", repr(float(target)), "--checkpoint-every", 1]
        expected = self.train("expected", *options)
        self.assertEqual(len(columns(expected, "rounds")["round"]), first + 1)
        path = self.path("died.h5")
        options = ["--job", self.job, *options, "--output", path, "--resume", "auto", "--inject",
                   f"rank-crash@{first + 2}:2"]
        self.start(*options, ranks=3).wait()
        self.succeed(*options, ranks=3)
        self.assert_same(expected, path, "target")

    def resumed(self, path):
        with h5py.File(path) as file:
            return file["provenance"].attrs.get("resumed", "0")

    def test_rank_stalls(self):
        """Who stopped is named, with its host, round and what it was doing, and nothing is left behind."""
        whole = self.train("whole")
        for rank in (2, 0):
            path = self.path(f"stalled-{rank}.h5")
            options = ["--job", self.job, "--output", path, "--checkpoint-every", 1, "--resume", "auto", "--inject",
                       f"rank-stall@4:{rank}"]
            run = self.start(*options, "--stall-timeout", 4, ranks=3).wait()
            self.assertGreater(run.code, 0, str(run))
            self.assertRegex(run.err, rf"rank {rank} has been silent for \d+ s: it was [a-z ]+( \d+)? in round \d on \S+")
            self.assertTrue(run.gone(), str(run))
            self.succeed(*options, ranks=3)
            self.assert_same(whole, path, f"rank {rank} stalled")

    def test_bad_faults(self):
        for text, words in (("meteor@1:2", ["meteor@1:2", "faults are client-crash"]),
                            ("rank-crash@0:1", ["rank-crash@ROUND:RANK"]),
                            ("rank-crash@1", ["rank-crash@ROUND:RANK"]),
                            ("slow-client@1:2", ["slow-client@ROUND:CLIENT:SECONDS"]),
                            ("slow-rank@1:0:0.5", ["factor of at least 1"]),
                            ("nan-update@1:2x", ["nan-update@ROUND:CLIENT"]),
                            ("nan-update@1:99", ["client 99", "only 0 to 11"]),
                            ("rank-stall@7:0", ["round 7", "only 6"]),
                            ("rank-crash@1:1", ["rank 1", "only 0 to 0"])):
            with self.subTest(text=text):
                self.fail_with(words, "--job", self.job, "--inject", text, "--output", self.path("x.h5"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
