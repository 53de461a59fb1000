// When clients can be reached, from a trace: FedScale's, FLASH's, or one's own.
#include <algorithm>
#include <cmath>
#include <span>

#include "base/hdf5_file.h"
#include "learning/availability.h"
#include "learning/trace_file.h"

namespace fl_sim {
namespace {

// Of an HDF5 file's period: the microseconds that a double holds exactly, 285 years.
constexpr double kLongestPeriod = 0x1p53;

class AvailabilityFile final : public Availability {
 public:
  explicit AvailabilityFile(const Setup& setup)
      : path_(trace_path("availability", setup.argument)) {
    const double period = setup.job.get<double>("file.period");
    if (is_hdf5_trace(path_)) {
      read_hdf5(period);
    } else {
      read_csv(period);
    }
  }

  static PluginInfo describe() {
    return {
        .summary = "intervals from a file, availability = file:PATH",
        .source =
            "Lai et al., FedScale: Benchmarking Model and System Performance of Federated "
            "Learning at Scale, ICML 2022; Yang et al., Characterizing Impacts of "
            "Heterogeneity in Federated Learning upon Large-Scale Smartphone Data, WWW 2021",
        .rule =
            "Client k has row k mod A of the file's A rows: intervals [on, off) in which it "
            "can be reached, sorted, disjoint, and the same in each period. One that lasts to "
            "the period's end and one that begins with the next period are one.\n"
            "HDF5: /availability/offset [A+1], on [n] and off [n], integers of microseconds, "
            "row r being offset[r] to offset[r+1]; attributes of /availability: period, in "
            "microseconds, and unit, \"us\". scripts/convert_trace makes it of FedScale's and "
            "FLASH's traces.\n"
            "CSV: a header row,on_s,off_s and a line for each interval, in seconds; rows are "
            "numbered from 0, in order, and one that is never on has the line ROW,,",
        .options = {{.name = "period",
                     .type = Option::Type::kNumber,
                     .default_value = "0",
                     .meaning = "of availability = file:, seconds after which the intervals begin "
                                "anew; 0: what an HDF5 file says, and CSV must have one",
                     .range = between(0, kLongestPeriod / static_cast<double>(kSecond))}},
        .takes_argument = true};
  }

  bool online(int64_t client, int64_t, Micros time) const override {
    const Place at = place(client, time);
    return at.next < at.row.size() && at.row[at.next].on <= at.phase;
  }

  Micros next_on(int64_t client, Micros time) const override {
    const Place at = place(client, time);
    if (at.row.empty()) return kNever;
    const Micros begin = time - at.phase;
    if (at.next == at.row.size()) return begin + period_ + at.row.front().on;
    return begin + std::max(at.row[at.next].on, at.phase);
  }

  Micros next_off(int64_t client, Micros time) const override {
    const Place at = place(client, time);
    if (at.next == at.row.size() || at.row[at.next].on > at.phase) return time;
    const Micros begin = time - at.phase, off = at.row[at.next].off;
    if (off < period_ || at.row.front().on > 0) return begin + off;
    return at.row.size() == 1 ? kNever : begin + period_ + at.row.front().off;
  }

 private:
  struct Interval {
    Micros on, off;
  };
  struct Place {
    std::span<const Interval> row;
    Micros phase;  // of the time, in the period
    size_t next;   // the first of the row's intervals that ends behind it
  };

  Place place(int64_t client, Micros time) const {
    const size_t r = static_cast<size_t>(client) % (offsets_.size() - 1);
    const std::span<const Interval> row(intervals_.data() + offsets_[r],
                                        intervals_.data() + offsets_[r + 1]);
    const Micros phase = time % period_;
    const auto next =
        std::upper_bound(row.begin(), row.end(), phase,
                         [](Micros t, const Interval& interval) { return t < interval.off; });
    return {row, phase, static_cast<size_t>(next - row.begin())};
  }

  // Appends an interval to the last row. `where()` says in messages which it is.
  template <class Where>
  void add(Micros on, Micros off, const Where& where) {
    FL_CHECK(on >= 0, where(), " begins at ", on, " us (must be at least 0)");
    FL_CHECK(on < off, where(), " begins at ", on, " us and ends at ", off,
             " us (must end later than it begins)");
    FL_CHECK(off <= period_, where(), " ends at ", off, " us, but the period has ", period_,
             " us (cut it there, and let what is behind it begin at 0)");
    if (intervals_.size() > offsets_.back()) {
      Interval& last = intervals_.back();
      FL_CHECK(on >= last.on, where(), " begins at ", on, " us, the one before it at ", last.on,
               " us (must be sorted)");
      FL_CHECK(on >= last.off, where(), " begins at ", on, " us, the one before it ends at ",
               last.off, " us (must not overlap)");
      if (on == last.off) {
        last.off = off;
        return;
      }
    }
    intervals_.push_back({on, off});
  }

