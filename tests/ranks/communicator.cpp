// What ranks do together, run by mpirun on several numbers of them (tests/ranks/ranks.cmake): every
// rank runs every test, and a test says what each of them must find.
#include "process/communicator.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "process/rank_survival.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

MpiSession* session = nullptr;

class Ranks : public testing::Test {
 protected:
  Communicator comm{*session};
  const int rank = comm.rank(), size = comm.size();

  void TearDown() override { comm.meet(); }
};

// A tensor of n numbers that differ by rank and place.
torch::Tensor numbers(int rank, int64_t n, torch::ScalarType type = torch::kFloat32) {
  return (torch::arange(n, torch::kFloat64) % 1000 + 1000 * rank).to(type);
}

TEST_F(Ranks, KnowTheirPlaces) {
  const int64_t machines = std::min<int64_t>(TestHooks::get().machines, size);
  EXPECT_EQ(comm.nodes(), machines);
  EXPECT_EQ(comm.node_rank(), rank / machines);  // the test hook deals ranks to machines in turn
  EXPECT_EQ(comm.node_size(), (size - rank % machines + machines - 1) / machines);
}

struct Record {
  int64_t round = 0;
  double loss = 0;
  char name[8] = {};
  bool operator==(const Record&) const = default;
};

TEST_F(Ranks, BroadcastRecords) {
  Record record;
  if (rank == 0) record = {7, 0.25, "seven"};
  comm.broadcast(record);
  EXPECT_EQ(record.round, 7);
  EXPECT_EQ(record.loss, 0.25);
  EXPECT_STREQ(record.name, "seven");

  for (const size_t n : {size_t{0}, size_t{3}, size_t{40000}}) {
    std::vector<int64_t> expected(n), list(static_cast<size_t>(rank) + 1, -1);
    std::iota(expected.begin(), expected.end(), 5);
    if (rank == 0) list = expected;
    comm.broadcast(list);
    EXPECT_EQ(list, expected);
  }
}

TEST_F(Ranks, GatherRecordsRankByRank) {
  // A rank has as many as its number: rank 0 has none.
  std::vector<Record> own;
  for (int i = 0; i < rank; ++i) own.push_back({.round = i, .loss = 0.5 * rank});
  const std::vector<Record> all = comm.gather_records(own);
  std::vector<Record> expected;
  for (int from = 0; rank == 0 && from < size; ++from) {
    for (int i = 0; i < from; ++i) expected.push_back({.round = i, .loss = 0.5 * from});
  }
  EXPECT_EQ(all, expected);
}

TEST_F(Ranks, BroadcastTexts) {
  // The first 4,088 bytes travel with the length.
  for (const size_t n : {0, 1, 4087, 4088, 4089, 100000}) {
    std::string expected(n, '\0'), text(static_cast<size_t>(10 * rank), 'x');
    for (size_t i = 0; i < n; ++i) expected[i] = static_cast<char>(i * 31 % 251);
    if (rank == 0) text = expected;
    comm.broadcast(text);
    EXPECT_EQ(text, expected) << n;
  }
}

TEST_F(Ranks, GatherTexts) {
  const std::vector<std::string> all = comm.gather(std::string(static_cast<size_t>(3 * rank), 'a'));
  ASSERT_EQ(all.size(), rank == 0 ? static_cast<size_t>(size) : 0);
  for (size_t from = 0; from < all.size(); ++from) EXPECT_EQ(all[from], std::string(3 * from, 'a'));
}

// Small ones as messages; large ones in shared memory, of which two halves take turns, and which
// grows.
TEST_F(Ranks, BroadcastTensors) {
  for (const bool copies : {false, true}) {
    comm.use(choose_gpu_comm(copies ? "host" : "auto", torch::kCPU));
    int seed = 1;
    for (const int64_t n : {0, 3, 20000, 20000, 20000, 15000, 50000, 20000}) {
      for (const auto type : {torch::kFloat32, torch::kInt64, torch::kFloat64, torch::kUInt8}) {
        const torch::Tensor expected = (numbers(0, n) + ++seed).remainder(200).to(type);
        torch::Tensor tensor = rank == 0 ? expected.clone() : torch::zeros({n}, type);
        comm.broadcast(tensor);
        EXPECT_TRUE(torch::equal(tensor, expected)) << n << " " << type;
      }
    }
  }
}

