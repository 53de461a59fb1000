// Any TorchScript module: `model = torchscript:net.pt`, saved by
// torch.jit.script(net).save("net.pt").
//
// It trains one client at a time. Its parameters and floating-point buffers lie in the row like
// everyone's; in forward() they take the module's slots, so that it stays a pure function. Other
// buffers (counters) keep the file's values. The initial weights are those in the file, for every
// seed.
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/script.h>

#include <set>

#include "fl_sim.h"

namespace fl_sim {

class TorchScript final : public Network {
 public:
  explicit TorchScript(const Setup& setup) {
    FL_CHECK(!setup.argument.empty(), "model torchscript needs a file: torchscript:net.pt");
    try {
      module_ = torch::jit::load(setup.argument, torch::kCPU);
    } catch (const std::exception& error) {
      throw Error(message("cannot load ", setup.argument, " as TorchScript (",
                          first_line(error.what()),
                          "); save it with torch.jit.script(net).save(...)"));
    }
    // The optimising executor changes kernels after some calls, and bits with them: how often a
    // rank calls must not count.
    torch::jit::setGraphExecutorOptimize(false);
    for (const bool trainable : {true, false}) collect(module_, "", trainable);
    remember(module_);
    FL_CHECK(layout_.trainable() > 0, setup.argument, " has no parameters to train");
    torch::NoGradGuard no_grad;
    initial_ = torch::zeros({1, layout_.row()});
    for (size_t i = 0; i < slots_.size(); ++i) {
      layout_.view(initial_, static_cast<int64_t>(i))
          .copy_(slots_[i].object->getSlot(slots_[i].index).toTensor());
    }
  }

  static PluginInfo describe() {
    return {.summary = "a TorchScript file, torchscript:FILE; one client at a time",
            .rule =
                "The module maps [B, ...] inputs to [B, classes] scores. Its saved weights are the "
                "initial ones.\n"
                "Random layers draw from LibTorch's generator, seeded from the client's own stream "
                "in each step.",
            .takes_argument = true};
  }

  bool stackable() const override { return false; }
  bool mixed_precision() const override { return false; }
  torch::Tensor initial_row(Rng&) const override { return initial_[0].clone(); }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    for (size_t i = 0; i < slots_.size(); ++i) {
      slots_[i].object->setSlot(slots_[i].index, weights[static_cast<int64_t>(i)]);
    }
    for (const Other& other : others_) {
      c10::IValue value = other.value.deepcopy();
      if (value.isTensor()) value = value.toTensor().to(x.device());
      other.object->setSlot(other.index, std::move(value));
    }
    if (module_.is_training() != weights.training()) module_.train(weights.training());
    if (weights.training() && !weights.streams.empty())
      torch::manual_seed(weights.streams[0].bits64());
    const torch::jit::IValue output = module_.forward({std::move(x)});
    FL_CHECK(output.isTensor(), "the TorchScript module returns something else than one tensor");
    return output.toTensor();
  }

 private:
  struct Slot {
    c10::intrusive_ptr<c10::ivalue::Object> object;
    size_t index;
  };

  // What forward() might change beside them; it finds the file's values in every call.
  struct Other {
    c10::intrusive_ptr<c10::ivalue::Object> object;
    size_t index;
    c10::IValue value;
  };

  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

  void collect(const torch::jit::Module& module, const std::string& prefix, bool trainable) {
    const auto type = module._ivalue()->type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      const bool is_parameter = type->is_parameter(i), is_buffer = type->is_buffer(i);
      if (!is_parameter && !is_buffer) continue;
      const torch::jit::IValue value = module._ivalue()->getSlot(i);
      if (!value.isTensor()) continue;  // a parameter that is None
      const torch::Tensor& tensor = value.toTensor();
      const bool trained = is_parameter && tensor.requires_grad();
      if (trained != trainable || !tensor.is_floating_point()) continue;
      const std::string name = prefix + type->getAttributeName(i);
      FL_CHECK(tied_.insert(tensor.data_ptr()).second,
               "the TorchScript module uses one parameter in two places (", name,
               " is one of them), which is not supported");
      const int64_t index = trainable ? layout_.add(name, tensor.sizes().vec(), 0)
                                      : layout_.add_buffer(name, tensor.sizes().vec(), 0);
      // Only layers with running statistics can be told from others.
      if (type->hasAttribute("running_mean")) layout_.mark_normalisation(index);
      slots_.push_back({module._ivalue(), i});
    }
    for (const auto& child : module.named_children())
      collect(child.value, prefix + child.name + ".", trainable);
  }

  // Integer buffers, counters, lists: every attribute that is not in the row.
  void remember(const torch::jit::Module& module) {
    const auto object = module._ivalue();
    for (size_t i = 0; i < object->type()->numAttributes(); ++i) {
      const auto in_row = [&](const Slot& slot) {
        return slot.object == object && slot.index == i;
      };
      const c10::IValue& value = object->getSlot(i);
      if (value.isModule() || object->type()->getAttributeName(i) == "training" ||
          std::any_of(slots_.begin(), slots_.end(), in_row)) {
        continue;
      }
      others_.push_back({object, i, value.deepcopy()});
    }
    for (const auto& child : module.children()) remember(child);
  }

  mutable torch::jit::Module module_;  // only a vessel: forward() fills it anew each time
  std::set<const void*> tied_;
  std::vector<Slot> slots_;  // one per parameter of the layout, in its order
  std::vector<Other> others_;
  torch::Tensor initial_;  // [1, P]
};

FL_REGISTER(Network, "torchscript", TorchScript);

}  // namespace fl_sim
