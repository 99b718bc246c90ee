"""Checks the texts and the layout of conversations, in seconds and without training.

Run by `train-default-model --check`. Prints one line a check and ends in an error if one fails.
"""

import pathlib
import random
import re
import sys
import tempfile

import jinja2
import torch

import corpus
import export
import probe
import vocabulary
from model import Model, Shape


def main(folder):
    data = corpus.Corpus(folder, words=3000)
    tokenizer = vocabulary.train(data.sample_texts(random.Random(1)), Shape.vocabulary)
    layout = vocabulary.Layout(tokenizer)
    answers_are_sentences(data)
    each_word_has_one_definition(data)
    nothing_offensive(data)
    layout_follows_template(data, layout)
    text_survives_tokenizer(data, tokenizer)
    file_holds_what_was_written(tokenizer)
    key_words_are_found()
    print("7 passed, 0 failed")


def answers_are_sentences(data):
    rng = random.Random(2)
    for _ in range(5000):
        asked, answer = data.turn(rng)
        assert asked and re.fullmatch(r"[A-Z0-9].*[.?!]", answer), (asked, answer)
    print("every answer is a sentence")


def each_word_has_one_definition(data):
    words = [word for _, word, _ in data.everyday] + [entry[2] for entry in data.wordnet]
    twice = {word for word in words if words.count(word) > 1}
    assert not twice, twice
    assert not set(words) & set(data.strange)
    print(f"{len(words)} words have one definition each")


def nothing_offensive(data):
    for entry in data.wordnet:
        assert not corpus.OFFENSIVE.search(" ".join(entry[2:4])), entry
    print("no definition matches the filter")


def layout_follows_template(data, layout):
    """The tokens that are trained on spell what the file's chat template renders."""
    template = jinja2.Environment().from_string(vocabulary.TEMPLATE)
    rng = random.Random(3)
    for _ in range(200):
        messages = data.conversation(rng)
        rendered = template.render(
            messages=[{"role": role, "content": text} for role, text in messages],
            bos_token=vocabulary.SPECIAL[vocabulary.BOS],
            add_generation_prompt=True,
        )
        ids = layout.tokenizer.encode(rendered, add_special_tokens=False).ids
        assert ids == layout.prompt(messages), rendered
    print("conversations are laid out as the chat template says")


def text_survives_tokenizer(data, tokenizer):
    for text in [*data.held_out, "Größe, 東京, \u2019 and \n\n tabs\t"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    print("text comes back from the tokenizer as it went in")


def file_holds_what_was_written(tokenizer):
    shape = Shape()
    torch.manual_seed(1)
    weights = Model(shape).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        export.write(path, shape, weights, tokenizer, trained=0)
        stored = export.read(path)
    assert stored.keys() == weights.keys()
    for name, weight in weights.items():
        step = weight.abs().max() / 127
        assert (torch.from_numpy(stored[name]) - weight).abs().max() <= step, name
    print("a written file holds the weights, to the precision of Q8_0")


def key_words_are_found():
    assert probe.right("A river is a stream.", ["water", "stream"])
    assert not probe.right("A river is a dream.", ["water", "stream"])
    assert not probe.right("Upstream.", ["stream"])
    print("key words are found at the beginning of words only")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
