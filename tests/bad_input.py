"""What can be wrong with a job, its files and its processes: one message that helps, a failing exit status, nothing
overwritten, nobody left behind. FL_SIM_FULL=1 runs every bad job on three ranks too, not only some."""
import gzip
import os
import resource
import signal
import tempfile
import unittest

import h5py
import numpy as np

from whole_program import FULL, Case, checksum, columns, rank_of, write_idx, write_images

# case: what is given beside or instead of BASE (None: left out), and words of the message
BASE = {"dataset": "fashion-mnist", "model": "2nn", "clients": 10, "cohort": 3, "rounds": 2, "local.batch-size": 10,
        "local.lr": 0.05}

NAMES = {
    "key": ({"locl.lr": 1}, ["unknown key 'locl.lr'", "did you mean 'local.lr'"]),
    "short key": ({"epochs": 1}, ["unknown key 'epochs'", "did you mean 'local.epochs'"]),
    "strange key": ({"zzzzzzzzzzzz": 1}, ["unknown key 'zzzzzzzzzzzz'", "--help"]),
    "abbreviated key": ({"round": 2, "rounds": None}, ["unknown key 'round'", "did you mean 'rounds'"]),
    "algorithm": ({"algorithm": "fedavgg"}, ["no algorithm 'fedavgg'", "did you mean 'fedavg'", "--list algorithms"]),
    "model": ({"model": "lennet"}, ["no model 'lennet'", "did you mean 'lenet'"]),
    "dataset": ({"dataset": "fashon-mnist"}, ["no dataset 'fashon-mnist'", "did you mean 'fashion-mnist'"]),
    "partitioner": ({"partitioner": "dirichelt"}, ["no partitioner 'dirichelt'", "did you mean 'dirichlet'"]),
    "sampler": ({"sampler": "unifrom"}, ["no sampler 'unifrom'", "did you mean 'uniform'"]),
    "choice": ({"sum": "double"}, ["sum is 'double'", "exact, float"]),
    "argument": ({"model": "2nn:wide"}, ["model is 2nn:wide", "takes nothing behind a colon"]),
    "idle plug-in": ({"fedprox.mu": 1}, ["fedprox.mu", "algorithm is fedavg", "choose algorithm fedprox"]),
    "idle option": ({"server.beta1": 0.5}, ["server.beta1", "server.optimizer is sgd", "adam"]),
    "no default": ({"algorithm": "fedprox"}, ["the job does not say:", "fedprox.mu"]),
    "nothing given": (dict.fromkeys(BASE), ["the job does not say:", "dataset", "model", "local.lr"]),
}

