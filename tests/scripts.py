"""The scripts around the program: scripts/reproduce over all papers, a small set in FedScale's form under its job,
scripts/get_data where a download fails or is not needed."""
import contextlib
import csv
import gzip
import importlib.machinery
import importlib.util
import io
import os
import struct
import subprocess
import sys
import unittest
import zlib
from pathlib import Path

import h5py
import numpy as np

from whole_program import PATIENCE, ROOT, Case, columns

SCRIPTS = Path(ROOT) / "scripts"


def module(name):
    """A script of ours, to call its functions."""
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = loaded  # its dataclasses look there
    loader.exec_module(loaded)
    return loaded


def script(name, *words, **environment):
    return subprocess.run([sys.executable, "-B", SCRIPTS / name, *words], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, **environment})


def png(path, pixels):
    """[height, width] uint8 as a grey PNG."""
    height, width = pixels.shape
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", height, width, 8, 0, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Reproduce(Case):
    def test_published_values_belong_to_cells(self):
        """Every published value names a cell that a job has; every cell's band can be computed."""
        reproduce = module("reproduce")
        for path in sorted(Path(ROOT, "results", "published").glob("*.csv")):
            jobs = [reproduce.read_job(job) for job in sorted(Path(ROOT, "jobs", path.stem).glob("*.ini"))]
            cells = {(job.name, cell) for job in jobs for cell in job.cells}
            self.assertTrue(cells, path)
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                with self.subTest(path=path.name, **row):
                    self.assertIn((row["job"], row["cell"]), cells)
                    self.assertTrue(row["source"])
                    if row.get("band") != "none":
                        low, high = reproduce.band([row])
                        self.assertLess(low, float(row["value"]))
                        self.assertGreater(high, float(row["value"]))

    def test_what_counts_as_complete(self):
        """Proves that a results file is used only while it has every value that its job file and its cell set."""
        reproduce = module("reproduce")
        ini = Path(self.path("job.ini"))
        text = ("#: cell a --local.epochs 1\n#: seeds 0\ndataset = fcube  # a comment\npartitioner = natural\n"
                "model = logistic\ncohort = 4\nrounds = 2\n[mlp]\nhidden = 8\n[local]\nbatch-size = 500\nlr = 0.10\n")
        ini.write_text(text.replace("[mlp]\nhidden = 8\n", ""))
        job = reproduce.read_job(ini)
        output = Path(self.path("x.h5"))
        self.succeed("--job", ini, *job.cells["a"], "--seed", 0, "--output", output)
        complete = lambda options=job.cells["a"], seed=0: reproduce.Run(job, "a", seed, options, output).complete()
        self.assertTrue(complete())
        ini.write_text(text)  # what only another cell's model would read
        self.assertTrue(complete())
        self.assertFalse(complete(seed=1))
        self.assertFalse(complete(["--local.epochs", "2"]))
        self.assertFalse(complete(["--local.epochs", "1", "--fedprox.mu", "1"]))
        for old, new in (("lr = 0.10", "lr = 0.2"), ("rounds = 2", "rounds = 3"), ("fcube", "gaussian")):
            ini.write_text(text.replace(old, new))
            self.assertFalse(complete(), new)

    def test_verdicts(self):
        """A source's own spread counts at its own end; a band that tells nothing judges nothing; fewer seeds are said."""
        reproduce = module("reproduce")
        job = reproduce.JobFile(Path("x.ini"))  # last test_accuracy, seeds 0,1,2
        row = lambda value, std="", band="": {"value": str(value), "std": str(std), "band": band}
        verdict = lambda figures, *rows: reproduce.verdict_of(job, range(len(figures)), figures, rows)
        self.assertEqual(verdict([79, 80, 81], row(81), row(79, 1.5)), ("76.0 to 82.0", "pass"))
        self.assertEqual(verdict([82.1] * 3, row(81), row(79, 1.5)), ("76.0 to 82.0", "FAIL"))
        self.assertEqual(verdict([79.0], row(81), row(79, 1.5)), ("76.0 to 82.0", "pass, 1 of 3 seeds"))
        self.assertEqual(verdict([10.0] * 3, row(10), row(40, 26)), ("0.0 to 92.0: too wide", "-"))
        self.assertEqual(verdict([10.0] * 3, row(10, band="none")), ("-", "-"))
        self.assertEqual(verdict([np.nan] * 3, row(10)), ("9.0 to 11.0", "FAIL"))
        job.measure = ["rounds", "0.97", "test_accuracy"]
        self.assertEqual(verdict([650] * 3, row(664, band="30%")), ("464.8 to 863.2", "pass"))

    def test_only(self):
        """--only takes words from their beginning: "mnist" is not Fashion-MNIST, "mnist c2" are cells of a job."""
        def cells(*words):
            run = script("reproduce", "niid_bench", "--list", "--seeds", "0", *words)
            return [Path(line.split("--output ")[1].split()[0]).stem for line in run.stdout.splitlines()]
        self.assertTrue(all(cell.startswith("mnist-") for cell in cells("--only", "mnist")))
        self.assertEqual(cells("--only", "mnist c2"), [f"mnist-c2-{a}-0" for a in ("fedavg", "fedprox", "scaffold",
                                                                                  "fednova")])
        self.assertEqual(len(cells("--only", "fmnist_c2", "--only", "fcube")), 8)
        self.assertIn("begins with nothing-like-it", script("reproduce", "niid_bench", "--only", "nothing-like-it").stderr)


