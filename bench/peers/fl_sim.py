"""fl_sim on a cell: the command, and what its results file says afterwards."""

import os

import h5py


def command(program, cell, rounds, output):
    job = {
        "dataset": "fashion-mnist",
        "model": cell.model,
        "clients": cell.clients,
        "cohort": cell.cohort,
        "rounds": rounds,
        "local.batch-size": cell.batch,
        "local.lr": cell.lr,
        "local.momentum": cell.momentum,
        "evaluate-every": 0,
        "output": output,
        "quiet": "true",
    }
    options = [word for key, value in job.items() for word in (f"--{key}", str(value))]
    return ["mpirun", "--bind-to", "none", "-n", "3", program, *options]


def report(output):
    with h5py.File(output) as file:
        provenance = file["provenance"].attrs
        os.remove(output)
        return {
            "seconds": file["rounds/seconds"][()].tolist(),
            "accuracy": float(file["rounds/test_accuracy"][-1]),
            "versions": {"fl_sim": provenance["fl_sim"], "libtorch": provenance["libtorch"]},
        }
