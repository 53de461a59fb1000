"""Jobs as people write them: files that editors saved in their own way, paths with ~ and $NAME, keys that are said twice
or stand below the wrong section.
"""
import codecs
import os
import pwd
import re

import h5py

from whole_program import Case

JOB = """dataset = fcube
model = logistic
clients = 4
rounds = 1
output = {folder}/x.h5
overwrite = true

[local]
batch-size = 100
lr = 0.5
"""


class Jobs(Case):
    def write(self, data, name="job.ini"):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return path

    def job(self):
        return JOB.format(folder=self.folder)

    # ------------------------------------------------------------------------------------------------ files

    def test_as_editors_save_them(self):
        """Each form gives the same job, and so does a folder with letters beyond ASCII."""
        os.mkdir(self.path("Ergebnisse-äß-結果-😀"))
        text = JOB.format(folder=self.path("Ergebnisse-äß-結果-😀"))
        dos, old_mac = text.replace("\n", "\r\n"), text.replace("\n", "\r")
        first, second = text.split("\n\n")
        forms = {
            "UTF-8 with a mark": codecs.BOM_UTF8 + text.encode(),
            "the same from Windows": codecs.BOM_UTF8 + dos.encode(),
            "UTF-16": codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
            "UTF-16 from Windows": codecs.BOM_UTF16_LE + dos.encode("utf-16-le"),
            "UTF-16, big end first": codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
            "UTF-16 without a mark": text.encode("utf-16-le"),
            "UTF-16 without a mark, big end first": text.encode("utf-16-be"),
            "lines of an old Macintosh": old_mac.encode(),
            "no end of the last line": text.rstrip("\n").encode(),
            "two files joined": codecs.BOM_UTF8 + first.encode() + b"\n" + codecs.BOM_UTF8 + second.encode(),
        }
        jobs = {}
        for name, data in {"plain": text.encode(), **forms}.items():
            with self.subTest(name):
                self.succeed("--job", self.write(data))
                with h5py.File(self.path("Ergebnisse-äß-結果-😀/x.h5")) as file:
                    jobs[name] = dict(file["job"].attrs)
                self.assertEqual(jobs[name], jobs["plain"])

    def test_no_text(self):
        text = self.job()
        for data, words in ((codecs.BOM_UTF32_LE + text.encode("utf-32-le"), ["job.ini is UTF-32", "save it as UTF-8"]),
                            (codecs.BOM_UTF16_LE + text.encode("utf-16-le")[:-1], ["UTF-16", "cut off"]),
                            (codecs.BOM_UTF16_LE + text.encode("utf-16-le") + b"\x00\xd8", ["UTF-16", "half a character"])):
            self.fail_with(words, "--job", self.write(data))

    # ------------------------------------------------------------------------------------------------ paths

    def test_paths(self):
        """In a file, where no shell looks, and on the command line behind an equals sign."""
        home = self.path("home")
        os.mkdir(home)
        for spelled in ("~/a.h5", "$RUNS/a.h5", "${RUNS}/a.h5", "$RUNS/../home/a.h5"):
            for words in (["--job", self.write(self.job().replace(f"{self.folder}/x.h5", spelled))],
                          ["--job", self.write(self.job(), "other.ini"), f"--output={spelled}"]):
                with self.subTest(spelled, words=words[-1]):
                    self.succeed(*words, HOME=home, RUNS=home)
                    with h5py.File(os.path.join(home, "a.h5")) as file:
                        self.assertEqual(os.path.realpath(file["job"].attrs["output"]), os.path.join(home, "a.h5"))
                    os.remove(os.path.join(home, "a.h5"))
        self.assertEqual(sorted(os.listdir(self.folder)), ["home", "job.ini", "other.ini"])

    def test_every_kind_of_path(self):
        """Also behind the colon of a plug-in's name, in each part of a list, and where the job file itself is."""
        home = self.path("home")
        os.mkdir(home)
        with open(os.path.join(home, "data.csv"), "w") as file:
            file.write("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(100)))
        self.write(JOB.format(folder="~").replace("dataset = fcube", "dataset = csv:~/data.csv\ncsv.label = y"),
                   "home/job.ini")
        self.succeed("--job=~/job.ini", "--track", "jsonl:$H/a.jsonl", "--partition.save", "${H}/p.h5", "--checkpoint-dir",
                     "~/c", "--csv.test", "~/data.csv", HOME=home, H=home)
        self.assertLessEqual({"x.h5", "a.jsonl", "p.h5"}, set(os.listdir(home)))
        self.succeed("--job=~/job.ini", "--partitioner", "file", "--file.path", "~/p.h5", "--init", "$H/x.h5",
                     "--output", "~/again.h5", "--csv.test", "~/data.csv", HOME=home, H=home)

    def test_paths_that_lead_nowhere(self):
        for spelled, words in (("$NO_SUCH_PLACE/x.h5", ["output is '$NO_SUCH_PLACE/x.h5'", "no NO_SUCH_PLACE"]),
                               ("${EMPTY}/x.h5", ["no EMPTY"]),
                               ("~nobody-of-that-name/x.h5", ["no user 'nobody-of-that-name'", "./~nobody"])):
            self.fail_with(words, "--job", self.write(self.job()), f"--output={spelled}", EMPTY="")
        self.assertEqual(os.listdir(self.folder), ["job.ini"])

    def test_what_is_no_name(self):
        """A dollar before anything else, and ~ within, are letters; and so is all of what is no path."""
        for name in ("a$.h5", "1$2.h5", "b~.h5", "c$-d.h5"):
            self.succeed("--job", self.write(self.job()), f"--output={self.path(name)}")
            self.assertTrue(os.path.exists(self.path(name)), name)
        user = pwd.getpwuid(os.geteuid())
        if os.path.isdir(user.pw_dir):
            self.fail_with([f"{user.pw_dir}/no-such-file.h5"], "--job", self.write(self.job()),
                           f"--init=~{user.pw_name}/no-such-file.h5")
        with open(self.path("t.csv"), "w") as file:
            file.write("a,$HOME\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(100)))
        job = self.job().replace("fcube", f"csv:{self.path('t.csv')}\ncsv.label = $HOME")
        self.succeed("--job", self.write(job))

    # ------------------------------------------------------------------------------------------------ keys

    def test_twice_on_the_command_line(self):
        run = self.succeed("--job", self.write(self.job()), "--seed", 1, "--local.lr=0.1", "--seed", 2, "--local.lr", 0.2)
        self.assertEqual(re.findall(r"^fl_sim: .* twice .*", run.err, re.M),
                         ["fl_sim: warning: seed is set twice on the command line, to 1 and 2: the last one counts",
                          "fl_sim: warning: local.lr is set twice on the command line, to 0.1 and 0.2: the last one counts"])
        with h5py.File(self.path("x.h5")) as file:
            self.assertEqual((file["job"].attrs["seed"], file["job"].attrs["local.lr"]), ("2", "0.2"))
        run = self.succeed("--job", self.write(self.job()), "--seed", 1, "--seed", 2, "--seed", 3, ranks=2)
        self.assertEqual(run.err.count("set twice"), 2)
        with h5py.File(self.path("x.h5")) as file:
            self.assertEqual(file["job"].attrs["seed"], "3")
        self.fail_with(["rounds is 0"], "--job", self.write(self.job()), "--rounds", 3, "--rounds", 0)
        # A file is read more than once, and by others: there it is a mistake.
        self.fail_with(["'seed' is set twice", "keep one"], "--job", self.write("seed = 1\nseed = 2\n" + self.job()))

    def test_below_the_wrong_section(self):
        for more, words in (("seed = 1", ["unknown key 'local.seed'", "seed stands below [local]",
                                          "put it above the first [section]"]),
                            ("algorithm = fedprox", ["algorithm stands below [local]"]),
                            ("server.lr = 1", ["server.lr stands below [local]", "or as lr below [server]"]),
                            ("fedprox.mu = 1", ["fedprox.mu stands below [local]", "or as mu below [fedprox]"]),
                            ("local.lr = 1", ["local.lr stands below [local]", "or as lr below [local]"])):
            with self.subTest(more):
                self.fail_with([*words, "job.ini"], "--job", self.write(self.job() + more + "\n"))
        self.fail_with(["unknown key 'local.seed'", "did you mean"], "--job", self.write(self.job()), "--local.seed", 1)


if __name__ == "__main__":
    import unittest
    unittest.main(verbosity=2)
