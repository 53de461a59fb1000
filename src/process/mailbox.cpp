#include "process/mailbox.h"

#include <memory>

#include "process/mpi_internal.h"

namespace fl_sim {
namespace {

constexpr int kPostTag = 1;  // Communicator::send() has 0

}  // namespace

struct Mailbox::Posted {
  MPI_Request request;
  std::unique_ptr<std::string> bytes;
};

Mailbox::Mailbox(MpiRanks& ranks) : ranks_(ranks) {}

Mailbox::~Mailbox() {
  if (ranks_.has_failed()) return;
  for (Posted& posted : posted_) ranks_.wait(posted.request);
}

void Mailbox::post(const std::string& bytes, int to) {
  std::erase_if(posted_, [this](Posted& posted) {
    int done = 0;
    ranks_.check(MPI_Test(&posted.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
  posted_.push_back({MPI_REQUEST_NULL, std::make_unique<std::string>(bytes)});
  Posted& next = posted_.back();
  ranks_.check(MPI_Isend(next.bytes->data(), mpi::count_of(std::ssize(*next.bytes)), MPI_BYTE, to,
                         kPostTag, ranks_.all, &next.request),
               "MPI_Isend");
}

std::optional<std::pair<int, std::string>> Mailbox::poll() {
  int there = 0;
  MPI_Status status;
  ranks_.check(MPI_Iprobe(MPI_ANY_SOURCE, kPostTag, ranks_.all, &there, &status), "MPI_Iprobe");
  if (there == 0) return {};
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  ranks_.check(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kPostTag, ranks_.all,
                        MPI_STATUS_IGNORE),
               "MPI_Recv");
  return std::pair(status.MPI_SOURCE, std::move(text));
}

}  // namespace fl_sim
