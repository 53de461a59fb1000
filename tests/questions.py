"""What fl_sim answers without training: --help, --version, --list, --explain."""
import os
import re
import unittest

import h5py

from whole_program import ROOT, Case, write_images

KINDS = {"algorithm": "algorithms", "partitioner": "partitioners", "dataset": "datasets", "model": "models",
         "sampler": "samplers", "transform": "transforms", "aggregator": "aggregators", "availability": "availability",
         "devices": "devices", "protocol": "protocols", "tracker": "trackers"}
OPTION = re.compile(r"^  --(\S+) (\S+)(?:  \[(.*)\]|  \(no default\))$", re.M)


class Questions(Case):
    answers = {}  # by question, which several tests have: starting the program is what takes time

    def ask(self, *words, ranks=0):
        if (words, ranks) not in self.answers:
            run = self.succeed(*words, ranks=ranks)
            self.assertEqual(run.err, "", str(run))
            self.assertTrue(run.out.endswith("\n"), str(run))
            self.answers[words, ranks] = run.out
        return self.answers[words, ranks]

    def listed(self, kind):
        """{name: meaning}"""
        found = {}
        for line in self.ask("--list", kind).splitlines():
            self.assertRegex(line, r"^\S+ {2,}\S.*\S$")
            name, meaning = re.split(" {2,}", line, maxsplit=1)
            self.assertNotIn(name, found)
            found[name] = meaning
        self.assertTrue(found)
        return found

    def test_version(self):
        self.assertRegex(self.ask("--version"), r"^fl_sim \d+\.\d+\.\d+ \(.*\)\n  LibTorch \d.*, BLAS .*, HDF5 1\.\d.*\n$")

    def test_list(self):
        sections = {}
        for line in self.ask("--list").splitlines():
            if line.endswith(":") and line[:-1] in KINDS.values():
                section = sections.setdefault(line[:-1], [])
            elif line:
                section.append(line)
        self.assertEqual(list(sections), list(KINDS.values()))
        for kind in KINDS:
            self.assertEqual(self.ask("--list", kind), self.ask("--list", KINDS[kind]))
            self.assertEqual([line.split()[0] for line in sections[KINDS[kind]]], list(self.listed(kind)))
        self.assertLessEqual({"fedavg", "fedprox", "scaffold", "fedadam"}, set(self.listed("algorithm")))

    def test_explain(self):
        for kind in KINDS:
            for name, meaning in self.listed(kind).items():
                with self.subTest(kind=kind, name=name):
                    text = self.ask("--explain", name)
                    self.assertIn(f"{kind} {name}: {meaning}\n", text)
                    self.assertEqual(text.count(meaning), 1)
                    for option, _, _ in OPTION.findall(text):
                        self.assertTrue(option.startswith(name + "."), text)
        self.assertIn("Source: Li et al.", self.ask("--explain", "fedprox"))
        self.assertIn("--fedprox.mu number  (no default)", self.ask("--explain", "fedprox"))
        self.assertIn("Elsewhere:\n  Flower: ", self.ask("--explain", "fedadam"))
        self.assertIn("For example:\n  mpirun -n 4 fl_sim --algorithm fedprox --fedprox.mu 0.1 --dataset",
                      self.ask("--explain", "fedprox"))

    def test_examples_run(self):
        """Proves that what --explain shows as an example runs as it stands, but for its length."""
        data = write_images(self.path("data"), train=300, test=50)
        for name in self.listed("algorithm"):
            example = re.search(r"^For example:\n  mpirun -n 4 fl_sim (.*)$", self.ask("--explain", name), re.M)
            with self.subTest(name):
                self.assertIsNotNone(example)
                words = example[1].split()
                if not {"--clients", "--cohort"} & set(words):
                    words += ["--clients", 10, "--cohort", 4]
                self.succeed(*words, "--data-dir", data, "--rounds", 1, "--output", self.path("x.h5"), "--overwrite")

    def test_the_page_of_algorithms_is_current(self):
        """Proves that algorithms/README.md shows every algorithm as this build explains it."""
        text = self.ask("--explain", "algorithms")
        for name in self.listed("algorithm"):
            self.assertIn(f"\n### {name}\n", text)
        with open(os.path.join(ROOT, "algorithms", "README.md"), encoding="utf-8") as file:
            _, _, generated = file.read().partition("The rest is generated: scripts/algorithms-page writes it. -->\n\n")
        self.assertTrue(generated == text, "algorithms/README.md is not what this build says of its algorithms: "
                        "run scripts/algorithms-page and commit the page")

    def test_explain_takes_names_as_jobs_spell_them(self):
        self.assertEqual(self.ask("--explain", "csv:my/table.csv"), self.ask("--explain", "csv"))

    def test_unknown(self):
        for words, expected in (
            (["--explain", "fedprx"], ["nothing is named 'fedprx'", "did you mean 'fedprox'"]),
            (["--explain"], ["--explain needs the name"]),
            (["--list", "colours"], ["--list knows no 'colours'", "algorithms"]),
        ):
            with self.subTest(words):
                self.assertEqual(self.fail_with(expected, *words).out, "")

    def test_help_has_every_option(self):
        """Help and parser know the same keys: every key of a run is explained, every key explained can be given."""
        text = self.ask("--help")
        for word in ("--job", "--help", "--version", "--list", "--explain", "mpirun"):
            self.assertIn(word, text)
        keys = {key for key, _, _ in OPTION.findall(text)}
        self.assertGreater(len(keys), 30)
        for kind in KINDS:
            key = {"transform": "transforms", "tracker": "track", "protocol": "async.protocol"}.get(kind, kind)
            self.assertIn(key, keys)
            for name in self.listed(kind):
                keys.update(key for key, _, _ in OPTION.findall(self.ask("--explain", name)))

        output = self.path("x.h5")
        data = write_images(self.path("data"), train=300, test=50)
        self.succeed("--dataset", "fashion-mnist", "--data-dir", data, "--model", "logistic", "--partitioner",
                     "dirichlet", "--dirichlet.alpha", 100, "--algorithm", "fedadam", "--clients", 10, "--rounds", 1,
                     "--local.batch-size", 10, "--local.lr", 0.1, "--output", output)
        with h5py.File(output, "r") as file:
            job = dict(file["job"].attrs)
        self.assertLessEqual(set(job), keys)

        # The parser names the first key that it does not know: of all these, only the last.
        words = [word for key in sorted(keys) for word in (f"--{key}", "none" if key == "plugin" else "1")]
        self.fail_with(["unknown key 'nonsense'"], *words, "--nonsense", 1)

    def test_help_fits_a_terminal(self):
        """At 80 columns, in groups, each key in one of them."""
        text = self.ask("--help")
        for line in text.splitlines():
            self.assertLessEqual(len(line), 80, line)
        groups = re.findall(r"^([A-Z][^\n]*):\n  --", text.partition("A run's options:")[2], re.M)
        self.assertEqual(groups[:3], ["What is simulated", "Clients' training", "The server's step"])
        self.assertEqual(len(groups), 10)
        keys = [key for key, _, _ in OPTION.findall(text)]
        self.assertEqual(len(keys), len(set(keys)))
        for heading, key in (("Evaluation", "evaluate-every"), ("Interrupted, and continued", "resume"),
                             ("Clients that are absent, late or fail", "give-up"), ("Files and messages", "output")):
            self.assertIn(f"--{key} ", re.search(rf"^{heading}:\n((?:  .*\n)+)", text, re.M)[1])
        for line in self.ask("--explain", "server").splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_explain_keys_values_and_columns(self):
        self.assertRegex(self.ask("--explain", "stragglers.policy"), r"--stragglers.policy drop\|partial  \[drop\]")
        self.assertIn("server.optimizer = yogi\n", self.ask("--explain", "yogi"))
        self.assertIn("stragglers.policy = partial\n", self.ask("--explain", "partial"))
        for word in ("idle_share", "/rounds/idle_share", "rounds/idle_share"):
            self.assertIn("  /rounds/idle_share\n      of the hosts' time, the part", self.ask("--explain", word))
        self.assertEqual(self.ask("--explain", "/clients/loss").count("/evaluations"), 0)
        self.assertIn("/evaluations/loss", self.ask("--explain", "loss"))
        for word in ("evaluate-clients", "evaluate-every", "holdout-clients", "clients_accuracy"):
            text = self.ask("--explain", word)
            for said in ("How clients evaluate:", "Drawn ", "Rounded ", "Weighted "):
                self.assertIn(said, text, word)
        # A plug-in of the name of a value shows itself first.
        self.assertTrue(self.ask("--explain", "uniform").startswith("sampler uniform: "))
        self.assertIn("weighting = uniform\n", self.ask("--explain", "uniform"))

    def test_every_column_is_explained(self):
        """What stands in a results file, of a job with much of what may stand there, is in --explain."""
        output = self.path("x.h5")
        data = write_images(self.path("data"), train=600, test=50)
        self.succeed("--dataset", "fashion-mnist", "--data-dir", data, "--model", "logistic", "--clients", 10, "--rounds", 2,
                     "--local.batch-size", 10, "--local.lr", 0.1, "--output", output, "--algorithm", "ditto",
                     "--ditto.lambda", 0.1, "--metrics", "auc,class-accuracy,balanced-accuracy,perplexity",
                     "--partition.test-fraction", 0.2, "--evaluate-clients", 1, "--holdout-clients", 2)
        with h5py.File(output) as file:
            for table in ("rounds", "clients", "evaluations", "ranks"):
                for name in file[table]:
                    self.assertIn(f"/{table}/", self.ask("--explain", f"/{table}/{name}"), name)

    def test_the_rounding_of_evaluating_clients(self):
        """As --explain says: of 5 clients half are 3, halves away from zero; at least evaluate-min-clients."""
        data = write_images(self.path("data"), train=600, test=50)
        for words, expected in ((["--evaluate-clients", 0.5], 3), (["--evaluate-clients", 0.29], 1),
                                (["--evaluate-clients", 0.05], 1),
                                (["--evaluate-clients", 0.05, "--evaluate-min-clients", 4], 4),
                                (["--evaluate-clients", 0.1, "--evaluate-min-clients", 40], 5)):
            output = self.path("x.h5")
            self.succeed("--dataset", "fashion-mnist", "--data-dir", data, "--model", "logistic", "--clients", 5,
                         "--rounds", 1, "--local.batch-size", 10, "--local.lr", 0.1, "--output", output, "--overwrite",
                         "--partition.test-fraction", 0.2, *words)
            with h5py.File(output) as file:
                self.assertEqual(file["rounds/clients_evaluated"][0], expected, words)
                loss, n = file["evaluations/loss"][()], file["evaluations/samples"][()]
                self.assertAlmostEqual(file["rounds/clients_loss"][0], (loss * n).sum() / n.sum(), places=12)
                self.assertAlmostEqual(file["rounds/clients_mean_loss"][0], loss.mean(), places=12)

    def test_once_on_three_ranks(self):
        for words in (["--help"], ["--version"], ["--list"], ["--list", "models"], ["--explain", "scaffold"]):
            with self.subTest(words):
                self.assertEqual(self.ask(*words, ranks=3), self.ask(*words))
        self.fail_with(["nothing is named 'nobody'"], "--explain", "nobody", ranks=3)

    # ------------------------------------------------------------------------------------------------ without MPI

    NO_MPI = {"OMPI_MCA_pml": "none"}  # it cannot start so
    SMALL = ["--dataset", "fcube", "--model", "logistic", "--local.batch-size", 100, "--local.lr", 0.5]

    def setUp(self):
        super().setUp()
        self.small = [*self.SMALL, "--clients", 4, "--rounds", 1, "--output", self.path("small.h5")]

    def need_an_mpi_that_fails(self):
        run = self.start(*self.small, **self.NO_MPI).wait()
        if run.code == 0:
            self.skipTest("this MPI starts in spite of OMPI_MCA_pml=none")
        self.assertEqual(os.listdir(self.folder), [], "files are left behind")

    def test_without_mpi(self):
        """Proves that MPI is not needed for what needs no training."""
        self.need_an_mpi_that_fails()
        for words in (["--help"], ["--version"], ["--list"], ["--explain", "fedprox"]):
            self.succeed(*words, **self.NO_MPI)
        garbage = self.path("garbage.ini")
        with open(garbage, "w") as file:
            file.write("no job")
        for words, expected in (
            ([*self.small, "--locl.lr", 1], ["rank 0: unknown key 'locl.lr'", "did you mean 'local.lr'"]),
            (["--plan", *self.small, "--locl.lr", 1], ["rank 0: unknown key 'locl.lr'"]),
            (["--plan", *self.small, "--plan-ranks", 0], ["--plan-ranks is 0"]),
            (["--job", garbage], ["garbage.ini", "key = value"]),
            (["--job", self.path("none.ini")], ["cannot read the job file", "none.ini"]),
        ):
            with self.subTest(words):
                self.fail_with(expected, *words, **self.NO_MPI)
        self.assertEqual(os.listdir(self.folder), ["garbage.ini"], "files are left behind")

    def test_a_complete_job_of_the_datas_own_clients_is_known_without_mpi(self):
        """Proves that clients that only the data know are as many as the results say, and no other number is."""
        self.need_an_mpi_that_fails()
        job = ["--dataset", "synthetic", "--synthetic.alpha", 1, "--synthetic.beta", 1,
               "--partitioner", "natural", "--model", "logistic", "--local.batch-size", 10, "--local.lr", 0.01,
               "--rounds", 1, "--output", self.path("x.h5"), "--resume", "auto"]
        self.succeed(*job)
        for words in ([], ["--clients", 30]):
            self.assertIn("x.h5 is complete since ", self.succeed(*job, *words, **self.NO_MPI).out)
        self.assertNotEqual(self.start(*job, "--clients", 29, **self.NO_MPI).wait().code, 0)
        self.fail_with(["x.h5", "of another job", "seed: there 0, here 1"], *job, "--seed", 1)

    def test_a_complete_job_is_known_without_mpi(self):
        """Proves that a job whose results are there needs neither MPI nor its data, and that no other is taken for it."""
        self.need_an_mpi_that_fails()
        output, data = self.path("x.h5"), write_images(self.path("data"), train=300, test=50)
        job = ["--dataset", "fashion-mnist", "--data-dir", data, "--model", "logistic", "--local.batch-size", 10,
               "--local.lr", 0.1, "--cohort", 3, "--rounds", 2, "--output", output, "--resume", "auto"]
        self.succeed(*job)
        with open(output, "rb") as file:
            before = file.read()
        os.rename(data, self.path("away"))
        for words in ([], ["--clients", 100, "--device", "cpu", "--group-size", 1], ["--grace", 7]):
            self.assertIn("x.h5 is complete since ", self.succeed(*job, *words, **self.NO_MPI).out)
        self.assertEqual(self.succeed(*job, "--quiet", **self.NO_MPI).out, "")
        self.assertRegex(self.succeed(*job, ranks=3).out, r"^\S+x.h5 is complete since \S+: 2 rounds of this job\n$")
        for words in (["--seed", 1], ["--clients", 50], ["--group-size", 2], ["--resume", "must"],
                      ["--partition.save", self.path("p.h5")], ["--gpu-comm", "direct"], ["--rounds", 3]):
            with self.subTest(words):
                self.assertNotEqual(self.start(*job[:-2], *([] if "--resume" in words else job[-2:]),
                                               *words, **self.NO_MPI).wait().code, 0)
        os.rename(self.path("away"), data)
        self.fail_with([output, "of another job", "seed: there 0, here 1"], *job, "--seed", 1)
        self.fail_with(["gpu-comm is direct"], *job, "--gpu-comm", "direct")
        self.assertIn("is complete", self.succeed(*job, "--partition.save", self.path("p.h5")).out)
        self.assertTrue(os.path.exists(self.path("p.h5")))
        with open(output, "rb") as file:
            self.assertEqual(file.read(), before)
        self.assertEqual(sorted(os.listdir(self.folder)), ["data", "p.h5", "x.h5"], "files are left behind")

    def test_a_complete_job_whose_clients_the_data_name(self):
        """Proves that where the data decide, they are asked: the same answer, later."""
        job = [*self.SMALL, "--partitioner", "natural", "--rounds", 1, "--output", self.path("x.h5"), "--resume", "auto"]
        self.succeed(*job)
        self.assertIn("is complete", self.succeed(*job).out)
        self.fail_with(["of another job", "clients: there 4, here 2"], *job, "--natural.group", 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
