"""Write tests/parity/data/vision-small/layouts.safetensors: where images may stand in a conversation.

Needs the extra "train" (torch, transformers). For each layout: ids, the numbers of its images in the folder's
golden pixel_values, and transformers' float32 logits of every row.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

FOLDER = Path(__file__).parents[1] / "tests" / "parity" / "data" / "vision-small"
BEGIN, END, SOFT = 297, 298, 299


def main() -> None:
    """Compute and write."""
    model = Gemma3ForConditionalGeneration.from_pretrained(
        FOLDER, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    pixels = load_file(FOLDER / "golden.safetensors")["pixel_values"]
    generator = torch.Generator().manual_seed(5)

    def text(count: int) -> list[int]:
        return torch.randint(3, 290, (count,), generator=generator).tolist()

    image = [BEGIN, SOFT, SOFT, SOFT, SOFT, END]
    layouts = {
        "one_image": ([2, *text(3), *image, *text(5)], [1]),
        "three_images": ([2, *image, *text(2), *image, *image, *text(4)], [0, 1, 0]),
        "long_text_behind": ([2, *text(4), *image, *text(60)], [0]),
        "fifth_turn": ([2, *text(70), *image, *text(6)], [1]),
        "first_and_fifth_turn": ([2, *image, *text(64), *image, *text(6)], [0, 1]),
    }
    arrays = {}
    for name, (ids, which) in layouts.items():
        row = torch.tensor([ids])
        with torch.no_grad():
            logits = model(
                input_ids=row, pixel_values=pixels[which], token_type_ids=(row == SOFT).long()
            ).logits
        arrays[f"{name}.ids"] = row[0].to(torch.int32)
        arrays[f"{name}.images"] = torch.tensor(which, dtype=torch.int32)
        arrays[f"{name}.logits"] = logits[0].contiguous()
    save_file(arrays, FOLDER / "layouts.safetensors")


if __name__ == "__main__":
    main()