  void read_hdf5(double period) {
    const Hdf5File file = Hdf5File::open(path_);
    const auto column = [&](const std::string& name) {
      const std::string what = "/availability/" + name;
      FL_CHECK(file.has(what), path_, ": has no ", what,
               " (must have /availability/offset, on and off; --explain file says more)");
      FL_CHECK(file.shape(what).size() == 1, path_, ": ", what, " has ", file.shape(what).size(),
               " dimensions (must be a list)");
      return file.read_integers(what);
    };
    const std::vector<int64_t> offset = column("offset"), on = column("on"), off = column("off");
    const auto attribute = [&](const char* name) {
      FL_CHECK(file.has_attribute("/availability", name), path_,
               ": /availability has no attribute ", name,
               " (must have period, in microseconds, and unit, \"us\")");
    };
    attribute("unit");
    attribute("period");
    const std::string unit = file.read_text_attribute("/availability", "unit");
    FL_CHECK(unit == "us", path_, ": the unit is \"", unit, "\" (must be \"us\", microseconds)");
    const double said = file.read_number_attribute("/availability", "period");
    FL_CHECK(said >= 1 && said <= kLongestPeriod && said == std::floor(said), path_,
             ": the period is ", said,
             " (must be a whole number of microseconds, 1 at least and 285 years at most)");
    period_ = static_cast<Micros>(said);
    FL_CHECK(period == 0 || micros(period) == period_, "file.period is ", period, ", but ", path_,
             " has a period of ", seconds_of(period_), " s (leave the key out)");
    FL_CHECK(on.size() == off.size(), path_, ": /availability/on has ", on.size(),
             " numbers, off has ", off.size(), " (must be one each for an interval; cut short?)");
    FL_CHECK(offset.size() >= 2, path_, ": holds no rows (/availability/offset has ", offset.size(),
             " numbers, must be one more than rows)");
    FL_CHECK(offset.front() == 0 && offset.back() == std::ssize(on), path_,
             ": /availability/offset begins with ", offset.front(), " and ends with ",
             offset.back(), " (must be 0, and ", on.size(), ", the number of intervals)");
    for (size_t row = 0; row + 1 < offset.size(); ++row) {
      const int64_t first = offset[row], last = offset[row + 1];
      FL_CHECK(first <= last && last <= std::ssize(on), path_, ": row ", row, " is interval ",
               first, " to ", last, " of ", on.size(),
               " (/availability/offset must not fall, nor pass the number of intervals)");
      for (int64_t i = first; i < last; ++i) {
        add(on[static_cast<size_t>(i)], off[static_cast<size_t>(i)],
            [&] { return message(path_, ": row ", row, ": its interval ", i - first); });
      }
      offsets_.push_back(intervals_.size());
    }
  }

  void read_csv(double period) {
    FL_CHECK(period > 0, path_,
             ": is CSV, and file.period is 0 (must be the seconds after which "
             "its intervals begin anew)");
    period_ = micros(period);
    FL_CHECK(period_ > 0, "file.period is ", period, " (must be a microsecond at least)");
    CsvRows rows(path_, {"row", "on_s", "off_s"});
    int64_t last = -1;
    bool never = false;  // the last row said that it has no interval
    for (std::vector<std::optional<double>> cells; rows.next(cells);) {
      const int64_t row = rows.row(cells, last, true);
      const auto interval = [&] { return message(rows.where(), ": this interval of row ", row); };
      FL_CHECK(row != last || !(never || (!cells[1] && !cells[2])), rows.where(), ": row ", row,
               " has intervals and a line without one (keep either)");
      if (row != last && last >= 0) offsets_.push_back(intervals_.size());
      last = row;
      never = !cells[1] && !cells[2];
      if (never) continue;
      FL_CHECK(cells[1] && cells[2], interval(), " has no ", cells[1] ? "off_s" : "on_s",
               " (must have both, or none where the row is never on)");
      const auto time = [&](double seconds) {
        FL_CHECK(seconds >= 0 && seconds <= period, interval(), " has a time of ", seconds,
                 " s (must be 0 to ", period, ", which is file.period)");
        return micros(seconds);
      };
      const Micros on = time(*cells[1]);
      add(on, time(*cells[2]), interval);
    }
    FL_CHECK(last >= 0, path_, ": holds no rows behind its header");
    offsets_.push_back(intervals_.size());
  }

  std::string path_;
  Micros period_ = 0;
  std::vector<size_t> offsets_ = {0};  // [rows + 1] into intervals_
  std::vector<Interval> intervals_;    // in each row sorted, with gaps between them
};

FL_REGISTER(Availability, "file", AvailabilityFile);

}  // namespace
}  // namespace fl_sim
