// Short messages between ranks, beside collectives: posted without waiting, read by whoever looks.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fl_sim {

struct MpiRanks;

// A communicator's. Nothing here is collective; what one rank posts to another arrives in order.
class Mailbox {
 public:
  explicit Mailbox(MpiRanks& ranks);
  // Waits until what was posted is under way; not after an error.
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // Keeps a copy of `bytes` until it is sent, and does not wait for that.
  void post(const std::string& bytes, int to);

  // A message that has come, with its sender.
  std::optional<std::pair<int, std::string>> poll();

 private:
  struct Posted;
  MpiRanks& ranks_;
  std::vector<Posted> posted_;
};

}  // namespace fl_sim
