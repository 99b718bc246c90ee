"""Draws what bench-engine measured as it grows, and prints it as a table. Called by scripts/plot-growth."""

import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "casemate"
from matplotlib import pyplot  # noqa: E402 - the backend comes first

BATCH = re.compile(r"decode, (\d+) sequences together")
DEPTH = re.compile(r"decode after (\d+)")
PANELS = (("sequences together", "tokens/s in all"), ("tokens of context", "tokens/s"))


def read(files):
    """Rows by panel and model: where on the axis, ours, the peer's."""
    panels = ({}, {})
    for file in files:
        for row in json.loads(Path(file).read_text())["rows"]:
            batch, depth = BATCH.fullmatch(row["name"]), DEPTH.fullmatch(row["name"])
            if row["name"] == "decode":
                panel, at = 0, 1
            elif batch or depth:
                panel, at = (0, int(batch[1])) if batch else (1, int(depth[1]))
            else:
                continue
            panels[panel].setdefault(row["model"], []).append((at, row["ours"], row["peer"]))
    return [{model: sorted(points) for model, points in panel.items()} for panel in panels]


def draw(panels, path):
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for axis, panel, (across, up) in zip(axes, panels, PANELS):
        for index, (model, points) in enumerate(panel.items()):
            colour = f"C{index}"
            axis.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, label=model)
            theirs = [(p[0], p[2]) for p in points if p[2] is not None]
            axis.plot([p[0] for p in theirs], [p[1] for p in theirs], "x--", color=colour, alpha=0.6)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({p[0] for points in panel.values() for p in points}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set(xlabel=across, ylabel=up, ylim=(0, None))
        axis.grid(alpha=0.3)
        if panel:
            axis.legend(title="— ours, - - llama.cpp", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def table(panels):
    print("| model | what | ours, tokens/s | peer | ratio |\n|---|---|---|---|---|")
    for panel, (across, _) in zip(panels, PANELS):
        for model, points in panel.items():
            for at, ours, peer in points:
                beside = f"{peer:.1f} | {ours / peer:.2f}" if peer else "- | -"
                print(f"| {model} | {at} {across} | {ours:.1f} | {beside} |")


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: scripts/plot-growth PICTURE.svg FILE.json...   (files: what bench-engine --json printed)")
    panels = read(sys.argv[2:])
    if not any(panels):
        sys.exit("these files have no row of decode, batch or depths")
    draw(panels, sys.argv[1])
    table(panels)


if __name__ == "__main__":
    main()
