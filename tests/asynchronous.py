"""Runs without rounds: equal for every number of ranks, whoever is late, and after a resume or a crash."""
import os
import unittest

import h5py
import numpy as np

from whole_program import FULL, Case, checksum, columns

HALFNORMAL = ["--devices", "halfnormal", "--cohort", 9]
KINDS = {
    "fedbuff": ["--algorithm", "fedbuff", "--async.buffer", 4, *HALFNORMAL],
    "groups": ["--algorithm", "fedbuff", "--async.buffer", 4, "--group-size", 3, "--async.max-staleness", 3, *HALFNORMAL],
    "window": ["--algorithm", "fedrolex", "--width.levels", "1, 0.5", "--async.protocol", "buffered", "--async.buffer", 3,
               *HALFNORMAL],
    "fedasync": ["--algorithm", "fedasync", *HALFNORMAL],
    "interval": ["--algorithm", "fedprox", "--fedprox.mu", 0.1, "--async.protocol", "interval", "--async.interval", 0.4,
                 *HALFNORMAL],
    "fedat": ["--algorithm", "fedat", "--tiers.number", 3, *HALFNORMAL],
    "tiers": ["--algorithm", "fedyogi", "--async.protocol", "tiers", "--tiers.number", 4, "--devices", "lognormal",
              "--cohort", 9, "--availability.dropout", 0.2, "--availability", "markov", "--markov.on", 30, "--markov.off",
              10],
    "drawn": ["--algorithm", "fedavg", "--async.protocol", "buffered", "--async.buffer", 3, "--async.source", "drawn",
              "--async.max-staleness", 4],
    "yogi": ["--algorithm", "fedyogi", "--async.protocol", "buffered", "--async.buffer", 3, "--devices", "flash",
             "--async.max-staleness", 2, "--availability.dropout", 0.1, "--transforms", "clip", "--clip.norm", 1],
    "traces": ["--algorithm", "fedbuff", "--async.buffer", 2, "--devices", "lognormal", "--availability", "markov",
               "--markov.on", 30, "--markov.off", 10, "--async.weighting", "unbiased"],
    "late": ["--algorithm", "fedprox", "--fedprox.mu", 0.1, "--async.protocol", "stale-rounds", "--async.staleness",
             "exponential", "--clock.over-commit", 1.4, "--clock.keep", "deadline", "--clock.deadline", 1, *HALFNORMAL],
    "refl-saa": ["--algorithm", "refl-saa", "--clock.over-commit", 1.6, "--clock.keep", "fastest", "--devices",
                 "lognormal", "--cohort", 6],
}
LEARNS = {
    "oort": ["--algorithm", "fedbuff", "--async.buffer", 3, "--sampler", "oort", "--oort.step", 0.2,
             "--oort.exploration", 0.5, "--oort.window", 2, "--async.max-staleness", 4, *HALFNORMAL],
    "pisces": ["--algorithm", "fedbuff", "--async.buffer", 4, "--sampler", "pisces", "--pisces.beta", 0.5,
               "--async.staleness", "recent", "--weighting", "samples", "--availability.dropout", 0.1, "--group-size", 2,
               "--async.max-staleness", 3, "--async.on-stale", "wait", *HALFNORMAL],
    "active": ["--algorithm", "fedprox", "--fedprox.mu", 0.1, "--async.protocol", "interval", "--async.interval", 0.4,
               "--sampler", "active", "--active.uniform", 0.3, "--async.keep-versions", 2, "--devices", "lognormal",
               "--cohort", 9, "--availability", "markov", "--markov.on", 30, "--markov.off", 10],
    "poc-drawn": ["--algorithm", "fedavg", "--async.protocol", "buffered", "--async.buffer", 3, "--async.source", "drawn",
                  "--async.max-staleness", 4, "--sampler", "poc", "--poc.variant", "rpow", "--poc.d", 12],
}
KINDS.update(LEARNS)
OVER_COMMITTED = ["--clock.over-commit", 1.6, "--clock.keep", "fastest", "--devices", "lognormal", "--cohort", 6]
OF_CLIENTS = ["dispatch", "base_version", "staleness"]


