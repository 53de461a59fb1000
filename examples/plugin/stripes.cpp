// Stripes: the training set in file order, dealt to the clients in runs of a fixed length, round
// after round, as sensors that take turns would record it.
#include "fl_sim.h"

namespace fl_sim {
namespace {

class Stripes final : public Partitioner {
 public:
  explicit Stripes(const Setup& setup) : length_(setup.job.get<int64_t>("stripes.length")) {}

  static PluginInfo describe() {
    return {.summary = "runs of a fixed length in file order, dealt in turn",
            .rule = "Sample i goes to client (i / length) mod clients. Nothing is random.",
            .options = {{.name = "length",
                         .type = Option::Type::kInteger,
                         .default_value = "10",
                         .meaning = "samples in a run",
                         .range = at_least(1)}},
            .example = "--partitioner stripes --stripes.length 20"};
  }

  Partition split(const PartitionRequest& request, Rng&) const override {
    const int64_t n = std::ssize(request.labels), runs = (n + length_ - 1) / length_;
    FL_CHECK(request.clients <= runs, "stripes: clients is ", request.clients, " (must be at most ",
             runs, ", the number of runs; lower --stripes.length)");
    std::vector<int64_t> holders;
    for (int64_t i = 0; i < n; ++i) holders.push_back(i / length_ % request.clients);
    return partition_by_holder(holders, request.clients);
  }

 private:
  int64_t length_;
};

FL_REGISTER(Partitioner, "stripes", Stripes);

}  // namespace
}  // namespace fl_sim
