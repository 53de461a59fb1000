"""What stands between clients and the server keeps its bits: transforms, aggregators, samplers, averages and trackers, on
any number of ranks and over an interruption.
"""
import json
import unittest

import h5py
import numpy as np

import resume
from whole_program import NOT_COMPARED, Case, checksum, columns


WAYS = {
    "clip": ["--transforms", "clip", "--clip.norm", 0.5],
    "clip by layers": ["--transforms", "clip", "--clip.norm", 0.5, "--clip.scope", "layer", "--group-size", 3],
    "median": ["--aggregator", "median"],
    "median of scaffold": ["--aggregator", "median", "--algorithm", "scaffold", "--group-size", 3],
    "multinomial": ["--sampler", "multinomial"],
    "roundrobin": ["--sampler", "roundrobin", "--availability.probability", 0.7],
    "ema": ["--server.average", "ema", "--server.average-decay", 0.5, "--evaluate-clients", 1,
            "--partition.test-fraction", 0.2],
    "swa": ["--server.average", "swa", "--server.average-start", 2, "--algorithm", "ifca", "--partition.test-fraction",
            0.2],
}


def rounds_of(path):
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["event"] == "round"], lines


class Seams(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=10, model="2nn", quiet="true")

    def train(self, name, *options, ranks=0):
        path = self.path(name.replace(" ", "-") + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, "--overwrite", ranks=ranks)
        return path

    def test_any_number_of_ranks(self):
        """One hash on 1, 2, 3 and 5 ranks, and another one than without."""
        plain = checksum(self.train("plain", "--rounds", 3))
        for name, options in WAYS.items():
            expected = self.train(name, *options, "--rounds", 3)
            self.assertNotEqual(checksum(expected), plain, name)
            for ranks in (1, 2, 3, 5):
                actual = self.train(f"{name}-{ranks}", *options, "--rounds", 3, ranks=ranks)
                self.assert_same(expected, actual, f"{name} on {ranks} ranks")

    def test_columns(self):
        path = self.train("columns", *WAYS["clip"], "--rounds", 3)
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        for number in (1, 2, 3):
            mine = clients["round"] == number
            share = np.mean(clients["clip.norm"][mine] > 0.5)
            self.assertAlmostEqual(rounds["clip.clipped"][number - 1], share)
            np.testing.assert_allclose(clients["clip.norm"][mine], clients["delta_norm"][mine], rtol=1e-5)

    def test_everybody_has_a_turn(self):
        """Proves roundrobin in the whole program: in 23 rounds of 7 of 23 clients everybody is drawn seven times."""
        path = self.train("turns", "--sampler", "roundrobin", "--rounds", 23, "--local.lr", 0.001, "--local.steps", 1,
                          "--evaluate-every", 0)
        np.testing.assert_array_equal(np.bincount(columns(path, "clients")["client"], minlength=23), 7)

    def test_a_pool_has_turns_too(self):
        """Trained in one place, one client's samples a round: after as many rounds as clients, everybody's."""
        path = self.train("pool", "--algorithm", "centralized", "--sampler", "roundrobin", "--cohort", 1, "--rounds", 23)
        samples = columns(path, "clients")["samples_seen"]
        self.assertGreater(len(set(samples)), 5)
        self.assertAlmostEqual(samples.sum(), 1500, delta=23 * 10)  # whole batches

    def test_a_lane_without_survivors(self):
        """Of pwfl's two cohorts one is lost: its clients failed, and the other's did not."""
        options = ["--algorithm", "pwfl", "--cohort", 2, "--rounds", 1]
        drawn = columns(self.train("lanes", *options), "clients")["client"]
        path = self.train("lost lane", *options, "--inject", f"client-crash@1:{drawn[0]}")
        self.assertEqual(columns(path, "rounds")["failed"].tolist(), [1])

    def test_own_models_of_an_average(self):
        """Tuned for no epoch, a client's own model is the one that it is shown, an average, too."""
        path = self.train("tuned", "--algorithm", "finetune", "--finetune.epochs", 0, "--partition.test-fraction", 0.2,
                          "--evaluate-clients", 1, "--rounds", 3, "--server.average", "ema",
                          "--server.average-decay", 0.9)
        rounds = columns(path, "rounds")
        self.assertEqual(rounds["personal_loss"].tolist(), rounds["clients_loss"].tolist())

    def test_lines_of_json(self):
        """They are the rows of the results file, whatever else was at their place."""
        lines = self.path("run.jsonl")
        with open(lines, "w") as file:
            file.write("something else\n")
        path = self.train("lines", "--track", f"jsonl:{lines}", *WAYS["clip"])
        rounds, all_lines = rounds_of(lines)
        self.assertEqual([line["event"] for line in all_lines], ["run"] + ["round"] * 10 + ["end"])
        self.assertEqual(all_lines[-1]["checksum"], checksum(path))
        self.assertEqual(all_lines[0]["job"]["clip.norm"], "0.5")
        expected = columns(path, "rounds")
        for name in ("round", "train_loss", "test_loss", "test_accuracy", "bytes_up", "clip.clipped"):
            np.testing.assert_allclose([line[name] for line in rounds], expected[name], err_msg=name)

    def test_refusals(self):
        for options, words in (
                (["--transforms", "clip,clip"], ["transforms", "clip twice"]),
                (["--transforms", "clp"], ["there is no transform 'clp'", "did you mean 'clip'"]),
                (["--transforms", "clip"], ["the job does not say", "clip.norm"]),
                (["--clip.norm", 1], ["clip.norm is set, but transforms is none"]),
                (["--aggregator", "median", "--weighting", "samples"], ["weighting is samples", "median"]),
                (["--aggregator", "median", "--algorithm", "pwfl"], ["aggregator median cannot work", "pwfl"]),
                (["--server.average", "ema", "--algorithm", "cfl", "--cohort", 23, "--cfl.eps1", 1, "--cfl.eps2", 0,
                  "--partition.test-fraction", 0.2], ["server.average is ema", "cfl makes new models"]),
                (["--track", "jsonl"], ["jsonl without a file"]),
                (["--track", "json:x"], ["there is no tracker 'json'", "did you mean 'jsonl'"]),
                (["--sampler", "roundrobin", "--cohort", 24], ["cohort is 24"]),
                (["--server.average-decay", 0.5], ["server.average-decay is set, but server.average is none"])):
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, *options, "--output", self.path("refused.h5"))


