// Fixed-size records as bytes that travel between ranks, and back.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace fl_sim {

template <class Record>
std::string bytes_of(const std::vector<Record>& records) {
  static_assert(std::is_trivially_copyable_v<Record>);
  return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record)};
}

// Of several ranks', one after the other.
template <class Record>
std::vector<Record> records_of(const std::vector<std::string>& parts) {
  static_assert(std::is_trivially_copyable_v<Record>);
  std::vector<Record> records;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    const size_t before = records.size(), n = part.size() / sizeof(Record);
    records.resize(before + n);
    std::memcpy(records.data() + before, part.data(), part.size());
  }
  return records;
}

}  // namespace fl_sim
