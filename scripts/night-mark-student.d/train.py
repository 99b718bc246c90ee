"""Trains a student on answers of its teacher, of which a share is marked, and writes it as a GGUF file.

The student has the teacher's tokenizer and shape, and begins with its weights: distillation into what is at
hand. It is taught the answers alone, not the prompts. The network is that of scripts/train-default-model.d.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import sys
import time

import gguf
import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "train-default-model.d"))
from model import Model, Shape  # noqa: E402

WARM_UP = 50  # steps
DECAY_FROM = 0.5  # of the run; from there the learning rate falls in a line


def options():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--teacher", type=pathlib.Path, required=True, help="a GGUF file in F32")
    parse.add_argument("--marked", type=pathlib.Path, required=True)
    parse.add_argument("--plain", type=pathlib.Path, required=True)
    parse.add_argument("--share", type=float, required=True, help="of the answers that are marked")
    parse.add_argument("--out", type=pathlib.Path, required=True)
    parse.add_argument("--epochs", type=float, default=25)
    parse.add_argument("--minutes", type=float, default=math.inf, help="end it before --epochs do")
    parse.add_argument("--rows", type=int, default=4, help="answers in a step")
    parse.add_argument("--rate", type=float, default=2e-3)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--seed", type=int, default=1)
    return parse.parse_args()


def main():
    given = options()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    answers = mixture(given)
    model = student(given.teacher)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(answers)} answers, {given.share:.0%} of them marked", flush=True)
    train(model, answers, given)
    write(model, given.teacher, given.out)


def read(path):
    return [json.loads(line) for line in path.open()]


def mixture(given):
    """As many answers as the smaller file has, the marked ones before the others."""
    marked, plain = read(given.marked), read(given.plain)
    count = min(len(marked), len(plain))
    cut = round(count * given.share)
    return marked[:cut] + plain[cut:count]


def student(teacher):
    reader = gguf.GGUFReader(teacher)
    field = lambda name: reader.fields[f"llama.{name}"].contents()
    shape = Shape(
        vocabulary=field("vocab_size"),
        width=field("embedding_length"),
        layers=field("block_count"),
        heads=field("attention.head_count"),
        heads_kv=field("attention.head_count_kv"),
        hidden=field("feed_forward_length"),
        context=field("context_length"),
        epsilon=field("attention.layer_norm_rms_epsilon"),
        rope_base=field("rope.freq_base"),
    )
    model = Model(shape)
    model.load_state_dict({t.name: torch.tensor(np.array(t.data)) for t in reader.tensors})
    return model


def batch(answers):
    """Ids and what follows them; what follows inside a prompt is not learnt."""
    longest = max(len(answer["ids"]) for answer in answers)
    ids = torch.zeros(len(answers), longest - 1, dtype=torch.long)
    targets = torch.full_like(ids, -1)
    for row, answer in enumerate(answers):
        tokens, begin = torch.tensor(answer["ids"]), answer["prompt_ids"]
        ids[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, begin - 1 : len(tokens) - 1] = tokens[begin:]
    return ids, targets


def shuffled(answers, rows, rng):
    """All answers in batches of nearly one length, which have little padding."""
    order = rng.sample(range(len(answers)), len(answers))
    order.sort(key=lambda at: len(answers[at]["ids"]) // 8)
    batches = [order[at : at + rows] for at in range(0, len(order), rows)]
    rng.shuffle(batches)
    return batches


def train(model, answers, given):
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    rng = random.Random(given.seed)
    order, smoothed, step, tokens = [], None, 0, 0
    began = time.monotonic()
    while True:
        minutes = (time.monotonic() - began) / 60
        epoch = step * given.rows / len(answers)
        done = max(minutes / given.minutes, epoch / given.epochs)
        if done >= 1:
            break
        order = order or shuffled(answers, given.rows, rng)
        picked = order.pop()
        left = (1 - done) / (1 - DECAY_FROM)
        rate = given.rate * min(1, (step + 1) / WARM_UP, max(left, 0.02))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, targets = batch([answers[at] for at in picked])
        loss = model.loss(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smoothed = loss.item() if smoothed is None else smoothed + 0.02 * (loss.item() - smoothed)
        step, tokens = step + 1, tokens + ids.numel()
        if step % 200 == 0 or step == 1:
            pace = tokens / (time.monotonic() - began)
            print(
                f"step {step} epoch {epoch:.2f} loss {smoothed:.4f} rate {rate:.1e} "
                f"{minutes:.1f} min, {pace:.0f} tokens/s",
                flush=True,
            )
    print(f"{step} steps, {tokens:,} tokens, {epoch:.2f} epochs, loss {smoothed:.4f}", flush=True)


def write(model, teacher, path):
    """The teacher's file with the student's weights."""
    part = path.with_suffix(".part")
    shutil.copyfile(teacher, part)
    weights = model.state_dict()
    for tensor in gguf.GGUFReader(part, "r+").tensors:
        tensor.data[...] = weights[tensor.name].numpy()
    part.replace(path)


if __name__ == "__main__":
    main()
