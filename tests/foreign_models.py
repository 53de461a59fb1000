"""TorchScript files as other programs write them, in whole runs: they train as what they are, the same on every number of
ranks, or are refused with what is wrong, before the first round if that can be seen.

The files are made here byte by byte, as torch.jit.save writes them, so that no PyTorch is needed.
"""
import re
import struct
import unittest
import zipfile

import h5py
import numpy as np

from whole_program import Case, checksum, columns


class Archive:
    """What torch.jit.load reads: code, and a pickle of modules whose tensors lie in files of their own."""

    def __init__(self):
        self.tensors = []

    def pickled(self, value):
        """The operations that make this value: a Module, an array, or what Python has."""
        if isinstance(value, Module):
            return b"c__torch__\n" + value.name.encode() + b"\n)\x81" + self.pickled(value.attributes) + b"b"
        if isinstance(value, dict):
            return b"}(" + b"".join(self.pickled(key) + self.pickled(v) for key, v in value.items()) + b"u"
        if isinstance(value, np.ndarray):
            kind = {"float32": b"Float", "float64": b"Double", "int64": b"Long"}[value.dtype.name]
            strides = tuple(stride // value.itemsize for stride in value.strides)
            known = [i for i, tensor in enumerate(self.tensors) if tensor is value]
            if known:
                storage = b"h" + bytes(known)
            else:
                place = len(self.tensors)
                self.tensors.append(value)
                storage = (b"(" + self.pickled("storage") + b"ctorch\n" + kind + b"Storage\n" + self.pickled(str(place)) +
                           self.pickled("cpu") + self.pickled(value.size) + b"tQq" + bytes([place]))
            return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + self.pickled(0) + self.pickled(value.shape) +
                    self.pickled(strides) + (b"\x88" if value.dtype.kind == "f" else b"\x89") +
                    b"ccollections\nOrderedDict\n)RtR")
        if isinstance(value, list):  # of tensors
            return (b"ctorch.jit._pickle\nrestore_type_tag\n(](" + b"".join(map(self.pickled, value)) + b"e" +
                    self.pickled("List[Tensor]") + b"tR")
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.pickled, value)) + b"t"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        return b"X" + struct.pack("<I", len(value)) + value.encode()


class Module:
    """parameters and buffers: {name: array}; others: {name: (type, value)}; parts: {name: Module}. forward: the lines of
    forward(self, x), in TorchScript's own form of Python."""

    def __init__(self, name, parameters=None, buffers=None, others=None, parts=None, forward="", training=True):
        self.name, self.parts, self.forward = name, parts or {}, forward
        self.parameters, self.buffers, self.others = parameters or {}, buffers or {}, others or {}
        self.attributes = {**self.parameters, **self.buffers, "training": training,
                           **{key: value for key, (_, value) in self.others.items()}, **self.parts}

    def code(self):
        def names(of):
            return "[" + "".join(f'"{name}", ' for name in of) + "]"
        types = {**{name: "Tensor" for name in (*self.parameters, *self.buffers)}, "training": "bool",
                 **{name: kind for name, (kind, _) in self.others.items()},
                 **{name: f"__torch__.{part.name}" for name, part in self.parts.items()}}
        text = "".join(part.code() for part in self.parts.values())
        text += f"class {self.name}(Module):\n  __parameters__ = {names(self.parameters)}\n"
        text += f"  __buffers__ = {names(self.buffers)}\n"
        text += "".join(f"  {name} : {kind}\n" for name, kind in types.items())
        if self.forward:
            text += f"  def forward(self: __torch__.{self.name},\n    x: Tensor) -> Tensor:\n"
            text += "".join(f"    {line}\n" for line in self.forward.splitlines())
        return text

    def save(self, path):
        archive = Archive()
        data = b"\x80\x02" + archive.pickled(self) + b"."
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            file.writestr("net/data.pkl", data)
            file.writestr("net/code/__torch__.py", self.code())
            for i, tensor in enumerate(archive.tensors):
                file.writestr(f"net/data/{i}", tensor.tobytes())
            file.writestr("net/constants.pkl", b"\x80\x02).")
            file.writestr("net/version", b"3\n")
        return path


FEATURES, CLASSES = 6, 4


def numbers(*shape, seed=1):
    return (np.random.default_rng(seed).normal(size=shape) / 2).astype(np.float32)


def linear(forward="return torch.add(torch.matmul(x, torch.t(self.weight)), self.bias)", more=None, parts=None, buffers=None,
           parameters=None, **changes):
    """A layer with other code around it."""
    own = {"weight": numbers(CLASSES, FEATURES), "bias": numbers(CLASSES, seed=2)}
    return Module("Net", {**own, **(parameters or {})}, buffers, more, parts, forward, **changes)