class Asynchronous(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=12, model="2nn", quiet="true")

    def train(self, name, *options, ranks=0, **environment):
        path = self.path(name + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, ranks=ranks, **environment)
        return path

    def test_the_same_on_any_number_of_ranks(self):
        for name, options in KINDS.items():
            expected = self.train(name, *options)
            for ranks in (2, 3, 5) if FULL or name in ("fedbuff", "fedasync", "fedat", "oort", "refl-saa") else (4,):
                with self.subTest(name, ranks=ranks):
                    self.assert_same(expected, self.train(f"{name}-{ranks}", *options, ranks=ranks), name)

    def test_the_same_whoever_is_late(self):
        """Tasks are trained ahead on ranks of any speed, by any deal, and ranks are held up at random."""
        for name in ("fedbuff", "fedasync", "fedat", "refl-saa", *LEARNS):
            expected = self.train(name, *KINDS[name])
            for trial in ("slow-rank@3:1:5", "slow-rank@2:2:9"):
                with self.subTest(name, trial=trial):
                    self.assert_same(expected, self.train(f"{name}-{trial}", *KINDS[name], "--inject", trial, ranks=3,
                                                          FL_SIM_TEST="deal=random,delay=20"), name)

    def test_goes_on_in_the_middle(self):
        """What is under way at a checkpoint started from former models: those are kept, and it is trained again."""
        for name, options in KINDS.items():
            if name == "traces" or not FULL and name in ("interval", "window", "tiers"):
                continue
            with self.subTest(name):
                whole = self.train(name, *options)
                path = self.path(name + "-parts.h5")
                self.succeed("--job", self.job, *options, "--output", path, "--rounds", 5, "--keep-checkpoint", "true",
                             ranks=3)
                self.succeed("--job", self.job, *options, "--output", path, "--resume", "auto", "--keep-checkpoint",
                             "true", ranks=2)
                self.assert_same(whole, path, name)

    def test_unbiased_weights_are_those_of_a_length(self):
        options = KINDS["traces"]
        path = self.path("run.h5")
        self.succeed("--job", self.job, *options, "--output", path, "--rounds", 5, "--keep-checkpoint", "true")
        self.fail_with(["cannot be prolonged", "async.weighting is unbiased"], "--job", self.job, *options, "--output",
                       path, "--resume", "auto", "--keep-checkpoint", "true")

    def test_a_crash_costs_no_bit(self):
        for name in ("fedbuff", "fedasync", "fedat", "oort", "refl-saa"):
            whole = self.train(name, *KINDS[name])
            for rank in (0, 1):
                with self.subTest(name, rank=rank):
                    path = self.path(f"{name}-crash-{rank}.h5")
                    options = ["--job", self.job, *KINDS[name], "--output", path, "--checkpoint-every", 2, "--resume",
                               "auto", "--inject", f"rank-crash@8:{rank}"]
                    with self.start(*options, ranks=3) as run:
                        run.wait()
                        self.assertNotEqual(run.code, 0, str(run))
                    self.succeed(*options, ranks=3)
                    self.assert_same(whole, path, "after a crash")

    def test_what_a_file_says(self):
        path = self.train("run", *KINDS["fedbuff"])
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        self.assertTrue(set(OF_CLIENTS) <= set(clients))
        counts = clients["status"] == 0
        np.testing.assert_array_equal(rounds["cohort"], 4)
        np.testing.assert_array_equal(clients["staleness"], clients["round"] - 1 - clients["base_version"])
        self.assertEqual(len(set(clients["dispatch"])), len(clients["dispatch"]))
        end = {0: 0.0, **dict(zip(rounds["round"], rounds["virtual_seconds"]))}
        for r in rounds["round"]:
            of = counts & (clients["round"] == r)
            self.assertAlmostEqual(rounds["staleness_mean"][r - 1], clients["staleness"][of].mean(), 12)
            self.assertEqual(rounds["staleness_max"][r - 1], clients["staleness"][of].max())
            # The last to arrive makes the version; all start when their base was made, or later.
            self.assertAlmostEqual(clients["finish_seconds"][of].max(), end[r], 6)
        bases = np.array([end[b] for b in clients["base_version"]])
        self.assertTrue((clients["start_seconds"] >= bases - 1e-9).all())
        after = np.array([end.get(b + 1, np.inf) for b in clients["base_version"]])
        self.assertTrue((clients["start_seconds"] < after).all())
        # p: what is left of 1/4 by age.
        weight = (1 + clients["staleness"]) ** -0.5
        for r in rounds["round"]:
            of = clients["round"] == r
            np.testing.assert_allclose(clients["weight"][of], weight[of] / weight[of].sum(), rtol=1e-6)
        with h5py.File(path) as file:
            self.assertIn("7 too old", file["clients/status"].attrs["codes"])
        plain = self.train("plain")
        self.assertFalse(set(OF_CLIENTS) & set(columns(plain, "clients")))
        self.assertFalse({"stale", "staleness_mean"} & set(columns(plain, "rounds")))

    def test_without_staleness_it_is_fedavg(self):
        rounds = ["--cohort", 5, "--devices", "uniform", "--weighting", "uniform", "--clock.rule", "fedscale",
                  "--local.steps", 4]
        plain = self.train("rounds", *rounds)
        self.assertEqual(checksum(plain), checksum(self.train(
            "versions", *rounds, "--async.protocol", "buffered", "--async.buffer", 5)))

    def test_a_tier_is_those_of_one_speed(self):
        """Who makes a version together started together, and no client is in two tiers; each tier has its own pace."""
        path = self.train("tiers", "--algorithm", "fedat", "--tiers.number", 3, "--devices", "spread", "--rounds", 40,
                          "--cohort", 9, "--local.steps", 3, "--clock.rule", "fedscale", "--evaluate-every", 0)
        clients = columns(path, "clients")
        seconds = {}
        for k, took in zip(clients["client"], clients["compute_seconds_virtual"]):
            seconds[k] = took
        order = sorted(seconds, key=lambda k: (seconds[k], k))
        self.assertEqual(len(order), 23)
        tier = {k: i * 3 // 23 for i, k in enumerate(order)}
        rounds = [0, 0, 0]
        for r in range(1, 41):
            of = clients["round"] == r
            self.assertEqual(of.sum(), 3)
            self.assertEqual(len({tier[k] for k in clients["client"][of]}), 1)
            self.assertEqual(len(set(clients["start_seconds"][of])), 1)
            self.assertEqual(len(set(clients["base_version"][of])), 1)
            rounds[tier[clients["client"][of][0]]] += 1
        self.assertTrue(rounds[0] > rounds[1] > rounds[2] > 0, rounds)
        run = self.succeed("--plan", "clock", "--job", self.job, *KINDS["fedat"])
        self.assertRegex(run.out, r"staleness +\d")
        run = self.succeed("--job", self.job, *KINDS["fedat"], "--quiet", "false", "--output", self.path("header.h5"))
        self.assertIn("12 versions of the model, of a round of one of 3 tiers, 9 clients in flight", run.out)

    def test_late_updates_are_not_in_vain(self):
        late = columns(self.train("late", *KINDS["refl-saa"], "--rounds", 20), "rounds")
        dropped = columns(self.train("dropped", *OVER_COMMITTED, "--rounds", 20), "rounds")
        self.assertEqual(late["wasted_samples"].sum(), 0)
        self.assertGreater(dropped["wasted_samples"].sum(), 0)
        self.assertGreater(late["staleness_max"].max(), 0)
        # Six fresh ones each, unless fewer are idle, and the late ones.
        self.assertTrue((late["finished"] >= 6).all())
        # Without late ones rounds are rounds.
        plain = ["--cohort", 6, "--devices", "lognormal", "--weighting", "uniform"]
        rounds = self.train("rounds", *plain)
        self.assertEqual(checksum(rounds), checksum(self.train(
            "stale-rounds", *plain, "--async.protocol", "stale-rounds", "--async.normalise", "weights")))

    def test_a_limit_of_time(self):
        whole = columns(self.train("whole", *KINDS["fedbuff"]), "rounds")
        limit = (whole["virtual_seconds"][4] + whole["virtual_seconds"][5]) / 2
        path = self.train("limit", *KINDS["fedbuff"], "--clock.limit", limit, "--evaluate-every", 0)
        rounds = columns(path, "rounds")
        np.testing.assert_array_equal(rounds["virtual_seconds"], whole["virtual_seconds"][:6])
        self.assertTrue(np.isfinite(rounds["test_accuracy"][-1]))

    def test_the_plan_is_what_the_run_does(self):
        rounds = columns(self.train("planned", *KINDS["fedbuff"]), "rounds")
        run = self.succeed("--plan", "clock", "--job", self.job, *KINDS["fedbuff"])
        self.assertRegex(run.out, rf"rounds +12 in \S+ \({rounds['virtual_seconds'][-1]:.3f} virtual seconds\)")
        mean = rounds["staleness_mean"].mean()
        self.assertRegex(run.out, rf"\nstaleness +{mean:.2f} on average, {rounds['staleness_max'].max():.0f} at most")
        self.assertEqual(os.listdir(self.folder).count("results"), 0)

    def test_a_sampler_learns_what_versions_were_made_of(self):
        """Pisces without chance: once all have reported, who starts is who is worth most of those that are idle, by the
        reports in versions up to the one that it starts from."""
        path = self.train("pisces", "--algorithm", "fedbuff", "--async.buffer", 2, "--sampler", "pisces", "--pisces.beta",
                          1, "--rounds", 40, "--clients", 8, "--devices", "halfnormal", "--cohort", 3)
        clients = columns(path, "clients")
        order = np.argsort(clients["dispatch"])
        # Losses are the mean over samples, not its root mean square: who has reported is known, and how stale it was.
        reported, checked = {}, 0
        for i in order:
            base, start = clients["base_version"][i], clients["start_seconds"][i]
            known = set(clients["client"][clients["round"] <= base])
            at_work = set(clients["client"][(clients["start_seconds"] <= start) & (clients["finish_seconds"] > start)])
            idle_and_new = set(range(8)) - known - at_work
            if known and clients["client"][i] in known:
                self.assertFalse(idle_and_new, f"dispatch {clients['dispatch'][i]}")
                checked += 1
            reported[clients["client"][i]] = i
        self.assertGreater(checked, 20)
        self.assertEqual(len(reported), 8)

    def test_a_plan_says_that_nothing_was_learnt(self):
        run = self.succeed("--plan", "clock", "--job", self.job, *KINDS["oort"])
        self.assertIn("may learn from training, which has not taken place here", run.out)

    def test_refused(self):
        for options, words in [
                (["--async.buffer", 3], ["async.buffer is set, but async.protocol is rounds"]),
                (["--algorithm", "fedbuff"], ["devices is none", "--devices halfnormal"]),
                ([*KINDS["fedbuff"], "--algorithm", "scaffold", "--async.protocol", "buffered"],
                 ["algorithm scaffold", "--async.protocol rounds"]),
                ([*KINDS["fedbuff"], "--algorithm", "feddyn", "--feddyn.alpha", 0.1, "--async.protocol", "buffered"],
                 ["keep state"]),
                ([*KINDS["fedbuff"], "--aggregator", "median"], ["aggregator median"]),
                ([*KINDS["fedbuff"], "--sampler", "roundrobin"], ["sampler roundrobin", "choose sampler uniform"]),
                ([*KINDS["fedbuff"], "--sampler", "poc", "--poc.d", 9], ["sampler poc", "--poc.variant rpow"]),
                ([*KINDS["oort"], "--async.weighting", "unbiased"],
                 ["unbiased", "sampler oort draws by what it has learnt"]),
                ([*KINDS["fedbuff"], "--async.concurrency", 24], ["async.concurrency is 24", "at most 23"]),
                ([*KINDS["refl-saa"], "--async.staleness", "hinge"], ["stale-aware weighs staleness", "constant"]),
                ([*KINDS["refl-saa"], "--clock.quorum", 0.8], ["clock.quorum is of rounds"]),
                ([*KINDS["refl-saa"], "--aggregator", "median"], ["aggregator median"]),
                ([*KINDS["late"], "--clock.late", "partial"], ["late updates are dropped"]),
                ([*KINDS["fedbuff"], "--clock.over-commit", 1.3, "--clock.keep", "fastest"], ["of rounds"]),
                ([*KINDS["fedasync"], "--async.buffer", 2], ["async.mixing is 0.6", "--async.buffer 1"]),
                ([*KINDS["fedbuff"], "--algorithm", "fedat", "--async.protocol", "buffered"], ["fedat has tiers"]),
                ([*KINDS["fedat"], "--async.mixing", 0.5], ["async.mixing is 0.5", "fedat takes tiers' models"]),
                ([*KINDS["fedat"], "--async.staleness", "polynomial"], ["async.staleness is polynomial"]),
                ([*KINDS["fedat"], "--server.lr", 0.5], ["server.lr is 0.5", "fedat"]),
                ([*KINDS["fedat"], "--async.buffer", 3], ["async.buffer"]),
                ([*KINDS["fedat"], "--tiers.number", 10], ["tiers.number is 10", "9 clients are at work"]),
                ([*KINDS["drawn"], "--devices", "uniform"], ["async.source is drawn", "devices is uniform"])]:
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, *options, "--output", self.path("refused.h5"))


if __name__ == "__main__":
    unittest.main()
