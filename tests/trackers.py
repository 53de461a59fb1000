"""Who is told of a run: event files for TensorBoard and tables, while it runs and afterwards (fl_sim export), exact after a
kill. Event files are read by a decoder of the test's own; TensorBoard's reads them, too, where it is installed.
"""
import csv
import glob
import os
import shutil
import struct
import unittest

import h5py
import numpy as np

import resume
from whole_program import NOT_COMPARED, Case, checksum, columns


def crc32c(data):
    """Bit by bit: Castagnoli's polynomial, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """[(number, value)] of a protobuf message."""
    found, place = [], 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while place < len(data):
        key = varint()
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 2:
            size = varint()
        if size is not None:
            value = data[place:place + size]
            place += size
        found.append((key >> 3, value))
    return found


def events(folder):
    """[(step, {tag: value as bytes or number})] of the one event file in a folder; every checksum is held."""
    (path,) = glob.glob(os.path.join(folder, "events.out.tfevents.*"))
    with open(path, "rb") as file:
        data = file.read()
    found, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        (check,) = struct.unpack_from("<I", data, place + 8)
        assert check == masked(data[place:place + 8])
        event = data[place + 12:place + 12 + length]
        (check,) = struct.unpack_from("<I", data, place + 12 + length)
        assert check == masked(event)
        place += length + 16
        step, values = 0, {}
        for number, value in fields(event):
            if number == 2:
                step = value
            if number == 5:
                for _, one in fields(value):
                    parts = dict(fields(one))
                    tag = parts[1].decode()
                    values[tag] = struct.unpack("<f", parts[2])[0] if 2 in parts else parts.get(9, b"")
        found.append((step, values))
    return found


def scalars(folder):
    """{tag: [(step, value)]}"""
    found = {}
    for step, values in events(folder):
        for tag, value in values.items():
            if isinstance(value, float):
                found.setdefault(tag, []).append((step, value))
    return found


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Trackers(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=600, rounds=6, clients=12, cohort=4, model="logistic", quiet="true", evaluate_every=2,
                      evaluate_clients=1, partition__test_fraction=0.2, transforms="clip", clip__norm=0.5)

    @classmethod
    def write_job(cls, train, rounds, **changes):
        super().write_job(train, rounds, **{name.replace("__", "."): value for name, value in changes.items()})

    def train(self, name, *options, **further):
        path = self.path(f"{name}.h5")
        self.succeed("--job", self.job, *options, "--output", path, **further)
        return path

    def test_checksums_of_records(self):
        """The decoder's checksum is that of the published example."""
        self.assertEqual(masked(b"\x1a\x11CRC test, one two"), 0x5794D08A)

    def assert_scalars(self, folder, path):
        """Each scalar is its column, where that was measured."""
        found, table = scalars(folder), columns(path, "rounds")
        for tag, column in (("test/accuracy", "test_accuracy"), ("train/loss", "train_loss"), ("round/cohort", "cohort"),
                            ("clients/accuracy_worst_10", "clients_accuracy_worst_10"), ("clip/clipped", "clip.clipped"),
                            ("round/bytes_up", "bytes_up")):
            with self.subTest(tag=tag):
                measured = [(int(r), np.float32(v)) for r, v in zip(table["round"], table[column]) if not np.isnan(v)]
                self.assertEqual(found[tag], measured)
                self.assertGreaterEqual(len(measured), 3)

    def test_tensorboard(self):
        """While it runs, and afterwards from the results file; with HParams, whose group is the job without its seed."""
        for seed in (1, 2):
            self.train(f"run-{seed}", "--seed", seed, "--keep-checkpoint", "true", "--track",
                       f"tensorboard:{self.path('live')}", ranks=3)
        paths = [self.path(f"run-{seed}.h5") for seed in (1, 2)]
        self.succeed("export", "tensorboard", *paths, "--to", self.path("later"))
        groups = set()
        for place in ("live", "later"):
            for seed in (1, 2):
                folder = self.path(f"{place}/run-{seed}")
                self.assert_scalars(folder, self.path(f"run-{seed}.h5"))
                all_events = events(folder)
                tags = [tag for _, values in all_events for tag, value in values.items() if isinstance(value, bytes)]
                self.assertEqual(tags, ["job", "_hparams_/experiment", "_hparams_/session_start_info",
                                        "_hparams_/session_end_info"])
                start = next(values["_hparams_/session_start_info"] for _, values in all_events
                             if "_hparams_/session_start_info" in values)
                content = dict(fields(dict(fields(dict(fields(start))[1]))[2]))[3]
                settings = {}
                for number, value in fields(content):
                    if number == 1:
                        entry = dict(fields(value))
                        settings[entry[1].decode()] = fields(entry[2])[0]
                    if number == 4:
                        groups.add(value.decode())
                self.assertEqual(settings["local.lr"], (2, struct.pack("<d", 0.05)))
                self.assertEqual(settings["model"], (3, b"logistic"))
                self.assertEqual(settings["seed"], (2, struct.pack("<d", seed)))
                self.assertEqual(settings["keep-checkpoint"], (4, 1))
                self.assertNotIn("local.epochs", settings)  # a default
        self.assertEqual(len(groups), 1)

    def test_curves_of_clients(self):
        path = self.train("each", "--track", f"tensorboard:{self.path('board')}", "--tensorboard.clients", "true")
        found, table = scalars(self.path("board/each")), columns(path, "clients")
        client = int(table["client"][0])
        mine = table["client"] == client
        self.assertEqual(found[f"client {client}/loss"],
                         [(int(r), np.float32(v)) for r, v in zip(table["round"][mine], table["loss"][mine])])
        self.assertIn(f"client {client}/evaluated_accuracy", found)
        self.succeed("export", "tensorboard", path, "--to", self.path("later"), "--tensorboard.clients", "true")
        self.assertEqual(scalars(self.path("later/each")), found)

    def test_tables(self):
        """A cell is the number of the column, to the last bit; one that was not measured is empty."""
        path = self.train("tables", "--algorithm", "ditto", "--ditto.lambda", 0.1, "--track",
                          f"csv:{self.path('live')}", ranks=2)
        self.succeed("export", "csv", path, "--to", self.path("later"))
        for table in ("rounds", "clients", "evaluations", "ranks"):
            wanted, found = columns(path, table), rows(self.path(f"live/tables/{table}.csv"))
            self.assertEqual(len(found), len(next(iter(wanted.values()))))
            for name, values in wanted.items():
                if values.ndim > 1 or name in ("host", "device"):
                    continue
                for row, value in zip(found, values.tolist()):
                    if not row.get(name):  # of a count 0 is what was not measured
                        self.assertTrue(value != value or value == 0 and isinstance(value, int), name)
                    else:
                        self.assertEqual(type(value)(row[name]), value, name)
            with open(self.path(f"live/tables/{table}.csv")) as live, open(self.path(f"later/tables/{table}.csv")) as later:
                self.assertEqual(live.read(), later.read())

    def test_lines(self):
        path = self.train("lines", "--track", f"jsonl:{self.path('live')}/")
        self.succeed("export", "jsonl", path, "--to", self.path("later"))
        with open(self.path("live/lines.jsonl")) as live, open(self.path("later/lines.jsonl")) as later:
            self.assertEqual(live.readlines()[1:], later.readlines()[1:])

    def test_refusals(self):
        path = self.train("one")
        os.mkdir(self.path("b"))
        shutil.copy(path, self.path("b/one.h5"))
        for words, said in (
                (["export", "csv", path], ["--to FOLDER"]),
                (["export", "csv", "--to", self.path("x")], ["needs a results file"]),
                (["export", "xml", path, "--to", self.path("x")], ["there is no tracker 'xml'"]),
                (["export", "models", path, "--to", self.path("x")], ["tracker models", "while the run runs"]),
                (["export", "csv", path, self.path("b/one.h5"), "--to", self.path("x")], ["have the same name"]),
                (["export", "csv", path, "--to", self.path("x"), "--rounds", 3], ["unknown option --rounds"]),
                (["export", "csv", self.job, "--to", self.path("x")], [self.job]),
                (["--job", self.job, "--output", self.path("y.h5"), "--track", "tensorboard"], ["without a folder"]),
                (["--job", self.job, "--output", self.path("y.h5"), "--track", f"csv:{path}/x"], ["cannot be made"])):
            with self.subTest(words=words):
                self.fail_with(said, *words)

    def test_tensorboard_reads_it(self):
        try:
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        except ImportError:
            self.skipTest("tensorboard is not installed")
        path = self.train("read", "--track", f"tensorboard:{self.path('board')}")
        board = EventAccumulator(self.path("board/read"))
        board.Reload()
        table = columns(path, "rounds")
        self.assertEqual([(event.step, event.value) for event in board.Scalars("train/loss")],
                         [(int(r), np.float32(v)) for r, v in zip(table["round"], table["train_loss"])])


