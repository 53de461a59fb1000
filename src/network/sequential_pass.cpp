#include "network/sequential_pass.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "network/kernels.h"

namespace fl_sim {
namespace {

int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

// What lies between two layers: the batch's samples [height + 2 pad, width + 2 pad, channels], with
// a border of zeros, and the loss's gradient by them in the same form.
struct SequentialPass::Activation {
  int64_t height, width, channels;
  int64_t pad = 0;
  bool in_place = false;  // the gradient overwrites the values
  torch::Tensor storage, gradient_storage;
  float *values = nullptr, *gradient = nullptr;

  int64_t row() const { return (width + 2 * pad) * channels; }
  int64_t sample() const { return whole_vectors((height + 2 * pad) * row()); }
  int64_t border() const { return pad * row() + pad * channels; }  // before the first pixel

  void allocate(int64_t samples) {
    storage = torch::zeros({samples * sample()});
    gradient_storage = in_place ? storage : torch::zeros_like(storage);
    values = storage.data_ptr<float>();
    gradient = gradient_storage.data_ptr<float>();
  }
};

struct SequentialPass::Stage {
  Activation *in, *out;

  Stage(Activation* a_in, Activation* an_out) : in(a_in), out(an_out) {}
  virtual ~Stage() = default;
  virtual void forward(int64_t samples, const float* row) = 0;
  // From out->gradient to in->gradient, unless `first`, and to the target.
  virtual void backward(int64_t samples, const float* row, const GradientTarget& target,
                        bool first) = 0;
};

struct SequentialPass::LinearStage final : Stage {
  const Linear& layer;
  int64_t weight, bias;  // offsets in the row
  torch::Tensor scaled;  // the gradient of the output, times target.scale
  bool add_to_input_gradient = false;
  static constexpr int64_t kRowsOfWeights = 28;  // at a time: they stay in the second-level cache

  LinearStage(const Linear& linear, const ParameterLayout& layout, int64_t batch_size,
              Activation* a_in, Activation* an_out)
      : Stage(a_in, an_out),
        layer(linear),
        weight(layout.offset(linear.weight())),
        bias(layout.offset(linear.bias())),
        scaled(torch::empty({batch_size * an_out->sample()})) {}

  void forward(int64_t samples, const float* row) override {
    kernels::dot_products({.rows = samples,
                           .columns = layer.out(),
                           .depth = layer.in(),
                           .a = in->values,
                           .a_row = in->sample(),
                           .b = row + weight,
                           .b_row = layer.in(),
                           .bias = row + bias,
                           .c = out->values,
                           .c_row = out->sample()});
  }

  void backward(int64_t samples, const float* row, const GradientTarget& target,
                bool first) override {
    const int64_t inputs = layer.in(), outputs = layer.out(), out_row = out->sample();
    float* scaled_gradient = scaled.data_ptr<float>();
    kernels::convert(samples * out_row, out->gradient, target.scale, 0, scaled_gradient);
    for (int64_t i = 0; i < outputs; i += kRowsOfWeights) {
      const int64_t count = std::min(kRowsOfWeights, outputs - i);
      if (!first) {
        kernels::product({.rows = samples,
                          .columns = inputs,
                          .a = out->gradient + i,
                          .a_row = out_row,
                          .b = row + weight + i * inputs,
                          .c = in->gradient,
                          .c_row = in->sample(),
                          .inner = {count, 1, inputs},
                          .add = add_to_input_gradient || i > 0});
      }
      kernels::product({.rows = count,
                        .columns = inputs,
                        .a = scaled_gradient + i,
                        .a_row = 1,
                        .b = in->values,
                        .c = target.row + weight + i * inputs,
                        .c_row = inputs,
                        .inner = {samples, out_row, in->sample()},
                        .plus = target.plus ? target.plus + weight + i * inputs : nullptr,
                        .add = target.add,
                        .decay = target.decay});
    }
    const float one = 1;
    kernels::product({.rows = 1,
                      .columns = outputs,
                      .a = &one,
                      .a_row = 0,
                      .b = scaled_gradient,
                      .c = target.row + bias,
                      .c_row = outputs,
                      .inner = {samples, 0, out_row},
                      .plus = target.plus ? target.plus + bias : nullptr,
                      .add = target.add,
                      .decay = target.decay});
  }
};

// A sum over the input's channels and over the kernel's rows and columns; a pixel of a row of the
// image and its neighbours lie side by side, so that no copies of patches are needed.
struct SequentialPass::ConvStage final : Stage {
  const Conv2d& layer;
  int64_t weight, bias;                // offsets in the row; the bias's is -1 if there is none
  int64_t taps, line, patch;           // kernel x kernel; numbers in a row of the kernel, in all
  torch::Tensor weights_in_out;        // [kernel, kernel, in, out]
  torch::Tensor weights_out_in;        // [out, kernel, kernel, in]
  torch::Tensor gradient_in_out;       // [kernel, kernel, in, out]
  torch::Tensor gradient_as_in_row;    // [out, in, kernel, kernel]
  torch::Tensor gradients_of_patches;  // [width of the output, kernel, kernel, in]

