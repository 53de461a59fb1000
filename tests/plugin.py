"""Plug-ins outside of the source: fl_sim is installed, moved, and examples/plugin is built against it and run; and
everything that can be wrong with such a file. Skipped, with a line that says why, where $FL_SIM is not in a build folder."""
import os
import re
import signal
import subprocess
import tempfile
import unittest

import h5py
import numpy as np

import whole_program
from whole_program import PROGRAM, ROOT, Case, checksum, columns

SMALL = ["--dataset", "fcube", "--model", "2nn", "--clients", 8, "--cohort", 4, "--local.batch-size", 50,
         "--local.lr", 0.1]
ANCHORED = ["--algorithm", "anchored", "--anchored.pull", 0.25, "--partitioner", "stripes", "--stripes.length", 7,
            "--transforms", "coarse", "--coarse.step", 0.001]

# Plug-ins with something wrong, each of them this with one word defined. They need nothing of LibTorch.
WRONG = """
#include <stdexcept>
#include "base/registry.h"

#if defined(UNDEFINED)
int nobody_has_this();
int called = nobody_has_this();
#endif
#if defined(OBJECT)
struct Object { Object() { throw std::runtime_error("no, not today"); } } object;
#endif

#if defined(KEY)
#define KIND "aggregator"
#else
#define KIND "algorithm"
#endif
namespace {
struct Fake {
  static constexpr const char* kKind = KIND;
  struct Setup {};
  virtual ~Fake() = default;
};
struct Wrong final : Fake {
  explicit Wrong(const Setup&) {}
  static fl_sim::PluginInfo describe() {
#if defined(THROWS)
    throw std::runtime_error("no, not today");
#endif
    fl_sim::PluginInfo info = {
        .summary = "has something wrong",
        .options = {{.name = "norm", .default_value = "1", .meaning = "nothing"},
                    {.name = "lr", .default_value = "1", .meaning = "nothing"}}};
#if defined(NO_DEFAULT)
    info.options[0].default_value = "wide";
    info.options[0].choices = {"narrow"};
#elif defined(NO_KEY)
    info.defaults = {{"locl.lr", "0.1"}};
#elif defined(NO_VALUE)
    info.defaults = {{"local.lr", "fast"}};
#elif defined(NO_CONDITION)
    info.options[0].only_with = {"wrong.kind", {"a"}};
#elif defined(NOT_READ)
    info.reads = {"local.lr"};
#elif defined(KEY_TWICE)
    info.options[1].name = "norm";
#endif
    return info;
  }
};
#if defined(TAKEN)
FL_REGISTER(Fake, "fedavg", Wrong);
#elif defined(TWICE)
FL_REGISTER(Fake, "anchored", Wrong);
#elif defined(KEY)
FL_REGISTER(Fake, "clip", Wrong);
#elif defined(OWN_KEY)
FL_REGISTER(Fake, "server", Wrong);
#elif !defined(EMPTY)
FL_REGISTER(Fake, "wrong", Wrong);
#endif
}
"""
WORDS = ["UNDEFINED", "OBJECT", "THROWS", "TAKEN", "TWICE", "KEY", "OWN_KEY", "EMPTY", "RIGHT", "NO_DEFAULT", "NO_KEY",
         "NO_VALUE", "NO_CONDITION", "NOT_READ", "KEY_TWICE"]
WRONG_PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(wrong LANGUAGES CXX)
find_package(fl_sim 0.2 REQUIRED)
foreach(word {words})
  fl_sim_add_plugin(${{word}} wrong.cpp)
  target_compile_definitions(${{word}} PRIVATE ${{word}})
endforeach()
add_library(stranger MODULE stranger.cpp)
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)
    if done.returncode != 0:
        raise AssertionError(f"{words}\n{done.stdout}")
    return done.stdout


