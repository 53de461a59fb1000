"""Kills runs at random moments, over and over, and lets them go on: tests/kills.py [--kills 200] [--seed 0].

Each of fedavg, scaffold and fedadam is run undisturbed once. Then runs of them, on a random number of ranks, are ended
at random moments by kill -9 of a random rank, of mpirun or of all at once, or by SIGTERM or SIGUSR1 to any of them, and
started again with --resume auto until they are through. At every death the results file has to open with plain h5py if
it is there, and no process may be left; of shared memory and mpirun's session folders nothing may be left after the
next start at the latest; at the end the model has to have the undisturbed run's bits. Prints the counts. A command of
its own: it takes some seconds a kill.

Where namespaces can be made it has a /dev/shm of its own, so that other programs' files there do not count.
"""
import argparse
import collections
import glob
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import h5py

from whole_program import Run, checksum, isolate, write_images

ALGORITHMS = {"fedavg": [], "scaffold": [], "fedadam": ["--server.lr", 0.01]}
OPTIONS = ["--dataset", "fashion-mnist", "--partitioner", "dirichlet", "--dirichlet.alpha", 0.5, "--clients", 23,
           "--cohort", 7, "--rounds", 30, "--model", "2nn", "--local.batch-size", 10, "--local.lr", 0.05, "--quiet"]


class Problems(list):
    """Said as soon as they are found."""

    def append(self, problem):
        super().append(problem)
        print(f"PROBLEM: {problem}", flush=True)


def holder(path):
    """Who has, or had at its death, the results file to itself; empty: nobody."""
    try:
        with open(path + ".lock") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def left_behind(sessions):
    """What runs have left in memory, and mpirun's folders that ranks have marked as theirs."""
    marked = [place for pattern in (("ompi.*", "*", "fl_sim"), ("prte*", "fl_sim"))
              for place in glob.glob(os.path.join(sessions, *pattern))]
    return {os.path.join("/dev/shm", name) for name in os.listdir("/dev/shm")} | set(map(os.path.dirname, marked))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    counts, problems = collections.Counter(), Problems()
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
        sessions = os.path.join(folder, "tmp")
        os.mkdir(sessions)
        older = left_behind(sessions)  # others'
        before = set()
        kills = number = 0
        while kills < arguments.kills:
            algorithm = chance.choice(list(ALGORITHMS))
            path = os.path.join(folder, f"run-{number}.h5")
            number += 1
            spared = kills + chance.randint(1, 8)  # it may end after so many, so that many ends are seen
            while True:
                ranks = chance.choice([1, 2, 3, 4])
                words = ["--algorithm", algorithm, *ALGORITHMS[algorithm], *options, "--output", path, "--resume", "auto",
                         "--checkpoint-every", chance.choice([1, 2, 5]), "--grace", chance.choice([0, 60])]
                former = holder(path)
                run = Run(words, ranks, FL_SIM_TEST="delay=60", TMPDIR=sessions)
                if kills < min(spared, arguments.kills):
                    if chance.random() < 0.8:  # in the middle of its rounds; else while it starts
                        while holder(path) in ("", former) and run.process.poll() is None:
                            time.sleep(0.02)
                        time.sleep(chance.uniform(0, 1.5))
                    else:
                        time.sleep(chance.uniform(0.1, 3))
                    what = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
                    who = chance.choice(["mpirun", "rank"] if what != signal.SIGKILL else ["mpirun", "rank", "all"])
                    victims = {"mpirun": [run.process.pid], "rank": run.ranks(), "all": run.processes()}[who]
                    if victims and run.process.poll() is None:
                        try:
                            for victim in victims if who == "all" else [chance.choice(victims)]:
                                os.kill(victim, what)
                        except ProcessLookupError:
                            pass
                        else:
                            kills += 1
                            counts[f"{signal.Signals(what).name} to {who}"] += 1
                code = run.wait().code
                counts[f"exit {code}"] += 1
                if not run.gone(20):
                    problems.append(f"processes are left: {run}")
                run.end()
                left = left_behind(sessions) - older
                if left and code in (0, 75):  # it came so far as to tidy up after others and itself
                    problems.append(f"left behind: {left} {run}")
                    older |= left
                counts["left until the next start"] += len(left - before - older)
                before = left
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
            print(f"{kills} kills of {number} runs so far: {dict(counts)}", file=sys.stderr)
            for what in (path[:-3] + ".checkpoint", path + ".lock"):
                if os.path.exists(what):
                    problems.append(f"{what} is left")
    print(f"{kills} kills of {number} runs")
    for what, count in sorted(counts.items()):
        print(f"  {what:28} {count}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    mount = ["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if isolate("mount", trial=" ".join(mount)) is None:
        subprocess.run(mount, check=True)
    main()
