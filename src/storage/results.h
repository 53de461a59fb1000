// The results file: what was run, what was measured, and the trained model, as columns in HDF5.
//
//   /rounds /clients /ranks     one dataset a column, one entry a row
//   /evaluations                clients' evaluations, where the job asks for them
//   /target                     when the job's target accuracy was reached, if it was
//   /partition                  which client held what, and how skewed that was
//   /model                      one float32 dataset a parameter, as in PyTorch's state_dict
//   /best_model                 the same of the best round, which its attribute `round` says, where
//                               the job asks for it
//   /job /provenance            one string attribute a value; /job/text is the job as INI
//
// Rows are kept, those of /clients and /evaluations in a nameless file beside it, and written as a
// whole to "<path>.tmp", synced and renamed, so the file is readable at any moment, whatever
// happens to the run, and an older file stays until the first write.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/partitioner.h"
#include "learning/records.h"
#include "learning/tracker.h"
#include "storage/record_log.h"

namespace fl_sim {

// What /partition says beside the training lists; what is empty is not written.
struct PartitionExtras {
  Partition validation, test;        // the clients' other lists: validation_offsets, ...
  std::vector<int64_t> holdout;      // ids of the clients that never train
  std::vector<int64_t> shift_group;  // [clients]
  bool own_tests = false;            // `test` lists samples of the test set
};

// Rank 0's results. Failures to write throw Error.
class Results final : public Tracker {
 public:
  // Makes the directory if need be and throws Error if `path` cannot be written, or exists and may
  // not be replaced.
  Results(std::string path, bool overwrite);

  // What stands at `path` already, if anything; what is no results file throws Error.
  struct Former {
    std::map<std::string, std::string> job;
    std::string end;  // when the run was through; empty: it was not
    int64_t rounds = 0;
    std::string start, resumed, lost_ranks;  // as /provenance has them; empty if it has not
  };
  std::optional<Former> former() const;

  // The rows of that file up to a round become ours. After set_scalars(). Throws Error if they are
  // not all there.
  void load(int64_t last_round);

  // As a tracker: rows are kept, and written as a whole.
  void clients(std::span<const ClientRecord> records) override { clients_.add(records); }
  void evaluations(std::span<const ClientEvaluation> records) override;
  void round(const RoundRecord& record) override;
  void best(int64_t round, double value, const std::vector<NamedTensor>& model) override;
  void forget_after(int64_t last_round) override;
  void end(const Outcome& outcome) override;
  // Writes the file if due or if `force`, with the model that is made then.
  void save(const std::function<std::vector<NamedTensor>()>& model, bool force) override;

  void set_job(std::string text, std::map<std::string, std::string> values);
  void set_provenance(std::map<std::string, std::string> values);
  void add_provenance(const std::string& name, const std::string& value);
  void add_loss(const std::string& what);  // a line of /provenance lost_ranks
  void set_partition(Partition partition, Skew skew, PartitionExtras extras = {});
  void set_ranks(std::vector<RankRecord> ranks);
  void set_model(std::vector<NamedTensor> model);
  // The names of the columns of /clients that hold ClientRecord::scalars.
  void set_scalars(std::vector<std::string> names);

  // Whether a hundred times the last write's duration has passed since: writing then costs one
  // percent of the run.
  bool due() const;

  // The same with the model that was set last.
  void save(bool force);

  // Rounds that the last write holds; -1: nothing was written yet.
  int64_t rounds_written() const { return written_; }

  const std::string& path() const { return path_; }
  const std::vector<RoundRecord>& rounds() const { return rounds_; }
  std::vector<ClientRecord> client_rows() const { return clients_.all(); }
  std::vector<ClientEvaluation> evaluation_rows() const { return evaluations_.all(); }

 private:
  using Clock = std::chrono::steady_clock;

  void write(const std::string& path);

  std::string path_;
  std::string job_text_;
  std::map<std::string, std::string> job_, provenance_;
  Partition partition_;
  Skew skew_;
  PartitionExtras extras_;
  std::vector<RankRecord> ranks_;
  std::vector<NamedTensor> model_;
  struct Best {
    int64_t round = 0;  // 0: there is none
    double value = 0;
    std::vector<NamedTensor> model = {};
  };
  Best best_;
  std::vector<RoundRecord> rounds_;
  RecordLog<ClientRecord> clients_;  // a row a client and round: too many for memory
  RecordLog<ClientEvaluation> evaluations_;
  std::vector<int64_t> confusion_;  // of the last round that was evaluated, if asked for
  int64_t confusion_round_ = 0;
  std::vector<std::string> scalars_;
  int64_t written_ = -1;
  Clock::time_point next_write_ = Clock::time_point::min();
};

}  // namespace fl_sim
