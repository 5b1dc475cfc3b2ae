"""Names of number formats for in-situ quantization, as mistral.rs spells them."""

from __future__ import annotations

from enum import Enum

from ostro.errors import InvalidParameter


class IsqType(str, Enum):
    """The known number formats, and llama.cpp's mixes of them (Q3K_S and after; ostro only)."""

    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q8_0 = "Q8_0"
    Q8_1 = "Q8_1"
    Q2K = "Q2K"
    Q3K = "Q3K"
    Q4K = "Q4K"
    Q5K = "Q5K"
    Q6K = "Q6K"
    Q8K = "Q8K"
    HQQ4 = "HQQ4"
    HQQ8 = "HQQ8"
    FP8 = "FP8"
    AFQ2 = "AFQ2"
    AFQ3 = "AFQ3"
    AFQ4 = "AFQ4"
    AFQ6 = "AFQ6"
    AFQ8 = "AFQ8"
    F8Q8 = "F8Q8"
    MXFP4 = "MXFP4"
    Q3K_S = "Q3K_S"
    Q3K_M = "Q3K_M"
    Q3K_L = "Q3K_L"
    Q4K_S = "Q4K_S"
    Q4K_M = "Q4K_M"
    Q5K_S = "Q5K_S"
    Q5K_M = "Q5K_M"


_BITS = {"2": "Q2K", "3": "Q3K", "4": "Q4K", "5": "Q5K", "6": "Q6K", "8": "Q8_0"}


def _key(name: str) -> str:
    return name.strip().upper().replace("_", "").replace("-", "")


_BY_KEY = {_key(member.value): member.value for member in IsqType}


def isq_name(asked: str | int | IsqType) -> str:
    """The canonical name ("Q4K") of a name in any case and spelling ("q4k", "Q4_K") or a number of bits (4).

    InvalidParameter lists all names when it is none of them.
    """
    text = asked.value if isinstance(asked, IsqType) else str(asked)
    name = _BITS.get(text.strip()) or _BY_KEY.get(_key(text))
    if name is None:
        known = ", ".join([*_BITS, *(member.value for member in IsqType)])
        raise InvalidParameter(
            f"in_situ_quant: unknown type {text!r}; known are {known}", param="in_situ_quant"
        )
    return name
