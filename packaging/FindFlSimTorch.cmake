# LibTorch as an imported target of our own, fl_sim::torch. Its own CMake package insists on a full CUDA toolkit where it
# was built with CUDA; the libraries that it ships are all that is needed here. Debian's packages, the archive from
# pytorch.org and PyPI's torch (-DCMAKE_PREFIX_PATH=$(python3 -c 'import torch;print(torch.utils.cmake_prefix_path)')) all
# work. FlSimTorch_HINTS: where to look behind CMAKE_PREFIX_PATH.
#
# Sets FlSimTorch_FOUND, FlSimTorch_VERSION ("1.13.0"), and FlSimTorch_BLAS: the system's BLAS that it is linked with
# ("libblas.so.3"), if it is.
set(torch_hints "")
foreach(prefix ${CMAKE_PREFIX_PATH})
  list(APPEND torch_hints ${prefix}/../.. ${prefix})
endforeach()
list(APPEND torch_hints ${FlSimTorch_HINTS})
find_path(TORCH_INCLUDE_DIR torch/csrc/api/include/torch/torch.h HINTS ${torch_hints} PATH_SUFFIXES include)
foreach(library torch torch_cpu c10)
  find_library(${library}_LIBRARY ${library} HINTS ${torch_hints} PATH_SUFFIXES lib)
endforeach()
set(torch_version_file ${TORCH_INCLUDE_DIR}/torch/csrc/api/include/torch/version.h)
if(EXISTS ${torch_version_file})
  file(STRINGS ${torch_version_file} torch_version REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" torch_version "${torch_version}")
  string(REPLACE ";" "." FlSimTorch_VERSION "${torch_version}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(FlSimTorch
  REQUIRED_VARS torch_cpu_LIBRARY torch_LIBRARY c10_LIBRARY TORCH_INCLUDE_DIR VERSION_VAR FlSimTorch_VERSION
  REASON_FAILURE_MESSAGE "LibTorch was not found (apt install libtorch-dev, or set CMAKE_PREFIX_PATH)")
if(NOT FlSimTorch_FOUND OR TARGET fl_sim::torch)
  return()
endif()

get_filename_component(torch_lib_dir ${torch_cpu_LIBRARY} DIRECTORY)
find_library(torch_cuda_LIBRARY torch_cuda HINTS ${torch_lib_dir} NO_DEFAULT_PATH)
find_library(c10_cuda_LIBRARY c10_cuda HINTS ${torch_lib_dir} NO_DEFAULT_PATH)
add_library(fl_sim::torch INTERFACE IMPORTED)
target_include_directories(fl_sim::torch INTERFACE
  ${TORCH_INCLUDE_DIR} ${TORCH_INCLUDE_DIR}/torch/csrc/api/include)
target_link_libraries(fl_sim::torch INTERFACE ${torch_LIBRARY} ${torch_cpu_LIBRARY} ${c10_LIBRARY})
if(torch_cuda_LIBRARY)
  # Nothing of ours calls into libtorch_cuda; it registers itself with LibTorch when it is loaded.
  target_link_libraries(fl_sim::torch INTERFACE
    -Wl,--push-state,--no-as-needed ${torch_cuda_LIBRARY} ${c10_cuda_LIBRARY} -Wl,--pop-state)
  # What libtorch_cuda needs (cuBLAS, cuDNN, ...) is found through its own run paths, at run time.
  target_link_options(fl_sim::torch INTERFACE -Wl,--allow-shlib-undefined -Wl,--unresolved-symbols=ignore-in-shared-libs)
endif()

execute_process(COMMAND ${CMAKE_READELF} -d ${torch_cpu_LIBRARY} OUTPUT_VARIABLE torch_needs ERROR_QUIET)
if(torch_needs MATCHES "\\[(lib(open)?blas\\.so[.0-9]*)\\]")
  set(FlSimTorch_BLAS ${CMAKE_MATCH_1})
endif()