  ConvStage(const Conv2d& conv, const ParameterLayout& layout, Activation* a_in, Activation* an_out)
      : Stage(a_in, an_out),
        layer(conv),
        weight(layout.offset(conv.weight())),
        bias(conv.bias() < 0 ? -1 : layout.offset(conv.bias())),
        taps(conv.kernel() * conv.kernel()),
        line(conv.kernel() * conv.in()),
        patch(taps * conv.in()),
        weights_in_out(torch::empty({patch * conv.out()})),
        weights_out_in(torch::empty({patch * conv.out()})),
        gradient_in_out(torch::empty({patch * conv.out()})),
        gradient_as_in_row(torch::empty({patch * conv.out()})),
        gradients_of_patches(torch::empty({an_out->width * patch})) {}

  void forward(int64_t samples, const float* row) override {
    float* packed = weights_in_out.data_ptr<float>();
    for (int64_t i = 0; i < layer.in(); ++i) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* from = row + weight + i * taps + tap;
        float* to = packed + (tap * layer.in() + i) * layer.out();
        for (int64_t o = 0; o < layer.out(); ++o) to[o] = from[o * patch];
      }
    }
    const int64_t stride = layer.options().stride;
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t y = 0; y < out->height; ++y) {
        kernels::product({.rows = out->width,
                          .columns = layer.out(),
                          .a = in->values + n * in->sample() + y * stride * in->row(),
                          .a_row = stride * layer.in(),
                          .b = packed,
                          .c = out->values + n * out->sample() + out->border() + y * out->row(),
                          .c_row = layer.out(),
                          .middle = {layer.kernel(), in->row(), line * layer.out()},
                          .inner = {line, 1, layer.out()},
                          .bias = bias < 0 ? nullptr : row + bias});
      }
    }
  }

  void backward(int64_t samples, const float* row, const GradientTarget& target,
                bool first) override {
    if (!first) input_gradient(samples, row);
    const int64_t stride = layer.options().stride;
    float* gradient = gradient_in_out.data_ptr<float>();
    for (int64_t n = 0; n < samples; ++n) {  // one at a time: it stays in the cache
      const float* of_outputs = out->gradient + n * out->sample() + out->border();
      for (int64_t y = 0; y < layer.kernel(); ++y) {
        kernels::product({.rows = line,
                          .columns = layer.out(),
                          .a = in->values + n * in->sample() + y * in->row(),
                          .a_row = 1,
                          .b = of_outputs,
                          .c = gradient + y * line * layer.out(),
                          .c_row = layer.out(),
                          .middle = {out->height, stride * in->row(), out->row()},
                          .inner = {out->width, stride * layer.in(), layer.out()},
                          .add = n > 0});
      }
    }
    float* in_row = gradient_as_in_row.data_ptr<float>();
    for (int64_t i = 0; i < layer.in(); ++i) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* from = gradient + (tap * layer.in() + i) * layer.out();
        float* to = in_row + i * taps + tap;
        for (int64_t o = 0; o < layer.out(); ++o) to[o * patch] = from[o];
      }
    }
    kernels::blend(patch * layer.out(), target.scale, in_row,
                   target.plus ? target.plus + weight : nullptr, target.add, target.decay,
                   target.row + weight);
    if (bias < 0) return;
    kernels::product({.rows = 1,
                      .columns = layer.out(),
                      .a = &target.scale,
                      .a_row = 0,
                      .b = out->gradient + out->border(),
                      .c = target.row + bias,
                      .c_row = layer.out(),
                      .outer = {samples, 0, out->sample()},
                      .middle = {out->height, 0, out->row()},
                      .inner = {out->width, 0, layer.out()},
                      .plus = target.plus ? target.plus + bias : nullptr,
                      .add = target.add,
                      .decay = target.decay});
  }

  // Each pixel of the output gives its patch of the input a gradient; patches overlap.
  void input_gradient(int64_t samples, const float* row) {
    float* packed = weights_out_in.data_ptr<float>();
    for (int64_t o = 0; o < layer.out(); ++o) {
      for (int64_t i = 0; i < layer.in(); ++i) {
        const float* from = row + weight + o * patch + i * taps;
        for (int64_t tap = 0; tap < taps; ++tap) {
          packed[o * patch + tap * layer.in() + i] = from[tap];
        }
      }
    }
    std::fill_n(in->gradient, samples * in->sample(), 0.0F);
    float* patches = gradients_of_patches.data_ptr<float>();
    const int64_t stride = layer.options().stride;
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t y = 0; y < out->height; ++y) {
        kernels::product({.rows = out->width,
                          .columns = patch,
                          .a = out->gradient + n * out->sample() + out->border() + y * out->row(),
                          .a_row = layer.out(),
                          .b = packed,
                          .c = patches,
                          .c_row = patch,
                          .inner = {layer.out(), 1, patch}});
        for (int64_t x = 0; x < out->width; ++x) {
          float* to =
              in->gradient + n * in->sample() + y * stride * in->row() + x * stride * layer.in();
          for (int64_t i = 0; i < layer.kernel(); ++i) {
            kernels::add(line, patches + x * patch + i * line, to + i * in->row());
          }
        }
      }
    }
  }
};