class SeamsResumed(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=10, model="2nn", quiet="true")

    whole, begin = resume.Resume.whole, resume.Resume.begin
    interrupt, go_on = resume.Resume.interrupt, resume.Resume.go_on

    def test_memory_survives(self):
        """A sampler's turns, an average and a tracker's lines go on where an interrupted run has left them."""
        options = ["--sampler", "roundrobin", "--server.average", "ema", "--server.average-decay", 0.5, "--transforms",
                   "clip", "--clip.norm", 0.5, "--quiet", "false"]
        whole, lines = self.path("whole.jsonl"), self.path("lines.jsonl")
        expected = self.whole(*options, "--track", f"jsonl:{whole}")
        path = self.path("again.h5")
        options += ["--track", f"jsonl:{lines}"]
        self.interrupt(self.begin(path, *options))
        with open(lines, "a") as file:
            file.write('{"event": "round", "round": 9}\n{"event": "rou')  # as a kill leaves it
        self.go_on(path, *options)
        self.assert_same(expected, path, "interrupted")

        def told(name):
            return [{key: value for key, value in line.items() if key not in NOT_COMPARED["rounds"]}
                    for line in rounds_of(name)[0]]
        self.assertEqual(told(lines), told(whole))
        with h5py.File(path) as file:
            self.assertEqual(len(file["provenance"].attrs["resumed"].split()), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
