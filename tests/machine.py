"""What a run meets on its machine, and what it leaves there: disks that fill up, are read-only or disappear, and files that
a death would leave in shared memory.

Has a small disk and a /dev/shm of its own, in a mount namespace: as root, or as a user who may make user namespaces.
Skipped, with a line that says why, where they cannot be made.
"""
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from whole_program import ISOLATED, Case, columns, is_open_mpi, isolate, write_images

JOB = ["--dataset", "fashion-mnist", "--partitioner", "dirichlet", "--dirichlet.alpha", 0.5, "--clients", 23, "--cohort", 7,
       "--rounds", 6, "--model", "2nn", "--algorithm", "scaffold", "--local.batch-size", 50, "--local.lr", 0.05]


def mount(*words):
    subprocess.run(["mount", *words], check=True)


class Machine(Case):
    @classmethod
    def setUpClass(cls):
        if ISOLATED not in os.environ:
            raise unittest.SkipTest("no disk here: run tests/machine.py itself")
        folder = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(folder.cleanup)
        cls.job = [*JOB, "--data-dir", write_images(folder.name, train=1500)]
        cls.data = folder.name

    def disk(self, megabytes):
        """The path of a disk of that size."""
        place = self.path("disk")
        os.mkdir(place)
        mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place)
        self.addCleanup(subprocess.run, ["umount", place], stderr=subprocess.DEVNULL)  # a test may have done it
        return place

    def expected(self):
        """The same job undisturbed."""
        path = os.path.join(self.data, "expected.h5")
        if not os.path.exists(path):
            self.succeed(*self.job, "--output", path)
        return path

    def begin(self, rounds, *options, ranks=0, **environment):
        """A run that has shown so many rounds, and waits three rounds later at the latest."""
        run = self.start(*self.job, *options, ranks=ranks,
                         **{"FL_SIM_TEST": f"delay=200,{self.hold(rounds + 3)}", **environment})
        self.reach(run, rounds)
        return run

    def assert_failed(self, run, words):
        run.wait()
        self.assertGreater(run.code, 0, str(run))
        self.assert_one_message(run, words)
        self.assertTrue(run.gone(), str(run))

    def test_too_little_shared_memory(self):
        """MPI would crash without a word of the reason: it is told before, or warned of where it may go well."""
        if not is_open_mpi():
            self.skipTest("other MPIs take what they need as they need it")
        for megabytes, fails in ((2, True), (9, False)):
            mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", "/dev/shm")
            try:
                run = self.start(*self.job, "--rounds", 1, "--output", self.path(f"{megabytes}.h5"), ranks=3).wait()
                self.assertEqual(os.listdir("/dev/shm"), [])
            finally:
                subprocess.run(["umount", "/dev/shm"], check=True)
            words = r"/dev/shm on \S+ has [\d.]+ MB free, and MPI takes up to 12.5 MB there for 3 ranks"
            self.assertEqual(len(re.findall(words, run.err)), 1, str(run))
            self.assertIn("--shm-size", run.err)
            if fails:
                self.assertNotEqual(run.code, 0)
                self.assertNotRegex(run.err, self.NOISE)
            else:
                self.assertEqual(run.code, 0, str(run))
                self.assertIn("it may crash", run.err)

    def test_full_in_a_checkpoint(self):
        """There is room for the first checkpoint, not for a second one beside it: a message, the results and the first
        checkpoint whole; with more room it goes on."""
        for ranks in (0, 3):
            with self.subTest(ranks=ranks):
                disk, path = self.disk(12), self.path(f"{ranks}.h5")
                options = [*self.job, "--output", path, "--checkpoint-dir", disk, "--checkpoint-every", 1,
                           "--resume", "auto"]
                self.fail_with(["the checkpoint of round", f"{disk}/{ranks}.checkpoint/round-", "No space left on device",
                                "make room, or choose another --checkpoint-dir"], *options, ranks=ranks)
                rounds = columns(path, "rounds")["round"]
                self.assertEqual(list(rounds), list(range(1, len(rounds) + 1)))
                mount("-o", "remount,size=200m", disk)
                run = self.succeed(*options, ranks=ranks)
                self.assertIn("goes on after round", run.out)
                self.assert_same(self.expected(), path, "after a full disk")
                self.assertEqual(os.listdir(disk), [])
                subprocess.run(["umount", disk], check=True)
                os.rmdir(disk)

    def test_full_in_the_results(self):
        """The results that are there stay whole, and are said to; with more room the run goes on."""
        disk = self.disk(4)
        path, filler = os.path.join(disk, "x.h5"), os.path.join(disk, "filler")
        options = ["--output", path, "--checkpoint-every", 1, "--resume", "auto", "--checkpoint-dir",
                   self.path("checkpoints")]
        run = self.begin(2, *options)
        with self.assertRaises(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        self.release()
        self.assert_failed(run, [path, "No space left on device", f"{path} is as it was written before", "make room",
                                 "--output"])
        self.assertGreaterEqual(len(columns(path, "rounds")["round"]), 1)
        self.assertEqual(sorted(os.listdir(disk)), ["filler", "x.h5"])
        os.remove(filler)
        run = self.succeed(*self.job, *options)
        self.assertIn("goes on after round", run.out)
        self.assert_same(self.expected(), path, "after a full disk")

    def test_nowhere_to_write(self):
        """A read-only disk is found before the first round, one that disappears at the next write."""
        disk = self.disk(100)
        mount("-o", "remount,ro", disk)
        for ranks in (0, 3):
            self.fail_with(["x.h5", "Read-only file system", "choose another --output"], *self.job, "--output",
                           os.path.join(disk, "x.h5"), ranks=ranks)
            self.fail_with(["checkpoint-dir", "Read-only file system", "choose another"], *self.job, "--output",
                           self.path("x.h5"), "--checkpoint-dir", os.path.join(disk, "checkpoints"), ranks=ranks)
        self.assertEqual(os.listdir(self.folder), ["disk"], "files are left behind")
        mount("-o", "remount,rw", disk)
        folder = os.path.join(disk, "folder")
        run = self.begin(2, "--output", os.path.join(folder, "x.h5"), "--checkpoint-every", 1, "--checkpoint-dir",
                         self.path("checkpoints"))
        shutil.rmtree(folder)
        self.release()
        self.assert_failed(run, [os.path.join(folder, "x.h5"), "No such file or directory", "is not there", "--output"])

    # ------------------------------------------------------------------------------------------------ shared memory

    def test_nothing_is_left(self):
        """After kill -9 of everything at once no memory is left; mpirun's folder is gone after the next start."""
        sessions = self.path("sessions")
        os.mkdir(sessions)
        run = self.begin(1, "--output", self.path("x.h5"), ranks=3, TMPDIR=sessions)
        self.assertEqual(os.listdir("/dev/shm"), [], "memory has names while a run trains")
        for process in run.processes():
            os.kill(process, signal.SIGKILL)
        run.wait()
        self.assertTrue(run.gone(), str(run))
        self.assertEqual(os.listdir("/dev/shm"), [])
        self.assertNotEqual(os.listdir(sessions), [], "it is what this test is about")
        self.succeed(*self.job, "--output", self.path("y.h5"), ranks=3, TMPDIR=sessions)
        left = [folder for _, folders, _ in os.walk(sessions) for folder in folders if re.search(r"\d$", folder)
                and not folder.startswith("ompi.")]
        self.assertEqual(left, [])
        self.assertEqual(os.listdir("/dev/shm"), [])

    def test_only_what_is_dead_is_removed(self):
        """A start removes the folders of dead runs: not those of living ones, not those of other programs."""
        dead, living, other = (f"/dev/shm/{name}.{os.geteuid()}.abcdef" for name in ("fl_sim", "fl_sim", "vader_segment"))
        living = living[:-1] + "g"
        for folder in (dead, living, other):
            os.mkdir(folder)
            self.addCleanup(shutil.rmtree, folder, True)
            with open(os.path.join(folder, "segment"), "wb") as file:
                file.write(bytes(100))
        lock = os.open(living, os.O_RDONLY)
        self.addCleanup(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.succeed(*self.job, "--output", self.path("x.h5"), ranks=2)
        self.assertEqual(sorted(os.listdir("/dev/shm")), sorted(map(os.path.basename, (living, other))))


if __name__ == "__main__":
    reason = isolate("mount", trial="mount -t tmpfs tmpfs /dev/shm")
    if reason:
        print(f"no disk here: {reason}")
        sys.exit()
    mount("-t", "tmpfs", "tmpfs", "/dev/shm")
    unittest.main(verbosity=2)
