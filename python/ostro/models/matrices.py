"""The matrices of a loaded model under their canonical names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostro.models.gemma3 import DecoderLayer, Gemma3
    from ostro.models.siglip import EncoderLayer, Siglip
    from ostro.ops.protocol import MatrixT

    Named = tuple[str, MatrixT]


def named_matrices(model: Gemma3[MatrixT]) -> Iterator[Named[MatrixT]]:
    """(name, matrix) of both halves, in the order of the forward pass; a tied head is the embedding.

    The projector's matrix comes as it is multiplied, [D, vision]: its tensor is the transpose of that.
    """
    if model.vision is not None:
        yield from _vision(model.vision)
    yield "embed_tokens.weight", model.embed_tokens
    for index, layer in enumerate(model.layers):
        yield from _decoder_layer(f"layers.{index}.", layer)
    if model.lm_head is not model.embed_tokens:
        yield "lm_head.weight", model.lm_head


def text_matrices(model: Gemma3[MatrixT]) -> Iterator[MatrixT]:
    """What a step of the text half multiplies with, in that order."""
    for layer in model.layers:
        yield from (matrix for _, matrix in _decoder_layer("", layer))
    yield model.lm_head


def _decoder_layer(prefix: str, layer: DecoderLayer[MatrixT]) -> Iterator[Named[MatrixT]]:
    q, k, v = layer.qkv_proj
    yield prefix + "self_attn.q_proj.weight", q
    yield prefix + "self_attn.k_proj.weight", k
    yield prefix + "self_attn.v_proj.weight", v
    yield prefix + "self_attn.o_proj.weight", layer.o_proj
    yield prefix + "mlp.gate_proj.weight", layer.gate_proj
    yield prefix + "mlp.up_proj.weight", layer.up_proj
    yield prefix + "mlp.down_proj.weight", layer.down_proj


def _vision(vision: Siglip[MatrixT]) -> Iterator[Named[MatrixT]]:
    yield "vision.embeddings.patch_embedding.weight", vision.patch_embedding.matrix
    for index, layer in enumerate(vision.layers):
        yield from _encoder_layer(f"vision.encoder.layers.{index}.", layer)
    yield "projector.mm_input_projection_weight", vision.input_projection


def _encoder_layer(prefix: str, layer: EncoderLayer[MatrixT]) -> Iterator[Named[MatrixT]]:
    q, k, v = layer.qkv_proj
    yield prefix + "self_attn.q_proj.weight", q.matrix
    yield prefix + "self_attn.k_proj.weight", k.matrix
    yield prefix + "self_attn.v_proj.weight", v.matrix
    yield prefix + "self_attn.out_proj.weight", layer.out_proj.matrix
    yield prefix + "mlp.fc1.weight", layer.fc1.matrix
    yield prefix + "mlp.fc2.weight", layer.fc2.matrix
