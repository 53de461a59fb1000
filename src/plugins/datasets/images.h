// Samples from image files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/dataset.h"
#include "plugins/datasets/image_file.h"

namespace fl_sim {

// Collects images of one size.
class ImageStack {
 public:
  // `size` is "HEIGHTxWIDTH", or "keep": all images must have the size of the first. `key` is how
  // the job calls it. Throws Error for anything else.
  ImageStack(const std::string& size, const std::string& key, int64_t channels);

  void append(const std::string& path);  // throws Error, naming the file
  int64_t size() const { return count_; }
  torch::Tensor take();  // [n, channels, height, width] uint8; empties this
  // Of all files so far: that something is wrong with some, beside their pixels. Empty: with none.
  std::string flaws() const;

 private:
  std::string key_, first_;  // first_: the file that set the size
  bool keep_;
  int64_t channels_, height_ = 0, width_ = 0, count_ = 0;
  std::vector<uint8_t> planes_;
  int64_t flawed_ = 0;
  std::string first_flaw_;
};

// What cannot be read of many files, so that all are named at once.
class Failures {
 public:
  // Does it, and keeps the Error that it throws.
  template <class Action>
  void attempt(const Action& action) {
    ++files_;
    try {
      action();
    } catch (const Error& error) {
      reasons_.push_back(error.what());
    }
  }
  // Throws Error if there were any: the only one, or how many, with the first ones' reasons.
  void check(const std::string& folder) const;

 private:
  int64_t files_ = 0;
  std::vector<std::string> reasons_;
};

// The options `size` and `colour` of a plug-in, and what the latter says.
std::vector<Option> image_options();
int64_t channels_of(const std::string& colour);

}  // namespace fl_sim
