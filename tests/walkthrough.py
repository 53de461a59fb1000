"""The algorithm that algorithms/README.md writes runs as the page says: $FL_SIM is a program that has it."""
import unittest

import h5py
import numpy as np

from whole_program import Case, checksum

JOB = ["--dataset", "fcube", "--model", "logistic", "--clients", 4, "--local.batch-size", 100,
       "--local.lr", 0.5]


class Walkthrough(Case):
    def weights(self, *words, ranks=0, cohort=3):
        output = self.path("x.h5")
        self.succeed(*JOB, "--cohort", cohort, *words, "--output", output, "--overwrite", ranks=ranks)
        with h5py.File(output, "r") as file:
            model = np.concatenate([file["model"][name][()].ravel() for name in sorted(file["model"])])
        return model.astype(np.float64), checksum(output)

    def test_it_is_known_and_explained(self):
        self.assertIn("clipped", self.succeed("--list", "algorithms").out)
        text = self.succeed("--explain", "clipped").out
        self.assertIn("--clipped.norm number  (no default)", text)
        self.assertIn("--algorithm clipped --clipped.norm 1 ", text)
        self.fail_with(["the job does not say:", "clipped.norm"], *JOB, "--algorithm", "clipped")
        self.fail_with(["clipped.norm is 0 (must be more than 0)"], *JOB, "--algorithm", "clipped", "--clipped.norm", 0)

    def test_a_large_norm_is_fedavg(self):
        """Proves the limit that the page names: the same bits as FedAvg."""
        _, fedavg = self.weights("--algorithm", "fedavg", "--rounds", 3)
        _, clipped = self.weights("--algorithm", "clipped", "--clipped.norm", 1e6, "--rounds", 3)
        self.assertEqual(clipped, fedavg)

    def test_the_step_has_the_length_that_the_job_says(self):
        """Proves the rule: after one round w(c) = w0 + c u with |u| = 1, so w(2c) - w(c) has length c."""
        short, long = (self.weights("--algorithm", "clipped", "--clipped.norm", norm, "--rounds", 1)[0]
                       for norm in (0.03125, 0.0625))
        self.assertAlmostEqual(np.linalg.norm(long - short), 0.03125, delta=1e-6)

    def test_the_same_bits_on_three_ranks(self):
        words = ["--algorithm", "clipped", "--clipped.norm", 0.0625, "--rounds", 3]
        self.assertEqual(self.weights(*words, ranks=3)[1], self.weights(*words)[1])

    def test_differential_privacy(self):
        """Proves the second example's rule: without noise and with a large clip it is FedAvg with uniform weights, the
        noise grows in proportion, and a single client's change is cut to the length that the job says.
        """
        def weights(clip, noise, **how):
            return self.weights("--algorithm", "dpfedavg", "--dpfedavg.clip", clip, "--dpfedavg.noise", noise,
                                "--rounds", 1, **how)
        plain, bits = weights(1e6, 0)
        self.assertEqual(bits, self.weights("--algorithm", "fedavg", "--weighting", "uniform", "--rounds", 1)[1])
        once, twice = (weights(1, noise)[0] - weights(1, 0)[0] for noise in (0.5, 1))
        np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
        self.assertGreater(np.abs(once).max(), 0.01)
        short, long = (weights(clip, 0, cohort=1)[0] for clip in (0.03125, 0.0625))
        self.assertAlmostEqual(np.linalg.norm(long - short), 0.03125, delta=1e-6)
        self.assertEqual(weights(1, 1)[1], weights(1, 1, ranks=3)[1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
