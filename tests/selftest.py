"""fl_sim selftest as a program: what it says and how it ends; its checks themselves are the unit tests' too."""
import os
import shutil
import unittest

from whole_program import Case

PROPERTIES = ["closed form", "fixed point", "equals", "mistakes", "float32", "ranks", "save/load"]


class Selftest(Case):
    def selftest(self, *words, **keywords):
        return self.succeed("selftest", *words, patience=600, **keywords)

    def algorithms(self):
        return [line.split()[0] for line in self.succeed("--list", "algorithms").out.splitlines()]

    def rows(self, text):
        """{algorithm: cells} of the table that the output begins with."""
        table = text.split("\n\n")[0].splitlines()[1:]
        return {line.split()[0]: line.split()[1:] for line in table}

    def test_every_number_of_ranks_gives_the_same_model(self):
        run = self.selftest("--only", "ranks")
        expected = {**{name: ["pass"] for name in self.algorithms()}, "engine": ["-"]}
        self.assertEqual(self.rows(run.out), expected, str(run))

    def test_five_ranks_and_the_order_of_arrival_do_not_matter(self):
        names = self.algorithms()
        expected = self.selftest("--checksums", *names).out
        self.assertGreaterEqual(len(expected.splitlines()), 2 * len(names))
        disturbed = self.selftest("--checksums", *names, ranks=5, FL_SIM_TEST="delay=5,deal=random")
        self.assertEqual(disturbed.out, expected)

    def test_a_part_of_the_table(self):
        run = self.selftest("fedprox", "--skip", "ranks", "--skip", "float32")
        self.assertEqual(list(self.rows(run.out)), ["fedprox"])
        self.assertTrue(set(self.rows(run.out)["fedprox"]) <= {"pass", "-"}, str(run))
        head = run.out.splitlines()[0]
        for name in PROPERTIES:
            self.assertEqual(name in head, name not in ("ranks", "float32"), head)

    def test_list(self):
        lines = self.selftest("--list").out.splitlines()
        for name in self.algorithms():
            found = {line.split(": ")[0] for line in lines if line.startswith(name + ", ")}
            self.assertLessEqual({f"{name}, closed form", f"{name}, ranks", f"{name}, save/load"}, found)

    def test_a_failure_is_told(self):
        """Ranks that come to other bits: here those of a launcher that changes what they say."""
        launcher = self.path("launcher")
        with open(launcher, "w") as file:
            file.write("#!/bin/sh\nshift 2\n\"$@\" | sed 's/.$/-/'\n")  # the last digit of each checksum
        os.chmod(launcher, 0o700)
        run = self.start("selftest", "fedavg", "fedprox", "--only", "ranks", FL_SIM_MPIRUN=launcher).wait()
        self.assertEqual(run.code, 1, str(run))
        self.assertNotEqual(self.rows(run.out)["fedavg"], ["pass"], str(run))
        self.assertIn("fedavg, ranks: the model has the same bits for 1, 2 and 3 ranks\n    deviation ", run.out, str(run))
        self.assertRegex(run.out, r"checksum [0-9a-f]{15}- on 2 ranks instead of [0-9a-f]{16}\n")
        self.assertIn("0 checks passed, 2 failed", run.out)

    def test_without_mpirun(self):
        tools = self.path("tools")
        os.mkdir(tools)
        for name in ("ssh", "rsh", "orted", "prted", "sh"):  # what MPI itself looks for
            if shutil.which(name):
                os.symlink(shutil.which(name), os.path.join(tools, name))
        run = self.selftest("fedavg", "--only", "ranks", PATH=tools, FL_SIM_MPIRUN="")
        self.assertIn("needs mpirun", run.out)

    def test_bad_arguments(self):
        for words, expected in (
            (["fedprx"], ["selftest knows no algorithm 'fedprx'", "did you mean 'fedprox'"]),
            (["median"], ["'median' is of kind aggregator", "selftest holds algorithms"]),
            (["--only", "closed-form"], ["selftest knows no property", "did you mean 'closed form'"]),
            (["--skip"], ["--skip needs a value"]),
            (["--device", "tpu"], ["selftest knows no device 'tpu'", "cpu, cuda"]),
            (["--rounds", 3], ["selftest has no option --rounds"]),
        ):
            with self.subTest(words):
                self.fail_with(expected, "selftest", *words)

    def test_once_on_three_ranks(self):
        run = self.fail_with(["started with 3 ranks"], "selftest", ranks=3)
        self.assertEqual(run.err.count("started with 3 ranks"), 1, str(run))


if __name__ == "__main__":
    unittest.main(verbosity=2)
