// Any TorchScript module: `model = torchscript:net.pt`, saved by
// torch.jit.script(net).save("net.pt").
//
// It trains one client at a time. Its parameters and buffers lie in the row like everyone's
// (torchscript_state.h); in forward() they take the module's slots, so that it stays a pure
// function. The initial weights are those in the file, for every seed.
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/script.h>

#include <algorithm>
#include <map>

#include "fl_sim.h"
#include "network/useful_line.h"
#include "plugins/models/torchscript_file.h"
#include "plugins/models/torchscript_state.h"

namespace fl_sim {
namespace {

// The operators that behave differently in training, and the arguments that say so: the flag, and
// a chance that must not be 0 for it to matter.
struct ModalOperator {
  const char* name;
  const char* flag;
  const char* chance;  // nullptr: always
};
constexpr ModalOperator kModalOperators[] = {{"aten::dropout", "train", "p"},
                                             {"aten::feature_dropout", "train", "p"},
                                             {"aten::alpha_dropout", "train", "p"},
                                             {"aten::feature_alpha_dropout", "train", "p"},
                                             {"aten::native_dropout", "train", "p"},
                                             {"aten::batch_norm", "training", nullptr},
                                             {"aten::instance_norm", "use_input_stats", nullptr},
                                             {"aten::lstm", "train", "dropout"},
                                             {"aten::gru", "train", "dropout"},
                                             {"aten::rnn_tanh", "train", "dropout"},
                                             {"aten::rnn_relu", "train", "dropout"}};

bool has_calls(const torch::jit::Block& block) {
  const auto calls = [](const torch::jit::Node* node) {
    return node->kind() == torch::jit::prim::CallMethod ||
           node->kind() == torch::jit::prim::CallFunction ||
           std::any_of(node->blocks().begin(), node->blocks().end(),
                       [](const torch::jit::Block* inner) { return has_calls(*inner); });
  };
  return std::any_of(block.nodes().begin(), block.nodes().end(), calls);
}

// forward() with all that it calls in its place. Without the optimising executor, Inline() does one
// level at a time.
std::shared_ptr<torch::jit::Graph> whole_graph(const torch::jit::Module& module) {
  constexpr int kDeepest = 64;
  auto graph = module.get_method("forward").graph()->copy();
  for (int level = 0; level < kDeepest && has_calls(*graph->block()); ++level)
    torch::jit::Inline(*graph);
  return graph;
}

std::optional<c10::IValue> constant_argument(const torch::jit::Node& node, const char* name) {
  const auto index = node.schema().argumentIndexWithName(name);
  if (!index || static_cast<size_t>(*index) >= node.inputs().size()) return {};
  return torch::jit::toIValue(node.input(static_cast<size_t>(*index)));
}

// How often operators of each name have their mode fixed, as a trace has it.
struct FixedModes {
  std::map<std::string, int64_t> training, evaluation;
};

void find_fixed_modes(const torch::jit::Block& block, FixedModes& found) {
  for (const torch::jit::Node* node : block.nodes()) {
    // What stands under a condition may be chosen by the module's own mode.
    if (node->kind() != torch::jit::prim::If) {
      for (const torch::jit::Block* inner : node->blocks()) find_fixed_modes(*inner, found);
    }
    for (const ModalOperator& op : kModalOperators) {
      if (node->kind() != c10::Symbol::fromQualString(op.name)) continue;
      const auto flag = constant_argument(*node, op.flag);
      if (!flag || !flag->isBool()) continue;
      if (op.chance != nullptr) {
        const auto chance = constant_argument(*node, op.chance);
        if (chance && chance->isDouble() && chance->toDouble() == 0) continue;
      }
      const std::string name = std::string(op.name).substr(std::string("aten::").size());
      ++(flag->toBool() ? found.training : found.evaluation)[name];
    }
  }
}

std::string counted_list(const std::map<std::string, int64_t>& counts) {
  std::vector<std::string> words;
  for (const auto& [name, count] : counts)
    words.push_back(count > 1 ? message(count, " ", name) : name);
  return list_of(words);
}

// What kind of operator the module's result comes from, looked at through reshaping.
std::string last_operator(const torch::jit::Graph& graph) {
  const torch::jit::Value* value = graph.outputs().at(0);
  for (;;) {
    const std::string kind = value->node()->kind().toQualString();
    const bool reshapes = kind == "aten::view" || kind == "aten::reshape" ||
                          kind == "aten::flatten" || kind == "aten::squeeze" ||
                          kind == "aten::contiguous";
    if (!reshapes) return kind;
    value = value->node()->input(0);
  }
}

}  // namespace

class TorchScript final : public Network {
 public:
  explicit TorchScript(const Setup& setup)
      : file_(setup.argument), module_(load(setup.argument)), state_(module_, file_, layout_) {
    FL_CHECK(layout_.trainable() > 0, file_, " has no parameters to train", why_none());
    // The optimising executor changes kernels after some calls, and bits with them: how often a
    // rank calls must not count.
    torch::jit::setGraphExecutorOptimize(false);
    for (const auto& [name, part] : module_.named_modules()) {
      if (part.is_training() != module_.is_training()) differing_.push_back(name);
    }
    find_changes(setup.input_shape);
    initial_ = state_.initial_rows(layout_);
  }

