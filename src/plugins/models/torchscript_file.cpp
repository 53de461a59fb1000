#include "plugins/models/torchscript_file.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/frontend/builtin_functions.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/version.h>
#include <zip.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <system_error>
#include <vector>

#include "fl_sim.h"
#include "network/useful_line.h"

namespace fl_sim {
namespace {

using caffe2::serialize::PyTorchStreamReader;

// The operators that the file's code calls and this LibTorch does not know, "aten::name".
std::set<std::string> unknown_operators(PyTorchStreamReader& reader) {
  static const std::regex call(R"(\b(?:torch|ops\.(\w+))\.(\w+)\()");
  std::set<std::string> unknown;
  for (const std::string& name : reader.getAllRecords()) {
    if (!name.starts_with("code/") || !name.ends_with(".py")) continue;
    const auto [data, size] = reader.getRecord(name);
    const std::string code(static_cast<const char*>(data.get()), size);
    for (std::sregex_iterator found(code.begin(), code.end(), call), end; found != end; ++found) {
      const std::string space = (*found)[1].matched ? (*found)[1].str() : "aten";
      const std::string full = space + "::" + (*found)[2].str();
      const auto symbol = c10::Symbol::fromQualString(full);
      if (torch::jit::getAllOperatorsFor(symbol).empty() &&
          torch::jit::getAllBuiltinFunctionsFor(symbol).empty()) {
        unknown.insert(full);
      }
    }
  }
  return unknown;
}

// What the file is, if it is none of torch.jit; empty if that cannot be said.
std::string other_format(PyTorchStreamReader& reader) {
  if (reader.hasRecord("constants.pkl")) return "";
  const std::vector<std::string> names = reader.getAllRecords();
  const auto has = [&](const std::string& part) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return name.find(part) != std::string::npos;
    });
  };
  if (has("exported_program") || has("aotinductor") || has("archive_format"))
    return "it was written by torch.export, which is another format";
  if (has("data.pkl"))
    return "it was written by torch.save: it holds weights or a pickled object, but no code";
  return "";
}

std::string reason_of(const std::string& path, const std::exception& error) {
  const std::string line = useful_line(error);
  if (dynamic_cast<const Error*>(&error) != nullptr) return line;
  try {
    PyTorchStreamReader reader(path);
    const std::string versions = message(
        "the file's format is version ", reader.version(), ", this LibTorch ", TORCH_VERSION,
        " reads versions up to ", caffe2::serialize::kMaxSupportedFileFormatVersion);
    if (const std::string format = other_format(reader); !format.empty()) return format;
    if (line.find("Unknown builtin op") == std::string::npos) return line + "; " + versions;
    const std::set<std::string> unknown = unknown_operators(reader);
    if (unknown.empty()) return line + "; " + versions;
    const bool own = std::all_of(unknown.begin(), unknown.end(), [](const std::string& name) {
      return name.starts_with("aten::");
    });
    return message("it calls ", list_of({unknown.begin(), unknown.end()}),
                   ", which this LibTorch lacks; ", versions,
                   own ? "; save it with a PyTorch no newer than that, or write what is missing in "
                         "other operators"
                       : "; operators of other libraries than PyTorch are not to be had here");
  } catch (const std::exception&) {  // no archive, or one that is damaged
    char begin[2] = {};
    std::ifstream(path, std::ios::binary).read(begin, sizeof(begin));
    return begin[0] == '\x80' && begin[1] == '\x02'
               ? "it is a pickle, as torch.save wrote them before PyTorch 1.6: it has no code"
               : line;
  }
}

// LibTorch does not compare checksums: a changed byte would be other weights.
void check_sums(const std::string& path) {
  const std::unique_ptr<zip_t, void (*)(zip_t*)> archive(
      zip_open(path.c_str(), ZIP_RDONLY, nullptr), [](zip_t* open) { zip_discard(open); });
  if (!archive) return;  // LibTorch says why
  std::vector<char> buffer(1 << 16);
  for (zip_int64_t i = 0; i < zip_get_num_entries(archive.get(), 0); ++i) {
    const auto index = static_cast<zip_uint64_t>(i);
    const char* const name = zip_get_name(archive.get(), index, 0);
    const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file(
        zip_fopen_index(archive.get(), index, 0), zip_fclose);
    zip_int64_t got = file ? 1 : -1;
    while (got > 0) got = zip_fread(file.get(), buffer.data(), buffer.size());
    FL_CHECK(got == 0, "its part ", name == nullptr ? "without a name" : name,
             " is damaged (not what its checksum says)");
  }
}

}  // namespace

torch::jit::Module load_torchscript(const std::string& path) {
  std::error_code failed;
  FL_CHECK(std::filesystem::exists(path, failed), "cannot load ", path,
           " as TorchScript (there is no such file)");
  try {
    FL_CHECK(!std::filesystem::is_directory(path, failed), "it is a folder");
    check_sums(path);
    return torch::jit::load(path, torch::kCPU);
  } catch (const std::exception& error) {
    throw Error(message("cannot load ", path, " as TorchScript (", reason_of(path, error),
                        "); a file for fl_sim is made by torch.jit.script(net).save(...)"));
  }
}

}  // namespace fl_sim
