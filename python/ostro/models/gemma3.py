"""Gemma 3: forward pass and weights of the text model, whose images come from `siglip.py`.

Source: Gemma 3 technical report, section 2; Hugging Face's modeling_gemma3 for the details.
Knows nothing about number formats, threads or devices (see ops/) nor about sequences and pages (see engine/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np

from ostro.models.siglip import Siglip
from ostro.ops.protocol import LayerCache, MatrixT, Norm, StoreT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint
    from ostro.loading.config import Gemma3Config
    from ostro.ops.batch import Batch, LayerKind
    from ostro.ops.protocol import Ops, Rows

    RopeTables = Mapping[LayerKind, Rows]


@dataclass(frozen=True, slots=True)
class DecoderLayer(Generic[MatrixT]):
    """One block: sandwich norms, grouped-query attention with QK-norm, GeGLU."""

    kind: LayerKind
    index: int  # among the layers of its kind: where its keys and values live
    window: int | None
    scale: float
    input_norm: Norm
    qkv_proj: tuple[MatrixT, MatrixT, MatrixT]
    q_norm: Norm
    k_norm: Norm
    o_proj: MatrixT
    post_attention_norm: Norm
    pre_feedforward_norm: Norm
    gate_proj: MatrixT
    up_proj: MatrixT
    down_proj: MatrixT
    post_feedforward_norm: Norm

    def forward(
        self,
        x: Rows,
        rope: Rows,
        batch: Batch,
        store: StoreT,
        ops: Ops[MatrixT, StoreT],
        queries: Batch | None = None,
    ) -> Rows:
        """The residual stream x [n, D] with this block's two branches added, in place.

        queries: the wanted rows of the batch, if only these are read behind this block: keys and values are
        written for all rows, the result is a copy [w, D].
        """
        cache = LayerCache(store, self.index, self.kind)
        q = ops.qkv(x, self.input_norm, self.qkv_proj, self.q_norm, self.k_norm, rope, batch, cache)
        if queries is not None:
            x, q, batch = x[batch.wanted], q[batch.wanted], queries
            if len(x) == 0:
                return x
        a = ops.attend(q, batch, cache, self.scale, self.window)
        ops.project_add(x, a, self.o_proj, self.post_attention_norm)
        proj = (self.gate_proj, self.up_proj, self.down_proj)
        ops.feed_forward(x, self.pre_feedforward_norm, proj, self.post_feedforward_norm)
        return x


@dataclass(frozen=True, slots=True)
class Gemma3(Generic[MatrixT]):
    """The decoder with its tied embedding and head; vision is None for a model that reads text only."""

    config: Gemma3Config
    embed_tokens: MatrixT
    layers: tuple[DecoderLayer[MatrixT], ...]
    norm: Norm
    lm_head: MatrixT
    inv_freq: Mapping[LayerKind, NDArray[np.float64]]
    vision: Siglip[MatrixT] | None = None

    @property
    def sliding_window(self) -> int | None:
        """Positions that a local layer looks back on, its own included."""
        return self.config.sliding_window

    def kv_stores(self, ops: Ops[MatrixT, StoreT]) -> dict[LayerKind, StoreT]:
        """Empty KV stores, one for each kind of layer that the model has."""
        kinds = self.config.layer_kinds
        return {
            kind: ops.kv_store(kinds.count(kind), self.config.num_key_value_heads, self.config.head_dim)
            for kind in dict.fromkeys(kinds)
        }

    def forward(self, batch: Batch, stores: Mapping[LayerKind, StoreT], ops: Ops[MatrixT, StoreT]) -> Rows:
        """Run the batch, write its keys and values, and return logits [w, V] of its wanted rows.

        All of them are right, or those of `batch.best`.
        """
        x = ops.embed(self.embed_tokens, batch.token_ids, math.sqrt(self.config.hidden_size))
        if batch.image_rows is not None:
            x[batch.image_at] = batch.image_rows
        rope: RopeTables = {kind: ops.rope(batch.positions, f) for kind, f in self.inv_freq.items()}
        *layers, last = self.layers
        for layer in layers:
            x = layer.forward(x, rope[layer.kind], batch, stores[layer.kind], ops)
        # The last block's keys and values are all that later steps read of rows without logits.
        few = len(batch.wanted) < len(batch) and not ops.every_row
        queries = batch.queries() if few else None
        x = last.forward(x, rope[last.kind], batch, stores[last.kind], ops, queries)
        cap = self.config.final_logit_softcap
        # A cap may make different logits equal.
        best = batch.best if cap is None else None
        wanted = batch.wanted if queries is None else queries.wanted
        logits = ops.head(x, wanted, self.norm, self.lm_head, best)
        return logits if cap is None else np.tanh(logits / cap) * np.float32(cap)

    @classmethod
    def load(cls, checkpoint: Checkpoint, ops: Ops[MatrixT, StoreT]) -> Gemma3[MatrixT]:
        """Adopt the checkpoint's weights as they are (names and shapes were checked when it was opened)."""
        config = checkpoint.config
        weights = _Weights(checkpoint, ops)
        embed_tokens = weights.matrix("embed_tokens")
        seen: dict[LayerKind, int] = {"global": 0, "local": 0}
        layers = []
        for i, kind in enumerate(config.layer_kinds):
            layers.append(_layer(config, weights, f"layers.{i}.", kind, seen[kind]))
            seen[kind] += 1
        return cls(
            config=config,
            embed_tokens=embed_tokens,
            layers=tuple(layers),
            norm=weights.norm("norm"),
            lm_head=embed_tokens if config.tie_word_embeddings else weights.matrix("lm_head"),
            inv_freq={kind: _inv_freq(config, kind) for kind in dict.fromkeys(config.layer_kinds)},
            vision=None if config.vision is None else Siglip.load(checkpoint, config.vision, ops),
        )


