"""An fl_sim that was built with sanitizers (presets asan and tsan) over all that has threads and memory of its own: runs on
three ranks with checkpoints, states that lie in files, an interruption and a resumption. It has to be clean, and the bits
have to be those of an undisturbed run of the same build.
"""
import os
import signal
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
# LibTorch, HDF5 and Open MPI keep memory to the end, and LibTorch's libraries define some globals twice.
os.environ["ASAN_OPTIONS"] = "detect_leaks=0:detect_odr_violation=0:strict_init_order=1:detect_stack_use_after_return=1"
os.environ["UBSAN_OPTIONS"] = "print_stacktrace=1"
os.environ["TSAN_OPTIONS"] = f"suppressions={HERE}/tsan.supp:second_deadlock_stack=1:ignore_noninstrumented_modules=1"
# libfabric's and Open MPI's hooks in munmap() take locks in threads that ThreadSanitizer does not know yet.
os.environ.update(OMPI_MCA_pml="ob1", OMPI_MCA_btl="self,vader,sm,tcp", OMPI_MCA_memory="^patcher")

from whole_program import Case  # noqa: E402  (it starts the program)

# With the memory that they have: clients' states, states in files, lanes of models, two exchanges, several models.
RUNS = {
    "scaffold": ["--algorithm", "scaffold", "--model", "2nn", "--state-memory", 1],
    "ditto": ["--algorithm", "ditto", "--model", "lenet", "--ditto.lambda", 0.1, "--evaluate-clients", 0.5],
    "pwfl": ["--algorithm", "pwfl", "--model", "logistic", "--pwfl.models", 2, "--pwfl.inner", "scaffold"],
    "cfl": ["--algorithm", "cfl", "--model", "logistic", "--cohort", 12, "--cfl.eps1", 10, "--cfl.eps2", 0,
            "--cfl.first-split", 2],
    "mime": ["--algorithm", "mime", "--model", "2nn", "--group-size", 3],
}


class Sanitized(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=400, rounds=5, clients=12, cohort=5, **{"partition.test-fraction": 0.2})

    def clean(self, run):
        for word in ("Sanitizer", "runtime error", "WARNING"):
            self.assertNotIn(word, run.out + run.err, str(run))

    def test_runs(self):
        for name, options in RUNS.items():
            with self.subTest(name):
                whole, path = self.path(f"{name}-whole.h5"), self.path(f"{name}.h5")
                common = ["--job", self.job, *options, "--checkpoint-every", 1]
                self.clean(self.succeed(*common, "--state-dir", self.path("state"), "--output", whole, ranks=3))
                common += ["--state-dir", self.path("other-state")]
                run = self.start(*common, "--resume", "auto", "--output", path, ranks=3, FL_SIM_TEST=self.hold(5))
                self.reach(run, 2)
                os.kill(run.ranks()[0], signal.SIGUSR1)
                self.assertEqual(run.wait().code, 75, str(run))
                self.clean(run)
                run = self.succeed(*common, "--resume", "auto", "--output", path, ranks=2)
                self.assertIn("goes on after round", run.out)
                self.clean(run)
                self.assert_same(whole, path, name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
