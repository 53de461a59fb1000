# Tests of the whole program, in Python with h5py and NumPy; left out where no such Python is found.
# The system's Python first: it is the one that scripts/install equips.
find_program(FL_SIM_TEST_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH DOC "a Python with h5py and NumPy")
find_program(FL_SIM_TEST_PYTHON NAMES python3)
if(FL_SIM_TEST_PYTHON)
  add_test(NAME rooms COMMAND ${FL_SIM_TEST_PYTHON} -B ${CMAKE_CURRENT_SOURCE_DIR}/rooms.py --self-check)
  add_test(NAME mutations_fit COMMAND ${FL_SIM_TEST_PYTHON} -B ${CMAKE_CURRENT_SOURCE_DIR}/mutations/run --check)
  add_test(NAME mutants_fit COMMAND ${FL_SIM_TEST_PYTHON} -B ${CMAKE_CURRENT_SOURCE_DIR}/mutations/auto --check)
endif()
execute_process(COMMAND ${FL_SIM_TEST_PYTHON} -c "import h5py, numpy" RESULT_VARIABLE h5py_missing OUTPUT_QUIET ERROR_QUIET)
if(NOT FL_SIM_TEST_PYTHON OR h5py_missing)
  message(STATUS "Whole-program tests: left out, no Python with h5py (apt install python3-h5py, or set FL_SIM_TEST_PYTHON)")
  return()
endif()

# Much of their time is programs starting, so that two at a time pay off on two cores, the longest first. Timeouts are
# for machines that are slow or shared.
foreach(test bad_input:320 same_bits:300 questions:300 plugin:200 resume:120 results_file:100 selftest:90 ends:90 hosts:70 faults:60 rank_loss:60
        seams:80 samplers:120 asynchronous:150 foreign_data:150 foreign_models:90 client_data:70 partition_plan:60 plan:50 virtual_time:60 sub_models:60 learns:40 compare:30 trackers:30 machine:40
        jobs:30 walkthrough:30 scripts:20 convert_trace:10 heart_reference:5)
  string(REPLACE ":" ";" test ${test})
  list(GET test 1 cost)
  list(GET test 0 test)
  set(program fl_sim)
  if(test STREQUAL walkthrough)
    set(program fl_sim_walkthrough)
  endif()
  add_test(NAME whole_program.${test} COMMAND ${FL_SIM_TEST_PYTHON} -B ${CMAKE_CURRENT_SOURCE_DIR}/${test}.py)
  set_tests_properties(whole_program.${test} PROPERTIES LABELS whole_program TIMEOUT 3000 COST ${cost}
                       SKIP_REGULAR_EXPRESSION "no hosts here: |no disk here: "
                       ENVIRONMENT "FL_SIM=$<TARGET_FILE:${program}>;FL_SIM_MPIRUN=${FL_SIM_MPIRUN}")
endforeach()