def _inv_freq(config: Gemma3Config, kind: LayerKind) -> NDArray[np.float64]:
    """Frequencies theta ** (-2 i / head_dim), [head_dim / 2]; linear scaling is for global layers alone."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    if kind == "global":
        return config.rope_theta**-exponents / config.rope_factor
    return config.rope_local_theta**-exponents


def _layer(
    config: Gemma3Config, weights: _Weights[MatrixT, StoreT], prefix: str, kind: LayerKind, index: int
) -> DecoderLayer[MatrixT]:
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    return DecoderLayer(
        kind=kind,
        index=index,
        window=config.sliding_window if kind == "local" else None,
        scale=config.attention_scale,
        input_norm=weights.norm(prefix + "input_layernorm"),
        qkv_proj=(
            weights.matrix(attention + "q_proj"),
            weights.matrix(attention + "k_proj"),
            weights.matrix(attention + "v_proj"),
        ),
        q_norm=weights.norm(attention + "q_norm"),
        k_norm=weights.norm(attention + "k_norm"),
        o_proj=weights.matrix(attention + "o_proj"),
        post_attention_norm=weights.norm(prefix + "post_attention_layernorm"),
        pre_feedforward_norm=weights.norm(prefix + "pre_feedforward_layernorm"),
        gate_proj=weights.matrix(mlp + "gate_proj"),
        up_proj=weights.matrix(mlp + "up_proj"),
        down_proj=weights.matrix(mlp + "down_proj"),
        post_feedforward_norm=weights.norm(prefix + "post_feedforward_layernorm"),
    )


@dataclass(frozen=True, slots=True)
class _Weights(Generic[MatrixT, StoreT]):
    checkpoint: Checkpoint
    ops: Ops[MatrixT, StoreT]

    def matrix(self, name: str) -> MatrixT:
        return self.ops.matrix(self.checkpoint.tensors[name + ".weight"])

    def norm(self, name: str) -> Norm:
        # As in HF: 1 + w is formed in float32, whatever type w has.
        weight = self.ops.vector(self.checkpoint.tensors[name + ".weight"])
        return Norm(weight + np.float32(self.checkpoint.norm_offset), self.checkpoint.config.rms_norm_eps)
