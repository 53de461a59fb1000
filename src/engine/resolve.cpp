#include "engine/resolve.h"

#include <torch/cuda.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "data/partitioner.h"
#include "engine/evaluation_plan.h"
#include "learning/batches.h"
#include "network/arithmetic.h"

namespace fl_sim {
namespace {

// A whole number that may be spelled "auto"; -1 then.
int64_t number_or_auto(const Job& job, const std::string& key, int64_t least) {
  const auto text = job.get<std::string>(key);
  if (text == "auto") return -1;
  const bool digits = !text.empty() && text.size() < 18 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  FL_CHECK(digits && std::stoll(text) >= least, key, " is '", text,
           "' (must be auto or a whole number of at least ", least, ")");
  return std::stoll(text);
}

}  // namespace

void resolve_clients(Job& job, const Dataset& data) {
  int64_t clients = number_or_auto(job, "clients", 1);
  if (clients < 0) {
    const auto partitioner = make<Partitioner>(job.get<std::string>("partitioner"), {job});
    clients = partitioner->own_clients(data.owner).value_or(0);
    if (clients == 0) clients = 100;
  }
  job.set("clients", std::to_string(clients));
}

void resolve_cohort(Job& job) {
  if (job.get<std::string>("cohort") != "auto") return;
  const int64_t clients = job.get<int64_t>("clients") - read_options<EvaluationPlan>(job).holdout;
  job.set("cohort", std::to_string(std::clamp<int64_t>(clients, 1, 10)));
}

void resolve_device(Job& job, std::vector<std::string>& notes) {
  if (read_options<Arithmetic>(job).device != "auto") return;
  const bool cuda = torch::cuda::is_available();
  job.set("device", cuda ? "cuda" : "cpu");
  if (!cuda && std::filesystem::exists("/dev/nvidia0")) {
    notes.push_back(
        "here is an NVIDIA GPU, but LibTorch sees none: it was built without CUDA, or "
        "for a newer driver (--device cpu says that this is meant)");
  }
}

void resolve_group_size(Job& job, const Network& network) {
  int64_t size = number_or_auto(job, "group-size", 1);
  if (size < 0) {
    const int64_t weights = (int64_t{1} << 28) / (3 * network.layout().row());
    const int64_t samples = 4096 / LocalPlan(job).batch_size;
    const bool stack = read_options<Arithmetic>(job).cuda() && network.stackable();
    const int64_t most = std::min({weights, samples, int64_t{128}, job.get<int64_t>("cohort")});
    size = stack ? std::max<int64_t>(most, 1) : 1;
  }
  FL_CHECK(size == 1 || network.stackable(), "group-size is ", size, ", but model ",
           job.get<std::string>("model"), " trains one client at a time (set group-size to 1)");
  FL_CHECK(!product_type(job) || network.mixed_precision(), "precision is bf16, but model ",
           job.get<std::string>("model"), " computes in types of its own (choose float32)");
  job.set("group-size", std::to_string(size));
}

std::optional<Job> resolved_without_data(Job job,
                                         const std::map<std::string, std::string>& former) {
  if (job.get<std::string>("clients") == "auto") {
    const auto partitioner = make<Partitioner>(job.get<std::string>("partitioner"), {job});
    const std::vector<int64_t> somebody = {0};
    if (partitioner->own_clients({}) != partitioner->own_clients(somebody)) {
      const auto clients = former.find("clients");
      if (clients == former.end()) return {};
      job.set("clients", clients->second);
    }
  }
  resolve_clients(job, {});
  resolve_cohort(job);
  std::vector<std::string> notes;
  resolve_device(job, notes);
  if (read_options<Arithmetic>(job).device != "cpu") return {};
  if (job.get<std::string>("group-size") == "auto") job.set("group-size", "1");
  return job;
}

}  // namespace fl_sim
