"""Virtual time: rounds in the time of simulated devices, equal for every number of ranks and after a resume."""
import os
import re
import unittest

import h5py
import numpy as np

from whole_program import Case, checksum, columns

# Sampled, over-committed rounds of unequal devices: three of thirteen are not needed.
DEVICES = ["--devices", "flash", "--clock.keep", "fastest", "--clock.over-commit", 1.3, "--cohort", 10]
TIMES = ["virtual_seconds", "round_seconds_virtual", "online", "started", "finished", "offline", "not_needed",
         "wasted_samples", "wasted_bytes_down", "wasted_bytes_up"]
OF_CLIENTS = ["start_seconds", "finish_seconds", "download_seconds", "compute_seconds_virtual", "upload_seconds"]


class VirtualTime(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=6, model="2nn", quiet="true")

    def train(self, name, *options, ranks=0):
        path = self.path(name + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, ranks=ranks)
        return path

    def test_the_same_on_any_number_of_ranks(self):
        for name, options in {"fastest": DEVICES, "deadline": [
                "--devices", "lognormal", "--clock.keep", "deadline", "--clock.deadline", 3, "--clock.late", "partial",
                "--devices.jitter", 0.3, "--algorithm", "scaffold"]}.items():
            expected = self.train(name, *options)
            for ranks in (2, 3, 5):
                with self.subTest(name, ranks=ranks):
                    self.assert_same(expected, self.train(f"{name}-{ranks}", *options, ranks=ranks), name)
            self.assertTrue(set(TIMES) <= set(columns(expected, "rounds")))

    def test_what_a_file_says(self):
        path = self.train("run", *DEVICES)
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        np.testing.assert_allclose(rounds["virtual_seconds"], np.cumsum(rounds["round_seconds_virtual"]), atol=1e-6)
        np.testing.assert_array_equal(rounds["started"], 13)
        np.testing.assert_array_equal(rounds["cohort"], 13)
        np.testing.assert_array_equal(rounds["not_needed"], 3)
        np.testing.assert_array_equal(rounds["failed"], 3)
        np.testing.assert_array_equal(rounds["online"], 23)
        begin = rounds["virtual_seconds"] - rounds["round_seconds_virtual"]
        for r in range(6):
            of = clients["round"] == r + 1
            unneeded = of & (clients["status"] == 8)
            self.assertEqual((of.sum(), unneeded.sum()), (13, 3))
            # The round ends with the tenth arrival; who is not needed comes later.
            self.assertAlmostEqual(clients["finish_seconds"][of & ~unneeded].max(), rounds["virtual_seconds"][r], 6)
            self.assertGreaterEqual(clients["finish_seconds"][unneeded].min(), rounds["virtual_seconds"][r])
            np.testing.assert_allclose(clients["start_seconds"][of], begin[r], atol=1e-6)
            # Nobody trains what will not count.
            np.testing.assert_array_equal(clients["steps"][unneeded], 0)
        phases = sum(clients[name] for name in OF_CLIENTS[2:])
        np.testing.assert_allclose(clients["finish_seconds"] - clients["start_seconds"], phases, atol=2e-6)
        with h5py.File(path) as file:
            self.assertIn("6 offline, 8 not needed", file["clients/status"].attrs["codes"])

    def test_without_devices_nothing_is_said_of_time(self):
        path = self.train("plain")
        self.assertFalse(set(TIMES) & set(columns(path, "rounds")))
        self.assertFalse(set(OF_CLIENTS) & set(columns(path, "clients")))

    def test_equal_devices_change_nothing(self):
        """Time passes, all rounds are of one length where clients hold as much, and the model is that without time."""
        for options in ([], ["--clock.keep", "fastest"]):
            timed = self.train("equal" + str(len(options)), "--devices", "uniform", *options)
            self.assertEqual(checksum(timed), checksum(self.train("none" + str(len(options)))))
        rounds = columns(timed, "rounds")
        self.assertTrue((rounds["round_seconds_virtual"] > 0).all())
        np.testing.assert_array_equal(rounds["not_needed"], 0)

    def test_goes_on_at_the_time_at_which_it_ended(self):
        whole = self.train("whole", *DEVICES)
        path = self.path("parts.h5")
        self.succeed("--job", self.job, *DEVICES, "--output", path, "--rounds", 2, "--keep-checkpoint", "true", ranks=3)
        self.succeed("--job", self.job, *DEVICES, "--output", path, "--resume", "auto", "--keep-checkpoint", "true",
                     ranks=2)
        self.assert_same(whole, path, "resumed")

    def test_a_crash_costs_no_bit(self):
        whole = self.train("whole", *DEVICES)
        path = self.path("crash.h5")
        options = ["--job", self.job, *DEVICES, "--output", path, "--checkpoint-every", 1, "--resume", "auto"]
        with self.start(*options, "--inject", "rank-crash@4:1", ranks=3) as run:
            run.wait()
            self.assertNotEqual(run.code, 0, str(run))
        self.succeed(*options, "--inject", "rank-crash@4:1", ranks=3)
        self.assert_same(whole, path, "after a crash")

    def test_a_limit_of_time(self):
        whole = columns(self.train("whole", *DEVICES), "rounds")
        limit = (whole["virtual_seconds"][2] + whole["virtual_seconds"][3]) / 2
        path = self.train("limit", *DEVICES, "--clock.limit", limit, "--evaluate-every", 0)
        rounds = columns(path, "rounds")
        self.assertEqual(len(rounds["round"]), 4)
        np.testing.assert_array_equal(rounds["virtual_seconds"], whole["virtual_seconds"][:4])
        self.assertTrue(np.isfinite(rounds["test_accuracy"][-1]))  # the last model is looked at
        with h5py.File(path) as file:
            self.assertIn("end", file["provenance"].attrs)

    def test_what_is_shown(self):
        path = self.path("shown.h5")
        run = self.succeed("--job", self.job, *DEVICES, "--output", path, "--quiet", "false")
        self.assertRegex(run.out, r"\n  time +virtual, of devices flash\n")
        self.assertIn("over-commit 1.3", run.out)
        self.assertRegex(run.out, r"\nround 6/6 .*  virtual \d+:\d\d.*  of 13: 3 not needed\n")
        total = columns(path, "rounds")["virtual_seconds"][-1]
        said = re.search(r"\n  virtual +\S+ \(([\d.]+) s\) for the clients", run.out)
        self.assertAlmostEqual(float(said[1]), total, 1)
        self.assertIn("of 78 clients asked: 18 not needed", run.out)

    def test_the_plan_is_what_the_run_does(self):
        """Without training, the same seconds to the last digit that is shown."""
        rounds = columns(self.train("planned", *DEVICES), "rounds")
        run = self.succeed("--plan", "clock", "--job", self.job, *DEVICES)
        said = re.search(r"rounds +6 in \S+ \(([\d.]+) virtual seconds\)", run.out)
        self.assertEqual(said[1], f"{rounds['virtual_seconds'][-1]:.3f}")
        self.assertRegex(run.out, r"\nasked +13.00 a round\n")
        self.assertRegex(run.out, r"\n  count +10.00\n")
        self.assertRegex(run.out, r"\n  not needed +3.00\n")
        wasted = 100 * rounds["wasted_samples"].sum() / (rounds["wasted_samples"].sum() + rounds["samples"].sum())
        self.assertRegex(run.out, rf"\nwasted +{wasted:.1f} % of the samples")
        self.assertEqual(os.listdir(self.folder).count("results"), 0)
        self.fail_with(["--plan clock: devices is none", "--devices lognormal"], "--plan", "clock", "--job", self.job)

    def test_what_is_computed_beside_the_local_steps(self):
        """In forward passes over a client's own samples, of which a step takes three, and two epochs six."""
        kept = ["--partition.test-fraction", 0.2]
        for algorithm, passes, options in [
                ("fedavg", 6, []), ("mime", 2 * 6 + 3, []), ("mimelite", 6 + 3, []),
                ("qffl", 6 + 1, ["--qffl.q", 0.1]), ("ifca", 6 + 2, kept), ("ditto", 2 * 6, kept),
                ("fedrep", 6 + 3, ["--fedrep.head-epochs", 1, *kept]), ("fedem", 3 * 6 + 3, ["--fedem.components", 3, *kept]),
                ("pfedme", 5 * 6, ["--pfedme.personal-lr", 0.01, *kept]), ("perfedavg", 2 * 6, kept)]:
            with self.subTest(algorithm):
                path = self.train("beside-" + algorithm, "--devices", "uniform", "--devices.seconds-per-sample", 0.01,
                                  "--algorithm", algorithm, "--local.epochs", 2, "--local.lr", 0.01, "--rounds", 1,
                                  "--evaluate-every", 0, *options)
                clients = columns(path, "clients")
                np.testing.assert_allclose(clients["compute_seconds_virtual"], 0.01 * passes * clients["samples"],
                                           rtol=1e-9, atol=1e-6)

    def test_deadlines_that_follow_who_was_drawn(self):
        """Against the durations in the file: of those who are late, too."""
        def peak(durations):
            durations = np.sort(durations)
            return durations[np.argmax(np.arange(1, len(durations) + 1) / durations)]

        options = ["--devices", "lognormal", "--clock.keep", "deadline", "--cohort", 11, "--local.epochs", 3]
        for rule, ratio in ("smartpc", None), ("fedbalancer", 1), ("fedbalancer", 0.25):
            path = self.train(f"{rule}-{ratio}", *options, "--clock.deadline-rule", rule,
                              *(["--clock.deadline-ratio", ratio] if ratio else []))
            rounds, clients = columns(path, "rounds"), columns(path, "clients")
            late = 0
            for r in range(6):
                of = clients["round"] == r + 1
                took = clients["finish_seconds"][of] - clients["start_seconds"][of]
                one = took - clients["compute_seconds_virtual"][of] * 2 / 3
                deadline = (np.sort(took)[8] if rule == "smartpc"  # nine of eleven are four in five
                            else peak(one) + ratio * (peak(took) - peak(one)))
                np.testing.assert_array_equal(clients["status"][of] == 2, took > deadline + 1e-5)
                late += (clients["status"][of] == 2).sum()
                self.assertAlmostEqual(rounds["round_seconds_virtual"][r], min(deadline, took.max()), 5)
            self.assertGreater(late, 0)

    def test_refused(self):
        for options, words in [
                (["--clock.deadline", 3], ["clock.deadline is set, but devices is none"]),
                (["--devices", "uniform", "--clock.over-commit", 1.3], ["clock.over-commit is 1.3", "choose fastest"]),
                (["--devices", "flash", "--devices.sigma", 1], ["devices.sigma is set, but devices is flash"]),
                (["--devices", "uniform", "--algorithm", "centralized"], ["centralized", "no client's device"]),
                (["--devices", "uniform", "--clock.deadline-rule", "smartpc"], ["clock.keep is all", "choose deadline"]),
                (["--devices", "uniform", "--clock.keep", "deadline", "--clock.deadline-rule", "smartpc",
                  "--clock.deadline", 3], ["clock.deadline is 3", "smartpc", "leave one out"]),
                (["--devices", "uniform", "--clock.keep", "deadline", "--clock.deadline-rule", "fedbalancer",
                  "--local.steps", 3], ["fedbalancer, which counts epochs", "local.steps is 3"]),
                (["--devices", "uniform", "--clock.deadline-ratio", 0.5], ["clock.deadline-ratio is 0.5", "fixed"]),
                (["--devices", "fash"], ["did you mean 'flash'?"])]:
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, *options, "--output", self.path("refused.h5"))


if __name__ == "__main__":
    unittest.main()
