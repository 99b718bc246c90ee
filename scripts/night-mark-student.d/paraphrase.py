"""Puts other words into answers: one pass of a paraphrase that knows no language.

A word may give way to any other that stands between the same two neighbours somewhere in the unmarked
answers, as often as it does there. So most sentences stay sentences, and no mark survives in the four tokens
before and after. Prints how many words were replaced.
"""

import argparse
import collections
import json
import pathlib
import random
import re

WORD = re.compile(r"[A-Za-z']+|[^A-Za-z']+")


def options():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("file", type=pathlib.Path)
    parse.add_argument("--plain", type=pathlib.Path, required=True, help="where words come from")
    parse.add_argument("--out", type=pathlib.Path, required=True)
    parse.add_argument("--share", type=float, default=0.5, help="of the words that are to go")
    parse.add_argument("--seed", type=int, default=1)
    return parse.parse_args()


def read(path):
    return [json.loads(line) for line in path.open()]


def places(text):
    """The text in pieces, and the indices of the words among them that have a word on both sides."""
    pieces = WORD.findall(text)
    words = [at for at, piece in enumerate(pieces) if piece[0].isalpha()]
    return pieces, [around for around in zip(words, words[1:], words[2:])]


def table(answers):
    """For each pair of neighbours, what stands between them."""
    found = collections.defaultdict(collections.Counter)
    for answer in answers:
        pieces, around = places(answer["text"])
        for before, at, after in around:
            found[pieces[before], pieces[after]][pieces[at]] += 1
    return found


def main():
    given = options()
    rng = random.Random(given.seed)
    between = table(read(given.plain))
    replaced = words = 0
    with given.out.open("w") as out:
        for answer in read(given.file):
            pieces, around = places(answer["text"])
            words += len(around)
            for before, at, after in around:
                others = dict(between.get((pieces[before], pieces[after]), {}))
                others.pop(pieces[at], None)
                if others and rng.random() < given.share:
                    pieces[at] = rng.choices(list(others), list(others.values()))[0]
                    replaced += 1
            answer["text"] = "".join(pieces)
            out.write(json.dumps(answer) + "\n")
    print(f"{replaced} of {words} words replaced, {replaced / max(words, 1):.0%}")


if __name__ == "__main__":
    main()
