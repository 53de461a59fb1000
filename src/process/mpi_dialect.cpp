#include "process/mpi_dialect.h"

#if defined(OPEN_MPI)
#include <mpi-ext.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace fl_sim::dialect {
namespace {

bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool reads_device_memory(std::string& reason) {
#if defined(MPIX_CUDA_AWARE_SUPPORT) && MPIX_CUDA_AWARE_SUPPORT  // Open MPI
  const bool known = true, aware = MPIX_Query_cuda_support() == 1;
#elif defined(MPICH_NUMVERSION) && MPICH_NUMVERSION >= 40000000
  const bool aware = MPIX_Query_cuda_support() == 1, known = aware;
#else
  const bool known = false, aware = false;
#endif
  reason = !known  ? "MPI was built without CUDA support"
           : aware ? "MPI reads device memory"
                   : "MPI has CUDA support, but it is off at run time";
  return aware;
}

#if defined(OMPI_HAVE_MPI_EXT_FTMPI) && OMPI_HAVE_MPI_EXT_FTMPI

bool knows_losses() { return true; }

bool reports_losses() {
  int* enabled = nullptr;
  int there = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPIX_FT, &enabled, &there);
  return there != 0 && *enabled != 0;
}

int revoke(MPI_Comm comm) { return MPIX_Comm_revoke(comm); }
int shrink(MPI_Comm comm, MPI_Comm* left) { return MPIX_Comm_shrink(comm, left); }
int agree(MPI_Comm comm, int* flag) { return MPIX_Comm_agree(comm, flag); }

#else

bool knows_losses() { return false; }
bool reports_losses() { return false; }
int revoke(MPI_Comm) { return MPI_ERR_OTHER; }
int shrink(MPI_Comm, MPI_Comm*) { return MPI_ERR_OTHER; }
int agree(MPI_Comm, int*) { return MPI_ERR_OTHER; }

#endif

#if defined(OPEN_MPI)

bool yield_when_idle() {
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
  return true;
}

bool put_memory_files_in(const std::string& folder) {
  for (const char* variable :
       {"OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory",
        "OMPI_MCA_osc_sm_backing_directory"})
    setenv(variable, folder.c_str(), /*overwrite=*/0);
  return true;
}

int64_t memory_of_a_rank() {
  // Ranks that are told to speak in other ways make no such files.
  const char* ways = std::getenv("OMPI_MCA_btl");
  const std::string list = ways != nullptr ? ways : "";
  const bool named =
      list.find("vader") != std::string::npos || list.find("sm") != std::string::npos;
  if (!list.empty() && named == list.starts_with('^')) return 0;
  for (const char* variable : {"OMPI_MCA_btl_vader_segment_size", "OMPI_MCA_btl_sm_segment_size"}) {
    if (const char* size = std::getenv(variable)) return std::atoll(size);
  }
  return int64_t{4} << 20;
}

std::string memory_folder() {
  for (const char* variable :
       {"OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory"}) {
    if (const char* folder = std::getenv(variable)) return folder;
  }
  return "/dev/shm";
}

std::string session_folder() {
  const char* path = std::getenv("PMIX_SERVER_TMPDIR");
  if (path == nullptr) return {};
  const std::filesystem::path folder = path;
  for (const auto& part : {folder.filename(), folder.parent_path().filename()}) {
    if (part.string().starts_with("ompi.") || part.string().starts_with("prte")) return path;
  }
  return {};
}

bool is_own_launcher(const std::string& name) {
  // A daemon may serve other runs, too (prte and prun); mpirun's own are named so.
  const char* space = std::getenv("PMIX_NAMESPACE");
  if (name == "prted") return space != nullptr && std::string(space).starts_with("prterun");
  return is_one_of(name, {"mpirun", "mpiexec", "orterun", "prterun", "orted"});
}

std::vector<const char*> launchers() { return {"mpirun.openmpi", "mpirun", "mpiexec"}; }

std::vector<std::pair<const char*, const char*>> few_ranks_anywhere() {
  std::vector<std::pair<const char*, const char*>> all = {
      {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
      {"OMPI_MCA_hwloc_base_binding_policy", "none"},
      {"PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"},
      {"PRTE_MCA_hwloc_default_binding_policy", "none"},
      {"OMPI_MCA_mpi_yield_when_idle", "1"},
      {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},
      {"OMPI_MCA_smsc", "^cma"}};
  if (geteuid() == 0) {
    all.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    all.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return all;
}

#else

bool yield_when_idle() { return false; }
bool put_memory_files_in(const std::string&) { return false; }
int64_t memory_of_a_rank() { return 0; }
std::string memory_folder() { return {}; }
std::string session_folder() { return {}; }

// MPICH's Hydra: mpirun, and its proxy on each machine, of this run alone.
bool is_own_launcher(const std::string& name) {
  return is_one_of(name, {"mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy"});
}

std::vector<const char*> launchers() {
  return {"mpirun.mpich", "mpiexec.hydra", "mpirun", "mpiexec"};
}

std::vector<std::pair<const char*, const char*>> few_ranks_anywhere() { return {}; }

#endif

}  // namespace fl_sim::dialect
