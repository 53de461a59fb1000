// TensorBoard's event files, which W&B, Aim, ClearML and editors read, too.
//
// A file is a row of records, each a protobuf message `Event` between its length and checksums
// (tensorflow/tensorboard, compat/proto/event.proto, summary.proto and plugins/hparams; the record
// is that of TensorFlow's record_writer).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fl_sim {

// CRC-32C (Castagnoli) of the bytes, masked as such records have it.
uint32_t masked_crc32c(const std::string& bytes);

// A message of the protobuf wire format, field by field.
class Message {
 public:
  Message& integer(int field, int64_t value);
  Message& number(int field, double value);  // double
  Message& single(int field, float value);   // float
  Message& bytes(int field, const std::string& value);
  Message& message(int field, const Message& value) { return bytes(field, value.text_); }
  const std::string& text() const { return text_; }

 private:
  void varint(uint64_t value);
  std::string text_;
};

// An event's message: when it was written, of which step.
Message event(double wall_time, int64_t step, const Message& summary);
// The first one of a file.
Message version_event(double wall_time);
// Summaries: a number, a text in Markdown.
Message scalars_summary(const std::vector<std::pair<std::string, double>>& values);
Message text_summary(const std::string& tag, const std::string& text);

// What TensorBoard's HPARAMS page shows: which settings and figures there are, what a run's
// settings are, and how it ended. Runs of one `group` are averaged.
using Setting = std::variant<double, bool, std::string>;
enum class SessionStatus : int64_t { kSuccess = 1, kFailure = 2, kRunning = 3 };
Message experiment_summary(const std::string& name, const std::map<std::string, Setting>& settings,
                           const std::vector<std::string>& figures);
Message session_start_summary(const std::map<std::string, Setting>& settings,
                              const std::string& group, double wall_time);
Message session_end_summary(SessionStatus status, double wall_time);

// A record of the file that has this event.
std::string record_of(const Message& event);

// The whole records at the beginning of a file's bytes, and the step of each.
struct EventRecord {
  std::string bytes;
  int64_t step = 0;
};
std::vector<EventRecord> whole_records(const std::string& file);

}  // namespace fl_sim
