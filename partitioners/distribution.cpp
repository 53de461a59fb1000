// Label skew as given: a matrix says how each class is shared among the clients.
// flwr-datasets, DistributionPartitioner; its preset is the power-law MNIST of Li, Sahu, Zaheer,
// Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks", MLSys 2020.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

using Matrix = std::vector<std::vector<double>>;  // [classes][clients]

Matrix read_matrix(const std::string& path) {
  std::ifstream in(path);
  FL_CHECK(in.good(), path,
           ": cannot be read (distribution.file is a text file with a row a class)");
  Matrix matrix;
  int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    line = line.substr(0, line.find('#'));
    std::replace_if(
        line.begin(), line.end(), [](char c) { return c == ',' || c == ';' || c == '\r'; }, ' ');
    std::istringstream words(line);
    std::vector<double> row;
    for (std::string word; words >> word;) {
      char* end = nullptr;
      const double value = std::strtod(word.c_str(), &end);
      FL_CHECK(*end == '\0' && std::isfinite(value) && value >= 0, path, ", line ", number, ": '",
               word.substr(0, 40), "' (must be numbers of at least 0 between commas or blanks)");
      row.push_back(value);
    }
    if (row.empty()) continue;
    FL_CHECK(matrix.empty() || matrix[0].size() == row.size(), path, ", line ", number, ": has ",
             row.size(), " numbers, the rows before it have ", matrix[0].size(),
             " (each row is a class, each column a client)");
    matrix.push_back(std::move(row));
  }
  FL_CHECK(!matrix.empty(), path, ": has no numbers (must have a row a class, a column a client)");
  return matrix;
}

class Distribution final : public Partitioner {
 public:
  explicit Distribution(const Setup& setup)
      : preset_(setup.job.get<std::string>("distribution.preset") == "fedprox"),
        file_(preset_ ? "" : setup.job.get<std::string>("distribution.file")),
        counts_(!preset_ && setup.job.get<std::string>("distribution.entries") == "samples") {}

  static PluginInfo describe() {
    return {
        .summary = "label skew as given: a matrix of classes and clients, or FedProx's MNIST",
        .source =
            "Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated optimization in heterogeneous "
            "networks, MLSys 2020 (power-law MNIST); Beutel et al., Flower, 2020 (flwr-datasets, "
            "DistributionPartitioner)",
        .rule =
            "A file has a row for each class and a column for each client. Each class, in random "
            "order, is cut in proportion to its row (entries = shares; rounded down, the rest to "
            "the largest remainders), or as its row says (entries = samples). `clients = auto` is "
            "the number of columns.\n"
            "preset = fedprox: client i (1000 of them, unless `clients` says otherwise) has "
            "classes i and i + 1 mod K. It gets 5 samples of both; what is left of a class is "
            "shared among its holders in proportion to exp(2 z), z normal.",
        .options = {
            {"preset", Option::Type::kText, "none", "a built-in matrix", {}, {"none", "fedprox"}},
            {.name = "file",
             .default_value = {},
             .meaning = "text file of numbers between commas or blanks, a line a class; # begins a "
                        "comment",
             .only_with = {"distribution.preset", {"none"}},
             .path = true},
            {"entries",
             Option::Type::kText,
             "shares",
             "what the file's numbers are: relative shares of a class, or numbers of "
             "samples",
             {},
             {"shares", "samples"},
             {"distribution.preset", {"none"}}}}};
  }

  std::optional<int64_t> own_clients(std::span<const int64_t>) const override {
    return preset_ ? 1000 : std::ssize(read_matrix(file_)[0]);
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    std::vector<std::vector<int64_t>> by_class = samples_by_class(request.labels, request.classes);
    const auto shares =
        preset_ ? fedprox(by_class, request.clients, rng) : from_file(by_class, request);
    const int64_t empty = short_of(shares, request.clients, 1);
    FL_CHECK(empty == 0, "distribution: ", empty, " of ", request.clients,
             " clients would hold no sample; raise their entries in ", file_);
    return deal_classes(std::move(by_class), shares, request.clients, rng);
  }

 private:
  static std::vector<std::vector<Share>> fedprox(const std::vector<std::vector<int64_t>>& by_class,
                                                 int64_t clients, Rng& rng) {
    constexpr int64_t kFirst = 5;  // samples of each of its classes that a client has beforehand
    constexpr double kSigma = 2;
    const int64_t classes = std::ssize(by_class);
    FL_CHECK(classes >= 2, "distribution: preset fedprox gives a client 2 classes, there is ",
             classes, "; choose another partitioner");
    std::vector<std::vector<int64_t>> holders(by_class.size());
    for (int64_t k = 0; k < clients; ++k) {
      for (const int64_t c : {k % classes, (k + 1) % classes})
        holders[static_cast<size_t>(c)].push_back(k);
    }
    std::vector<std::vector<Share>> shares(by_class.size());
    for (size_t c = 0; c < by_class.size(); ++c) {
      const int64_t size = std::ssize(by_class[c]), some = std::ssize(holders[c]);
      FL_CHECK(kFirst * some <= size, "distribution: preset fedprox gives each of ", some,
               " clients ", kFirst, " samples of class ", c, ", which has ", size,
               "; lower the number of clients");
      if (some == 0) continue;
      std::vector<double> weights(holders[c].size());
      for (double& weight : weights) weight = std::exp(kSigma * rng.normal());
      const std::vector<int64_t> sizes = sizes_in_proportion(weights, size, kFirst);
      for (size_t i = 0; i < sizes.size(); ++i) shares[c].push_back({holders[c][i], sizes[i]});
    }
    return shares;
  }

  std::vector<std::vector<Share>> from_file(const std::vector<std::vector<int64_t>>& by_class,
                                            const PartitionRequest& request) const {
    const Matrix matrix = read_matrix(file_);
    FL_CHECK(std::ssize(matrix) == request.classes, file_, ": has ", matrix.size(),
             " rows of numbers (must be ", request.classes, ", the number of classes)");
    FL_CHECK(std::ssize(matrix[0]) == request.clients, file_, ": has ", matrix[0].size(),
             " columns, clients is ", request.clients, " (must be the same, or auto)");
    std::vector<std::vector<Share>> shares(by_class.size());
    for (size_t c = 0; c < by_class.size(); ++c) {
      const std::vector<double>& row = matrix[c];
      const int64_t size = std::ssize(by_class[c]);
      const double total = std::accumulate(row.begin(), row.end(), 0.0);
      if (!counts_ && (size == 0 || total == 0)) continue;  // the class is nobody's
      std::vector<int64_t> sizes;
      if (counts_) {
        FL_CHECK(total <= static_cast<double>(size), file_, ": asks for ", total,
                 " samples of class ", c, ", which has ", size, "; lower its row, or set ",
                 "--distribution.entries shares");
        for (const double value : row) {
          FL_CHECK(value == std::floor(value), file_, ": asks for ", value, " samples of class ", c,
                   " (entries must be whole numbers, or set --distribution.entries shares)");
          sizes.push_back(static_cast<int64_t>(value));
        }
      } else {
        FL_CHECK(std::isfinite(total), file_, ": the row of class ", c,
                 " adds up to more than a number can hold; divide it by something");
        sizes = sizes_in_proportion(row, size);
      }
      for (size_t k = 0; k < sizes.size(); ++k) {
        if (sizes[k] > 0) shares[c].push_back({static_cast<int64_t>(k), sizes[k]});
      }
    }
    return shares;
  }

  bool preset_;
  std::string file_;
  bool counts_;
};

FL_REGISTER(Partitioner, "distribution", Distribution);

}  // namespace
}  // namespace fl_sim