VALUES = {
    "cohort": ({"cohort": 11}, ["cohort is 11", "1 to 10, the number of clients"]),
    "no cohort": ({"cohort": 0}, ["cohort is 0", "at least 1"]),
    "clients": ({"clients": 0}, ["clients is '0'", "at least 1"]),
    "clients' word": ({"clients": "many"}, ["clients is 'many'", "auto or a whole number"]),
    "rounds": ({"rounds": 0}, ["rounds is 0", "at least 1"]),
    "half a round": ({"rounds": 1.5}, ["rounds is '1.5'", "whole number"]),
    "huge number": ({"rounds": "99999999999999999999"}, ["rounds is '99999999999999999999'", "whole number"]),
    "seed": ({"seed": -1}, ["seed is -1", "at least 0"]),
    "batch": ({"local.batch-size": 0}, ["local.batch-size is 0", "at least 1"]),
    "rate": ({"local.lr": -0.1}, ["local.lr is -0.1", "more than 0"]),
    "rate 0": ({"local.lr": 0}, ["local.lr is 0", "more than 0"]),
    "rate inf": ({"local.lr": "inf"}, ["local.lr is inf", "more than 0"]),
    "rate nan": ({"local.lr": "nan"}, ["local.lr is nan", "more than 0"]),
    "rate text": ({"local.lr": "fast"}, ["local.lr is 'fast'", "number"]),
    "rate with rest": ({"local.lr": "0.1x"}, ["local.lr is '0.1x'", "number"]),
    "empty": ({"local.lr": ""}, ["local.lr"]),
    "server rate": ({"server.lr": -1}, ["server.lr is -1", "more than 0"]),
    "decay": ({"local.lr-decay": 1.1}, ["local.lr-decay is 1.1", "at most 1"]),
    "momentum": ({"local.momentum": 1}, ["local.momentum is 1", "0 to 1, exclusive"]),
    "clip": ({"local.clip-norm": -1}, ["local.clip-norm is -1", "at least 0"]),
    "mu": ({"algorithm": "fedprox", "fedprox.mu": -1}, ["fedprox.mu is -1", "at least 0"]),
    "beta": ({"algorithm": "fedadam", "server.beta1": 1}, ["server.beta1 is 1", "0 to 1, exclusive"]),
    "tau": ({"algorithm": "fedadam", "server.tau": 0}, ["server.tau is 0", "more than 0"]),
    "target": ({"target-accuracy": 2}, ["target-accuracy is 2", "0 to 1"]),
    "evaluate-every": ({"evaluate-every": -1}, ["evaluate-every is -1", "at least 0"]),
    "threads": ({"threads": 0}, ["threads is 0", "1 to 4096"]),
    "precision": ({"precision": "fp16"}, ["precision is 'fp16'", "float32, tf32, bf16"]),
    "precision of a GPU": ({"precision": "tf32", "device": "cpu"}, ["precision is tf32", "device is cpu"]),
    "group size": ({"group-size": 0}, ["group-size is '0'", "at least 1"]),
    "flag": ({"local.nesterov": "perhaps"}, ["local.nesterov is 'perhaps'", "true or false"]),
    "server rule": ({"algorithm": "fedadam", "server.optimizer": "sgd"}, ["server.optimizer is sgd", "fedadam is adam"]),
    "gpu-comm": ({"gpu-comm": "direct", "device": "cpu"}, ["gpu-comm is direct", "CPU", "choose auto or host"]),
}

PARTITIONS = {
    "alpha 0": ({"partitioner": "dirichlet", "dirichlet.alpha": 0}, ["dirichlet.alpha is 0", "more than 0"]),
    "alpha": ({"partitioner": "dirichlet", "dirichlet.alpha": 0.001, "dirichlet.balanced": "false", "clients": 60,
               "partition.retries": 20},
              ["clients would hold fewer than 10 samples after 20 draws", "alpha=0.001", "lower"]),
    "too many clients": ({"partitioner": "dirichlet", "dirichlet.alpha": 1, "clients": 61},
                         ["dirichlet: 61 clients cannot hold 10 samples each, there are 600", "lower"]),
    "quantities": ({"partitioner": "quantity-dirichlet", "quantity-dirichlet.beta": 0.01, "clients": 50,
                    "partition.retries": 20}, ["quantity-dirichlet", "after 20 draws", "beta=0.01", "lower"]),
    "labels": ({"partitioner": "label-count", "label-count.k": 11}, ["label-count.k is 11", "1 to 10"]),
    "shards": ({"partitioner": "shards", "shards.per-client": 61},
               ["shards", "10 clients with 61 shards each", "(600)", "lower --shards.per-client"]),
    "iid": ({"clients": 601}, ["601", "600"]),
    "nobody's": ({"partitioner": "natural"}, ["natural", "does not say who owns", "choose another partitioner"]),
    "natural number": ({"dataset": "fcube", "partitioner": "natural", "clients": 5}, ["clients is 5", "must be 4"]),
}

MODELS = {
    "images": ({"dataset": "fcube", "model": "lenet"}, ["model lenet needs images", "[3]"]),
    "cnn": ({"dataset": "fcube", "model": "cnn"}, ["model cnn needs images", "[3]"]),
    "no file named": ({"model": "torchscript"}, ["torchscript needs a file", "torchscript:net.pt"]),
    "no such file": ({"model": "torchscript:/nowhere/net.pt"}, ["/nowhere/net.pt", "TorchScript"]),
    "no TorchScript": ({"model": "torchscript:{garbage}"}, ["{garbage}", "torch.jit.script"]),
    "a folder": ({"model": "torchscript:{folder}"}, ["{folder}", "torch.jit.script"]),
}

