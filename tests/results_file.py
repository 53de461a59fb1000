"""The results file of real runs, as h5py and PyTorch read it, and what a run says in a terminal and elsewhere."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from pathlib import Path

import h5py
import numpy as np

from whole_program import ENVIRONMENT, PATIENCE, Case, checksum, columns, command, write_images

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = ["logistic", "2nn", "cnn", "lenet"]


def script(name, *arguments):
    return subprocess.run([sys.executable, "-B", os.path.join(HERE, name), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=PATIENCE * 2)


class ResultsFile(Case):
    @classmethod
    def setUpClass(cls):
        cls._data = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(cls._data.cleanup)
        # As many test images as load_model.py expects.
        cls.data = write_images(cls._data.name, train=1000, test=10000)

    def job(self, output, **more):
        job = {"dataset": "fashion-mnist", "data-dir": self.data, "model": "2nn", "clients": 20, "cohort": 5,
               "rounds": 3, "partitioner": "shards", "local.batch-size": 10, "local.lr": 0.05, "output": output, **more}
        return [word for key, value in job.items() for word in ("--" + key.replace("_", "-"), str(value))]

    def test_as_promised(self):
        for ranks, model in zip((0, 2, 3, 3), MODELS):
            with self.subTest(model):
                output = self.path(model + ".h5")
                self.succeed(*self.job(output, model=model, algorithm="scaffold", evaluate_every=2), ranks=ranks)
                result = script("read_results.py", output)
                self.assertEqual(result.returncode, 0, result.stdout)
                self.assertIn(f"3 rounds, 15 client rows, model {checksum(output)}: as promised", result.stdout)
                self.assertEqual(len(columns(output, "ranks")["rank"]), max(ranks, 1))
                self.assertEqual(sorted(os.listdir(self.folder)).count(model + ".h5.tmp"), 0)

    def test_in_pytorch(self):
        if script("load_model.py").stdout.count("usage:") == 0:
            self.skipTest("no torch in this Python: /model is not loaded into PyTorch")
        for model in MODELS:
            with self.subTest(model):
                output = self.path(model + ".h5")
                self.succeed(*self.job(output, model=model, rounds=2), ranks=2)
                result = script("load_model.py", output, model, self.data)
                self.assertEqual(result.returncode, 0, result.stdout)

    def test_columns(self):
        """As somebody reads them who knows h5py and nothing of us."""
        output = self.path("x.h5")
        run = self.succeed(*self.job(output, rounds=4), ranks=3)
        with h5py.File(output, "r") as file:
            rounds = {name: file["rounds"][name][:] for name in file["rounds"]}
            clients = {name: file["clients"][name][:] for name in file["clients"]}
            self.assertEqual(file["job"].attrs["algorithm"], "fedavg")
            self.assertEqual(file["job"].attrs["local.lr"], "0.05")
            self.assertEqual(file["job"].attrs["seed"], "0")  # a default
            self.assertEqual(file["provenance"].attrs["ranks"], "3")
            self.assertIn("fl_sim", file["provenance"].attrs)
            weight = file["model/fc1.weight"]
            self.assertEqual(weight.shape, (200, 784))
            self.assertEqual(file["model/fc3.bias"].shape, (10,))
            parameters = sum(file["model"][name].size for name in file["model"])
            sizes = file["partition/size"][:]
        self.assertEqual(list(rounds["round"]), [1, 2, 3, 4])
        self.assertTrue(np.all(rounds["seconds"] > 0))
        self.assertTrue(np.all(rounds["cohort"] == 5))
        for name in ("bytes_down", "bytes_up"):  # what a real server would send, and get back
            self.assertTrue(np.all(rounds[name] == 5 * 4 * parameters), rounds[name])
        for number in rounds["round"]:
            rows = clients["round"] == number
            of_round = {name: column[rows] for name, column in clients.items()}
            self.assertTrue(np.all(np.diff(of_round["client"]) > 0), "not in the cohort's order")
            self.assertAlmostEqual(of_round["weight"].sum(), 1, places=6)
            np.testing.assert_allclose(of_round["weight"], of_round["samples"] / of_round["samples"].sum(), rtol=1e-6)
            np.testing.assert_array_equal(of_round["samples"], sizes[of_round["client"]])
            np.testing.assert_array_equal(of_round["steps"], -(-of_round["samples"] // 10))
            self.assertEqual(of_round["samples_seen"].sum(), rounds["samples"][number - 1])
            self.assertAlmostEqual(np.average(of_round["loss"], weights=of_round["samples"]),
                                   rounds["train_loss"][number - 1], places=9)
            self.assertTrue(np.all(of_round["delta_norm"] > 0))
        self.assertEqual(set(clients["rank"]), {1, 2})
        self.assertIn(f"checksum {checksum(output)}", run.out)
        self.assertIn(f"accuracy {rounds['test_accuracy'][-1]:.4f}", run.out)

    def test_bytes(self):
        """What stays at the client is not counted, nor what one that is lost would have sent; every column is named in
        results/README.md.
        """
        page = (Path(HERE).parent / "results" / "README.md").read_text()
        held_back = ["--partition.test-fraction", 0.2]
        head, model = 10 * 200 + 10, 784 * 200 + 200 + 200 * 200 + 200 + 10 * 200 + 10
        for algorithm, down, up in (("lgfedavg", head, head), ("fedper", model - head, model - head),
                                    ("local", 0, 0), ("scaffold", 2 * model, 2 * model)):
            output = self.path(algorithm + ".h5")
            self.succeed(*self.job(output, rounds=2), "--algorithm", algorithm, "--metrics", "auc,class-accuracy",
                         *held_back, "--evaluate-clients", 1)
            with h5py.File(output, "r") as file:
                for name, each in (("bytes_down", down), ("bytes_up", up)):
                    self.assertEqual(list(file["rounds"][name][:]), 2 * [5 * 4 * each], f"{algorithm} {name}")
                for group in ("rounds", "clients", "evaluations", "ranks", "partition"):
                    for column in file[group]:
                        name = column
                        for prefix in ("clients_", "personal_"):
                            if group == "rounds" and name.startswith(prefix):
                                name = name[len(prefix):]
                        self.assertIn(f"`{name}`", page, f"/{group}/{column}")
        output = self.path("lost.h5")
        self.succeed(*self.job(self.path("whole.h5"), rounds=1))
        first = columns(self.path("whole.h5"), "clients")["client"][0]
        self.succeed(*self.job(output, rounds=1), "--inject", f"client-crash@1:{first}")
        with h5py.File(output, "r") as file:
            self.assertEqual(file["rounds/bytes_down"][0], 5 * 4 * model)
            self.assertEqual(file["rounds/bytes_up"][0], 4 * 4 * model)

    def test_another_form(self):
        """A file of a later form is refused wherever fl_sim reads one, with both numbers; one without a number is read."""
        other = self.path("other.h5")  # to compare with
        self.succeed(*self.job(other, rounds=1), "--seed", 1, "--quiet")
        for number, text in ((1, None), (2, "99"), (3, "new")):
            output = self.path(f"{number}.h5")
            self.succeed(*self.job(output, rounds=1), "--quiet")
            with h5py.File(output, "r+") as file:
                self.assertEqual(file["provenance"].attrs["format"], "1")
                del file["provenance"].attrs["format"]
                if text:
                    file["provenance"].attrs["format"] = text
            readers = (["--job", output, "--output", self.path("again.h5"), "--overwrite"],
                       [*self.job(self.path("again.h5"), rounds=1), "--init", output, "--overwrite"],
                       [*self.job(output, rounds=1), "--resume", "auto"], ["compare", output, other])
            for words in readers:
                with self.subTest(number=number, words=words[0]):
                    if text is None:
                        self.succeed(*words)
                    else:
                        self.fail_with([output, "is of format 99" if text == "99" else "format is 'new'"], *words)

    # ------------------------------------------------------------------------------------------------ terminal

    def in_terminal(self, options, ranks, width=120):
        """Everything that a run writes to a terminal of that width."""
        process, terminal = pty.fork()
        if process == 0:
            try:
                words = command(options, ranks)
                os.execvpe(words[0], words, ENVIRONMENT)
            finally:
                os._exit(127)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        text, end = b"", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # Linux's way to say that nobody writes any more
                break
            if not data:
                break
            text += data
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), 0, text)
        return text.decode()

    def test_terminal(self):
        for ranks in (0, 3):
            for width in (120, 50):
                with self.subTest(ranks=ranks, width=width):
                    text = self.in_terminal(self.job(self.path(f"{ranks}-{width}.h5"), rounds=5), ranks, width)
                    bars = re.findall(r"\r\x1b\[K(\[[# ]*\][^\r\n]*)", text)
                    self.assertGreaterEqual(len(bars), 5, text)
                    for number, bar in zip(range(1, 6), bars[-5:]):
                        self.assertIn(f"round {number}/5", bar)
                        self.assertLess(len(bar), width)
                    self.assertEqual(bars[-1][:bars[-1].index("]")].strip("[#"), "", "the bar is not full at the end")
                    self.assertRegex(text, r"[^\r\n]\r+\n5 rounds in 0:0", "the summary shares a line with the bar")

    def test_no_terminal(self):
        for ranks in (0, 3):
            run = self.succeed(*self.job(self.path(f"{ranks}.h5"), rounds=5, evaluate_every=2), ranks=ranks)
            self.assertNotIn("\x1b", run.out)
            self.assertNotIn("\r", run.out)
            self.assertEqual(run.err, "", str(run))
            lines = [line for line in run.out.splitlines() if line.startswith("round ")]
            self.assertEqual([line.split()[1] for line in lines], [f"{number}/5" for number in range(1, 6)])
            self.assertEqual(["accuracy" in line for line in lines], [False, True, False, True, True])

    def test_quiet(self):
        for ranks in (0, 3):
            run = self.succeed(*self.job(self.path(f"quiet-{ranks}.h5")), "--quiet", ranks=ranks)
            self.assertEqual((run.out, run.err), ("", ""))
        self.assertEqual(self.in_terminal([*self.job(self.path("quiet.h5")), "--quiet"], 3), "")

    def test_log_level(self):
        clean = self.path("clean.h5")
        self.succeed(*self.job(clean))
        client = columns(clean, "clients")["client"][0]
        for level, warned in (("warning", True), ("error", False)):
            run = self.succeed(*self.job(self.path(level + ".h5")), "--log-level", level, "--inject",
                               f"nan-update@1:{client}", ranks=3)
            self.assertEqual(run.out, "")
            self.assertEqual(run.err.count(f"fl_sim: warning: client {client} diverged in round 1"), int(warned))
        run = self.succeed(*self.job(self.path("quiet.h5")), "--quiet", "--inject", f"nan-update@1:{client}")
        self.assertEqual((run.out, run.err.count("warning")), ("", 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
