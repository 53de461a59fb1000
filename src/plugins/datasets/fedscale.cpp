// FedScale's mapping of samples to clients: a table of client, image file and label.
// Lai, Dai, Singapuram, Liu, Zhu, Madhyastha, Chowdhury, "FedScale: benchmarking model and system
// performance of federated learning at scale", ICML 2022.
#include <filesystem>
#include <map>

#include "base/check.h"
#include "plugins/datasets/files.h"
#include "plugins/datasets/images.h"
#include "plugins/datasets/tabular.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

class FedScale final : public DatasetSource {
 public:
  explicit FedScale(const Setup& setup) : job_(setup.job), name_(setup.argument) {
    FL_CHECK(!name_.empty(), "dataset fedscale needs a folder (dataset = fedscale:FOLDER)");
  }

  static PluginInfo describe() {
    std::vector<Option> options = image_options();
    options.push_back({.name = "samples",
                       .default_value = "auto",
                       .meaning = "folder that the sample paths start from; auto: FOLDER/train and "
                                  "FOLDER/test, or FOLDER where there are none",
                       .path = true});
    return {
        .summary = "images dealt to clients by FedScale's mapping: fedscale:FOLDER",
        .source =
            "Lai et al., FedScale: benchmarking model and system performance of federated learning "
            "at scale, ICML 2022",
        .rule =
            "FOLDER is a path, or a path within data-dir. "
            "FOLDER/client_data_mapping/{train,test}.csv: a header line, then a line a sample: "
            "client id first, path of the PNG or JPEG file second, label id (0, 1, ...) last. "
            "Samples stand in the order of the lines; natural clients are numbered in the order in "
            "which train.csv names them.",
        .options = options,
        .takes_argument = true};
  }

  Dataset read() const override {
    const fs::path folder = find_path(job_, "fedscale", name_);
    Dataset data;
    data.scale = 1.0 / 255;
    data.train = read_part(folder, "train", data);
    data.test = read_part(folder, "test", data);
    return data;
  }

 private:
  fs::path samples_folder(const fs::path& folder, const std::string& part) const {
    const auto given = job_.get<std::string>("fedscale.samples");
    if (given != "auto") return find_path(job_, "fedscale.samples", given);
    std::error_code none;
    return fs::is_directory(folder / part, none) ? folder / part : folder;
  }

  Samples read_part(const fs::path& folder, const std::string& part, Dataset& data) const {
    constexpr int64_t kMostClasses = 1000000;
    const std::string path = folder / "client_data_mapping" / (part + ".csv");
    const fs::path samples = samples_folder(folder, part);
    CellReader in(path, ',');
    std::vector<std::string> cells;
    FL_CHECK(in.next(cells) && cells.size() >= 3, path,
             ": has no header line of at least 3 "
             "columns (client id, sample path, ..., label id)");
    const size_t columns = cells.size();
    ImageStack stack(job_.get<std::string>("fedscale.size"), "fedscale.size",
                     channels_of(job_.get<std::string>("fedscale.colour")));
    Failures failures;
    std::vector<int64_t> labels;
    std::map<std::string, int64_t> clients;
    while (in.next(cells)) {
      FL_CHECK(cells.size() == columns, in.where(), ": ", cells.size(), " cells were found (",
               columns, " are expected, as in the header)");
      int64_t label = 0;
      FL_CHECK(parse_number(cells.back(), label) && label >= 0 && label < kMostClasses, in.where(),
               ": the label id is ", shown(cells.back()), " (must be a whole number from 0 to ",
               kMostClasses - 1, ")");
      FL_CHECK(!cells[0].empty(), in.where(), ": the client id is empty");
      const fs::path sample = samples / cells[1];
      std::error_code none;
      FL_CHECK(!cells[1].empty() && fs::is_regular_file(sample, none), in.where(), ": the sample ",
               sample.string(),
               " is not there (fedscale.samples names the folder that the paths "
               "start from)");
      failures.attempt([&] {
        try {
          stack.append(sample);
        } catch (const Error& error) {
          throw Error(message(in.where(), ": ", error.what()));
        }
      });
      labels.push_back(label);
      data.classes = std::max(data.classes, label + 1);
      if (part == "train")
        data.owner.push_back(clients.emplace(cells[0], std::ssize(clients)).first->second);
    }
    FL_CHECK(!labels.empty(), path, ": names no samples below its header");
    failures.check(path);
    if (const std::string flaws = stack.flaws(); !flaws.empty()) data.notes.push_back(flaws);
    const int64_t n = std::ssize(labels);
    return {stack.take(), to_tensor(std::move(labels), {n})};
  }

  Job job_;
  std::string name_;
};

FL_REGISTER(DatasetSource, "fedscale", FedScale);

}  // namespace
}  // namespace fl_sim
