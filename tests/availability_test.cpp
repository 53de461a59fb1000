// When clients can be reached, and devices from files: oracles, laws, and what is refused.
#include "learning/availability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <random>

#include "any_job.h"
#include "base/hdf5_file.h"
#include "base/text.h"
#include "data_files.h"
#include "learning/devices.h"

namespace fl_sim {
namespace {

constexpr Micros kHourLong = 3600 * kSecond, kDayLong = 24 * kHourLong;

std::unique_ptr<Availability> availability(const std::string& value, const std::string& lines = "",
                                           int64_t clients = 100) {
  const Job job = any_job("availability = " + value + "\ndevices = uniform\n" + lines);
  const auto [name, argument] = split_name(value);
  return make<Availability>(name, {job, argument, clients});
}

std::unique_ptr<Devices> devices(const std::string& file) {
  const Job job = any_job("devices = file:" + file);
  return make<Devices>("file", {job, file, 100});
}

// The row of FedScale's id 3834, in seconds, of a period of 6 days.
const std::vector<int64_t> kActive = {12788,  100044, 188992, 271372,
                                      276663, 352625, 356267, 441193};
const std::vector<int64_t> kInactive = {65881,  133574, 208292, 276575,
                                        295006, 356236, 400906, 475099};
constexpr int64_t kPeriod = 518400;

std::vector<int64_t> times(std::vector<int64_t> seconds) {
  for (int64_t& second : seconds) second *= kSecond;
  return seconds;
}

std::string csv_of_the_row() {
  std::string text = "row,on_s,off_s\n";
  for (size_t i = 0; i < kActive.size(); ++i)
    text += message("0,", kActive[i], ",", kInactive[i], "\n");
  return text;
}

// A file of intervals, what a test does not say being right.
struct Trace {
  std::vector<int64_t> offset = {0, 1}, on = {5}, off = {7};
  double period = 10;
  std::string unit = "us";

