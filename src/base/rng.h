// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011).
//
// A stream is named by (seed, purpose, round, client), never by a rank, a thread or an order of
// events: whoever draws "shuffle" for client 17 in round 3 gets the same numbers. The seed is the
// key; purpose, round and client are words of the counter, so two streams of one seed never
// overlap.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fl_sim {

// The Philox4x32-10 bijection: 128 bits of counter under 64 bits of key.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Rng {
 public:
  // A stream of 2^34 words. `purpose` is a name such as "shuffle"; round and client must fit 32
  // bits.
  Rng(uint64_t seed, std::string_view purpose, int64_t round = 0, int64_t client = 0);

  uint32_t bits();             // 32 random bits
  uint64_t bits64();           // 64 random bits
  double uniform();            // [0, 1), 53 bits
  double normal();             // mean 0, standard deviation 1 (Box-Muller)
  double gamma(double shape);  // scale 1, shape > 0 (Marsaglia & Tsang 2000)
  int64_t below(int64_t n);    // {0, ..., n - 1} without bias, n >= 1

  // A draw from Dir(alpha, ..., alpha) with n components; never NaN, however small alpha is.
  std::vector<double> dirichlet(double alpha, int64_t n);

  // Puts the items into a uniformly random order (Fisher-Yates).
  template <class T>
  void shuffle(std::span<T> items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }

  // 0, ..., n - 1 in random order.
  std::vector<int64_t> permutation(int64_t n);

 private:
  double log_gamma_variate(double shape);

  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;  // block, client, round, purpose
  std::array<uint32_t, 4> block_{};
  int used_ = 4;  // words of block_ already given out
};

}  // namespace fl_sim
