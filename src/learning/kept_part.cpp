#include "learning/kept_part.h"

#include "base/check.h"
#include "learning/own_rows.h"

namespace fl_sim {

KeptPart::KeptPart(RowPart part, std::string name, const ParameterLayout& layout)
    : part_(std::move(part)), name_(std::move(name)), trainable_(layout.trainable()) {}

void KeptPart::add_to(Needs& needs) const {
  if (!part_.empty()) needs.client_state[name_] = part_.size();
  needs.not_sent = part_;
  needs.personal = true;
}

void KeptPart::restore(ClientGroup& group) const {
  if (part_.empty()) return;
  const torch::Tensor& kept = group.state.at(name_);  // [G, n]
  for (int64_t k = 0; k < group.size(); ++k) {
    if (group.fresh[static_cast<size_t>(k)]) continue;
    part_.scatter(group.rows.narrow(0, k, 1), kept.narrow(0, k, 1));
  }
}

void KeptPart::withhold(const ClientGroup& group, Update& update) const {
  if (part_.empty()) return;
  update.state[name_] = part_.gather(group.rows);
  part_.zero(update.delta);
  update.set_delta_norms(update.delta, trainable_);
}

std::vector<PersonalModel> KeptPart::personalize(ClientGroup& group) const {
  restore(group);
  return one_model_each(group.rows);
}

HeadAndBody::HeadAndBody(const Algorithm::Setup& setup, const std::string& algorithm)
    : head(head_of(setup.network)), body(head.complement(setup.network.layout())) {
  FL_CHECK(!body.trainable(setup.network.layout()).empty(), "algorithm ", algorithm,
           " treats head and body apart, but model ", setup.job.get<std::string>("model"),
           " is all head (choose a model of several layers, such as 2nn)");
}

}  // namespace fl_sim
