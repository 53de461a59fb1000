#include "base/rng.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/check.h"

namespace fl_sim {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return c;
}

namespace {

// FNV-1a: purposes are few and fixed, so 32 bits tell them apart (a test checks ours).
uint32_t name_hash(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (const unsigned char c : name) hash = (hash ^ c) * 16777619u;
  return hash;
}

uint32_t word(int64_t value, const char* what) {
  FL_CHECK(value >= 0 && value <= UINT32_MAX, what, " ", value,
           " is out of range for a random stream (0 to 2^32 - 1)");
  return static_cast<uint32_t>(value);
}

}  // namespace

Rng::Rng(uint64_t seed, std::string_view purpose, int64_t round, int64_t client)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      counter_{0, word(client, "client"), word(round, "round"), name_hash(purpose)} {}

uint32_t Rng::bits() {
  if (used_ == 4) {
    block_ = philox(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[static_cast<size_t>(used_++)];
}

uint64_t Rng::bits64() {
  const uint64_t high = bits();
  return (high << 32) | bits();
}

double Rng::uniform() { return static_cast<double>(bits64() >> 11) * 0x1p-53; }

double Rng::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

// The logarithm of a gamma variate: at shape 0.01 the variate itself underflows too often.
double Rng::log_gamma_variate(double shape) {
  const double boost = shape < 1 ? std::log(1.0 - uniform()) / shape : 0.0;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = normal();
    const double t = 1.0 + c * x;
    if (t <= 0) continue;
    const double v = t * t * t;
    if (std::log(1.0 - uniform()) < 0.5 * x * x + d - d * v + d * std::log(v))
      return std::log(d * v) + boost;
  }
}

double Rng::gamma(double shape) { return std::exp(log_gamma_variate(shape)); }

int64_t Rng::below(int64_t n) {
  FL_CHECK(n >= 1, "cannot draw one of ", n, " things");
  const uint64_t range = static_cast<uint64_t>(n);
  const uint64_t unbiased =
      UINT64_MAX - UINT64_MAX % range;  // the largest multiple of n that 64 bits reach
  uint64_t draw = bits64();
  while (draw >= unbiased) draw = bits64();
  return static_cast<int64_t>(draw % range);
}

std::vector<double> Rng::dirichlet(double alpha, int64_t n) {
  FL_CHECK(alpha > 0 && n >= 1, "Dirichlet needs alpha > 0 and at least one component (got ", alpha,
           ", ", n, ")");
  std::vector<double> p(static_cast<size_t>(n));
  for (double& value : p) value = log_gamma_variate(alpha);
  const double largest = *std::max_element(p.begin(), p.end());
  for (double& value : p) value = std::exp(value - largest);
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= total;
  return p;
}

std::vector<int64_t> Rng::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  shuffle(std::span(order));
  return order;
}

}  // namespace fl_sim
