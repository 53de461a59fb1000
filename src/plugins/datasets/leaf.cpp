// LEAF's JSON files: {"users": [...], "num_samples": [...], "user_data": {USER: {"x", "y"}}}.
// Caldas et al., "LEAF: a benchmark for federated settings", 2018.
//
// The files are read event by event (nlohmann::json's SAX interface), so that no document is held
// in memory beside the samples.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <streambuf>

#include "base/check.h"
#include "plugins/datasets/files.h"
#include "plugins/datasets/image_file.h"
#include "plugins/datasets/images.h"
#include "plugins/datasets/pixels.h"
#include "plugins/datasets/text.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

// What x holds: lists of numbers, texts of 80 characters, or names of image files.
enum class Kind { kUnknown, kNumbers, kText, kFiles };

const char* plural_of(Kind kind) {
  return kind == Kind::kText ? "texts" : kind == Kind::kFiles ? "names of images" : "numbers";
}

// All users of one part (train or test), in the order in which they are read.
struct LeafPart {
  struct User {
    int64_t begin = 0, samples = 0;
    int64_t claimed = -1;  // by num_samples
    bool listed = false;   // in users
    bool seen_x = false, seen_y = false;
    std::string file;  // where it stands
  };
  std::map<std::string, User> users;  // sorted by name
  Kind kind = Kind::kUnknown;
  int64_t width = -1;              // numbers in a sample
  bool image = false;              // numbers are pixels
  Pixels pixels;                   // [samples, width], images
  std::vector<float> features;     // [samples, width], anything else
  std::vector<uint8_t> text;       // [samples, 80]
  std::vector<std::string> files;  // [samples]
  std::vector<int64_t> labels;     // [samples]
};

