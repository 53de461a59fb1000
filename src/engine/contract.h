// What a plug-in has to hold to beside its interface's types, looked at while it runs, so that a
// mistake is named where it is made.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "learning/algorithm.h"

namespace fl_sim {

// Throws Error, naming `who` and the member, if no run could be of these needs.
void check_needs(const std::string& who, const Needs& needs);

// Whether what clients are sent stays as it is while they train: tensors count their changes in
// place, those of views of them too.
class Untouched {
 public:
  explicit Untouched(const GlobalModel& global);
  // Throws Error, naming `who`, if something has changed.
  void check(const std::string& who, const GlobalModel& global) const;

 private:
  static uint64_t changes(const GlobalModel& global);
  uint64_t before_;
};

// The names, shapes and types of the server's tensors. All ranks, and every checkpoint, count on
// those that there are after init().
class ServerShapes {
 public:
  explicit ServerShapes(const ServerState& server);
  // Throws Error, naming `who`, if they are others now, or if the models are not finite.
  void check(const std::string& who, const ServerState& server) const;

  // What is compared.
  struct Shape {
    std::string name;  // "shared 'control'"
    bool contiguous = false;
    std::optional<at::ScalarType> type = {};  // none: not defined
    std::vector<int64_t> sizes = {};
    bool operator==(const Shape&) const = default;
    std::string text() const;  // "shared 'control' is Float [1, 624]"
  };

 private:
  std::vector<Shape> shapes_;
};

}  // namespace fl_sim