class Resumed(Case):
    @classmethod
    def setUpClass(cls):
        cls.write_job(train=1500, rounds=10, model="2nn", quiet="true")

    whole, begin = resume.Resume.whole, resume.Resume.begin
    interrupt, go_on = resume.Resume.interrupt, resume.Resume.go_on

    def test_after_a_kill(self):
        """What an interrupted run has left behind its checkpoint, cut in the middle of a record, is told once."""
        def tracks(name):
            return ["--track", f"tensorboard:{self.path(name)},csv:{self.path(name)}-csv", "--quiet", "false"]
        whole = self.whole(*tracks("whole"))
        path = self.path("again.h5")
        self.interrupt(self.begin(path, *tracks("again")))
        (file,) = glob.glob(self.path("again/again/events.*"))
        with open(file, "ab") as events_file:
            events_file.write(b"\x20\0\0\0\0\0\0\0cut")
        with open(self.path("again-csv/again/rounds.csv"), "a") as table:
            table.write("10,1,2\n10,")
        self.go_on(path, *tracks("again"))
        self.assertEqual(checksum(path), checksum(whole))
        left_out = {f"round/{name}" for name in NOT_COMPARED["rounds"]}
        name = os.path.splitext(os.path.basename(whole))[0]

        def told(folder):
            return {tag: values for tag, values in scalars(folder).items() if tag not in left_out}
        self.assertEqual(told(self.path("again/again")), told(self.path(f"whole/{name}")))

        def table(folder):
            return [{key: value for key, value in row.items() if key not in NOT_COMPARED["rounds"]}
                    for row in rows(os.path.join(folder, "rounds.csv"))]
        self.assertEqual(table(self.path("again-csv/again")), table(self.path(f"whole-csv/{name}")))
        with h5py.File(path) as results:
            self.assertEqual(len(results["provenance"].attrs["resumed"].split()), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
