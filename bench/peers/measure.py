"""Runs every peer on every cell in turn, again and again, and writes results.json, seconds.png and the section
"Against other simulators" of bench/README.md."""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import fl_sim
import show
from cells import CELLS

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = Path(os.environ["FL_SIM_PEERS_DIR"]).resolve()
TIMEOUT = 900
MARK = "FL_SIM_PEERS_RUN"


@dataclass(frozen=True)
class Peer:
    title: str
    environment: str  # a folder of ENVIRONMENTS, or a Python of the system
    script: str
    option: str = ""
    launcher: tuple = ("PYTHON",)
    one_process: bool = False  # which may compute with more threads than one

    def python(self):
        return self.environment if "/" in self.environment else f"{ENVIRONMENTS}/{self.environment}/bin/python"

    def command(self, cell, rounds):
        launcher = [self.python() if word == "PYTHON" else word for word in self.launcher]
        return [*launcher, f"{HERE}/{self.script}.py", cell, str(rounds), *self.option.split()]


MPIRUN = ("mpirun", "--bind-to", "none", "-n", "3", "PYTHON")
TORCHRUN = ("PYTHON", "-m", "torch.distributed.run", "--nproc-per-node", "2")
PEERS = {
    "fl_sim": None,  # see fl_sim.py
    "bare": Peer("hand-written PyTorch, 1 process", "base", "bare", one_process=True),
    "bare-2": Peer("hand-written PyTorch, 2 processes", "base", "bare", "2"),
    "bare-2-debian": Peer("the same, PyTorch of Debian", "/usr/bin/python3", "bare", "2"),
    "flower": Peer("Flower, 2 Ray actors", "flower", "with_flower"),
    "pfl": Peer("pfl-research, 2 processes", "pfl", "with_pfl", launcher=TORCHRUN),
    "fedml": Peer("FedML, 1 process", "fedml", "with_fedml", "sp", one_process=True),
    "fedml-mpi": Peer("FedML on MPI, 1 + 2 ranks", "fedml", "with_fedml", "MPI", launcher=MPIRUN),
    "fedlab": Peer("FedLab, 1 process", "fedlab", "with_fedlab", one_process=True),
    "fedlab-2": Peer("FedLab, 1 + 2 processes", "fedlab", "with_fedlab", "processes"),
    "blazefl": Peer("BlazeFL, 2 threads", "blazefl", "with_blazefl"),
    "flsim": Peer("FLSim, 1 process", "flsim", "with_flsim", one_process=True),
}


class Memory(threading.Thread):
    """The largest sum of the proportional set sizes of all processes that inherited our mark."""

    def __init__(self, mark):
        super().__init__(daemon=True)
        self.mark = f"{MARK}={mark}".encode()
        self.peak, self.done = 0, threading.Event()

    def sample(self):
        total = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                        if line.startswith("Pss:"):
                            total += int(line.split()[1]) * 1024
            except OSError:  # the process has ended
                pass
        self.peak = max(self.peak, total)

    def run(self):
        pause = 0
        while not self.done.wait(pause):
            start = time.perf_counter()
            self.sample()
            pause = max(0.5, 50 * (time.perf_counter() - start))  # 2 % of one core at most


def measure(name, cell, rounds, program, threads):
    """One run of one peer: its report, or {"error": why there is none}. `threads` are a lone process's on a CNN."""
    peer = PEERS[name]
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/results.h5"
        if peer is None:
            command = fl_sim.command(program, CELLS[cell], rounds, output)
        else:
            command = peer.command(cell, rounds)
            if not Path(peer.python()).exists():
                return {"error": "not installed"}
        if not (peer and peer.one_process and CELLS[cell].model == "cnn"):
            threads = 1
        mark = uuid.uuid4().hex
        environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        memory = Memory(mark)
        memory.start()
        try:
            run = subprocess.run(
                command, env=environment, cwd=folder, timeout=TIMEOUT, text=True, capture_output=True,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {TIMEOUT} s"}
        finally:
            memory.done.set()
            memory.join()
        try:
            report = fl_sim.report(output) if peer is None else json.loads(run.stdout.strip().splitlines()[-1])
        except (IndexError, OSError, ValueError):
            said = [line for line in (run.stderr + run.stdout).splitlines() if any(map(str.isalpha, line))]
            return {"error": f"exit code {run.returncode}: {' '.join(said[-1:])}"}
        return report | {"memory": memory.peak}


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.split(": ")[1].strip() for line in file if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def summary(runs):
    """Median seconds of all rounds but each run's first, over the repeats."""
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[0]["error"]}
    rounds = [seconds for run in good for seconds in run["seconds"][1:]]
    return {
        "seconds": statistics.median(rounds),
        "accuracy": statistics.median(run["accuracy"] for run in good),
        "memory": max(run["memory"] for run in good),
        "rounds": rounds,
    }


def main():
    parser = argparse.ArgumentParser(prog="bench/peers/run", description=__doc__)
    parser.add_argument("--cells", default=",".join(CELLS), help="(%(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="(%(default)s)")
    parser.add_argument("--rounds", type=int, help="rounds of a run, the first of which does not count (by cell)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each peer on each cell (2)")
    parser.add_argument("--threads", type=int, default=2, help="of one-process peers on a CNN; 1 on a busy machine (2)")
    parser.add_argument("--fl-sim", default=f"{HERE.parents[1]}/build/fl_sim", help="the program (build/fl_sim)")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="(bench/peers/results.json)")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md", help="(bench/README.md)")
    parser.add_argument("--show", action="store_true", help="measure nothing, write table and plot from --json")
    options = parser.parse_args()
    cells, peers = options.cells.split(","), options.peers.split(",")
    if unknown := [name for name in cells + peers if name not in CELLS and name not in PEERS]:
        parser.error(f"unknown: {', '.join(unknown)}")

    if not options.show:
        results = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "repeats": options.repeats,
            "threads": options.threads,
            "rounds": {cell: options.rounds or CELLS[cell].rounds for cell in cells},
            "titles": {name: PEERS[name].title if PEERS[name] else "fl_sim, 1 + 2 ranks" for name in peers},
            "versions": {},
            "cells": {},
        }
        for cell in cells:
            runs = {name: [] for name in peers}
            for _ in range(options.repeats):
                for name in peers:
                    start = time.perf_counter()
                    program = os.path.abspath(options.fl_sim)
                    run = measure(name, cell, results["rounds"][cell], program, options.threads)
                    runs[name].append(run)
                    results["versions"].setdefault(name, {}).update(run.pop("versions", {}))
                    said = run.get("error") or " ".join(f"{seconds:.3f}" for seconds in run["seconds"])
                    print(f"{cell} {name} in {time.perf_counter() - start:.0f} s: {said}", flush=True)
            results["cells"][cell] = {name: summary(of) for name, of in runs.items()}
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    show.write(json.loads(options.json.read_text()), options.readme)


if __name__ == "__main__":
    main()