  static PluginInfo describe() {
    return {.summary = "a TorchScript file, torchscript:FILE; one client at a time",
            .rule =
                "The module maps [B, ...] inputs to [B, classes] scores. Its saved weights are the "
                "initial ones; those with requires_grad = False stay.\n"
                "Buffers that forward() changes, integer counters among them, are a part of the "
                "model: what a client makes of them is averaged. Other attributes begin with the "
                "file's values in each call, and a module whose results depend on their change is "
                "refused.\n"
                "Random layers draw from LibTorch's generator, seeded from the client's own stream "
                "in each step, and alike for each batch in evaluation.\n"
                "Before the first round the module is tried on some samples: parameters that the "
                "loss does not depend on are named, and batches that it cannot take.",
            .takes_argument = true};
  }

  bool stackable() const override { return false; }
  bool mixed_precision() const override { return false; }
  bool foreign() const override { return true; }
  torch::Tensor initial_row(Rng&) const override { return initial_[0].clone(); }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    if (!weights.training()) return run(weights, std::move(x), kEvaluationSeed);
    return run(weights, std::move(x),
               weights.streams.empty() ? std::optional<uint64_t>() : weights.streams[0].bits64());
  }

  std::vector<std::string> findings(const torch::Tensor& row,
                                    const torch::Tensor& x) const override {
    std::vector<std::string> found = state_.notes();
    const auto graph = whole_graph(module_);
    if (!differing_.empty()) {
      found.push_back(message(file_, ": the file has ", list_of(differing_),
                              " in another mode than the whole, but net.train() and net.eval(), as "
                              "fl_sim calls them, set all modules' (fix what shall stay so by "
                              "requires_grad or in forward())"));
    }
    FixedModes modes;
    find_fixed_modes(*graph->block(), modes);
    const char* const remedy = " (torch.jit.script(net) keeps both modes, a trace only one)";
    if (!modes.evaluation.empty()) {
      const auto is_norm = [](const auto& mode) {
        return mode.first.find("norm") != std::string::npos;
      };
      const auto norms = std::count_if(modes.evaluation.begin(), modes.evaluation.end(), is_norm);
      std::vector<std::string> lost;
      if (norms < std::ssize(modes.evaluation)) lost.push_back("nothing is dropped");
      if (norms > 0) lost.push_back("the file's statistics are used and kept");
      found.push_back(message(file_, ": ", counted_list(modes.evaluation),
                              " in evaluation mode for good, as in a trace of net.eval(): in "
                              "training, too, ",
                              list_of(lost), remedy));
    }
    torch::NoGradGuard no_grad;
    const Weights weights(layout_, row.unsqueeze(0));
    const torch::Tensor scores = run(weights, x, kEvaluationSeed);
    const bool random = !scores.allclose(run(weights, x, kEvaluationSeed + 1), 0, 0,
                                         /*equal_nan=*/true);
    if (!torch::isfinite(scores).all().item<bool>()) {
      found.push_back(file_ +
                      ": forward() gives NaN or infinity for the first samples already, with the "
                      "weights of the file (does it divide by 0, or take a logarithm or root of "
                      "what is not positive?)");
    }
    std::erase_if(modes.training, [&](const auto& mode) {
      return !random && mode.first.find("norm") == std::string::npos;
    });
    if (!modes.training.empty()) {
      found.push_back(message(
          file_, ": ", counted_list(modes.training),
          " in training mode for good, as in a trace of net.train(): evaluation is done with it, ",
          random ? "with the same random numbers for each batch"
                 : "by each batch's statistics, as track_running_stats = False has it, too",
          remedy));
    } else if (random) {
      found.push_back(file_ +
                      ": forward() draws random numbers in evaluation, too (the same for each "
                      "batch, so that results do not depend on the number of ranks)");
    }
    if (last_operator(*graph) == "aten::sigmoid" && objective().classifies()) {
      found.push_back(file_ +
                      ": forward() ends in a sigmoid, but the loss takes scores and applies "
                      "its own (leave it out)");
    }
    return found;
  }