// Follows one file's events. Returning false would end the parser without a reason, so everything
// is thrown.
class LeafEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  LeafEvents(const std::string& path, LeafPart& part) : path_(path), part_(part) {}

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("true or false"); }
  bool number_integer(number_integer_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return number(value); }
  bool string(string_t& value) override { return text(value); }
  bool binary(binary_t&) override { return scalar("binary data"); }
  bool start_object(std::size_t) override { return begin('{'); }
  bool end_object() override { return end(); }
  bool start_array(std::size_t) override { return begin('['); }
  bool end_array() override { return end(); }
  bool key(string_t& value) override {
    if (depth_ == 1) {
      section_ = value;
      FL_CHECK(!known_section() || sections_.insert({section_, true}).second, path_, ": the key ",
               shown(section_), " stands there twice");
    } else if (section_ == "user_data" && depth_ == 2) {
      start_user(value);
    } else if (section_ == "user_data" && depth_ == 3) {
      field_ = value;
      LeafPart::User& user = part_.users.at(user_);
      bool* seen = field_ == "x" ? &user.seen_x : field_ == "y" ? &user.seen_y : nullptr;
      FL_CHECK(seen == nullptr || !*seen, path_, ": user ", shown(user_), " has two lists ",
               shown(field_));
      if (seen) *seen = true;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::json::exception& error) override {
    // Python's json.dump writes what JSON does not know.
    const std::string begun = last_token.substr(last_token.find_last_of(" \t\n,:[") + 1);
    for (const char* word : {"NaN", "Infinity", "-Infinity"}) {
      FL_CHECK(begun.empty() || begun == "-" || !std::string_view(word).starts_with(begun), path_,
               ": holds ", word, " near byte ", position,
               in_user() ? message(" (user ", shown(user_), ", ", field_, " ", rows_, ")") : "",
               ", which is no number of JSON (leave such samples out)");
    }
    throw Error(
        message(path_, ": is not JSON near byte ", position, " (", error.what(), "; truncated?)"));
  }

  // What can only be seen at the end of the file.
  void finish() const {
    for (const char* needed : {"users", "num_samples", "user_data"}) {
      FL_CHECK(sections_.contains(needed), path_, ": has no ", shown(needed),
               " (expected LEAF's users, num_samples and user_data)");
    }
    FL_CHECK(users_.size() == counts_.size(), path_, ": ", users_.size(), " users and ",
             counts_.size(), " num_samples (must be as many)");
    for (size_t i = 0; i < users_.size(); ++i) {
      const auto found = part_.users.find(users_[i]);
      FL_CHECK(found != part_.users.end() && found->second.file == path_, path_, ": user ",
               shown(users_[i]), " has no user_data");
      LeafPart::User& user = found->second;
      FL_CHECK(!user.listed, path_, ": user ", shown(users_[i]), " is listed twice");
      user.listed = true;
      FL_CHECK(user.samples == counts_[i], path_, ": user ", shown(users_[i]), " has ",
               user.samples, " samples, but num_samples says ", counts_[i], " (truncated?)");
    }
    for (const auto& [name, user] : part_.users) {
      FL_CHECK(user.file != path_ || user.listed, path_, ": user ", shown(name),
               " has data, but is not among the users");
    }
  }

 private:
  bool known_section() const {
    return section_ == "users" || section_ == "num_samples" || section_ == "user_data";
  }
  bool in_user() const { return section_ == "user_data" && !user_.empty(); }
  bool in_field(const char* field, int depth) const {
    return section_ == "user_data" && field_ == field && depth_ == depth;
  }

  void start_user(const std::string& name) {
    user_ = name;
    field_.clear();
    LeafPart::User user;
    user.begin = std::ssize(part_.labels);
    user.file = path_;
    const auto [at, fresh] = part_.users.emplace(name, user);
    FL_CHECK(fresh, path_, ": user ", shown(name), " has data twice, here and in ", at->second.file,
             " (each user belongs to one file)");
    rows_ = 0;
  }

  bool begin(char bracket) {
    const bool data = section_ == "user_data";
    if (depth_ == 1 && known_section()) {
      FL_CHECK(bracket == (data ? '{' : '['), path_, ": ", shown(section_), " is not ",
               data ? "an object" : "a list");
    } else if (depth_ == 0) {
      FL_CHECK(bracket == '{', path_,
               ": is not an object (expected LEAF's users, num_samples and "
               "user_data)");
    } else if (data && depth_ == 2) {
      FL_CHECK(bracket == '{', path_, ": user ", shown(user_), "'s data are not an object");
    } else if (data && depth_ == 3 && (field_ == "x" || field_ == "y")) {
      FL_CHECK(bracket == '[', path_, ": user ", shown(user_), "'s ", field_, " is not a list");
    } else if (in_field("x", 4)) {
      FL_CHECK(bracket == '[' && (part_.kind == Kind::kUnknown || part_.kind == Kind::kNumbers),
               where(),
               " is neither a list of numbers "
               "nor, like those before, a text");
      part_.kind = Kind::kNumbers;
      row_.clear();
    } else if (in_field("y", 4) || in_field("x", 5) || (depth_ == 2 && !data && known_section())) {
      FL_CHECK(false, where(), " is nested too deeply");
    }
    ++depth_;
    return true;
  }

  bool end() {
    --depth_;
    if (in_field("x", 4)) add_numbers();
    if (section_ == "user_data" && depth_ == 2) end_user();
    if (depth_ == 1) section_.clear();
    return true;
  }

  void end_user() {
    LeafPart::User& user = part_.users.at(user_);
    FL_CHECK(user.seen_x && user.seen_y, path_, ": user ", shown(user_), " has no ",
             user.seen_x ? "y" : "x");
    user.samples = std::ssize(part_.labels) - user.begin;
    FL_CHECK(user.samples == rows_, path_, ": user ", shown(user_), " has ", rows_, " x and ",
             user.samples, " y (must be as many)");
  }

  std::string where() const {
    return message(path_, ": user ", shown(user_), ", ", field_, " ", rows_);
  }

  bool scalar(const char* what) {
    FL_CHECK(!expects_value(), where(), " holds ", what);
    return true;
  }

  bool expects_value() const {
    return in_field("x", 4) || in_field("x", 5) || in_field("y", 4) ||
           (depth_ == 2 && (section_ == "users" || section_ == "num_samples")) ||
           (depth_ <= 3 && section_ == "user_data") || (depth_ == 1 && known_section());
  }

  bool number(double value) {
    if (in_field("x", 5)) {
      const auto narrow = static_cast<float>(value);
      FL_CHECK(std::isfinite(narrow), where(), ": the number ", value, " does not fit float32");
      row_.push_back(narrow);
    } else if (in_field("y", 4)) {
      constexpr int64_t kMost = 1000000;
      FL_CHECK(value >= 0 && value < kMost && value == std::floor(value), path_, ": user ",
               shown(user_), ": a label is ", value, " (must be a whole number from 0 to ",
               kMost - 1, ")");
      part_.labels.push_back(static_cast<int64_t>(value));
    } else if (section_ == "num_samples" && depth_ == 2) {
      FL_CHECK(value >= 0 && value < 1e15 && value == std::floor(value), path_,
               ": num_samples holds ", value, " (must be whole numbers)");
      counts_.push_back(static_cast<int64_t>(value));
    } else {
      return scalar("a number");
    }
    return true;
  }

  bool text(const std::string& value) {
    FL_CHECK(!in_field("x", 5), where(), " is a list that holds the text ", shown(value),
             ", as in LEAF's Sent140: words are not read here, only numbers (number them, and give "
             "them as x of npz:FILE, or as lists of numbers)");
    if (in_field("x", 4)) {
      FL_CHECK(part_.kind != Kind::kNumbers, where(), " is a text, while those before are numbers");
      if (part_.kind == Kind::kUnknown)
        part_.kind = has_ending(value, image_endings()) ? Kind::kFiles : Kind::kText;
      if (part_.kind == Kind::kFiles) {
        FL_CHECK(has_ending(value, image_endings()), where(), " is ", shown(value),
                 ", while those before are names of images");
        part_.files.push_back(value);
        ++rows_;
        return true;
      }
      FL_CHECK(std::ssize(value) == leaf_text::kLength, where(), " is a text of ", value.size(),
               " bytes (expected ", leaf_text::kLength, " characters of LEAF's Shakespeare)");
      for (const char c : value) part_.text.push_back(static_cast<uint8_t>(character(c)));
      ++rows_;
    } else if (in_field("y", 4)) {
      FL_CHECK(part_.kind != Kind::kNumbers && part_.kind != Kind::kFiles && value.size() == 1,
               path_, ": user ", shown(user_), ": a label is ", shown(value),
               " (must be a whole number, or one character where x are texts)");
      part_.kind = Kind::kText;
      part_.labels.push_back(character(value[0]));
    } else if (section_ == "users" && depth_ == 2) {
      users_.push_back(value);
    } else {
      return scalar("a text");
    }
    return true;
  }

  int64_t character(char c) const {
    const int64_t index = leaf_text::index_of(c);
    FL_CHECK(index >= 0, path_, ": user ", shown(user_), ": the character ",
             shown(std::string(1, c)), " (byte ", int{static_cast<unsigned char>(c)},
             ") is none of LEAF's 80");
    return index;
  }

  void add_numbers() {
    if (part_.width < 0) {
      part_.width = std::ssize(row_);
      part_.image = part_.width == 28 * 28 &&
                    std::all_of(row_.begin(), row_.end(), [](float v) { return v >= 0 && v <= 1; });
    }
    FL_CHECK(std::ssize(row_) == part_.width && part_.width > 0, where(), " has ", row_.size(),
             " numbers (expected ", part_.width > 0 ? message(part_.width, ", as before") : "some",
             ")");
    if (part_.image) {
      part_.pixels.append(row_, where());
    } else {
      part_.features.insert(part_.features.end(), row_.begin(), row_.end());
    }
    ++rows_;
  }

  std::string path_;
  LeafPart& part_;
  int depth_ = 0;
  std::string section_, user_, field_;
  std::map<std::string, bool> sections_;
  std::vector<std::string> users_;
  std::vector<int64_t> counts_;
  std::vector<float> row_;
  int64_t rows_ = 0;  // of x, of this user
};

