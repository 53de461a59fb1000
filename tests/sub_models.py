"""Sub-models: heterofl, fjord, fedrolex, feddropout. Their bits on any number of ranks, their bytes and virtual time."""
import math
import unittest

import h5py
import numpy as np

from whole_program import Case, columns

TIMED = ["--devices", "lognormal", "--clock.keep", "fastest", "--clock.over-commit", 1.3, "--cohort", 10]
LEVELS = {"heterofl": ["--width.levels", "1, 0.5, 0.25"],
          "fjord": ["--width.assign", "dynamic"],
          "fedrolex": ["--width.levels", "0.5:0.7, 0.125:0.3"],
          "feddropout": ["--width.levels", "0.75"]}


def layers_of_cnn(width):
    """The numbers of each layer of the sub-model of `cnn` for 28 x 28 images, and how often a sample meets them."""
    first, second, hidden = (math.ceil(width * units) for units in (32, 64, 512))
    return [(25 * first + first, 784), (25 * first * second + second, 196), (49 * second * hidden + hidden, 1),
            (hidden * 10 + 10, 1)]


def numbers(width):
    return sum(count for count, _ in layers_of_cnn(width))


def products(width):
    return sum(count * places for count, places in layers_of_cnn(width))


class SubModels(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=800, rounds=3, model="2nn", quiet="true")

    def train(self, name, *options, ranks=0):
        path = self.path(name + ".h5")
        self.succeed("--job", self.job, *options, "--output", path, ranks=ranks)
        return path

    def test_the_same_on_any_number_of_ranks(self):
        for algorithm, levels in LEVELS.items():
            options = ["--algorithm", algorithm, *levels, *TIMED]
            expected = self.train(algorithm, *options)
            for ranks in (2, 3, 5) if algorithm == "heterofl" else (3,):
                with self.subTest(algorithm, ranks=ranks):
                    self.assert_same(expected, self.train(f"{algorithm}-{ranks}", *options, ranks=ranks), algorithm)

    def test_a_resume_costs_no_bit(self):
        for algorithm in ("heterofl", "fedrolex"):
            options = ["--algorithm", algorithm, "--width.levels", "1, 0.5", "--width.assign", "dynamic", *TIMED]
            whole = self.train("whole-" + algorithm, *options)
            path = self.path(f"parts-{algorithm}.h5")
            self.succeed("--job", self.job, *options, "--output", path, "--rounds", 1, "--keep-checkpoint", "true",
                         ranks=3)
            self.succeed("--job", self.job, *options, "--output", path, "--resume", "auto", "--keep-checkpoint", "true",
                         ranks=2)
            self.assert_same(whole, path, algorithm)

    def test_time_and_bytes_are_the_sub_models_own(self):
        """By the numbers of its layers and by how often a sample meets them: not those of the whole model."""
        widths = [1, 0.5, 0.25]
        seconds, down, up = 0.01, 1e6, 5e5
        for rule in ("plain", "fedscale"):
            path = self.train(
                "cnn-" + rule, "--model", "cnn", "--algorithm", "heterofl", "--width.levels", "1, 0.5, 0.25", "--rounds", 2,
                "--devices", "uniform", "--devices.seconds-per-sample", seconds, "--devices.down-bps", down,
                "--devices.up-bps", up, "--clock.keep", "deadline", "--clock.deadline", 60, "--clock.rule", rule,
                "--cohort", 12, "--evaluate-every", 0)
            rounds, clients = columns(path, "rounds"), columns(path, "clients")
            steps = {client: steps for client, steps in zip(clients["client"], clients["steps"])}
            with h5py.File(path) as file:
                holds = np.diff(file["partition/offsets"][()]) if "partition/offsets" in file else None
            drawn = dict(zip(clients["client"], clients["width"]))
            self.assertEqual(set(drawn.values()) - {0}, set(widths), "all widths take part")
            kbit = 1000 / 1024 if rule == "fedscale" else 1
            for i, client in enumerate(clients["client"]):
                if clients["status"][i] != 0:
                    continue
                width = clients["width"][i]
                self.assertAlmostEqual(clients["download_seconds"][i], 32 * numbers(width) / down * kbit, 6)
                self.assertAlmostEqual(clients["upload_seconds"][i], 32 * numbers(width) / up * kbit, 6)
                samples = clients["samples_seen"][i] if rule == "plain" else 10 * clients["steps"][i]
                self.assertAlmostEqual(clients["compute_seconds_virtual"][i],
                                       3 * seconds * samples * products(width) / products(1), 6)
            for r in range(2):
                of = clients["round"] == r + 1
                # Who is late was sent its sub-model as well; its record, who trained nothing, has no width.
                known = {**{c: w for c, w in zip(clients["client"], clients["width"]) if w > 0}}
                if not set(clients["client"][of]) <= set(known):
                    continue
                self.assertEqual(rounds["bytes_down"][r], sum(4 * numbers(known[c]) for c in clients["client"][of]))
            self.assertGreater((clients["status"] == 0).sum(), 12)

    def test_the_slower_the_device_the_narrower_the_model(self):
        path = self.train("device", "--algorithm", "heterofl", "--width.levels", "1:2, 0.5:1, 0.25:1", "--width.assign",
                          "device", "--devices", "lognormal", "--cohort", 23, "--clients", 23, "--rounds", 1,
                          "--evaluate-every", 0)
        clients = columns(path, "clients")
        size = {1: 1.0}
        for width in (0.5, 0.25):
            hidden = math.ceil(200 * width)
            size[width] = ((784 * hidden + hidden + hidden * hidden + hidden + hidden * 10 + 10) / 199210)
        share = np.array([size[width] for width in clients["width"]])
        speed = clients["compute_seconds_virtual"] / (clients["samples_seen"] * share)  # of the device, per sample
        order = np.argsort(speed)
        np.testing.assert_array_equal(clients["width"][order], [1] * 12 + [0.5] * 5 + [0.25] * 6)

    def test_what_is_planned(self):
        run = self.succeed("--plan", "clock", "--job", self.job, "--algorithm", "heterofl", "--width.levels", "1, 0.25",
                           *TIMED)
        path = self.train("planned", "--algorithm", "heterofl", "--width.levels", "1, 0.25", *TIMED)
        self.assertIn(f"({columns(path, 'rounds')['virtual_seconds'][-1]:.3f} virtual seconds)", run.out)

    def test_refused(self):
        for options, words in [
                (["--model", "logistic"], ["model logistic has no hidden layer", "2nn"]),
                (["--model", "cnn-bn"], ["model cnn-bn is no plain chain", "such as mlp"]),
                (["--model", "resnet18"], ["model resnet18 is no plain chain"]),
                (["--width.levels", "1, 2"], ["width.levels is 1, 2, where ' 2' is no width"]),
                (["--width.assign", "device"], ["width.assign is device, but devices is none"]),
                (["--aggregator", "median", "--width.levels", "1, 0.5"],
                 ["aggregator median", "heterofl", "train parts of the model"])]:
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, "--algorithm", "heterofl", *options, "--output",
                               self.path("refused.h5"))
        self.fail_with(["width.levels is set, but algorithm is fedavg", "heterofl"], "--job", self.job, "--width.levels",
                       0.5, "--output", self.path("refused.h5"))

    def test_widths_of_one_are_told(self):
        run = self.succeed("--job", self.job, "--algorithm", "heterofl", "--output", self.path("one.h5"), "--rounds", 1)
        self.assertIn("width.levels is 1, so that every client trains the whole model", run.err)


if __name__ == "__main__":
    unittest.main()