 private:
  static constexpr uint64_t kEvaluationSeed = 0x5eed;

  static torch::jit::Module load(const std::string& path) {
    FL_CHECK(!path.empty(), "model torchscript needs a file: torchscript:net.pt");
    torch::jit::Module module = load_torchscript(path);
    FL_CHECK(module.find_method("forward"), path, " has no forward() to call");
    return module;
  }

  std::string why_none() const {
    if (state_.fixed() > 0) return message(": all ", state_.fixed(), " have requires_grad = False");
    const auto graph = whole_graph(module_);
    for (const torch::jit::Node* node : graph->nodes()) {
      if (node->kind() == torch::jit::prim::Constant &&
          node->output()->type()->isSubtypeOf(*c10::TensorType::get())) {
        return ": its weights are constants of its code, as torch.jit.freeze() makes them (save it "
               "before that)";
      }
    }
    return "";
  }

  // Of what forward() changes, with made-up samples; a module that does not take them is left to
  // those who try it on the data.
  void find_changes(const std::vector<int64_t>& input_shape) {
    std::vector<int64_t> shape = {2};
    shape.insert(shape.end(), input_shape.begin(), input_shape.end());
    torch::Tensor x = torch::empty(shape);
    x = torch::arange(x.numel(), torch::kFloat32).div_(static_cast<double>(x.numel())).view(shape);
    try {
      state_.find_changes(
          [&](const torch::Tensor& rows) {
            const torch::Tensor gradients = torch::zeros({1, layout_.trainable()});
            return run(Weights(layout_, rows, gradients), x, kEvaluationSeed);
          },
          layout_);
    } catch (const ForwardError&) {
    }
  }

  torch::Tensor run(const Weights& weights, torch::Tensor x, std::optional<uint64_t> seed) const {
    const std::vector<int64_t> shape = x.sizes().vec();
    const bool training = weights.training();
    const auto fail = [&](const std::string& reason) {
      throw ForwardError(
          message(file_, ": forward() fails on a batch of ", shape[0],
                  shape[0] == 1 ? " sample" : " samples", ", ", torch::IntArrayRef(shape),
                  training ? ", in training: " : ", in evaluation: ", reason,
                  shape[0] == 1
                      ? "; batch normalisation and squeeze() want more than one (choose a "
                        "local.batch-size that leaves no such rest, or other layers)"
                      : "; try net(torch.zeros(...)) of that shape in PyTorch"),
          reason);
    };
    state_.place(weights, x.device());
    module_.train(training);
    if (seed) torch::manual_seed(*seed);
    torch::jit::IValue output;
    try {
      output = module_.forward({std::move(x)});
    } catch (const std::exception& error) {
      fail(useful_line(error));
    }
    if (!output.isTensor()) {
      fail(message("it returns a ", output.type()->repr_str(),
                   " (must be one tensor, the scores [B, ...])"));
    }
    const torch::Tensor scores = output.toTensor();
    if (!scores.defined() || scores.dim() < 1 || scores.size(0) != shape[0]) {
      fail(message("it returns a tensor of shape ", scores.sizes(), " (must be [", shape[0],
                   ", ...], as many rows as samples)"));
    }
    state_.settle(weights);
    return scores;
  }

  const std::string file_;
  mutable torch::jit::Module module_;  // only a vessel: forward() fills it anew each time
  TorchScriptState state_;
  std::vector<std::string> differing_;  // modules that the file has in another mode than the whole
  torch::Tensor initial_;               // [1, P]
};

FL_REGISTER(Network, "torchscript", TorchScript);

}  // namespace fl_sim
