"""Runs over several machines, emulated on one: every "host" has a network of its own (joined to the others by a switch),
a host name of its own and shared memory of its own, so that Open MPI takes them for machines and speaks TCP between them.

What comes out has the bits of a run on one machine; the training set is there once a machine; a slow network changes
nothing but the time; one that is cut ends the run with a message that says who is silent, and leaves nobody behind.

Needs network namespaces: as root, or as a user who may make user namespaces. Skipped, with a line that says why, where
they or `ip` are not to be had.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

from whole_program import ISOLATED, PATIENCE, Case, Run, is_open_mpi, isolate, rank_of, write_images

os.environ["PATH"] += ":/usr/sbin:/sbin"
CLIENTS, ROUNDS, TRAIN = 23, 6, 8000
PARAMETERS = (784 + 1) * 200 + (200 + 1) * 200 + (200 + 1) * 10  # of 2nn
STALL = 4  # seconds until silence counts as death
SILENT = (r"fl_sim: rank [01]: rank [23] has been silent for \d+ s: it was [a-z ]+( \d+)? in round \d on host1 "
          r"\(stall-timeout")
JOB = ["--dataset", "fashion-mnist", "--partitioner", "dirichlet", "--dirichlet.alpha", 0.5, "--clients", CLIENTS,
       "--cohort", 7, "--rounds", ROUNDS, "--model", "2nn", "--local.batch-size", 50, "--local.lr", 0.05]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Host:
    """A machine: a process that holds its namespaces. Wired to the switch by <name>-port."""

    def __init__(self, number, folder):
        self.name = f"host{number}"
        self.port = f"{self.name}-port"
        self.address = f"10.77.0.{number + 1}"
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--ipc", "--mount", "--propagation", "private", "sh", "-c",
             f"hostname {self.name} && mount -t tmpfs tmpfs /dev/shm && echo ready && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise unittest.SkipTest("no hosts here: a host's namespaces cannot be made")
        ip("link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        ip("link", "set", self.port, "master", "switch", "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"]):
            subprocess.run(self.inside() + ["ip", *words], check=True)
        with open(os.path.join(folder, self.name), "w") as file:
            file.write(str(self.holder.pid))

    def inside(self):
        """The words that start a program on this machine."""
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--ipc", "--mount"]

    def bytes(self):
        """So many went to this machine, and came from it, over the wire."""
        with open("/proc/net/dev") as file:
            fields = re.search(rf"^ *{self.port}:(.*)$", file.read(), re.M)[1].split()
        return int(fields[8]), int(fields[0])

    def cut(self):
        ip("link", "set", self.port, "down")

    def mend(self):
        ip("link", "set", self.port, "up")

    def reaches(self, other):
        """Waits until a connection to another machine is possible: neighbours have to find each other again."""
        listen = ("import socket; s = socket.create_server(('', 7)); print('ready', flush=True); s.settimeout(30);"
                  "s.accept()")
        connect = ("import socket, time\nfor i in range(100):\n  try: socket.create_connection(('%s', 7), 1); break\n"
                   "  except OSError: time.sleep(0.1)\nelse: raise SystemExit('no way to the other machine')")
        with subprocess.Popen([*other.inside(), sys.executable, "-c", listen], stdout=subprocess.PIPE,
                              text=True) as server:
            server.stdout.readline()
            subprocess.run([*self.inside(), sys.executable, "-c", connect % other.address], check=True)

    def segments(self):
        """What is in its shared memory."""
        return os.listdir(f"/proc/{self.holder.pid}/root/dev/shm")

    def end(self):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


class Hosts(Case):
    @classmethod
    def setUpClass(cls):
        if ISOLATED not in os.environ:
            raise unittest.SkipTest("no hosts here: run tests/hosts.py itself")
        folder = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(folder.cleanup)
        cls.data = write_images(folder.name, train=TRAIN)
        ip("link", "set", "lo", "up")
        cls.expected = {}
        for algorithm in ("fedavg", "scaffold"):  # on one machine, without mpirun
            cls.expected[algorithm] = os.path.join(folder.name, algorithm + ".h5")
            with Run([*JOB, "--data-dir", cls.data, "--algorithm", algorithm, "--output", cls.expected[algorithm]]) as run:
                if run.wait().code != 0:
                    raise AssertionError(f"the run on one machine failed: {run}")
        ip("link", "add", "name", "switch", "type", "bridge")
        ip("link", "set", "switch", "up")
        cls.hosts = []
        for number in range(3):
            cls.hosts.append(Host(number, folder.name))
            cls.addClassCleanup(cls.hosts[-1].end)
        # mpirun's way to another machine, where a real one has ssh.
        agent = os.path.join(folder.name, "agent")
        with open(agent, "w") as file:
            file.write(f'#!/bin/sh\npid=$(cat "{folder.name}/$1")\nshift\n'
                       'exec nsenter --target "$pid" --net --uts --ipc --mount sh -c "$*"\n')
        os.chmod(agent, 0o755)
        cls.mpi = {"OMPI_MCA_btl": "tcp,self,vader", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl_tcp_if_include": "eth0",
                   "OMPI_MCA_oob_tcp_if_include": "eth0", "OMPI_MCA_plm_rsh_agent": agent}

    def begin(self, places, path, *options, **environment):
        """A run with so many ranks on each machine, mpirun on the first one."""
        hosts = ",".join(f"{host.name}:{ranks}" for host, ranks in zip(self.hosts, places))
        return self.start(*JOB, "--data-dir", self.data, *options, "--output", path, ranks=sum(places),
                          launcher=["--host", hosts], before=self.hosts[0].inside(), **{**self.mpi, **environment})

    def assert_nothing_left(self, run):
        self.assertTrue(run.gone(), f"processes are left: {run}")
        for host in self.hosts:
            self.assertEqual(host.segments(), [], f"in the shared memory of {host.name}: {run}")

    def test_same_bits(self):
        """On two and three machines as on one, and with as many bytes on the wire as the method needs."""
        for algorithm, places in (("fedavg", [2, 2]), ("scaffold", [1, 2, 2])):
            with self.subTest(algorithm=algorithm, places=places):
                before = [host.bytes() for host in self.hosts]
                path = self.path(algorithm + ".h5")
                run = self.begin(places, path, "--algorithm", algorithm).wait()
                self.assertEqual(run.code, 0, str(run))
                self.assert_same(self.expected[algorithm], path, f"on {len(places)} machines")
                self.assertIn(f"on {len(places)} machines", run.out)
                self.assertIn("once per node", run.out)
                self.assertNotIn("fl_sim", run.err, str(run))
                traffic = [[now - then for now, then in zip(host.bytes(), former)]
                           for host, former in zip(self.hosts, before)]
                # To each machine a round's model, as floats; from it its clients' sum, as 64-bit integers: each once,
                # however many ranks it has. Scaffold has a second vector for both. A few percent are headers, the
                # partition and the launcher's words.
                vectors = ROUNDS * PARAMETERS * (2 if algorithm == "scaffold" else 1)
                for down, up in traffic[1:len(places)]:
                    self.assertGreater(down, 4 * vectors)
                    self.assertGreater(up, 8 * vectors)
                if len(places) == 2:  # among three, one may pass on what is for another
                    down, up = traffic[1]
                    self.assertLess(down, 1.15 * 4 * vectors)
                    self.assertLess(up, 1.15 * 8 * vectors)
                self.assert_nothing_left(run)

    def test_data_once_a_machine(self):
        """Of a machine's ranks the first one reads the files, and all have the same memory; machines share none."""
        run = self.begin([2, 2], self.path("x.h5"), FL_SIM_TEST=self.hold(5))
        self.reach(run, 2)
        windows, read = {}, {}
        for process in run.ranks():
            rank = rank_of(process)
            with open(f"/proc/{process}/io") as file:
                read[rank] = int(re.search(r"rchar: (\d+)", file.read())[1])
            windows[rank] = set()
            with open(f"/proc/{process}/maps") as file:
                for line in file:
                    place, _, _, device, inode, *name = line.split()
                    first, last = (int(word, 16) for word in place.split("-"))
                    if name and "/dev/shm" in name[0] and last - first >= TRAIN * 784:
                        windows[rank].add((device, inode))
        self.assertEqual(sorted(windows), [0, 1, 2, 3], str(run))
        self.assertEqual(len(windows[0]), 1, "one window holds the images")
        self.assertEqual(windows[0], windows[1])
        self.assertEqual(len(windows[2]), 1, "one window holds the images")
        self.assertEqual(windows[2], windows[3])
        self.assertNotEqual(windows[0], windows[2])
        for first, other in ((0, 1), (2, 3)):
            self.assertGreater(read[first], read[other] + TRAIN * 784 * 0.9, "who read the images")
        self.release()
        self.assertEqual(run.wait().code, 0, str(run))
        self.assert_nothing_left(run)

    def slow_down(self, host, rate):
        """Lets only so many bytes a second pass to a host from now on."""
        for words in (["netem", "delay", "5ms", "rate", f"{8 * rate}bit"],
                      ["tbf", "rate", f"{8 * rate}bit", "burst", "32kb", "latency", "100ms"]):
            if subprocess.run(["tc", "qdisc", "replace", "dev", host.port, "root", *words],
                              stderr=subprocess.DEVNULL).returncode == 0:
                break
        else:
            self.skipTest("no slow network here: tc or this kernel has neither netem nor tbf")
        self.addCleanup(subprocess.run, ["tc", "qdisc", "del", "dev", host.port, "root"])

    def test_slow_link(self):
        """A fifth of a second for every model: the same bits, later."""
        self.slow_down(self.hosts[1], 5 * 4 * PARAMETERS)
        path = self.path("slow.h5")
        run = self.begin([1, 2], path).wait()
        self.assertEqual(run.code, 0, str(run))
        self.assertGreater(run.seconds, ROUNDS / 5)
        self.assert_same(self.expected["fedavg"], path, "slow link")
        self.assert_nothing_left(run)

    def test_link_comes_back(self):
        """What was lost meanwhile is sent again, and nobody is taken for dead.

        Where a kernel is busy with other networks, `ip link set` takes up to a minute, and then TCP tries once a minute.
        """
        path = self.path("back.h5")
        run = self.begin([2, 2], path, "--stall-timeout", 250, FL_SIM_TEST=self.hold(5))
        self.reach(run, 2)
        self.hosts[1].cut()
        self.release()
        time.sleep(1.5)
        self.hosts[1].mend()
        self.assertEqual(run.wait().code, 0, str(run))
        self.assert_same(self.expected["fedavg"], path, "a link that came back")
        self.assert_nothing_left(run)

    def cut_off(self, run):
        """Cuts the second machine off; the run has to end by itself on both sides. Returns what it said."""
        self.hosts[1].cut()
        self.addCleanup(self.hosts[1].mend)
        run.wait()
        self.assertNotEqual(run.code, 0, str(run))
        self.assert_nothing_left(run)
        self.hosts[1].mend()
        for one, other in ((1, 0), (0, 1)):
            self.hosts[one].reaches(self.hosts[other])
        return run.err

    def test_cut_link(self):
        """Who is silent is named, with its machine and what it was doing; the next start goes on."""
        path = self.path("cut.h5")
        options = ["--checkpoint-every", 1, "--resume", "auto"]
        run = self.begin([2, 2], path, *options, "--stall-timeout", STALL, FL_SIM_TEST=self.hold(6))
        self.reach(run, 3)
        self.assertRegex(self.cut_off(run), SILENT)
        run = self.begin([2, 2], path, *options).wait()
        self.assertEqual(run.code, 0, str(run))
        self.assertIn("goes on after round", run.out)
        self.assert_same(self.expected["fedavg"], path, "after a cut")

    def test_cut_in_a_transfer(self):
        """The same while a model is on its way, which takes two seconds here."""
        self.slow_down(self.hosts[1], 2 * PARAMETERS)
        run = self.begin([2, 2], self.path("cut.h5"), "--stall-timeout", STALL)
        before = self.hosts[1].bytes()[0]
        self.reach(run, 1)
        end = time.monotonic() + PATIENCE
        while self.hosts[1].bytes()[0] < before + 4 * PARAMETERS * 1.5:
            self.assertLess(time.monotonic(), end, str(run))
            time.sleep(0.05)
        self.assertRegex(self.cut_off(run), SILENT)


def launcher_problem():
    return None if is_open_mpi("4") else "they need Open MPI 4: the launcher of version 5 takes them for one"


if __name__ == "__main__":
    reason = launcher_problem() or isolate(
        "net", "mount", "ipc", trial="ip link add name switch type bridge && mount -t tmpfs tmpfs /dev/shm")
    if reason:
        print(f"no hosts here: {reason}")
        sys.exit()
    unittest.main(verbosity=2)
