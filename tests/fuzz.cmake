# The readers of data files once more, under AddressSanitizer and UndefinedBehaviorSanitizer, with damaged files.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -fsanitize=address,undefined)
check_cxx_source_compiles("int main() {}" FL_SIM_HAS_SANITIZERS)
unset(CMAKE_REQUIRED_FLAGS)
if(NOT FL_SIM_HAS_SANITIZERS)
  message(STATUS "Mutation test of the readers: left out, the compiler has no sanitizers (apt install libasan8 libubsan1)")
  return()
endif()

file(GLOB reader_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/plugins/datasets/*.cpp)
# Generators read no files.
list(FILTER reader_sources EXCLUDE REGEX "/(fcube|gaussian|ifca|population|synthetic)\\.cpp$")
list(APPEND reader_sources ${CMAKE_SOURCE_DIR}/src/data/dataset.cpp)
set(without_torch engine_options files hdf5_file job job_parts registry results_format rng text)
list(TRANSFORM without_torch REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/src/base/\\1.cpp")
add_executable(fuzz_datasets fuzz_datasets.cpp ${reader_sources} ${without_torch})
# One translation unit for the readers: LibTorch's headers cost more than they do.
set_target_properties(fuzz_datasets PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
set_source_files_properties(fuzz_datasets.cpp ${without_torch} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
target_compile_options(fuzz_datasets PRIVATE -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
                       -fno-omit-frame-pointer)
target_link_options(fuzz_datasets PRIVATE -fsanitize=address,undefined)
target_include_directories(fuzz_datasets PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_BINARY_DIR}/generated)
target_include_directories(fuzz_datasets SYSTEM PRIVATE ${HDF5_C_INCLUDE_DIRS} ${TURBOJPEG_INCLUDE_DIR} ${ZIP_INCLUDE_DIR})
target_link_libraries(fuzz_datasets PRIVATE fl_sim::torch Boost::program_options ZLIB::ZLIB nlohmann_json::nlohmann_json
                      PNG::PNG Threads::Threads ${HDF5_C_LIBRARIES} ${TURBOJPEG_LIBRARY} ${WEBP_LIBRARY} ${ZIP_LIBRARY})
if(WEBP_LIBRARY)
  target_include_directories(fuzz_datasets SYSTEM PRIVATE ${WEBP_INCLUDE_DIR})
  target_compile_definitions(fuzz_datasets PRIVATE FL_SIM_WEBP)
endif()
add_test(NAME fuzz_datasets COMMAND fuzz_datasets 10000)
# Leaks are not looked for: LibTorch and HDF5 keep memory to the end. LibTorch's libraries define some globals twice. A
# reader that asks for 2 GiB has believed a damaged file; libraries that ask get nothing, and have to cope.
set_tests_properties(fuzz_datasets PROPERTIES TIMEOUT 600 ENVIRONMENT
  "ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:max_allocation_size_mb=2048:allocator_may_return_null=1")
add_dependencies(whole_program_tests fuzz_datasets)
