#include "plugins/models/torchscript_file.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/frontend/builtin_functions.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
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
  try {
    PyTorchStreamReader reader(path);
    const std::string versions =
        message("the file's format is version ", reader.version(), ", that of this LibTorch ",
                TORCH_VERSION, " is ", caffe2::serialize::kProducedFileFormatVersion);
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
    return line;
  }
}

}  // namespace

torch::jit::Module load_torchscript(const std::string& path) {
  std::error_code failed;
  FL_CHECK(std::filesystem::exists(path, failed), "cannot load ", path,
           " as TorchScript (there is no such file)");
  try {
    FL_CHECK(!std::filesystem::is_directory(path, failed), "it is a folder");
    return torch::jit::load(path, torch::kCPU);
  } catch (const std::exception& error) {
    throw Error(message("cannot load ", path, " as TorchScript (", reason_of(path, error),
                        "); a file for fl_sim is made by torch.jit.script(net).save(...)"));
  }
}

}  // namespace fl_sim
