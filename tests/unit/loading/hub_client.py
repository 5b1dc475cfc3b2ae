"""Run as a script: opens one model after the other and prints what happened, a JSON object a line.

Arguments: a JSON list of keyword arguments for `open_checkpoint`. A process of its own, since the hub library
reads its environment when it is imported.
"""

from __future__ import annotations

import json
import sys

from ostro.errors import OstroError
from ostro.loading.open import open_checkpoint


def main() -> None:
    for arguments in json.loads(sys.argv[1]):
        reports: list[tuple[str, int, int]] = []
        try:
            checkpoint = open_checkpoint(
                **arguments, progress=lambda what, done, total, to=reports: to.append((what, done, total))
            )
        except OstroError as error:
            print(json.dumps({"error": type(error).__name__, "message": error.message}))
            continue
        vision = checkpoint.config.vision
        print(
            json.dumps(
                {
                    "name": checkpoint.name,
                    "tensors": len(checkpoint.tensors),
                    "tokenizer": str(checkpoint.tokenizer)[:1000],
                    "vision": vision and vision.hidden_size,
                    "image_mean": vision and vision.image_mean,
                    "chat_template": checkpoint.chat_template,
                    "progress": reports,
                }
            )
        )


main()
