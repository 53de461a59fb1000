// A table of rounds as text, for whoever has no HDF5 at hand: round, training loss, test accuracy,
// and how many clients trained.
#include <fstream>
#include <map>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class Rows final : public Tracker {
 public:
  explicit Rows(const Setup& setup) : path_(setup.argument) {
    FL_CHECK(!path_.empty(), "track names rows without a file (must be rows:FILE)");
  }

  static PluginInfo describe() {
    return {.summary = "rows:FILE, a row of text a round",
            .rule =
                "Columns round, train_loss, test_accuracy, clients. A run that goes on keeps "
                "the rows of the rounds before.",
            .takes_argument = true,
            .example = "--track rows:rounds.csv"};
  }

  void begin(const RunFacts& facts) override {
    if (facts.after == 0) {
      rewrite({"round,train_loss,test_accuracy,clients"});
    } else {
      forget_after(facts.after);
    }
  }

  // Clients of later rounds may come before a round's own row.
  void clients(std::span<const ClientRecord> records) override {
    for (const ClientRecord& record : records) trained_[record.round] += record.counts() ? 1 : 0;
  }

  void round(const RoundRecord& record) override {
    std::ofstream file(path_, std::ios::app);
    file << record.round << ',' << record.train_loss << ',' << record.test_accuracy << ','
         << trained_[record.round] << std::endl;
    FL_CHECK(file, path_, " cannot be written (choose another --track rows:FILE)");
    trained_.erase(record.round);
  }

  void forget_after(int64_t round) override {
    std::vector<std::string> kept;
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) {
      if (kept.empty() || std::stoll(line) <= round) kept.push_back(line);  // the heading stays
    }
    rewrite(kept);
    trained_.clear();
  }

 private:
  void rewrite(const std::vector<std::string>& lines) const {
    std::ofstream file(path_, std::ios::trunc);
    for (const std::string& line : lines) file << line << '\n';
    file.flush();
    FL_CHECK(file, path_, " cannot be written (choose another --track rows:FILE)");
  }

  std::string path_;
  std::map<int64_t, int64_t> trained_;  // clients, by round
};

FL_REGISTER(Tracker, "rows", Rows);

}  // namespace
}  // namespace fl_sim
