#include "plugins/models/torchscript_state.h"

#include <algorithm>
#include <utility>

#include "fl_sim.h"

namespace fl_sim {
namespace {

// Whether two values are the same to the last bit; NaN is equal to itself.
bool equal_values(const c10::IValue& a, const c10::IValue& b) {
  if (a.tagKind() != b.tagKind()) return false;
  const auto all_equal = [](const auto& these, const auto& those) {
    return these.size() == those.size() &&
           std::equal(these.begin(), these.end(), those.begin(), equal_values);
  };
  if (a.isTensor()) {
    const torch::Tensor &s = a.toTensor(), &t = b.toTensor();
    if (!s.defined() || !t.defined()) return s.defined() == t.defined();
    return s.sizes() == t.sizes() && s.scalar_type() == t.scalar_type() &&
           at::allclose(s.detach(), t.detach(), 0, 0, /*equal_nan=*/true);
  }
  if (a.isTuple()) return all_equal(a.toTupleRef().elements(), b.toTupleRef().elements());
  if (a.isList()) return all_equal(a.toListRef(), b.toListRef());
  if (a.isGenericDict()) {
    const auto these = a.toGenericDict(), those = b.toGenericDict();
    return these.size() == those.size() &&
           std::all_of(these.begin(), these.end(), [&](const auto& entry) {
             return those.contains(entry.key()) &&
                    equal_values(entry.value(), those.at(entry.key()));
           });
  }
  if (a.isObject()) return all_equal(a.toObjectRef().slots(), b.toObjectRef().slots());
  return a == b;
}

// Where a tensor's numbers lie in its storage: [first, last).
std::pair<int64_t, int64_t> extent_of(const torch::Tensor& tensor) {
  if (tensor.numel() == 0) return {tensor.storage_offset(), tensor.storage_offset()};
  int64_t last = tensor.storage_offset() + 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return {tensor.storage_offset(), last};
}

bool has_memory(const torch::Tensor& tensor) {
  return tensor.layout() == torch::kStrided && tensor.has_storage() && !tensor.is_quantized();
}

const void* storage_of(const torch::Tensor& tensor) {
  return tensor.storage().unsafeGetStorageImpl();
}

}  // namespace

TorchScriptState::TorchScriptState(const torch::jit::Module& module, std::string file,
                                   ParameterLayout& layout)
    : file_(std::move(file)) {
  for (const bool trainable : {true, false}) collect(module, "", trainable, layout);
  std::vector<const void*> seen;
  remember(module, "", seen);
  check_memory();
}

void TorchScriptState::collect(const torch::jit::Module& module, const std::string& prefix,
                               bool trainable, ParameterLayout& layout) {
  const auto type = module._ivalue()->type();
  for (size_t i = 0; i < type->numAttributes(); ++i) {
    const bool is_parameter = type->is_parameter(i), is_buffer = type->is_buffer(i);
    if (!is_parameter && !is_buffer) continue;
    const c10::IValue& value = module._ivalue()->getSlot(i);
    if (!value.isTensor() || !value.toTensor().defined()) continue;  // a parameter that is None
    const torch::Tensor& tensor = value.toTensor();
    const std::string name = prefix + type->getAttributeName(i);
    const bool trained = is_parameter && tensor.requires_grad();
    if (trained != trainable) continue;
    FL_CHECK(!trained || tensor.is_floating_point(), file_, ": parameter ", name, " is of type ",
             tensor.dtype().name(), ", which cannot be trained (must be a floating-point type)");
    if (!tensor.is_floating_point()) continue;
    FL_CHECK(has_memory(tensor), file_, ": ", name,
             " is sparse or quantized (must be a plain tensor to lie in a model's row)");
    const size_t before = known_.size(), index = learn_tensor(tensor, name);
    Known& known = known_[index];
    if (index < before) {
      tied_.push_back(name + " is " + known.name);
      continue;
    }
    if (is_parameter && !trained) ++fixed_;
    other_type_ = other_type_ || (is_parameter && tensor.scalar_type() != torch::kFloat32);
    known.kind = trained ? Kind::kParameter : Kind::kBuffer;
    known.row = trained ? layout.add(name, tensor.sizes().vec(), 0)
                        : layout.add_buffer(name, tensor.sizes().vec(), 0);
    // Only layers with running statistics can be told from others.
    if (type->hasAttribute("running_mean")) layout.mark_normalisation(known.row);
  }
  for (const auto& child : module.named_children())
    collect(child.value, prefix + child.name + ".", trainable, layout);
}

void TorchScriptState::remember(const torch::jit::Module& module, const std::string& prefix,
                                std::vector<const void*>& seen) {
  const auto object = module._ivalue();
  if (std::find(seen.begin(), seen.end(), object.get()) != seen.end()) return;
  seen.push_back(object.get());
  const auto type = object->type();
  for (size_t i = 0; i < type->numAttributes(); ++i) {
    const c10::IValue value = object->getSlot(i);
    const std::string name = type->getAttributeName(i);
    if (value.isModule() || name == "training") continue;
    learn(value, prefix + name);
    const size_t index = value.isTensor() ? find(value.toTensor()) : kUnknown;
    const bool first =
        index != kUnknown && std::none_of(places_.begin(), places_.end(), [&](const Place& place) {
          return place.value.isTensor() && find(place.value.toTensor()) == index;
        });
    places_.push_back({.object = object,
                       .slot = i,
                       .name = prefix + name,
                       .buffer = type->is_buffer(i),
                       .first = first,
                       .cache = false,
                       .value = value});
  }
  for (const auto& child : module.named_children())
    remember(child.value, prefix + child.name + ".", seen);
}

// All tensors in a value.
void TorchScriptState::learn(const c10::IValue& value, const std::string& name) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) learn_tensor(value.toTensor(), name);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) learn(element, name);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) learn(element, name);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) learn(entry.value(), name);
  } else if (value.isObject() && !value.isModule()) {
    for (const c10::IValue& element : value.toObjectRef().slots()) learn(element, name);
  }
}

