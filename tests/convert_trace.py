"""scripts/convert_trace: other simulators' traces as files of ours, what it refuses, and that no pickle runs."""
import json
import os
import pickle
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "convert_trace"
# FedScale's id 3834.
ROW = {"duration": 211625, "inactive": [65881, 133574, 208292, 276575, 295006, 356236, 400906, 475099],
       "finish_time": 518400, "active": [12788, 100044, 188992, 271372, 276663, 352625, 356267, 441193],
       "model": "CPH1801"}


class Runs:
    """Pickled, it is a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class ConvertTrace(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="fl_sim_traces_")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "out.h5"

    def write(self, name, what):
        path = self.folder / name
        path.write_bytes(what if type(what) is bytes else pickle.dumps(what))
        return path

    def convert(self, *words):
        return subprocess.run([sys.executable, "-B", SCRIPT, *words, "-o", self.output], capture_output=True, text=True,
                              timeout=300)

    def made(self, *words):
        run = self.convert(*words, "--overwrite")
        self.assertEqual(run.returncode, 0, run.stderr)
        with h5py.File(self.output) as file:
            found = {f"{group}/{name}": data[()] for group in file for name, data in file[group].items()}
            found |= {f"{group}@{name}": value for group in file for name, value in file[group].attrs.items()}
        return found, run

    def refused(self, *words, says):
        self.output.unlink(missing_ok=True)
        run = self.convert(*words)
        self.assertEqual(run.returncode, 1, run)
        self.assertRegex(run.stderr, r"\Aconvert_trace: [^\n]*\n\Z")
        self.assertIn(says, run.stderr)
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("out")], [])

    def test_fedscale(self):
        """The figures of the rows that are known, in microseconds and bit/s of 1000 bit a kbit."""
        capacity = self.write("capacity", {7: {"computation": 20, "communication": 1.5},
                                           2: {"computation": 162.0, "communication": 5648.109619499134}})
        never = {"duration": 0, "inactive": [], "finish_time": 518400, "active": []}
        joined = {"inactive": (5, 7.25), "active": (2, 5), "finish_time": 518400.0}
        behave = self.write("behave", {3834: ROW, 1: never, 0: joined})
        found, run = self.made("fedscale", "--devices", capacity, "--availability", behave)
        np.testing.assert_array_equal(found["devices/seconds_per_sample"], [0.162, 0.02])
        for rate in ("down_bps", "up_bps"):
            np.testing.assert_allclose(found[f"devices/{rate}"], [5648109.619499134, 1500], rtol=1e-15)
        np.testing.assert_array_equal(found["devices/class"], [0, 0])
        self.assertEqual([found[f"devices/{name}"].dtype.str for name in ("seconds_per_sample", "down_bps", "class")],
                         ["<f8", "<f8", "<i4"])
        np.testing.assert_array_equal(found["availability/offset"], [0, 8, 8, 9])
        np.testing.assert_array_equal(found["availability/on"], [*(10**6 * np.array(ROW["active"])), 2 * 10**6])
        np.testing.assert_array_equal(found["availability/off"], [*(10**6 * np.array(ROW["inactive"])), 7250000])
        self.assertEqual({found[f"availability/{name}"].dtype.str for name in ("offset", "on", "off")}, {"<i8"})
        self.assertEqual((found["availability@period"], found["availability@unit"]), (518400 * 10**6, "us"))
        self.assertEqual(run.stderr, "")
        self.assertIn("2 devices", run.stdout)
        self.assertIn("3 rows of availability, on for 13.6 % of 518400 s", run.stdout)
        # The row alone.
        found, run = self.made("fedscale", "--availability", self.write("row", {3834: ROW}))
        self.assertIn("on for 40.8 % of 518400 s", run.stdout)
        self.assertNotIn("devices/class", found)

    def test_pickles_do_not_run(self):
        """Whatever a pickle asks for, nothing of it runs; each way to ask is tried."""
        ran = self.folder / "ran"
        command = f"touch {ran}"
        evil = Runs(command)
        text = command.encode()
        pickles = {
            "bare": pickle.dumps(evil), "hidden": pickle.dumps({1: {"computation": evil, "communication": 1}}),
            "key": pickle.dumps({1: {"computation": 1, "communication": 1}, (2, evil): {}}),
            **{f"protocol {n}": pickle.dumps([evil], protocol=n) for n in range(6)},
            "instance": b"(S'" + text + b"'\nios\nsystem\n.",
            "object": b"(cos\nsystem\nS'" + text + b"'\no.",
            "builtins": b"cbuiltins\neval\n(S'__import__(\"os\").system(\"" + text + b"\")'\ntR.",
            "ignored": b"cos\nsystem\n(S'" + text + b"'\ntR0(d.",
        }
        for name, data in pickles.items():
            with self.subTest(name):
                self.refused("fedscale", "--devices", self.write("evil", data), says="running it could do anything")
                self.refused("fedscale", "--skip", "--availability", self.folder / "evil", says="could do anything")
                self.assertFalse(ran.exists())
        # The same pickle does run where nobody is careful: the test would notice.
        pickle.loads(pickles["bare"])
        self.assertTrue(ran.exists())

        self.refused("fedscale", "--devices", self.write("persistent", b"\x80\x04\x8c\x01xQ."),
                     says="refers to an object outside")
        self.refused("fedscale", "--devices", self.write("numpy", {1: {"computation": np.float64(1), "communication": 1}}),
                     says="scalar, and running it could do anything")
        self.refused("fedscale", "--devices", self.write("extension", b"\x80\x04\x82\x01."), says="is no pickle")

    def test_refuses_what_is_no_fedscale(self):
        def devices(what, says):
            self.refused("fedscale", "--devices", self.write("d", what), says=says)

        whole = pickle.dumps({i: {"computation": 1.5, "communication": 2.5} for i in range(100)})
        devices(whole[:-40], "is no pickle, or cut short")
        devices(b"", "is no pickle, or cut short")
        devices(b"row,seconds_per_sample\n", "is no pickle")
        devices([1, 2], "holds no devices")
        devices({}, "holds no devices")
        devices({5: 3}, "device 5: is no dictionary but int")
        devices({5: {"communication": 1}}, "device 5: has no computation")
        for wrong in (float("nan"), float("inf"), -1, "1", None, True, [1], 10**400):
            devices({"a": {"computation": wrong, "communication": 1}}, "device 'a': computation is ")
        devices({5: {"computation": 1, "communication": 0}}, "communication is 0 (must be more than 0)")
        self.refused("fedscale", "--devices", self.folder / "nowhere", says="No such file")

        def availability(says, *words, **wrong):
            self.refused("fedscale", "--availability", self.write("a", {3834: {**ROW, **wrong}, 1: ROW}), *words, says=says)

        availability("device 3834: has 1 times in active and 8 in inactive", active=[3])
        availability("device 3834: its interval 0 begins at 3 s and ends at 3 s", active=[3], inactive=[3])
        availability("its interval 0 begins at 4 s and ends at 3 s", active=[4], inactive=[3])
        availability("its interval 1 begins at 5 s, before the one before it ends", active=[1, 5], inactive=[6, 7])
        availability("must be sorted and disjoint", active=[8, 1], inactive=[9, 2])
        availability("its interval 0 ends at 518401 s, but its period has 518400 s", active=[1], inactive=[518401])
        availability("active[1] is nan", active=[1, float("nan")], inactive=[2, 3])
        availability("inactive[0] is -2", active=[1], inactive=[-2])
        availability("has no list inactive", inactive=None)
        availability("finish_time is 'x'", finish_time="x")
        availability("devices differ in finish_time: 600000 s, 518400 s (give --period", finish_time=600000)
        availability("no device is right", "--period", "5", "--skip")

    def test_what_is_told_and_left_out(self):
        path = self.write("a", {1: ROW, 2: {**ROW, "active": [9], "inactive": [8]}, 3: {**ROW, "finish_time": 600000}, 4: 5,
                                5: {**ROW, "duration": 5}})
        found, run = self.made("fedscale", "--availability", path, "--skip", "--period", "600000")
        self.assertEqual(found["availability@period"], 600000 * 10**6)
        np.testing.assert_array_equal(found["availability/offset"], [0, 8, 16, 24])
        self.assertIn("left out 2 devices; the first one: ", run.stderr)
        self.assertIn("of 1 devices the duration is not the sum", run.stderr)
        run = self.convert("fedscale", "--availability", path, "--skip", "--period", "600000")
        self.assertEqual(run.returncode, 1)
        self.assertIn("exists (choose another --output, or --overwrite)", run.stderr)
        for wrong in (["fedscale"], ["flash", path, "--period", "0"], ["flash", path, "--period", "nan"], []):
            self.assertEqual(self.convert(*wrong).returncode, 2, wrong)

    def flash(self, *devices):
        texts = {f"guid {i}": {"model": "x", "messages": "\n".join(lines)} for i, lines in enumerate(devices)}
        return self.write("traces.json", json.dumps(texts).encode())

    def test_flash(self):
        """On while locked, in a WiFi and charging: each of them ends it; nothing else does."""
        first = ["2020-02-01 10:00:00\tscreen_lock", "2020-02-01 10:00:10\tWIFI", "2020-02-01 10:01:00\tbattery_charged_on",
                 "2020-02-01 10:01:30\t55.0%", "2020-02-01 10:01:40\tscreen_on", "2020-02-01 10:02:00\t4G", "",
                 "2020-02-01 10:03:00\twifi", "2020-02-01 10:04:00\tscreen_unlock",
                 # At one time, in their order: off and on again at once is no interval's end but a touch.
                 "2020-02-02 00:00:00\tscreen_lock", "2020-02-02 00:00:05\tscreen_unlock",
                 "2020-02-02 00:00:05\tscreen_lock", "2020-02-02 00:00:07\tbattery_charged_off",
                 "2020-02-02 00:00:08\tbattery_charged_on", "2020-02-02 00:00:09\tunknown"]
        second = ["2020-02-03 01:00:00\tbattery_charged_on", "2020-02-01 23:00:00\tscreen_lock", "2020-02-02 00:00:00\twifi",
                  "2020-02-03 01:00:30\t100%"]  # not in order; on at the end
        third = ["2020-02-01 12:00:00\t3%"]
        found, run = self.made("flash", self.flash(first, second, third))
        hour, day = 3600, 86400
        on = [10 * hour + 60, 10 * hour + 180, day, day + 8, 2 * day + hour]
        off = [10 * hour + 120, 10 * hour + 240, day + 7, day + 9, 2 * day + hour + 30]
        np.testing.assert_array_equal(found["availability/offset"], [0, 4, 5, 5])
        np.testing.assert_array_equal(found["availability/on"], 10**6 * np.array(on))
        np.testing.assert_array_equal(found["availability/off"], 10**6 * np.array(off))
        self.assertEqual((found["availability@period"], found["availability@unit"]), (3 * day * 10**6, "us"))
        self.assertIn("time begins at 2020-02-01 00:00:00", run.stdout)
        found, run = self.made("flash", self.flash(first, second, third), "--period", str(day + 5))
        np.testing.assert_array_equal(found["availability/offset"], [0, 3, 3, 3])
        self.assertEqual(found["availability/off"][-1], (day + 5) * 10**6)
        self.assertIn("2 devices have messages behind the period", run.stderr)

    def test_refuses_what_is_no_flash(self):
        good = "2020-02-01 10:00:00\tscreen_lock"
        for line, says in {"2020-02-01 10:00:00 screen_lock": "device 'guid 1': line 2",
                           "yesterday\twifi": "must be a time", "2020-02-30 10:00:00\twifi": "line 2",
                           "2020-02-01 10:00:00\tasleep": "has the state 'asleep'"}.items():
            self.refused("flash", self.flash([good], [good, line]), says=says)
            found, run = self.made("flash", self.flash([good], [good, line]), "--skip")
            np.testing.assert_array_equal(found["availability/offset"], [0, 0])
            self.assertIn("left out 1 devices", run.stderr)
        self.refused("flash", self.flash([""]), says="has no messages")
        self.refused("flash", self.write("j", b'{"a": {"messages": 3}}'), says="has no text messages")
        self.refused("flash", self.write("j", b'{"a": {}, "a": {}}'), says="'a' is there twice")
        self.refused("flash", self.write("j", b"[1]"), says="holds no devices")
        self.refused("flash", self.write("j", b'{"a": '), says="is no JSON")
        self.refused("flash", self.write("j", b"\xff\xfe\x00"), says="is no JSON")
        self.refused("flash", self.write("j", b"[" * 100000), says="is no JSON")


if __name__ == "__main__":
    unittest.main(verbosity=2)
