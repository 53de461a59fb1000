// The convolutional network with dropout for EMNIST: 1,206,590 parameters on 28 x 28 images in 62
// classes. Reddi et al., "Adaptive federated optimization", ICLR 2021, appendix A.2 (table 4).
#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {

class EmnistCnn final : public Network {
 public:
  explicit EmnistCnn(const Setup& setup)
      : conv1_(layout_, "conv1", image_channels(setup, "emnist-cnn", 6), 32, 3),
        conv2_(layout_, "conv2", 32, 64, 3),
        dropout1_(0.25),
        fc1_(layout_, "fc1", 64 * pooled(setup.input_shape[1]) * pooled(setup.input_shape[2]), 128),
        dropout2_(0.5),
        fc2_(layout_, "fc2", 128, setup.outputs),
        height_(setup.input_shape[1]),
        width_(setup.input_shape[2]) {}

  static PluginInfo describe() {
    return {.summary = "two 3x3 convolutions, a hidden layer of 128 units and dropout (Reddi 2021)",
            .source =
                "Reddi et al., Adaptive federated optimization, ICLR 2021, appendix A.2 "
                "(the EMNIST CNN)",
            .rule =
                "conv 32, ReLU; conv 64, ReLU, pool 2, dropout 0.25; linear 128, ReLU, dropout 0.5 "
                "(the representation); linear (the head). Convolutions without padding."};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu(conv1_(weights, x));
    x = torch::relu(torch::max_pool2d(conv2_(weights, x), 2));
    x = dropout1_(weights, x).flatten(1);
    return dropout2_(weights, torch::relu(fc1_(weights, x)));
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc2_(weights, representation);
  }

  std::vector<ChainLayer> chain() const override {
    return {{conv1_.weight(), conv1_.bias(), (height_ - 2) * (width_ - 2)},
            {conv2_.weight(), conv2_.bias(), (height_ - 4) * (width_ - 4)},
            {fc1_.weight(), fc1_.bias()},
            {fc2_.weight(), fc2_.bias()}};
  }

 private:
  // What two convolutions and the pooling leave of a side.
  static int64_t pooled(int64_t size) { return (size - 4) / 2; }

  Conv2d conv1_, conv2_;
  Dropout dropout1_;
  Linear fc1_;
  Dropout dropout2_;
  Linear fc2_;
  int64_t height_, width_;
};

FL_REGISTER(Network, "emnist-cnn", EmnistCnn);

}  // namespace fl_sim
