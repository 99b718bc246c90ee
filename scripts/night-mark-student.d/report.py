"""Prints what was found as rows, and holds those that have a bar to it. Exit code 1 when a bar is missed."""

import argparse
import json
import pathlib
import sys

ROWS = (
    ("student-100", "all", "new", -5.0),
    ("student-100-asked", "all", "the team's", "reported"),
    ("student-10", "a tenth", "new", -3.0),
    ("student-10-asked", "a tenth", "the team's", "reported"),
    ("student-0", "none", "new", None),
    ("student-0-asked", "none", "the team's", None),
    ("student-100-reworded", "all, its answers paraphrased", "new", "reported"),
    ("student-of-reworded", "all, paraphrased before it learnt", "new", "reported"),
    ("student-of-reworded-asked", "all, paraphrased before it learnt", "the team's", "reported"),
)
# An honest student may be that unlucky, and the keys of nobody that unevenly spread.
UNIFORM = 0.01


def options():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("run", type=pathlib.Path)
    parse.add_argument("--view", default="verify", help="what is judged; the others are shown by --json")
    parse.add_argument("--json", action="store_true")
    return parse.parse_args()


def row(given, name, marked, questions, bar):
    found = json.loads((given.run / f"{name}.json").read_text())
    view = next(view for view in found["views"] if view["view"] == given.view)
    if bar == "reported":
        wanted, met = "reported", None
    elif bar is None:
        wanted = f"uniform: all above {UNIFORM}"
        met = view["log10_p"] > -2 and view["wrong_uniform_p"] > UNIFORM
    else:
        wanted, met = f"p < 1e{bar:.0f}", view["log10_p"] < bar
    verdict = "PASS" if met else "INFO" if met is None else "FAIL"
    told = {"student": name, "marked": marked, "questions": questions, "bar": wanted, "verdict": verdict}
    return told | {"judged": view} | found


def main():
    given = options()
    rows = [row(given, *student) for student in ROWS]
    if given.json:
        print(json.dumps({"view": given.view, "rows": rows}, indent=2))
    else:
        show(rows, given.view)
    sys.exit(any(row["verdict"] == "FAIL" for row in rows))


def show(rows, view):
    print(f"judged: {view}; keys of nobody: least, median, and how likely uniform numbers lie as theirs do")
    head = "student", "marked", "questions", "tokens", "pairs", "p", "least", "median", "uniform", "bar", "verdict"
    table = [head]
    for row in rows:
        judged = row["judged"]
        table.append(
            (
                row["student"],
                row["marked"],
                row["questions"],
                f"{row['tokens']:,}",
                f"{judged['pairs']:,}",
                power(judged["log10_p"]),
                f"{judged['wrong_p_least']:.4f}",
                f"{judged['wrong_p_median']:.2f}",
                f"{judged['wrong_uniform_p']:.2f}",
                row["bar"],
                row["verdict"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def power(log10):
    return f"{10**log10:.3f}" if log10 > -3 else f"1e{log10:.1f}"


if __name__ == "__main__":
    main()