size_t TorchScriptState::learn_tensor(const torch::Tensor& tensor, const std::string& name) {
  const void* const address = tensor.unsafeGetTensorImpl();
  if (const auto found = by_tensor_.find(address); found != by_tensor_.end()) return found->second;
  size_t index = known_.size();
  if (has_memory(tensor) && tensor.numel() > 0) {
    const auto [found, added] =
        by_geometry_.try_emplace(Geometry(storage_of(tensor), tensor.storage_offset(),
                                          tensor.sizes().vec(), tensor.strides().vec()),
                                 index);
    index = found->second;
    // The memory of one type read as another is not the same tensor.
    if (!added && known_[index].tensor.scalar_type() != tensor.scalar_type()) index = known_.size();
  }
  by_tensor_[address] = index;
  if (index == known_.size()) known_.push_back({.tensor = tensor, .name = name});
  return index;
}

size_t TorchScriptState::find(const torch::Tensor& tensor) const {
  if (!tensor.defined()) return kUnknown;
  const auto found = by_tensor_.find(tensor.unsafeGetTensorImpl());
  return found != by_tensor_.end() ? found->second : kUnknown;
}

// A parameter's numbers are its own, or all another's.
void TorchScriptState::check_memory() const {
  std::map<const void*, std::vector<const Known*>> by_storage;
  for (const Known& known : known_) {
    if (has_memory(known.tensor)) by_storage[storage_of(known.tensor)].push_back(&known);
  }
  for (const auto& [storage, tensors] : by_storage) {
    for (const Known* parameter : tensors) {
      if (parameter->kind != Kind::kParameter) continue;
      const torch::Tensor& tensor = parameter->tensor;
      for (int64_t d = 0; d < tensor.dim(); ++d) {
        FL_CHECK(tensor.size(d) < 2 || tensor.stride(d) != 0, file_, ": parameter ",
                 parameter->name,
                 " keeps several of its numbers in one place (it was expanded), which cannot be "
                 "trained (save it after .clone())");
      }
      const auto [begin, end] = extent_of(tensor);
      for (const Known* other : tensors) {
        if (other == parameter) continue;
        const auto [other_begin, other_end] = extent_of(other->tensor);
        FL_CHECK(other_end <= begin || end <= other_begin, file_, ": ", other->name,
                 " is a part or another view of the memory of parameter ", parameter->name,
                 ", and would not follow it as it trains (make it in forward(), or save it after "
                 ".clone())");
      }
    }
  }
}

