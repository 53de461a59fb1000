#include "data/client_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace fl_sim {

const OptionSet<HeldBack> HeldBack::kOptions(
    1010, {{&HeldBack::test_fraction,
            {.name = "partition.test-fraction",
             .default_value = "0",
             .meaning = "share of a client's samples that it keeps for testing",
             .range = from_below(0, 1)}},
           {&HeldBack::validation_fraction,
            {.name = "partition.validation-fraction",
             .default_value = "0",
             .meaning = "share of a client's samples that it keeps for validation",
             .range = from_below(0, 1)}}});

namespace {

// Takes `count` of the samples out of `samples`, which come label by label, with every label in
// proportion.
std::vector<int64_t> take_stratified(std::vector<int64_t>& samples, int64_t count,
                                     std::span<const int64_t> labels, Rng& rng) {
  if (count == 0) return {};
  struct Stratum {
    int64_t begin, size, taken, remainder;
  };
  std::vector<Stratum> strata;
  const int64_t n = std::ssize(samples);
  const auto label = [&](int64_t i) {
    return labels[static_cast<size_t>(samples[static_cast<size_t>(i)])];
  };
  int64_t rest = count;
  for (int64_t begin = 0, end = 0; begin < n; begin = end) {
    while (end < n && label(end) == label(begin)) ++end;
    const int64_t share = count * (end - begin);  // n times what is due to it
    strata.push_back({begin, end - begin, share / n, share % n});
    rest -= share / n;
  }
  std::vector<int64_t> order = rng.permutation(std::ssize(strata));  // of equals, any
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return strata[static_cast<size_t>(a)].remainder > strata[static_cast<size_t>(b)].remainder;
  });
  for (int64_t i = 0; i < rest; ++i)
    ++strata[static_cast<size_t>(order[static_cast<size_t>(i)])].taken;

  std::vector<int64_t> taken, left;
  for (const Stratum& stratum : strata) {
    const auto first = samples.begin() + stratum.begin;
    taken.insert(taken.end(), first, first + stratum.taken);
    left.insert(left.end(), first + stratum.taken, first + stratum.size);
  }
  samples = std::move(left);
  return taken;
}

// The CSR form, list by list.
struct Lists {
  std::vector<int64_t> offsets = {0}, indices;

  void add(std::vector<int64_t> list) {
    std::sort(list.begin(), list.end());
    indices.insert(indices.end(), list.begin(), list.end());
    offsets.push_back(std::ssize(indices));
  }
  Partition partition() {
    return indices.empty() ? Partition() : Partition(std::move(offsets), std::move(indices));
  }
};

}  // namespace

ClientSplit split_clients(const Partition& partition, std::span<const int64_t> labels,
                          double test_fraction, double validation_fraction, uint64_t seed) {
  FL_CHECK(
      test_fraction >= 0 && validation_fraction >= 0 && test_fraction + validation_fraction < 1,
      "partition.test-fraction is ", test_fraction, " and partition.validation-fraction is ",
      validation_fraction,
      " (must be at least 0 and together less than 1: clients train with what is left)");
  if (test_fraction == 0 && validation_fraction == 0) return {partition, {}, {}};
  Lists train, validation, test;
  for (int64_t client = 0; client < partition.clients(); ++client) {
    Rng rng(seed, "client-split", 0, client);
    const auto list = partition.of(client);
    std::vector<int64_t> samples(list.begin(), list.end());
    rng.shuffle(std::span(samples));
    std::stable_sort(samples.begin(), samples.end(), [&](int64_t a, int64_t b) {
      return labels[static_cast<size_t>(a)] < labels[static_cast<size_t>(b)];
    });
    const int64_t n = std::ssize(samples), most = std::max<int64_t>(n - 1, 0);
    const auto share = [&](double fraction) {
      return static_cast<int64_t>(std::llround(fraction * static_cast<double>(n)));
    };
    const int64_t tests = std::min(share(test_fraction), most);
    const int64_t validations = std::min(share(validation_fraction), most - tests);
    test.add(take_stratified(samples, tests, labels, rng));
    validation.add(take_stratified(samples, validations, labels, rng));
    train.add(std::move(samples));
  }
  return {train.partition(), validation.partition(), test.partition()};
}

Partition own_test_samples(const Partition& partition, std::span<const int64_t> owners,
                           std::span<const int64_t> test_owners) {
  if (owners.empty() || test_owners.empty()) return {};
  constexpr int64_t kNobody = -1;
  std::vector<int64_t> holder(
      static_cast<size_t>(1 + *std::max_element(owners.begin(), owners.end())), kNobody);
  for (int64_t client = 0; client < partition.clients(); ++client) {
    for (const int64_t sample : partition.of(client)) {
      int64_t& held = holder[static_cast<size_t>(owners[static_cast<size_t>(sample)])];
      if (held != kNobody && held != client) return {};
      held = client;
    }
  }
  std::vector<std::vector<int64_t>> samples(static_cast<size_t>(partition.clients()));
  for (size_t i = 0; i < test_owners.size(); ++i) {
    if (test_owners[i] < 0) continue;
    const int64_t client = holder[static_cast<size_t>(test_owners[i])];
    if (client != kNobody) samples[static_cast<size_t>(client)].push_back(static_cast<int64_t>(i));
  }
  Lists test;
  for (std::vector<int64_t>& list : samples) test.add(std::move(list));
  return test.partition();
}

}  // namespace fl_sim