struct SequentialPass::PoolStage final : Stage {
  kernels::MaxPool shape;

  PoolStage(int64_t size, Activation* a_in, Activation* an_out)
      : Stage(a_in, an_out), shape{in->height, in->width, in->channels,
                                   size,       in->row(), out->row()} {}

  void forward(int64_t samples, const float*) override {
    for (int64_t n = 0; n < samples; ++n) {
      kernels::max_pool(shape, in->values + n * in->sample() + in->border(),
                        out->values + n * out->sample() + out->border());
    }
  }

  void backward(int64_t samples, const float*, const GradientTarget&, bool first) override {
    if (first) return;
    for (int64_t n = 0; n < samples; ++n) {
      const int64_t from = n * out->sample() + out->border();
      const int64_t to = n * in->sample() + in->border();
      kernels::max_pool_gradient(shape, in->values + to, out->values + from, out->gradient + from,
                                 in->gradient + to);
    }
  }
};

// In place. The border's zeros stay zeros.
struct SequentialPass::ReluStage final : Stage {
  explicit ReluStage(Activation* both) : Stage(both, both) {}

  void forward(int64_t samples, const float*) override {
    kernels::relu(samples * out->sample(), out->values);
  }
  void backward(int64_t samples, const float*, const GradientTarget&, bool) override {
    kernels::relu_gradient(samples * out->sample(), out->values, out->gradient);
  }
};

// From [height, width, channels] to PyTorch's order, [channels, height, width] in one line.
struct SequentialPass::FlattenStage final : Stage {
  using Stage::Stage;

