"""Gemma 3's text model in OpenVINO's operations, in the form in which optimum-intel exports it.

That is: the cache of keys and values is state of the model, one variable for each, and its parts stand in the
patterns by which OpenVINO and GenAI know attention, windows, norms and rotary positions. Knows nothing about
where weights come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from openvino import Model, Type
from openvino import opset13 as ops

if TYPE_CHECKING:
    from benches.compare.shapes import Shape
    from openvino import Node

EPSILON = 1e-6
GLOBAL_EVERY = 6
THETA_GLOBAL, THETA_LOCAL = 1e6, 1e4
HIDDEN_SCORE = float(np.finfo(np.float32).min)


class Weights(Protocol):
    """All values float32 in the graph, however they are stored."""

    def matrix(self, name: str, rows: int, width: int) -> Node:
        """[rows, width]."""

    def norm(self, name: str, width: int) -> Node:
        """The factors of a norm, 1 + w: [width]."""


def build(shape: Shape, weights: Weights) -> Model:
    """input_ids, attention_mask, position_ids [batch, tokens] and beam_idx [batch] -> logits [batch, tokens,
    vocabulary]; attention_mask covers the tokens in the state, too.
    """
    ids, mask, positions = (
        _input(name, [-1, -1], Type.i64) for name in ("input_ids", "attention_mask", "position_ids")
    )
    beams = _input("beam_idx", [-1], Type.i32)
    embedding = weights.matrix("embed_tokens", shape.vocabulary, shape.hidden)
    x = ops.gather(embedding, ids, 0) * _real(shape.hidden**0.5)
    full, local = _masks(ids, mask, shape.window)
    kinds = {
        True: (full, _rotation(positions, shape.head, THETA_GLOBAL, shape.rope_factor or 1.0)),
        False: (local, _rotation(positions, shape.head, THETA_LOCAL, 1.0)),
    }
    batch = ops.gather(ops.shape_of(ids), [0], 0)
    sinks: list[Node] = []
    for layer in range(shape.layers):
        part = _Layer(shape, weights, layer)
        scores_mask, rotation = kinds[(layer + 1) % GLOBAL_EVERY == 0]
        a = part.attention(part.norm("input", x), batch, beams, scores_mask, rotation, sinks)
        x = x + part.norm("post_attention", a)
        x = x + part.norm("post_feedforward", part.mlp(part.norm("pre_feedforward", x)))
    logits = ops.matmul(_rms_norm(x, weights.norm("norm", shape.hidden)), embedding, False, True)
    logits.output(0).set_names({"logits"})
    return Model([ops.result(logits, name="logits")], sinks, [ids, mask, positions, beams], "gemma3")


class _Layer:
    """Layer `index` of a model: its parts, from values to values [batch, tokens, hidden]."""

    def __init__(self, shape: Shape, weights: Weights, index: int) -> None:
        self._shape, self._weights, self._index = shape, weights, index

    def norm(self, name: str, x: Node) -> Node:
        return self._norm(f"{name}_layernorm", x, self._shape.hidden)

    def mlp(self, x: Node) -> Node:
        shape = self._shape
        gate = self._linear("mlp.gate_proj", x, shape.ffn, shape.hidden)
        up = self._linear("mlp.up_proj", x, shape.ffn, shape.hidden)
        return self._linear("mlp.down_proj", ops.gelu(gate, "TANH") * up, shape.hidden, shape.ffn)

    def attention(
        self, x: Node, batch: Node, beams: Node, mask: Node, rotation: tuple[Node, Node], sinks: list[Node]
    ) -> Node:
        """sinks: what writes the state back is added to it."""
        shape = self._shape
        q = self._heads("q", x, shape.heads)
        k = self._heads("k", x, shape.kv_heads)
        v = self._heads("v", x, shape.kv_heads)
        q = _rotate(self._norm("self_attn.q_norm", q, shape.head), rotation)
        k = _rotate(self._norm("self_attn.k_norm", k, shape.head), rotation)
        k, v = (self._remember(name, new, batch, beams, sinks) for name, new in (("key", k), ("value", v)))
        a = ops.scaled_dot_product_attention(q, self._repeat(k), self._repeat(v), mask)
        width = shape.heads * shape.head
        a = ops.reshape(ops.transpose(a, [0, 2, 1, 3]), [0, 0, width], True)
        return self._linear("self_attn.o_proj", a, shape.hidden, width)

    def _heads(self, name: str, x: Node, heads: int) -> Node:
        """[batch, heads, tokens, head]."""
        shape = self._shape
        values = self._linear(f"self_attn.{name}_proj", x, heads * shape.head, shape.hidden)
        return ops.transpose(ops.reshape(values, [0, 0, heads, shape.head], True), [0, 2, 1, 3])

    def _remember(self, name: str, new: Node, batch: Node, beams: Node, sinks: list[Node]) -> Node:
        """`new` behind what the state holds: [batch, kv heads, all tokens, head]."""
        shape = self._shape
        variable = f"past_key_values.{self._index}.{name}present.{self._index}.{name}"
        empty = ops.concat([batch, np.array([shape.kv_heads, 0, shape.head], np.int64)], 0)
        past = ops.read_value(
            ops.broadcast(_real(0), empty), variable, Type.f32, [-1, shape.kv_heads, -1, shape.head]
        )
        values = ops.concat([ops.gather(past, beams, 0), new], 2)
        sinks.append(ops.assign(values, variable))
        return values

    def _repeat(self, values: Node) -> Node:
        """Every key or value head once for each query head that reads it."""
        shape = self._shape
        times = shape.heads // shape.kv_heads
        spread = ops.broadcast(ops.unsqueeze(values, 2), [1, 1, times, 1, 1], broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(spread, [0, shape.heads, -1, shape.head], True)

    def _norm(self, name: str, x: Node, width: int) -> Node:
        return _rms_norm(x, self._weights.norm(f"layers.{self._index}.{name}", width))

    def _linear(self, name: str, x: Node, rows: int, width: int) -> Node:
        return ops.matmul(x, self._weights.matrix(f"layers.{self._index}.{name}", rows, width), False, True)


def _input(name: str, dims: list[int], kind: Type) -> Node:
    node = ops.parameter(dims, kind, name=name)
    node.output(0).set_names({name})
    return node


def _real(value: float) -> Node:
    # Plain numbers become float64 beside a node.
    return ops.constant(np.float32(value))


def _rms_norm(x: Node, weight: Node) -> Node:
    mean = ops.reduce_mean(ops.power(x, _real(2)), [-1], True)
    return x * (_real(1) / ops.sqrt(mean + _real(EPSILON))) * weight


def _rotation(positions: Node, head: int, theta: float, factor: float) -> tuple[Node, Node]:
    """Cosines and sines [batch, 1, tokens, head]."""
    frequencies = theta ** (-np.arange(0, head, 2) / head) / factor
    steps = ops.convert(ops.unsqueeze(positions, 1), "f32")
    angles = ops.matmul(frequencies.astype(np.float32).reshape(1, -1, 1), steps, False, False)
    angles = ops.transpose(angles, [0, 2, 1])
    both = ops.concat([angles, angles], -1)
    return ops.unsqueeze(ops.cos(both), 1), ops.unsqueeze(ops.sin(both), 1)


def _rotate(x: Node, rotation: tuple[Node, Node]) -> Node:
    """x [batch, heads, tokens, head] turned by cosines and sines."""
    cos, sin = rotation
    half = int(x.get_output_partial_shape(0)[-1].get_length()) // 2
    last = np.iinfo(np.int64).max
    first, second = (ops.slice(x, [start], [stop], [1], [3]) for start, stop in ((0, half), (half, last)))
    return x * cos + ops.concat([second * _real(-1), first], -1) * sin


def _masks(ids: Node, mask: Node, window: int) -> tuple[Node, Node]:
    """What is added to scores: of global layers and of local ones, [batch, 1, tokens, all tokens]."""
    count, total = (ops.gather(ops.shape_of(node), 1, 0) for node in (ids, mask))
    keys = ops.unsqueeze(ops.range(0, total, 1, "i64"), [0, 1, 2])
    queries = ops.unsqueeze(ops.range(total - count, total, 1, "i64"), [0, 1, 3])
    real = ops.unsqueeze(ops.convert(mask, "boolean"), [1, 2])
    causal = ops.less_equal(keys, queries)
    full = _scores(ops.bitwise_and(causal, real))
    # GenAI knows a window only by the form that it has in transformers' masks: the comparison inside of four
    # ands, spread, selecting, sliced. From any other form, its attention would read all keys.
    near = ops.greater(keys, ops.add(queries, -window))
    local = ops.bitwise_and(ops.bitwise_and(causal, near), real)
    return full, _scores(ops.bitwise_and(ops.bitwise_and(real, local), real))


def _scores(seen: Node) -> Node:
    spread = ops.broadcast(seen, ops.shape_of(seen))
    scores = ops.select(spread, _real(0), _real(HIDDEN_SCORE))
    return ops.slice(scores, [0], [np.iinfo(np.int64).max], [1], [3])
