// Training and test samples, and the interface of the sources that provide them.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/registry.h"

namespace fl_sim {

// n samples in file order.
struct Samples {
  torch::Tensor inputs;  // [n, ...] uint8 (as stored) or float32
  // [n] int64; or [n, T], a label at each of T positions of a sequence, kIgnored where there is
  // nothing to predict.
  torch::Tensor labels;

  static constexpr int64_t kIgnored = -1;

  int64_t size() const { return labels.defined() ? labels.size(0) : 0; }
  int64_t positions() const { return labels.dim() == 2 ? labels.size(1) : 1; }  // T
  std::vector<int64_t> sample_shape() const { return inputs.sizes().slice(1).vec(); }
};

struct Dataset {
  Samples train, test;
  int64_t classes = 0;
  double scale = 1, shift = 0;  // a network sees inputs · scale + shift, computed batch by batch
  // [n] the natural client (0, 1, ...) of each training sample; empty: none known.
  std::vector<int64_t> owner = {};
  // [n] the same of each test sample, -1 for one of nobody who trains; empty: none known.
  std::vector<int64_t> test_owner = {};
  // [n] the coarse class (0, 1, ...) of each training sample; empty: there are none.
  std::vector<int64_t> coarse = {};
  // [classes] the number that a label stands for, ascending, where labels are the distinct values
  // of a number to be predicted; empty: labels are classes.
  std::vector<double> values = {};
  // [classes] names for tables and pictures; empty: classes have numbers only.
  std::vector<std::string> class_names = {};
  // What a user should know of the files, a line each.
  std::vector<std::string> notes = {};
  // What the source did not take, for the run's header: "3 rows without a value". Empty: nothing.
  std::string left_out = {};
  // The job's keys that scale inputs, for advice: "csv.scale or csv.standardise". Empty: none do.
  std::string scaled_by = {};
};

// A source of data: a file format or a generator. Plug-ins live in src/plugins/datasets/.
class DatasetSource {
 public:
  static constexpr const char* kKind = "dataset";
  struct Setup {
    const Job& job;
    std::string argument;  // what stands behind the colon of `dataset = name:argument`
  };

  virtual ~DatasetSource() = default;

  // Reads or generates everything: a pure function of the job and of the files it names. Throws
  // Error that names the file, what was expected and what was found; a bad byte never reaches a
  // tensor.
  virtual Dataset read() const = 0;
};

// [n] int64, contiguous: the label of each sample; of a sequence, at its first position that has
// one, 0 if none has.
torch::Tensor sample_labels(const Samples& samples);

// Throws Error unless the dataset is whole: sizes agree, labels are in [0, classes), floats are
// finite, owners complete.
void check_dataset(const Dataset& data, const std::string& name);

// The inputs at `indices` [n] int64 as a network sees them: [n, ...] of type `dtype`, on the
// samples' device.
torch::Tensor fetch_inputs(const Samples& samples, const torch::Tensor& indices, double scale,
                           double shift, torch::ScalarType dtype);

}  // namespace fl_sim
