// Clipping of clients' updates: none is longer than a bound, as a whole or layer by layer.
#include <cmath>
#include <utility>

#include "base/check.h"
#include "learning/transform.h"

namespace fl_sim {
namespace {

// Products are rounded to float32: with this no row is longer than the bound to the last bit.
constexpr double kBelow = 1 - 0x1p-22;

class Clip final : public Transform {
 public:
  explicit Clip(const Setup& setup)
      : bound_(setup.job.get<double>("clip.norm")),
        scalar_(static_cast<size_t>(setup.first_scalar)) {
    FL_CHECK(!setup.sent.empty(),
             "transform clip has nothing to clip: clients send nothing that they train (leave it "
             "out)");
    if (setup.job.get<std::string>("clip.scope") == "whole") {
      parts_.push_back(setup.sent);
      return;
    }
    const ParameterLayout& layout = setup.network.layout();
    for (const Parameter& parameter : layout.parameters()) {
      RowPart part = RowPart::of(layout, [&](const Parameter& p) { return &p == &parameter; });
      if (setup.sent.contains(part)) parts_.push_back(std::move(part));
    }
  }

  static PluginInfo describe() {
    return {
        .summary = "updates no longer than a bound",
        .source =
            "McMahan et al., Learning differentially private recurrent language models, ICLR 2018, "
            "Section 2 (flat and per-layer clipping)",
        .rule =
            "delta <- delta min(1, C / |delta|), with the l2 norm over the trainable part that is "
            "sent. Layer by layer: each of the m parameters by C / sqrt(m), so that the whole is "
            "no longer than C. Buffers and further vectors stay as they are.\n"
            "/clients/clip.norm is |delta| before, /rounds/clip.clipped the share of clients that "
            "were shortened.",
        .options = {{.name = "norm",
                     .type = Option::Type::kNumber,
                     .default_value = {},
                     .meaning = "C, the longest update that stays as it is",
                     .range = more_than(0)},
                    {.name = "scope",
                     .default_value = "whole",
                     .meaning = "what the bound is for: the whole update, or each layer's share",
                     .choices = {"whole", "layer"}}},
        .example = "--transforms clip --clip.norm 1"};
  }

  // A cohort's part is clipped as a whole one is.
  std::string obstacle(const Needs& needs) const override {
    return needs.pooled ? Transform::obstacle(needs) : other_models(needs);
  }

  std::vector<std::string> scalars() const override { return {"norm", "clipped"}; }

  void apply(Update& update, const ClientGroup& group, const GlobalModel&) const override {
    const double bound = bound_ / std::sqrt(static_cast<double>(parts_.size()));
    for (int64_t k = 0; k < group.size(); ++k) {
      torch::Tensor row = update.delta.narrow(0, k, 1);
      double square = 0;
      bool clipped = false;
      for (const RowPart& part : parts_) {
        torch::Tensor values = part.gather(row);
        const double norm = values.to(torch::kFloat64).norm().item<double>();
        square += norm * norm;
        if (norm <= bound) continue;
        clipped = true;
        part.scatter(row, values.mul_(bound * kBelow / norm));
      }
      ClientOutcome& client = update.clients[static_cast<size_t>(k)];
      client.scalars[scalar_] = std::sqrt(square);
      client.scalars[scalar_ + 1] = clipped ? 1 : 0;
    }
  }

  Figures figures(const ServerState&, std::span<const ClientRecord> records) const override {
    double clipped = 0, all = 0;
    for (const ClientRecord& record : records) {
      if (!record.counts()) continue;
      all += 1;
      clipped += record.scalars[scalar_ + 1];
    }
    return {{"clipped", all > 0 ? clipped / all : kNotMeasured}};
  }

 private:
  double bound_;
  size_t scalar_;
  std::vector<RowPart> parts_;
};

FL_REGISTER(Transform, "clip", Clip);

}  // namespace
}  // namespace fl_sim