class FedScale(Case):
    def test_its_job_runs(self):
        """Proves that jobs/fedscale trains on files in FedScale's form: natural clients, and of 13 participants a
        round the three that come late do not count."""
        random = np.random.default_rng(0)
        folder = Path(self.path("set"))
        for part, clients in (("train", 20), ("test", 2)):
            lines = ["client_id,sample_path,label_name,label_id"]
            for sample in range(3 * clients):
                name = f"{part}_{sample}.png"
                png(folder / part / name, random.integers(0, 256, (28, 28), np.uint8))
                lines.append(f"f{sample % clients:04},{name},x,{sample % 3}")
            mapping = folder / "client_data_mapping" / f"{part}.csv"
            mapping.parent.mkdir(exist_ok=True)
            mapping.write_text("\n".join(lines) + "\n")
        output = self.path("x.h5")
        cell = module("reproduce").read_job(Path(ROOT, "jobs", "fedscale", "femnist.ini")).cells["shufflenet-fedyogi"]
        self.succeed("--job", os.path.join(ROOT, "jobs", "fedscale", "femnist.ini"), *cell, "--dataset",
                     f"fedscale:{folder}", "--shufflenetv2.width", 0.5, "--cohort", 13, "--rounds", 1, "--local.steps", 1,
                     "--local.batch-size", 3, "--output", output)
        status = columns(output, "clients")["status"]
        self.assertEqual(len(status), 13)
        self.assertEqual(np.count_nonzero(status != status.min()), 3, status)
        with h5py.File(output) as file:
            self.assertEqual(len(file["partition/offsets"]), 20 + 1)


class Compare(Case):
    def test_jobs_with_little_in_common(self):
        """Rows of jobs that differ in many keys stay short, and say below in which."""
        common = ["--rounds", 1, "--local.batch-size", 500, "--quiet"]
        fcube, gaussian = self.path("a.h5"), self.path("b.h5")
        self.succeed("--dataset", "fcube", "--partitioner", "natural", "--model", "logistic", "--local.lr", 0.1,
                     "--output", fcube, *common)
        self.succeed("--dataset", "gaussian", "--model", "2nn", "--algorithm", "fedprox", "--fedprox.mu", 0.5,
                     "--clients", 5, "--local.lr", 0.2, "--local.epochs", 2, "--output", gaussian, *common)
        for more in ([], ["--markdown"]):
            out = self.succeed("compare", fcube, gaussian, *more).out
            table, legend = out.split("\n\n")
            self.assertRegex(table, r"(?m)^(\| )?1 fedavg +(\| +)?0 ")
            self.assertRegex(table, r"(?m)^(\| )?2 fedprox +(\| +)?0 ")
            self.assertLess(max(map(len, table.splitlines())), 120)
            for words in ("1 fedavg:", "2 fedprox:", "dataset=fcube", "fedprox.mu=0.5", "local.lr=0.2", "cohort=4"):
                self.assertIn(words, legend)
        self.assertEqual(out.count("fedprox.mu"), 1)


class SubmitSweep(Case):
    def test_what_slurm_refuses_leaves_nothing(self):
        """Where sbatch fails there is no copy of the table, and no folder for results that never come."""
        sbatch = Path(self.path("bin"), "sbatch")
        sbatch.parent.mkdir()
        sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
        sbatch.chmod(0o755)
        folder = self.path("sweep")
        run = subprocess.run([Path(ROOT, "slurm", "submit-sweep"), Path(ROOT, "slurm", "sweep.tsv"), "--", "--job", "x"],
                             capture_output=True, text=True, timeout=PATIENCE, env={
                                 **os.environ, "PATH": f"{sbatch.parent}:{os.environ['PATH']}",
                                 "FL_SIM_SWEEP_FOLDER": folder})
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("nothing was submitted", run.stderr)
        self.assertFalse(os.path.exists(folder))


class GetData(Case):
    def test_a_download_that_fails_leaves_no_folders(self):
        """Also where the parents of the folder were not there; one that was there stays."""
        kept = Path(self.path("kept"))
        kept.mkdir()
        blocked = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}  # nobody listens
        for base in (Path(self.path("a"), "b"), kept):
            run = script("get_data", "--to", str(base), "cifar10", **blocked)
            self.assertEqual(run.returncode, 1)
            self.assertIn("copy them into", run.stderr)
        self.assertEqual(os.listdir(self.folder), ["kept"])
        self.assertEqual(os.listdir(kept), [])

    def test_what_is_there(self):
        """A .gz that somebody else compressed is kept, one that is cut off is refused."""
        get_data = module("get_data")
        name = "t10k-labels-idx1-ubyte.gz"
        get_data.SETS["mnist"] = ("mnist", "", [("http://127.0.0.1:9/" + name, "md5:" + "0" * 32, None)])
        path = Path(self.path("mnist"), name)
        path.parent.mkdir()
        path.write_bytes(gzip.compress(bytes(1000)))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            get_data.get("mnist", self.folder)
        self.assertIn("it is kept", said.getvalue())
        path.write_bytes(path.read_bytes()[:-6])
        with self.assertRaisesRegex(get_data.Problem, "remove it, and it is fetched anew"), \
                contextlib.redirect_stdout(io.StringIO()):
            get_data.get("mnist", self.folder)

    def test_names_what_jobs_need(self):
        """Every job's data set is generated, or one that get_data names."""
        names = {line.split()[0] for line in script("get_data").stdout.splitlines()}
        made = {"fcube", "synthetic"}
        also = {"libsvm:adult/a9a": "adult", "fedscale:femnist": "fedscale-femnist"}
        for path in Path(ROOT, "jobs").rglob("*.ini"):
            dataset = next(line.split("=")[1].strip() for line in path.read_text().splitlines()
                           if line.startswith("dataset"))
            self.assertIn(also.get(dataset, dataset), names | made, path)


if __name__ == "__main__":
    unittest.main(verbosity=2)
