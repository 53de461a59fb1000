#include "engine/attendance.h"

#include <chrono>
#include <cstring>
#include <sstream>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/version.h"
#include "process/failure.h"
#include "process/interruption.h"
#include "process/watchdog.h"

namespace fl_sim {

// A head of fixed size, then text: lines, of a file its name and checksum, then what went wrong.
struct Attendance::Post {
  enum class Kind : int64_t { kAlive, kStop, kFile, kFailed };
  struct Head {
    Kind kind = Kind::kAlive;
    int64_t signal = 0, round = 0, bytes = 0, clients = 0, of_another = 0;
  };
  Head head;
  std::string text = {};

  std::string encode() const {
    std::string bytes(sizeof head, '\0');
    std::memcpy(bytes.data(), &head, sizeof head);
    return bytes + text;
  }
  static Post decode(const std::string& bytes) {
    Post post;
    std::memcpy(&post.head, bytes.data(), sizeof post.head);
    post.text = bytes.substr(sizeof post.head);
    return post;
  }

  static Post alive(std::string where) { return {{.kind = Kind::kAlive}, std::move(where)}; }
  static Post stop(int signal) { return {{.kind = Kind::kStop, .signal = signal}}; }
  static Post failed(std::string why, bool of_another) {
    return {{.kind = Kind::kFailed, .of_another = of_another ? 1 : 0}, std::move(why)};
  }
  static Post file(const CheckpointWriter::Done& done) {
    return {{.kind = Kind::kFile,
             .round = done.round,
             .bytes = done.file.bytes,
             .clients = done.file.clients},
            done.file.name + "\n" + done.file.checksum + "\n" + done.error};
  }
  CheckpointWriter::Done done() const {
    const size_t first = text.find('\n'), second = text.find('\n', first + 1);
    return {.round = head.round,
            .file = {.name = text.substr(0, first),
                     .bytes = head.bytes,
                     .checksum = text.substr(first + 1, second - first - 1),
                     .clients = head.clients},
            .error = text.substr(second + 1)};
  }
};

Attendance::Attendance(Communicator& comm,
                       std::function<void(int, const CheckpointWriter::Done&)> on_file,
                       std::function<void()> on_stop)
    : comm_(comm),
      serves_(comm.rank() == 0),
      on_file_(std::move(on_file)),
      on_stop_(std::move(on_stop)) {}

Attendance::~Attendance() {
  for (Communicator* comm : watched_) comm->on_look({});
  Interruption::get().set_poll({});
}

void Attendance::begin(bool misses) {
  if (misses && comm_.size() > 1) roll_.emplace(comm_);
  std::string places;
  for (const std::string& place : comm_.gather(host_name())) places += place + "\n";
  comm_.broadcast(places);
  std::istringstream lines(places);
  for (std::string line; std::getline(lines, line);) places_.push_back(line);
  Interruption::get().set_poll([this] { look(); });
}

void Attendance::watch(Communicator& comm) {
  watched_.push_back(&comm);
  comm.on_look([this] { look(); });
}

void Attendance::look() {
  while (const auto post = comm_.poll()) read(post->first, Post::decode(post->second));
  miss();
  tell_of_signal();
  report_file();
  if (after_) after_();
  watch_others();
}

// Rank 0 tells everyone, the others tell rank 0.
void Attendance::tell(const Post& post) {
  if (!serves_) comm_.post(post.encode(), 0);
  for (int rank = 1; serves_ && rank < comm_.size(); ++rank) comm_.post(post.encode(), rank);
}

void Attendance::tell_of_signal() {
  const Interruption& interruption = Interruption::get();
  if (!interruption.requested() || told_) return;
  told_ = true;
  tell(Post::stop(interruption.signal()));
  if (serves_) on_stop_();
}

// A launcher that has lost a rank asks the others to end, as a user would.
void Attendance::miss() {
  if (!roll_) return;
  const auto gone = roll_->gone(Interruption::get().requested() && !told_);
  if (gone) throw RankGone(gone->rank, gone->what);
}

void Attendance::fail(const std::string& why, bool of_another) noexcept {
  if (!Watchdog::get().silent(0, 0).empty()) return;  // nobody would hear it
  constexpr double kPatience = 600;  // seconds: rank 0 may have a model to evaluate and to write
  try {
    tell(Post::failed(why, of_another));
    for (const auto start = Clock::now(); seconds_since(start) < kPatience;) {
      Watchdog::get().beat();
      while (comm_.poll()) continue;
      if (const auto gone = roll_ ? roll_->gone(false) : std::nullopt; gone && gone->rank == 0)
        return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  } catch (...) {  // nobody to tell: it is said here
  }
}

void Attendance::report_file(bool wait) {
  const auto done = writer_.take(wait);
  if (!done) return;
  if (serves_) {
    on_file_(comm_.rank(), *done);
  } else {
    tell(Post::file(*done));
  }
}

void Attendance::heard_of(int rank, const char* what, int64_t round) const {
  Watchdog& dog = Watchdog::get();
  if (!dog.watching()) return;
  dog.heard_of(rank,
               message(what, " in round ", round, " on ", places_[static_cast<size_t>(rank)]));
}

// Everyone tells rank 0 now and then that it lives, and rank 0 everyone.
void Attendance::watch_others() {
  Watchdog& dog = Watchdog::get();
  dog.beat();
  if (!dog.watching() || comm_.size() == 1) return;
  if (dog.due()) tell(Post::alive(message(dog.state(), " on ", host_name())));
  const std::string silent = dog.silent(serves_ ? 1 : 0, serves_ ? comm_.size() - 1 : 0);
  if (silent.empty()) return;
  throw Error(silent + " (stall-timeout)");
}

void Attendance::read(int from, const Post& post) {
  switch (post.head.kind) {
    case Post::Kind::kAlive:
      Watchdog::get().heard_of(from, post.text);
      break;
    case Post::Kind::kStop:
      Interruption::get().request(static_cast<int>(post.head.signal));
      break;
    case Post::Kind::kFile:
      on_file_(from, post.done());
      break;
    case Post::Kind::kFailed:
      throw FailedElsewhere(from, post.text, post.head.of_another != 0);
  }
}

}  // namespace fl_sim
