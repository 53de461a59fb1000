#!/usr/bin/env python3
"""From bench_schedule's CSV and table to bench/README.md: bench/plot_schedule.py CSV [TABLE]."""
import csv
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import section

POLICIES = {"random": "random", "queue": "queue", "steps": "longest first, by steps", "learnt": "longest first, learnt"}


def main(path, table=None):
    with open(path) as file:
        rows = list(csv.DictReader(file))
    laws = list(dict.fromkeys(row["law"] for row in rows))
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), sharex=True)
    for line, law in zip(grid, laws):
        for axes, speeds in zip(line, ("equal", "mixed")):
            chosen = [row for row in rows if row["law"] == law and row["speeds"] == speeds and row["hosts"] == "256"]
            for policy, name in POLICIES.items():
                points = [row for row in chosen if row["policy"] == policy]
                axes.plot([int(row["clients"]) for row in points], [float(row["ratio"]) for row in points], "o-", label=name)
            axes.set_xscale("log")
            axes.set_title(f"samples {law}, 256 hosts" + (", every fourth half as fast" if speeds == "mixed" else ""),
                           fontsize=9)
            axes.grid(True, alpha=0.3)
        line[0].set_ylabel("end of the last host / lower bound")
    for axes in grid[1]:
        axes.set_xlabel("cohort")
    grid[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedule.png"), dpi=110)
    if table:
        with open(table) as file:
            section.replace_table("schedule", "".join(line for line in file if line.startswith("|")).rstrip())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: plot_schedule.py CSV [TABLE]")
    main(*sys.argv[1:])