// A ByteStream as a standard stream.
class StreamBuffer final : public std::streambuf {
 public:
  explicit StreamBuffer(const std::string& path) : in_(path), buffer_(size_t{1} << 16) {}

 protected:
  int_type underflow() override {
    const size_t got = in_.read(reinterpret_cast<uint8_t*>(buffer_.data()), buffer_.size());
    setg(buffer_.data(), buffer_.data(), buffer_.data() + got);
    return got == 0 ? traits_type::eof() : traits_type::to_int_type(buffer_[0]);
  }

 private:
  ByteStream in_;
  std::vector<char> buffer_;
};

LeafPart read_part(const fs::path& folder) {
  const std::vector<fs::path> files = list_files(folder, {".json"});
  FL_CHECK(!files.empty(), folder.string(), ": holds no .json files");
  LeafPart part;
  for (const fs::path& file : files) {
    StreamBuffer buffer(file);
    std::istream in(&buffer);
    in.exceptions(std::ios::badbit);  // what the buffer throws comes through
    LeafEvents events(file, part);
    nlohmann::json::sax_parse(in, &events);
    events.finish();
  }
  FL_CHECK(!part.labels.empty(), folder.string(), ": there are no samples");
  return part;
}

class Leaf final : public DatasetSource {
 public:
  explicit Leaf(const Setup& setup)
      : job_(setup.job), name_(setup.argument), classes_(setup.job.get<int64_t>("leaf.classes")) {
    FL_CHECK(!name_.empty(), "dataset leaf needs a name (dataset = leaf:femnist, or leaf:FOLDER)");
  }