TEST_F(Ranks, SumToRoot) {
  for (const bool copies : {false, true}) {
    comm.use(choose_gpu_comm(copies ? "host" : "auto", torch::kCPU));
    for (const auto type : {torch::kInt64, torch::kFloat32}) {
      for (const int64_t n : {1, 5, 30001}) {
        for (const bool shared : {false, true}) {
          torch::Tensor own =
              shared ? comm.memory().summing_buffer(n, type) : torch::zeros({n}, type);
          EXPECT_TRUE(torch::equal(own, torch::zeros({n}, type)));
          torch::Tensor expected = torch::zeros({n}, type);
          for (int from = 0; from < size; ++from) expected += numbers(from, n, type);
          for (int time = 0; time < 2; ++time) {  // who was added up may write anew
            own.copy_(numbers(rank, n, type));
            comm.meet();
            comm.sum_to_root(own);
            EXPECT_TRUE(rank != 0 || torch::equal(own, expected)) << n << " " << type;
            comm.meet();
          }
        }
      }
    }
  }
}

TEST_F(Ranks, ShareMemoryOnAMachine) {
  for (const bool allowed : {true, false}) {
    const bool first = comm.node_rank() == 0;
    torch::Tensor own = first ? numbers(3, 40, torch::kInt64).view({5, 8}) : torch::Tensor();
    bool shared = false;
    torch::Tensor common = comm.memory().share(own, allowed, shared);
    EXPECT_TRUE(torch::equal(common, numbers(3, 40, torch::kInt64).view({5, 8})));
    const bool alone = comm.node_size() == 1;
    EXPECT_EQ(shared, allowed || alone);
    comm.meet();
    if (first) common[4][7] = -1;
    comm.meet();
    EXPECT_EQ(common[4][7].item<int64_t>(), first || shared ? -1 : 3039) << allowed;
  }
}

TEST_F(Ranks, BroadcastToNodes) {
  torch::Tensor list = rank == 0 ? torch::arange(1000) : torch::Tensor();
  comm.broadcast_to_nodes(list);
  EXPECT_EQ(list.defined(), comm.node_rank() == 0);
  EXPECT_TRUE(!list.defined() || torch::equal(list, torch::arange(1000)));
}

// Everyone to everyone, itself too: from each sender in order, and nothing is left.
TEST_F(Ranks, MailKeepsItsOrder) {
  constexpr int kMessages = 200;
  Mailbox& mail = comm.mail();
  for (int i = 0; i < kMessages; ++i) {
    // Of unequal lengths, some longer than what MPI sends without being asked for it.
    const std::string text = message(rank, " ", i, " ", std::string(i % 50 == 7 ? 100000 : i, '.'));
    for (int to = 0; to < size; ++to) mail.post(text, to);
  }
  std::vector<int> next(static_cast<size_t>(size), 0);
  for (int came = 0; came < kMessages * size;) {
    const auto post = mail.poll();
    if (!post) continue;
    ++came;
    int& i = next.at(static_cast<size_t>(post->first));
    EXPECT_EQ(post->second,
              message(post->first, " ", i, " ", std::string(i % 50 == 7 ? 100000 : i, '.')));
    ++i;
  }
  EXPECT_EQ(next, std::vector<int>(static_cast<size_t>(size), kMessages));
  comm.meet();
  EXPECT_FALSE(mail.poll());
}

TEST_F(Ranks, MailIsReadWhileOthersAreAwaited) {
  std::vector<std::string> read;
  comm.on_look([&] {
    while (const auto post = comm.mail().poll()) read.push_back(post->second);
  });
  if (rank == size - 1) comm.mail().post("late", 0);
  comm.meet();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (rank == 0 && read.empty() && std::chrono::steady_clock::now() < end) {
    comm.mail().poll() ? read.push_back("late") : std::this_thread::yield();
  }
  EXPECT_EQ(read, rank == 0 ? std::vector<std::string>{"late"} : std::vector<std::string>());
  comm.on_look({});
}

