#include "learning/record_values.h"

#include <array>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "learning/record_columns.h"

namespace fl_sim {
namespace {

const std::set<std::string> kAllMetrics = {"balanced-accuracy", "auc", "f1"};

// The columns of one record.
class Values {
 public:
  static constexpr bool kReads = false;

  template <class Record, class Field>
  void column(const std::string& path, const std::array<Record, 1>& record, const Field& field) {
    const auto value = std::invoke(field, record[0]);
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, double>) {
      if (std::isnan(value)) return;
    }
    values_.push_back({path.substr(path.rfind('/') + 1), value});
  }
  template <class Record, class Field>
  void table(const std::string&, const std::array<Record, 1>&, const Field&) {}

  std::vector<RecordValue> take() { return std::move(values_); }

 private:
  std::vector<RecordValue> values_;
};

void append(std::vector<RecordValue>& values, const std::map<std::string, double>& further) {
  for (const auto& [name, value] : further) {
    if (!std::isnan(value)) values.push_back({name, value});
  }
}

}  // namespace

std::vector<RecordValue> values_of(const RoundRecord& round) {
  Values io;
  const std::array<RoundRecord, 1> one = {round};
  round_columns(io, one, kAllMetrics);
  std::vector<RecordValue> values = io.take();
  append(values, round.figures);
  return values;
}

std::vector<RecordValue> values_of(const ClientRecord& client,
                                   const std::vector<std::string>& scalars) {
  Values io;
  const std::array<ClientRecord, 1> one = {client};
  client_columns(io, {}, further_of(client), one);
  std::vector<RecordValue> values = io.take();
  // By name, as a file has them.
  std::map<std::string, double> further;
  for (size_t i = 0; i < scalars.size(); ++i) further[scalars[i]] = client.scalars[i];
  append(values, further);
  return values;
}

std::vector<RecordValue> values_of(const ClientEvaluation& evaluation) {
  Values io;
  const std::array<ClientEvaluation, 1> one = {evaluation};
  evaluation_columns(io, one, kAllMetrics);
  return io.take();
}

}  // namespace fl_sim
