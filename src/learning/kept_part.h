// A part of the model that stays at each client: clients train it with the rest, keep it between
// rounds as their state, and give nothing of it to the server.
//
// The global row therefore holds what that part started with, whatever the server's rule: a mean
// delta of 0 moves nothing. A client's own model is the global row with its own part in it; one
// that never took part has only the global row.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "learning/algorithm.h"
#include "network/row_part.h"

namespace fl_sim {

class KeptPart {
 public:
  // `name` of the clients' state. An empty part keeps nothing.
  KeptPart(RowPart part, std::string name, const ParameterLayout& layout);

  // Adds what it asks of the engine: the clients' state, what is not sent, models of their own.
  void add_to(Needs& needs) const;
  bool empty() const { return part_.empty(); }

  // Puts what clients have kept into the group's rows; the others' stay as they were received.
  void restore(ClientGroup& group) const;

  // After training: the part of the group's rows becomes the clients' new state and 0 in the delta,
  // and delta_norm that of what is shared.
  void withhold(const ClientGroup& group, Update& update) const;

  // The clients' own models.
  std::vector<PersonalModel> personalize(ClientGroup& group) const;

 private:
  RowPart part_;
  std::string name_;
  int64_t trainable_;  // T
};

// The head, and the body, its complement. Throws Error, naming the algorithm that wants them, if
// the model has no body to train.
struct HeadAndBody {
  HeadAndBody(const Algorithm::Setup& setup, const std::string& algorithm);
  RowPart head, body;
};

}  // namespace fl_sim