class ForeignModels(Case):
    def setUp(self):
        super().setUp()
        labels = np.arange(48) % CLASSES
        x = numbers(48, FEATURES, seed=3) + np.eye(CLASSES, FEATURES, dtype=np.float32)[labels]
        self.data = {"x": x[:38], "y": labels[:38], "x_test": x[38:], "y_test": labels[38:]}

    def options(self, module, arrays=None, **changes):
        np.savez(self.path("data.npz"), **(self.data if arrays is None else arrays))
        values = {"dataset": "npz:" + self.path("data.npz"), "clients": 2, "rounds": 3, "local.batch-size": 10,
                  "local.lr": 0.2, "output": self.path("x.h5"), "overwrite": "true",
                  "model": "torchscript:" + module.save(self.path("net.pt")),
                  **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}}
        return [word for key, value in values.items() if value is not None for word in ("--" + key, value)]

    def train(self, module, arrays=None, ranks=0, **changes):
        return self.succeed(*self.options(module, arrays, **changes), ranks=ranks)

    def refuse(self, words, module, arrays=None, ranks=0, **changes):
        return self.fail_with([self.path("net.pt"), *words], *self.options(module, arrays, **changes), ranks=ranks)

    def losses(self):
        return columns(self.path("x.h5"), "rounds")["test_loss"]

    def same_everywhere(self, module, arrays=None, warns=(), **changes):
        """On one, two and three ranks: the same bits, and the same warning, once."""
        sums = set()
        for ranks in (0, 2, 3):
            run = self.train(module, arrays, ranks, **changes)
            said = [line for line in run.err.splitlines() if line.startswith("fl_sim: ")]
            self.assertEqual(len(said), len(warns), str(run))
            for line, words in zip(said, warns):
                for word in words:
                    self.assertIn(word, line)
            sums.add((checksum(self.path("x.h5")), self.losses().tobytes()))
        self.assertEqual(len(sums), 1)
        return run

    def test_a_layer_is_our_layer(self):
        """Trains from its own weights as the built-in model does from the same."""
        self.train(linear())
        scripted, losses = checksum(self.path("x.h5")), self.losses()
        with h5py.File(self.path("start.h5"), "w") as file:
            file["fc.weight"], file["fc.bias"] = numbers(CLASSES, FEATURES), numbers(CLASSES, seed=2)
        self.succeed(*self.options(linear(), model="logistic", init=self.path("start.h5")))
        np.testing.assert_allclose(self.losses(), losses, rtol=1e-5)
        self.assertLess(losses[-1], losses[0])
        self.assertNotEqual(scripted, "")

    def test_weights_behind_lists(self):
        """forward() reads them from a list, as nn.LSTM's does, or by another name."""
        plain = linear()
        self.train(plain)
        expected = checksum(self.path("x.h5"))
        weight, bias = numbers(CLASSES, FEATURES), numbers(CLASSES, seed=2)
        own = {"weight": weight, "bias": bias}
        from_list = linear("ws = self.ws\nreturn torch.add(torch.matmul(x, torch.t(ws[0])), ws[1])",
                           {"ws": ("List[Tensor]", [weight, bias])}, parameters=own)
        other_name = linear("return torch.add(torch.matmul(x, torch.t(self.same)), self.bias)",
                            {"same": ("Tensor", weight)}, parameters=own)
        for module in (from_list, other_name):
            self.same_everywhere(module)
            self.assertEqual(checksum(self.path("x.h5")), expected)
        copied = linear("return torch.add(torch.matmul(x, torch.t(self.copy)), torch.detach(self.bias))",
                        {"copy": ("Tensor", weight.copy())})
        self.refuse(["depends on none of its 2 parameters, weight, bias", "nothing would train"], copied)

    def test_a_recurrent_network(self):
        """nn.LSTM as torch.jit.script has it: every weight moves."""
        shapes = {"weight_ih_l0": (32, 3), "weight_hh_l0": (32, 8), "bias_ih_l0": (32,), "bias_hh_l0": (32,)}
        weights = {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
        rnn = Module("LSTM", weights, others={"_flat_weights": ("List[Tensor]", list(weights.values()))}, forward=(
            "h = torch.zeros([1, torch.size(x, 0), 8])\n"
            "y, a, b = torch.lstm(x, [h, h], self._flat_weights, True, 1, 0., self.training, False, True)\n"
            "return torch.select(y, 1, -1)"))
        net = Module("Net", {"weight": numbers(2, 8, seed=7)}, parts={"rnn": rnn},
                     forward="return torch.matmul((self.rnn).forward(x, ), torch.t(self.weight))")
        x, y = numbers(48, 10, 3, seed=4), np.arange(48) % 2
        self.same_everywhere(net, {"x": x[:38] + y[:38, None, None], "y": y[:38], "x_test": x[38:], "y_test": y[38:]})
        with h5py.File(self.path("x.h5")) as file:
            weights = {"rnn." + name: weight for name, weight in weights.items()}
            for name, before in {**weights, "weight": numbers(2, 8, seed=7)}.items():
                moved = np.abs(file["model"][name][()] - before).max()
                self.assertGreater(moved, 1e-4, name)

    def test_dropout_that_never_ends(self):
        """A trace of net.train(): evaluation is the same for every number of ranks."""
        self.same_everywhere(linear("y = torch.dropout(x, 0.5, True)\n"
                                    "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)"),
                             warns=[["net.pt: dropout in training mode for good", "torch.jit.script"]])

    def test_dropout_that_never_begins(self):
        self.same_everywhere(linear("y = torch.dropout(x, 0.5, False)\n"
                                    "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)"),
                             warns=[["net.pt: dropout in evaluation mode for good"]])

    def test_dropout_that_follows_the_mode(self):
        self.same_everywhere(linear("y = torch.dropout(x, 0.5, self.training)\n"
                                    "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)"))

    def test_probabilities(self):
        scores = "y = torch.add(torch.matmul(x, torch.t(self.weight)), self.bias)\n"
        for name, word in (("softmax", "its outputs are probabilities"),
                           ("log_softmax", "its outputs are log-probabilities")):
            self.same_everywhere(linear(scores + f"return torch.{name}(y, 1)"), warns=[[word]])

    def test_statistics_of_each_batch(self):
        """nn.BatchNorm1d(..., track_running_stats=False), and a trace of net.train()."""
        self.same_everywhere(linear("y = torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-05, False)\n"
                                    "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)"),
                             warns=[["batch_norm in training mode for good", "track_running_stats = False"]])

    def test_tied_weights(self):
        """One weight in two layers has the sum of their gradients: the same as one layer of twice its scores."""
        weight = numbers(CLASSES, FEATURES)
        tied = linear("return torch.add(torch.add(torch.matmul(x, torch.t(self.weight)), torch.matmul(x, "
                      "torch.t(self.again))), self.bias)", parameters={"weight": weight, "again": weight})
        self.same_everywhere(tied, warns=[["net.pt: tied weights train as one", "again"]])
        with h5py.File(self.path("x.h5")) as file:
            one = file["model/" + next(name for name in file["model"] if name != "bias")][()]
        self.train(linear("return torch.add(torch.mul(torch.matmul(x, torch.t(self.weight)), 2), self.bias)"))
        with h5py.File(self.path("x.h5")) as file:
            np.testing.assert_allclose(one, file["model/weight"][()], rtol=1e-4, atol=1e-6)

    def test_running_statistics(self):
        """What forward() assigns to a buffer is in /model: the mean over all batches of one client."""
        net = linear("if self.training:\n"
                     "  count = torch.add(self.count, 1)\n"
                     "  self.count = count\n"
                     "  step = torch.div(torch.sub(torch.mean(x, [0]), self.mean), count)\n"
                     "  self.mean = torch.add(self.mean, step)\n"
                     "else:\n"
                     "  pass\n"
                     "return torch.add(torch.matmul(torch.sub(x, self.mean), torch.t(self.weight)), self.bias)",
                     buffers={"mean": np.zeros(FEATURES, np.float32), "count": np.array(0)})
        x, y = self.data["x"][:20], self.data["y"][:20]
        self.same_everywhere(net, {**self.data, "x": x, "y": y}, clients=1, rounds=1)
        with h5py.File(self.path("x.h5")) as file:
            np.testing.assert_allclose(file["model/mean"][()], x.mean(0), atol=1e-6)  # of two batches of ten
            self.assertEqual(file["model/count"][()], 2)

    def test_state_that_would_be_lost(self):
        self.refuse(["forward() changes calls, and its results depend on it"],
                    linear("calls = torch.add(self.calls, 1)\nself.calls = calls\n"
                           "return torch.mul(torch.matmul(x, torch.t(self.weight)), calls)",
                           {"calls": ("int", 0)}), ranks=3)

    def batch_norm(self):
        return linear(
            "if self.training:\n"
            "  if torch.eq(torch.size(x, 0), 1):\n"
            "    ops.prim.RaiseException(\"Expected more than 1 value per channel when training\")\n"
            "  else:\n"
            "    pass\n"
            "else:\n"
            "  pass\n"
            "y = torch.batch_norm(x, None, None, self.m, self.v, self.training, 0.1, 1e-05, False)\n"
            "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)",
            buffers={"m": np.zeros(FEATURES, np.float32), "v": np.ones(FEATURES, np.float32)})

    def test_a_batch_of_one_sample(self):
        """Which clients would meet one is said before the first round, with the batch size that avoids it."""
        of = {**self.data, "client": np.repeat([0, 1, 2], [11, 17, 10])}
        run = self.refuse(["cannot train on a batch of one sample", "Expected more than 1 value", "client 0 would meet",
                           "batches of 10", "--local.batch-size 11"], self.batch_norm(), of, 3, clients=None,
                          partitioner="natural")
        self.assertNotIn("round 1/", run.out)
        self.same_everywhere(self.batch_norm(), of, clients=None, partitioner="natural", local__batch_size=12)
        alone = {**self.data, "client": np.repeat([0, 1, 2], [20, 17, 1])}
        self.refuse(["client 2 would meet", "leave clients of a single sample out"], self.batch_norm(), alone, clients=None,
                    partitioner="natural", cohort=1)

    def test_numbers_that_are_none(self):
        """NaN is not chance; and where it comes of a batch of one sample alone, that is said before the first round."""
        run = self.start(*self.options(linear("return torch.log(torch.matmul(x, torch.t(self.weight)))"))).wait()
        self.assertEqual(run.code, 3, str(run))
        self.assertIn("net.pt: forward() gives NaN or infinity for the first samples already", run.err)
        self.assertNotIn("random", run.err)
        spread = linear("y = torch.div(torch.sub(x, torch.mean(x, [0])), torch.std(x, [0]))\n"
                        "return torch.add(torch.matmul(y, torch.t(self.weight)), self.bias)")
        of = {**self.data, "client": np.repeat([0, 1, 2], [11, 17, 10])}
        self.refuse(["cannot train on a batch of one sample (its gradient is NaN or infinite there", "client 0 would meet",
                     "--local.batch-size 11"], spread, of, clients=None, partitioner="natural")
        self.train(spread, of, clients=None, partitioner="natural", local__batch_size=12)

    def test_a_failure_in_a_late_round(self):
        """What could not be seen before has a round, a client and a batch; what was shown is in the file."""
        net = linear("count = torch.add(self.count, 1)\n"
                     "if self.training:\n"
                     "  self.count = count\n"
                     "  if torch.gt(int(count), 5):\n"
                     "    ops.prim.RaiseException(\"five is enough\")\n"
                     "  else:\n"
                     "    pass\n"
                     "else:\n"
                     "  pass\n"
                     "return torch.add(torch.matmul(x, torch.t(self.weight)), self.bias)", buffers={"count": np.array(0)})
        for ranks in (0, 3):
            run = self.refuse(["training in round 3, client ", "fails on a batch of 9 samples, [9, 6], in training",
                               "five is enough", "it ended after round 2 of 9"], net, ranks=ranks, rounds=9)
            shown = len(re.findall(r"^round \d+/", run.out, re.M))
            self.assertGreaterEqual(len(columns(self.path("x.h5"), "rounds")["round"]), shown)
            self.assertEqual(list(columns(self.path("x.h5"), "rounds")["round"]), [1, 2])

    def test_operators_of_tomorrow(self):
        self.refuse(["it calls aten::scaled_dot_product_attention_of_tomorrow, which this LibTorch lacks",
                     "the file's format is version 3"],
                    linear("y = torch.scaled_dot_product_attention_of_tomorrow(x, x, x)\n"
                           "return torch.matmul(y, torch.t(self.weight))"), ranks=2)

    def test_ids_in_bytes(self):
        """The same token ids as bytes and as whole numbers."""
        net = Module("Net", {"table": numbers(50, 8), "weight": numbers(2, 8, seed=2)}, forward=(
            "e = torch.embedding(self.table, torch.to(x, 4, False, False, None))\n"
            "return torch.matmul(torch.mean(e, [1]), torch.t(self.weight))"))
        ids, y = np.random.default_rng(5).integers(0, 50, (60, 6)), np.arange(60) % 2
        sums = set()
        for kind, warns in ((np.uint8, [["reads whole numbers", "0 to 255"]]), (np.int64, []), (np.float32, [])):
            whole = ids.astype(kind)
            self.same_everywhere(net, {"x": whole[:48], "y": y[:48], "x_test": whole[48:], "y_test": y[48:]}, warns)
            sums.add(checksum(self.path("x.h5")))
        self.assertEqual(len(sums), 1)

    def test_what_does_not_fit(self):
        for words, forward in ((["for 2 samples it returns [2, 6], expected [2, 4]"], "return x"),
                               (["it returns a tensor of shape []"],
                                "return torch.sum(torch.matmul(x, torch.t(self.weight)))"),
                               (["does not fit the data", "RuntimeError", "2x6 and 4x6"],
                                "return torch.matmul(x, self.weight)")):
            self.refuse(words, linear(forward))
        self.refuse(["has no forward() to call"], linear(""))


if __name__ == "__main__":
    unittest.main(verbosity=2)
