# Ranks, tested together: on several numbers of them, on emulated machines, and without shared memory.
fl_objects(rank_tests 1 ${CMAKE_CURRENT_LIST_DIR}/communicator.cpp)
target_link_libraries(rank_tests PRIVATE GTest::gtest)
add_executable(fl_sim_rank_tests $<TARGET_OBJECTS:rank_tests>)
target_link_libraries(fl_sim_rank_tests PRIVATE libfl_sim GTest::gtest)
add_dependencies(whole_program_tests fl_sim_rank_tests)

foreach(run 1 2 4 3:machines=2 4:machines=2,no-window)
  string(REGEX MATCH "^[0-9]+" ranks ${run})
  string(REGEX REPLACE "^[0-9]+:?" "" hooks ${run})
  string(REGEX REPLACE "[:=,]" "_" name ranks.${run})
  add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_LIST_DIR}/start ${ranks} $<TARGET_FILE:fl_sim_rank_tests> --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2
                       ENVIRONMENT "FL_SIM_TEST=${hooks};FL_SIM_MPIRUN=${FL_SIM_MPIRUN}")
endforeach()
