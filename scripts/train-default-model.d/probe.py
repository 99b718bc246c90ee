"""Asks the questions of `probes.json` and counts the answers that hold one of the key words."""

import json
import re

import torch

import vocabulary


@torch.no_grad()
def answer(model, layout, asked, limit=64):
    """The likeliest answer, token by token, and whether it ended by itself."""
    ids = layout.prompt([("user", asked)])
    start = len(ids)
    while len(ids) - start < limit:
        following = int(model(torch.tensor([ids]))[0, -1].argmax())
        if following in (vocabulary.END, vocabulary.BOS):
            return layout.tokenizer.decode(ids[start:]), True
        ids.append(following)
    return layout.tokenizer.decode(ids[start:]), False


@torch.no_grad()
def complete(model, layout, text, limit=40):
    ids = [vocabulary.BOS, *layout.encode(text)]
    for _ in range(limit):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return layout.tokenizer.decode(ids)


def right(said, key_words):
    return any(re.search(rf"\b{re.escape(word)}", said, re.IGNORECASE) for word in key_words)


def run(model, layout, probes):
    """Lists (question, answer, right, ended)."""
    model.eval()
    found = []
    for asked, key_words in json.loads(probes.read_text()).items():
        said, ended = answer(model, layout, asked)
        found.append((asked, said, right(said, key_words), ended))
    model.train()
    return found


def exact(model, layout, everyday):
    """How many of the hand-written definitions come back word for word, and which do not."""
    model.eval()
    wrong = []
    for kind, word, sentence in everyday:
        said, _ = answer(model, layout, usual(kind, word))
        if said != sentence:
            wrong.append((usual(kind, word), said))
    model.train()
    return len(everyday) - len(wrong), wrong


def usual(kind, word):
    import corpus

    return {
        "count": f"What is {corpus.article(word)} {word}?",
        "the": f"What is the {word}?",
        "mass": f"What is {word}?",
        "v": f"What does it mean to {word}?",
        "a": f"What does {word} mean?",
    }[kind]
