"""From the name of a model to a host that answers with it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ostro.config import IsqConfig
from ostro.engine.calibration import Calibration
from ostro.engine.engine import Engine
from ostro.engine.loop import EngineLoop
from ostro.errors import BadConfig
from ostro.isq_names import isq_name
from ostro.loading.heap import trim_heap
from ostro.loading.open import open_checkpoint
from ostro.models.work import Work
from ostro.prompt.build import PromptBuilder
from ostro.prompt.tokenizer import load_tokenizer
from ostro.source_model import SourceModel
from ostro.which import Which

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostro.config import RuntimeConfig
    from ostro.host import ModelHost
    from ostro.loading.checkpoint import Checkpoint, Progress
    from ostro.prompt.fetch import ImageAccess, ImageFetcher
    from ostro.prompt.tokenizer import Tokenizer
    from ostro.quant.quantize import Importance as Columns


def load_host(
    kind: type[ModelHost],
    which: Which | str | Path | None,
    runtime: RuntimeConfig,
    *,
    in_situ_quant: str | int | None,
    isq_vision: bool,
    isq_cache: Path | None,
    chat_template: str | None,
    token_source: str,
    progress: Progress | None,
    images: ImageAccess | None,
    pan_and_scan: bool | None,
) -> ModelHost:
    """A host of `kind`; see `ModelHost.load`, which imports this: `import ostro` stays quick."""
    source = (Which.demo() if which is None else Which.of(which)).source()
    isq = IsqConfig(
        name=None if in_situ_quant is None else isq_name(in_situ_quant),
        topology=source.topology,
        vision=isq_vision,
        imatrix=source.imatrix,
        calibration=source.calibration_file,
        cache=isq_cache,
    )
    checkpoint = open_checkpoint(
        source.model,
        gguf_file=source.gguf_file,
        uqff_files=source.uqff_files,
        mmproj_file=source.mmproj_file,
        tokenizer_json=source.tokenizer_json,
        tok_model_id=source.tok_model_id,
        revision=source.revision,
        token_source=token_source,
        cache_dir=source.cache_dir,
        progress=progress,
    )
    if checkpoint.tokenizer is None:
        raise BadConfig(
            f"{checkpoint.name} has no tokenizer: put tokenizer.json beside it, "
            "or name one with tokenizer_json"
        )
    config = checkpoint.config
    source_model = SourceModel(checkpoint, isq, runtime)
    ops = source_model.ops
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    fetcher = None if config.vision is None else _image_fetcher(images)
    stop_ids = _stop_ids(checkpoint, tokenizer)
    model = source_model.load(progress, write_uqff=source.write_uqff)
    engine = Engine(
        model,
        ops,
        tokenizer,
        runtime,
        stop_ids=stop_ids,
        banned_ids=_banned_ids(tokenizer, config.vocab_size, stop_ids),
        context_length=config.context_length,
    )
    loop = EngineLoop(engine)
    loop.begin_chore(source_model.repack(model))
    calibration = Calibration(loop, model, ops)

    def requantize(name: str | None, importance: Columns | None, progress: Progress | None) -> Work:
        model = source_model.quantized(name, importance=importance, progress=progress)

        def replace() -> None:
            engine.replace_model(model)
            calibration.follow(model)
            loop.begin_chore(source_model.repack(model))

        loop.run_between_steps(replace).result()
        return Work.of(model, ops)

    host = kind(
        name=checkpoint.name,
        config=config,
        tokenizer=tokenizer,
        prompts=PromptBuilder(
            tokenizer,
            chat_template=chat_template or checkpoint.chat_template,
            bos_id=config.bos_token_id,
            pad_id=config.pad_token_id,
            vocab_size=config.vocab_size,
            vision=config.vision,
            fetcher=fetcher,
            pan_and_scan=checkpoint.pan_and_scan
            if pan_and_scan is None
            else dataclasses.replace(checkpoint.pan_and_scan, enabled=pan_and_scan),
        ),
        defaults=checkpoint.generation,
        context_length=engine.stats().longest,
        loop=loop,
        hardware=ops.describe(),
        work=Work.of(model, ops),
        fetcher=fetcher,
        requantize=requantize,
        in_situ=isq.wanted,
        calibration=calibration,
    )
    trim_heap()
    return host


def _stop_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an answer: whatever any of the files says, and the end of a turn."""
    by_text = (tokenizer.id_of(text) for text in ("<eos>", "<end_of_turn>"))
    said = (*checkpoint.config.eos_token_ids, *checkpoint.generation.eos_token_ids, *by_text)
    return tuple(sorted({token_id for token_id in said if token_id is not None}))


def _banned_ids(tokenizer: Tokenizer, rows: int, stop_ids: Sequence[int]) -> list[int]:
    """Ids that must never be generated: other control tokens and rows of the table beyond the vocabulary."""
    beyond = range(tokenizer.vocab_size, rows)
    return sorted({*tokenizer.control.ids.values(), *beyond}.difference(stop_ids))


def _image_fetcher(images: ImageAccess | None) -> ImageFetcher:
    from ostro.prompt.fetch import IN_PROCESS, ImageFetcher

    return ImageFetcher(IN_PROCESS if images is None else images)
