"""The scripts of slurm/, submitted to a Slurm of our own on this machine, with two nodes that
pretend to have GPUs.

Jobs are tiny, and last where they have to by sleeping (FL_SIM_TEST). Where Slurm is not installed
or does not start, all of it is skipped, and a line says why.
"""
import os
import re
import shlex
import subprocess
import sys
import time
import unittest

import h5py

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from private_slurm import PrivateSlurm, Unavailable, processes_of  # noqa: E402
from whole_program import ENVIRONMENT, PROGRAM, ROOT, Case, checksum  # noqa: E402

LAUNCHERS = ["mpirun", "srun"]
JOB = [
    "--dataset", "fcube", "--model", "logistic", "--clients", 20, "--cohort", 6,
    "--local.batch-size", 20, "--local.lr", 0.1
]
STEADY = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE"
}
PATIENCE = 240  # seconds, for a job of seconds: machines are shared

# Programs that do something first and then are fl_sim: note where they run, under mpirun and srun;
# hurry after a requeue.
NOTING = """rank=${OMPI_COMM_WORLD_RANK:-$SLURM_PROCID}
echo "$rank $SLURMD_NODENAME ${CUDA_VISIBLE_DEVICES:-none}" >> "$NOTES\""""
HURRYING = '[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || unset FL_SIM_TEST'


