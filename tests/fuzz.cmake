# Everything that reads a file once more, under AddressSanitizer and UndefinedBehaviorSanitizer, with damaged files.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -fsanitize=address,undefined)
check_cxx_source_compiles("int main() {}" FL_SIM_HAS_SANITIZERS)
unset(CMAKE_REQUIRED_FLAGS)
if(NOT FL_SIM_HAS_SANITIZERS)
  message(STATUS "Mutation tests of readers: left out, the compiler has no sanitizers (apt install libasan8 libubsan1)")
  return()
endif()

# The rooms that read are compiled once more, as few units: LibTorch's headers cost more than they do. The others are there
# for the catalogue of plug-ins, as they are.
file(GLOB fuzz_base CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/base/*.cpp)
file(GLOB fuzz_readers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/plugins/datasets/*.cpp)
# Generators read no files.
list(FILTER fuzz_readers EXCLUDE REGEX "/(fcube|gaussian|ifca|population|synthetic)\\.cpp$")
file(GLOB fuzz_storage CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/data/*.cpp ${CMAKE_SOURCE_DIR}/src/storage/*.cpp)
set(commands compare.cpp gnuplot.cpp text_table.cpp time_to_target.cpp)
list(TRANSFORM commands PREPEND ${CMAKE_SOURCE_DIR}/src/commands/)
list(APPEND fuzz_storage ${commands})
file(GLOB fuzz_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/fuzz_*.cpp)
set(fuzz_rooms ${rooms})
list(REMOVE_ITEM fuzz_rooms room_base room_data room_storage room_plugins_datasets room_commands room_commands_selftest)
add_executable(fl_sim_fuzz fuzz.cpp ${fuzz_tests} ${fuzz_base} ${fuzz_readers} ${fuzz_storage})
foreach(room ${fuzz_rooms})
  target_sources(fl_sim_fuzz PRIVATE $<TARGET_OBJECTS:${room}>)
endforeach()
set_target_properties(fl_sim_fuzz PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
set_source_files_properties(${fuzz_base} PROPERTIES UNITY_GROUP base)
set_source_files_properties(${fuzz_readers} PROPERTIES UNITY_GROUP readers)
set_source_files_properties(${fuzz_storage} PROPERTIES UNITY_GROUP storage)
# fuzz_torchscript.cpp needs more of LibTorch's headers than the others.
set_source_files_properties(fuzz_datasets.cpp fuzz_results.cpp fuzz_checkpoints.cpp PROPERTIES UNITY_GROUP cases)
# A cast of what no integer holds is no error of -fsanitize=undefined by itself.
target_compile_options(fl_sim_fuzz PRIVATE -O1 -g1 -fsanitize=address,undefined,float-cast-overflow
                       -fno-sanitize-recover=all -fno-omit-frame-pointer)
target_link_options(fl_sim_fuzz PRIVATE -fsanitize=address,undefined)
target_include_directories(fl_sim_fuzz PRIVATE ${CMAKE_SOURCE_DIR}/src ${generated})
target_include_directories(fl_sim_fuzz SYSTEM PRIVATE ${HDF5_C_INCLUDE_DIRS} ${TURBOJPEG_INCLUDE_DIR} ${ZIP_INCLUDE_DIR})
target_link_libraries(fl_sim_fuzz PRIVATE fl_sim::torch MPI::MPI_C Boost::program_options ZLIB::ZLIB
                      nlohmann_json::nlohmann_json PNG::PNG Threads::Threads ${HDF5_C_LIBRARIES} ${HWY_LIBRARY}
                      ${TURBOJPEG_LIBRARY} ${WEBP_LIBRARY} ${ZIP_LIBRARY} ${CMAKE_DL_LIBS})
if(WEBP_LIBRARY)
  target_include_directories(fl_sim_fuzz SYSTEM PRIVATE ${WEBP_INCLUDE_DIR})
  target_compile_definitions(fl_sim_fuzz PRIVATE FL_SIM_WEBP)
endif()
add_dependencies(fl_sim_fuzz revision)
add_test(NAME fuzz COMMAND fl_sim_fuzz 10100)
# Leaks are not looked for: LibTorch and HDF5 keep memory to the end. LibTorch's libraries define some globals twice. A
# reader that asks for 2 GiB has believed a damaged file; libraries that ask get nothing, and have to cope.
set_tests_properties(fuzz PROPERTIES TIMEOUT 600 ENVIRONMENT
  "ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:max_allocation_size_mb=2048:allocator_may_return_null=1")
add_dependencies(whole_program_tests fl_sim_fuzz)
