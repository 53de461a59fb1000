// Folders of image files, a folder a class.
#include "plugins/datasets/images.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {

namespace fs = std::filesystem;

ImageStack::ImageStack(const std::string& size, const std::string& key, int64_t channels)
    : key_(key), keep_(size == "keep"), channels_(channels) {
  if (keep_) return;
  const size_t cross = size.find('x');
  const bool good = cross != std::string::npos && parse_number(size.substr(0, cross), height_) &&
                    parse_number(size.substr(cross + 1), width_) && height_ >= 1 && width_ >= 1 &&
                    height_ <= 4096 && width_ <= 4096;
  FL_CHECK(good, key, " is '", size,
           "' (must be keep, or HEIGHTxWIDTH of at most 4096 each, such "
           "as 32x32)");
}

void ImageStack::append(const std::string& path) {
  Image image = read_image(path, channels_);
  if (keep_ && count_ == 0) {
    height_ = image.height;
    width_ = image.width;
    first_ = path;
  }
  if (image.height != height_ || image.width != width_) {
    FL_CHECK(!keep_, path, ": is ", image.height, " x ", image.width, ", while ", first_, " is ",
             height_, " x ", width_, " (all images must have one size; ", key_, " = ", height_, "x",
             width_, " would resize them)");
    image = resize(image, height_, width_);
  }
  const int64_t plane = height_ * width_;
  const size_t begin = planes_.size();
  planes_.resize(begin + image.bytes.size());
  for (int64_t p = 0; p < plane; ++p) {
    for (int64_t c = 0; c < channels_; ++c) {
      planes_[begin + static_cast<size_t>(c * plane + p)] =
          image.bytes[static_cast<size_t>(p * channels_ + c)];
    }
  }
  ++count_;
}

torch::Tensor ImageStack::take() {
  const std::vector<int64_t> shape = {count_, channels_, height_, width_};
  count_ = 0;
  return to_tensor(std::move(planes_), shape);
}

std::vector<Option> image_options() {
  return {{"size", Option::Type::kText, "keep",
           "keep: all images must have one size; 32x32: resized to that height and width"},
          {.name = "colour",
           .default_value = "rgb",
           .meaning = "rgb: 3 channels; grey: 1 channel",
           .choices = {"rgb", "grey"}}};
}

int64_t channels_of(const std::string& colour) { return colour == "grey" ? 1 : 3; }

namespace {

class ImageFolder final : public DatasetSource {
 public:
  explicit ImageFolder(const Setup& setup) : job_(setup.job), name_(setup.argument) {
    FL_CHECK(!name_.empty(), "dataset images needs a folder (dataset = images:FOLDER)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    std::vector<Option> options = image_options();
    options.push_back({"test-fraction",
                       Type::kNumber,
                       "0.2",
                       "where there is no test/: share of each class that is the test set, drawn "
                       "by seed",
                       {.low = 0, .high = 1, .open_low = true, .open_high = true}});
    return {
        .summary = "PNG and JPEG files, a folder a class: images:FOLDER",
        .source = "the layout of torchvision's ImageFolder",
        .rule =
            "FOLDER is a path, or a path within data-dir. FOLDER/train/CLASS/*.{png,jpg,jpeg} and "
            "FOLDER/test/CLASS/*, or FOLDER/CLASS/*, of which a part becomes the test set. Classes "
            "are the folders in the order of their names, files the samples in the order of "
            "theirs. Inputs are in [0, 1], channels first.",
        .options = options,
        .takes_argument = true};
  }

  Dataset read() const override {
    const fs::path folder = find_path(job_, "images", name_);
    std::error_code none;
    const bool apart = fs::is_directory(folder / "train", none);
    FL_CHECK(!apart || fs::is_directory(folder / "test", none), folder.string(),
             ": holds train/, but no test/ (both are needed, or neither)");
    const std::vector<std::string> classes = class_folders(apart ? folder / "train" : folder);
    const std::vector<File> files = list(apart ? folder / "train" : folder, classes);
    std::vector<File> part[2];
    if (apart) {
      const std::vector<std::string> tested = class_folders(folder / "test");
      for (const std::string& name : tested) {
        FL_CHECK(std::find(classes.begin(), classes.end(), name) != classes.end(),
                 (folder / "test" / name).string(), ": is a class that ",
                 (folder / "train").string(), " does not have");
      }
      part[0] = files;
      part[1] = list(folder / "test", classes);
      FL_CHECK(!part[1].empty(), (folder / "test").string(),
               ": holds no .png, .jpg or .jpeg files");
    } else {
      std::vector<int64_t> labels;
      for (const File& file : files) labels.push_back(file.label);
      const std::vector<bool> is_test =
          draw_test_samples(job_, folder.string(), std::ssize(files),
                            job_.get<double>("images.test-fraction"), labels);
      for (size_t i = 0; i < files.size(); ++i) part[is_test[i] ? 1 : 0].push_back(files[i]);
    }

    Dataset data;
    data.classes = std::ssize(classes);
    data.class_names = classes;
    data.scale = 1.0 / 255;
    ImageStack stack(job_.get<std::string>("images.size"), "images.size",
                     channels_of(job_.get<std::string>("images.colour")));
    data.train = samples(part[0], stack);
    data.test = samples(part[1], stack);
    return data;
  }

 private:
  struct File {
    std::string path;
    int64_t label;
  };

  static std::vector<std::string> class_folders(const fs::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
      std::error_code none;
      const std::string name = at->path().filename();
      if (at->is_directory(none) && !name.starts_with('.')) names.push_back(name);
    }
    FL_CHECK(!error, folder.string(), ": cannot be listed (", error.message(), ")");
    FL_CHECK(!names.empty(), folder.string(), ": holds no folders (a folder a class is expected)");
    std::sort(names.begin(), names.end());
    return names;
  }

  static std::vector<File> list(const fs::path& folder, const std::vector<std::string>& classes) {
    std::vector<File> files;
    for (size_t c = 0; c < classes.size(); ++c) {
      std::error_code none;
      if (!fs::is_directory(folder / classes[c], none)) continue;
      for (const fs::path& path : list_files(folder / classes[c], {".png", ".jpg", ".jpeg"}))
        files.push_back({path, static_cast<int64_t>(c)});
    }
    FL_CHECK(!files.empty(), folder.string(), ": its folders hold no .png, .jpg or .jpeg files");
    return files;
  }

  static Samples samples(const std::vector<File>& files, ImageStack& stack) {
    std::vector<int64_t> labels;
    for (const File& file : files) {
      stack.append(file.path);
      labels.push_back(file.label);
    }
    const int64_t n = std::ssize(labels);
    return {stack.take(), to_tensor(std::move(labels), {n})};
  }

  Job job_;
  std::string name_;
};

FL_REGISTER(DatasetSource, "images", ImageFolder);

}  // namespace
}  // namespace fl_sim
