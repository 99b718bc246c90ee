"""Trains the model, keeps checkpoints, exports and probes the GGUF file.

Given the same seed, `--tokens`, package versions and thread count, two runs see the same batches; sums of
floating point numbers may still differ in their last bits between machines.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import time

import numpy as np
import torch

import corpus
import export
import probe
import vocabulary
from model import Model, Shape

ROW = 256
BATCH = 2048  # tokens
WARM_UP = 100  # steps
DECAY_FROM = 0.55  # of the run; from there the learning rate falls in a line
KINDS = (("talk", 65), ("plain", 5), ("novels", 30))  # of the batches, in percent


def options():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--work", type=pathlib.Path, required=True)
    parse.add_argument("--out", type=pathlib.Path, required=True)
    parse.add_argument("--probes", type=pathlib.Path, required=True)
    length = parse.add_mutually_exclusive_group()
    length.add_argument("--tokens", type=float, default=10487808)
    length.add_argument("--minutes", type=float)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--words", type=int, default=3000)
    parse.add_argument("--seed", type=int, default=1)
    parse.add_argument("--rate", type=float, default=3e-3)
    parse.add_argument("--fresh", action="store_true")
    parse.add_argument("--export-only", action="store_true")
    return parse.parse_args()


def main():
    given = options()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    shape = Shape()
    data = corpus.Corpus(given.work / "data", given.words)
    tokenizer = vocabulary.train(data.sample_texts(random.Random(given.seed)), shape.vocabulary)
    layout = vocabulary.Layout(tokenizer)
    run = Run(given, shape, data, layout)
    run.say(
        f"{len(data.everyday)} everyday words, {len(data.wordnet)} of WordNet, {len(data.talk)} replies; "
        f"{sum(p.numel() for p in run.model.parameters()):,} parameters, "
        f"vocabulary {tokenizer.get_vocab_size()}"
    )
    if not given.fresh:
        run.resume()
    if not given.export_only:
        run.train()
    run.export()


class Run:
    def __init__(self, given, shape, data, layout):
        self.given, self.shape, self.data, self.layout = given, shape, data, layout
        self.model = Model(shape)
        matrices = {n: p for n, p in self.model.named_parameters() if p.dim() == 2 and "embd" not in n}
        others = [p for n, p in self.model.named_parameters() if n not in matrices]
        self.optimizers = (
            torch.optim.Muon(
                list(matrices.values()), weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.rows = Rows(data, layout)
        self.step = self.tokens = 0
        self.seconds, self.smoothed = 0.0, {}
        self.checkpoint = given.work / "checkpoint.pt"
        self.log = open(given.work / "log.txt", "a")

    def say(self, text):
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def done(self):
        if self.given.minutes:
            return self.seconds / (60 * self.given.minutes)
        return self.tokens / self.given.tokens

    def rate(self):
        left = (1 - self.done()) / (1 - DECAY_FROM)
        return self.given.rate * min(1, (self.step + 1) / WARM_UP, max(left, 0))

    def train(self):
        last = saved = time.monotonic()
        began, at_start = last, self.tokens
        while self.done() < 1:
            self.one_step()
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if self.step % 100 == 0:
                losses = " ".join(f"{kind} {loss:.3f}" for kind, loss in sorted(self.smoothed.items()))
                self.say(
                    f"step {self.step} tokens {self.tokens / 1e6:.2f}M loss {losses} rate {self.rate():.1e} "
                    f"{100 * self.done():.1f}% {self.seconds:.0f} s, "
                    f"{(self.tokens - at_start) / (now - began):.0f} tokens/s"
                )
            if now - saved > 240:
                self.save()
                self.report()
                saved = now
        self.save()

    def one_step(self):
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
        # Each step draws from its own seed, so that a resumed run sees what an unbroken one would.
        rng = random.Random(f"{self.given.seed} {self.step}")
        ids, targets, kind = self.rows.batch(rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model.loss(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        old = self.smoothed.get(kind, loss.item())
        self.smoothed[kind] = old + 0.03 * (loss.item() - old)
        self.step, self.tokens = self.step + 1, self.tokens + ids.numel()

    def report(self):
        found = probe.run(self.model, self.layout, self.given.probes)
        self.say(f"  probes: {sum(ok for _, _, ok, _ in found)} of {len(found)} right, "
                 f"{sum(ended for *_, ended in found)} ended")  # fmt: skip
        for asked, said, ok, _ in random.Random(self.step).sample(found, min(6, len(found))):
            self.say(f"  {'+' if ok else '-'} {asked} -> {said}")
        self.say("  > " + probe.complete(self.model, self.layout, "She was very glad to see"))

    @torch.no_grad()
    def held_out(self):
        ids = [i for text in self.data.held_out for i in self.rows.document(text)]
        ids = torch.tensor(ids)[: (len(ids) - 1) // ROW * ROW + 1]
        return self.model.loss(ids[:-1].view(-1, ROW), ids[1:].view(-1, ROW)).item()

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": (self.step, self.tokens, self.seconds, self.smoothed),
            "shape": dataclasses.asdict(self.shape),
            "tokenizer": self.layout.tokenizer.to_str(),
        }
        torch.save(state, self.checkpoint.with_suffix(".new"))
        os.replace(self.checkpoint.with_suffix(".new"), self.checkpoint)

    def resume(self):
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        assert state["shape"] == dataclasses.asdict(self.shape), "the checkpoint has another shape"
        assert state["tokenizer"] == self.layout.tokenizer.to_str(), (
            "the checkpoint has another vocabulary: keep the texts as they were, or use --fresh"
        )
        self.model.load_state_dict(state["model"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(stored)
        self.step, self.tokens, self.seconds, self.smoothed = state["progress"]
        self.say(f"resumed at step {self.step}")

    def export(self):
        self.given.out.mkdir(parents=True, exist_ok=True)
        path = self.given.out / "casemate-default-Q8_0.gguf"
        export.write(path, self.shape, self.model.state_dict(), self.layout.tokenizer, self.tokens)
        # From here on speak with what was written, not with what was trained.
        stored = {name: torch.from_numpy(data) for name, data in export.read(path).items()}
        self.model.load_state_dict(stored)
        self.say(f"wrote {path.name}, {path.stat().st_size:,} bytes; held-out novels {self.held_out():.3f}")
        found = probe.run(self.model, self.layout, self.given.probes)
        for asked, said, ok, ended in found:
            self.say(f"{'+' if ok else '-'}{' ' if ended else '…'} {asked} -> {said}")
        self.say(f"probes: {sum(ok for _, _, ok, _ in found)} of {len(found)} right")
        count, wrong = probe.exact(self.model, self.layout, self.data.everyday)
        for asked, said in wrong[:30]:
            self.say(f"not word for word: {asked} -> {said}")
        self.say(f"everyday definitions word for word: {count} of {len(self.data.everyday)}")


class Rows:
    """Draws batches: conversations laid end to end, or stretches of the novels."""

    def __init__(self, data, layout):
        self.data, self.layout = data, layout
        ids = [i for text in data.train for i in self.document(text)]
        self.novels = np.array(ids, dtype=np.int64)

    def batch(self, rng):
        # One step in five has long rows, so that late positions are known too.
        row = 2 * ROW if rng.random() < 0.2 else ROW
        about = rng.choices(*zip(*KINDS))[0]
        draw = {"talk": self.talk_row, "plain": self.plain_row, "novels": self.novel_row}[about]
        ids, targets = zip(*(draw(rng, row) for _ in range(BATCH // row)))
        return torch.tensor(np.array(ids)), torch.tensor(np.array(targets)), about

    def document(self, text):
        return [vocabulary.BOS, *self.layout.encode(text), vocabulary.END]

    def plain_row(self, rng, row):
        ids = []
        while len(ids) <= row:
            ids += self.document(self.data.plain(rng))
        return ids[:row], ids[1 : row + 1]

    def novel_row(self, rng, row):
        start = rng.randrange(len(self.novels) - row - 1)
        return self.novels[start : start + row], self.novels[start + 1 : start + row + 1]

    def talk_row(self, rng, row):
        ids, said = [], []
        while len(ids) <= row:
            more, learn = self.layout.conversation(self.data.conversation(rng))
            ids, said = ids + more, said + learn
        targets = [i if learn else -1 for i, learn in zip(ids, said)]
        return ids[:row], targets[1 : row + 1]


if __name__ == "__main__":
    main()
