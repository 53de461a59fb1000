#include "learning/named_model.h"

#include <map>
#include <span>

#include "base/checksum.h"

namespace fl_sim {

std::string model_checksum(const std::vector<NamedTensor>& model) {
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : model) by_name[tensor.name] = &tensor;
  Checksum checksum;
  for (const auto& [name, tensor] : by_name) checksum.add(std::as_bytes(std::span(tensor->values)));
  return checksum.text();
}

void write_model(Hdf5File& file, const std::string& group, const std::vector<NamedTensor>& model) {
  for (const NamedTensor& tensor : model)
    file.write(group + "/" + tensor.name, tensor.values, tensor.shape);
  file.write_attribute(group, "checksum", model_checksum(model));
}

}  // namespace fl_sim
