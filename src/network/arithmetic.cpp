#include "network/arithmetic.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "base/check.h"
#include "network/kernels.h"

namespace fl_sim {

const OptionSet<Arithmetic> Arithmetic::kOptions(
    200, {{&Arithmetic::threads,
           {.name = "threads",
            .default_value = "1",
            .meaning = "threads a rank computes with; part of the job because results depend on it",
            .range = between(1, 4096)}},
          {&Arithmetic::device,
           {.name = "device",
            .default_value = "auto",
            .meaning = "where ranks compute; auto: CUDA devices where there are any",
            .choices = {"auto", "cpu", "cuda"}}},
          {&Arithmetic::precision,
           {.name = "precision",
            .default_value = "float32",
            .meaning = "what layers multiply in; weights and sums stay float32. tf32: GPUs; bf16: "
                       "GPUs and CPUs with AMX",
            .choices = {"float32", "tf32", "bf16"}}},
          {&Arithmetic::deterministic,
           {.name = "deterministic",
            .default_value = "true",
            .meaning = "on GPUs: the same bits in every run; false lets libraries choose the "
                       "fastest kernels"}}});

namespace {

// The name of the processor that OpenBLAS computes for; empty if that is not the BLAS.
std::string openblas_core() {
  void* const symbol = dlsym(RTLD_DEFAULT, "openblas_get_corename");
  return symbol != nullptr ? reinterpret_cast<const char* (*)()>(symbol)() : "";
}

}  // namespace

std::string blas_kernels() {
  const std::string core = openblas_core();
  return core.empty() ? "as built into LibTorch" : "OpenBLAS " + core;
}

std::string own_kernels() { return kernels::instruction_set(); }

void set_arithmetic(const Job& job) {
  const auto arithmetic = read_options<Arithmetic>(job);
  at::set_num_threads(static_cast<int>(arithmetic.threads));
  const bool deterministic = arithmetic.deterministic, tf32 = arithmetic.precision == "tf32";
  at::Context& context = at::globalContext();
  if (deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  context.setDeterministicCuDNN(deterministic);
  context.setBenchmarkCuDNN(!deterministic);
  context.setAllowTF32CuDNN(tf32);
  context.setAllowTF32CuBLAS(tf32);
  // Sums of bf16 products stay float32; LibTorch 1.13 has no such switch.
  [](auto& switches) {
    if constexpr (requires { switches.setAllowBF16ReductionCuBLAS(false); })
      switches.setAllowBF16ReductionCuBLAS(false);
  }(context);
}

void check_precision(const Job& job) {
  const auto arithmetic = read_options<Arithmetic>(job);
  FL_CHECK(
      arithmetic.precision != "tf32" || arithmetic.device != "cpu",
      "precision is tf32, which is an NVIDIA GPU's, but device is cpu (choose float32 or bf16)");
}

std::optional<torch::ScalarType> product_type(const Job& job) {
  if (read_options<Arithmetic>(job).precision != "bf16") return std::nullopt;
  return torch::kBFloat16;
}

}  // namespace fl_sim
