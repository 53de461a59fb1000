// What a TorchScript module holds beside its code: parameters, buffers and other attributes, and
// which of them lie in a row.
//
// forward() reads and writes its module's attributes. So that it is a pure function of the row, all
// of them are made anew for each call: parameters become the row's leaves wherever they are held,
// also in lists, dictionaries and further attributes; buffers become copies, which go back into the
// row after a call that trains; everything else becomes a copy of what the file has, and must not
// change in a way that results depend on.
#pragma once

#include <torch/script.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "network/parameter_layout.h"
#include "network/weights.h"

namespace fl_sim {

class TorchScriptState {
 public:
  // Adds the module's parameters and floating-point buffers to `layout`. Throws Error, with
  // `file`'s name, if a parameter cannot lie in a row.
  TorchScriptState(const torch::jit::Module& module, std::string file, ParameterLayout& layout);

  // What the file has, [1, P].
  torch::Tensor initial_rows(const ParameterLayout& layout) const;

  // Before a call of forward(): every attribute, for inputs on `device`.
  void place(const Weights& weights, const torch::Device& device) const;
  // After it: what forward() has written goes into the weights, if they train. Throws Error, with
  // the attribute's name, for what cannot be kept.
  void settle(const Weights& weights) const;

  // Looks what forward() changes beside parameters and floating-point buffers. Integer buffers,
  // such as counters, are added to `layout`, unless results do not depend on them. Throws Error for
  // whatever else results depend on. `call` trains with rows [1, P] on the same samples with the
  // same random numbers each time, and returns forward()'s result.
  using Call = std::function<torch::Tensor(const torch::Tensor& rows)>;
  void find_changes(const Call& call, ParameterLayout& layout);

  // What a user should know, a line each.
  std::vector<std::string> notes() const;
  // How many parameters the file has fixed, with requires_grad = False.
  int64_t fixed() const { return fixed_; }

 private:
  enum class Kind {
    kParameter,
    kBuffer,   // of floating-point numbers; a fixed parameter, too
    kCounter,  // a buffer of integers, which the row holds as floating-point numbers
    kOther     // not in the row
  };
  // A tensor of the file. Attributes that hold the same one share it.
  struct Known {
    torch::Tensor tensor;
    std::string name;
    Kind kind = Kind::kOther;
    int64_t row = -1;  // its index in the layout
  };
  // An attribute that is no module.
  struct Place {
    c10::intrusive_ptr<c10::ivalue::Object> object;
    size_t slot;
    std::string name;
    bool buffer;        // registered as one
    bool first;         // of those that hold its tensor
    bool cache;         // it changes, and nothing depends on it
    c10::IValue value;  // of the file
    const c10::IValue& now() const { return object->getSlot(slot); }
  };
  // Which numbers of which memory: storage, offset, sizes, strides.
  using Geometry = std::tuple<const void*, int64_t, std::vector<int64_t>, std::vector<int64_t>>;
  // The containers of a call that have been made, by those of the file.
  using Made = std::unordered_map<const void*, c10::IValue>;
  static constexpr size_t kUnknown = static_cast<size_t>(-1);

  void collect(const torch::jit::Module& module, const std::string& prefix, bool trainable,
               ParameterLayout& layout);
  void remember(const torch::jit::Module& module, const std::string& prefix,
                std::vector<const void*>& seen);
  void learn(const c10::IValue& value, const std::string& name);
  size_t learn_tensor(const torch::Tensor& tensor, const std::string& name);
  size_t find(const torch::Tensor& tensor) const;
  void check_memory() const;
  c10::IValue fresh(const c10::IValue& value, const Weights& weights, const torch::Device& device,
                    Made& made) const;
  torch::Tensor fresh_tensor(const torch::Tensor& tensor, const Weights& weights,
                             const torch::Device& device) const;
  bool changed(const c10::IValue& before, const c10::IValue& now) const;
  void settle_tensor(const Place& place, const Known& known, const torch::Tensor& mine,
                     uint32_t version, const Weights& weights) const;
  void add_counter(Known& known, ParameterLayout& layout);

  std::string file_;
  std::vector<Place> places_;
  std::vector<Known> known_;
  std::map<Geometry, size_t> by_geometry_;             // of known_
  std::unordered_map<const void*, size_t> by_tensor_;  // of known_, by the tensor's address
  std::vector<std::string> tied_, caches_;
  int64_t fixed_ = 0;
  bool other_type_ = false;  // parameters that are not float32
  bool searching_ = false;   // find_changes() is at work
  // Of the call under way: what stands for each of known_, and how often that had been written.
  mutable std::vector<torch::Tensor> current_;
  mutable std::vector<uint32_t> versions_;
};

}  // namespace fl_sim
