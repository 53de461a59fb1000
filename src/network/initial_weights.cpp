#include "network/initial_weights.h"

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/registry.h"
#include "base/results_format.h"

namespace fl_sim {
namespace {

// The path of the group that holds the parameters, with a slash behind.
std::string group_of(const Hdf5File& file) {
  for (const std::string group : {"/model", "/state_dict"}) {
    if (file.has(group)) return group + "/";
  }
  return "/";
}

std::string first_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 8;
  if (names.size() <= kMost) return list_of(names);
  return message(list_of({names.begin(), names.begin() + kMost}), " and ", names.size() - kMost,
                 " more");
}

}  // namespace

torch::Tensor initial_row_from(const std::string& path, const ParameterLayout& layout) {
  const Hdf5File file = Hdf5File::open(path);
  check_results_format(file, path);
  const std::string group = group_of(file);
  const std::vector<std::string> found = file.names(group);
  std::set<std::string> extra(found.begin(), found.end());
  std::vector<std::string> missing;
  for (const Parameter& parameter : layout.parameters()) {
    if (extra.erase(parameter.name) == 0) missing.push_back(parameter.name);
  }
  std::erase_if(extra, [](const std::string& name) {
    return name.substr(name.rfind('.') + 1) == "num_batches_tracked";
  });
  FL_CHECK(missing.empty(), path, ": ", group, " lacks ", first_of(missing),
           " of the model's parameters (it has ",
           found.empty() ? std::string("nothing") : first_of(found),
           "); names must be those of PyTorch's state_dict");
  FL_CHECK(extra.empty(), path, ": ", group, " has ", first_of({extra.begin(), extra.end()}),
           ", which the model does not have; is it of another model?");

  torch::Tensor row = torch::zeros({layout.row()}, torch::kFloat32);
  float* out = row.data_ptr<float>();
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const Parameter& parameter = layout.parameters()[i];
    const std::string dataset = group + parameter.name;
    const std::vector<int64_t> shape = file.shape(dataset);
    FL_CHECK(shape == parameter.shape, path, ": ", dataset, " has the shape ",
             torch::IntArrayRef(shape), ", but the model's is ",
             torch::IntArrayRef(parameter.shape));
    FL_CHECK(file.holds_floats(dataset), path, ": ", dataset,
             " holds numbers of another type than float32 or float64, which a model's are");
    const std::vector<double> values = file.read_doubles(dataset);
    const auto broken = std::find_if(values.begin(), values.end(), [](double value) {
      return !(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()));
    });
    FL_CHECK(broken == values.end(), path, ": ", dataset, " has ", *broken, " as its number ",
             broken - values.begin(), " (all must be finite in float32)");
    std::transform(values.begin(), values.end(), out + layout.offset(static_cast<int64_t>(i)),
                   [](double value) { return static_cast<float>(value); });
  }
  return row;
}

}  // namespace fl_sim