torch::Tensor TorchScriptState::initial_rows(const ParameterLayout& layout) const {
  torch::NoGradGuard no_grad;
  torch::Tensor rows = torch::zeros({1, layout.row()});
  for (const Known& known : known_) {
    if (known.row >= 0) layout.view(rows, known.row)[0].copy_(known.tensor);
  }
  return rows;
}

torch::Tensor TorchScriptState::fresh_tensor(const torch::Tensor& tensor, const Weights& weights,
                                             const torch::Device& device) const {
  if (!tensor.defined()) return tensor;
  const size_t index = find(tensor);
  const auto copy = [&] { return tensor.detach().to(device, tensor.scalar_type(), false, true); };
  if (index == kUnknown) return copy();
  torch::Tensor& made = current_[index];
  if (made.defined()) return made;
  const Known& known = known_[index];
  if (known.kind == Kind::kOther) {
    made = copy();
  } else {
    const torch::Tensor& mine = weights[known.row];
    made = known.kind == Kind::kParameter ? mine
           : known.kind == Kind::kBuffer  ? mine.clone()
                                          : mine.round().to(tensor.scalar_type());
  }
  versions_[index] = static_cast<uint32_t>(made._version());
  return made;
}

c10::IValue TorchScriptState::fresh(const c10::IValue& value, const Weights& weights,
                                    const torch::Device& device, Made& made) const {
  const auto again = [&](const c10::IValue& part) { return fresh(part, weights, device, made); };
  if (value.isTensor()) return fresh_tensor(value.toTensor(), weights, device);
  const bool is_object = value.isObject() && !value.isModule();
  if (!value.isTuple() && !value.isList() && !value.isGenericDict() && !is_object) return value;
  const auto found = made.find(value.internalToPointer());
  if (found != made.end()) return found->second;
  c10::IValue copy;
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const c10::IValue& element : value.toTupleRef().elements())
      elements.push_back(again(element));
    copy = c10::ivalue::Tuple::createNamed(std::move(elements), value.type());
  } else if (value.isList()) {
    c10::impl::GenericList list(value.toList().elementType());
    for (const c10::IValue& element : value.toListRef()) list.push_back(again(element));
    copy = list;
  } else if (value.isGenericDict()) {
    const auto from = value.toGenericDict();
    c10::impl::GenericDict dict(from.keyType(), from.valueType());
    for (const auto& entry : from) dict.insert_or_assign(entry.key(), again(entry.value()));
    copy = dict;
  } else {
    auto object = value.toObject()->copy();
    for (size_t i = 0; i < object->slots().size(); ++i)
      object->setSlot(i, again(object->getSlot(i)));
    copy = std::move(object);
  }
  return made[value.internalToPointer()] = copy;
}

void TorchScriptState::place(const Weights& weights, const torch::Device& device) const {
  current_.assign(known_.size(), torch::Tensor());
  versions_.assign(known_.size(), 0);
  torch::NoGradGuard no_grad;
  Made made;
  for (const Place& place : places_)
    place.object->setSlot(place.slot, fresh(place.value, weights, device, made));
}

