"""Time to accuracy: `fl_sim compare --by` of results files whose columns are written by hand."""
import re
import unittest

import h5py

from whole_program import Case

JOB = "dataset = fashion-mnist\nmodel = 2nn\nlocal.batch-size = 10\nlocal.lr = {lr}\nseed = {seed}\nrounds = 4\n"
NAN = float("nan")


class TimeToTarget(Case):
    def write(self, name, seed=1, lr=0.1, **columns):
        """A results file of four rounds, 10 virtual seconds, 1000 samples, 200 of them in vain, and 4 MB each."""
        path = self.path(name + ".h5")
        values = {"round": [1, 2, 3, 4], "test_accuracy": [0.2, 0.4, 0.6, 0.7], "virtual_seconds": [10.0, 20.0, 30.0, 40.0],
                  "samples": [800] * 4, "wasted_samples": [200] * 4, "bytes_down": [2000000] * 4,
                  "bytes_up": [1500000] * 4, "wasted_bytes_up": [500000] * 4, **columns}
        with h5py.File(path, "w") as file:
            file["job/text"] = JOB.format(lr=lr, seed=seed)
            file.create_group("provenance").attrs["end"] = "2026-01-01"
            for column, numbers in values.items():
                if numbers is not None:
                    file["rounds/" + column] = numbers
        return path

    def row(self, run, name="fedavg"):
        """A row's cells, which two blanks part."""
        line = next(line for line in run.out.splitlines() if line.startswith(name))
        return re.split(r" {2,}", line)

    def test_each_axis(self):
        path = self.write("run")
        run = self.succeed("compare", path, "--target", 0.5, "--by", "round,virtual,samples,bytes")
        self.assertIn("until test_accuracy 0.5000\n", run.out)
        self.assertRegex(run.out, "rounds to it  virtual s to it  k samples to it  MB to it\n")
        # The third round is the first that reaches it: no straight line between evaluations.
        self.assertEqual(self.row(run)[-4:], ["3", "30.0", "3.0", "12.0"])
        # Who is exactly there is there; what nobody waits for is not needed.
        run = self.succeed("compare", path, "--target", 0.6, "--by", "bytes,round")
        self.assertEqual(self.row(run)[-2:], ["12.0", "3"])

    def test_work_without_virtual_time(self):
        path = self.write("run", virtual_seconds=None, wasted_samples=None, wasted_bytes_up=None)
        run = self.succeed("compare", path, "--target", 0.3, "--by", "samples,bytes")
        self.assertEqual(self.row(run)[-2:], ["1.6", "7.0"])
        self.fail_with([path, "has no virtual time", "--by round, samples or bytes", "--devices"], "compare", path,
                       "--by", "virtual")

    def test_default_target_is_what_the_worst_reaches(self):
        """0.55, in the second round, which it then loses again; the other one has it in its third."""
        a, b = self.write("a"), self.write("b", lr=0.2, test_accuracy=[0.3, 0.55, 0.5, 0.54],
                                           virtual_seconds=[5.0, 12.0, 20.0, 26.0])
        run = self.succeed("compare", a, b, "--by", "virtual")
        self.assertIn(f"until test_accuracy 0.5500, the best that the worst run reaches ({b})", run.out)
        self.assertEqual(self.row(run, "fedavg local.lr=0.1")[-1], "30.0")
        self.assertEqual(self.row(run, "fedavg local.lr=0.2")[-2:], ["12.0", "2.50"])
        run = self.succeed("compare", a, b, "--by", "virtual", "--target", 0.65)
        self.assertEqual(self.row(run, "fedavg local.lr=0.2")[-2:], [">26.0", "<1.54"])
        run = self.succeed("compare", b, a, "--by", "virtual", "--target", 0.65)
        self.assertEqual(self.row(run, "fedavg local.lr=0.1")[-2:], ["40.0", ">0.65"])
        run = self.succeed("compare", a, b, "--by", "virtual", "--target", 0.9)
        self.assertEqual(self.row(run, "fedavg local.lr=0.2")[-2:], [">26.0", "-"])

    def test_losses_fall(self):
        path = self.write("run", test_loss=[2.0, 1.5, NAN, 0.5])
        run = self.succeed("compare", path, "--metric", "test_loss", "--target", 1.5, "--by", "round")
        self.assertEqual(self.row(run)[-1], "2")
        self.assertEqual(self.row(self.succeed("compare", path, "--metric", "test_loss", "--by", "round"))[-1], "4")

    def test_seeds(self):
        """The median and the range of three; of two that of their middle, a bound where one did not get there."""
        never = [0.2, 0.3, 0.4, 0.45]
        paths = [self.write(f"s{seed}", seed, virtual_seconds=[s * k for k in (1.0, 2.0, 3.0, 4.0)], test_accuracy=values)
                 for seed, s, values in ((1, 10, [0.5, 0.6, 0.7, 0.8]), (2, 11, [0.1, 0.5, 0.6, 0.7]), (3, 20, never))]
        run = self.succeed("compare", *paths, "--by", "virtual", "--target", 0.5)
        self.assertEqual(self.row(run)[1], "1,2,3")
        self.assertEqual(self.row(run)[-1], "22.0 (10.0 to >80.0)")
        self.assertEqual(self.row(self.succeed("compare", *paths[:2], "--by", "virtual", "--target", 0.5))[-1],
                         "16.0 (10.0 to 22.0)")
        # 16.0 is not half of 10 and 22 if the third one's end came before them: it is more than 80.
        self.assertEqual(self.row(self.succeed("compare", *paths[1:], "--by", "virtual", "--target", 0.5))[-1],
                         ">51.0 (22.0 to >80.0)")

    def test_smoothing(self):
        """A value that one evaluation reaches by chance."""
        path = self.write("run", test_accuracy=[0.2, 0.8, 0.2, 0.6])
        for window, expected in ((1, "2"), (2, "2"), (3, ">4"), (4, "4")):
            target = 0.55 if window == 3 else 0.44
            run = self.succeed("compare", path, "--by", "round", "--target", target, "--smooth", window)
            self.assertEqual(self.row(run)[-1], expected)
        run = self.succeed("compare", path, "--by", "round", "--target", 0.6, "--smooth", 2)
        self.assertEqual(self.row(run)[-1], ">4")
        self.assertIn("means of 2 evaluations in a row", run.out)
        # Of rounds that were evaluated, not of those between.
        path = self.write("gaps", test_accuracy=[0.4, NAN, 0.6, NAN])
        run = self.succeed("compare", path, "--by", "round", "--target", 0.5, "--smooth", 2)
        self.assertEqual(self.row(run)[-1], "3")
        self.fail_with([path, "has 2 evaluations", "at least 3"], "compare", path, "--by", "round", "--smooth", 3)

    def test_without_by_it_is_what_it_was(self):
        a, b = self.write("a"), self.write("b", lr=0.2, test_accuracy=[0.3, 0.5, 0.5, 0.5])
        run = self.succeed("compare", a, b, "--target", 0.5)
        self.assertRegex(run.out.splitlines()[0],
                         r"seeds +rounds +last test_accuracy +rounds to 0.5 +MB to it +difference +pairs +t +p$")
        self.assertEqual(self.row(run, "fedavg local.lr=0.1")[4:6], ["2.5", "8.8"])

    def test_picture(self):
        a, b = self.write("a"), self.write("b", lr=0.2)
        picture = self.path("of/curves.svg")
        run = self.succeed("compare", a, b, "--by", "virtual,bytes", "--picture", picture)
        self.assertIn(picture, run.out)
        with open(picture) as file:
            text = file.read()
        for words in ("virtual seconds", "MB to and from clients", "test_accuracy", "fedavg local.lr=0.1",
                      "fedavg local.lr=0.2"):
            self.assertIn(f">{words}<", re.sub(r"[\n\t]", "", text), words)
        for colour in ("rgb( 31, 119, 180)", "rgb(255, 127,  14)"):  # in each of two panels
            self.assertGreaterEqual(text.count(colour), 2)
        self.fail_with([".svg or .png"], "compare", a, "--by", "round", "--picture", self.path("x.jpg"))

    def test_refused(self):
        path = self.write("run")
        for options, words in [(["--by", "seconds"], ["--by is 'seconds'", "round, virtual, samples or bytes"]),
                               (["--by", "round,round"], ["twice"]), (["--by", ""], ["--by is empty"]),
                               (["--by", "round", "--smooth", 0], ["--smooth is '0'", "at least 1"]),
                               (["--smooth", 2], ["--by round"]), (["--picture", "x.png"], ["--by round"])]:
            with self.subTest(options=options):
                self.fail_with(words, "compare", path, *options)
        self.fail_with(["/rounds/samples has 3 values for 4 rounds"], "compare", self.write("bad", samples=[1, 2, 3]),
                       "--by", "samples")
        self.fail_with(["has 0 evaluations"], "compare", self.write("nothing", test_accuracy=[NAN] * 4), "--by", "round")


if __name__ == "__main__":
    unittest.main(verbosity=2)
