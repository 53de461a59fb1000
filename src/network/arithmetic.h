// How numbers are computed: with which precision, in which order, by which kernels of the BLAS.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/job.h"
#include "base/option_set.h"

namespace fl_sim {

// What ranks compute with.
struct Arithmetic {
  int64_t threads = 1;
  std::string device;     // "auto" until the job is resolved, then "cpu" or "cuda"
  std::string precision;  // "float32", "tf32" or "bf16"
  bool deterministic = true;
  bool one_thread() const { return threads == 1; }
  bool cuda() const { return device == "cuda"; }
  static const OptionSet<Arithmetic> kOptions;
};

// The BLAS's kernels and those of kernels.h, "OpenBLAS SkylakeX" and "AVX3": results depend on
// them.
std::string blas_kernels();
std::string own_kernels();

// What LibTorch computes with, from the job's threads, precision and deterministic. Before CUDA
// starts.
void set_arithmetic(const Job& job);

// Throws Error if the job's precision is not to be had on its device.
void check_precision(const Job& job);

// The type that layers compute products in, if it is not that of the rows: bfloat16 for `precision
// = bf16`. Weights, gradients, sums and everything else keep the rows' type.
std::optional<torch::ScalarType> product_type(const Job& job);

}  // namespace fl_sim
