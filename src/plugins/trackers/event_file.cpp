#include "plugins/trackers/event_file.h"

#include <array>
#include <bit>
#include <cstring>

namespace fl_sim {
namespace {

// Of the fields of a message.
enum WireType { kVarint = 0, kEightBytes = 1, kBytes = 2, kFourBytes = 5 };

template <class Value>
std::string little_endian(Value value) {
  static_assert(std::endian::native == std::endian::little);
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <class Value>
Value from_little_endian(const std::string& bytes, size_t place) {
  Value value;
  std::memcpy(&value, bytes.data() + place, sizeof value);
  return value;
}

// google.protobuf.Value
Message value_of(const Setting& setting) {
  Message value;
  if (const auto* number = std::get_if<double>(&setting)) {
    value.number(2, *number);
  } else if (const auto* flag = std::get_if<bool>(&setting)) {
    value.integer(4, *flag ? 1 : 0);
  } else {
    value.bytes(3, std::get<std::string>(setting));
  }
  return value;
}

// A summary of one value that belongs to the plug-in `hparams`, whose content it is.
Message hparams_summary(const std::string& tag, const Message& content) {
  const Message plugin = Message().bytes(1, "hparams").bytes(2, content.text());
  const Message no_number =
      Message().integer(1, 1).message(2, Message().message(2, Message().integer(1, 0)));
  return Message().message(
      1, Message().bytes(1, tag).message(8, no_number).message(9, Message().message(1, plugin)));
}

// The step of an event, or 0.
int64_t step_of(const std::string& event) {
  size_t place = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; place < event.size() && shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(event[place++]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (place < event.size()) {
    const uint64_t key = varint();
    switch (key & 7) {
      case kVarint: {
        const uint64_t value = varint();
        if (key >> 3 == 2) return static_cast<int64_t>(value);
        break;
      }
      case kEightBytes:
        place += 8;
        break;
      case kBytes:
        place += varint();
        break;
      case kFourBytes:
        place += 4;
        break;
      default:
        return 0;
    }
  }
  return 0;
}

}  // namespace

uint32_t masked_crc32c(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78U : 0);
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = ~0U;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  crc = ~crc;
  return std::rotr(crc, 15) + 0xa282ead8U;
}

void Message::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
  text_.push_back(static_cast<char>(value));
}

Message& Message::integer(int field, int64_t value) {
  varint(static_cast<uint64_t>(field) << 3 | kVarint);
  varint(static_cast<uint64_t>(value));
  return *this;
}

Message& Message::number(int field, double value) {
  varint(static_cast<uint64_t>(field) << 3 | kEightBytes);
  text_ += little_endian(value);
  return *this;
}

Message& Message::single(int field, float value) {
  varint(static_cast<uint64_t>(field) << 3 | kFourBytes);
  text_ += little_endian(value);
  return *this;
}

Message& Message::bytes(int field, const std::string& value) {
  varint(static_cast<uint64_t>(field) << 3 | kBytes);
  varint(value.size());
  text_ += value;
  return *this;
}

Message event(double wall_time, int64_t step, const Message& summary) {
  return Message().number(1, wall_time).integer(2, step).message(5, summary);
}

Message version_event(double wall_time) {
  return Message().number(1, wall_time).bytes(3, "brain.Event:2");
}

Message scalars_summary(const std::vector<std::pair<std::string, double>>& values) {
  Message summary;
  for (const auto& [tag, value] : values)
    summary.message(1, Message().bytes(1, tag).single(2, static_cast<float>(value)));
  return summary;
}

Message text_summary(const std::string& tag, const std::string& text) {
  constexpr int kString = 7;                                          // DataType
  const Message one = Message().message(2, Message().integer(1, 1));  // a shape of 1
  const Message tensor = Message().integer(1, kString).message(2, one).bytes(8, text);
  const Message metadata = Message().message(1, Message().bytes(1, "text"));
  return Message().message(1, Message().bytes(1, tag).message(8, tensor).message(9, metadata));
}

Message experiment_summary(const std::string& name, const std::map<std::string, Setting>& settings,
                           const std::vector<std::string>& figures) {
  Message experiment;
  experiment.bytes(6, name);
  for (const auto& [key, setting] : settings) {
    const int64_t type = std::holds_alternative<std::string>(setting) ? 1
                         : std::holds_alternative<bool>(setting)      ? 2
                                                                      : 3;
    experiment.message(4, Message().bytes(1, key).integer(4, type));
  }
  for (const std::string& tag : figures)
    experiment.message(5, Message().message(1, Message().bytes(2, tag)));
  return hparams_summary("_hparams_/experiment", Message().message(2, experiment));
}

Message session_start_summary(const std::map<std::string, Setting>& settings,
                              const std::string& group, double wall_time) {
  Message start;
  for (const auto& [key, setting] : settings)
    start.message(1, Message().bytes(1, key).message(2, value_of(setting)));
  start.bytes(4, group).number(5, wall_time);
  return hparams_summary("_hparams_/session_start_info", Message().message(3, start));
}

Message session_end_summary(SessionStatus status, double wall_time) {
  const Message end = Message().integer(1, static_cast<int64_t>(status)).number(2, wall_time);
  return hparams_summary("_hparams_/session_end_info", Message().message(4, end));
}

std::string record_of(const Message& event) {
  const std::string length = little_endian<uint64_t>(event.text().size());
  return length + little_endian(masked_crc32c(length)) + event.text() +
         little_endian(masked_crc32c(event.text()));
}

std::vector<EventRecord> whole_records(const std::string& file) {
  constexpr size_t kHead = 12, kTail = 4;
  std::vector<EventRecord> records;
  size_t place = 0;
  while (file.size() - place >= kHead + kTail) {
    const auto length = from_little_endian<uint64_t>(file, place);
    if (masked_crc32c(file.substr(place, 8)) != from_little_endian<uint32_t>(file, place + 8) ||
        length > file.size() - place - kHead - kTail)
      break;
    const std::string event = file.substr(place + kHead, length);
    if (masked_crc32c(event) != from_little_endian<uint32_t>(file, place + kHead + length)) break;
    records.push_back({file.substr(place, kHead + length + kTail), step_of(event)});
    place += kHead + length + kTail;
  }
  return records;
}

}  // namespace fl_sim
