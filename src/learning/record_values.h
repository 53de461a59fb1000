// A record as names and numbers: what its columns are called in a results file, and what stands in
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "learning/records.h"

namespace fl_sim {

struct RecordValue {
  std::string name;  // "test_accuracy"
  std::variant<int64_t, double> value;

  double number() const {
    const auto* whole = std::get_if<int64_t>(&value);
    return whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value);
  }
};

// What was measured of it, in the order of the columns, figures and scalars by name at the end. Of
// a round the lists of numbers, one a model or a class, are left out. `scalars`: what
// ClientRecord::scalars are called.
std::vector<RecordValue> values_of(const RoundRecord& round);
std::vector<RecordValue> values_of(const ClientRecord& client,
                                   const std::vector<std::string>& scalars);
std::vector<RecordValue> values_of(const ClientEvaluation& evaluation);

}  // namespace fl_sim
