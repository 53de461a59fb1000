"""Kills runs at random moments, over and over, and lets them go on: tests/kills.py [--kills 200] [--seed 0].

Each of fedavg, scaffold and fedadam is run undisturbed once. Then runs of them, on a random number of ranks, are ended
at random moments by kill -9 of a random rank or of mpirun, or by SIGTERM or SIGUSR1 to any of them, and started again
with --resume auto until they are through. At every death the results file has to open with plain h5py if it is there;
no process and no shared-memory segment may be left; at the end the model has to have the undisturbed run's bits.
Prints the counts. A command of its own: it takes some seconds a kill.
"""
import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time

import h5py

from whole_program import Run, checksum, write_images

ALGORITHMS = {"fedavg": [], "scaffold": [], "fedadam": ["--server.lr", 0.01]}
OPTIONS = ["--dataset", "fashion-mnist", "--partitioner", "dirichlet", "--dirichlet.alpha", 0.5, "--clients", 23,
           "--cohort", 7, "--rounds", 30, "--model", "2nn", "--local.batch-size", 10, "--local.lr", 0.05, "--quiet"]


def segments():
    return set(os.listdir("/dev/shm"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    counts, problems = collections.Counter(), []
    with tempfile.TemporaryDirectory(prefix="fl_sim_kills_") as folder:
        write_images(folder, train=1500)
        options = OPTIONS + ["--data-dir", folder]
        expected = {}
        for algorithm, more in ALGORITHMS.items():
            path = os.path.join(folder, algorithm + ".h5")
            with Run(["--algorithm", algorithm, *more, *options, "--output", path]) as run:
                if run.wait().code != 0:
                    sys.exit(f"the undisturbed run failed: {run}")
            expected[algorithm] = checksum(path)
        before = segments()
        kills = number = 0
        while kills < arguments.kills:
            algorithm = chance.choice(list(ALGORITHMS))
            path = os.path.join(folder, f"run-{number}.h5")
            number += 1
            while True:
                ranks = chance.choice([1, 2, 3, 4])
                words = ["--algorithm", algorithm, *ALGORITHMS[algorithm], *options, "--output", path, "--resume", "auto",
                         "--checkpoint-every", chance.choice([1, 2, 5]), "--grace", chance.choice([0, 60])]
                run = Run(words, ranks, FL_SIM_TEST="delay=30")
                if kills < arguments.kills:
                    time.sleep(chance.uniform(0.3, 4))
                    what = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
                    who = chance.choice(["mpirun", "rank"])
                    victims = [run.process.pid] if who == "mpirun" else run.ranks()
                    if victims and run.process.poll() is None:
                        try:
                            os.kill(chance.choice(victims), what)
                            kills += 1
                            counts[f"{signal.Signals(what).name} to {who}"] += 1
                        except ProcessLookupError:
                            pass
                code = run.wait().code
                counts[f"exit {code}"] += 1
                if not run.gone(20):
                    problems.append(f"processes are left: {run}")
                run.end()
                left = segments() - before
                if left:
                    problems.append(f"segments are left: {left} {run}")
                    before |= left
                if os.path.exists(path):
                    counts["files opened"] += 1
                    try:
                        with h5py.File(path) as file:
                            len(file["rounds/round"])
                    except Exception as error:  # whatever it is, it counts
                        problems.append(f"{path} does not open: {error}")
                if "error" in run.err.lower() and code == 1 and "fl_sim:" in run.err and "rank" not in run.err:
                    problems.append(f"it failed by itself: {run}")
                if code == 0:
                    break
                counts["resumed"] += 1
                if counts["resumed"] > 20 * arguments.kills:
                    sys.exit(f"it does not get on: {run}")
            if checksum(path) == expected[algorithm]:
                counts["same bits"] += 1
            else:
                problems.append(f"other bits: {algorithm}")
            if os.path.exists(path[:-3] + ".checkpoint"):
                problems.append(f"a checkpoint is left by {path}")
    print(f"{kills} kills of {number} runs")
    for what, count in sorted(counts.items()):
        print(f"  {what:24} {count}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