class SlurmScripts(Case):
    @classmethod
    def setUpClass(cls):
        slurm = PrivateSlurm()
        try:
            cls.slurm = slurm.__enter__()
        except Unavailable as reason:
            raise unittest.SkipTest(f"no Slurm here: {reason}") from None
        cls.addClassCleanup(slurm.__exit__)

    def setUp(self):
        super().setUp()
        self.jobs = []
        self.addCleanup(lambda: [self.slurm.run("scancel", "--quiet", job) for job in self.jobs])

    def submit(self, script, *arguments, sbatch=(), **environment):
        """Submits one of the shipped scripts; returns the job's number."""
        log = self.path(f"log-{len(self.jobs)}")
        job = self.slurm.run("sbatch", "--parsable", f"--chdir={ROOT}", f"--output={log}", *sbatch,
                             os.path.join(ROOT, "slurm", script), *arguments,
                             **{"FL_SIM_PROGRAM": PROGRAM, "FL_SIM_ROOT": ROOT,
                                **environment}).strip()
        self.jobs.append(job)
        return job

    def log(self, job):
        """Its output, but for most of the rounds."""
        try:
            with open(self.slurm.job(job)["StdOut"], errors="replace") as file:
                return re.sub(r"(round .*\n)(round .*\n)+(round )", r"\1[...]\n\3", file.read())
        except FileNotFoundError:
            return "(it has no output)"

    def wait(self, job, state="COMPLETED"):
        """Until the job is over, in this state. Returns what Slurm knows of it."""
        end = time.monotonic() + PATIENCE
        while True:
            job_record = self.slurm.job(job)
            if job_record["JobState"] in STEADY:
                break
            if time.monotonic() > end:
                self.fail(
                    f"job {job} is {job_record['JobState']} after {PATIENCE} s:\n{self.log(job)}")
            time.sleep(0.2)
        self.assertEqual(job_record["JobState"], state, f"job {job}:\n{self.log(job)}")
        return job_record

    def complete(self, *words, notes, **more):
        """Submits a job that writes these notes, and waits for it. Returns its number.

        Once more where ranks died within MPI_Init: Slurm 22.05 with PMIx 4.2.2 may let ranks
        through while one is still at MPI_Init's first barrier; Open MPI 4.1 there has no function
        yet for the message that this one is then sent, and calls null. On a full machine that is
        one start of some hundreds, of any program, such as one of MPI_Init and MPI_Finalize.
        """
        for last in (False, True):
            job = self.submit(*words, NOTES=notes, **more)
            if last or not self.died_in_mpi_init(job):
                self.wait(job)
                return job
            os.remove(notes)

    def died_in_mpi_init(self, job):
        """Whether a rank called null before fl_sim had its first word, which all ranks wait for."""
        self.until(f"job {job} ends", lambda: self.slurm.job(job)["JobState"] in STEADY)
        log = self.log(job)
        began = re.search(r"^(fl_sim \d|round )", log, re.M)
        return "Failing at address: (nil)" in log and not began

    def until(self, what, condition, patience=PATIENCE):
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                self.fail(f"not within {patience} s: {what}")
            time.sleep(0.1)

    def program(self, text):
        """A program of these lines of shell."""
        path = self.path(f"program-{len(os.listdir(self.folder))}")
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
        return path

    def first(self, text):
        return self.program(f'{text}\nexec {shlex.quote(PROGRAM)} "$@"')

    def places(self, notes):
        """{rank: (node, GPUs it sees)}"""
        with open(notes) as file:
            rows = [line.split() for line in file]
        os.remove(notes)
        return {int(rank): (node, gpus) for rank, node, gpus in rows}

    def undisturbed(self, *options):
        """The checksum of the job without Slurm and mpirun."""
        path = self.path("undisturbed.h5")
        self.succeed(*JOB, *options, "--output", path, "--overwrite", "--quiet")
        return checksum(path)

    def test_one_and_many_nodes(self):
        """Proves that ranks are where the script says, and that the model is that of one rank."""
        expected = self.undisturbed("--rounds", 5)
        program, notes = self.first(NOTING), self.path("notes")
        node1, node2 = self.slurm.nodes
        for launcher in LAUNCHERS:
            for script, words, nodes in (
                ("one-node.sh", ["--ntasks=3"], [node1] * 3),
                ("many-nodes.sh", ["--ntasks-per-node=2"], [node1] * 2 + [node2] * 2),
            ):
                with self.subTest(launcher=launcher, script=script):
                    output = self.path(f"{launcher}-{script}.h5")
                    job = self.complete(script, "--", *JOB, "--rounds", 5, "--output", output,
                                        sbatch=words, FL_SIM_LAUNCHER=launcher,
                                        FL_SIM_PROGRAM=program, notes=notes)
                    self.assertEqual([node for _, (node, _) in sorted(self.places(notes).items())],
                                     nodes)
                    self.assertEqual(checksum(output), expected)
                    self.assertIn(f"checksum {expected}", self.log(job))

    def test_the_script_of_a_plan(self):
        """Proves that Slurm takes the script that fl_sim --plan writes, with GPUs too, and that the
        job gets what was planned and runs."""
        output = self.path("planned.h5")
        options = [*JOB, "--rounds", 5, "--output", output, "--plan-ranks", 3]
        scripts = {}
        for device in ("cpu", "cuda"):
            text = self.succeed("--plan", *options, "--device", device).out
            scripts[device] = self.path(f"{device}.sh")
            with open(scripts[device], "w") as file:
                file.write(text[text.index("#!/usr/bin/env bash"):])
        self.slurm.run("sbatch", "--test-only", scripts["cuda"])
        job = self.submit(scripts["cpu"])
        planned = self.wait(job)
        self.assertEqual({key: planned[key] for key in ("JobName", "NumTasks", "NumNodes", "Requeue")},
                         {"JobName": "planned", "NumTasks": "3", "NumNodes": "1", "Requeue": "1"})
        self.assertEqual(checksum(output), self.undisturbed("--rounds", 5))

    def test_gpus(self):
        """Proves that nodes get a rank for each GPU, the first one the server's too, and that ranks
        see all GPUs of their node."""
        program, notes = self.first(NOTING), self.path("notes")
        node1, node2 = self.slurm.nodes
        expected = {rank: (node, "0,1") for rank, node in enumerate([node1] * 3 + [node2] * 2)}
        for launcher in LAUNCHERS:
            with self.subTest(launcher):
                self.complete("gpus.sh", "--", *JOB, "--rounds", 2, "--device", "cpu", "--output",
                              self.path(launcher + ".h5"),
                              sbatch=["--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=3"],
                              FL_SIM_LAUNCHER=launcher, FL_SIM_PROGRAM=program, notes=notes)
                self.assertEqual(self.places(notes), expected)
        job = self.submit("gpus.sh", "--", *JOB,
                          sbatch=["--gpus-per-node=2", "--ntasks-per-node=2"])
        self.wait(job, "FAILED")
        self.assertIn("need --ntasks-per-node=3, one for the server (it is 2)", self.log(job))

    def test_time_limit(self):
        """Proves that a job whose time runs out is warned, goes back into the queue and ends as if
        nothing had been."""
        # The limit is the smallest one, a minute; Slurm looks every half minute whom to warn: after
        # 15 to 45 s. The job would take two minutes.
        expected = self.undisturbed("--rounds", 600)
        jobs = {}
        for launcher in LAUNCHERS:
            output = self.path(launcher + ".h5")
            jobs[launcher] = output, self.submit(
                "many-nodes.sh", "--", *JOB, "--rounds", 600, "--output", output,
                sbatch=["--ntasks-per-node=2", "--time=1", "--signal=B:USR1@15"],
                FL_SIM_LAUNCHER=launcher, FL_SIM_PROGRAM=self.first(HURRYING),
                FL_SIM_TEST="delay=100")
        for launcher, (output, job) in jobs.items():
            with self.subTest(launcher):
                record = self.wait(job)
                self.assert_resumed(job, record)
                self.assertEqual(checksum(output), expected)

    def assert_resumed(self, job, record):
        log = self.log(job)
        self.assertGreaterEqual(int(record["Restarts"]), 1, log)
        self.assertEqual(log.count("Slurm warns"), int(record["Restarts"]), log)
        self.assertEqual(log.count("back into the queue"), int(record["Restarts"]), log)
        self.assertNotRegex(log, self.NOISE)

    def test_requeue_limit_and_other_codes(self):
        """Proves that only a checkpoint leads back into the queue, and not for ever."""
        for code, words in ((75, "requeued 1 times and still not finished"),
                            (3, "ended with code 3")):
            for launcher in LAUNCHERS:
                with self.subTest(code=code, launcher=launcher):
                    job = self.submit("one-node.sh", "--", *JOB, sbatch=["--ntasks=2"],
                                      FL_SIM_LAUNCHER=launcher,
                                      FL_SIM_PROGRAM=self.program(f"exit {code}"),
                                      FL_SIM_MAX_REQUEUES="1")
                    record = self.wait(job, "FAILED")
                    self.assertIn(words, self.log(job))
                    self.assertEqual(record["Restarts"], "1" if code == 75 else "0")
                    self.assertEqual(record["ExitCode"], "1:0" if code == 75 else "3:0")

    def test_scancel(self):
        """Proves that a job that is cancelled leaves no process behind and does not come back."""
        for launcher in LAUNCHERS:
            with self.subTest(launcher):
                job = self.submit("many-nodes.sh", "--", *JOB, "--rounds", 100000, "--output",
                                  self.path(launcher + ".h5"), sbatch=["--ntasks-per-node=2"],
                                  FL_SIM_LAUNCHER=launcher, FL_SIM_TEST="delay=25")
                self.until("round 1", lambda: re.search("round +1/", self.log(job)))
                self.assertEqual(sum(map(is_program, self.slurm.processes())), 4)
                self.slurm.run("scancel", job)
                record = self.wait(job, "CANCELLED")
                self.until("processes end", lambda: not self.slurm.processes())
                self.assertEqual(record["Restarts"], "0")
                self.assertNotIn("back into the queue", self.log(job))
                self.assertEqual(self.slurm.run("squeue", "--noheader", "--job", job), "")

    def sweep(self, *words, code=0, **environment):
        """Runs slurm/submit-sweep; returns its output and the array's and the report's numbers."""
        done = subprocess.run(
            [os.path.join(ROOT, "slurm", "submit-sweep"), *map(str, words)], text=True,
            stdin=subprocess.DEVNULL, capture_output=True, cwd=self.folder,
            env={**self.slurm.environment, "FL_SIM_PROGRAM": PROGRAM, **environment})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        numbers = re.findall(r"job (\d+)", done.stdout)
        self.jobs += numbers
        return done.stdout + done.stderr, *numbers

    def table(self, *rows, name="grid.tsv"):
        with open(self.path(name), "w") as file:
            file.write("# A comment\n\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
        return self.path(name)

    def test_sweep_and_report(self):
        """Proves that a table's runs are run with their values, and the report compares them."""
        rows = [["fedavg", "-", alpha, seed] for alpha in (0.5, 5) for seed in (0, 1)]
        rows += [["fedprox", 0.1, 0.5, seed] for seed in (0, 1)]
        head = ["algorithm", "fedprox.mu", "dirichlet.alpha", "seed"]
        options = [*JOB, "--partitioner", "dirichlet", "--rounds", 5, "--quiet"]
        narrow = ["--ntasks=2", "--mem-per-cpu=100"]

        # One that cannot work: the report comes nevertheless, and says so.
        table = self.table(head, *rows, ["fedprox", -1, 0.5, 0])
        _, array, report = self.sweep(table, *narrow, "--", *options)
        self.wait(report, "FAILED")
        text = self.read("results/grid/report.md")
        self.assertIn("6 of 7 runs are finished.", text, self.outputs("results/grid"))
        self.assertIn("- run 7: fedprox-_1-0.5-0", text)
        self.assertIn("fedprox.mu is -1", self.read("results/grid/7.out"))

        names = [
            "fedavg-0.5-0", "fedavg-0.5-1", "fedavg-5-0", "fedavg-5-1", "fedprox-0.1-0.5-0",
            "fedprox-0.1-0.5-1"
        ]
        files = [os.path.join("results", "grid", name + ".h5") for name in names]
        for row, path in zip(rows, files):
            with h5py.File(self.path(path)) as file:
                job = file["job"].attrs
                self.assertEqual([job.get(option, "-") for option in head], list(map(str, row)))
        comparison = subprocess.run([PROGRAM, "compare", "--markdown", *files], text=True,
                                    stdout=subprocess.PIPE, cwd=self.folder, env=ENVIRONMENT,
                                    check=True).stdout
        self.assertEqual(len(comparison.splitlines()), 2 + 3)  # a row for each pair of seeds
        self.assertTrue(text.startswith(comparison), text)
        self.assertIn(comparison, self.read("results/grid/report.out"))

        # Mended and submitted again, with a target in the table: what is there is not run again.
        before = {path: os.stat(self.path(path)).st_ino for path in files}
        table = self.table(head, *rows, ["fedprox", 1, 0.5, 0])
        _, array, report = self.sweep(table, *narrow, "--", *options, FL_SIM_COMPARE="--target 0.7")
        self.wait(report)
        text = self.read("results/grid/report.md")
        self.assertIn("7 of 7 runs are finished.", text, self.outputs("results/grid"))
        self.assertNotIn("Not finished", text)
        self.assertIn("rounds to 0.7", text)
        self.assertEqual({path: os.stat(self.path(path)).st_ino for path in files}, before)

    def test_a_member_of_a_sweep_goes_back(self):
        """Proves that a member of the array is requeued alone, and that the report waits for it."""
        table = self.table(["algorithm", "seed"], ["fedavg", 0], ["fedavg", 1])
        _, array, report = self.sweep(table, "--ntasks=2", "--mem-per-cpu=100", "--", *JOB,
                                      "--rounds", 1000, FL_SIM_PROGRAM=self.first(HURRYING),
                                      FL_SIM_TEST="delay=100")
        for member in (1, 2):
            self.until("round 1", lambda: re.search("round +1/", self.log(f"{array}_{member}")))
        self.slurm.run("scancel", "--batch", "--signal=USR1", f"{array}_2")
        self.until("requeue", lambda: self.slurm.job(f"{array}_2")["Restarts"] == "1")
        self.slurm.run("scancel", f"{array}_1")
        self.wait(report, "FAILED")
        self.assert_resumed(f"{array}_2", self.slurm.job(f"{array}_2"))
        self.assertEqual(checksum(self.path("results/grid/fedavg-1.h5")),
                         self.undisturbed("--rounds", 1000, "--seed", 1))
        text = self.read("results/grid/report.md")
        self.assertIn("1 of 2 runs are finished.\n\nNot finished:\n\n- run 1: fedavg-0\n", text)

    def outputs(self, folder):
        return "".join(f"\n{name}:\n{self.read(os.path.join(folder, name))}"
                       for name in sorted(os.listdir(self.path(folder))) if name.endswith(".out"))

    def read(self, name):
        with open(self.path(name)) as file:
            return file.read()

    def test_bad_input(self):
        """Proves that what cannot work is said, before anything is queued or in its output."""
        row = ["fedavg", 0]
        head = ["algorithm", "seed"]
        twice = self.table(head, row, ["scaffold", 0], row, name="twice.tsv")
        for words, expected in (
            ([], "slurm/submit-sweep TABLE"),
            ([self.table(head, row)], "write -- between"),
            ([self.path("nothing"), "--"], "cannot read the table"),
            ([self.table(head, name="empty.tsv"), "--"], "has no runs"),
            ([twice, "--"], "runs 1 and 3 of"),
            ([self.table(head, row, ["scaffold"], name="short.tsv"), "--"], "run 2 of"),
        ):
            with self.subTest(expected):
                output, *jobs = self.sweep(*words, code=1)
                self.assertIn(expected, output)
                self.assertEqual(jobs, [])
        for environment, expected in (
            ({"FL_SIM_LAUNCHER": "mpiexec"}, "'mpiexec' (must be mpirun or srun)"),
            ({"FL_SIM_PROGRAM": self.path("nothing")}, "there is no program"),
        ):
            with self.subTest(expected):
                job = self.submit("one-node.sh", "--", *JOB, sbatch=["--ntasks=2"], **environment)
                self.wait(job, "FAILED")
                self.assertIn(expected, self.log(job))
        job = self.submit("sweep.sh", self.table(head, row), self.folder, "--",
                          sbatch=["--ntasks=1"])
        self.wait(job, "FAILED")
        self.assertIn("sbatch --array=1-1 slurm/sweep.sh", self.log(job))

    def test_nothing_stays_behind(self):
        """Proves that the daemons, a running job and the folder go if the test is killed."""
        script = ("import sys, time; from private_slurm import PrivateSlurm\n"
                  "with PrivateSlurm(nodes=1) as slurm:\n"
                  "    slurm.run('sbatch', '--output=/dev/null', '--wrap=sleep 600')\n"
                  "    while not slurm.processes('sleep'): time.sleep(0.1)\n"
                  "    print(slurm.folder, flush=True); time.sleep(600)\n")
        process = subprocess.Popen([sys.executable, "-B", "-c", script],
                                   cwd=os.path.dirname(os.path.abspath(__file__)),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        with process:
            folder = process.stdout.readline().strip()
            self.assertTrue(processes_of(folder))
            process.kill()
        self.until("processes end", lambda: not processes_of(folder))
        self.until("the folder goes", lambda: not os.path.exists(folder))


def is_program(process):
    try:
        return os.path.samefile(f"/proc/{process}/exe", PROGRAM)
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main(verbosity=2)
