"""Gemma 3's eye: the SigLIP tower and the projector to the text model.

Source: Gemma 3 technical report, section 2.1; SigLIP (arXiv 2303.15343); Hugging Face's modeling_siglip and
Gemma3MultiModalProjector for the details.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np

from ostro.loading.vision_names import PROJECTION, PROJECTION_TURNED
from ostro.ops.protocol import PAGE_SIZE, LayerNorm, Linear, MatrixT, Norm, StoreT

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from ostro.loading.checkpoint import Checkpoint
    from ostro.loading.config import VisionConfig
    from ostro.ops.protocol import Ops, Rows

    Encoding = Generator[None, None, Rows]

SLICE = 480
"""Patches computed at a time: bounds scratch memory, and how long others wait for the machine.

A multiple of the 96 rows that attention takes together.
"""


@dataclass(frozen=True, slots=True)
class EncoderLayer(Generic[MatrixT]):
    """One block: pre-norms, full attention over all patches, GELU."""

    scale: float
    layer_norm1: LayerNorm
    qkv_proj: tuple[Linear[MatrixT], Linear[MatrixT], Linear[MatrixT]]
    out_proj: Linear[MatrixT]
    layer_norm2: LayerNorm
    fc1: Linear[MatrixT]
    fc2: Linear[MatrixT]

    def forward(self, x: Rows, store: StoreT, ops: Ops[MatrixT, StoreT]) -> Iterator[None]:
        """Add this block's two branches to x [patches, D], in place, slice by slice."""
        queries = []
        for part in _slices(len(x)):
            queries.append(ops.encoder_qkv(x[part], self.layer_norm1, self.qkv_proj, part.start, store))
            yield
        # From here on rows are independent of each other: all keys and values are in the store.
        for part, q in zip(_slices(len(x)), queries, strict=True):
            rows = x[part]
            ops.linear_add(rows, ops.attend_all(q, store, len(x), self.scale), self.out_proj)
            yield
            ops.linear_add(rows, ops.norm_gelu(rows, self.layer_norm2, self.fc1), self.fc2)
            yield