  std::string write(const TemporaryFolder& folder) const {
    const std::string path = folder.path() / "trace.h5";
    Hdf5File file = Hdf5File::create(path);
    file.write("/availability/offset", offset);
    file.write("/availability/on", on);
    file.write("/availability/off", off);
    file.write_attribute("/availability", "period", period);
    file.write_attribute("/availability", "unit", unit);
    file.close();
    return path;
  }
};

// Proves the figures of the row, in whatever order they are asked for, from both kinds of file.
TEST(AvailabilityFile, TheRowOfFedScale) {
  const TemporaryFolder folder("trace");
  const Trace trace{.offset = {0, 8},
                    .on = times(kActive),
                    .off = times(kInactive),
                    .period = static_cast<double>(kPeriod * kSecond)};
  const std::vector<std::unique_ptr<Availability>> both = [&] {
    std::vector<std::unique_ptr<Availability>> made;
    made.push_back(availability("file:" + trace.write(folder)));
    made.push_back(
        availability("file:" + folder.write("t.csv", csv_of_the_row()), "file.period = 518400"));
    return made;
  }();
  for (const auto& file : both) {
    EXPECT_TRUE(file->follows_time());
    EXPECT_FALSE(file->everybody());
    const std::vector<std::pair<int64_t, bool>> expected = {
        {280000, true}, {12787, false}, {12788, true}, {65880, true},
        {65881, false}, {531188, true}, {50000, true}};
    for (const auto& [second, on] : expected) {
      EXPECT_EQ(file->online(0, 0, second * kSecond), on) << second;
      EXPECT_EQ(file->online(17, 3, second * kSecond), on) << "one row is everybody's";
    }
    EXPECT_EQ(file->after_work(0, 0, 100 * kSecond), 12888 * kSecond);
    EXPECT_EQ(file->after_work(0, 65000 * kSecond, 1000 * kSecond), 100163 * kSecond);
    EXPECT_EQ(file->after_work(0, 475000 * kSecond, 100 * kSecond), 531189 * kSecond);
    EXPECT_TRUE(file->on_throughout(0, 12788 * kSecond, 53093 * kSecond));
    EXPECT_FALSE(file->on_throughout(0, 12788 * kSecond, 53093 * kSecond + 1));
    Micros on = 0;
    for (Micros t = file->next_on(0, 0); t < kPeriod * kSecond; t = file->next_on(0, t)) {
      on += file->next_off(0, t) - t;
      t = file->next_off(0, t);
    }
    EXPECT_EQ(on, 211625 * kSecond);
  }
}

// Proves each answer at each microsecond of four periods against a plain list of them: rows that
// join over the seam, or in the middle, rows that are always and never on, and one microsecond.
TEST(AvailabilityFile, EveryMicrosecond) {
  const TemporaryFolder folder("trace");
  const Micros period = 12;
  const std::vector<std::vector<std::pair<Micros, Micros>>> rows = {
      {{0, 2}, {4, 7}, {9, 12}},  {{0, 12}},         {},        {{11, 12}}, {{0, 1}},
      {{3, 5}, {5, 8}},           {{0, 5}, {5, 12}}, {{2, 12}}, {},         {{0, 2}, {2, 3}},
      {{5, 6}, {7, 8}, {11, 12}}, {{0, 3}, {4, 12}}, {}};
  Trace trace{.offset = {0}, .on = {}, .off = {}, .period = static_cast<double>(period)};
  std::string csv = "row,on_s,off_s\n";
  for (size_t row = 0; row < rows.size(); ++row) {
    for (const auto& [on, off] : rows[row]) {
      trace.on.push_back(on);
      trace.off.push_back(off);
      csv += message(row, ",", fixed(seconds_of(on), 6), ",", fixed(seconds_of(off), 6), "\n");
    }
    if (rows[row].empty()) csv += message(row, ",,\n");
    trace.offset.push_back(std::ssize(trace.on));
  }
  std::vector<std::unique_ptr<Availability>> files;
  files.push_back(availability("file:" + trace.write(folder)));
  files.push_back(availability("file:" + folder.write("t.csv", csv), "file.period = 0.000012"));
  for (const auto& file : files) {
    for (size_t row = 0; row < rows.size(); ++row) {
      SCOPED_TRACE(row);
      const auto client = static_cast<int64_t>(row + 3 * rows.size());
      const auto is_on = [&](Micros t) {
        return std::any_of(rows[row].begin(), rows[row].end(), [&](const auto& interval) {
          return interval.first <= t % period && t % period < interval.second;
        });
      };
      const auto next = [&](Micros t, bool on) {
        for (Micros later = t; later <= t + period; ++later) {
          if (is_on(later) == on) return later;
        }
        return kNever;
      };
      for (Micros t = 0; t < 4 * period; ++t) {
        EXPECT_EQ(file->online(client, 0, t), is_on(t)) << t;
        EXPECT_EQ(file->next_on(client, t), next(t, true)) << t;
        EXPECT_EQ(file->next_off(client, t), next(t, false)) << t;
        for (Micros work = 1; work < 2 * period; work += 5) {
          Micros end = t;
          for (Micros left = work; left > 0 && !rows[row].empty(); ++end) left -= is_on(end);
          EXPECT_EQ(file->after_work(client, t, work), rows[row].empty() ? kNever : end) << t;
        }
      }
    }
  }
}

// Proves that what a trace must not be is refused, with the file, the row and what is wrong.
TEST(AvailabilityFile, RefusesWhatIsNoTrace) {
  const TemporaryFolder folder("trace");
  const auto refused = [&](const Trace& trace, const std::vector<std::string>& parts) {
    const std::string path = trace.write(folder);
    const std::string what = error_of([&] { availability("file:" + path); });
    EXPECT_THAT(what, testing::HasSubstr(path));
    for (const std::string& part : parts) EXPECT_THAT(what, testing::HasSubstr(part));
  };
  refused({.offset = {0, 1, 3}, .on = {1, 5, 3}, .off = {2, 6, 4}},
          {"row 1: its interval 1", "must be sorted"});
  refused({.offset = {0, 2}, .on = {1, 3}, .off = {4, 5}},
          {"row 0: its interval 1", "must not overlap"});
  refused({.on = {-1}}, {"row 0: its interval 0 begins at -1 us", "must be at least 0"});
  refused({.on = {7}}, {"row 0: its interval 0", "must end later than it begins"});
  refused({.on = {8}}, {"row 0: its interval 0", "must end later than it begins"});
  refused({.off = {11}}, {"row 0: its interval 0 ends at 11 us", "the period has 10 us"});
  refused({.period = 0}, {"the period is 0"});
  refused({.period = -3}, {"the period is -3"});
  refused({.period = 10.5}, {"the period is 10.5"});
  refused({.period = std::nan("")}, {"the period is nan"});
  refused({.period = 1e30}, {"the period is 1e+30"});
  refused({.unit = "s"}, {"the unit is \"s\"", "must be \"us\""});
  refused({.offset = {0}, .on = {}, .off = {}}, {"holds no rows"});
  refused({.offset = {}, .on = {}, .off = {}}, {"holds no rows"});
  refused({.offset = {0, 1}, .on = {1, 3}, .off = {2, 4}}, {"must be 0, and 2"});
  refused({.offset = {1, 1}}, {"must be 0, and 1"});
  refused({.offset = {0, 2, 1, 3}, .on = {1, 3, 5}, .off = {2, 4, 6}}, {"row 1", "must not fall"});
  refused({.offset = {0, 9, 1}}, {"row 0", "nor pass the number"});
  refused({.offset = {0, -4, 1}}, {"row 0", "must not fall"});
  refused({.on = {1, 3}}, {"on has 2 numbers, off has 1", "cut short?"});

  const std::string right = Trace().write(folder);
  EXPECT_ERROR(availability("file:" + right, "file.period = 20"), "has a period of 1e-05 s");
  EXPECT_NO_THROW(availability("file:" + right, "file.period = 0.00001"));
  EXPECT_ERROR(availability("file"), "names no file");
  EXPECT_ERROR(availability("file:/nowhere/t.h5"), "/nowhere/t.h5: cannot be read");
  EXPECT_ERROR(availability("file:" + folder.path().string()), "cannot be read");
  EXPECT_ERROR(availability("file:" + folder.write("e", "")), "is empty");
  EXPECT_ERROR(availability("file:" + folder.write("p", "\x80\x04}.")), "is a Python pickle");
  EXPECT_ERROR(availability("file:" + folder.write("j", "{\"a\": 1}")), "is JSON");
  std::string bytes;
  {
    std::ifstream in(right, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  EXPECT_ERROR(availability("file:" + folder.write("cut.h5", bytes.substr(0, bytes.size() / 2))),
               "cut.h5");

  // Parts that are missing, or of another kind.
  const auto made_of = [&](const auto& fill) {
    const std::string path = folder.path() / "parts.h5";
    Hdf5File file = Hdf5File::create(path);
    fill(file);
    file.close();
    return "file:" + path;
  };
  const std::vector<int64_t> numbers = {0, 1};
  EXPECT_ERROR(availability(made_of([&](Hdf5File& file) { file.write("/x", numbers); })),
               "has no /availability/offset");
  EXPECT_ERROR(availability(made_of([&](Hdf5File& file) {
                 file.write("/availability/offset", numbers);
                 file.write("/availability/on", numbers);
               })),
               "has no /availability/off");
  EXPECT_ERROR(availability(made_of([&](Hdf5File& file) {
                 file.write("/availability/offset", std::vector<double>{0, 1});
                 file.write("/availability/on", numbers);
                 file.write("/availability/off", numbers);
               })),
               "/availability/offset does not hold integers");
  EXPECT_ERROR(availability(made_of([&](Hdf5File& file) {
                 file.write("/availability/offset", numbers, {2, 1});
                 file.write("/availability/on", numbers);
                 file.write("/availability/off", numbers);
               })),
               "has 2 dimensions");
  EXPECT_ERROR(availability(made_of([&](Hdf5File& file) {
                 for (const char* name : {"offset", "on", "off"})
                   file.write(std::string("/availability/") + name, numbers);
                 file.write_attribute("/availability", "unit", std::string("us"));
               })),
               "no attribute period");
}

// Proves the same of CSV, with the line.
TEST(AvailabilityFile, RefusesWhatIsNoCsv) {
  const TemporaryFolder folder("trace");
  const auto refused = [&](const std::string& text, const std::string& part,
                           const std::string& lines = "file.period = 10") {
    const std::string path = "file:" + folder.write("t.csv", text);
    const std::string what = error_of([&] { availability(path, lines); });
    EXPECT_THAT(what, testing::HasSubstr("t.csv"));
    EXPECT_THAT(what, testing::HasSubstr(part));
  };
  const std::string header = "row,on_s,off_s\n";
  refused(header + "0,1,2\n", "file.period is 0", "");
  EXPECT_ERROR(availability("file:" + folder.write("t.csv", header), "file.period = 0.0000001"),
               "file.period is 1e-07 (must be a microsecond at least)");
  refused("on_s,off_s\n1,2\n", "line 1: is 'on_s,off_s' (must be the header row,on_s,off_s)");
  refused("0,1,2\n", "must be the header");
  refused(header, "holds no rows");
  refused(header + "0,1,2\n0,5\n", "line 3: has 2 cells (must be 3");
  refused(header + "0,1,2,3\n", "line 2: has 4 cells");
  refused(header + "0,1,x\n", "line 2: off_s is 'x' (must be a finite number)");
  refused(header + "0,nan,2\n", "line 2: on_s is 'nan'");
  refused(header + "0,1,inf\n", "line 2: off_s is 'inf'");
  refused(header + "0,-1,2\n", "interval of row 0 has a time of -1 s");
  refused(header + "0,1,11\n", "has a time of 11 s (must be 0 to 10");
  refused(header + "0,3,3\n", "must end later than it begins");
  refused(header + "0,4,3\n", "must end later than it begins");
  refused(header + "0,4,5\n0,1,2\n", "line 3: this interval of row 0 begins at 1000000 us");
  refused(header + "0,4,6\n0,5,7\n", "must not overlap");
  refused(header + "1,4,6\n", "line 2: row is 1 (must be 0;");
  refused(header + "0,4,6\n2,5,7\n", "line 3: row is 2 (must be 0 or 1;");
  refused(header + "0,4,6\n1,5,7\n0,8,9\n", "line 4: row is 0 (must be 1 or 2;");
  refused(header + "0.5,4,6\n", "row is 0.5");
  refused(header + ",4,6\n", "row is empty");
  refused(header + "0,4,\n", "has no off_s");
  refused(header + "0,,4\n", "has no on_s");
  refused(header + "0,,\n0,1,2\n", "has intervals and a line without one");
  refused(header + "0,1,2\n0,,\n", "has intervals and a line without one");
}

// Those that follow time, some with short and some with long intervals.
std::vector<std::pair<std::string, std::unique_ptr<Availability>>> all_in_time(
    const TemporaryFolder& folder, int64_t clients = 100) {
  std::string csv = csv_of_the_row() + "1,0,86400\n1,500000,518400\n2,17,18\n";
  std::vector<std::pair<std::string, std::unique_ptr<Availability>>> all;
  const auto add = [&](const std::string& name, const std::string& lines) {
    all.emplace_back(name + " " + lines, availability(name, lines, clients));
  };
  add("file:" + folder.write("t.csv", csv), "file.period = 518400");
  add("sine", "");
  add("sine", "sine.beta = 0\nsine.slot = 7\nsine.period = 100");
  add("sessions", "");
  add("sessions", "sessions.nights = 0\nsessions.day-sessions = 30\nsessions.day-minutes = 60");
  add("sessions", "sessions.night-hours = 15\nsessions.night-spread = 8\nsessions.zones = 1");
  add("markov", "markov.on = 3600\nmarkov.off = 7200");
  add("markov", "markov.on = 1\nmarkov.off = 1");
  add("markov", "markov.on = 20\nmarkov.off = 500");
  add("markov", "markov.on = 1000000\nmarkov.off = 3000");
  return all;
}

// Proves that the answers are about the same intervals: the state is what next_on and next_off say,
// up to the last microsecond before they end, and behind it another.
TEST(AvailabilityInTime, AnswersAgree) {
  const TemporaryFolder folder("trace");
  std::mt19937_64 random(1);
  const auto between = [&](Micros first, Micros last) {
    return std::uniform_int_distribution<Micros>(first, last)(random);
  };
  for (const auto& [name, at] : all_in_time(folder)) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(at->follows_time());
    int64_t on_times = 0;
    for (int trial = 0; trial < 200; ++trial) {
      const int64_t client = between(0, 99);
      const Micros t = between(0, trial % 2 == 0 ? 3 * kDayLong : 4000 * kDayLong);
      const bool on = at->online(client, 0, t);
      on_times += on;
      EXPECT_EQ(at->online(client, 5, t), on) << "rounds count";
      ASSERT_EQ(on ? at->next_on(client, t) : at->next_off(client, t), t);
      const Micros end = on ? at->next_off(client, t) : at->next_on(client, t);
      ASSERT_GT(end, t);
      ASSERT_LT(end, kNever);
      EXPECT_NE(at->online(client, 0, end), on);
      EXPECT_EQ(at->online(client, 0, end - 1), on);
      for (int inside = 0; inside < 10; ++inside) {
        const Micros then = between(t, end - 1);
        ASSERT_EQ(at->online(client, 0, then), on) << then;
        ASSERT_EQ(on ? at->next_off(client, then) : at->next_on(client, then), end) << then;
      }
      EXPECT_EQ(at->on_throughout(client, t, end - t), on);
      EXPECT_FALSE(at->on_throughout(client, t, end - t + 1));
      // Work is done when one has been on for so long, and not before.
      const Micros work = between(1, kHourLong / 2), done = at->after_work(client, t, work);
      Micros been = 0;
      for (Micros now = at->next_on(client, t); now < done;) {
        const Micros stop = std::min(done, at->next_off(client, now));
        been += stop - now;
        now = at->next_on(client, stop);
      }
      EXPECT_EQ(been, work);
      EXPECT_TRUE(at->online(client, 0, done - 1));
    }
    EXPECT_GT(on_times, 0);
  }
}

// Proves that nobody remembers: the same answers in another order, and from another object.
TEST(AvailabilityInTime, TheSameInAnyOrder) {
  const TemporaryFolder folder("trace");
  const auto first = all_in_time(folder), second = all_in_time(folder);
  std::vector<std::pair<int64_t, Micros>> questions;
  std::mt19937_64 random(2);
  for (int i = 0; i < 500; ++i) {
    questions.emplace_back(static_cast<int64_t>(random() % 20),
                           static_cast<Micros>(random() % (30 * kDayLong)));
  }
  for (size_t i = 0; i < first.size(); ++i) {
    SCOPED_TRACE(first[i].first);
    std::vector<Micros> answers;
    for (const auto& [client, t] : questions) {
      answers.push_back(first[i].second->next_on(client, t));
      answers.push_back(first[i].second->next_off(client, t));
    }
    for (size_t q = questions.size(); q-- > 0;) {
      const auto& [client, t] = questions[q];
      EXPECT_EQ(first[i].second->next_off(client, t), answers[2 * q + 1]);
      EXPECT_EQ(second[i].second->next_on(client, t), answers[2 * q]);
    }
  }
}

// Proves that one million clients have no memory.
TEST(AvailabilityInTime, AMillionClients) {
  const TemporaryFolder folder("trace");
  const auto pages = [] {
    int64_t size = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> size >> resident;
    return resident;
  };
  const int64_t before = pages();
  for (const auto& [name, at] : all_in_time(folder, 1000000)) {
    int64_t on = 0;
    for (int64_t client = 0; client < 1000000; client += 17)
      on += at->online(client, 0, 23 * kHourLong);
    EXPECT_GT(on, 0) << name;
    EXPECT_LT(on, 1000000 / 17) << name;
  }
  EXPECT_LT(pages() - before, 2048) << "in pages, of 4 KiB mostly: 8 MiB";
}

// What a share is that was seen in n independent trials: right within four standard errors.
void expect_share(double seen, double expected, double n, const std::string& what = "") {
  const double error = std::sqrt(expected * (1 - expected) / n);
  EXPECT_NEAR(seen, expected, 4 * error) << what << ", standard error " << error;
}

// Of clients 0 to n - 1, each by itself.
template <class Holds>
double share_of(int64_t n, const Holds& holds) {
  int64_t count = 0;
  for (int64_t client = 0; client < n; ++client) count += holds(client);
  return static_cast<double>(count) / static_cast<double>(n);
}

double normal_law(double x) { return std::erfc(-x / std::sqrt(2)) / 2; }

// E q^p, q = exp(s (z - c)), z normal, but cut to -c .. c, c its 99.9 % quantile.
double moment(double beta, double power) {
  const double s = -std::log(1 - beta) * power, c = 3.0902323061678132;
  return std::exp(-s * c + s * s / 2) * (normal_law(c - s) - normal_law(-c - s)) +
         normal_law(-c) * (1 + std::exp(-2 * s * c));
}

// Proves the mean of q_k and of its square, which is the chance to be there twice.
TEST(LognormalAvailability, ClientsHaveTheirOwnChances) {
  const int64_t n = 40000;
  for (const double beta : {0.2, 0.5, 0.9}) {
    const auto law = availability("lognormal", message("lognormal.beta = ", beta));
    EXPECT_FALSE(law->follows_time());
    EXPECT_FALSE(law->everybody());
    expect_share(share_of(n, [&](int64_t k) { return law->online(k, 3, 0); }), moment(beta, 1), n);
    expect_share(
        share_of(n, [&](int64_t k) { return law->online(k, 3, 0) && law->online(k, 4, 0); }),
        moment(beta, 2), n, "twice");
    // Neighbours have nothing in common.
    expect_share(share_of(n / 2,
                          [&](int64_t k) {
                            return law->online(2 * k, 3, 0) && law->online(2 * k + 1, 3, 0);
                          }),
                 moment(beta, 1) * moment(beta, 1), n / 2, "neighbours");
  }
  EXPECT_TRUE(availability("lognormal", "lognormal.beta = 0")->everybody());
  EXPECT_ERROR(availability("lognormal", "lognormal.beta = 1"), "lognormal.beta is 1");
}

// Proves that the chance swings as it should, and is a half of q_k in the mean.
TEST(Sine, SwingsOverTheDay) {
  const int64_t n = 40000;
  const auto all_alike = availability("sine", "sine.beta = 0");
  const auto at = [&](double hours, double expected) {
    const Micros t = micros(3600 * hours);
    expect_share(share_of(n, [&](int64_t k) { return all_alike->online(k, 0, t); }), expected, n,
                 message(hours, " h"));
  };
  const auto chance = [](double hours) {  // in the middle of a slot of ten minutes
    return 0.4 * std::sin(2 * M_PI * (hours + 5 / 60.0) / 24) + 0.5;
  };
  at(0, chance(0));
  at(6, chance(6));
  at(12, chance(12));
  at(18, chance(18));
  at(24 + 3, chance(3));
  at(24 * 1000 + 20, chance(20));
  // Of a slot of two hours, that between them counts.
  const auto long_slots = availability("sine", "sine.beta = 0\nsine.slot = 7200");
  expect_share(share_of(n, [&](int64_t k) { return long_slots->online(k, 0, 4 * kHourLong); }),
               0.4 * std::sin(2 * M_PI * 5 / 24) + 0.5, n, "two hours");
  // A client's own share in 40 days: its slots are independent, in the mean p (1 - p) is 0.17.
  int64_t slots = 0;
  for (int64_t slot = 0; slot < 40 * 144; ++slot)
    slots += all_alike->online(7, 0, slot * 600 * kSecond);
  EXPECT_NEAR(static_cast<double>(slots) / (40 * 144), 0.5, 4 * std::sqrt(0.17 / (40 * 144)));

  const auto unlike = availability("sine", "sine.beta = 0.5");
  expect_share(share_of(n, [&](int64_t k) { return unlike->online(k, 0, 6 * kHourLong); }),
               moment(0.5, 1) * chance(6), n);
  EXPECT_ERROR(availability("sine", "sine.slot = 200\nsine.period = 100"),
               "sine.slot is 200 (must be at most sine.period, 100)");
}

// Seconds in which a client is on, of the first `until`.
double seconds_on(const Availability& at, int64_t client, Micros until) {
  double seconds = 0;
  for (Micros t = at.next_on(client, 0); t < until;) {
    const Micros off = std::min(until, at.next_off(client, t));
    seconds += seconds_of(off - t);
    t = at.next_on(client, off);
  }
  return seconds;
}

// Proves the nights' share, that of sessions at any time (1 - exp(-load)), and the time zones.
TEST(Sessions, Laws) {
  // Lengths of LN(ln 3 h, 0.2): mean 3 exp(0.02) h, deviation sqrt(exp(0.04) - 1) of it.
  const auto nights = availability("sessions",
                                   "sessions.day-sessions = 0\nsessions.night-hours = 3\n"
                                   "sessions.night-sigma = 0.2\nsessions.night-spread = 0.5");
  double on = 0;
  for (int64_t client = 0; client < 200; ++client) on += seconds_on(*nights, client, 50 * kDayLong);
  const double mean = 3 * std::exp(0.02) / 24;
  // Of 10,000 nights; at the ends of 50 days sessions are cut, of each client two halves at most.
  const double error = mean * std::sqrt(std::expm1(0.04) / 10000);
  EXPECT_NEAR(on / (200 * 50 * 86400), mean, 4 * error + 4 * mean / 50 / std::sqrt(200));

  const auto by_day = availability("sessions",
                                   "sessions.nights = 0\nsessions.day-sessions = 12\n"
                                   "sessions.day-minutes = 60\nsessions.day-sigma = 0\n"
                                   "sessions.day-spread = 100");
  const int64_t n = 20000;
  for (const Micros t : {Micros{0}, 37 * kHourLong, 1000 * kDayLong + 5 * kHourLong}) {
    expect_share(share_of(n, [&](int64_t k) { return by_day->online(k, 0, t); }),
                 1 - std::exp(-0.5), n);
  }

  const auto local = availability("sessions", "sessions.zones = 1");
  const auto global = availability("sessions", "");
  const auto at = [&](const Availability& who, Micros t) {
    return share_of(n, [&](int64_t k) { return who.online(k, 0, 9 * kDayLong + t); });
  };
  EXPECT_GT(at(*local, 2 * kHourLong), 0.6);
  EXPECT_LT(at(*local, 14 * kHourLong), 0.1);
  const double night = at(*global, 2 * kHourLong), day = at(*global, 14 * kHourLong);
  EXPECT_NEAR(night, day, 4 * std::sqrt(2 * day * (1 - day) / static_cast<double>(n)));

  const auto nobody = availability("sessions", "sessions.nights = 0\nsessions.day-sessions = 0\n");
  EXPECT_EQ(nobody->next_on(3, 5), kNever);
  EXPECT_EQ(nobody->next_off(3, 5), 5);
  EXPECT_EQ(nobody->after_work(3, 5, 7), kNever);
  EXPECT_ERROR(availability("sessions", "sessions.day-sessions = 400\nsessions.day-minutes = 60"),
               "must be at most 5");
}

// Proves the chain's law: its share, how fast it forgets (within an epoch, from one to the next and
// over many), and that what is left of a stay is exponential.
TEST(Markov, IsTheChain) {
  const int64_t n = 30000;
  for (const auto& [on, off] :
       std::vector<std::pair<double, double>>{{3600, 7200}, {1, 1}, {5, 300}, {40000, 1000}}) {
    SCOPED_TRACE(message(on, " ", off));
    const auto chain = availability("markov", message("markov.on = ", on, "\nmarkov.off = ", off));
    const double share = on / (on + off), rate = 1 / on + 1 / off;
    double epoch = 1e-6;
    while (epoch < on + off) epoch *= 2;
    for (const double start : {0.0, 0.9 * epoch, 77 * epoch, 4e9}) {
      const auto is_on = [&](int64_t k, double seconds) {
        return chain->online(k, 0, micros(seconds));
      };
      expect_share(share_of(n, [&](int64_t k) { return is_on(k, start); }), share, n, "share");
      for (const double later : {0.2 / rate, 1 / rate, 0.3 * epoch, epoch, 3 * epoch}) {
        expect_share(
            share_of(n, [&](int64_t k) { return is_on(k, start) && is_on(k, start + later); }),
            share * (share + (1 - share) * std::exp(-rate * later)), n,
            message("from ", start, " to ", later, " s later"));
      }
      // Of those who are on, and off: the mean of what is left, and the share of the longest.
      for (const bool state : {true, false}) {
        const double stay = state ? on : off;
        double sum = 0, longer = 0, count = 0;
        for (int64_t k = 0; k < n; ++k) {
          if (is_on(k, start) != state) continue;
          const Micros t = micros(start);
          const double left =
              seconds_of((state ? chain->next_off(k, t) : chain->next_on(k, t)) - t);
          sum += left;
          longer += left > 2 * stay;
          ++count;
        }
        EXPECT_NEAR(sum / count, stay, 4 * stay / std::sqrt(count)) << state;
        expect_share(longer / count, std::exp(-2), count, "longer than twice the mean");
      }
    }
  }
  EXPECT_ERROR(availability("markov", "markov.on = 10"), "markov.off");
}

// Proves that the borders of epochs know of one another: exp(-4.2) is left of the first at the
// next.
TEST(Markov, EpochsAreJoined) {
  const int64_t n = 1000000;
  const auto chain = availability("markov", "markov.on = 1\nmarkov.off = 1");
  const Micros epoch = Micros{1} << 21;
  for (const Micros start : {76 * epoch, 77 * epoch}) {
    expect_share(share_of(n,
                          [&](int64_t k) {
                            return chain->online(k, 0, start) && chain->online(k, 0, start + epoch);
                          }),
                 0.25 + 0.25 * std::exp(-2 * seconds_of(epoch)), n, message(start));
  }
}

// Proves that clients are independent of one another.
TEST(AvailabilityInTime, ClientsAreIndependent) {
  const TemporaryFolder folder("trace");
  for (const auto& [name, at] : all_in_time(folder)) {
    if (name.starts_with("file")) continue;
    const int64_t n = 30000;
    const Micros t = 3 * kDayLong + 22 * kHourLong;
    double both = 0, single = 0;
    for (int64_t k = 0; k < n; ++k) {
      const bool a = at->online(k, 0, t), b = at->online(k + 1, 0, t);
      both += a && b;
      single += a;
    }
    both /= static_cast<double>(n);
    single /= static_cast<double>(n);
    // Two neighbours' product has this deviation; pairs overlap, but are uncorrelated.
    const double error = single * (1 - single) / std::sqrt(static_cast<double>(n));
    EXPECT_NEAR(both, single * single, 4 * error + 1e-12) << name;
  }
}

const char* const kDeviceHeader = "row,seconds_per_sample,down_bps,up_bps,class\n";

// A file of devices, what a test does not say being right.
struct Phones {
  std::vector<double> seconds = {0.162, 0}, down = {5648109.6, 1e6}, up = {5648109.6, 2e6};
  std::vector<int64_t> kinds = {0, 3};

  std::string write(const TemporaryFolder& folder) const {
    const std::string path = folder.path() / "devices.h5";
    Hdf5File file = Hdf5File::create(path);
    file.write("/devices/seconds_per_sample", seconds);
    file.write("/devices/down_bps", down);
    file.write("/devices/up_bps", up);
    file.write("/devices/class", kinds);
    file.close();
    return path;
  }
};

TEST(DeviceFile, BothKindsOfFile) {
  const TemporaryFolder folder("devices");
  for (const std::string& path :
       {Phones().write(folder),
        folder.write("d.csv", std::string("\xEF\xBB\xBF") + kDeviceHeader +
                                  "0, 0.162,5648109.6, 5.6481096e6,0\r\n\r\n1,0,1e6,2000000,3")}) {
    const auto all = devices(path);
    EXPECT_FALSE(all->none());
    ASSERT_EQ(all->rows(), 2);
    EXPECT_EQ(all->device(0).seconds_per_sample, 0.162);
    EXPECT_EQ(all->device(0).down_bps, 5648109.6);
    EXPECT_EQ(all->device(0).up_bps, 5648109.6);
    EXPECT_EQ(all->device(0).kind, 0);
    EXPECT_EQ(all->device(1).seconds_per_sample, 0);
    EXPECT_EQ(all->device(1).down_bps, 1e6);
    EXPECT_EQ(all->device(1).up_bps, 2e6);
    EXPECT_EQ(all->device(1).kind, 3);
  }
}

TEST(DeviceFile, RefusesWhatIsNoDevice) {
  const TemporaryFolder folder("devices");
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const auto refused = [&](const Phones& phones, const std::string& part) {
    const std::string path = phones.write(folder);
    const std::string what = error_of([&] { devices(path); });
    EXPECT_THAT(what, testing::HasSubstr(path));
    EXPECT_THAT(what, testing::HasSubstr(part));
  };
  refused({.seconds = {0.1, nan}}, "row 1: seconds_per_sample is nan");
  refused({.seconds = {-0.1, 1}}, "row 0: seconds_per_sample is -0.1");
  refused({.seconds = {0.1, infinity}}, "row 1: seconds_per_sample is inf");
  refused({.down = {0, 1}}, "row 0: down_bps is 0 (must be a finite number of bit/s, more than 0)");
  refused({.down = {1, infinity}}, "row 1: down_bps is inf");
  refused({.up = {1, -3}}, "row 1: up_bps is -3");
  refused({.up = {nan, 3}}, "row 0: up_bps is nan");
  refused({.kinds = {0, -1}}, "row 1: class is -1");
  refused({.kinds = {0, int64_t{1} << 40}}, "row 1: class is 1099511627776");
  refused({.up = {1}}, "has 2 seconds_per_sample, 2 down_bps, 1 up_bps and 2 class");
  refused({.seconds = {}, .down = {}, .up = {}, .kinds = {}}, "holds no devices");
  EXPECT_ERROR(devices(Trace().write(folder)), "has no /devices/seconds_per_sample");
  EXPECT_ERROR(devices("/nowhere/d.csv"), "/nowhere/d.csv: cannot be read");
  EXPECT_ERROR(devices(""), "names no file");

  const auto csv = [&](const std::string& lines, const std::string& part) {
    const std::string path = folder.write("d.csv", lines);
    EXPECT_ERROR(devices(path), part);
  };
  const std::string header = kDeviceHeader;
  csv(header, "d.csv: holds no devices");
  csv("row,seconds_per_sample,up_bps,down_bps,class\n0,1,1,1,0\n", "must be the header");
  csv(header + "0,1,1,1\n", "line 2: has 4 cells");
  csv(header + "0,1,1,1,0\n0,1,1,1,0\n", "line 3: row is 0 (must be 1;");
  csv(header + "1,1,1,1,0\n", "line 2: row is 1 (must be 0;");
  csv(header + "0,1,,1,0\n", "line 2: row 0: down_bps is empty");
  csv(header + "0,nan,1,1,0\n", "line 2: seconds_per_sample is 'nan'");
  csv(header + "0,1,1,0,0\n", "line 2: row 0: up_bps is 0");
  csv(header + "0,1,1,1,0.5\n", "line 2: row 0: class is 0.5");
  csv(header + "0,1,1,1,-2\n", "line 2: row 0: class is -2");
  csv(header + "0,1,1,1,1e300\n", "class is 1e+300");
}

}  // namespace
}  // namespace fl_sim
