#include "engine/checkpoint_keeper.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "base/version.h"
#include "engine/async_timetable.h"
#include "engine/set_up.h"
#include "storage/results.h"

namespace fl_sim {
namespace {

std::string lines_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

// Keys that say when a run is through.
constexpr std::array<const char*, 4> kEnds = {"rounds", "target-accuracy", "patience",
                                              "clock.limit"};

std::string value_of(const std::map<std::string, std::string>& job, const std::string& key) {
  const auto found = job.find(key);
  return found == job.end() ? "" : found->second;
}

bool same_end(const std::map<std::string, std::string>& a,
              const std::map<std::string, std::string>& b) {
  return std::all_of(kEnds.begin(), kEnds.end(),
                     [&](const char* key) { return value_of(a, key) == value_of(b, key); });
}

// That a results file is of this whole job; nothing if it is not. `other`: what differs.
std::optional<std::string> complete_note(const Results& results, const Results::Former& former,
                                         const Job& job, const std::vector<std::string>& other) {
  if (former.end.empty() || !other.empty() || !same_end(former.job, job.values())) return {};
  return message(results.path(), " is complete since ", former.end, ": ", former.rounds,
                 " rounds of this job");
}

// Whether a run of the job's rounds can go on from there. Throws Error, with the reason.
void check_length(const Experiment& e, const Manifest& found) {
  const auto rounds = e.job.get<int64_t>("rounds");
  FL_CHECK(rounds >= found.round, "rounds is ", rounds, ", but the checkpoint in ", found.folder,
           " is of round ", found.round, " already (choose at least so many, or another --output)");
  const auto asynchrony = read_options<AsyncOptions>(e.job);
  const bool unbiased = asynchrony.on() && asynchrony.weighting == "unbiased";
  const std::string reason =
      unbiased ? "async.weighting is unbiased" : e.algorithm->needs().follows_length;
  const std::string limit = value_of(e.job.values(), "clock.limit"),
                    former = value_of(found.job, "clock.limit");
  FL_CHECK(!unbiased || limit == former, "clock.limit is ", limit, ", and was ", former,
           " when the run began, but async.weighting is unbiased, so that a run of another length "
           "differs from its first version on (begin it anew, with another --output or "
           "--overwrite)");
  const std::string before = value_of(found.job, "rounds");
  FL_CHECK(reason.empty() || value_of(e.job.values(), "rounds") == before, "rounds is ", rounds,
           ", and was ", before, " when the run began, but it cannot be ",
           rounds < std::stoll(before) ? "shortened" : "prolonged", ": ", reason,
           ", so that a run of ", rounds,
           " rounds differs from its first round on (begin it "
           "anew, with another --output or --overwrite)");
}

constexpr const char* kRemedy = " (make room, or choose another --checkpoint-dir)";

}  // namespace

CheckpointKeeper::CheckpointKeeper(const Experiment& experiment)
    : e_(experiment), folder_(checkpoint_folder(experiment.job)) {}

void CheckpointKeeper::begin(int64_t round, const ServerState& server,
                             const std::vector<int>& ranks) {
  const std::string data = manifest_.data;
  manifest_ = {.round = round,
               .folder = round_folder(folder_, round),
               .program = version(),
               .partition = partition_checksum(e_.partition),
               .data = data.empty() ? data_fingerprint(e_.data) : data,
               .job = e_.job.values(),
               .files = {}};
  missing_ = ranks;
  try {
    manifest_.files.push_back(write_server_file(manifest_.folder, server));
  } catch (const std::exception& problem) {
    throw Error(message("the checkpoint of round ", round, ": ", problem.what(), kRemedy));
  }
}

void CheckpointKeeper::add(int rank, const CheckpointWriter::Done& done) {
  const auto found = std::find(missing_.begin(), missing_.end(), rank);
  if (done.round != manifest_.round || found == missing_.end()) return;  // given up
  FL_CHECK(done.error.empty(), "the checkpoint of round ", done.round, ": rank ", rank,
           " cannot save its clients' state: ", done.error, kRemedy);
  // Network file systems may need a moment.
  const std::string path = manifest_.folder + "/" + done.file.name;
  for (int attempt = 0;; ++attempt) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (!error && static_cast<int64_t>(bytes) == done.file.bytes) break;
    FL_CHECK(attempt < 50, path, ": rank ", rank, " has written it, but rank 0 does not see it: ",
             "checkpoint-dir must be a folder that all machines share");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  missing_.erase(found);
  manifest_.files.push_back(done.file);
}

void CheckpointKeeper::commit() {
  try {
    fl_sim::commit(manifest_);
  } catch (const std::exception& problem) {
    throw Error(message("the checkpoint of round ", round(), ": ", problem.what(), kRemedy));
  }
  committed_ = manifest_.round;
  manifest_ = {.data = manifest_.data};
}

std::optional<std::string> completed(const Job& job, const Results& results) {
  const std::optional<Results::Former> former = results.former();
  if (!former) return {};
  return complete_note(results, *former, job, differences(former->job, job.values()));
}

Continuation look_for_former(const Experiment& e, const Results& results) {
  const std::string resume = read_options<CheckpointOptions>(e.job).resume;
  const std::string folder = checkpoint_folder(e.job);
  const std::string& output = results.path();
  const bool overwrite = e.job.get<bool>("overwrite");
  if (resume == "no") {
    std::optional<Manifest> ignored;
    try {
      ignored = find_checkpoint(folder);
    } catch (const Error&) {  // whatever it is, it is in nobody's way
    }
    if (!ignored) return {};
    remove_checkpoints(folder);  // its results are about to be replaced
    return {.note = message("the checkpoint of round ", ignored->round, " in ", folder,
                            " is removed: without --resume the job begins anew")};
  }

  const std::optional<Results::Former> former = results.former();
  const std::vector<std::string> other =
      former ? differences(former->job, e.job.values()) : std::vector<std::string>();
  const auto note = former ? complete_note(results, *former, e.job, other) : std::nullopt;
  if (note && resume == "auto") {
    tidy_checkpoints(e.job);  // in case that it was killed between its last two steps
    return {.complete = true, .note = *note};
  }
  const std::optional<Manifest> found = find_checkpoint(folder);
  if (!found) {
    FL_CHECK(resume != "must", "resume is must, but there is no checkpoint in ", folder);
    FL_CHECK(!former || overwrite || other.empty(), output,
             " exists, of another job (choose another --output, or --overwrite):", lines_of(other));
    if (!former || overwrite) return {};
    FL_CHECK(former->end.empty(), output, " is complete with ", former->rounds,
             " rounds, and there is no checkpoint of it in ", folder,
             " from which more could follow (a run with --keep-checkpoint leaves one; --overwrite "
             "begins anew)");
    return {.note =
                message(output, " has ", former->rounds, " rounds of this job, but there is no ",
                        "checkpoint in ", folder, ": it begins anew")};
  }
  const std::vector<std::string> lines = differences(found->job, e.job.values());
  FL_CHECK(lines.empty(), "the checkpoint of round ", found->round, " in ", folder,
           " is of another job (choose another --output or --checkpoint-dir, or remove it):",
           lines_of(lines));
  FL_CHECK(found->partition == partition_checksum(e.partition), "the checkpoint in ", folder,
           " is of another partition (checksum ", found->partition, ", now ",
           partition_checksum(e.partition), "): the data or the partition's file have changed");
  FL_CHECK(found->data == data_fingerprint(e.data), "the checkpoint in ", folder,
           " is of other data than there are now (sizes and checksums were ", found->data, ", are ",
           data_fingerprint(e.data), ")");
  FL_CHECK(former, output, " is missing: it holds the rounds before the checkpoint in ", folder,
           " (remove that to begin anew)");
  FL_CHECK(other.empty(), output, " is of another job than the checkpoint in ", folder, ":",
           lines_of(other));
  check_length(e, *found);
  Continuation result{.folder = found->folder,
                      .round = found->round,
                      .start = former->start,
                      .resumed = former->resumed,
                      .lost_ranks = former->lost_ranks};
  if (found->program != version()) {
    result.note = message("the checkpoint is by fl_sim ", found->program, ", this is ", version(),
                          ": results may differ from those of a run by one of them");
  }
  return result;
}

}  // namespace fl_sim
