// A recurrent network that reads characters, for Shakespeare: an embedding of width 8, two LSTM
// layers of 256 units, a linear layer. McMahan et al., AISTATS 2017, section 3; Reddi et al.,
// "Adaptive federated optimization", ICLR 2021, appendix A (a prediction at each position); Caldas
// et al., "LEAF", 2018 (one prediction behind the last).
//
// 822,570 parameters for 90 characters. TensorFlow's LSTM has one bias where PyTorch's has two that
// are added: there the same network counts 2 · 4 · 256 fewer, 820,522.
#include "fl_sim.h"

namespace fl_sim {

class CharLstm final : public Network {
 public:
  explicit CharLstm(const Setup& setup)
      : every_position_(setup.positions > 1),
        embeddings_(layout_, "embeddings", characters(setup), kWidth),
        lstm_(layout_, "lstm", kWidth, hidden(setup), /*layers=*/2),
        fc_(layout_, "fc", hidden(setup), setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "two LSTM layers that read characters (Shakespeare)",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3; Reddi et al., Adaptive federated "
                "optimization, ICLR 2021, appendix A",
            .rule =
                "Embedding of width 8; two LSTM layers (their states are the representation); "
                "linear (the head). It predicts at each position where samples have a label at "
                "each, and behind the last position otherwise.",
            .options = {{"characters", Option::Type::kInteger, "0",
                         "codes that a sample's numbers may be, from 0 on; 0: as many as classes",
                         at_least(0)},
                        {"hidden", Option::Type::kInteger, "256", "units of each LSTM layer",
                         between(1, 65536)}},
            .elsewhere = "Li et al., FedProx, MLSys 2020: char-lstm.hidden = 100."};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  // [B, G·T] codes -> [B, G·hidden], or [B, G·T·hidden].
  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    const torch::Tensor states = lstm_(weights, embeddings_(weights, x));
    return every_position_ ? states.flatten(1) : Lstm::last(weights, states);
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    if (!every_position_) return fc_(weights, representation);
    const torch::Tensor states = representation.view({representation.size(0), -1, fc_.in()});
    return fc_(weights, states).flatten(1);
  }

 private:
  static constexpr int64_t kWidth = 8;  // of the embedding

  static int64_t characters(const Setup& setup) {
    FL_CHECK(setup.input_shape.size() == 1,
             "model char-lstm needs sequences [length] of character codes; the data's samples are ",
             torch::IntArrayRef(setup.input_shape));
    FL_CHECK(setup.positions == 1 || setup.positions == setup.input_shape[0],
             "model char-lstm predicts at each position or behind the last; the data's samples are "
             "sequences of ",
             setup.input_shape[0], " codes with labels at ", setup.positions, " positions");
    const auto told = setup.job.get<int64_t>("char-lstm.characters");
    FL_CHECK(told > 0 || setup.outputs > 1,
             "model char-lstm does not know how many characters there are, since it predicts a "
             "single number; set char-lstm.characters");
    return told > 0 ? told : setup.outputs;
  }

  static int64_t hidden(const Setup& setup) { return setup.job.get<int64_t>("char-lstm.hidden"); }

  bool every_position_;
  Embedding embeddings_;
  Lstm lstm_;
  Linear fc_;
};

FL_REGISTER(Network, "char-lstm", CharLstm);

}  // namespace fl_sim
