// For partitioners that know how many clients they make: `clients = auto` is that number.
#pragma once

#include <cstdint>
#include <span>

namespace fl_sim {

class KnowsClients {
 public:
  virtual ~KnowsClients() = default;

  // `owners` as in a PartitionRequest. 0: it does not know after all.
  virtual int64_t own_clients(std::span<const int64_t> owners) const = 0;
};

}  // namespace fl_sim
