"""Virtual time: rounds in the time of simulated devices, equal for every number of ranks and after a resume."""
import os
import re
import unittest

import h5py
import numpy as np

from whole_program import Case, checksum, columns

# Sampled, over-committed rounds of unequal devices: three of thirteen are not needed.
DEVICES = ["--devices", "flash", "--clock.keep", "fastest", "--clock.over-commit", 1.3, "--cohort", 10]
TIMELY = ["--devices", "lognormal", "--clock.keep", "deadline", "--clock.deadline-rule", "timely", "--clock.late", "partial",
          "--cohort", 11, "--local.epochs", 9, "--clock.latency", 0.2, "--devices.sigma", 1.2]
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
                "--devices.jitter", 0.3, "--algorithm", "scaffold"], "timely": TIMELY}.items():
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
            self.assertIn("6 offline, 7 too old, 8 not needed", file["clients/status"].attrs["codes"])

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
        for name, options in ("fastest", DEVICES), ("timely", TIMELY):
            with self.subTest(name):
                whole = self.train("whole-" + name, *options)
                path = self.path(f"parts-{name}.h5")
                self.succeed("--job", self.job, *options, "--output", path, "--rounds", 2, "--keep-checkpoint", "true",
                             ranks=3)
                self.succeed("--job", self.job, *options, "--output", path, "--resume", "auto", "--keep-checkpoint",
                             "true", ranks=2)
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
                ("fedrep", 6 + 3, ["--fedrep.head-epochs", 1, *kept]),
                ("fedem", 3 * 6 + 3, ["--fedem.components", 3, *kept]),
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

    def test_as_many_epochs_as_fit(self):
        """TimelyFL: a round is as long as the sixth of eleven takes for one epoch."""
        path = self.train("timely", *TIMELY)
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        transfer = clients["download_seconds"] + clients["upload_seconds"]
        batches = np.ceil(clients["samples"] / 10)
        late, counted = clients["status"] == 2, clients["steps"] // batches
        planned = np.where(late, 1, counted)
        np.testing.assert_array_equal(clients["steps"], np.where(late, 0, planned * batches))
        epoch = clients["compute_seconds_virtual"] / planned
        for r in range(6):
            of = clients["round"] == r + 1
            deadline = np.sort((transfer + epoch)[of])[5]
            fit = np.floor((deadline - transfer[of]) / epoch[of] + 1e-4)
            np.testing.assert_array_equal(planned[of], np.clip(fit, 1, 9))
            np.testing.assert_array_equal(late[of], fit < 1)
            np.testing.assert_array_equal(clients["status"][of & ~late] == 3, (planned < 9)[of & ~late])
            self.assertEqual(late[of].sum(), 5)
            self.assertAlmostEqual(rounds["round_seconds_virtual"][r], deadline, 5)
            self.assertEqual(rounds["wasted_samples"][r], clients["samples"][of & late].sum())
        self.assertGreater(planned.max(), 4)

    def test_target(self):
        """What the first round that reaches it had taken; nothing where it is not reached, or not asked for."""
        path = self.train("to", *DEVICES, "--target-accuracy", 0.2)
        rounds = columns(path, "rounds")
        reached = int(np.argmax(rounds["test_accuracy"] >= 0.2))
        self.assertEqual(reached + 1, len(rounds["round"]))  # the run ends there
        with h5py.File(path) as file:
            target = dict(file["target"].attrs)
        self.assertEqual((target["target"], target["round"]), (0.2, reached + 1))
        self.assertEqual(target["accuracy"], rounds["test_accuracy"][reached])
        self.assertEqual(target["virtual_seconds"], rounds["virtual_seconds"][reached])
        self.assertEqual(target["bytes"], sum(rounds[name].sum() for name in ("bytes_down", "bytes_up", "wasted_bytes_up")))
        self.assertEqual(target["samples"], rounds["samples"].sum() + rounds["wasted_samples"].sum())
        self.assertNotIn("joules", target)
        with h5py.File(self.train("plain-to", "--target-accuracy", 0.2)) as file:
            self.assertEqual(set(file["target"].attrs), {"target", "accuracy", "round", "samples", "bytes"})
        for name, options in (("never", ["--target-accuracy", 1]), ("no", [])):
            with h5py.File(self.train(name, *DEVICES, "--rounds", 1, *options)) as file:
                self.assertNotIn("target", file)

    def test_evaluation_by_virtual_time(self):
        """After the first round that ends at or after each multiple, and after the last; after a resume, too."""
        whole = columns(self.train("all", *DEVICES), "rounds")
        ends = whole["virtual_seconds"]
        every = np.mean(np.diff(ends)) * 2.2
        options = [*DEVICES, "--evaluate-every", 0, "--clock.evaluate-seconds", every]
        path = self.train("some", *options)
        due = np.floor(ends / every) > np.floor(np.r_[0, ends[:-1]] / every)
        self.assertTrue(0 < due[:-1].sum() < 5)
        due[-1] = True
        found = columns(path, "rounds")
        np.testing.assert_array_equal(np.isfinite(found["test_accuracy"]), due)
        np.testing.assert_array_equal(found["test_accuracy"][due], whole["test_accuracy"][due])
        parts = self.path("parts.h5")
        at = int(np.argmax(due))  # the round before the first that is due
        self.succeed("--job", self.job, *options, "--output", parts, "--rounds", at, "--keep-checkpoint", "true")
        self.succeed("--job", self.job, *options, "--output", parts, "--resume", "auto", ranks=2)
        again = columns(parts, "rounds")["test_accuracy"]
        np.testing.assert_array_equal(again[at:], found["test_accuracy"][at:])
        self.fail_with(["clock.evaluate-seconds is 5", "evaluate-every is 1", "set evaluate-every to 0"], "--job", self.job,
                       *DEVICES, "--clock.evaluate-seconds", 5, "--output", self.path("x.h5"))
        # A target needs somebody who looks.
        self.train("target", *options, "--target-accuracy", 0.99)

    def test_energy(self):
        """P t over the phases, and waiting until the round ends; a reference in NumPy."""
        watts = dict(compute=2.0, up=1.5, down=0.75, idle=0.125)
        options = [*DEVICES, "--clock.energy", "true", "--devices.watts", "2,1.5,0.75,0.125"]
        path = self.path("energy.h5")
        run = self.succeed("--job", self.job, *options, "--output", path, "--quiet", "false")
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        down, compute, up = (clients[name] for name in OF_CLIENTS[2:])
        begin = clients["start_seconds"]
        end = np.maximum(rounds["virtual_seconds"][clients["round"] - 1], clients["finish_seconds"])
        expected = (watts["down"] * down + watts["compute"] * compute + watts["up"] * up
                    + watts["idle"] * (end - begin - down - compute - up))
        np.testing.assert_allclose(clients["joules"], expected, atol=1e-5)
        for r in range(6):
            of = clients["round"] == r + 1
            np.testing.assert_allclose(rounds["joules"][r], clients["joules"][of].sum(), rtol=1e-9)
            np.testing.assert_allclose(rounds["wasted_joules"][r], clients["joules"][of & (clients["status"] == 8)].sum(),
                                       rtol=1e-9)
        self.assertRegex(run.out, rf"\n  energy +{rounds['joules'].sum() / 1000:.1f} kJ of the clients, "
                                  rf"{100 * rounds['wasted_joules'].sum() / rounds['joules'].sum():.1f} % of it")
        self.assertRegex(run.out, rf"\nround 6/6 .*  virtual \S+  {rounds['joules'][5]:.1f} J")
        plan = self.succeed("--plan", "clock", "--job", self.job, *options)
        self.assertRegex(plan.out, rf"\nenergy +{rounds['joules'].sum() / 1000:.1f} kJ, ")
        self.assertEqual(checksum(path), checksum(self.train("without", *DEVICES)))
        self.assertNotIn("joules", columns(self.path("without.h5"), "rounds"))
        self.assertNotIn("joules", columns(self.path("without.h5"), "clients"))
        self.assert_same(path, self.train("ranks", *options, ranks=3), "energy")
        # By class: a class that costs nothing, and two that cost a watt of computing.
        by_class = self.train("class", *DEVICES, "--clock.energy", "true", "--devices.watts", "1,0,0,0/0,0,0,0/1,0,0,0")
        joules, seconds = (columns(by_class, "clients")[name] for name in ("joules", "compute_seconds_virtual"))
        self.assertTrue(((np.abs(joules - seconds) < 1e-9) | (joules == 0)).all() and 0 < (joules == 0).mean() < 1)

    def test_energy_of_those_that_are_lost(self):
        """They have done their work, but have sent nothing."""
        path = self.train("lost", "--devices", "lognormal", "--availability.dropout", 0.3, "--clock.energy", "true",
                          "--devices.watts", "2,100,1,0")
        clients = columns(path, "clients")
        lost = clients["status"] == 4
        self.assertTrue(lost.any())
        sent = np.where(lost, 0, 100 * clients["upload_seconds"])
        expected = clients["download_seconds"] + 2 * clients["compute_seconds_virtual"] + sent
        np.testing.assert_allclose(clients["joules"], expected, rtol=1e-9)

    def test_the_servers_link(self):
        """Each of those that started has its part of it, or its own rate where that is less."""
        rate = 8e6
        free, shared = (columns(self.train(name, *DEVICES, "--clock.server-bps", bps), "clients")
                        for name, bps in (("free", 1e15), ("shared", rate)))
        plain = columns(self.train("plain", *DEVICES), "clients")
        for name in OF_CLIENTS:
            np.testing.assert_array_equal(free[name], plain[name])
        size = columns(self.path("plain.h5"), "rounds")["bytes_down"][0] / 13
        first = plain["round"] == 1  # later ones start later, and may have others
        slowest = 8 * size / (rate / 13)
        for name in ("download_seconds", "upload_seconds"):
            np.testing.assert_allclose(shared[name][first], np.maximum(plain[name][first], slowest), atol=1e-6)

    def test_kappa_by_operations(self):
        """Two operations a multiplication with its addition: 2nn has 784·200 + 200·200 + 200·10 of those, McMahan's
        CNN 28²·25·32 + 14²·25·32·64 + 49·64·512 + 512·10, LEAF's, which FLASH's phones were timed with, 2048 units."""
        def devices(name, reference):
            path = self.path(name + ".h5")
            with h5py.File(path, "w") as file:
                for column, value in (("seconds_per_sample", 0.01), ("down_bps", 1e7), ("up_bps", 1e6)):
                    file["devices/" + column] = np.full(3, value)
                file["devices/class"] = np.zeros(3, np.int32)
                if reference is not None:
                    file["devices"].attrs["reference_flops"] = reference
            return ["--devices", "file:" + path, "--rounds", 1]
        mlp = 2 * (784 * 200 + 200 * 200 + 200 * 10)
        cnn = 2 * (28 * 28 * 25 * 32 + 14 * 14 * 25 * 32 * 64 + 49 * 64 * 512 + 512 * 10)
        leaf = 2 * (28 * 28 * 25 * 32 + 14 * 14 * 25 * 32 * 64 + 49 * 64 * 2048 + 2048 * 62)
        for name, options, kappa in (("mlp", devices("same", float(mlp)), 1), ("half", devices("twice", 2.0 * mlp), 0.5),
                                     ("cnn", [*devices("cnns", float(mlp)), "--model", "cnn"], cnn / mlp),
                                     ("flash", ["--devices", "flash", "--rounds", 1], mlp / leaf)):
            with self.subTest(name):
                auto = self.succeed("--plan", "clock", "--job", self.job, *options, "--clock.kappa", "auto").out
                same = self.succeed("--plan", "clock", "--job", self.job, *options, "--clock.kappa", repr(kappa)).out
                self.assertEqual(auto, same)
        other = self.succeed("--plan", "clock", "--job", self.job, *devices("same", float(mlp)), "--clock.kappa", 1.001).out
        self.assertNotEqual(other, self.succeed("--plan", "clock", "--job", self.job, *devices("same", 1.0)).out)
        for options, words in ((["--devices", "lognormal"], ["clock.kappa is auto", "devices lognormal do not say"]),
                               (devices("unknown", None), ["do not say what the model computes"]),
                               (devices("negative", -1.0), ["reference_flops of /devices is -1"]),
                               (["--devices", "flash", "--flash.workload", "reddit"], ["devices flash do not say"])):
            self.fail_with(words, "--plan", "clock", "--job", self.job, *options, "--clock.kappa", "auto")

    def test_a_picture_of_who_is_busy(self):
        picture = self.path("busy.svg")
        run = self.succeed("--plan", "clock", "--job", self.job, *DEVICES, "--picture", picture)
        self.assertRegex(run.out, r"\npicture +\S+busy.svg, of the first 6 rounds\n")
        with open(picture) as file:
            text = re.sub(r"[\n\t]", "", file.read())
        for words in ("virtual seconds", "client", "counts", "not needed", "a round ends"):
            self.assertIn(f">{words}<", text)
        self.assertNotIn(">late<", text)
        clients = columns(self.train("run", *DEVICES), "clients")
        # A bar at least for each task, but no more than one for each of its phases and the legend's.
        bars = len(re.findall(r"<path[^>]*fill='none'|<polygon", text))
        self.assertTrue(len(clients["round"]) <= bars <= 3 * len(clients["round"]) + 40, bars)
        self.fail_with([".svg or .png"], "--plan", "clock", "--job", self.job, *DEVICES, "--picture", "busy.jpg")

    def test_the_plans_words(self):
        """Dropped stragglers are late, as in a run; a limit of time is said, and counts for the plan of a whole run."""
        plan = self.succeed("--plan", "clock", "--job", self.job, "--devices", "flash", "--stragglers.fraction", 0.43)
        self.assertRegex(plan.out, r"\n  late +3.00\n")
        self.assertNotRegex(plan.out, r"\n  lost ")
        ends = columns(self.train("whole", *DEVICES), "rounds")["virtual_seconds"]
        options = ["--job", self.job, *DEVICES, "--clock.limit", (ends[2] + ends[3]) / 2]
        self.assertRegex(self.succeed("--plan", "clock", *options).out,
                         r"\nrounds +4 in .*; clock.limit comes before the 6 of the job\n")
        self.assertRegex(self.succeed("--plan", *options).out, r", 4 rounds of")
        self.assertRegex(self.succeed("--plan", *options[:-2]).out, r", 6 rounds of")

    def test_large_populations_are_not_listed(self):
        """Of 20,000 clients three in eight are online, by the eight rows of a trace: whom a round draws is, all rounds draw
        others, and `online` is near what it is. Where five are online those are drawn, and counted as nearly nobody."""
        def trace(name, rows, online):
            path = self.path(name + ".csv")
            with open(path, "w") as file:
                file.write("row,on_s,off_s\n")
                for row in range(rows):
                    file.write(f"{row},0,1000\n" if row in online else f"{row},1000,1001\n")
            return ["--availability", "file:" + path, "--file.period", 2000]
        job = ["--dataset", "population", "--population.users", 20000, "--clients", 20000, "--model", "logistic",
               "--devices", "uniform", "--local.batch-size", 10, "--local.lr", 0.05, "--cohort", 20, "--rounds", 6,
               "--quiet", "true"]
        online = {1, 2, 6}
        path, ranks = self.path("many.h5"), self.path("ranks.h5")
        options = [*job, *trace("eight", 8, online)]
        self.succeed(*options, "--output", path)
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        self.assertTrue(np.isin(clients["client"] % 8, list(online)).all())
        np.testing.assert_array_equal(rounds["started"], 20)
        self.assertGreater(len(set(clients["client"])), 110)
        np.testing.assert_allclose(rounds["online"], 7500, atol=600)  # five standard errors
        self.assertGreater(len(set(rounds["online"])), 1)
        np.testing.assert_array_equal(rounds["absent"], 20000 - rounds["online"])
        self.succeed(*options, "--output", ranks, ranks=3)
        self.assert_same(path, ranks, "many")
        few = self.path("few.h5")
        self.succeed(*job, *trace("few", 4000, {3}), "--output", few)
        for r in range(1, 7):
            of = columns(few, "clients")["round"] == r
            np.testing.assert_array_equal(columns(few, "clients")["client"][of], 3 + 4000 * np.arange(5))
        # Versions are made of those that are online, too.
        self.succeed(*options, "--algorithm", "fedbuff", "--async.buffer", 5, "--output", self.path("async.h5"))
        self.assertTrue(np.isin(columns(self.path("async.h5"), "clients")["client"] % 8, list(online)).all())

    def phones(self):
        """A file of three devices, each of a class of its own."""
        path = self.path("phones.csv")
        with open(path, "w") as file:
            file.write("row,seconds_per_sample,down_bps,up_bps,class\n")
            for row in range(3):
                file.write(f"{row},0.01,1e7,1e6,{row}\n")
        return path

    def test_refused(self):
        for options, words in [
                (["--devices", "flash", "--clock.energy", "true"], ["does not say", "devices.watts"]),
                (["--devices", "flash", "--devices.watts", "1,1,1,1"], ["devices.watts is set, but clock.energy is false"]),
                (["--devices", "flash", "--clock.energy", "true", "--devices.watts", "1,1,1"],
                 ["devices.watts is 1,1,1", "3 numbers", "COMPUTE,UP,DOWN,IDLE"]),
                (["--devices", "flash", "--clock.energy", "true", "--devices.watts", "1,-1,1,1"], ["'-1' is no number"]),
                (["--devices", "file:" + self.phones(), "--clock.energy", "true", "--devices.watts", "1,1,1,1/1,1,1,1"],
                 ["devices.watts is 1,1,1,1/1,1,1,1", "2 classes, but device 2 is of class 2"]),
                (["--devices", "flash", "--clock.kappa", "much"], ["clock.kappa is much", "a number, more than 0, or auto"]),
                (["--devices", "flash", "--clock.kappa", 0], ["clock.kappa is 0", "more than 0"]),
                (["--clock.deadline", 3], ["clock.deadline is set, but devices is none"]),
                (["--devices", "uniform", "--clock.over-commit", 1.3], ["clock.over-commit is 1.3", "choose fastest"]),
                (["--devices", "flash", "--devices.sigma", 1], ["devices.sigma is set, but devices is flash"]),
                (["--devices", "uniform", "--algorithm", "centralized"], ["centralized", "no client's device"]),
                (["--devices", "uniform", "--clock.deadline-rule", "smartpc"], ["clock.keep is all", "choose deadline"]),
                (["--devices", "uniform", "--clock.keep", "deadline", "--clock.deadline-rule", "smartpc",
                  "--clock.deadline", 3], ["clock.deadline is 3", "smartpc", "leave one out"]),
                (["--devices", "uniform", "--clock.keep", "deadline", "--clock.deadline-rule", "fedbalancer",
                  "--local.steps", 3], ["fedbalancer, which counts epochs", "local.steps is 3"]),
                (["--devices", "uniform", *TIMELY[2:8], "--local.steps", 3], ["timely, which counts epochs"]),
                (["--devices", "uniform", *TIMELY[2:6]], ["clock.late is drop", "choose partial"]),
                (["--devices", "uniform", "--clock.deadline-share", 0.5], ["clock.deadline-share is set", "fixed"]),
                (["--devices", "uniform", "--clock.deadline-ratio", 0.5], ["clock.deadline-ratio is 0.5", "fixed"]),
                (["--devices", "fash"], ["did you mean 'flash'?"])]:
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, *options, "--output", self.path("refused.h5"))


if __name__ == "__main__":
    unittest.main()