# Without mpirun all are run; these on three ranks as well, one of each kind of mistake and of each place that finds it.
ON_THREE_RANKS = {"key", "no default", "cohort", "rate", "gpu-comm", "alpha", "nobody's", "images", "no TorchScript",
                  "garbage"}


class BadInput(Case):
    @classmethod
    def setUpClass(cls):
        cls._data = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(cls._data.cleanup)
        cls.data = write_images(os.path.join(cls._data.name, "data"), train=600, test=100)

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("out"))
        self.precious = self.path("out/precious.h5")
        with open(self.precious, "wb") as file:
            file.write(b"years of work")
        os.utime(self.precious, (1, 1))
        self.write("garbage", b"\x00\x01garbage" * 100)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def options(self, given):
        """BASE with what is given, as words of a command line."""
        job = {**BASE, "output": self.precious, "overwrite": "true", **given}
        if job["dataset"] == "fashion-mnist":
            job.setdefault("data-dir", self.data)
        return [word for key, value in job.items() if value is not None for word in (f"--{key}", self.filled(value))]

    def filled(self, text):
        return str(text).replace("{garbage}", self.path("garbage")).replace("{folder}", self.folder)

    def refuse(self, given, words, ranks=0, **environment):
        run = self.fail_with([self.filled(word) for word in words], *self.options(given), ranks=ranks, **environment)
        self.assertEqual(run.out.strip(), "", f"a job that cannot run starts with words: {run}")
        self.assert_untouched()
        return run

    def assert_untouched(self):
        self.assertEqual(os.listdir(self.path("out")), ["precious.h5"], "files are left behind")
        self.assertEqual(os.stat(self.precious).st_mtime, 1, "the old results were written to")
        with open(self.precious, "rb") as file:
            self.assertEqual(file.read(), b"years of work")

    def refuse_all(self, cases):
        for name, (given, words) in cases.items():
            for ranks in [0, 3] if FULL or name in ON_THREE_RANKS else [0]:
                with self.subTest(name, ranks=ranks):
                    self.refuse(given, words, ranks)

    def test_names(self):
        self.refuse_all(NAMES)

    def test_values(self):
        self.refuse_all(VALUES)

    def test_partitions(self):
        self.refuse_all(PARTITIONS)

    def test_models(self):
        self.refuse_all(MODELS)

    def test_words_without_keys(self):
        for words, expected in (
            (["stray"], ["unexpected argument 'stray'", "--key value"]),
            (["--rounds"], ["rounds", "--help"]),
            (["-r", 3], ["-r"]),
        ):
            with self.subTest(words):
                self.fail_with(expected, *self.options({}), *words)
                self.assert_untouched()

    def test_no_gpu(self):
        run = self.start(*self.options({"device": "cuda", "output": self.path("x.h5")})).wait()
        if run.code == 0:
            self.skipTest("this machine has a GPU")
        for ranks in (0, 3):
            self.refuse({"device": "cuda"}, ["device is cuda", "no CUDA device", "--device cpu"], ranks)

    # ------------------------------------------------------------------------------------------------ data files

    def test_data_files(self):
        def replaced(name, change):
            """A copy of the data with one file changed; None: removed."""
            folder = tempfile.mkdtemp(dir=self.folder)
            for file in os.listdir(self.data):
                with open(os.path.join(self.data, file), "rb") as source:
                    data = source.read()
                data = change(data) if file == name else data
                if data is not None:
                    with open(os.path.join(folder, file), "wb") as target:
                        target.write(data)
            return folder

        def contents(name):
            with open(os.path.join(self.data, name), "rb") as file:
                return file.read()

        images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
        test_images = "t10k-images-idx3-ubyte"
        folder = self.path("idx")
        os.mkdir(folder)

        def idx(array):
            write_idx(os.path.join(folder, "x"), array)
            with open(os.path.join(folder, "x"), "rb") as file:
                return file.read()

        none = self.path("none")
        os.mkdir(none)
        cases = {
            "nothing there": (none, ["train-images-idx3-ubyte[.gz] was not found", none]),
            "no folder": ("/nowhere", ["was not found", "/nowhere"]),
            "one missing": (replaced(labels, lambda _: None), [labels, "missing"]),
            "test missing": (replaced(test_images, lambda _: None), [test_images, "missing"]),
            "truncated": (replaced(images, lambda data: data[:-1000]), [images, "fetch the file again"]),
            "too long": (replaced(images, lambda data: data + b"more"), [images, "fetch the file again"]),
            "empty": (replaced(images, lambda _: b""), [images, "is empty"]),
            "header only": (replaced(images, lambda data: data[:9]), [images, "fetch the file again"]),
            "garbage": (replaced(images, lambda _: b"<html>404 not found</html>"), [images, "not an IDX file"]),
            "huge claim": (replaced(images, lambda data: data[:4] + b"\x7f\xff\xff\xff" * 3 + data[16:]), [images]),
            "gzip truncated": (replaced(images, lambda data: gzip.compress(data)[:-2000]), [images, "gzip"]),
            "gzip damaged": (replaced(images, lambda data: gzip.compress(data)[:500] + b"x" * 5000), [images, "gzip"]),
            "swapped": (replaced(images, lambda _: contents(labels)), [images]),
            "other number": (replaced(labels, lambda _: contents("t10k-labels-idx1-ubyte")), [labels, "600", "100"]),
            "label 10": (replaced(labels, lambda data: data[:-1] + b"\x0a"), [labels, "10"]),
            "other size": (replaced(images, lambda _: idx(np.zeros((600, 20, 20)))), [images, "20 x 20", "28 x 28"]),
            "no pictures": (replaced(images, lambda _: idx(np.zeros((0, 28, 28)))), ["0"]),
        }
        for name, (data, words) in cases.items():
            for ranks in [0, 3] if FULL or name in ON_THREE_RANKS else [0]:
                with self.subTest(name, ranks=ranks):
                    self.refuse({"data-dir": data}, words, ranks)

    # ------------------------------------------------------------------------------------------------ job files

    def test_job_files(self):
        with h5py.File(self.path("no_job.h5"), "w") as file:
            file["x"] = 1
        with h5py.File(self.path("other_job.h5"), "w") as file:
            file["job/text"] = 7
        good = self.path("good.h5")
        self.succeed(*self.options({"output": good, "quiet": "true", "rounds": 1}))
        with open(good, "rb") as file:
            whole = file.read()
        self.write("truncated.h5", whole[:len(whole) // 2])
        self.write("head.h5", whole[:8])
        cases = {
            "missing": (self.path("missing.ini"), ["cannot read the job file", "missing.ini"]),
            "a folder": (self.folder, ["cannot read the job file", self.folder]),
            "garbage": (self.path("garbage"), [self.path("garbage")]),
            "an image": (os.path.join(self.data, "train-images-idx3-ubyte"), ["train-images-idx3-ubyte"]),
            "unknown key": (self.write("key.ini", "[local]\nlearning-rate = 1\n"),
                            ["unknown key 'local.learning-rate'", "key.ini"]),
            "unknown section": (self.write("section.ini", "[lokal]\nlr = 1\n"),
                                ["unknown key 'lokal.lr'", "did you mean 'local.lr'"]),
            "twice": (self.write("twice.ini", "seed = 1\nseed = 2\n"), ["'seed' is set twice", "twice.ini", "keep one"]),
            "no value": (self.write("none.ini", "seed\n"), ["seed", "none.ini", "key = value"]),
            "out of range": (self.write("range.ini", "seed = -4\n"), ["seed is -4", "at least 0"]),
            "a job in a job": (self.write("job.ini", "job = other.ini\n"), ["job", "job.ini"]),
            "HDF5 without a job": (self.path("no_job.h5"), ["no_job.h5", "/job/text"]),
            "HDF5 with another job": (self.path("other_job.h5"), ["other_job.h5", "/job/text"]),
            "HDF5 truncated": (self.path("truncated.h5"), ["truncated.h5", "not a whole HDF5 file"]),
            "HDF5's first bytes": (self.path("head.h5"), ["head.h5", "not a whole HDF5 file"]),
        }
        for name, (job, words) in cases.items():
            for ranks in [0, 3] if FULL or name in ON_THREE_RANKS else [0]:
                with self.subTest(name, ranks=ranks):
                    self.refuse({"job": job}, words, ranks)
        # Its own results are not overwritten by running them again.
        before = os.stat(good)
        self.fail_with([good, "exists"], "--job", good, "--output", good)
        self.assertEqual((os.stat(good).st_mtime, os.stat(good).st_size), (before.st_mtime, before.st_size))

    def test_launcher_of_another_mpi(self):
        """Ranks that are all alone, each a whole run, are not what was asked for."""
        for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            self.refuse({}, ["3 ranks", "do not know of one another", "start them with"], **{variable: "3"})

    def test_test_hooks(self):
        self.refuse({}, ["FL_SIM_TEST", "'nonsense'"], FL_SIM_TEST="nonsense")

    # ------------------------------------------------------------------------------------------------ output

    def test_output(self):
        for ranks in (0, 3):
            for output, words in (
                (self.precious, [self.precious, "exists", "--overwrite"]),
                (self.path("out"), [self.path("out"), "is a directory"]),
                ("/proc/x.h5", ["/proc/x.h5", "cannot be written", "--output"]),
                (self.precious + "/x.h5", [self.precious, "--output"]),
            ):
                with self.subTest(output, ranks=ranks):
                    self.refuse({"output": output, "overwrite": "false"}, words, ranks)
        self.refuse({"output": self.path("out"), "overwrite": "true"}, ["is a directory"])

    def test_disk_full(self):
        """Results that cannot be written to the end: a message, and the old file under their name."""
        def limit_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # makes it an error of write()
            resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20,) * 2)  # less than the model, more than MPI's own files

        run = self.start(*self.options({"model": "cnn", "rounds": 1, "cohort": 1}), prepare=limit_files).wait()
        self.assertGreater(run.code, 0, str(run))
        self.assert_one_message(run, [self.precious, "File too large"])
        self.assert_untouched()

    # ------------------------------------------------------------------------------------------------ divergence

    def diverging(self, rounds=4, at=3):
        """Options of a run, and a client of its round `at`."""
        output = self.path("clean.h5")
        self.succeed(*self.options({"output": output, "rounds": rounds}))
        clients = columns(output, "clients")
        return clients["client"][clients["round"] == at][1]

    def test_on_divergence_stop(self):
        client = self.diverging()
        for ranks in (0, 3):
            output = self.path(f"stopped-{ranks}.h5")
            self.fail_with([f"client {client} diverged in round 3", "on-divergence is stop"],
                           *self.options({"output": output, "rounds": 4, "on-divergence": "stop",
                                          "inject": f"nan-update@3:{client}"}), ranks=ranks)
            self.assertEqual(list(columns(output, "rounds")["round"]), [1, 2])
            self.assertEqual(sorted(set(columns(output, "clients")["round"])), [1, 2, 3])
            reference = self.path("two.h5")
            self.succeed(*self.options({"output": reference, "rounds": 2}))
            self.assertEqual(checksum(output), checksum(reference), "the model is not the one before the divergence")

    def test_on_divergence_stop_in_a_lane(self):
        """Ranks of another lane are still at work when one of a lane's clients ends the run."""
        job = {"algorithm": "pwfl", "cohort": 4, "rounds": 3}
        clean = self.path("clean-lanes.h5")
        self.succeed(*self.options({**job, "output": clean}))
        clients = columns(clean, "clients")
        client = clients["client"][clients["round"] == 2][0]
        self.fail_with([f"client {client} diverged in round 2"],
                       *self.options({**job, "output": self.path("stopped-lanes.h5"), "on-divergence": "stop",
                                      "inject": f"nan-update@2:{client}"}), ranks=3)

    def test_on_divergence_skip(self):
        client = self.diverging()
        output = self.path("skipped.h5")
        run = self.succeed(*self.options({"output": output, "rounds": 4, "inject": f"nan-update@3:{client}"}), ranks=3)
        self.assertEqual(run.err.count(f"warning: client {client} diverged in round 3"), 1, str(run))
        self.assertIn("of 3: 1 diverged", run.out)

    def test_all_diverge(self):
        sums = {}
        for ranks in (0, 3):
            for rounds in (1, 2):
                output = self.path(f"all-{ranks}-{rounds}.h5")
                run = self.start(*self.options({"output": output, "rounds": rounds, "local.lr": 1e30}),
                                 ranks=ranks).wait()
                self.assertEqual(run.code, 3, str(run))
                found = columns(output, "rounds")
                self.assertEqual(list(found["failed"]), [3] * rounds, str(run))
                self.assertTrue(np.all(columns(output, "clients")["status"] == 1))
                self.assertTrue(np.all(found["test_accuracy"] == found["test_accuracy"][0]))
                sums[ranks, rounds] = checksum(output)
        self.assertEqual(len(set(sums.values())), 1, sums)

    def test_states_beyond_memory(self):
        """What clients keep is too much for state-memory: found before round 1, in the round in which it will be, for a
        million clients, too. Beyond the bound of all hosts together only; where it goes to files, or fits, nothing is
        said."""
        job = {"algorithm": "mifa", "dataset": "population", "population.users": 1000000, "clients": 1000000, "cohort": 50,
               "rounds": 1000, "state-memory": 100, "overwrite": None, "output": self.path("states.h5")}
        state = 4 * 44032  # bytes of 2nn's trainable row for this data set, gaps included
        run = self.fail_with(["algorithm mifa keeps 176128 bytes", "which are 599 of 1000000 in round 12",
                              f"need {599 * state} bytes", f"state-memory is {100 << 20} bytes", "state-dir"],
                             *self.options(job))
        self.assertFalse(os.path.exists(job["output"]), str(run))
        job |= {"population.users": 40, "clients": 40, "cohort": 4, "rounds": 8, "state-memory": 1}
        self.fail_with(["keeps 176128 bytes", "of 40 in round 2", "state-memory is 1048576 bytes ("], *self.options(job))
        self.fail_with(["of 40 in round", "state-memory is 1048576 bytes on each of 2 hosts"], *self.options(job), ranks=3)
        for more in ({"state-dir": self.path("states")}, {"rounds": 1}, {"state-memory": 0}, {"algorithm": "fedavg"}):
            self.succeed(*self.options({**job, **more, "overwrite": "true"}))

    # ------------------------------------------------------------------------------------------------ killed

    def test_killed(self):
        """One rank, the server or the launcher disappears in the middle of a long run."""
        for victim in ("host", "server", "mpirun", "terminated"):
            with self.subTest(victim):
                output = self.path(f"{victim}.h5")
                run = self.start(*self.options({"output": output, "rounds": 1000000, "evaluate-every": 0}), ranks=3)
                self.reach(run, 1)
                ranks = run.ranks()
                self.assertEqual(len(ranks), 3, str(run))
                with_rank = {rank_of(process): process for process in ranks}
                if victim in ("mpirun", "terminated"):
                    os.kill(run.process.pid, signal.SIGKILL if victim == "mpirun" else signal.SIGTERM)
                else:
                    os.kill(with_rank[0 if victim == "server" else 2], signal.SIGKILL)
                self.assertTrue(run.gone(), f"processes are left behind: {run}")
                run.wait()
                self.assertNotEqual(run.code, 0, str(run))
                if os.path.exists(output):
                    rounds = columns(output, "rounds")["round"]
                    self.assertEqual(list(rounds), list(range(1, len(rounds) + 1)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
