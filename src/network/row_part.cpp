#include "network/row_part.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "network/network.h"

namespace fl_sim {

RowPart::RowPart(std::vector<std::pair<int64_t, int64_t>> spans) {
  std::sort(spans.begin(), spans.end());
  for (const auto& [offset, length] : spans) {
    if (length == 0) continue;
    if (!spans_.empty() && spans_.back().first + spans_.back().second == offset) {
      spans_.back().second += length;  // fewer copies
    } else {
      spans_.emplace_back(offset, length);
    }
    size_ += length;
  }
}

RowPart RowPart::of(const ParameterLayout& layout,
                    const std::function<bool(const Parameter&)>& chosen) {
  std::vector<std::pair<int64_t, int64_t>> spans;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const Parameter& parameter = layout.parameters()[i];
    if (chosen(parameter))
      spans.emplace_back(layout.offset(static_cast<int64_t>(i)), (parameter.size + 15) / 16 * 16);
  }
  return RowPart(std::move(spans));
}

RowPart RowPart::complement(const ParameterLayout& layout) const {
  std::vector<std::pair<int64_t, int64_t>> spans;
  int64_t end = 0;
  for (const auto& [offset, length] : spans_) {
    spans.emplace_back(end, offset - end);
    end = offset + length;
  }
  spans.emplace_back(end, layout.row() - end);
  return RowPart(std::move(spans));
}

RowPart RowPart::trainable(const ParameterLayout& layout) const {
  std::vector<std::pair<int64_t, int64_t>> spans;
  for (const auto& [offset, length] : spans_) {
    if (offset < layout.trainable())
      spans.emplace_back(offset, std::min(length, layout.trainable() - offset));
  }
  return RowPart(std::move(spans));
}

bool RowPart::contains(const RowPart& other) const {
  return std::all_of(other.spans_.begin(), other.spans_.end(), [&](const auto& inner) {
    return std::any_of(spans_.begin(), spans_.end(), [&](const auto& outer) {
      return outer.first <= inner.first && inner.first + inner.second <= outer.first + outer.second;
    });
  });
}

int64_t RowPart::numbers(const ParameterLayout& layout) const {
  int64_t sum = 0;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const int64_t at = layout.offset(static_cast<int64_t>(i));
    const bool inside = std::any_of(spans_.begin(), spans_.end(), [&](const auto& span) {
      return span.first <= at && at < span.first + span.second;
    });
    if (inside) sum += layout.parameters()[i].size;
  }
  return sum;
}

torch::Tensor RowPart::gather(const torch::Tensor& rows) const {
  torch::Tensor values = torch::empty({rows.size(0), size_}, rows.options());
  int64_t at = 0;
  for (const auto& [offset, length] : spans_) {
    values.narrow(1, at, length).copy_(rows.narrow(1, offset, length));
    at += length;
  }
  return values;
}

void RowPart::scatter(torch::Tensor rows, const torch::Tensor& values) const {
  FL_CHECK(values.dim() == 2 && values.size(1) == size_, "a part of ", size_,
           " numbers of a row is to take values of shape ", values.sizes());
  int64_t at = 0;
  for (const auto& [offset, length] : spans_) {
    rows.narrow(1, offset, length).copy_(values.narrow(1, at, length));
    at += length;
  }
}

void RowPart::zero(torch::Tensor rows) const {
  for (const auto& [offset, length] : spans_) rows.narrow(1, offset, length).zero_();
}

RowPart head_of(const Network& network) {
  const std::vector<std::string> head = network.head();
  std::set<std::string> names(head.begin(), head.end());
  RowPart part =
      RowPart::of(network.layout(), [&](const Parameter& p) { return names.erase(p.name) > 0; });
  FL_CHECK(names.empty(), "the model says that ", *names.begin(),
           " is of its head, but has no parameter of that name");
  return part;
}

RowPart normalisation_of(const ParameterLayout& layout) {
  return RowPart::of(layout, [](const Parameter& parameter) { return parameter.normalisation; });
}

}  // namespace fl_sim
