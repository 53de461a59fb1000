// Quantity skew: sizes as listed, IID labels.
// flwr-datasets, SizePartitioner.
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

// "100, 200*3" -> 100, 200, 200, 200
std::vector<int64_t> parse_sizes(const std::string& text) {
  constexpr int64_t kMost = 100'000'000;  // clients, and samples of one
  const auto number = [&](const std::string& word) {
    const size_t first = word.find_first_not_of(' '), last = word.find_last_not_of(' ');
    const std::string digits =
        first == std::string::npos ? "" : word.substr(first, last - first + 1);
    const bool good = !digits.empty() && digits.size() < 10 &&
                      digits.find_first_not_of("0123456789") == std::string::npos;
    const int64_t value = good ? std::stoll(digits) : 0;
    FL_CHECK(value >= 1 && value <= kMost, "sizes.list has '", word,
             "' (must be whole numbers of at least 1 between commas, such as 600, 300*4 for "
             "clients with 600, 300, 300, 300 and 300 samples)");
    return value;
  };
  std::vector<int64_t> sizes;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) {
    const size_t star = word.find('*');
    const int64_t size = number(word.substr(0, star));
    const int64_t times = star == std::string::npos ? 1 : number(word.substr(star + 1));
    FL_CHECK(std::ssize(sizes) + times <= kMost, "sizes.list names more than ", kMost, " clients");
    sizes.insert(sizes.end(), static_cast<size_t>(times), size);
  }
  FL_CHECK(!sizes.empty(),
           "sizes.list is empty (must be sizes between commas, such as 600, 300*4)");
  return sizes;
}

class Sizes final : public Partitioner {
 public:
  explicit Sizes(const Setup& setup)
      : sizes_(parse_sizes(setup.job.get<std::string>("sizes.list"))) {}

  static PluginInfo describe() {
    return {.summary = "quantity skew: sizes as listed, IID labels",
            .source =
                "Beutel et al., Flower: a friendly federated learning framework, 2020 "
                "(flwr-datasets, SizePartitioner)",
            .rule =
                "A random permutation of the samples is cut into parts of the listed sizes; what "
                "is left over is nobody's. `clients = auto` is the number of sizes.",
            .options = {{"list",
                         Option::Type::kText,
                         {},
                         "sizes between commas, client by client; 300*4 stands for four clients "
                         "with 300 samples each"}}};
  }

  std::optional<int64_t> own_clients(std::span<const int64_t>) const override {
    return std::ssize(sizes_);
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.clients == std::ssize(sizes_), "sizes: clients is ", request.clients,
             " (must be ", sizes_.size(), ", the number of sizes in sizes.list, or auto)");
    const int64_t total = std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0});
    FL_CHECK(total <= n, "sizes: the sizes add up to ", total, ", but there are ", n,
             " training samples; lower some in --sizes.list");
    return cut(rng.permutation(n), sizes_);
  }

 private:
  std::vector<int64_t> sizes_;
};

FL_REGISTER(Partitioner, "sizes", Sizes);

}  // namespace
}  // namespace fl_sim
