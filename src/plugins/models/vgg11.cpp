// VGG-11 for CIFAR: configuration A of Simonyan & Zisserman, "Very deep convolutional networks for
// large-scale image recognition", ICLR 2015, without normalisation, with hidden layers of 512
// instead of 4096 units. 9,750,922 parameters on 32 x 32 images in 10 classes.
//
// The variant that NIID-Bench (Li et al., ICDE 2022, section V) and FedMA (Wang et al., ICLR 2020)
// took over from PyTorch's CIFAR versions: dropout before each hidden layer, and initial weights of
// convolutions as He et al. draw them, without which such a stack hardly starts to learn.
#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {

class Vgg11 final : public Network {
 public:
  explicit Vgg11(const Setup& setup)
      : convolutions_(convolutions(layout_, image_channels(setup, "vgg11", 32))),
        fc1_(layout_, "classifier.1",
             512 * (setup.input_shape[1] / 32) * (setup.input_shape[2] / 32), 512),
        fc2_(layout_, "classifier.4", 512, 512),
        fc3_(layout_, "classifier.6", 512, setup.outputs),
        dropout_(setup.job.get<double>("vgg11.dropout")),
        height_(setup.input_shape[1]),
        width_(setup.input_shape[2]) {}

  static PluginInfo describe() {
    return {.summary = "VGG-11 for CIFAR, hidden layers of 512 units, no normalisation",
            .source =
                "Simonyan & Zisserman, Very deep convolutional networks for large-scale image "
                "recognition, ICLR 2015, configuration A; with the small classifier of Li et al., "
                "Federated learning on non-IID data silos (NIID-Bench), ICDE 2022",
            .rule =
                "3x3 convolutions 64 M 128 M 256 256 M 512 512 M 512 512 M, with ReLU; M pools 2. "
                "Dropout, linear 512, ReLU, twice (the representation); linear (the head).",
            .options = {{"dropout", Option::Type::kNumber, "0.5",
                         "probability with which inputs of the hidden layers are dropped",
                         from_below(0, 1)}}};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    for (const Stage& stage : convolutions_) {
      x = stage.conv(weights, x);
      if (stage.pool) x = torch::max_pool2d(x, 2);
      x = torch::relu(x);  // behind the pooling it has a quarter to do: the result is the same
    }
    x = torch::relu(fc1_(weights, dropout_(weights, x.flatten(1))));
    return torch::relu(fc2_(weights, dropout_(weights, x)));
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc3_(weights, representation);
  }

  std::vector<ChainLayer> chain() const override {
    std::vector<ChainLayer> layers;
    int64_t height = height_, width = width_;
    for (const Stage& stage : convolutions_) {
      layers.push_back({stage.conv.weight(), stage.conv.bias(), height * width});
      if (stage.pool) height /= 2, width /= 2;
    }
    for (const Linear* layer : {&fc1_, &fc2_, &fc3_})
      layers.push_back({layer->weight(), layer->bias()});
    return layers;
  }

 private:
  struct Stage {
    Conv2d conv;
    bool pool;
  };

  // Named as in PyTorch, where convolutions, ReLUs and poolings are counted.
  static std::vector<Stage> convolutions(ParameterLayout& layout, int64_t channels) {
    struct Plan {
      int64_t out;
      bool pool;
    };
    std::vector<Stage> stages;
    int64_t module = 0;
    for (const Plan& plan :
         {Plan{64, true}, Plan{128, true}, Plan{256, false}, Plan{256, true}, Plan{512, false},
          Plan{512, true}, Plan{512, false}, Plan{512, true}}) {
      stages.push_back({Conv2d(layout, message("features.", module), channels, plan.out, 3,
                               {.padding = 1, .he_initial = true}),
                        plan.pool});
      channels = plan.out;
      module += plan.pool ? 3 : 2;
    }
    return stages;
  }

  std::vector<Stage> convolutions_;
  Linear fc1_, fc2_, fc3_;
  Dropout dropout_;
  int64_t height_, width_;
};

FL_REGISTER(Network, "vgg11", Vgg11);

}  // namespace fl_sim
