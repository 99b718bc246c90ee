"""The network: llama's layers, with the interleaved rotary layout that GGUF files of llama use."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    vocabulary: int = 4096
    width: int = 256
    layers: int = 3
    heads: int = 8
    heads_kv: int = 4
    hidden: int = 768
    context: int = 512
    epsilon: float = 1e-5
    rope_base: float = 10_000.0

    @property
    def head_width(self):
        return self.width // self.heads


class Norm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(shape.width)), shape.epsilon

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        width, narrow = shape.width, shape.heads_kv * shape.head_width
        self.attn_norm, self.ffn_norm = Norm(shape), Norm(shape)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, narrow, bias=False)
        self.attn_v = nn.Linear(width, narrow, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_gate = nn.Linear(width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, width, bias=False)

    def forward(self, x, cos, sin):
        rows, length, width = x.shape
        h = self.attn_norm(x)
        split = lambda z: z.view(rows, length, -1, self.shape.head_width).transpose(1, 2)
        q, k = (rotate(split(z), cos, sin) for z in (self.attn_q(h), self.attn_k(h)))
        v = split(self.attn_v(h))
        group = self.shape.heads // self.shape.heads_kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.attn_output(a.transpose(1, 2).reshape(rows, length, width))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


def rotate(z, cos, sin):
    """Turns the pairs (0, 1), (2, 3), … of each head."""
    a, b = z.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * shape.layers) if last else 1))
        steps = torch.arange(0, shape.head_width, 2).float() / shape.head_width
        angles = torch.arange(shape.context).float()[:, None] * shape.rope_base**-steps
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, ids):
        x, length = self.token_embd(ids), ids.shape[1]
        for layer in self.blk:
            x = layer(x, self.cos[:length], self.sin[:length])
        return self.output_norm(x)

    def forward(self, ids):
        return F.linear(self.hidden(ids), self.token_embd.weight)

    def loss(self, ids, targets):
        """Mean cross entropy over the targets that are not negative."""
        counted = targets.flatten() >= 0
        logits = F.linear(self.hidden(ids).flatten(0, 1)[counted], self.token_embd.weight)
        return F.cross_entropy(logits.float(), targets.flatten()[counted])
