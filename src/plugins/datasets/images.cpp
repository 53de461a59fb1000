// Folders of image files, a folder a class.
#include "plugins/datasets/images.h"

#include <algorithm>
#include <filesystem>
#include <map>

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
  if (!image.flaw.empty() && flawed_++ == 0) first_flaw_ = message(path, ": ", image.flaw);
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

std::string ImageStack::flaws() const {
  if (flawed_ == 0) return "";
  return message(flawed_, flawed_ == 1 ? " file was" : " files were",
                 " read that other readers warn of; their pixels are whole (", first_flaw_,
                 flawed_ == 1 ? ")" : ", for one)");
}

void Failures::check(const std::string& folder) const {
  constexpr size_t kShown = 10;
  if (reasons_.empty()) return;
  if (reasons_.size() == 1) throw Error(reasons_[0]);
  std::string text = message(folder, ": ", reasons_.size(), " of ", files_,
                             " files cannot be read (repair them, or take them out):");
  for (size_t i = 0; i < std::min(kShown, reasons_.size()); ++i) text += "\n  " + reasons_[i];
  if (reasons_.size() > kShown) text += message("\n  and ", reasons_.size() - kShown, " more");
  throw Error(text);
}

std::vector<Option> image_options() {
  return {{"size", Option::Type::kText, "keep",
           "keep: all images must have one size; 32x32: resized to that height and width"},
          {.name = "colour",
           .default_value = "rgb",
           .meaning = "rgb: 3 channels; grey: 1 channel, 0.299 red + 0.587 green + 0.114 blue",
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
        .summary = "image files (PNG, JPEG, BMP, WebP), a folder a class: images:FOLDER",
        .source = "the layout of torchvision's ImageFolder",
        .rule = message(
            "FOLDER is a path, or a path within data-dir. FOLDER/train/CLASS/* and "
            "FOLDER/test/CLASS/*, or FOLDER/CLASS/*, of which a part becomes the test set: what "
            "ends in ",
            image_endings_text(),
            ". Classes are the folders in the order of their names, files the samples in the "
            "order of theirs; hidden ones and __MACOSX are neither. Inputs are in [0, 1], channels "
            "first: the numbers in the file over 255 (or 65535), without its colour profile, gamma "
            "or EXIF orientation. Transparent pixels stand on black. Files of other kinds are left "
            "out, with a warning."),
        .options = options,
        .takes_argument = true};
  }

  Dataset read() const override {
    const fs::path folder = find_path(job_, "images", name_);
    std::error_code none;
    const bool apart = fs::is_directory(folder / "train", none);
    FL_CHECK(!apart || fs::is_directory(folder / "test", none), folder.string(),
             ": holds train/, but no test/ (both are needed, or neither)");
    Dataset data;
    LeftOut left_out;
    const fs::path train = apart ? folder / "train" : folder;
    const std::vector<std::string> classes = class_folders(train);
    const std::vector<File> files = list(train, classes, left_out);
    std::vector<File> part[2];
    if (apart) {
      const std::vector<std::string> tested = class_folders(folder / "test");
      for (const std::string& name : tested) {
        FL_CHECK(std::find(classes.begin(), classes.end(), name) != classes.end(),
                 (folder / "test" / name).string(), ": is a class that ", train.string(),
                 " does not have");
      }
      part[0] = files;
      part[1] = list(folder / "test", classes, left_out);
      for (const std::string& name : class_folders(folder)) {
        if (name != "train" && name != "test") {
          data.notes.push_back(
              message((folder / name).string(), ": is not read (samples are in train/ and test/)"));
        }
      }
    } else {
      std::vector<int64_t> labels;
      for (const File& file : files) labels.push_back(file.label);
      const std::vector<bool> is_test =
          draw_test_samples(job_, folder.string(), std::ssize(files),
                            job_.get<double>("images.test-fraction"), labels);
      for (size_t i = 0; i < files.size(); ++i) part[is_test[i] ? 1 : 0].push_back(files[i]);
    }

    data.classes = std::ssize(classes);
    data.class_names = classes;
    data.scale = 1.0 / 255;
    note_empty_classes(data, classes, part[0]);
    if (left_out.files > 0) {
      data.left_out = message(left_out.files, left_out.files == 1 ? " file" : " files");
      data.notes.push_back(left_out.text(folder, std::ssize(part[0]) + std::ssize(part[1])));
    }
    ImageStack stack(job_.get<std::string>("images.size"), "images.size",
                     channels_of(job_.get<std::string>("images.colour")));
    Failures failures;
    data.train = samples(part[0], stack, failures);
    data.test = samples(part[1], stack, failures);
    failures.check(folder);
    if (const std::string flaws = stack.flaws(); !flaws.empty()) data.notes.push_back(flaws);
    return data;
  }

 private:
  struct File {
    std::string path;
    int64_t label;
  };

  // What stands in class folders and is not read.
  struct LeftOut {
    int64_t files = 0;
    std::map<std::string, int64_t> endings;  // how many files; "folders" too
    std::string first;

    // "10 .bmp, 1 .txt"
    std::string kinds() const {
      std::string text;
      for (const auto& [ending, count] : endings)
        text += message(text.empty() ? "" : ", ", count, " ", ending);
      return text;
    }
    std::string text(const fs::path& folder, int64_t read) const {
      return message(folder.string(), ": ", files, " of ", files + read, " files are left out, ",
                     kinds(), ", the first is ", first, " (only ", image_endings_text(),
                     " right in a class's folder are read)");
    }
  };

  static bool is_hidden(const std::string& name) {
    return name.starts_with('.') || name == "__MACOSX" || name == "@eaDir" || name == "Thumbs.db" ||
           name == "desktop.ini";
  }

  static std::vector<std::string> class_folders(const fs::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
      std::error_code none;
      const std::string name = at->path().filename();
      if (at->is_directory(none) && !is_hidden(name)) names.push_back(name);
    }
    FL_CHECK(!error, folder.string(), ": cannot be listed (", error.message(), ")");
    FL_CHECK(!names.empty(), folder.string(), ": holds no folders (a folder a class is expected)");
    std::sort(names.begin(), names.end());
    return names;
  }

  // Counts what a class's folder holds beside images.
  static void count_others(const fs::path& folder, LeftOut& left_out) {
    std::vector<fs::path> others;
    std::error_code error;
    for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end;
         at.increment(error)) {
      std::error_code none;
      const bool hidden = is_hidden(at->path().filename());
      if (hidden && at->is_directory(none)) at.disable_recursion_pending();
      if (hidden || at->is_directory(none)) continue;
      const bool taken =
          at.depth() == 0 && at->is_regular_file(none) && has_ending(at->path(), image_endings());
      if (!taken) others.push_back(at->path());
    }
    FL_CHECK(!error, folder.string(), ": cannot be listed (", error.message(), ")");
    std::sort(others.begin(), others.end());
    for (const fs::path& path : others) {
      if (left_out.files++ == 0) left_out.first = path;
      const std::string ending = path.extension();
      const bool deeper = path.parent_path() != folder;
      ++left_out.endings[deeper           ? "in folders of a class"
                         : ending.empty() ? "without an ending"
                                          : ending];
    }
  }

  static std::vector<File> list(const fs::path& folder, const std::vector<std::string>& classes,
                                LeftOut& left_out) {
    std::vector<File> files;
    LeftOut here;
    for (size_t c = 0; c < classes.size(); ++c) {
      std::error_code none;
      if (!fs::is_directory(folder / classes[c], none)) continue;
      for (const fs::path& path : list_files(folder / classes[c], image_endings()))
        files.push_back({path, static_cast<int64_t>(c)});
      count_others(folder / classes[c], here);
    }
    FL_CHECK(
        !files.empty(), folder.string(), ": its folders hold no ", image_endings_text(), " files",
        here.files == 0 ? "" : message(" (but ", here.kinds(), "; the first is ", here.first, ")"));
    if (here.files > 0 && left_out.files == 0) left_out.first = here.first;
    left_out.files += here.files;
    for (const auto& [ending, count] : here.endings) left_out.endings[ending] += count;
    return files;
  }

  static void note_empty_classes(Dataset& data, const std::vector<std::string>& classes,
                                 const std::vector<File>& train) {
    std::vector<int64_t> count(classes.size());
    for (const File& file : train) ++count[static_cast<size_t>(file.label)];
    for (size_t c = 0; c < classes.size(); ++c) {
      if (count[c] > 0) continue;
      data.notes.push_back(
          message("class ", classes[c], " has no sample to train with (its folder ",
                  "holds no image for that; it stays class ", c, " of ", classes.size(), ")"));
    }
  }

  static Samples samples(const std::vector<File>& files, ImageStack& stack, Failures& failures) {
    std::vector<int64_t> labels;
    for (const File& file : files) {
      failures.attempt([&] { stack.append(file.path); });
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
