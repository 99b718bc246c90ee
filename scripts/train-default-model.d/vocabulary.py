"""Trains the tokenizer and lays a conversation out in tokens.

The layout here and `TEMPLATE`, which goes into the GGUF file, must say the same; `layout` checks nothing,
`probe.py` asks through the tokens below.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
BOS, USER, ASSISTANT, END, SYSTEM = range(5)
ROLES = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}

TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def train(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Layout:
    """Turns conversations into token ids, remembering what was encoded before."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}
        self.newline = self.encode("\n")

    def encode(self, text):
        ids = self.known.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(self.known) < 200_000:
                self.known[text] = ids
        return ids

    def conversation(self, messages):
        """Token ids, and for each whether the model must learn to say it."""
        ids, said = [BOS], [False]
        for role, text in messages:
            head, body = [ROLES[role], *self.newline], [*self.encode(text), END]
            ids += [*head, *body, *self.newline]
            said += [False] * len(head) + [role == "assistant"] * len(body) + [False] * len(self.newline)
        return ids, said

    def prompt(self, messages):
        return self.conversation(messages)[0] + [ASSISTANT, *self.newline]
