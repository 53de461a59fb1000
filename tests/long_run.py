"""Whether long runs stay healthy: tests/long_run.py [--rounds 2000] [--cohort 1000] [--picture FILE].

Runs FedAvg, and SCAFFOLD with a state for each of 2,000 clients, on tiny models over 3 ranks, with a checkpoint every
100 rounds, and looks at each rank through /proc five times a second: resident memory, open file descriptors, files in
/dev/shm that it maps. After the first 100 rounds, memory has to stay within 2 % of what it is then, and descriptors and
segments have to be as many at the end; when a run is through, and when one of its ranks was killed, none of its
segments may be left. Prints the figures, and draws memory over rounds if matplotlib is there. A command of its own:
some minutes.
"""
import argparse
import os
import re
import signal
import statistics
import sys
import tempfile
import time

from whole_program import Run, rank_of

RANKS, SETTLED, TOLERANCE = 3, 100, 0.02
ALGORITHMS = {"fedavg": [], "scaffold": []}
COUNTS = ("descriptors", "segments")


def look(process):
    """Of a rank: MiB of resident memory, numbers of descriptors and of files in /dev/shm, and those files."""
    with open(f"/proc/{process}/status") as file:
        resident = int(re.search(r"^VmRSS:\s+(\d+)", file.read(), re.M)[1]) / 1024
    with open(f"/proc/{process}/maps") as file:
        mapped = set(re.findall(r"(/dev/shm/.*?)(?: \(deleted\))?$", file.read(), re.M))
    return {"memory": resident, "descriptors": len(os.listdir(f"/proc/{process}/fd")), "segments": len(mapped)}, mapped


def watch(run, patience, until=None):
    """Samples of each rank until the run is through, or `until` rounds are: ({rank: [(round, figures)]}, files)."""
    samples, files, ranks = {rank: [] for rank in range(RANKS)}, set(), {}
    end = time.monotonic() + patience
    while run.process.poll() is None and time.monotonic() < end:
        rounds = re.findall(r"^round +(\d+)/", run.out, re.M)
        now = int(rounds[-1]) if rounds else 0
        if until is not None and now >= until:
            break
        try:
            if len(ranks) < RANKS:
                ranks = {rank_of(process): process for process in run.ranks()}
            for rank, process in ranks.items():
                figures, mapped = look(process)
                files |= mapped
                if now > 0:
                    samples[rank].append((now, figures))
        except (OSError, TypeError):  # it ends just now
            pass
        time.sleep(0.2)
    return samples, files


def judge(samples, rank, rounds):
    """A line on one rank, and whether it is healthy. After the last round it gives back what it has."""
    settled = [(number, figures) for number, figures in samples if SETTLED <= number < rounds]
    first = statistics.median(f["memory"] for n, f in settled if n < SETTLED + 50)
    last = statistics.median(f["memory"] for n, f in settled[-50:])
    low, high = (extreme(f["memory"] for _, f in settled) for extreme in (min, max))
    good = max(high / first - 1, 1 - low / first) <= TOLERANCE
    line = (f"rank {rank}  memory {first:7.1f} MiB after {SETTLED} rounds, {low:7.1f} to {high:7.1f} then, "
            f"{last:7.1f} at the end ({100 * (last / first - 1):+.2f} %)")
    for what in COUNTS:
        usual, end = (statistics.median_low(f[what] for _, f in part) for part in (settled[:50], settled[-50:]))
        line += f"; {what} {usual}, at the end {end}, at most {max(f[what] for _, f in settled)}"
        good = good and end <= usual
    return line + ("" if good else "  <- NOT FLAT"), good


def draw(watched, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, grid = plt.subplots(1, len(watched), figsize=(9, 3.4), sharey=True, squeeze=False)
    for axes, (algorithm, samples) in zip(grid[0], watched.items()):
        for rank, line in samples.items():
            axes.plot([number for number, _ in line], [figures["memory"] for _, figures in line], linewidth=1,
                      label=f"rank {rank}" + (" (server)" if rank == 0 else ""))
        axes.set_title(algorithm, fontsize=9)
        axes.set_xlabel("round")
        axes.grid(True, alpha=0.3)
    top = max(figures["memory"] for samples in watched.values() for line in samples.values() for _, figures in line)
    grid[0][0].set_ylim(0, 1.15 * top)
    grid[0][0].set_ylabel("resident memory, MiB")
    grid[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--cohort", type=int, default=1000)
    parser.add_argument("--only", choices=list(ALGORITHMS))
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    if arguments.rounds < SETTLED + 100:
        parser.error(f"--rounds is {arguments.rounds} (must be at least {SETTLED + 100})")
    watched, healthy = {}, True
    with tempfile.TemporaryDirectory(prefix="fl_sim_long_run_") as folder:
        for algorithm, more in ALGORITHMS.items():
            if arguments.only not in (None, algorithm):
                continue
            options = ["--algorithm", algorithm, *more, "--dataset", "population", "--population.users",
                       2 * arguments.cohort, "--partitioner", "natural", "--model", "logistic", "--cohort",
                       arguments.cohort, "--rounds", arguments.rounds, "--local.batch-size", 2, "--local.lr", 0.1,
                       "--evaluate-every", 10, "--checkpoint-every", 100]
            start = time.monotonic()
            with Run([*options, "--output", os.path.join(folder, algorithm + ".h5")], RANKS) as run:
                watched[algorithm], files = watch(run, 3600)
                if run.wait(60).code != 0:
                    sys.exit(f"the run failed: {run}")
            print(f"{algorithm}: {arguments.rounds} rounds of {arguments.cohort} clients in "
                  f"{time.monotonic() - start:.0f} s", flush=True)
            for rank, samples in watched[algorithm].items():
                line, good = judge(samples, rank, arguments.rounds)
                healthy = healthy and good
                print("  " + line, flush=True)
            left = sorted(file for file in files if os.path.exists(file))
            # One more, with a rank that dies.
            with Run([*options, "--output", os.path.join(folder, algorithm + "-killed.h5")], RANKS) as run:
                _, files = watch(run, 600, until=20)
                os.kill(run.ranks()[-1], signal.SIGKILL)
                gone = run.gone(30)
            left += sorted(file for file in files if os.path.exists(file))
            healthy = healthy and gone and not left
            print(f"  left in /dev/shm: {', '.join(left) or 'nothing'}, after a rank was killed too"
                  f"{'' if gone else '; processes were left behind'}", flush=True)
    if arguments.picture:
        draw(watched, arguments.picture)
    print("healthy" if healthy else "NOT healthy")
    sys.exit(0 if healthy else 1)


if __name__ == "__main__":
    main()
