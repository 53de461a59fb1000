"""What fl_sim answers without training: --help, --version, --list, --explain."""
import os
import re
import unittest

import h5py

from whole_program import ROOT, Case, write_images

KINDS = ["algorithm", "partitioner", "dataset", "model", "sampler"]
OPTION = re.compile(r"^  --(\S+) (\S+)(?:  \[(.*)\]|  \(no default\))$", re.M)


class Questions(Case):
    def ask(self, *words, ranks=0):
        run = self.succeed(*words, ranks=ranks)
        self.assertEqual(run.err, "", str(run))
        self.assertTrue(run.out.endswith("\n"), str(run))
        return run.out

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
            if line.endswith("s:") and " " not in line:
                section = sections.setdefault(line[:-1], [])
            elif line:
                section.append(line)
        self.assertEqual(list(sections), [kind + "s" for kind in KINDS])
        for kind in KINDS:
            self.assertEqual(self.ask("--list", kind), self.ask("--list", kind + "s"))
            self.assertEqual([line.split()[0] for line in sections[kind + "s"]], list(self.listed(kind)))
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
            self.assertIn(kind, keys)
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
        words = [word for key in sorted(keys) for word in (f"--{key}", "1")]
        self.fail_with(["unknown key 'nonsense'"], *words, "--nonsense", 1)

    def test_once_on_three_ranks(self):
        for words in (["--help"], ["--version"], ["--list"], ["--list", "models"], ["--explain", "scaffold"]):
            with self.subTest(words):
                self.assertEqual(self.ask(*words, ranks=3), self.ask(*words))
        self.fail_with(["nothing is named 'nobody'"], "--explain", "nobody", ranks=3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
