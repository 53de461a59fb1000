#!/usr/bin/env python3
"""Holds the includes of src/, algorithms/ and partitioners/ to the map of src/README.md: an include names its room, goes
to the same room or to one below, and no files of a room include each other in a circle. Exit code 1 and a line for each
include that does not (file, line, rule). And a header includes what it uses of the standard library: the precompiled
header hides what is missing from every compiler here.

    tests/rooms.py [FOLDER]       the repository, or another tree of that shape
    tests/rooms.py --self-check   plants mistakes in a copy, one after the other, and demands that each is named
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A folder, and the rooms that it may include beside its own files. Nothing includes a plug-in or main.cpp.
LEARNING = ["learning", "network", "data", "process", "base"]
PLUGIN = ["fl_sim.h", "learning", "network", "data", "base"]
ENGINE = ["storage", *LEARNING]
MAY_INCLUDE = {
    "base": [],
    "process": ["base"],
    "data": ["base"],
    "network": ["data", "base"],
    "learning": LEARNING[1:],
    "fl_sim.h": PLUGIN[1:],
    "storage": ["learning", "data", "process", "base"],
    "engine": ENGINE,
    "plugins": PLUGIN,
    "algorithms": PLUGIN,
    "partitioners": PLUGIN,
    "commands": ["engine", "fl_sim.h", *ENGINE],
    "main.cpp": ["commands", "engine", *ENGINE],
}
# Of these rooms only these files.
ONLY = {("learning", "process"): ["process/interruption.h"]}
# Libraries that have one door: what includes name, and the path behind src/ of those who may.
DOORS = [
    (r"mpi(-ext)?\.h", r"process/mpi_(internal\.h|dialect\.cpp)"),
    (r"hdf5\.h", r"base/hdf5_file\.cpp"),
    (r"(torch|ATen|c10)/.*", r"(?!base/).*"),
]
# What headers use of the standard library, by what they have to include for it.
STANDARD = {
    "algorithm": "all_of any_of clamp copy count_if find find_if max max_element min none_of sort transform",
    "array": "array", "atomic": "atomic", "bit": "bit_cast endian", "chrono": "chrono", "deque": "deque",
    "cmath": "isfinite isnan sqrt", "filesystem": "filesystem", "functional": "function", "limits": "numeric_limits",
    "cstdint": "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t", "map": "map",
    "memory": "make_shared make_unique shared_ptr unique_ptr", "mutex": "lock_guard mutex unique_lock",
    "optional": "nullopt optional", "set": "set", "span": "span", "sstream": "istringstream ostringstream",
    "stdexcept": "runtime_error", "string": "string to_string", "string_view": "string_view", "thread": "thread",
    "tuple": "tie tuple", "type_traits": "is_same_v is_trivially_copyable_v", "unordered_map": "unordered_map",
    "utility": "exchange forward move pair swap", "variant": "holds_alternative variant visit", "vector": "vector",
}
HOME = {name: header for header, names in STANDARD.items() for name in names.split()}
GENERATED = ["base/revision.h"]  # when it is built
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def room_of(path):
    """The room of a path that begins behind src/, or with algorithms/ or partitioners/: of plug-ins one a kind."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "plugins" else parts[0]


def sources(root):
    """(file, its lines) of every source, with paths from `root`."""
    for top in ("src", "algorithms", "partitioners"):
        for folder, _, files in os.walk(root / top):
            for name in sorted(files):
                if name.endswith((".h", ".cpp")):
                    path = Path(folder, name)
                    yield path.relative_to(root).as_posix(), path.read_text().splitlines()


def includes(root):
    """(file, line, what stands between quotation marks, or between angle brackets) of every include."""
    for file, lines in sources(root):
        for number, line in enumerate(lines, 1):
            found = INCLUDE.match(line)
            if found:
                yield file, number, found[1], found[2]


def missing_names(root):
    """A line for each header that a header needs for a standard name and does not include."""
    for file, lines in sources(root):
        if file.endswith(".h"):
            there = {found[2] for found in map(INCLUDE.match, lines) if found}
            for number, line in enumerate(lines, 1):
                code = re.sub(r'"(\\.|[^"\\])*"|//.*', "", line)
                for name in re.findall(r"std::(\w+)|(?<![\w:])(u?int\d+_t)\b", code):
                    header = HOME.get(name[0] or name[1])
                    if header and header not in there:
                        there.add(header)
                        yield f"{file}:{number}: uses {name[0] or name[1]}, but does not include <{header}>"