  static PluginInfo describe() {
    std::vector<Option> options = image_options();
    options.push_back({"classes", Option::Type::kInteger, "0",
                       "classes; 0: the largest label and one, 80 for texts", between(0, 1e6)});
    options.push_back({"images", Option::Type::kText, "auto",
                       "folder of the image files that x names; auto: raw/img_align_celeba beside "
                       "train/ and test/"});
    return {
        .summary = "LEAF's JSON files: leaf:femnist, leaf:celeba, or any folder of its form",
        .source = "Caldas et al., LEAF: a benchmark for federated settings, 2018",
        .rule =
            "NAME is a folder with train/*.json and test/*.json, or DIR/NAME or DIR/leaf/NAME, "
            "with or without data/ behind it, where DIR is data-dir, else $FL_SIM_DATA. x: lists "
            "of numbers (784 of them in [0, 1] are 28 x 28 images) with whole numbers as y; or "
            "texts of 80 characters with the next character as y (80 classes); or names of image "
            "files, as in CelebA. Sent140's and Reddit's words are not read. Files are merged; "
            "natural clients: the users, in the order of their names, whose samples of test/ are "
            "what their clients evaluate on.",
        .options = options,
        .takes_argument = true};
  }

  Dataset read() const override {
    const fs::path folder = find_folder();
    LeafPart train = read_part(folder / "train"), test = read_part(folder / "test");
    FL_CHECK(train.kind == test.kind && train.width == test.width, folder.string(),
             ": train/ and test/ differ in what x holds (", content_of(train), " and ",
             content_of(test), ")");
    Dataset data;
    const std::vector<int64_t> train_order = order_of(train), test_order = order_of(test);
    Owners owners;
    for (const auto& [name, user] : train.users) owners.add(name, user.samples, data);
    for (const auto& [name, user] : test.users) owners.add(name, user.samples, data, false);
    data.train.labels = labels_of(train, train_order);
    data.test.labels = labels_of(test, test_order);
    if (train.kind == Kind::kText) {
      data.classes = leaf_text::kVocabulary;
      data.class_names = leaf_text::names();
      data.train.inputs = rows_of(train.text, leaf_text::kLength, train_order);
      data.test.inputs = rows_of(test.text, leaf_text::kLength, test_order);
      return data;
    }
    if (train.kind == Kind::kFiles) {
      read_images(folder, train.files, train_order, test.files, test_order, data);
    } else if (train.image && test.image) {
      set_inputs(data, train.pixels, train_order, test.pixels, test_order, {1, 28, 28});
    } else {
      FL_CHECK(!train.image && !test.image, folder.string(),
               ": only one of train/ and test/ holds images, 784 numbers from 0 to 1");
      data.train.inputs = rows_of(train.features, train.width, train_order);
      data.test.inputs = rows_of(test.features, test.width, test_order);
    }
    const int64_t largest =
        std::max(data.train.labels.max().item<int64_t>(), data.test.labels.max().item<int64_t>());
    FL_CHECK(classes_ == 0 || largest < classes_, folder.string(), ": label ", largest,
             " occurs, but leaf.classes is ", classes_);
    data.classes = classes_ > 0 ? classes_ : largest + 1;
    return data;
  }