class Plugin(Case):
    @classmethod
    def setUpClass(cls):
        build = os.path.dirname(PROGRAM)
        if not os.path.exists(os.path.join(build, "cmake_install.cmake")):
            raise unittest.SkipTest(f"{PROGRAM} is in no build folder, from which it could be installed")
        place = tempfile.TemporaryDirectory(prefix="fl_sim_test_")
        cls.addClassCleanup(place.cleanup)
        first, prefix = (os.path.join(place.name, name) for name in ("first", "prefix"))
        run("cmake", "--install", build, "--prefix", first)
        os.rename(first, prefix)  # a tree may be moved
        program = whole_program.PROGRAM
        whole_program.PROGRAM = os.path.join(prefix, "bin", "fl_sim")
        cls.addClassCleanup(setattr, whole_program, "PROGRAM", program)

        wrong = os.path.join(place.name, "wrong")
        os.mkdir(wrong)
        for name, text in (("wrong.cpp", WRONG), ("stranger.cpp", "int stranger() { return 1; }\n"),
                           ("CMakeLists.txt", WRONG_PROJECT.format(words=" ".join(WORDS)))):
            with open(os.path.join(wrong, name), "w") as file:
                file.write(text)
        for source in (os.path.join(ROOT, "examples", "plugin"), wrong):
            out = os.path.join(place.name, "build-" + os.path.basename(source))
            run("cmake", "-G", "Ninja", "-S", source, "-B", out, f"-DCMAKE_PREFIX_PATH={prefix}")
            text = run("cmake", "--build", out, "--parallel", 2)
            assert "warning" not in text, text
        cls.example = os.path.join(place.name, "build-plugin", "libexample.so")
        cls.wrong = os.path.join(place.name, "build-wrong")

    def train(self, output, *options, ranks=0):
        self.succeed(*SMALL, "--rounds", 3, *options, "--output", self.path(output), "--overwrite", ranks=ranks)
        return checksum(self.path(output))

    def copied(self, name="libcopy.so", change=lambda data: data):
        """A copy of the example, with its bytes changed."""
        with open(self.example, "rb") as file:
            data = file.read()
        changed = change(data)
        with open(self.path(name), "wb") as file:
            file.write(changed)
        return self.path(name)

    # ------------------------------------------------------------------------------------------------ what it can do

    def test_names_and_options_are_known(self):
        plugin = ["--plugin", self.example]
        for kind, name in (("algorithm", "anchored"), ("partitioner", "stripes"), ("transform", "coarse"),
                           ("aggregator", "middle"), ("sampler", "hardest")):
            line = [line for line in self.succeed("--list", kind, *plugin).out.splitlines() if line.startswith(name)][0]
            self.assertTrue(line.endswith(f"  ({self.example})"), line)
            self.assertNotIn(name, self.succeed("--list", kind).out)
            self.assertIn(f"\nFrom: {self.example}\n", self.succeed(*plugin, "--explain", name).out)
        self.assertIn("--anchored.pull number  (no default)", self.succeed("--explain", "anchored", *plugin).out)
        self.assertIn("--plugin text  [none]", self.succeed("--help", *plugin).out)
        self.fail_with(["did you mean 'anchored'"], *SMALL, *plugin, "--algorithm", "anchord")
        self.fail_with(["unknown key 'anchored.pul'", "did you mean 'anchored.pull'"], *SMALL, *plugin, *ANCHORED,
                       "--anchored.pul", 1)
        self.fail_with(["the job does not say:", "anchored.pull"], *SMALL, *plugin, "--algorithm", "anchored")
        self.fail_with(["anchored.pull is 2 (must be 0 to 1)"], *SMALL, *plugin, "--algorithm", "anchored",
                       "--anchored.pull", 2)
        self.assertIn("stripes (length 7)", self.succeed("--plan", "partition", *plugin, *SMALL, *ANCHORED[4:]).out)

    def test_the_same_bits_on_any_ranks(self):
        plugin = ["--plugin", self.example]
        expected = self.train("one.h5", *plugin, *ANCHORED)
        self.assertEqual(self.train("three.h5", *plugin, *ANCHORED, ranks=3), expected)
        # Its limit: without a pull it is FedAvg.
        options = ["--partitioner", "stripes", *plugin]
        fedavg = self.train("fedavg.h5", *options)
        self.assertEqual(self.train("none.h5", *options, "--algorithm", "anchored", "--anchored.pull", 0), fedavg)
        self.assertNotEqual(self.train("some.h5", *options, "--algorithm", "anchored", "--anchored.pull", 0.25), fedavg)

    def test_an_aggregator(self):
        """Of one client at either end left out of 5: numpy's, of the same deltas as FedAvg averages; its limit; refusals."""
        plugin = ["--plugin", self.example, "--cohort", 5]
        small = [*SMALL[:6], *SMALL[8:]]  # without its cohort
        def trained(output, *options, ranks=0):
            self.succeed(*small, *plugin, "--rounds", 3, *options, "--output", self.path(output), "--overwrite", ranks=ranks)
            return checksum(self.path(output))
        expected = trained("one.h5", "--aggregator", "middle")
        for ranks in (2, 3):
            self.assertEqual(trained("more.h5", "--aggregator", "middle", ranks=ranks), expected)
        # Without anybody left out it is the mean, but for the last bits; with two, the median.
        trained("mean.h5", "--weighting", "uniform")
        trained("all.h5", "--aggregator", "middle", "--middle.without", 0)
        with h5py.File(self.path("mean.h5")) as mean, h5py.File(self.path("all.h5")) as every:
            for name in mean["model"]:
                np.testing.assert_allclose(mean["model"][name][()], every["model"][name][()], atol=1e-6)
        self.assertEqual(trained("two.h5", "--aggregator", "middle", "--middle.without", 2),
                         trained("median.h5", "--aggregator", "median"))
        job = [*small, *plugin, "--aggregator", "middle", "--output", self.path("x.h5")]
        self.fail_with(["aggregator middle needs 7 clients or more, but cohort is 5"], *job, "--middle.without", 3)
        self.fail_with(["weighting is samples", "counts every client once"], *job, "--weighting", "samples")
        self.fail_with(["weighting is samples", "counts every client once"], *job, "--sampler", "multinomial", "--weighting",
                       "samples")
        self.fail_with(["aggregator middle cannot work with algorithm centralized"], *job, "--algorithm", "centralized")

    def test_a_sampler_with_a_memory(self):
        """Who is drawn second is who had the highest loss; the memory outlives an interruption."""
        options = ["--plugin", self.example, "--sampler", "hardest", "--hardest.among", 8]
        expected = self.train("one.h5", *options)
        self.assertEqual(self.train("three.h5", *options, ranks=3), expected)
        rows = columns(self.path("one.h5"), "clients")
        losses = dict(zip(rows["client"][:8], rows["loss"][:8]))  # of rounds 1 and 2, everybody's first
        self.assertEqual(len(losses), 8)
        hardest = sorted(sorted(losses), key=lambda client: -losses[client])[:4]
        self.assertEqual(sorted(hardest), sorted(rows["client"][8:12]))
        output = ["--output", self.path("x.h5"), "--keep-checkpoint", "--resume", "auto"]
        self.succeed(*SMALL, *options, *output, "--rounds", 2)
        self.succeed(*SMALL, *options, *output, "--rounds", 3)
        self.assertEqual(checksum(self.path("x.h5")), expected)

    def test_a_tracker(self):
        """Its rows are those of the results; and it may come late, or be another one, where a run goes on."""
        rows, table = os.path.join(os.path.dirname(self.example), "librows.so"), self.path("rounds.csv")
        output = ["--output", self.path("x.h5"), "--keep-checkpoint", "--resume", "auto"]
        self.succeed(*SMALL, *output, "--rounds", 2)
        self.succeed(*SMALL, *output, "--rounds", 4, "--plugin", rows, "--track", "rows:" + table, ranks=3)
        self.succeed(*SMALL, *output, "--rounds", 5)
        self.succeed(*SMALL, *output[:2], "--overwrite", "--rounds", 4, "--plugin", rows, "--track", "rows:" + table,
                     ranks=3)
        rounds = columns(self.path("x.h5"), "rounds")
        with open(table) as file:
            rows = [line.split(",") for line in file.read().splitlines()]
        self.assertEqual(rows[0], ["round", "train_loss", "test_accuracy", "clients"])
        self.assertEqual([(int(row[0]), int(row[3])) for row in rows[1:]], [(r, 4) for r in range(1, 5)])
        np.testing.assert_allclose([float(row[1]) for row in rows[1:]], rounds["train_loss"], rtol=1e-5)

    def test_results_say_which_file_it_was(self):
        expected = self.train("one.h5", "--plugin", self.example, *ANCHORED)
        out = self.succeed(*SMALL, *ANCHORED, "--plugin", self.example, "--rounds", 1, "--aggregator", "middle",
                           "--output", self.path("header.h5")).out
        self.assertRegex(out, rf"\n  plug-in    {self.example} \(hash [0-9a-f]{{16}}\)\n")
        self.assertRegex(out, r"\n  transforms coarse\n +step 0.001\n  aggregator middle\n +without 1\n  output ")
        with h5py.File(self.path("one.h5")) as file:
            job, provenance = dict(file["job"].attrs), dict(file["provenance"].attrs)
        self.assertEqual(job["plugin"], self.example)
        self.assertRegex(job["plugin-hash"], "^[0-9a-f]{16}$")
        self.assertEqual(provenance["plugins"], f"{self.example} {job['plugin-hash']}")
        # Run again from there, from anywhere and on any number of ranks.
        for ranks in (0, 3):
            self.succeed("--job", self.path("one.h5"), "--output", self.path("again.h5"), "--overwrite", ranks=ranks)
            self.assertEqual(checksum(self.path("again.h5")), expected)
        self.train("seed.h5", "--plugin", self.example, *ANCHORED, "--seed", 1)
        text = self.succeed("compare", "--plugin", self.example, self.path("one.h5"), self.path("seed.h5")).out
        self.assertRegex(text, r"(?m)^.* ± .*$")
        self.fail_with(["'anchored.pull'", f"this job was run with --plugin {self.example}"], "compare",
                       self.path("one.h5"))

    def test_several_and_as_a_key(self):
        right = os.path.join(self.wrong, "libRIGHT.so")
        expected = self.train("words.h5", "--plugin", self.example, f"--plugin={right}", *ANCHORED)
        with open(self.path("job.ini"), "w") as file:
            file.write(f"plugin = {self.example}, {right}\nalgorithm = anchored\nanchored.pull = 0.25\n"
                       "partitioner = stripes\nstripes.length = 7\ntransforms = coarse\ncoarse.step = 0.001\n")
        for ranks in (0, 3):
            self.assertEqual(self.train("key.h5", "--job", self.path("job.ini"), ranks=ranks), expected)
        with h5py.File(self.path("key.h5")) as file:
            self.assertEqual(file["job"].attrs["plugin"], f"{self.example},{right}")
        self.assertIn("has something wrong", self.succeed("--list", "algorithms", "--job", self.path("job.ini")).out)

    def test_interrupted_and_continued(self):
        """With the same bits; and not with another file."""
        plugin, output = self.copied(), self.path("x.h5")
        job = [*SMALL, "--rounds", 8, "--plugin", plugin, *ANCHORED]
        self.succeed(*job, "--output", self.path("whole.h5"))
        job += ["--output", output, "--resume", "auto"]
        begun = self.start(*job, ranks=3, FL_SIM_TEST="delay=60")
        self.reach(begun, 3)
        os.kill(begun.process.pid, signal.SIGUSR1)
        self.assertEqual(begun.wait().code, 75, str(begun))
        self.assertLess(len(columns(output, "rounds")["round"]), 8)
        self.copied(change=lambda data: data + b"\0")
        self.fail_with(["of another job", "plugin-hash: there ", ", here "], *job)
        self.copied()
        self.assertIn("goes on after round", self.succeed(*job, ranks=2).out)
        self.assert_same(self.path("whole.h5"), output, "after a signal")
        self.assertIn("is complete", self.succeed(*job).out)

    def test_selftest(self):
        run = self.succeed("selftest", "--plugin", self.example, "anchored", patience=400)
        self.assertRegex(run.out, r"anchored +- +- +- +- +- +pass +pass")

    # ------------------------------------------------------------------------------------------------ what is refused

    def refuse(self, words, *plugins, ranks=0, **environment):
        before = sorted(os.listdir(self.folder))
        options = [word for plugin in plugins for word in ("--plugin", plugin)]
        self.fail_with(words, *SMALL, "--output", self.path("folder/x.h5"), *options, ranks=ranks, **environment)
        self.assertEqual(sorted(os.listdir(self.folder)), before, "something was written")

    def test_no_plugin(self):
        with open(self.path("text.so"), "w") as file:
            file.write("no shared object\n")
        with open(self.path("stamp.so"), "wb") as file:
            with open(self.example, "rb") as whole:
                file.write(re.search(rb"fl_sim-plugin-stamp\{[^}]*\}", whole.read())[0])
        library = os.path.join(os.path.dirname(os.path.dirname(whole_program.PROGRAM)), "lib")
        library = next(os.path.join(folder, "libfl_sim.so") for folder, _, files in os.walk(library)
                       if "libfl_sim.so" in files)
        for path, words in (
            (self.path("nowhere.so"), ["cannot be read", "No such file"]),
            (self.folder, ["cannot be read", "directory"]),
            (self.path("text.so"), ["no stamp", "fl_sim_add_plugin"]),
            (os.path.join(self.wrong, "libstranger.so"), ["no stamp"]),
            (library, ["no stamp"]),
            (self.path("stamp.so"), ["cannot be loaded"]),
            (self.copied("a,b.so"), ["cannot be read", "No such file"]),
            (os.path.join(self.wrong, "libUNDEFINED.so"), ["cannot be loaded", "nobody_has_this"]),
            (os.path.join(self.wrong, "libEMPTY.so"), ["registers nothing", "FL_REGISTER"]),
        ):
            for ranks in (0, 3) if "text" in path else (0,):
                with self.subTest(path, ranks=ranks):
                    self.refuse([path.split(",")[0], *words], path, ranks=ranks)
        self.fail_with(["nowhere.so", "cannot be read"], "--list", "--plugin", self.path("nowhere.so"))
        self.fail_with(["nowhere.so", "cannot be read"], "selftest", "--plugin", self.path("nowhere.so"), "fedavg")
        self.fail_with(["--plugin needs a value"], *SMALL, "--plugin")

    def test_another_build(self):
        """What is different in the stamp is seen: fl_sim's revision, LibTorch, the compiler."""
        for what, old, new in (("revision", rb"stamp\{fl_sim 0\.\d\.\d \(\w", rb"stamp{fl_sim 0.2.0 (?"),
                               ("LibTorch", rb"LibTorch \d", rb"LibTorch 0"),
                               ("compiler", rb"compiler .", rb"compiler ?")):
            with self.subTest(what):
                path = self.copied(change=lambda data, old=old, new=new: re.sub(old, new, data))
                self.refuse([path, "for another build", "build it anew", "\n  it is for  fl_sim 0.",
                             "\n  this is    fl_sim 0."], path)

    def test_registration(self):
        def wrong(name):
            return os.path.join(self.wrong, f"lib{name}.so")
        self.refuse([wrong("TAKEN"), "algorithm 'fedavg' is taken by one of fl_sim's own"], wrong("TAKEN"))
        self.refuse([wrong("TWICE"), "algorithm 'anchored' is taken by that of " + self.example], self.example,
                    wrong("TWICE"))
        self.refuse(["the key clip.norm is declared by aggregator 'clip', of " + wrong("KEY"),
                     "and by transform 'clip', fl_sim's own (give one of them another name)"], wrong("KEY"))
        self.refuse([wrong("OWN_KEY"), "the key server.lr of algorithm 'server' is"], wrong("OWN_KEY"))
        self.refuse([wrong("THROWS"), "algorithm 'wrong' throws while it is registered: no, not today"], wrong("THROWS"))
        self.refuse([wrong("THROWS"), "algorithm 'wrong' throws"], wrong("THROWS"), ranks=3)
        self.refuse([wrong("OBJECT"), "throws while it is loaded: no, not today"], wrong("OBJECT"))

    def test_declared_keys(self):
        """What a plug-in says of keys is looked at when it is loaded, not when a job first needs it."""
        for name, words in (
            ("NO_DEFAULT", ["a default of algorithm 'wrong'", "wrong.norm is 'wide' (must be one of narrow)"]),
            ("NO_KEY", ["algorithm 'wrong' has a default for 'locl.lr'", "did you mean 'local.lr'"]),
            ("NO_VALUE", ["a default of algorithm 'wrong'", "local.lr is 'fast' (must be a number)"]),
            ("NO_CONDITION", ["the key wrong.norm only with 'wrong.kind', which is no key"]),
            ("NOT_READ", ["algorithm 'wrong' says that it reads local.lr", "every job has it"]),
            ("KEY_TWICE", ["algorithm 'wrong' declares the key wrong.norm twice"]),
        ):
            with self.subTest(name):
                plugin = os.path.join(self.wrong, f"lib{name}.so")
                self.refuse([plugin, *words], plugin)

    def test_one_file_of_two_names(self):
        """A link to a plug-in is that plug-in."""
        link = self.path("link.so")
        os.symlink(self.example, link)
        self.train("x.h5", "--plugin", self.example, "--plugin", link, *ANCHORED)
        self.train("y.h5", "--plugin", self.example, *ANCHORED)
        self.assertEqual(checksum(self.path("x.h5")), checksum(self.path("y.h5")))

    def test_another_hash(self):
        plugin, output = self.copied(), self.path("x.h5")
        self.train("x.h5", "--plugin", plugin, *ANCHORED)
        self.copied(change=lambda data: data + b"\0")
        again = ["--job", output, "--output", self.path("y.h5")]
        self.fail_with([plugin, "is not what the job was run with", "--plugin " + plugin], *again)
        self.assertFalse(os.path.exists(self.path("y.h5")))
        self.succeed(*again, "--plugin", plugin)
        self.assertEqual(checksum(self.path("y.h5")), checksum(output))
        os.remove(plugin)
        self.fail_with([plugin, "cannot be read", "No such file"], *again, "--overwrite")

    def test_one_rank_has_another(self):
        """Missing on a machine, or another file there: the rank is named, and its machine."""
        plugin = self.copied()
        other = self.copied("other.so", lambda data: data + b"\0")
        namespace = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() != 0 else [])]
        for command, words in (
            (f"mount --bind /dev/null {plugin}", ["rank 2 on ", plugin, "no stamp"]),
            (f"mount --bind {other} {plugin}", ["rank 2 on ", plugin, "another file than rank 0's", "rank 0's "]),
            (f"mount -t tmpfs tmpfs {self.folder}", ["rank 2 on ", plugin, "cannot be read", "No such file"]),
        ):
            if subprocess.run([*namespace, "sh", "-c", command], capture_output=True).returncode != 0:
                self.skipTest("there are no mount namespaces here")
            with self.subTest(command):
                options = [*SMALL, *ANCHORED, "--plugin", plugin, "--output", self.path("folder/x.h5")]
                elsewhere = [*namespace, "sh", "-c", f'{command} && cd / && exec "$@"', "sh", whole_program.PROGRAM,
                             *options]
                self.fail_with(words, *options, ":", "-n", 1, *elsewhere, ranks=2)
                self.assertFalse(os.path.exists(self.path("folder")), "something was written")


if __name__ == "__main__":
    unittest.main(verbosity=2)