  template <class Move>
  void each(int64_t samples, const Move& move) {
    const int64_t height = in->height, width = in->width, channels = in->channels;
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < height; ++y) {
          const int64_t image = n * in->sample() + in->border() + y * in->row() + c;
          const int64_t line = n * out->sample() + (c * height + y) * width;
          for (int64_t x = 0; x < width; ++x) move(image + x * channels, line + x);
        }
      }
    }
  }
  void forward(int64_t samples, const float*) override {
    each(samples, [&](int64_t image, int64_t line) { out->values[line] = in->values[image]; });
  }
  void backward(int64_t samples, const float*, const GradientTarget&, bool first) override {
    if (first) return;
    each(samples, [&](int64_t image, int64_t line) { in->gradient[image] = out->gradient[line]; });
  }
};

SequentialPass::Activation* SequentialPass::add_activation(int64_t height, int64_t width,
                                                           int64_t channels) {
  activations_.push_back(std::make_unique<Activation>());
  Activation* activation = activations_.back().get();
  activation->height = height;
  activation->width = width;
  activation->channels = channels;
  return activation;
}

SequentialPass::SequentialPass(const Network& network, const std::vector<Layer>& layers,
                               const std::vector<int64_t>& shape, int64_t batch_size)
    : network_(network), batch_size_(batch_size) {
  const ParameterLayout& layout = network.layout();
  const bool flat = shape.size() != 3 || std::holds_alternative<Flatten>(layers[0]);
  input_ = flat ? add_activation(1, 1, c10::multiply_integers(shape))
                : add_activation(shape[1], shape[2], shape[0]);

  // Sizes and borders first, then memory, then the stages that depend on both.
  std::vector<std::pair<Activation*, Activation*>> ends;  // of each layer
  Activation* last = input_;
  for (size_t i = 0; i < layers.size(); ++i) {
    Activation* in = last;
    if (const auto* conv = std::get_if<Conv2d>(&layers[i])) {
      const Conv2d::Options& options = conv->options();
      in->pad = options.padding;
      const auto after = [&](int64_t size) {
        return (size + 2 * options.padding - conv->kernel()) / options.stride + 1;
      };
      last = add_activation(after(in->height), after(in->width), conv->out());
    } else if (const auto* pool = std::get_if<MaxPool2d>(&layers[i])) {
      // A convolution does not need its outputs for its gradient; other layers do.
      in->in_place = i > 0 && std::holds_alternative<Conv2d>(layers[i - 1]);
      last = add_activation(in->height / pool->size, in->width / pool->size, in->channels);
    } else if (std::holds_alternative<Flatten>(layers[i])) {
      if (!(flat && in == input_))
        last = add_activation(1, 1, in->height * in->width * in->channels);
    } else if (const auto* linear = std::get_if<Linear>(&layers[i])) {
      last = add_activation(1, 1, linear->out());
    }
    ends.emplace_back(in, last);
  }
  scores_ = last;
  classes_ = last->channels;
  for (const auto& activation : activations_) activation->allocate(batch_size_);

  for (size_t i = 0; i < layers.size(); ++i) {
    const auto [in, out] = ends[i];
    if (const auto* conv = std::get_if<Conv2d>(&layers[i])) {
      stages_.push_back(std::make_unique<ConvStage>(*conv, layout, in, out));
    } else if (const auto* pool = std::get_if<MaxPool2d>(&layers[i])) {
      stages_.push_back(std::make_unique<PoolStage>(pool->size, in, out));
    } else if (std::holds_alternative<Relu>(layers[i])) {
      stages_.push_back(std::make_unique<ReluStage>(out));
    } else if (const auto* linear = std::get_if<Linear>(&layers[i])) {
      auto stage = std::make_unique<LinearStage>(*linear, layout, batch_size_, in, out);
      if (i + 1 == layers.size()) head_ = stage.get();
      stages_.push_back(std::move(stage));
    } else if (in != out) {
      stages_.push_back(std::make_unique<FlattenStage>(in, out));
    }
  }
}

SequentialPass::~SequentialPass() = default;