@dataclass(frozen=True, slots=True)
class Siglip(Generic[MatrixT]):
    """An image becomes `config.tokens_per_image` rows of the text model's width."""

    config: VisionConfig
    patch_embedding: Linear[MatrixT]
    position_embedding: Rows
    layers: tuple[EncoderLayer[MatrixT], ...]
    post_layernorm: LayerNorm
    soft_emb_norm: Norm
    input_projection: MatrixT

    @property
    def tokens_per_image(self) -> int:
        """Rows that one image becomes."""
        return self.config.tokens_per_image

    def encode(self, pixels: NDArray[np.uint8] | Rows, ops: Ops[MatrixT, StoreT]) -> Encoding:
        """Rows [tokens_per_image, text D], returned at the generator's end; it pauses after some work.

        pixels: uint8 [S, S, 3] as the user's picture, or float32 [3, S, S] normalised as the tower wants it.
        """
        config = self.config
        heads = config.num_attention_heads
        store = ops.encoder_store(heads, config.hidden_size // heads)
        store.reserve(-(-(config.grid**2) // PAGE_SIZE))
        patches = self._patches(pixels)
        x = ops.linear(patches, self.patch_embedding)
        del patches
        x += self.position_embedding
        yield
        for layer in self.layers:
            yield from layer.forward(x, store, ops)
        x = self._pool(ops.layer_norm(x, self.post_layernorm))
        return ops.head(x, np.arange(len(x), dtype=np.int32), self.soft_emb_norm, self.input_projection)

    def _patches(self, pixels: NDArray[np.uint8] | Rows) -> Rows:
        """Rows [patches, channels * patch * patch] of normalised values, patches row by row."""
        config = self.config
        if pixels.dtype == np.uint8:
            mean, std = (np.array(v, np.float32) * 255 for v in (config.image_mean, config.image_std))
            pixels = ((pixels.astype(np.float32) - mean) / std).transpose(2, 0, 1)
        grid, side = config.grid, config.patch_size
        tiles = pixels.reshape(-1, grid, side, grid, side)
        return np.ascontiguousarray(tiles.transpose(1, 3, 0, 2, 4), np.float32).reshape(grid * grid, -1)

    def _pool(self, x: Rows) -> Rows:
        """Average over squares of patches, so that tokens_per_image rows are left."""
        side = round(self.config.tokens_per_image**0.5)
        kernel = self.config.grid // side
        return np.ascontiguousarray(
            x.reshape(side, kernel, side, kernel, -1).mean(axis=(1, 3)).reshape(side * side, -1)
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: VisionConfig, ops: Ops[MatrixT, StoreT]) -> Siglip[MatrixT]:
        """Adopt the checkpoint's weights (names and shapes were checked when it was opened)."""
        weights = _Weights(checkpoint, config.layer_norm_eps, ops)
        norm = weights.vector("projector.mm_soft_emb_norm.weight")
        return cls(
            config=config,
            patch_embedding=weights.linear("vision.embeddings.patch_embedding"),
            position_embedding=weights.rows("vision.embeddings.position_embedding.weight"),
            layers=tuple(
                _layer(weights, f"vision.encoder.layers.{i}.", config)
                for i in range(config.num_hidden_layers)
            ),
            post_layernorm=weights.layer_norm("vision.post_layernorm"),
            soft_emb_norm=Norm(norm + np.float32(checkpoint.projector_norm_offset), config.layer_norm_eps),
            input_projection=weights.projection(),
        )


def run(encoding: Encoding) -> Rows:
    """Compute an image's rows at once."""
    result: list[Rows] = []

    def collect() -> Iterator[None]:
        result.append((yield from encoding))

    for _ in collect():
        pass
    return result[0]


def _slices(rows: int) -> list[slice]:
    return [slice(start, min(start + SLICE, rows)) for start in range(0, rows, SLICE)]


def _layer(weights: _Weights[MatrixT, StoreT], prefix: str, config: VisionConfig) -> EncoderLayer[MatrixT]:
    attention = prefix + "self_attn."
    return EncoderLayer(
        scale=(config.hidden_size // config.num_attention_heads) ** -0.5,
        layer_norm1=weights.layer_norm(prefix + "layer_norm1"),
        qkv_proj=(
            weights.linear(attention + "q_proj"),
            weights.linear(attention + "k_proj"),
            weights.linear(attention + "v_proj"),
        ),
        out_proj=weights.linear(attention + "out_proj"),
        layer_norm2=weights.layer_norm(prefix + "layer_norm2"),
        fc1=weights.linear(prefix + "mlp.fc1"),
        fc2=weights.linear(prefix + "mlp.fc2"),
    )


@dataclass(frozen=True, slots=True)
class _Weights(Generic[MatrixT, StoreT]):
    checkpoint: Checkpoint
    eps: float
    ops: Ops[MatrixT, StoreT]

    def vector(self, name: str) -> Rows:
        return self.ops.vector(self.checkpoint.vision_tensors[name])

    def rows(self, name: str) -> Rows:
        tensor = self.checkpoint.vision_tensors[name]
        return self.ops.embed(self.ops.matrix(tensor), np.arange(tensor.shape[0], dtype=np.int32), 1.0)

    def linear(self, name: str) -> Linear[MatrixT]:
        tensor = self.checkpoint.vision_tensors[name + ".weight"].as_matrix()
        return Linear(self.ops.matrix(tensor), self.vector(name + ".bias"))

    def projection(self) -> MatrixT:
        tensors = self.checkpoint.vision_tensors
        turned = tensors.get(PROJECTION_TURNED)
        return self.ops.matrix(tensors[PROJECTION].transposed() if turned is None else turned)

    def layer_norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.vector(name + ".weight"), self.vector(name + ".bias"), self.eps)
