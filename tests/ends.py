"""The ends of a run: whatever the cause, it is named, the exit status says what kind of end it is, and the results file
has every round that was shown, with the model after the last of them. docs/ends.md is the table of what is seen here.
"""
import os
import re
import signal
import socket
import time

import h5py

from whole_program import PATIENCE, Case, checksum, columns, is_open_mpi, rank_of, write_images


class Ends(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=600, rounds=8, clients=12, cohort=6, model="2nn", algorithm="scaffold")
        cls.sums = {}

    def model_after(self, rounds, *options):
        """The checksum of a run of so many rounds, without a disturbance."""
        key = (rounds, *options)
        if key not in self.sums:
            path = self.path(f"whole-{len(self.sums)}.h5")
            self.succeed("--job", self.job, "--rounds", rounds, *options, "--output", path)
            self.sums[key] = checksum(path)
        return self.sums[key]

    def assert_all_there(self, run, path, *options):
        """Every round that was shown is in the file, with the model after the last one that is there."""
        shown = [int(number) for number in re.findall(r"^round +(\d+)/", run.out, re.M)]
        self.assertTrue(shown, str(run))
        rounds = list(columns(path, "rounds")["round"])
        self.assertEqual(rounds, list(range(1, len(rounds) + 1)))
        self.assertGreaterEqual(len(rounds), shown[-1], str(run))
        self.assertEqual(checksum(path), self.model_after(len(rounds), *options), str(run))
        return len(rounds)

    def until(self, run, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), end, str(run))
            time.sleep(0.02)

    # ------------------------------------------------------------------------------------------------ errors

    def test_an_error_in_a_round(self):
        """Of the only rank, of rank 0 and of another one: said once, by the name of the rank that had it."""
        for ranks, bad in ((0, 0), (3, 0), (3, 2)):
            with self.subTest(ranks=ranks, bad=bad):
                path = self.path(f"{ranks}-{bad}.h5")
                run = self.fail_with([f"rank {bad}: an error in round 5, as inject asks", "it ended after round 4 of 8",
                                      path], "--job", self.job, "--output", path, "--inject", f"rank-error@5:{bad}",
                                     ranks=ranks)
                self.assertEqual(run.code, 1)
                self.assertEqual(self.assert_all_there(run, path), 4)

    def test_an_error_in_the_first_round(self):
        path = self.path("x.h5")
        run = self.fail_with(["an error in round 1", "it ended in its first round"], "--job", self.job, "--output", path,
                             "--inject", "rank-error@1:2", ranks=3)
        self.assertEqual(len(columns(path, "rounds")["round"]), 0, str(run))

    def test_an_error_of_a_tracker(self):
        """A plug-in that is told of the run, and can no longer write. With a test set that takes longer than a round, later
        rounds wait for their evaluation then: their rows are told to the others."""
        slow = ("--data-dir", write_images(self.path("slow"), train=600, test=20000))
        for ranks, options in ((0, ()), (3, ()), (3, slow)):
            with self.subTest(ranks=ranks, options=options):
                path, link = self.path(f"{ranks}{len(options)}.h5"), self.path(f"{ranks}{len(options)}.jsonl")
                os.symlink(self.path(f"{ranks}{len(options)}.log"), link)
                run = self.start("--job", self.job, *options, "--output", path, "--track", f"jsonl:{link}", ranks=ranks,
                                 FL_SIM_TEST=self.hold(6))
                self.reach(run, 3)
                os.symlink("/dev/full", link + ".full")
                os.rename(link + ".full", link)
                self.release()
                run.wait()
                self.assertEqual(run.code, 1, str(run))
                self.assert_one_message(run, ["rank 0: ", link, "cannot be written", "it ended after round", "of 8"])
                self.assert_all_there(run, path, *options)

    # ------------------------------------------------------------------------------------------------ signals

    def test_signals(self):
        """Each one ends the round and the run, is called by its name, and the run goes on from there."""
        for what in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU):
            for ranks in (0, 3) if what in (signal.SIGTERM, signal.SIGHUP) else (0,):
                with self.subTest(what=what.name, ranks=ranks):
                    path = self.path(f"{what.name}-{ranks}.h5")
                    options = ["--job", self.job, "--output", path, "--resume", "auto"]
                    # Not ignored, as under a test run that is to outlive its own terminal.
                    run = self.start(*options, ranks=ranks, FL_SIM_TEST=self.hold(6),
                                     prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
                    self.reach(run, 3)
                    process = {rank_of(p): p for p in run.ranks()}[2] if ranks else run.process.pid
                    os.kill(process, what)
                    run.wait()
                    self.release()
                    self.assertEqual(run.code, 75, str(run))
                    self.assertRegex(run.err, rf"warning: {what.name}\b.* asks the run to stop: it ends after the round")
                    self.assertRegex(run.err, rf"stopped by {what.name} after round \d of 8; --resume auto goes on")
                    self.assert_all_there(run, path)
                    self.succeed(*options)
                    self.assertEqual(checksum(path), self.model_after(8))

    def test_who_sent_it(self):
        run = self.start("--job", self.job, "--output", self.path("x.h5"), FL_SIM_TEST=self.hold(6))
        self.reach(run, 2)
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait()
        with open(f"/proc/{os.getpid()}/comm") as file:
            self.assertIn(f"SIGTERM (from {file.read().strip()}, process {os.getpid()})", run.err)

    def test_nobody_reads_any_more(self):
        """fl_sim ... | head: the reader goes after two rounds."""
        path = self.path("x.h5")
        reader, writer = os.pipe()
        options = ["--job", self.job, "--output", path, "--resume", "auto"]
        run = self.start(*options, prepare=lambda: os.dup2(writer, 1))
        os.close(writer)
        text = ""
        with os.fdopen(reader) as lines:
            for line in lines:
                text += line
                if line.startswith("round 2/"):
                    break
        run.wait()
        self.assertEqual(run.code, 75, str(run))
        self.assertIn("SIGPIPE (nobody reads this run's output any more) asks the run to stop", run.err)
        self.assertRegex(run.err, r"stopped by SIGPIPE after round \d of 8")
        rounds = len(columns(path, "rounds")["round"])
        self.assertGreaterEqual(rounds, 2, text)
        self.assertEqual(checksum(path), self.model_after(rounds))
        self.succeed(*options)
        self.assertEqual(checksum(path), self.model_after(8))

    def test_nohup(self):
        """Who starts a run so says that it is to outlive its terminal."""
        path = self.path("x.h5")
        run = self.start("--job", self.job, "--output", path, FL_SIM_TEST=self.hold(4),
                         prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.reach(run, 2)
        os.kill(run.process.pid, signal.SIGHUP)
        self.release()
        run.wait()
        self.assertEqual(run.code, 0, str(run))
        self.assertEqual(checksum(path), self.model_after(8))

    def test_a_second_signal(self):
        """Nobody waits for the round then; what was shown before the first one is there."""
        path = self.path("x.h5")
        client = self.drawn_in(5)[0]
        run = self.start("--job", self.job, "--output", path, "--inject", f"slow-client@5:{client}:{PATIENCE}")
        self.reach(run, 4)
        os.kill(run.process.pid, signal.SIGTERM)
        self.until(run, lambda: "asks the run to stop" in run.err)
        time.sleep(1.1)
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait()
        self.assertEqual(run.code, 128 + signal.SIGTERM, str(run))
        self.assertIn("fl_sim: a second signal ends the run at once", run.err)
        self.assertEqual(self.assert_all_there(run, path), 4)

    def drawn_in(self, round_number):
        path = self.path("drawn.h5")
        self.succeed("--job", self.job, "--output", path, "--overwrite", "--rounds", round_number)
        clients = columns(path, "clients")
        return clients["client"][clients["round"] == round_number]

    def test_the_launcher_is_told_to_end(self):
        """mpirun gives its ranks a second: what was shown is there."""
        if not is_open_mpi():
            self.skipTest("other launchers kill at once")
        path = self.path("x.h5")
        run = self.start("--job", self.job, "--output", path, ranks=3, FL_SIM_TEST=self.hold(6))
        self.reach(run, 3)
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait()
        self.assertNotEqual(run.code, 0)
        self.assertTrue(run.gone(), str(run))
        if is_open_mpi("4"):  # later ones forward nothing any more
            self.assertRegex(run.err, r"SIGTERM \(from \w+, process \d+\) asks the run to stop")
        self.assert_all_there(run, path)

    # ------------------------------------------------------------------------------------------------ killed

    def test_a_rank_is_killed(self):
        """Those that are left name it, and what it did, also where the launcher is to be quiet."""
        for victim in (2, 1, 0):
            for launcher in ([], ["-q"]) if is_open_mpi("4") and victim == 2 else ([],):
                with self.subTest(victim=victim, launcher=launcher):
                    path = self.path(f"{victim}{''.join(launcher)}.h5")
                    run = self.start("--job", self.job, "--output", path, ranks=3, launcher=launcher,
                                     FL_SIM_TEST=self.hold(6))
                    self.reach(run, 3)
                    process = {rank_of(p): p for p in run.ranks()}[victim]
                    time.sleep(0.5)  # all are in the round that is held
                    os.kill(process, signal.SIGKILL)
                    run.wait()
                    self.release()
                    self.assertNotEqual(run.code, 0, str(run))
                    self.assertTrue(run.gone(), str(run))
                    self.assertEqual(run.err.count("was killed or has crashed"), 1, str(run))
                    self.assertRegex(run.err, rf"fl_sim: (?:rank \d: )?rank {victim} \(process {process} on "
                                              rf"{socket.gethostname()}\) was killed or has crashed: it was [a-z]+")
                    self.assertNotIn("asks the run to stop", run.err)
                    if victim != 0:  # it had them
                        self.assertIn("it ended after round ", run.err)
                        self.assert_all_there(run, path)

    # ------------------------------------------------------------------------------------------------ nobody counts

    BAD = ["--algorithm", "fedavg", "--local.lr", 1e30]

    def test_nobody_ever_counts(self):
        """One line a round, the count in the summary, and an exit status of its own."""
        for ranks in (0, 3):
            path = self.path(f"{ranks}.h5")
            run = self.start("--job", self.job, *self.BAD, "--rounds", 3, "--output", path, ranks=ranks).wait()
            self.assertEqual(run.code, 3, str(run))
            lines = re.findall(r"^fl_sim: warning: clients [\d, ]+ and \d+ diverged in round (\d): their updates are not "
                               r"finite", run.err, re.M)
            self.assertEqual(lines, ["1", "2", "3"], str(run))
            self.assertEqual(len(re.findall(r"^fl_sim: ", run.err, re.M)), 4, str(run))
            self.assertIn("no client's update counted in any of 3 rounds: the model is the one that the run began with",
                          run.err)
            self.assertRegex(run.out, r"left out +of 18 clients asked: 18 diverged; rounds in which nobody counted: 3 of 3")
            rounds = columns(path, "rounds")
            self.assertEqual(list(rounds["diverged"]), [6, 6, 6])
            self.assertEqual(list(rounds["failed"]), [6, 6, 6])
            with h5py.File(path) as file:
                self.assertIn("end", file["provenance"].attrs)

    def test_somebody_counts(self):
        """A client that diverges in each round is no reason for that status."""
        client = self.drawn_in(1)[0]
        run = self.succeed("--job", self.job, "--rounds", 1, "--inject", f"nan-update@1:{client}", "--output",
                           self.path("x.h5"))
        self.assertIn("of 6: 1 diverged", run.out)
        self.assertIn(f"warning: client {client} diverged in round 1: its update is not finite", run.err)

    def test_give_up(self):
        """An early end, whose last model is evaluated; on every number of ranks, and after going on."""
        for ranks in (0, 3):
            path = self.path(f"{ranks}.h5")
            options = ["--job", self.job, *self.BAD, "--give-up", 2, "--evaluate-every", 0, "--output", path]
            run = self.start(*options, ranks=ranks).wait()
            self.assertEqual(run.code, 3, str(run))
            rounds = columns(path, "rounds")
            self.assertEqual(list(rounds["round"]), [1, 2])
            self.assertGreater(rounds["test_accuracy"][-1], 0)
        lost = ",".join(f"client-crash@{r}:{c}" for r in (3, 4) for c in self.drawn_in(r))
        path = self.path("later.h5")
        run = self.start("--job", self.job, "--give-up", 2, "--inject", lost, "--output", path).wait()
        self.assertEqual(run.code, 3, str(run))
        self.assertIn("gave up after round 4: no client's update counted in 2 rounds in a row (give-up)", run.err)
        self.assertEqual(list(columns(path, "rounds")["lost"]), [0, 0, 6, 6])
        # Two rounds that are not in a row are no reason.
        apart = ",".join(f"client-crash@{r}:{c}" for r in (3, 5) for c in self.drawn_in(r))
        self.succeed("--job", self.job, "--give-up", 2, "--inject", apart, "--output", self.path("apart.h5"))

    def test_compared(self):
        paths = []
        for rate in ("0.05", "1e30"):
            paths.append(self.path(rate + ".h5"))
            self.start("--job", self.job, "--algorithm", "fedavg", "--local.lr", rate, "--rounds", 2, "--output",
                       paths[-1]).wait()
        table = self.succeed("compare", *paths).out.splitlines()
        place = table[0].index("diverged")
        self.assertEqual([line[place:place + 8].strip() for line in table[1:]], ["0", "12"])
        self.assertNotIn("diverged", self.succeed("compare", paths[0]).out)

    def test_different_words_for_different_things(self):
        """Absent, late, lost and failed clients: each has its column, and its words in header, progress and summary."""
        path = self.path("x.h5")
        run = self.succeed("--job", self.job, "--availability.probability", 0.7, "--availability.dropout", 0.3,
                           "--stragglers.fraction", 0.34, "--output", path)
        self.assertRegex(run.out, r"attendance +absent: a client can be drawn with chance 0.7; late: 34.0 % of a cohort, "
                                  r"dropped; lost: one that was drawn never answers with chance 0.3")
        rounds, clients = columns(path, "rounds"), columns(path, "clients")
        for name, status in (("stragglers", 2), ("lost", 4), ("diverged", 1), ("partial", 3)):
            expected = [int(((clients["round"] == r) & (clients["status"] == status)).sum()) for r in rounds["round"]]
            self.assertEqual(list(rounds[name]), expected, name)
        self.assertEqual(list(rounds["failed"]), list(rounds["stragglers"] + rounds["lost"]))
        self.assertTrue(all(0 <= absent <= 12 for absent in rounds["absent"]) and sum(rounds["absent"]) > 0)
        self.assertRegex(run.out, r"of 6: 2 late, \d lost")
        self.assertRegex(run.out, rf"left out +of {sum(rounds['cohort'])} clients asked: "
                                  rf"{sum(rounds['stragglers'])} late and dropped, {sum(rounds['lost'])} lost\n")
        partial = self.succeed("--job", self.job, "--rounds", 1, "--local.epochs", 2, "--stragglers.fraction", 0.5,
                               "--stragglers.policy", "partial", "--output", self.path("y.h5"))
        self.assertIn("of 6: 3 in part", partial.out)
        self.assertRegex(partial.out, r"left out +nobody; 3 late count in part")

    def test_an_algorithms_own_defaults_stand_in_the_header(self):
        for words, expected in ((["fedadam"], r"defaults +.*server.optimizer adam \(else sgd\)"),
                                (["fedadam", "--server.optimizer", "adam"], r"defaults +.*server.optimizer adam"),
                                (["fedavgm"], r"defaults +.*server.optimizer momentum \(else sgd\)")):
            run = self.succeed("--job", self.job, "--rounds", 1, "--algorithm", *words, "--output", self.path("x.h5"),
                               "--overwrite")
            self.assertRegex(run.out, expected)
        run = self.succeed("--job", self.job, "--rounds", 1, "--algorithm", "fedavg", "--output", self.path("y.h5"))
        self.assertNotIn("  defaults", run.out)

    # ------------------------------------------------------------------------------------------------ MPI

    def test_ranks_that_mpi_does_not_know(self):
        """What launchers say to n lone processes is believed, and each is not taken for a whole run."""
        for variables in ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
                          {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, {"PMI_SIZE": "4", "PMI_RANK": "0"},
                          {"MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "0"}, {"FLUX_JOB_SIZE": "4", "FLUX_TASK_RANK": "0"},
                          {"JSM_NAMESPACE_SIZE": "4"}, {"PALS_SIZE": "4", "PALS_RANKID": "0"},
                          {"MV2_COMM_WORLD_SIZE": "4"}):
            with self.subTest(variables):
                path = self.path("x.h5")
                options = ["--job", self.job, "--rounds", 1, "--output", path, "--overwrite"]
                self.fail_with(["the 4 ranks that were started do not know of one another", "=4", "start them with",
                                "--alone"], *options, **variables)
                self.assertFalse(os.path.exists(path))
                self.succeed(*options, "--alone", **variables)
                os.remove(path)
        # A batch job's script that forgot to start ranks, a shell that has a job, a step of one task, and mpirun in a job.
        for more, warned in (([], 1), (["--alone"], 0)):
            run = self.succeed("--job", self.job, "--rounds", 1, *more, "--output", self.path("s.h5"), "--overwrite",
                               SLURM_NTASKS="4", SLURM_PROCID="0")
            self.assertEqual(run.err.count("one process, though the batch job has tasks for more (SLURM_NTASKS=4)"), warned)
        run = self.succeed("--job", self.job, "--rounds", 1, "--output", self.path("a.h5"), SLURM_NTASKS="4")
        self.assertEqual(run.err, "")
        self.succeed("--job", self.job, "--rounds", 1, "--output", self.path("b.h5"), SLURM_NTASKS="4", SLURM_PROCID="0",
                     SLURM_STEP_NUM_TASKS="1")
        self.succeed("--job", self.job, "--rounds", 1, "--output", self.path("c.h5"), ranks=2, SLURM_NTASKS="4",
                     SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="4")

    def test_only_the_first_of_them_speaks(self):
        run = self.start("--job", self.job, "--output", self.path("x.h5"), SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="2",
                         ).wait()
        self.assertEqual((run.code, run.out, run.err), (1, "", ""))
        # Each is a run of its own if that is meant: the third one, too.
        self.succeed("--job", self.job, "--rounds", 1, "--output", self.path("x.h5"), "--alone", SLURM_STEP_NUM_TASKS="4",
                     SLURM_PROCID="2")

    def test_alone_together(self):
        self.fail_with(["alone is set, but this is one of 2 ranks"], "--job", self.job, "--alone", "--output",
                       self.path("x.h5"), ranks=2)


if __name__ == "__main__":
    import unittest
    unittest.main(verbosity=2)