namespace {

// Asks for n numbers that are needed soon: samples lie anywhere in a large data set.
template <class T>
void fetch(const T* from, int64_t n) {
  constexpr auto kLine = static_cast<int64_t>(64 / sizeof(T));
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(from + i);
}

// One sample [channels, height, width] into rows of pixels.
template <class T>
void load_sample(const T* from, float scale, float shift, int64_t height, int64_t width,
                 int64_t channels, int64_t row, float* to) {
  for (int64_t y = 0; y < height; ++y) {
    if (channels == 1 || height * width == 1) {
      kernels::convert(width * channels, from + y * width, scale, shift, to + y * row);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T* line = from + (c * height + y) * width;
      for (int64_t x = 0; x < width; ++x) {
        to[y * row + x * channels + c] = scale * static_cast<float>(line[x]) + shift;
      }
    }
  }
}

}  // namespace

void SequentialPass::load(const Samples& samples, std::span<const int64_t> indices, double scale,
                          double shift) {
  samples_ = static_cast<int64_t>(indices.size());
  assert(samples_ <= batch_size_ && samples.inputs.is_contiguous());
  const Activation& to = *input_;
  const int64_t numbers = to.height * to.width * to.channels;
  const int64_t* labels = samples.labels.data_ptr<int64_t>();
  labels_.clear();
  const auto load_all = [&](const auto* inputs) {
    for (int64_t n = 0; n < samples_; ++n) {
      const int64_t index = indices[static_cast<size_t>(n)];
      if (n + 1 < samples_) fetch(inputs + indices[static_cast<size_t>(n + 1)] * numbers, numbers);
      load_sample(inputs + index * numbers, static_cast<float>(scale), static_cast<float>(shift),
                  to.height, to.width, to.channels, to.row(),
                  to.values + n * to.sample() + to.border());
      labels_.push_back(labels[index]);
    }
  };
  if (samples.inputs.scalar_type() == torch::kUInt8) {
    load_all(samples.inputs.data_ptr<uint8_t>());
  } else {
    load_all(samples.inputs.data_ptr<float>());
  }
}

void SequentialPass::forward(const float* row) {
  for (const auto& stage : stages_) stage->forward(samples_, row);
  if (head_) head_->add_to_input_gradient = false;
}

std::span<const float> SequentialPass::scores(int64_t sample) const {
  return {scores_->values + sample * scores_->sample(), static_cast<size_t>(classes_)};
}

int64_t SequentialPass::representation_size() const {
  assert(head_);
  return head_->layer.in();
}

std::span<const float> SequentialPass::representation(int64_t sample) const {
  const auto size = static_cast<size_t>(representation_size());
  return {head_->in->values + sample * head_->in->sample(), size};
}

std::span<float> SequentialPass::score_gradient(int64_t sample) {
  return {scores_->gradient + sample * scores_->sample(), static_cast<size_t>(classes_)};
}

// The head adds to what lies in its input's gradient, which no other stage writes before it.
std::span<float> SequentialPass::representation_gradient(int64_t sample) {
  const auto size = static_cast<size_t>(representation_size());
  Activation& of = *head_->in;
  assert(!of.in_place);  // only a convolution's output before a pooling is
  if (!head_->add_to_input_gradient) std::fill_n(of.gradient, samples_ * of.sample(), 0.0F);
  head_->add_to_input_gradient = true;
  return {of.gradient + sample * of.sample(), size};
}

double SequentialPass::sample_loss(int64_t sample) const {
  return network_.objective().loss(scores(sample), label(sample));
}

double SequentialPass::loss() {
  const Objective& objective = network_.objective();
  const float share = 1 / static_cast<float>(samples_);
  double total = 0;
  for (int64_t n = 0; n < samples_; ++n)
    total += objective.loss(scores(n), label(n), share, score_gradient(n));
  return total / static_cast<double>(samples_);
}

void SequentialPass::backward(const float* row, const GradientTarget& target) {
  for (size_t i = stages_.size(); i-- > 0;) {
    stages_[i]->backward(samples_, row, target, i == 0);
  }
}

}  // namespace fl_sim
