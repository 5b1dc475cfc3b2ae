from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.errors import BadConfig, ModelNotFound
from ostro.quant.topology import read_topology

if TYPE_CHECKING:
    from pathlib import Path


def test_ranges_layers_and_patterns(tmp_path: Path) -> None:
    path = tmp_path / "topology.yml"
    path.write_text(
        """
0-2:
  isq: Q3K
1:
  isq: q8_0
  device: cpu
3: {isq: 4}
5: {device: cpu}
'/down_proj/': {isq: Q6K}
"/blk\\\\.7\\\\./": {isq: Q5K}
"""
    )
    topology = read_topology(path)

    def of(name: str, own: str = "") -> str | None:
        return topology.name(name, own)

    assert of("layers.0.self_attn.q_proj.weight") == "Q3K"
    assert of("layers.1.self_attn.q_proj.weight") == "Q8_0"
    assert of("layers.2.self_attn.q_proj.weight") is None
    assert of("layers.3.self_attn.q_proj.weight") == "Q4K"
    assert of("layers.5.self_attn.q_proj.weight") is None
    assert of("layers.0.mlp.down_proj.weight") == "Q6K"
    assert of("layers.7.mlp.up_proj.weight", "blk.7.ffn_up.weight") == "Q5K"
    assert of("embed_tokens.weight") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'expected entries such as "0-8: {isq: Q3K}"'),
        ("[1, 2]", 'expected entries such as "0-8: {isq: Q3K}"'),
        ("0: Q3K", 'the entry \'0\' must say "isq: NAME", and may say "device: cpu"'),
        ("0: {isq: Q9}", "'0': in_situ_quant: unknown type 'Q9'"),
        ("0: {isq: Q3K, device: 'cuda[0]'}", "'0': device 'cuda[0]' is not here; ostro runs on cpu"),
        ("8-8: {isq: Q3K}", "'8-8' is neither a layer (7)"),
        ("-1: {isq: Q3K}", "'-1' is neither a layer (7)"),
        ("'9999999999': {isq: Q3K}", "'9999999999' is neither a layer (7)"),
        ("'/(/': {isq: Q3K}", "'/(/' is no regular expression"),
        ("0: {isq: [", "not a YAML file"),
        ("0: !!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "topology.yml"
    path.write_text(text)
    with pytest.raises(BadConfig) as caught:
        read_topology(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        read_topology(tmp_path / "none.yml")
    assert str(caught.value) == f"{tmp_path / 'none.yml'}: there is no such topology file"
    with pytest.raises(BadConfig, match="cannot be read"):
        read_topology(tmp_path)