// Whether `now`, which began as fresh(before), is something else now.
bool TorchScriptState::changed(const c10::IValue& before, const c10::IValue& now) const {
  const auto any_changed = [&](const auto& these, const auto& those) {
    return these.size() != those.size() ||
           !std::equal(these.begin(), these.end(), those.begin(),
                       [&](const auto& a, const auto& b) { return !changed(a, b); });
  };
  if (before.tagKind() != now.tagKind()) return true;
  if (before.isTensor()) {
    const size_t index = find(before.toTensor());
    if (index == kUnknown) return !equal_values(before, now);
    const torch::Tensor& tensor = now.toTensor();
    return !tensor.is_same(current_[index]) ||
           (known_[index].kind == Kind::kOther && tensor._version() != versions_[index]);
  }
  if (before.isTuple())
    return any_changed(before.toTupleRef().elements(), now.toTupleRef().elements());
  if (before.isList()) return any_changed(before.toListRef(), now.toListRef());
  if (before.isGenericDict()) {
    const auto these = before.toGenericDict(), those = now.toGenericDict();
    return these.size() != those.size() ||
           std::any_of(these.begin(), these.end(), [&](const auto& entry) {
             return !those.contains(entry.key()) || changed(entry.value(), those.at(entry.key()));
           });
  }
  if (before.isObject() && !before.isModule())
    return any_changed(before.toObjectRef().slots(), now.toObjectRef().slots());
  return !equal_values(before, now);
}

void TorchScriptState::settle_tensor(const Place& place, const Known& known,
                                     const torch::Tensor& mine, uint32_t version,
                                     const Weights& weights) const {
  const c10::IValue& now = place.now();
  const bool same = now.isTensor() && now.toTensor().is_same(mine);
  if (known.kind == Kind::kParameter) {
    FL_CHECK(same, file_, ": forward() assigns to its parameter ", place.name,
             ", which would be lost (change it in place, or make it a buffer)");
    FL_CHECK(weights.training() || mine._version() == version, file_,
             ": forward() changes its parameter ", place.name,
             " in evaluation, which must leave the model as it is (do it in training only)");
    return;
  }
  FL_CHECK(place.first || same, file_, ": forward() assigns to ", place.name, ", which is also ",
           known.name, " (change it in place, or keep them apart)");
  if (!weights.training() || !place.first) return;
  FL_CHECK(now.isTensor() && now.toTensor().defined() &&
               now.toTensor().sizes() == known.tensor.sizes() &&
               now.toTensor().is_floating_point() == known.tensor.is_floating_point(),
           file_, ": forward() makes something else of its buffer ", place.name,
           ", which the file has as ", known.tensor.toString(), " of shape ", known.tensor.sizes(),
           " (a buffer must keep its type and shape)");
  const torch::Tensor& row = weights[known.row];
  const torch::Tensor written = now.toTensor().detach();
  if (known.kind == Kind::kBuffer) {
    row.copy_(written);
  } else {  // the mean of clients' counters need not be whole: what was counted is added
    row.add_(written.to(row.scalar_type()) - row.round());
  }
}

void TorchScriptState::settle(const Weights& weights) const {
  torch::NoGradGuard no_grad;
  for (const Place& place : places_) {
    const size_t index = place.value.isTensor() ? find(place.value.toTensor()) : kUnknown;
    if (index != kUnknown && known_[index].kind != Kind::kOther) {
      settle_tensor(place, known_[index], current_[index], versions_[index], weights);
      continue;
    }
    if (place.cache || searching_) continue;
    FL_CHECK(!changed(place.value, place.now()), file_, ": forward() changes ", place.name,
             ", which ", place.buffer ? "is no buffer of numbers" : "is not a buffer",
             ": it would begin with the file's value in the next call again (register it with "
             "register_buffer())");
  }
}

