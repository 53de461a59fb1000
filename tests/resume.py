"""A run that is interrupted goes on with the same bits: whoever gets the signal, whatever the algorithm keeps, on
another number of ranks, and after the worst of deaths. What cannot be continued is refused with the reason.
"""
import os
import shutil
import signal
import time

import h5py
import numpy as np

from whole_program import Case, checksum, columns, is_open_mpi, rank_of, write_images

# What a run must not forget: server state, clients' state, two exchanges, lanes, clusters, momentum, evaluations.
ALGORITHMS = {
    "fedadam": ["--server.lr", 0.01],
    "scaffold": [],
    "mime": [],
    "pwfl": ["--pwfl.models", 3, "--pwfl.inner", "scaffold"],
    "cfl": ["--cohort", 23, "--cfl.eps1", 10, "--cfl.eps2", 0, "--cfl.first-split", 4,
            "--partition.test-fraction", 0.2],
    "ditto": ["--partition.test-fraction", 0.2, "--evaluate-clients", 0.5],
    "fedavg": ["--local.momentum", 0.9, "--local.keep-momentum", "--evaluate-every", 3],
}


class Resume(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=10, model="2nn")

    def whole(self, *options):
        path = self.path("whole.h5")
        self.succeed("--job", self.job, *options, "--output", path, "--overwrite")
        return path

    def begin(self, path, *options, ranks=3, rounds=3, done=0, delay=60):
        """A run, after `done` rounds of another, when it has shown so many; it waits three rounds later at the latest."""
        run = self.start("--job", self.job, *options, "--output", path, "--resume", "auto", ranks=ranks,
                         FL_SIM_TEST=f"delay={delay},{self.hold(done + rounds + 3)}")
        self.reach(run, rounds)
        return run

    def interrupt(self, run, what=signal.SIGUSR1, whom=None):
        """A signal to whom, by default the process that was started; but MPICH's mpirun may forget what its ranks'
        exit codes were after one, so there a rank gets it.
        """
        if whom is None:
            whom = run.process.pid if is_open_mpi() else run.ranks()[0]
        os.kill(whom, what)
        run.wait()
        self.assertEqual(run.code, 75, str(run))
        self.assertRegex(run.err, r"stopped by SIG\w+ after round \d+ of 10; --resume auto goes on")
        self.assertTrue(run.gone(), str(run))

    def go_on(self, path, *options, ranks=0):
        return self.succeed("--job", self.job, *options, "--output", path, "--resume", "auto", ranks=ranks)

    def folder_of(self, path):
        return path[:-len(".h5")] + ".checkpoint"

    def test_every_kind_of_memory(self):
        """Interrupted after some rounds on 3 ranks, continued on 2, interrupted again, continued without mpirun."""
        for algorithm, more in ALGORITHMS.items():
            with self.subTest(algorithm=algorithm):
                options = ["--algorithm", algorithm, *more]
                expected = self.whole(*options)
                path = self.path(algorithm + ".h5")
                self.interrupt(self.begin(path, *options))
                done = len(columns(path, "rounds")["round"])
                self.assertLess(done, 10)
                run = self.begin(path, *options, ranks=2, rounds=2, done=done)
                self.assertIn(f"goes on after round {done}", run.out)
                self.interrupt(run)
                self.assertGreater(len(columns(path, "rounds")["round"]), done)
                self.go_on(path, *options)
                self.assert_same(expected, path, algorithm)
                self.assertFalse(os.path.exists(self.folder_of(path)), "a complete run needs no checkpoint")
                with h5py.File(path) as file:
                    self.assertEqual(len(file["provenance"].attrs["resumed"].split()), 2)

    def test_whoever_gets_the_signal(self):
        """One rank tells all others; under mpirun, which forwards it to all, it counts once."""
        options = ["--algorithm", "scaffold"]
        expected = self.whole(*options)
        for who in ("server", "host", "mpirun") if is_open_mpi() else ("server", "host"):
            for what in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                if who == "mpirun" and what != signal.SIGUSR1:
                    continue  # it ends its ranks a second later, whatever they do
                with self.subTest(who=who, what=what):
                    path = self.path(f"{who}-{what}.h5")
                    run = self.begin(path, *options)
                    ranks = {rank_of(process): process for process in run.ranks()}
                    self.interrupt(run, what, {"server": ranks[0], "host": ranks[2], "mpirun": run.process.pid}[who])
                    self.go_on(path, *options, ranks=3)
                    self.assert_same(expected, path, who)

    def test_no_time_left(self):
        """The round under way is dropped when the grace is over, and what it did to clients is undone."""
        self.drop_a_round("--algorithm", "scaffold", "--local.epochs", 4)

    def test_no_time_left_while_a_timetable_grows(self):
        """The version under way is dropped, but who was drawn for it stays."""
        options = ["--algorithm", "fedbuff", "--async.buffer", 3, "--devices", "halfnormal", "--sampler", "oort",
                   "--oort.step", 0.2, "--local.epochs", 4]
        self.drop_a_round(*options)

    def drop_a_round(self, *options):
        expected = self.whole(*options)
        for ranks in (0, 3):
            path = self.path(f"dropped-{ranks}.h5")
            run = self.begin(path, *options, "--grace", 0, ranks=ranks, delay=200)
            time.sleep(0.3)
            self.interrupt(run)
            self.go_on(path, *options)
            self.assert_same(expected, path, f"dropped on {ranks} ranks")

    def test_killed(self):
        """After kill -9 of any process it goes on from the last checkpoint, or from the beginning."""
        options = ["--algorithm", "scaffold", "--checkpoint-every", 2]
        expected = self.whole(*options)
        for victim in range(3):
            path = self.path(f"killed-{victim}.h5")
            run = self.begin(path, *options, rounds=5)
            os.kill(sorted(run.ranks())[victim], signal.SIGKILL)
            run.wait()
            self.assertGreater(run.code, 0)
            self.assertTrue(run.gone(), str(run))
            columns(path, "rounds")  # it is whole
            going_on = self.go_on(path, *options, ranks=2)
            self.assertRegex(going_on.out, r"goes on after round [2468],")
            self.assert_same(expected, path, victim)

    def test_state_in_files(self):
        """Clients' state that is partly on the disk is in the checkpoint, too."""
        options = ["--algorithm", "scaffold", "--state-memory", 1, "--checkpoint-every", 3]
        expected = self.whole("--algorithm", "scaffold")
        path = self.path("files.h5")
        options += ["--state-dir", self.path("state")]
        self.interrupt(self.begin(path, *options, rounds=5))
        self.go_on(path, *options, ranks=2)
        self.assert_same(expected, path, "state-dir")
        self.assertEqual(os.listdir(self.path("state")) if os.path.exists(self.path("state")) else [], [])

    def test_complete(self):
        path = self.whole()
        run = self.go_on(path)
        self.assertIn("is complete since", run.out)
        self.fail_with(["of another job", "seed: there 0, here 1"], "--job", self.job, "--output", path, "--resume",
                       "auto", "--seed", 1)

    def test_refused(self):
        """Another job, other data, damage of every kind: named, and nothing is touched."""
        options = ["--algorithm", "scaffold"]
        path = self.path("x.h5")
        self.interrupt(self.begin(path, *options))
        folder = self.folder_of(path)
        round_folder = os.path.join(folder, os.listdir(folder)[0])
        before = checksum(path)
        go_on = ["--job", self.job, "--output", path, "--resume", "auto"]

        def refused(words, *more, ranks=0):
            self.fail_with(words, *go_on, *more, ranks=ranks)
            self.assertEqual(checksum(path), before)

        refused(["of another job", "algorithm: there scaffold, here fedavg"])
        refused(["of another job", "local.lr: there 0.05, here 0.1", "seed: there 0, here 7"], *options, "--local.lr",
                0.1, "--seed", 7, ranks=3)
        other = self.path("other")
        write_images(other, train=1500)
        with open(os.path.join(other, "train-images-idx3-ubyte"), "r+b") as file:
            file.seek(1000)
            file.write(b"\x01\x02\x03")
        refused(["other data"], *options, "--data-dir", other)

        saved = self.path("saved")
        shutil.copytree(round_folder, saved)

        def damaged(name, change, words, ranks=0):
            place = os.path.join(round_folder, name)
            with open(place, "rb") as file:
                data = file.read()
            with open(place, "wb") as file:
                file.write(change(data))
            refused(words, *options, ranks=ranks)
            shutil.rmtree(round_folder)
            shutil.copytree(saved, round_folder)

        def flipped(data):
            return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]

        client_file = sorted(name for name in os.listdir(saved) if name.startswith("rank-"))[0]
        damaged("manifest", lambda data: data[:-40], ["manifest", "truncated"])
        damaged("manifest", flipped, ["manifest", "damaged"])
        damaged("manifest", lambda data: b"", ["manifest", "no manifest"])
        damaged("manifest", lambda data: b"PNG" * 100, ["manifest", "no manifest"])
        damaged("server.h5", flipped, ["server.h5", "is damaged"])
        damaged("server.h5", lambda data: data[:-1], ["server.h5", "were written"])
        damaged(client_file, flipped, [client_file, "is damaged"], ranks=3)
        damaged(client_file, lambda data: data + b"x", [client_file, "were written"])
        os.remove(os.path.join(round_folder, client_file))
        refused([client_file, "is missing"], *options)
        shutil.rmtree(round_folder)
        shutil.copytree(saved, round_folder)

        import json
        import zlib
        with open(os.path.join(saved, "manifest")) as file:
            body = json.loads(file.read().rpartition("\ncrc32 ")[0])
        for version in (1, 99):  # an earlier fl_sim's, and a later one's
            body["version"] = version
            text = json.dumps(body).encode()
            damaged("manifest", lambda data: text + f"\ncrc32 {zlib.crc32(text):08x}\n".encode(),
                    [f"format version {version}, by fl_sim 0.", "reads version 2 only"])
        os.remove(path)
        self.fail_with(["is missing", "rounds before the checkpoint"], *go_on, *options)
        self.fail_with(["resume is must", "no checkpoint"], "--job", self.job, "--output", self.path("new.h5"),
                       "--resume", "must")

    def test_not_asked_for(self):
        """Without --resume a results file is protected, with its checkpoint; --overwrite replaces both."""
        path = self.path("x.h5")
        self.interrupt(self.begin(path))
        self.fail_with(["ended after round", "of 10", "--resume auto"], "--job", self.job, "--output", path)
        self.assertTrue(os.path.exists(self.folder_of(path)))
        run = self.succeed("--job", self.job, "--output", path, "--overwrite")
        self.assertIn("is removed: without --resume", run.err)

    def test_two_at_once(self):
        """Two living runs do not write to one file, nor to one folder of checkpoints; a dead one is in nobody's way."""
        path, folder = self.path("x.h5"), self.path("checkpoints")
        options = ["--checkpoint-every", 1, "--checkpoint-dir", folder]
        run = self.begin(path, *options, rounds=1)
        self.fail_with([f"{path} is another run's", "process", "since", "choose another --output"], "--job", self.job,
                       "--output", path, "--overwrite")
        os.mkdir(self.path("elsewhere"))
        self.fail_with([os.path.join(folder, "x.checkpoint") + " is another run's", "--checkpoint-dir"], "--job", self.job,
                       *options, "--output", self.path("elsewhere/x.h5"))
        self.assertEqual(os.listdir(self.path("elsewhere")), [], "files are left behind")
        os.kill(run.process.pid, signal.SIGKILL)
        self.go_on(path, *options)
        self.assertTrue(run.gone())
        self.assert_same(self.whole(), path, "after the other's death")
        self.assertEqual(sorted(os.listdir(self.folder)), ["checkpoints", "elsewhere", "whole.h5", "x.h5"])
        self.assertEqual(os.listdir(folder), [])

    def test_nowhere_to_write(self):
        self.fail_with(["checkpoint-dir", "cannot be made"], "--job", self.job, "--output", self.path("x.h5"),
                       "--checkpoint-every", 2, "--checkpoint-dir", "/proc/nowhere")

    # ------------------------------------------------------------------------------------------------ more rounds
    def rows_equal(self, one, other, skip=("seconds", "idle_share")):
        """All columns of /rounds and /clients but those of times and places."""
        with h5py.File(one, "r") as a, h5py.File(other, "r") as b:
            for group in ("rounds", "clients"):
                self.assertEqual(sorted(a[group]), sorted(b[group]))
                for name in a[group]:
                    if name in skip or (group == "clients" and name in ("rank", "seconds")) or name == "bytes_state":
                        continue
                    np.testing.assert_array_equal(a[group][name][()], b[group][name][()], f"{group}/{name}")

    def test_more_rounds_than_it_had(self):
        """A complete run of 6 rounds that kept its checkpoint, prolonged to 9 on other ranks, is a run of 9."""
        for algorithm, more in (("fedavg", ["--server.optimizer", "momentum"]), ("scaffold", []),
                                ("fedadam", ["--server.lr", 0.01]),
                                ("fedavg", ["--server.average", "ema", "--transforms", "clip", "--clip.norm", 0.5])):
            with self.subTest(algorithm=algorithm, more=more):
                options = ["--job", self.job, "--algorithm", algorithm, *more]
                expected, path = self.path("nine.h5"), self.path("six.h5")
                self.succeed(*options, "--rounds", 9, "--output", expected, "--overwrite", ranks=2)
                keep = ["--keep-checkpoint", "--resume", "auto", "--output", path]
                run = self.succeed(*options, "--rounds", 6, *keep, ranks=3)
                self.assertIn("goes on from the checkpoint in " + self.folder_of(path), run.out)
                self.assertIn("is complete", self.succeed(*options, "--rounds", 6, *keep).out)
                run = self.succeed(*options, "--rounds", 9, "--resume", "auto", "--output", path)
                self.assertIn("goes on after round 6", run.out)
                self.assertEqual(checksum(path), checksum(expected))
                self.rows_equal(path, expected)
                self.assertFalse(os.path.exists(self.folder_of(path)))
                os.remove(path)

    def test_what_cannot_be_prolonged(self):
        path = self.path("x.h5")
        keep = ["--job", self.job, "--keep-checkpoint", "--resume", "auto", "--output", path]
        self.succeed(*keep, "--rounds", 2)
        self.fail_with(["rounds is 1", "is of round 2 already"], *keep, "--rounds", 1)
        for words, reason in ((["--local.lr-schedule", "cosine"], "local.lr-schedule is cosine"),
                              (["--server.average", "swa"], "server.average-start is auto")):
            output = self.path(words[-1] + ".h5")
            these = ["--job", self.job, "--keep-checkpoint", "--resume", "auto", "--output", output, *words]
            self.succeed(*these, "--rounds", 2)
            self.fail_with(["rounds is 3, and was 2", "cannot be prolonged: " + reason], *these, "--rounds", 3)
        shutil.rmtree(self.folder_of(path))
        before = checksum(path)
        self.fail_with([path + " is complete with 2 rounds", "--keep-checkpoint", "--overwrite"], *keep, "--rounds", 3)
        self.assertEqual(checksum(path), before)
        self.succeed(*keep, "--rounds", 3, "--overwrite")

    def test_a_target_that_is_raised(self):
        """The run that reached a target goes on to another; nothing of the round that was thrown away is saved."""
        options = ["--job", self.job, "--algorithm", "scaffold", "--rounds", 8]
        expected, path = self.path("whole.h5"), self.path("x.h5")
        self.succeed(*options, "--output", expected)
        accuracy = columns(expected, "rounds")["test_accuracy"]
        target = float(accuracy[2])
        reached = int(np.argmax(accuracy >= target)) + 1
        keep = [*options, "--keep-checkpoint", "--resume", "auto", "--output", path]
        self.succeed(*keep, "--target-accuracy", target, ranks=3)
        self.assertEqual(len(columns(path, "rounds")["round"]), reached)
        self.succeed(*keep, "--evaluate-every", 2, ranks=2)
        self.assertEqual(checksum(path), checksum(expected))

    def test_patience_and_the_best_model(self):
        """The best round by a metric, its model, and the end when nothing better comes, on any ranks and resumed."""
        for metric, sign in (("test_accuracy", 1), ("test_loss", -1), ("clients_loss", -1)):
            with self.subTest(metric):
                options = ["--job", self.job, "--local.lr", 0.4, "--best-metric", metric, "--partition.test-fraction", 0.2,
                           "--evaluate-clients", 1]
                whole = self.path("whole.h5")
                self.succeed(*options, "--save-best", "--output", whole, "--overwrite", ranks=3)
                values = sign * columns(whole, "rounds")[metric]
                best = int(np.argmax(values)) + 1
                patience, so_far, ends = 2, 1, 10
                for round_ in range(2, 11):
                    so_far = round_ if values[round_ - 1] > max(values[:round_ - 1]) else so_far
                    if round_ - so_far >= patience:
                        ends = round_
                        break
                with h5py.File(whole, "r") as file:
                    self.assertEqual(file["best_model"].attrs["round"], best)
                    self.assertEqual(sign * file["best_model"].attrs["value"], values[best - 1])
                    model = file["best_model"].attrs["checksum"]
                for ranks in (0, 3):
                    path = self.path("x.h5")
                    self.succeed(*options, "--rounds", best, "--output", path, "--overwrite", ranks=ranks)
                    self.assertEqual(checksum(path), model)
                    self.succeed(*options, "--patience", patience, "--save-best", "--output", path,
                                 "--overwrite", ranks=ranks)
                    self.assertEqual(len(columns(path, "rounds")["round"]), ends)
                    with h5py.File(path, "r") as file:
                        self.assertEqual(file["best_model"].attrs["round"], so_far)


if __name__ == "__main__":
    import unittest
    unittest.main(verbosity=2)
