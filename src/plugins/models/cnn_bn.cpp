// A small convolutional network with batch normalisation, for what algorithms do with it: FedBN
// keeps it at the clients. Two convolutions and a hidden layer, as in the network of McMahan et al.
// (AISTATS 2017), with fewer channels, and batch normalisation behind each convolution, as Li et
// al., "FedBN", ICLR 2021, put it.
#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {

class CnnBn final : public Network {
 public:
  explicit CnnBn(const Setup& setup)
      : conv1_(layout_, "conv1", image_channels(setup, "cnn-bn", 4), 16, 5, kConv),
        norm1_(layout_, "bn1", 16),
        conv2_(layout_, "conv2", 16, 32, 5, kConv),
        norm2_(layout_, "bn2", 32),
        fc1_(layout_, "fc1", 32 * (setup.input_shape[1] / 4) * (setup.input_shape[2] / 4), 128),
        fc2_(layout_, "fc2", 128, setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "two 5x5 convolutions with batch normalisation, a hidden layer of 128 units",
            .source =
                "after McMahan et al., AISTATS 2017, with batch normalisation as in Li et al., "
                "FedBN: federated learning on non-IID features via local batch normalization, "
                "ICLR 2021",
            .rule =
                "conv 16, BN, pool 2, ReLU; conv 32, BN, pool 2, ReLU; linear 128, ReLU (the "
                "representation); linear (the head). Convolutions have no bias: the "
                "normalisation would take it off again."};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu(torch::max_pool2d(norm1_(weights, conv1_(weights, x)), 2));
    x = torch::relu(torch::max_pool2d(norm2_(weights, conv2_(weights, x)), 2));
    return torch::relu(fc1_(weights, x.flatten(1)));
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc2_(weights, representation);
  }

 private:
  static constexpr Conv2d::Options kConv = {.padding = 2, .bias = false};

  Conv2d conv1_;
  BatchNorm norm1_;
  Conv2d conv2_;
  BatchNorm norm2_;
  Linear fc1_, fc2_;
};

FL_REGISTER(Network, "cnn-bn", CnnBn);

}  // namespace fl_sim
