"""Train the vision model that ostro carries along: python scripts/train_demo_model.py --out FOLDER.

Needs torch and transformers. About 100 minutes on two cores; `--resume` goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from demo_model.batches import Writer
from demo_model.card import write_card
from demo_model.evaluate import accuracy
from demo_model.model import export
from demo_model.self_check import self_check
from demo_model.tokenizer import write_tokenizer
from demo_model.training import Training
from tokenizers import Tokenizer
from transformers import Gemma3ForConditionalGeneration


def main() -> None:
    """Train, export and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log and the finished model")
    parser.add_argument("--minutes", type=float, default=100.0, help="training time in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--export-only", action="store_true", help="write the model of the last checkpoint")
    parser.add_argument(
        "--self-check", action="store_true", help="compare packed rows with transformers, only"
    )
    parser.add_argument("--questions", type=int, default=1000, help="held-out questions at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    folder = args.out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    again = args.resume or args.export_only
    # Weights belong to the pieces they were trained with.
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json")) if again else write_tokenizer(folder)
    training = Training(tokenizer, args.out, args.minutes, args.seed)
    if again:
        training.resume()
    if args.self_check:
        export(training.average, tokenizer.get_vocab(), folder)
        print(json.dumps(self_check(folder, tokenizer)))
        return
    if not args.export_only:
        training.run()
    export(training.average, tokenizer.get_vocab(), folder)
    # What is shipped is measured: the weights as they were rounded.
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    writer = Writer(tokenizer)
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": training.progress.seconds / 60,
        "steps": training.progress.steps,
        "images": training.progress.images,
        "questions": args.questions,
        "accuracy": accuracy(model, writer, args.questions, seed=1),
        "accuracy_on_noise": accuracy(model, writer, args.questions, seed=1, noise=True),
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    write_card(folder, training.progress.curve, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
