"""Writes the measured section of bench/README.md and its plot."""

import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cells import CELLS

BEGIN, END = "<!-- bench/peers/run: begin -->", "<!-- bench/peers/run: end -->"

# What was tried and does not run, and what a reader of the numbers should know.
NOT_RUN = [
    "FedScale 1.0 (its only release on PyPI, 2024): its modules import TensorFlow and PyTorch into one process, which"
    " aborts with today's versions of the two; its client's SGD is fixed to momentum 0.9 and weight decay 0.0005, so it"
    " could not do this work either.",
]
NOTES = [
    "Every framework samples, distributes, trains and averages with its own code. Where their examples put a"
    " `DataLoader`, all get one that slices whole batches, which is faster.",
    "Two cores for each: two processes or actors of one thread where a framework has them. PyTorch's threads in"
    " single processes: {threads} on the CNN, 1 on the smaller models, whose steps are too short to share.",
    "BlazeFL is made for free-threaded Python 3.14 and shares one interpreter lock here.",
    "FedML in one process trains its first round's clients one after another on the same model (its `w_global` is the"
    " live model until the first average), hence its higher accuracy after few rounds. Its MPI mode does not.",
]


def significant(number):
    return f"{number:.2g}" if number < 100 else f"{number:.0f}"


def describe(cell):
    momentum = f", momentum {cell.momentum}" if cell.momentum else ""
    return (
        f"{cell.cohort} of {cell.clients} clients of {cell.samples} samples, batches of {cell.batch},"
        f" learning rate {cell.lr}{momentum}"
    )


def table(rows):
    return ["| " + " | ".join(row) + " |" for row in [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]]


def section(results):
    cells, titles = results["cells"], results["titles"]
    speed, rest = [["seconds a round (× fl_sim)", *cells]], [["accuracy, memory", *cells]]
    for name, title in titles.items():
        speed.append([title])
        rest.append([title])
        for of in cells.values():
            if "error" in of[name]:
                speed[-1].append(of[name]["error"])
                rest[-1].append("")
                continue
            mine = of.get("fl_sim", {}).get("seconds")
            ratio = f" ({significant(of[name]['seconds'] / mine)}×)" if mine and name != "fl_sim" else ""
            speed[-1].append(f"{of[name]['seconds']:.3g}{ratio}")
            rest[-1].append(f"{of[name]['accuracy']:.3f}, {of[name]['memory'] / 2**20:.0f} MiB")
    versions = dict(sorted({name: it for of in results["versions"].values() for name, it in of.items()}.items()))
    torches = sorted({of["torch"] for of in results["versions"].values() if "torch" in of})
    versions["torch"] = " and ".join(torches)
    return "\n".join(
        [
            "## Against other simulators",
            "",
            "The same federated work, one tool after the other on one machine, in turn: FedAvg on Fashion-MNIST, dealt"
            " evenly, one local epoch of SGD.",
            "",
            *[f"- `{name}`: {describe(CELLS[name])}" for name in cells],
            "",
            f"{results['date']}; {results['machine']}. Median of {results['repeats']} × "
            + ", ".join(f"{rounds} ({cell})" for cell, rounds in results["rounds"].items())
            + " rounds, without the first of each. A round is all of it but the evaluation: sampling, distribution,"
            " training, averaging. `bench/peers/setup && bench/peers/run` measures this again.",
            "",
            "![seconds a round](peers/seconds.png)",
            "",
            *table(speed),
            "",
            "Accuracy on the test set after these rounds shows that the work is the same. Memory is the largest sum of"
            " the proportional set sizes (PSS) of all processes of a tool; PyPI's PyTorch carries CUDA along, Debian's"
            " does not.",
            "",
            *table(rest),
            "",
            *[f"- {note}".replace("{threads}", str(results["threads"])) for note in NOTES],
            *[f"- Not run: {reason}" for reason in NOT_RUN],
            "- Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version) + ".",
        ]
    )


def plot(results, path):
    cells, titles = results["cells"], results["titles"]
    figure, axes = plt.subplots(
        (len(cells) + 1) // 2, min(2, len(cells)), figsize=(11, 0.8 + 1.4 * len(cells)), squeeze=False, sharey=True
    )
    for axis in axes.flat[len(cells) :]:
        axis.remove()
    for axis, (cell, of) in zip(axes.flat, cells.items()):
        seconds = [of[name].get("seconds", float("nan")) for name in titles]
        colors = ["tab:orange" if name == "fl_sim" else "tab:blue" for name in titles]
        bars = axis.barh(list(titles.values()), seconds, color=colors)
        axis.bar_label(bars, [f"{value:.3g}" if value == value else "" for value in seconds], padding=2, fontsize=8)
        measured = [value for value in seconds if value == value]
        axis.set(xscale="log", title=cell, xlabel="seconds a round")
        axis.set_xlim(min(measured) / 3, 3 * max(measured))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def write(results, readme):
    (readme.parent / "peers").mkdir(exist_ok=True)
    plot(results, readme.parent / "peers/seconds.png")
    text = readme.read_text() if readme.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text:
        text += f"\n{BEGIN}\n{END}\n"
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    readme.write_text(pattern.sub(lambda _: f"{BEGIN}\n{section(results)}\n{END}", text))