 private:
  static std::string content_of(const LeafPart& part) {
    return part.kind == Kind::kNumbers ? message(part.width, " numbers") : plural_of(part.kind);
  }

  fs::path image_folder(const fs::path& folder, const std::string& first) const {
    const auto given = job_.get<std::string>("leaf.images");
    if (given != "auto") return find_path(job_, "leaf.images", given);
    std::string looked;
    for (const char* place : {"raw/img_align_celeba", "img_align_celeba", "raw", "images",
                              "../raw/img_align_celeba", "../img_align_celeba"}) {
      std::error_code none;
      if (fs::is_directory(folder / place, none)) return folder / place;
      looked += (looked.empty() ? "" : ", ") + (folder / place).string();
    }
    throw Error(message("leaf: ", folder.string(), ": x are names of image files, such as ",
                        shown(first), ", as in CelebA, but the images were not found (looked for ",
                        looked, "); --leaf.images names their folder"));
  }

  void read_images(const fs::path& folder, const std::vector<std::string>& train,
                   const std::vector<int64_t>& train_order, const std::vector<std::string>& test,
                   const std::vector<int64_t>& test_order, Dataset& data) const {
    const fs::path images = image_folder(folder, train.front());
    ImageStack stack(job_.get<std::string>("leaf.size"), "leaf.size",
                     channels_of(job_.get<std::string>("leaf.colour")));
    Failures failures;
    const auto read = [&](const std::vector<std::string>& names,
                          const std::vector<int64_t>& order) {
      for (const int64_t i : order)
        failures.attempt([&] { stack.append(images / names[static_cast<size_t>(i)]); });
      return stack.take();
    };
    data.train.inputs = read(train, train_order);
    data.test.inputs = read(test, test_order);
    failures.check(images);
    data.scale = 1.0 / 255;
    if (const std::string flaws = stack.flaws(); !flaws.empty()) data.notes.push_back(flaws);
  }

  fs::path find_folder() const {
    std::vector<fs::path> bases = {name_, fs::path(name_) / "data"};
    for (const fs::path& base : data_folders(job_)) {
      if (fs::path(name_).is_absolute()) break;
      for (const fs::path& path : {base / name_, base / "leaf" / name_}) {
        bases.push_back(path);
        bases.push_back(path / "data");
      }
    }
    std::string looked;
    for (const fs::path& base : bases) {
      std::error_code none;
      if (fs::is_directory(base / "train", none) && fs::is_directory(base / "test", none))
        return base;
      looked += (looked.empty() ? "" : ", ") + base.string();
    }
    throw Error(message("leaf: no folder ", name_,
                        " with train/ and test/ in it was found (looked in ", looked,
                        "); LEAF's preprocess.sh makes them"));
  }

  // Samples by user, users by name.
  static std::vector<int64_t> order_of(const LeafPart& part) {
    std::vector<int64_t> order;
    for (const auto& [name, user] : part.users) {
      for (int64_t i = 0; i < user.samples; ++i) order.push_back(user.begin + i);
    }
    return order;
  }

  static torch::Tensor labels_of(const LeafPart& part, const std::vector<int64_t>& order) {
    std::vector<int64_t> labels;
    for (const int64_t i : order) labels.push_back(part.labels[static_cast<size_t>(i)]);
    return to_tensor(std::move(labels), {std::ssize(order)});
  }

  template <class Value>
  static torch::Tensor rows_of(std::vector<Value>& values, int64_t width,
                               const std::vector<int64_t>& order) {
    const int64_t n = std::ssize(order);
    return to_tensor(std::move(values), {n, width}).index_select(0, torch::tensor(order));
  }

  Job job_;
  std::string name_;
  int64_t classes_;
};

FL_REGISTER(DatasetSource, "leaf", Leaf);

}  // namespace
}  // namespace fl_sim
