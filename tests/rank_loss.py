"""Ranks that die, and the others go on without them: the model and the results have the bits of an undisturbed run.

Needs an Open MPI with ULFM (version 5); with others it shows that the job is refused.
"""
import os
import signal
import subprocess
import time
import unittest

import h5py

from whole_program import ENVIRONMENT, MPIRUN, PATIENCE, Case, checksum, rank_of

ULFM = ["--with-ft", "ulfm"]


def has_ulfm():
    try:
        return subprocess.run([MPIRUN, *ULFM, "-n", "1", "true"], env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class RankLoss(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1200, rounds=8, model="2nn")

    def words(self, path, *options):
        return ["--job", self.job, *options, "--output", path]

    def survive(self, path, *options, ranks=4):
        return self.succeed(*self.words(path, "--on-rank-loss", "continue", *options), ranks=ranks, launcher=ULFM)

    def undisturbed(self, *options):
        path = self.path("whole.h5")
        self.succeed(*self.words(path, "--quiet", "--overwrite", *options))
        return path


class WithoutIt(RankLoss):
    def test_refused(self):
        """An MPI that cannot tell of a rank's death, or was not started for it."""
        words = ["on-rank-loss is continue"] + (["mpirun --with-ft ulfm"] if has_ulfm() else ["Open MPI 5"])
        self.fail_with(words, *self.words(self.path("x.h5"), "--on-rank-loss", "continue"), ranks=2)
        # One rank has nobody to lose.
        self.succeed(*self.words(self.path("one.h5"), "--on-rank-loss", "continue", "--rounds", 1))


@unittest.skipUnless(has_ulfm(), "this MPI has no ULFM (Open MPI 5 has)")
class WithIt(RankLoss):
    def test_nothing_kept(self):
        """Clients without a state: the round under way is repeated, also after several losses, down to one rank."""
        whole = self.undisturbed()
        path = self.path("lost.h5")
        run = self.survive(path, "--inject", "rank-crash@2:3,rank-crash@4:1,rank-crash@6:1")
        self.assert_same(whole, path, "three ranks died")
        for round_number, rank, left in ((2, 3, 3), (4, 1, 2), (6, 2, 1)):  # ranks as they were when the run started
            self.assertRegex(run.err, rf"rank {rank} \(\S+\) died in round {round_number}: {left} ranks? goe?s? ?on, "
                                      rf"numbered anew, from round {round_number}\n")
        with h5py.File(path) as file:
            self.assertEqual(len(file["provenance"].attrs["lost_ranks"].splitlines()), 3)
            self.assertEqual(list(file["ranks/rank"][()]), [0])

    def test_state_kept(self):
        """States die with their rank: back to the last checkpoint, or to the beginning."""
        for algorithm in (["--algorithm", "scaffold"], ["--algorithm", "ditto", "--ditto.lambda", 0.1,
                                                        "--partition.test-fraction", 0.2, "--evaluate-clients", 1]):
            whole = self.undisturbed(*algorithm)
            for name, options, words in (("checkpoint", ["--checkpoint-every", 2], r"the checkpoint of round [246]\n"),
                                         ("beginning", [], r"the beginning, for want of a checkpoint")):
                with self.subTest(algorithm=algorithm, name=name):
                    path = self.path("lost.h5")
                    run = self.survive(path, *algorithm, *options, "--overwrite", "--inject",
                                       "rank-crash@5:2,rank-crash@7:1")
                    self.assertRegex(run.err, words)
                    self.assert_same(whole, path, f"{algorithm} {name}")

    def test_two_exchanges_and_lanes(self):
        for algorithm in (["--algorithm", "mime", "--mime.beta", 0.9], ["--algorithm", "pwfl", "--pwfl.models", 2]):
            with self.subTest(algorithm=algorithm):
                whole, path = self.undisturbed(*algorithm), self.path("lost.h5")
                self.survive(path, *algorithm, "--overwrite", "--checkpoint-every", 3, "--inject", "rank-crash@5:2")
                self.assert_same(whole, path, str(algorithm))

    def test_any_moment(self):
        """Killed from outside at whatever moment, one of them or two at once."""
        whole = self.undisturbed("--rounds", 20)
        for i, victims in enumerate((1, 2, 1)):
            path = self.path(f"killed-{i}.h5")
            run = self.start(*self.words(path, "--rounds", 20, "--on-rank-loss", "continue"), ranks=4, launcher=ULFM,
                             FL_SIM_TEST=f"delay=60,{self.hold(6 + 4 * i)}")
            self.until(run, f"round {3 + 4 * i:2}/20")
            ranks = {rank_of(process): process for process in run.ranks()}
            for rank in list(range(1, 4))[i:i + victims]:
                os.kill(ranks[rank], signal.SIGKILL)
            self.release()
            run.wait()
            self.assertEqual(run.code, 0, str(run))
            self.assertEqual(checksum(whole), checksum(path), str(run))
            self.assertTrue(run.gone(), str(run))

    def until(self, run, words):
        end = time.monotonic() + PATIENCE
        while words not in run.out:
            self.assertLess(time.monotonic(), end, str(run))
            time.sleep(0.02)

    def test_interrupted_later(self):
        """After a loss a run can be interrupted and continued as any other, and lose a rank again."""
        whole, path = self.undisturbed("--rounds", 20), self.path("lost.h5")
        words = self.words(path, "--rounds", 20, "--on-rank-loss", "continue", "--resume", "auto", "--inject",
                           "rank-crash@4:1")
        run = self.start(*words, ranks=4, launcher=ULFM, FL_SIM_TEST=f"delay=60,{self.hold(9)}")
        self.until(run, "round  6/20")
        os.kill(run.ranks()[0], signal.SIGUSR1)
        run.wait()
        self.assertEqual(run.code, 75, str(run))
        self.assertNotIn("round 20/20", run.out)
        run = self.start(*words, ranks=4, launcher=ULFM, FL_SIM_TEST=f"delay=60,{self.hold(15)}")
        self.until(run, "round 12/20")
        os.kill({rank_of(process): process for process in run.ranks()}[2], signal.SIGKILL)
        self.release()
        run.wait()
        self.assertEqual(run.code, 0, str(run))
        self.assertIn("goes on after round", run.out)
        self.assert_same(whole, path, "continued")
        with h5py.File(path) as file:
            self.assertRegex(file["provenance"].attrs["lost_ranks"], r"^round 4: rank 1 .*\nround 1\d: rank 2 ")

    def test_a_timetable_that_grows(self):
        """An asynchronous run whose sampler learns: those that are left find again who is under way."""
        options = ["--algorithm", "fedbuff", "--async.buffer", 3, "--devices", "halfnormal", "--sampler", "pisces",
                   "--pisces.beta", 0.5]
        whole, path = self.undisturbed(*options), self.path("grown.h5")
        self.survive(path, *options, "--inject", "rank-crash@3:3,rank-crash@6:1")
        self.assert_same(whole, path, "two ranks died")

    def test_server_dies(self):
        """Nobody has the model then: all end, and a later start goes on."""
        whole, path = self.undisturbed(), self.path("dead.h5")
        options = ["--on-rank-loss", "continue", "--checkpoint-every", 1, "--resume", "auto", "--inject", "rank-crash@5:0"]
        run = self.start(*self.words(path, *options), ranks=3, launcher=ULFM).wait()
        self.assertNotEqual(run.code, 0, str(run))
        self.assertIn("rank 0 is lost", run.err)
        self.assertTrue(run.gone(), str(run))
        self.succeed(*self.words(path, *options), ranks=3, launcher=ULFM)
        self.assert_same(whole, path, "rank 0 died")


if __name__ == "__main__":
    unittest.main(verbosity=2)
