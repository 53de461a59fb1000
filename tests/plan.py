"""fl_sim --plan: that what it predicts of a run is what the run does."""
import os
import re
import shutil
import stat
import subprocess
import time
import unittest

import h5py
import numpy as np

from whole_program import ROOT, Case, rank_of, write_images

MEMORY_TOLERANCE = 0.15  # of a rank's peak, as the README says


class Plan(Case):
    def setUp(self):
        super().setUp()
        data = write_images(self.path("data"), train=3000, test=300)
        self.common = ["--dataset", "fashion-mnist", "--data-dir", data, "--partitioner", "dirichlet",
                       "--dirichlet.alpha", 0.5, "--local.batch-size", 10, "--local.lr", 0.05, "--seed", 3]

    def plan(self, *words, ranks=0):
        run = self.succeed("--plan", *self.common, *words, ranks=ranks)
        self.assertEqual(run.err, "", str(run))
        return run.out

    def script_of(self, text):
        return text[text.index("#!/usr/bin/env bash"):]

    def train(self, name, ranks, *words):
        """A run's results file, and each rank's peak of memory in MiB, as the kernel says it shortly before its end."""
        run = self.start(*self.common, *words, "--output", self.path(name), ranks=ranks)
        peaks = {}
        while run.process.poll() is None:
            for process in run.ranks():
                try:
                    rank = rank_of(process)
                    with open(f"/proc/{process}/status") as file:
                        peaks[rank] = int(re.search(r"^VmHWM:\s+(\d+)", file.read(), re.M)[1]) / 1024
                except (OSError, TypeError):  # it ends just now
                    pass
            time.sleep(0.02)
        self.assertEqual(run.wait().code, 0, str(run))
        return self.path(name), peaks

    def check_against_run(self, *words, ranks):
        """Bytes and the first round's deal exactly; each rank's peak of memory within the tolerance. Returns the text."""
        text = self.plan(*words, ranks=ranks)
        path, peaks = self.train("run.h5", ranks, *words)
        with h5py.File(path, "r") as file:
            for direction in ("down", "up"):
                predicted = int(re.search(rf"^  {direction} +(\d+) ", text, re.M)[1])
                self.assertEqual(set(file["rounds"][f"bytes_{direction}"][()]), {predicted}, text)
            clients = {name: file["clients"][name][()] for name in ("round", "rank", "steps", "seconds")}
        first = clients["round"] == 1
        dealt = re.findall(r"^  rank (\d+) +(\d+) clients? in (\d+) groups?, (\d+) steps?$", text, re.M)
        self.assertEqual([int(line[0]) for line in dealt], list(range(1, ranks)), text)
        for rank, number, _, steps in ((int(word) for word in line) for line in dealt):
            here = first & (clients["rank"] == rank)
            self.assertEqual((number, steps), (np.sum(here), np.sum(clients["steps"][here])), text)
        # Times on a shared machine: the order of magnitude.
        start, step = map(float, re.search(r"a client takes ([\d.]+) ms and ([\d.]+) ms a step", text).groups())
        ratios = clients["seconds"] / (1e-3 * (start + step * clients["steps"]))
        self.assertGreater(np.median(ratios), 1 / 6, f"clients took {ratios} times as long as predicted\n{text}")
        # Others may hold up most clients of a run, but not all.
        self.assertLess(np.quantile(ratios, 0.1), 6, f"clients took {ratios} times as long as predicted\n{text}")
        needs = {name: float(size) for name, size in re.findall(r"^  (rank 0|a host) +([\d.]+) in all$", text, re.M)}
        self.assertEqual(set(peaks), set(range(ranks)))
        for rank, peak in peaks.items():
            predicted = needs["rank 0" if rank == 0 else "a host"]
            self.assertLessEqual(abs(predicted / peak - 1), MEMORY_TOLERANCE,
                                 f"rank {rank} took {peak:.1f} MiB, predicted were {predicted:.1f}\n{text}")
        return text

    def test_plain(self):
        """FedAvg on a large model: no state."""
        text = self.check_against_run("--algorithm", "fedavg", "--model", "cnn", "--clients", 12, "--cohort", 5,
                                      "--rounds", 2, ranks=3)
        self.assertIn("of 5 of 12 clients", text)
        self.assertRegex(text, r"checkpoint +6\.3 MiB: server 6\.3, states of 0 clients 0\.0")

    def test_states(self):
        """SCAFFOLD: twice the bytes, and states that make a good part of a host's memory and of a checkpoint."""
        words = ["--algorithm", "scaffold", "--model", "2nn", "--clients", 200, "--cohort", 100, "--rounds", 8,
                 "--local.epochs", 1, "--partition.min-samples", 1]
        text = self.check_against_run(*words, ranks=3)
        server, clients, states = re.search(
            r"^checkpoint .*: server ([\d.]+), states of (\d+) clients ([\d.]+)$", text, re.M).groups()
        # 2nn has 199,210 parameters, with a state of as many for each of nearly all 200 clients; the server has the
        # model and its own control variate.
        self.assertGreater(int(clients), 190)
        self.assertAlmostEqual(float(states), int(clients) * 199210 * 4 / 2**20, delta=1)
        self.assertAlmostEqual(float(server), 2 * 199210 * 4 / 2**20, delta=0.1)

    def test_ranks(self):
        """The number of ranks is mpirun's, or what --plan-ranks says, or the one that is kept busy."""
        words = ["--model", "logistic", "--clients", 30, "--cohort", 8, "--rounds", 2]
        self.assertIn("\nranks         5: 1 server, 4 hosts\n", self.plan(*words, "--plan-ranks", 5, ranks=2))
        self.assertIn("\nranks         1 (server and host in one)\n", self.plan(*words, "--plan-ranks", 1))
        text = self.plan(*words)
        planned = re.search(r"^ +(\d+) .*<- planned  <- the most that are kept busy$", text, re.M)[1]
        self.assertIn(f"#SBATCH --ntasks={planned}\n", self.script_of(text))
        groups = self.plan(*words, "--group-size", 4, "--plan-ranks", 5)
        self.assertIn("\ngroups        2 a round, of up to 4 clients", groups)
        self.assertIn(" --group-size 2 would give every host something to do\n", groups)
        told = "fl_sim: warning: a round has 2 groups of up to 4 clients for 4 hosts: --group-size 2 would give more of them"
        for size, check in ((4, self.assertIn), (2, self.assertNotIn)):
            run = self.succeed(*self.common, *words, "--group-size", size, "--output", self.path(f"{size}.h5"), ranks=5)
            check(told, run.err)
        # More hosts than groups have nothing to do: they are idle in part.
        busy = {int(k): int(share) for k, share in re.findall(r"^ +(\d+) +[\d.]+ +(\d+) %", text, re.M)}
        self.assertLessEqual(busy[17], 50, text)
        self.fail_with(["--plan-ranks is none (must be a whole number of at least 1)"], "--plan", *self.common, *words,
                       "--plan-ranks", "none")
        self.fail_with(["unknown key 'modle'"], "--plan", *self.common, "--modle", "cnn", ranks=2)

    def test_algorithms(self):
        """Those that train otherwise than by local steps of their own: two exchanges, lanes, one pool, full batches,
        models of their own, updates kept apart. None of them runs a round, nor writes anything."""
        before = os.listdir(self.folder)
        for algorithm, more in (("mime", []), ("pwfl", ["--pwfl.models", 2]), ("centralized", []), ("fedsgd", []),
                                ("cfl", ["--cohort", 12, "--partition.test-fraction", 0.2]),
                                ("ditto", ["--partition.test-fraction", 0.2,
                                                                      "--ditto.lambda", 0.1, "--evaluate-clients", 1])):
            with self.subTest(algorithm):
                words = ["--algorithm", algorithm, "--model", "logistic", "--clients", 12, "--rounds", 2, *more]
                words += [] if "--cohort" in more else ["--cohort", 6]
                text = self.plan(*words, "--plan-ranks", 3)
                path, _ = self.train(algorithm + ".h5", 0, *words)
                with h5py.File(path, "r") as file:
                    for direction in ("down", "up"):
                        predicted = int(re.search(rf"^  {direction} +(\d+) ", text, re.M)[1])
                        self.assertEqual(file["rounds"][f"bytes_{direction}"][0], predicted, text)
                os.remove(path)
        self.assertEqual(os.listdir(self.folder), before)

    # What sbatch takes for an option of a script.
    LINE = re.compile(r"#SBATCH --(job-name=\S+|nodes=1|ntasks=\d+|cpus-per-task=\d+|gpus-per-node=\d+|mem=\d+M|"
                      r"time=(\d+-)?\d\d:\d\d:00|output=\S+|open-mode=append|requeue|signal=B:USR1@\d+)")

    def test_script(self):
        """The batch script: every line is what sbatch takes, it is made like those in slurm/, and its ranks run."""
        words = ["--model", "logistic", "--clients", 30, "--cohort", 8, "--rounds", 2, "--threads", 1, "--grace", 90,
                 "--output", self.path("a job.h5")]
        script = self.script_of(self.plan(*words, "--plan-ranks", 3))
        options = [line for line in script.splitlines() if line.startswith("#")][1:]
        for line in options:
            self.assertRegex(line, f"^{self.LINE.pattern}$")
        self.assertIn("#SBATCH --signal=B:USR1@150", options)  # the grace and a minute
        with open(os.path.join(ROOT, "slurm", "one-node.sh")) as file:
            theirs = {word.split("=")[0] for word in re.findall(r"^#SBATCH (\S+)", file.read(), re.M)}
        ours = {line.split()[1].split("=")[0] for line in options}
        self.assertEqual(theirs - {"--mem-per-cpu"}, ours - {"--mem", "--cpus-per-task"})
        cuda = self.script_of(self.plan(*words, "--plan-ranks", 3, "--device", "cuda", "--group-size", 2))
        self.assertIn("#SBATCH --gpus-per-node=2\n", cuda)
        # In a job that Slurm started: the launcher gets these ranks, and fl_sim these words.
        path = self.path("job.sh")
        with open(path, "w") as file:
            file.write(script)
        launcher = self.path("mpirun")
        with open(launcher, "w") as file:
            file.write('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        os.chmod(launcher, stat.S_IRWXU)
        out = subprocess.run(
            ["bash", path], check=True, stdout=subprocess.PIPE, cwd=ROOT, universal_newlines=True,
            env={**os.environ, "PATH": self.folder + ":" + os.environ["PATH"], "SLURM_JOB_ID": "1", "SLURM_NTASKS": "3",
                 "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here", "FL_SIM_ROOT": ROOT,
                 "FL_SIM_PROGRAM": "/bin/true"}).stdout.splitlines()
        program = out.index("/bin/true")
        self.assertEqual(out[program - 4:program - 2], ["-n", "3"], out)
        self.assertEqual(out[program + 1:], [str(word) for word in self.common + words] + ["--resume", "auto"])
        if shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
            subprocess.run(["sbatch", "--test-only", path], check=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
