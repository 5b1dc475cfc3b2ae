"""mistral.rs' part of `benches.uqff_with_mistralrs`, run by the interpreter of its environment.

write SOURCE TARGET TYPE: quantizes the model in SOURCE and writes it as UQFF.
ask FOLDER FILE PICTURE: prints what the model in FOLDER says about a picture; FILE "-" is the original one.
"""

from __future__ import annotations

import sys
from typing import Any

import mistralrs


def _runner(folder: str, **options: Any) -> Any:
    quant = options.pop("in_situ_quant", None)
    which = mistralrs.Which.MultimodalPlain(
        model_id=folder, arch=mistralrs.MultimodalArchitecture.Gemma3, **options
    )
    return mistralrs.Runner(which=which, in_situ_quant=quant, prefix_cache_n=0)


def write(source: str, target: str, quant: str) -> None:
    _runner(source, write_uqff=target, in_situ_quant=quant)


def ask(folder: str, file: str, picture: str) -> None:
    runner = _runner(folder) if file == "-" else _runner(folder, from_uqff=file)
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "describe"}]
    answer = runner.send_chat_completion_request(
        mistralrs.ChatCompletionRequest(
            model="default",
            messages=[{"role": "user", "content": content}],
            max_tokens=48,
            temperature=0.0,
        )
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    {"write": write, "ask": ask}[sys.argv[1]](*sys.argv[2:])
