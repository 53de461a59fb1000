"""Sub-models: heterofl, fjord, fedrolex, feddropout. Their bits on any number of ranks, their bytes and virtual time."""
import math
import unittest

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
        seconds, down, up = 0.01, 1e6, 5e5
        for rule, algorithm in ("plain", "heterofl"), ("fedscale", "heterofl"), ("plain", "fjord"):
            path = self.train(
                f"cnn-{rule}-{algorithm}", "--model", "cnn", "--algorithm", algorithm, "--width.levels", "1, 0.5, 0.25",
                "--rounds", 1, "--devices", "uniform", "--devices.seconds-per-sample", seconds,
                "--devices.down-bps", down, "--devices.up-bps", up, "--clock.rule", rule, "--cohort", 12,
                "--evaluate-every", 0)
            rounds, clients = columns(path, "rounds"), columns(path, "clients")
            self.assertEqual(set(clients["width"]), {1, 0.5, 0.25})
            kbit = 1000 / 1024 if rule == "fedscale" else 1
            for i, width in enumerate(clients["width"]):
                self.assertAlmostEqual(clients["download_seconds"][i], 32 * numbers(width) / down * kbit, delta=1e-6)
                self.assertAlmostEqual(clients["upload_seconds"][i], 32 * numbers(width) / up * kbit, delta=1e-6)
                samples = clients["samples_seen"][i] if rule == "plain" else 10 * clients["steps"][i]
                drawn = [other for other in (1, 0.5, 0.25) if other <= width] if algorithm == "fjord" else [width]
                share = np.mean([products(other) for other in drawn]) / products(1)
                self.assertAlmostEqual(clients["compute_seconds_virtual"][i], 3 * seconds * samples * share, delta=1e-6)
            of_all = sum(4 * numbers(width) for width in clients["width"])
            self.assertEqual((rounds["bytes_down"][0], rounds["bytes_up"][0]), (of_all, of_all))
            self.assertLess(of_all, 0.7 * 12 * 4 * numbers(1))

    def test_a_teacher_takes_time_and_has_its_bits_on_any_number_of_ranks(self):
        """fjord.distill: each step is one of the width that was drawn, and one of the client's own."""
        options = ["--algorithm", "fjord", "--model", "cnn", "--width.levels", "1, 0.5", "--rounds", 2, "--cohort", 6,
                   "--devices", "uniform", "--devices.seconds-per-sample", 0.01]
        alone = self.train("alone", *options)
        self.assert_same(alone, self.train("off", *options, "--fjord.distill", 0), "off")
        taught = self.train("taught", *options, "--fjord.distill", 0.9)
        self.assert_same(taught, self.train("taught-3", *options, "--fjord.distill", 0.9, ranks=3), "taught")
        clients, without = columns(taught, "clients"), columns(alone, "clients")
        self.assertFalse(np.array_equal(clients["loss_after"], without["loss_after"]))
        self.assertEqual(set(clients["width"]), {1, 0.5})
        for i, width in enumerate(clients["width"]):
            drawn = [other for other in (1, 0.5) if other <= width]
            share = (np.mean([products(other) for other in drawn]) + products(width)) / products(1)
            self.assertAlmostEqual(clients["compute_seconds_virtual"][i], 0.03 * clients["samples_seen"][i] * share,
                                   delta=1e-6)
            self.assertLess(without["compute_seconds_virtual"][i], clients["compute_seconds_virtual"][i])

    def test_what_is_wasted_is_a_sub_models(self):
        path = self.train("wasted", "--algorithm", "heterofl", "--width.levels", "1, 0.25", "--rounds", 6, "--clients", 15,
                          "--devices.jitter", 2, *TIMED)
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        trained = clients["width"] > 0
        widths = dict(zip(clients["client"][trained], clients["width"][trained]))  # fixed for good
        size = {1: 4 * 199210, 0.25: 4 * (784 * 50 + 50 + 50 * 50 + 50 + 50 * 10 + 10)}
        checked = 0
        for r in range(6):
            unneeded = clients["client"][(clients["round"] == r + 1) & (clients["status"] == 8)]
            self.assertEqual(len(unneeded), 3)
            if set(unneeded) <= set(widths):
                expected = sum(size[widths[client]] for client in unneeded)
                self.assertEqual((rounds["wasted_bytes_down"][r], rounds["wasted_bytes_up"][r]), (expected, expected))
                checked += 1
        self.assertGreater(checked, 0)

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
        for options, words in [
                (["--fjord.distill", 1, "--width.levels", 0.5], ["fjord.distill is 1", "one width alone", "leave"]),
                (["--fjord.temperature", 2], ["fjord.temperature is 2", "fjord.distill is 0", "set it"]),
                (["--fjord.distill", 1, "--objective", "squared"], ["fjord.distill is 1", "cross-entropy"])]:
            with self.subTest(options=options):
                self.fail_with(words, "--job", self.job, "--algorithm", "fjord", *options, "--output",
                               self.path("refused.h5"))
        self.fail_with(["width.levels is set, but algorithm is fedavg", "heterofl"], "--job", self.job, "--width.levels",
                       0.5, "--output", self.path("refused.h5"))

    def test_widths_of_one_are_told(self):
        run = self.succeed("--job", self.job, "--algorithm", "heterofl", "--output", self.path("one.h5"), "--rounds", 1)
        self.assertIn("width.levels is 1, so that every client trains the whole model", run.err)


if __name__ == "__main__":
    unittest.main()