void TorchScriptState::add_counter(Known& known, ParameterLayout& layout) {
  constexpr double kExact = 1 << 24;  // integers that float32 holds
  const torch::Tensor& tensor = known.tensor;
  FL_CHECK(!tensor.is_complex() && tensor.numel() > 0 &&
               tensor.to(torch::kFloat64).abs().max().item<double>() < kExact,
           file_, ": forward() changes its buffer ", known.name,
           ", whose numbers do not fit into a model's row (must be whole and below 2^24)");
  known.kind = Kind::kCounter;
  known.row = layout.add_buffer(known.name, tensor.sizes().vec(), 0);
}

void TorchScriptState::find_changes(const Call& call, ParameterLayout& layout) {
  searching_ = true;
  const torch::Tensor start = initial_rows(layout);
  torch::Tensor rows = start.clone();
  const torch::Tensor result = call(rows).detach().clone();
  std::vector<size_t> found;
  std::vector<c10::IValue> after;
  for (size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    const size_t index = place.value.isTensor() ? find(place.value.toTensor()) : kUnknown;
    const bool in_row = index != kUnknown && known_[index].kind != Kind::kOther;
    if (in_row || !changed(place.value, place.now())) continue;
    found.push_back(i);
    after.push_back(place.now());
  }
  // Whether a call that begins with what those of `found` have become comes to something else.
  const auto matter = [&](const std::vector<size_t>& which) {
    for (const size_t f : which) places_[found[f]].value.swap(after[f]);
    torch::Tensor again = start.clone();
    const torch::Tensor other = call(again).detach();
    for (const size_t f : which) places_[found[f]].value.swap(after[f]);
    bool differs = !equal_values(result, other) || !equal_values(rows, again);
    for (size_t f = 0; f < found.size(); ++f) {
      if (std::find(which.begin(), which.end(), f) == which.end())
        differs = differs || !equal_values(after[f], places_[found[f]].now());
    }
    return differs;
  };
  std::vector<size_t> all(found.size());
  for (size_t f = 0; f < all.size(); ++f) all[f] = f;
  const bool any = !all.empty() && matter(all);
  std::vector<bool> matters;
  for (const size_t f : all) matters.push_back(any && matter({f}));
  for (const size_t f : all) {
    Place& place = places_[found[f]];
    const size_t index = place.value.isTensor() ? find(place.value.toTensor()) : kUnknown;
    const bool counts = place.buffer && index != kUnknown && after[f].isTensor() &&
                        after[f].toTensor().sizes() == known_[index].tensor.sizes() &&
                        !known_[index].tensor.is_floating_point();
    // PyTorch's batch normalisation counts always, and needs it only where its momentum is None.
    const bool needless = !matters[f] && place.name.ends_with("num_batches_tracked");
    if (counts && !needless) {
      if (known_[index].kind == Kind::kOther) add_counter(known_[index], layout);
      continue;
    }
    FL_CHECK(!matters[f], file_, ": forward() changes ", place.name, ", and its results depend on ",
             "it, but it is ",
             place.buffer ? "no buffer of numbers that keeps its shape" : "no buffer",
             ": fl_sim would begin with the file's value in each call (register it with "
             "register_buffer(), or compute it anew in each call)");
    place.cache = true;
    if (!needless) caches_.push_back(place.name);
  }
  searching_ = false;
}

std::vector<std::string> TorchScriptState::notes() const {
  std::vector<std::string> notes;
  if (!tied_.empty()) {
    notes.push_back(
        message(file_, ": tied weights train as one, and /model has them once: ", list_of(tied_)));
  }
  if (!caches_.empty()) {
    notes.push_back(message(file_, ": forward() changes ", list_of(caches_),
                            ", no buffers: each call begins with the file's values (its results "
                            "were the same so)"));
  }
  if (other_type_)
    notes.push_back(file_ + ": parameters of other types than float32 train as float32");
  return notes;
}

}  // namespace fl_sim