// Beside mail, which must not be taken for it.
TEST_F(Ranks, SendAround) {
  const int next = (rank + 1) % size, former = (rank + size - 1) % size;
  comm.mail().post("mail", next);
  for (const auto type : {torch::kFloat32, torch::kFloat64, torch::kInt64}) {
    comm.send(numbers(rank, 12, type).view({3, 4}).t(), next);  // not contiguous
    torch::Tensor received = torch::zeros({4, 3}, type);
    comm.receive(received, former);
    EXPECT_TRUE(torch::equal(received, numbers(former, 12, type).view({3, 4}).t()));
    comm.finish_sends();
  }
  comm.meet();
  EXPECT_EQ(comm.mail().poll().value(), std::pair(former, std::string("mail")));
}

TEST_F(Ranks, WorkWhileTheyWait) {
  int calls = 0;
  if (rank == 0) {
    comm.meet([&] { return ++calls < 3; });
    EXPECT_LE(calls, 3);
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * rank));
    comm.meet();
  }
}

TEST_F(Ranks, SomeOfThem) {
  std::vector<int> odd;
  for (int other = 1; other < size; other += 2) odd.push_back(other);
  const auto some = Communicator::among(comm, odd);
  ASSERT_EQ(some != nullptr, rank % 2 == 1);
  if (some == nullptr) return;
  EXPECT_EQ(some->size(), static_cast<int>(odd.size()));
  EXPECT_EQ(some->rank(), rank / 2);
  torch::Tensor one = torch::ones({70000}, torch::kInt64);
  some->sum_to_root(one);
  EXPECT_EQ(one.sum().item<int64_t>(), 70000 * (some->rank() == 0 ? some->size() : 1));
}

// Rank 0 takes first what is complete first.
TEST_F(Ranks, WaitForAny) {
  if (size < 3) GTEST_SKIP() << "needs three ranks";
  const auto left = Communicator::among(comm, {0, 1}), right = Communicator::among(comm, {0, 2});
  if (rank == 0) {
    left->arrive();
    right->arrive();
    std::vector<Communicator*> open = {left.get(), right.get()};
    EXPECT_EQ(comm.wait_for_any(open), 1);
    comm.mail().post("go", 1);
    open.pop_back();
    EXPECT_EQ(comm.wait_for_any(open), 0);
  } else if (rank == 1) {
    while (!comm.mail().poll()) std::this_thread::yield();
    left->meet();
  } else if (rank == 2) {
    right->meet();
  }
}

TEST_F(Ranks, MoveAsValues) {
  Communicator other(*session), moved(std::move(other));
  int64_t number = rank == 0 ? 5 : 0;
  moved.broadcast(number);
  EXPECT_EQ(number, 5);
  torch::Tensor large = torch::full({30000}, rank == 0 ? 2 : 0, torch::kInt64);
  moved.broadcast(large);
  EXPECT_EQ(large.sum().item<int64_t>(), 60000);
}

TEST_F(Ranks, RefuseWhatThisMpiCannot) {
  EXPECT_THROW(choose_gpu_comm("direct", torch::kCPU), Error);
  try {
    allow_losses(comm);  // tests are not started with --with-ft ulfm
    ADD_FAILURE() << "losses are allowed";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("on-rank-loss is continue, but "));
  }
  torch::Tensor odd = torch::zeros({4, 4}).t();
  EXPECT_THROW(comm.broadcast(odd), Error);
}

// Failures name their rank; what passes is told by rank 0.
class Printer : public testing::EmptyTestEventListener {
 public:
  explicit Printer(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name(), result.line_number(),
                 result.message());
  }

  int rank_;
};

}  // namespace
}  // namespace fl_sim

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  fl_sim::MpiSession session;
  fl_sim::session = &session;
  const int rank = fl_sim::Communicator(session).rank();
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new fl_sim::Printer(rank));
  }
  return RUN_ALL_TESTS();
}