def circle(arrows):
    """A circle of the graph {unit: {unit: place}} as a list of units, or None."""
    state, path = {}, []

    def visit(unit):
        state[unit] = "open"
        path.append(unit)
        for other in sorted(arrows.get(unit, {})):
            if state.get(other) == "open":
                return path[path.index(other):] + [other]
            if other not in state:
                found = visit(other)
                if found:
                    return found
        state[unit] = "done"
        path.pop()
        return None

    return next(filter(None, (visit(unit) for unit in sorted(arrows) if unit not in state)), None)


def check(root):
    problems, arrows = [], {}
    for file, line, what, library in includes(root):
        place = f"{file}:{line}"
        inside = file.removeprefix("src/")
        if library:
            for name, door in DOORS:
                if re.fullmatch(name, library) and not re.fullmatch(door, inside):
                    problems.append(f"{place}: includes <{library}> (only {door} may)")
            continue
        room = room_of(inside)
        may_include = MAY_INCLUDE.get(room.split("/")[0])
        if may_include is None:
            problems.append(f"{place}: {room} is no room (tests/rooms.py and src/README.md have the map)")
            continue
        target = what
        if "/" not in what and what != "fl_sim.h":  # beside it
            target = os.path.dirname(inside) + "/" + what
            if file.startswith("src/"):
                problems.append(f'{place}: "{what}" names no room (write "{target}")')
                continue
        there = root / (target if room_of(target) in ("algorithms", "partitioners") else "src/" + target)
        if not there.is_file() and target not in GENERATED:
            problems.append(f'{place}: there is no "{what}" in src')
            continue
        other = room_of(target)
        if other != room and other not in may_include:
            allowed = ", ".join(may_include) or "nothing"
            problems.append(f'{place}: {room} includes "{what}" (it may include {allowed})')
            continue
        if target not in ONLY.get((room, other), [target]):
            problems.append(f'{place}: {room} includes "{what}" (of {other} only {", ".join(ONLY[room, other])})')
            continue
        unit, used = (re.sub(r"\.(h|cpp)$", "", path) for path in (inside, target))
        if unit != used and room == other:
            arrows.setdefault(unit, {}).setdefault(used, place)
    while found := circle(arrows):
        steps = ", ".join(arrows[a][b] for a, b in zip(found, found[1:]))
        problems.append(f"{' -> '.join(found)} is a circle ({steps})")
        del arrows[found[0]][found[1]]
    return problems + list(missing_names(root))


PLANTED = [
    ("src/base/rng.h", "engine/host.h", 'base includes "engine/host.h"'),
    ("src/network/layers.cpp", "learning/algorithm.h", 'network includes "learning/algorithm.h"'),
    ("src/data/dataset.h", "process/communicator.h", 'data includes "process/communicator.h"'),
    ("algorithms/fedavg.cpp", "engine/host.h", 'algorithms includes "engine/host.h"'),
    ("src/commands/report.cpp", "plugins/datasets/idx.h", 'commands includes "plugins/datasets/idx.h"'),
    ("src/plugins/models/cnn.cpp", "plugins/datasets/idx.h", 'plugins/models includes "plugins/datasets/idx.h"'),
    ("src/engine/host.cpp", "host.h", '"host.h" names no room'),
    ("src/base/check.h", "base/job.h", "is a circle"),
    ("src/learning/scorer.h", "process/watchdog.h", "of process only process/interruption.h"),
    ("src/storage/results.cpp", "<hdf5.h>", "includes <hdf5.h>"),
    ("src/base/job.h", "<torch/types.h>", "includes <torch/types.h>"),
]
# The same for a line of code.
PLANTED_CODE = [("src/base/text.h", "inline std::deque<int> planted;", "uses deque, but does not include <deque>")]


def self_check():
    with tempfile.TemporaryDirectory(prefix="fl_sim_rooms_") as folder:
        copy = Path(folder)
        for top in ("src", "algorithms", "partitioners"):
            shutil.copytree(ROOT / top, copy / top)
        lines = [(file, f"#include {what}" if what[0] == "<" else f'#include "{what}"', words)
                 for file, what, words in PLANTED]
        for file, line, words in lines + PLANTED_CODE:
            path = copy / file
            text = path.read_text()
            path.write_text(f"{text}{line}\n")
            done = subprocess.run([sys.executable, "-B", __file__, folder], capture_output=True, text=True)
            path.write_text(text)
            place = f"{file}:{text.count(chr(10)) + 1}"
            if done.returncode != 1 or words not in done.stderr or place not in done.stderr:
                sys.exit(f"tests/rooms.py: {place}: {line} is not noticed (exit code {done.returncode}):\n"
                         + done.stderr)
    print(f"{len(PLANTED) + len(PLANTED_CODE)} planted mistakes, all noticed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--self-check", action="store_true")
    arguments = parser.parse_args()
    problems = check(arguments.folder)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    if problems:
        sys.exit(1)
    if arguments.self_check:
        self_check()


if __name__ == "__main__":
    main()
