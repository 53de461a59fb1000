// Models of chosen rounds, each in a file of its own.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "base/check.h"
#include "base/files.h"
#include "base/hdf5_file.h"
#include "learning/named_model.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

class Models final : public Tracker {
 public:
  explicit Models(const Setup& setup)
      : folder_(setup.argument), every_(setup.job.get<int64_t>("models.every")) {
    FL_CHECK(!folder_.empty(),
             "track names models without a folder (must be models:FOLDER, such as "
             "models:results/run.models)");
  }

  static PluginInfo describe() {
    return {.summary = "models:FOLDER, the model after every so many rounds in a file of its own",
            .rule =
                "After every models.every-th round, and after the last one, FOLDER gets the file "
                "round_00000020.h5 with that model as /model, one float32 dataset a parameter, "
                "which --init starts another job from. A run that begins anew removes such files "
                "of another run.",
            .options = {{.name = "every",
                         .type = Option::Type::kInteger,
                         .default_value = "10",
                         .meaning = "rounds from one model that is written to the next",
                         .range = at_least(1),
                         .changes_results = false}},
            .takes_argument = true};
  }

  bool wants_models() const override { return true; }

  void begin(const RunFacts& facts) override {
    std::error_code error;
    fs::create_directories(folder_, error);
    FL_CHECK(!error, folder_, " cannot be made (", error.message(), "); track names it for models");
    forget_after(facts.after);
    round_ = written_ = facts.after;
  }

  void clients(std::span<const ClientRecord> records) override {
    if (!records.empty()) round_ = records[0].round;
  }

  // A round that is through is saved without force; after a failure the model is that before it.
  void save(const std::function<std::vector<NamedTensor>()>& model, bool force) override {
    const bool due = force ? ends_ : round_ % every_ == 0;
    if (due && round_ > written_) write(model());
  }

  void end(const Outcome& outcome) override { ends_ = !outcome.paused; }

  void forget_after(int64_t round) override {
    for (const auto& entry : fs::directory_iterator(folder_)) {
      long long of = 0;
      int length = 0;
      const std::string name = entry.path().filename().string();
      if (std::sscanf(name.c_str(), "round_%8lld.h5%n", &of, &length) == 1 &&
          length == static_cast<int>(name.size()) && of > round)
        fs::remove(entry.path());
    }
    round_ = std::min(round_, round);
    written_ = std::min(written_, round);
  }

 private:
  void write(const std::vector<NamedTensor>& model) {
    char name[40];
    std::snprintf(name, sizeof name, "round_%08lld.h5", static_cast<long long>(round_));
    const std::string path = folder_ + "/" + name, temporary = path + ".tmp";
    make_file(temporary, [&](const std::string& place) {
      Hdf5File file = Hdf5File::create(place);
      write_model(file, "/model", model);
      file.write_attribute("/model", "round", round_);
      file.close();
    });
    fs::rename(temporary, path);
    written_ = round_;
  }

  const std::string folder_;
  const int64_t every_;
  int64_t round_ = 0, written_ = 0;
  bool ends_ = false;
};

FL_REGISTER(Tracker, "models", Models);

}  // namespace
}  // namespace fl_sim
