// A partition that was saved: by this program, or as JSON by NIID-Bench, Flower and their like.
#include "base/check.h"
#include "data/partition_file.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class File final : public Partitioner {
 public:
  explicit File(const Setup& setup)
      : path_(setup.job.get<std::string>("file.path")),
        empty_(setup.job.get<std::string>("file.empty") == "drop" ? EmptyClients::kDropped
                                                                  : EmptyClients::kRefused) {}

  static PluginInfo describe() {
    return {
        .summary = "as saved in a file: HDF5 of partition.save, or JSON lists of sample numbers",
        .source =
            "Li, Diao, Chen, He, ICDE 2022 (NIID-Bench's net_dataidx_map); Beutel et al., Flower, "
            "2020",
        .rule =
            "Clients hold the samples whose numbers in the training set, from 0, the file lists: "
            "HDF5 as partition.save writes it, JSON {\"0\": [5, 17], \"1\": [2]} or JSON "
            "[[5, 17], [2]]. HDF5 is refused for a training set with other labels than the one "
            "that it was saved for; JSON does not say. `clients = auto` is the file's number of "
            "clients.",
        .options = {
            {.name = "path", .default_value = {}, .meaning = "the file", .path = true},
            {.name = "empty",
             .default_value = "refuse",
             .meaning = "a client without a sample: refuse; drop: it is left out, and those "
                        "behind it move up",
             .choices = {"refuse", "drop"}}}};
  }

  std::optional<int64_t> own_clients(std::span<const int64_t>) const override {
    return read_partition(path_, empty_).partition.clients();
  }

  Partition split(const PartitionRequest& request, Rng&) const override {
    const SavedPartition saved = read_partition(path_, empty_);
    check_saved(saved, path_, request.labels);
    FL_CHECK(saved.partition.clients() == request.clients, path_, ": is a partition for ",
             saved.partition.clients(), " clients, clients is ", request.clients,
             " (must be the same, or auto)");
    return saved.partition;
  }

 private:
  std::string path_;
  EmptyClients empty_;
};

FL_REGISTER(Partitioner, "file", File);

}  // namespace
}  // namespace fl_sim
