// Foreign models before the first round: what does not train, what evaluates at random, what cannot
// take a batch, files that cannot be read; and where a failure in a round is told to be.
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>

#include <torch/version.h>

#include <fstream>
#include <iterator>

#include "engine/model_trial.h"
#include "network/useful_line.h"
#include "torchscript_modules.h"

namespace fl_sim {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// 3 features, 2 classes, as fcube has them.
Module net_with(const std::string& forward) {
  torch::manual_seed(3);
  Module net = module_of("Net", "");
  for (const char* const name : {"fc", "other"}) net.register_module(name, linear(3, 2));
  if (!forward.empty()) net.define("def forward(self, x):\n" + forward);
  return net;
}

Experiment experiment_with(const Module& module, const std::string& lines = "") {
  const ScriptFile file(module);
  Job job = any_job(message("model = torchscript:", file.path(), "\ndevice = cpu\n", lines));
  Experiment e = make_experiment(job, make<DatasetSource>("fcube", {job, ""})->read());
  try_foreign_model(e);
  return e;
}

std::vector<std::string> notes_of(const std::string& forward) {
  return experiment_with(net_with(forward), "partitioner = natural\n").notes;
}

const char* const kBoth = "    return self.fc.forward(x) + self.other.forward(x)\n";

TEST(ModelTrial, ParametersWithoutAGradientAreNamed) {
  EXPECT_THAT(notes_of(kBoth), IsEmpty());
  EXPECT_THAT(notes_of("    return self.fc.forward(x)\n"),
              Contains(HasSubstr("the loss does not depend on other.weight, other.bias (2 of 4 "
                                 "parameters), so they do not train")));
  EXPECT_ERROR(notes_of("    return self.fc.forward(x).detach()\n"),
               "the loss depends on none of its 4 parameters, fc.weight, fc.bias, other.weight, "
               "other.bias: nothing would train");
}

TEST(ModelTrial, ProbabilitiesAreTold) {
  const std::string sum = "(self.fc.forward(x) + self.other.forward(x)";
  EXPECT_THAT(notes_of("    return torch.softmax" + sum + ", 1)\n"),
              Contains(HasSubstr("its outputs are probabilities")));
  EXPECT_THAT(notes_of("    return torch.log_softmax" + sum + ", 1)\n"),
              Contains(HasSubstr("its outputs are log-probabilities")));
  EXPECT_THAT(notes_of("    return torch.sigmoid" + sum + ")\n"),
              Contains(HasSubstr("forward() ends in a sigmoid")));
}

// A trace has its mode as a constant.
TEST(ModelTrial, FixedModesAreTold) {
  const auto dropout = [](const char* mode) {
    return message("    return torch.dropout(self.fc.forward(x) + self.other.forward(x), 0.5, ",
                   mode, ")\n");
  };
  EXPECT_THAT(notes_of(dropout("self.training")), IsEmpty());
  EXPECT_THAT(notes_of(dropout("False")),
              Contains(HasSubstr("dropout in evaluation mode for good")));
  EXPECT_THAT(notes_of(dropout("True")), Contains(HasSubstr("dropout in training mode for good")));
  const auto norm = [](const char* mode) {
    return message(
        "    y = self.fc.forward(x) + self.other.forward(x)\n"
        "    return torch.batch_norm(y, None, None, None, None, ",
        mode, ", 0.1, 1e-5, False)\n");
  };
  EXPECT_THAT(notes_of(norm("True")), Contains(HasSubstr("by each batch's statistics")));
  EXPECT_THAT(notes_of("    return self.fc.forward(x + torch.randn_like(x)) + "
                       "self.other.forward(x)\n"),
              Contains(HasSubstr("draws random numbers in evaluation, too")));
}

// What is called by what is called is looked at, too; and modules that the file has in a mode of
// their own.
TEST(ModelTrial, InnerModulesAreLookedAt) {
  Module inner = module_of("Inner", "");
  inner.define("def forward(self, x):\n    return torch.dropout(x, 0.5, False)\n");
  Module middle = module_of("Middle", "");
  middle.register_module("inner", inner);
  middle.define("def forward(self, x):\n    return self.inner.forward(x)\n");
  Module net = net_with("");
  net.register_module("middle", middle);
  net.define(
      "def forward(self, x):\n"
      "    return self.middle.forward(self.fc.forward(x) + self.other.forward(x))\n");
  inner.train(false);
  const auto notes = experiment_with(net).notes;
  EXPECT_THAT(notes, Contains(HasSubstr("dropout in evaluation mode for good")));
  EXPECT_THAT(notes, Contains(HasSubstr("the file has middle.inner in another mode")));
}

// Evaluation is a function of the row and the batch, whatever came before it.
TEST(ModelTrial, RandomEvaluationIsSeeded) {
  const ScriptFile file(net_with(
      "    return torch.dropout(self.fc.forward(x) + self.other.forward(x), 0.5, True)\n"));
  const auto network = file.load(3, 2);
  Rng rng(1, "weights");
  const torch::Tensor rows = network->initial_row(rng).unsqueeze(0), x = torch::randn({30, 3});
  const Weights weights(network->layout(), rows);
  const torch::Tensor first = network->forward(weights, x);
  torch::manual_seed(77);
  network->forward(weights, torch::randn({7, 3}));
  EXPECT_TRUE(network->forward(weights, x).equal(first));
  EXPECT_GT(first.eq(0).sum().item<int64_t>(), 10);
}

// Who would meet a batch of one sample is told before the first round, where that cannot be.
TEST(ModelTrial, SingleSamplesAreFoundInThePartition) {
  const Module needs_two =
      net_with("    assert x.size(0) > 1 or not self.training, 'Expected more than 1 value'\n" +
               std::string(kBoth));
  const Experiment fits = experiment_with(needs_two, "partitioner = iid\nlocal.batch-size = 10");
  const int64_t n = fits.partition.size(0);
  EXPECT_ERROR(experiment_with(needs_two, message("partitioner = iid\nlocal.batch-size = ", n - 1)),
               message("cannot train on a batch of one sample"));
  const std::string refusal = error_of([&] {
    experiment_with(needs_two, message("partitioner = iid\nlocal.batch-size = ", n - 1));
  });
  EXPECT_THAT(refusal, HasSubstr("AssertionError: Expected more than 1 value"));
  EXPECT_THAT(refusal, HasSubstr("would meet with batches of " + std::to_string(n - 1) +
                                 ": --local.batch-size " + std::to_string(n)));
  EXPECT_THAT(refusal, HasSubstr("0, 1, "));
  // Not with so few steps that the rest is never reached, and not where the module can do it.
  experiment_with(needs_two,
                  message("partitioner = iid\nlocal.steps = 1\nlocal.batch-size = ", n - 1));
  experiment_with(net_with(kBoth), message("partitioner = iid\nlocal.batch-size = ", n - 1));
}

// A failure in a round says whose, when, with what, and why.
TEST(ModelTrial, FailuresInARoundSayWhere) {
  const ScriptFile file(
      net_with("    assert x.size(0) != 7, 'seven is too many'\n" + std::string(kBoth)));
  const Job job = any_job("");
  Experiment e = hand_made_experiment("cohort = 2\nlocal.batch-size = 10\nlocal.lr = 0.1",
                                      random_samples(27, {3}, 2), 2, consecutive({10, 17}),
                                      make<Network>("torchscript", {job, file.path(), {3}, 2}));
  e.dtype = torch::kFloat32;
  const std::string what = error_of([&] { run(e); });
  EXPECT_THAT(what, HasSubstr("training in round 1, client 1: " + file.path() +
                              ": forward() fails on a batch of 7 samples, [7, 3], in training: "));
  EXPECT_THAT(what, HasSubstr("seven is too many"));
  EXPECT_EQ(what.find('\n'), std::string::npos);
}

// A module's file with other code.
void rewrite(const std::string& path, const std::string& from, const std::string& to) {
  std::vector<std::pair<std::string, std::string>> records;
  {
    caffe2::serialize::PyTorchStreamReader reader(path);
    for (const std::string& name : reader.getAllRecords()) {
      const auto [data, size] = reader.getRecord(name);
      std::string content(static_cast<const char*>(data.get()), size);
      if (name.ends_with(".py")) {
        for (size_t at = 0; (at = content.find(from, at)) != std::string::npos; at += to.size())
          content.replace(at, from.size(), to);
      }
      if (name != "version" && name.find(".data/") == std::string::npos)
        records.emplace_back(name, content);
    }
  }
  caffe2::serialize::PyTorchStreamWriter writer(path);
  for (const auto& [name, content] : records)
    writer.writeRecord(name, content.data(), content.size());
  writer.writeEndOfFile();
}

TEST(ModelTrial, UnknownOperatorsAreNamed) {
  const ScriptFile file(
      net_with("    y = torch.relu(self.fc.forward(x)) + torch.dropout(self.other.forward(x), 0.5, "
               "self.training)\n"
               "    return torch.tanh(y)\n"));
  file.load(3, 2);  // none is unknown before
  rewrite(file.path(), "torch.relu(", "torch.relu_of_tomorrow(");
  rewrite(file.path(), "torch.tanh(", "ops.vision.tanh(");
  const std::string what = error_of([&] { file.load(3, 2); });
  EXPECT_THAT(what, HasSubstr("cannot load " + file.path() +
                              " as TorchScript (it calls aten::relu_of_tomorrow, vision::tanh, "
                              "which this LibTorch lacks; the file's format is version "));
  EXPECT_THAT(what, HasSubstr(TORCH_VERSION));
}

TEST(ModelTrial, OtherFilesAreNamed) {
  const ScriptFile file(std::string("x"));
  const auto write = [&](const std::vector<std::string>& records) {
    caffe2::serialize::PyTorchStreamWriter writer(file.path());
    for (const std::string& name : records) writer.writeRecord(name, "1", 1);
    writer.writeEndOfFile();
  };
  write({"data.pkl", "data/0"});
  EXPECT_ERROR(file.load(3, 2),
               "it was written by torch.save: it holds weights or a pickled object");
  write({"models/model.json", "archive_format"});
  EXPECT_ERROR(file.load(3, 2), "it was written by torch.export, which is another format");
  const ScriptFile legacy(std::string("\x80\x02\x8a\x0al\xfc\x9c"));
  EXPECT_ERROR(legacy.load(3, 2), "it is a pickle, as torch.save wrote them before PyTorch 1.6");
  const ScriptFile silent(module_of("Net", ""));
  EXPECT_ERROR(silent.load(3, 2), "has no forward() to call");
}

// A byte of the weights that changed on the way.
TEST(ModelTrial, DamageIsSeen) {
  const ScriptFile file(net_with(kBoth));
  file.load(3, 2);
  std::string content;
  {
    std::ifstream in(file.path(), std::ios::binary);
    content.assign(std::istreambuf_iterator<char>(in), {});
  }
  torch::manual_seed(3);
  const torch::Tensor weight = torch::randn({2, 3});  // as net_with() begins
  const std::string bytes(static_cast<const char*>(weight.data_ptr()), weight.nbytes());
  const size_t place = content.find(bytes);
  ASSERT_NE(place, std::string::npos);
  content[place + 5] ^= 1;
  std::ofstream(file.path(), std::ios::binary) << content;
  EXPECT_ERROR(file.load(3, 2), "is damaged (not what its checksum says)");
}

TEST(ModelTrial, WhyNothingTrains) {
  Module frozen = module_of("Net", "");
  frozen.register_parameter("weight", torch::ones({2, 3}), false);
  for (torch::Tensor parameter : frozen.parameters()) parameter.set_requires_grad(false);
  frozen.define("def forward(self, x):\n    return torch.matmul(x, self.weight.t())\n");
  const ScriptFile file(frozen);
  EXPECT_ERROR(file.load(3, 2), "has no parameters to train: all 1 have requires_grad = False");
  Module pair = net_with("    return self.fc.forward(x), self.other.forward(x)\n");
  EXPECT_ERROR(experiment_with(pair), "it returns a Tuple[Tensor, Tensor] (must be one tensor");
  Module flat = net_with("    return (self.fc.forward(x) + self.other.forward(x)).sum()\n");
  EXPECT_ERROR(experiment_with(flat), "it returns a tensor of shape []");
}

TEST(UsefulLine, IsTheOneWithTheReason) {
  EXPECT_EQ(useful_line(std::string("\n\nUnknown builtin op: aten::x.\nHere is some more\n")),
            "Unknown builtin op: aten::x.");
  EXPECT_EQ(useful_line(std::string(
                "The following operation failed in the TorchScript interpreter.\n"
                "Traceback of TorchScript, serialized code (most recent call last):\n"
                "  File \"code/x.py\", line 3, in forward\n    return y\n    ~~~ <--- HERE\n"
                "RuntimeError: shapes do not fit\n")),
            "RuntimeError: shapes do not fit");
  EXPECT_EQ(useful_line(std::string(
                "Traceback (most recent call last):\nbuiltins.ValueError: \n  a text\n")),
            "ValueError: a text");
  EXPECT_EQ(useful_line(std::string("only this")), "only this");
  EXPECT_EQ(useful_line(std::string(" \n~~~\n")), "it gives no reason");
}

}  // namespace
}  // namespace fl_sim
