"""What the whole-program tests share: running fl_sim, with and without mpirun, and small data to run it on.

The program is $FL_SIM, else build/fl_sim; what starts its ranks is $FL_SIM_MPIRUN, else mpirun. Every run has a mark
in its environment, by which its processes can be found wherever mpirun put them.
"""
import gzip
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

import h5py
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(os.environ.get("FL_SIM", os.path.join(ROOT, "build", "fl_sim")))
MPIRUN = os.environ.get("FL_SIM_MPIRUN") or "mpirun"
PATIENCE = 300  # seconds for a run that takes one or two, and for what has to happen some time: machines are shared
FULL = os.environ.get("FL_SIM_FULL", "") not in ("", "0")


def _environment():
    """This process's environment after scripts/environment."""
    script = f'set -e; source "{ROOT}/scripts/environment"; env -0'
    out = subprocess.run(["bash", "-c", script], check=True, stdout=subprocess.PIPE).stdout.decode()
    environment = dict(item.split("=", 1) for item in out.split("\0") if "=" in item)
    for disturbing in ("FL_SIM_TEST", "FL_SIM_DATA"):
        environment.pop(disturbing, None)
    return environment


ENVIRONMENT = _environment()
ISOLATED = "FL_SIM_TEST_ISOLATED"


def isolate(*kinds, trial):
    """Runs this program anew in namespaces of its own ("net", "mount", "ipc"), which vanish with their last process: as
    root, or as a user who may make them. Returns None once inside, and otherwise why it cannot be done. trial: a line of
    shell that has to work there."""
    if ISOLATED in os.environ:
        return None
    words = ["unshare", *(f"--{kind}" for kind in kinds), "--propagation", "private"]
    if os.geteuid() != 0:
        words += ["--user", "--map-root-user"]
    try:
        tried = subprocess.run([*words, "sh", "-c", trial], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return "unshare is not installed (apt install util-linux)"
    if tried.returncode != 0:
        return f"this user may not have namespaces, or something in them is missing ({tried.stdout.strip()})"
    os.environ[ISOLATED] = "1"
    os.execvp(words[0], [*words, sys.executable, "-B", *sys.argv])


def _kernels():
    """What the program would start itself a second time for, where its OpenBLAS does not know the processor: half a
    second for each of a thousand starts."""
    out = subprocess.run([PROGRAM, "--version"], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, check=False).stdout.decode()
    found = re.search(r"BLAS OpenBLAS (\w+)", out)
    return {"OPENBLAS_CORETYPE": found.group(1)} if found else {}


ENVIRONMENT.update(_kernels())


def command(options, ranks, launcher=(), before=()):
    """ranks 0: without mpirun. launcher: further options of mpirun. before: words before it."""
    launcher = [*before, MPIRUN, "-n", str(ranks), *launcher] if ranks else []
    return launcher + [PROGRAM] + [str(option) for option in options]


def is_open_mpi(version=""):
    """Whether the launcher is Open MPI's, of this version's first digits."""
    text = subprocess.run([MPIRUN, "--version"], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False).stdout
    return f"(Open MPI) {version}" in text


def rank_of(process):
    """A rank's number, as its launcher said it: Open MPI, MPICH."""
    with open(f"/proc/{process}/environ", "rb") as file:
        return int(re.search(rb"\0(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)\0", b"\0" + file.read())[1])


class Run:
    """A started fl_sim. Its streams go to files, so that a process left behind cannot hold us up."""

    def __init__(self, options, ranks=0, prepare=None, launcher=(), before=(), **environment):
        """prepare: called in the new process before it becomes the program. launcher: further options of mpirun. before:
        words before it."""
        self.mark = uuid.uuid4().hex
        self.words = command(options, ranks, launcher, before)
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._start = time.monotonic()
        self.process = subprocess.Popen(
            self.words, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True,
            preexec_fn=prepare, env={**ENVIRONMENT, **environment, "FL_SIM_TEST_MARK": self.mark})

    def wait(self, patience=PATIENCE):
        try:
            self.code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still running after {patience} s: {self}") from None
        self.seconds = time.monotonic() - self._start
        return self

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.end()
        self._out.close()
        self._err.close()

    @property
    def out(self):
        return self._text(self._out)

    @property
    def err(self):
        return self._text(self._err)

    @staticmethod
    def _text(file):
        """All of it; the place where the processes write stays where it is. Open MPI 5 ends its own texts with a zero."""
        data = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
        return data.decode(errors="replace").replace("\r\n", "\n").replace("\0", "")

    def processes(self):
        """Ids of its living processes: mpirun, its helpers and the ranks."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    marked = self.mark.encode() in file.read()
                with open(f"/proc/{name}/stat") as file:
                    zombie = file.read().rsplit(")", 1)[1].split()[0] == "Z"
            except OSError:  # it ended meanwhile, or is another user's
                continue
            if marked and not zombie:
                found.append(int(name))
        return found

    def ranks(self):
        """Ids of the processes that are fl_sim itself."""
        found = []
        for process in self.processes():
            try:
                if os.path.samefile(f"/proc/{process}/exe", PROGRAM):
                    found.append(process)
            except OSError:
                continue
        return found

    def gone(self, patience=60):
        """Whether all its processes end within so many seconds."""
        end = time.monotonic() + patience
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def end(self):
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def __str__(self):
        return f"{' '.join(self.words)}\n--- stdout\n{self.out}--- stderr\n{self.err}"


# Depend on the number of ranks, their places and the time.
NOT_COMPARED = {"rounds": {"seconds", "idle_share", "bytes_state"}, "clients": {"rank", "seconds"},
                "evaluations": {"rank", "seconds"}}


class Case(unittest.TestCase):
    """Gives every test a temporary folder; `self.path("x.h5")` is in it."""

    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, *options, ranks=0, prepare=None, launcher=(), before=(), **environment):
        run = Run(options, ranks, prepare, launcher, before, **environment)
        self.addCleanup(run.__exit__)
        return run

    @classmethod
    def write_job(cls, train, rounds, clients=23, cohort=7, **changes):
        """For a setUpClass: `cls.job` is the file of a job on so many small images, with further keys (_ is -)."""
        cls._data = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(cls._data.cleanup)
        write_images(cls._data.name, train=train)
        cls.job = os.path.join(cls._data.name, "job.ini")
        values = {"dataset": "fashion-mnist", "data-dir": cls._data.name, "partitioner": "dirichlet", "dirichlet.alpha": 0.5,
                  "clients": clients, "cohort": cohort, "rounds": rounds, "local.batch-size": 10, "local.lr": 0.05}
        with open(cls.job, "w") as file:
            for key, value in {**values, **changes}.items():
                print(f"{key.replace('_', '-')} = {value}", file=file)

    def hold(self, round_number):
        """For FL_SIM_TEST: a run with it waits in that round until release(), or a signal that asks it to stop. So a
        test is never too late for a run that it means to meet in the middle. What a round came to is shown at the latest
        when two others wait for their evaluation: who waits for that holds the run three rounds later.
        """
        if not getattr(self, "_held", None):
            handle, self._held = tempfile.mkstemp(prefix="fl_sim_hold_")
            os.close(handle)
            self.addCleanup(self.release)
        return f"hold={round_number}:{self._held}"

    def release(self):
        if self._held:
            os.remove(self._held)
        self._held = None

    def reach(self, run, rounds):
        """Waits until the run has shown so many rounds."""
        end = time.monotonic() + PATIENCE
        while len(re.findall(r"^round ", run.out, re.M)) < rounds:
            self.assertIsNone(run.process.poll(), str(run))
            self.assertLess(time.monotonic(), end, str(run))
            time.sleep(0.02)

    def succeed(self, *options, ranks=0, patience=PATIENCE, **environment):
        run = self.start(*options, ranks=ranks, **environment).wait(patience)
        self.assertEqual(run.code, 0, str(run))
        return run

    def assert_same(self, expected, actual, what):
        """Two results files: the same bits in the model and in all that is measured but times and places."""
        for table, left_out in NOT_COMPARED.items():
            with h5py.File(expected, "r") as left, h5py.File(actual, "r") as right:
                self.assertEqual(table in left, table in right, what)
                if table not in left:
                    continue
            wanted, found = columns(expected, table), columns(actual, table)
            self.assertEqual(set(wanted), set(found))
            for name in sorted(set(wanted) - left_out):
                self.assertEqual(wanted[name].tobytes(), found[name].tobytes(),
                                 f"/{table}/{name} differs: {what}\n{wanted[name]}\n{found[name]}")
        with h5py.File(expected, "r") as left, h5py.File(actual, "r") as right:
            self.assertEqual(left["partition"].attrs["checksum"], right["partition"].attrs["checksum"], what)
            self.assertEqual(set(left["model"]), set(right["model"]))
            for name in left["model"]:
                self.assertEqual(left["model"][name][()].tobytes(), right["model"][name][()].tobytes(),
                                 f"/model/{name} differs: {what}")
        self.assertEqual(checksum(expected), checksum(actual), what)

    # What nobody should see: a message twice, or the noise of a program that fell over.
    NOISE = re.compile(r"terminate called|Traceback|HDF5-DIAG|Segmentation|received signal|what\(\)|Exception raised|"
                       r"frame #|core dumped|Assertion|c10::|std::|torch/csrc", re.I)

    def fail_with(self, words, *options, ranks=0, patience=PATIENCE, **environment):
        """Runs it; it has to fail with one message that has all these words, and to leave nothing behind."""
        run = self.start(*options, ranks=ranks, **environment).wait(patience)
        self.assertGreater(run.code, 0, f"it did not fail by itself: {run}")
        self.assert_one_message(run, words)
        self.assertTrue(run.gone(), f"processes are left behind: {run}")
        return run

    def assert_one_message(self, run, words):
        text = run.out + run.err
        messages = re.findall(r"^fl_sim: (?!warning).*(?:\n  .*)*", run.err, re.M)
        self.assertEqual(len(messages), 1, f"{len(messages)} messages instead of one: {run}")
        for word in words:
            self.assertIn(word, messages[0], str(run))
        self.assertEqual(text.count(messages[0]), 1, f"printed twice: {run}")
        self.assertNotRegex(text, self.NOISE)


def columns(path, table):
    """{name: array} of one of a results file's tables."""
    with h5py.File(path, "r") as file:
        return {name: file[table][name][()] for name in file[table]}


def checksum(path):
    with h5py.File(path, "r") as file:
        return file["model"].attrs["checksum"]


def write_idx(path, array):
    """An IDX file of bytes; gzipped if its name says so."""
    array = np.asarray(array, np.uint8)
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    with (gzip.open if path.endswith(".gz") else open)(path, "wb") as file:
        file.write(data)


def write_images(folder, train=2000, test=200, classes=10):
    """A small stand-in for Fashion-MNIST: each class a pattern of its own under noise. Returns the folder."""
    random = np.random.default_rng(1)
    patterns = random.integers(0, 2, (classes, 28, 28)) * 120
    os.makedirs(folder, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = random.permutation(np.arange(count) % classes)
        images = patterns[labels] + random.integers(0, 136, (count, 28, 28))
        write_idx(os.path.join(folder, f"{part}-images-idx3-ubyte"), images)
        write_idx(os.path.join(folder, f"{part}-labels-idx1-ubyte"), labels)
    return folder
