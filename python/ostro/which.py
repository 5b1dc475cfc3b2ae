"""Which model a Runner loads, in mistral.rs's words.

`Which.Plain`, `Which.GGUF`, `Which.VisionPlain` and `Which.MultimodalPlain` take every argument of both forms
of that API; those that ask for something ostro does not offer raise UnsupportedField when set.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from ostro.errors import InvalidParameter, UnsupportedField

FileNames = str | Sequence[str]

DEMO_MODEL = "ostro-demo-vision"
"""The name by which the model inside the package is opened."""


class MultimodalArchitecture(Enum):
    """Model families; ostro knows one."""

    Gemma3 = "gemma3"


VisionArchitecture = MultimodalArchitecture
Architecture = MultimodalArchitecture


class ModelDType(Enum):
    """Accepted everywhere and without effect: weights keep the file's number format, sums are float32."""

    Auto = "auto"
    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"


class IsqOrganization(Enum):
    """Which layers in-situ quantization covers; MoQE is for mixtures of experts, which Gemma 3 is not."""

    Default = "default"
    MoQE = "moqe"


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """Where the files are: the arguments of `ostro.loading.open.open_checkpoint`.

    write_uqff: where to write the model as UQFF once it is quantized.
    """

    model: str
    gguf_file: str | None = None
    uqff_files: tuple[str, ...] = ()
    mmproj_file: str | None = None
    tokenizer_json: Path | None = None
    tok_model_id: str | None = None
    revision: str | None = None
    cache_dir: Path | None = None
    topology: Path | None = None
    imatrix: Path | None = None
    calibration_file: Path | None = None
    write_uqff: Path | None = None


class Which(ABC):
    """Base of the four ways to name a model; they are used as `Which.Plain(...)` and so on.

    `Which.demo()` is the small vision model that comes with the package.
    """

    Plain: ClassVar[type[Plain]]
    GGUF: ClassVar[type[GGUF]]
    VisionPlain: ClassVar[type[MultimodalPlain]]
    MultimodalPlain: ClassVar[type[MultimodalPlain]]

    @abstractmethod
    def source(self) -> CheckpointSource:
        """Where to load from."""

    @staticmethod
    def demo() -> Which:
        """The small vision model that comes with the package (ostro only)."""
        return MultimodalPlain(DEMO_MODEL)

    @staticmethod
    def of(model: Which | str | Path) -> Which:
        """`model` itself, or for a path (.gguf file, folder) or a hub id what loads that."""
        if isinstance(model, Which):
            return model
        if not isinstance(model, (str, Path)):
            raise InvalidParameter(
                f"which must be a Which.*, a path or a hub id, got {type(model).__name__}", param="which"
            )
        return Plain(str(model))


@dataclass(frozen=True)
class Plain(Which):
    """A Hugging Face folder or hub id, or a path to a GGUF or UQFF file.

    tokenizer_json: path of another tokenizer. hf_cache_path: where hub files are kept.
    from_uqff: UQFF files in the folder or repository, one of them or all, or what they are named for ("q4k").
    write_uqff: "FOLDER/NAME.uqff", where to write the quantized model.
    revision: branch, tag or commit on the hub (ostro only).
    """

    model_id: str
    arch: Architecture | str | None = None
    tokenizer_json: str | Path | None = None
    topology: str | Path | None = None
    organization: IsqOrganization | None = None
    write_uqff: str | None = None
    from_uqff: FileNames | None = None
    dtype: ModelDType | str = ModelDType.Auto
    auto_map_params: Any = None
    calibration_file: str | Path | None = None
    imatrix: str | Path | None = None
    hf_cache_path: str | Path | None = None
    matformer_config_path: str | None = field(default=None, kw_only=True)
    matformer_slice_name: str | None = field(default=None, kw_only=True)
    revision: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check(self, "model_id")
        _uqff_files(self.from_uqff)

    def source(self) -> CheckpointSource:
        """Where to load from."""
        return _plain_source(self)


@dataclass(frozen=True)
class MultimodalPlain(Which):
    """A model that may see images, by mistral.rs's newer and older (`VisionPlain`) name.

    Arguments as in Plain. max_edge: accepted, without effect for Gemma 3's fixed image size.
    encoder_cache_memory_bytes: of encoded images that are kept for later requests.
    """

    model_id: str
    arch: MultimodalArchitecture | str | None = None
    tokenizer_json: str | Path | None = None
    topology: str | Path | None = None
    from_uqff: FileNames | None = None
    write_uqff: str | None = None
    dtype: ModelDType | str = ModelDType.Auto
    max_edge: int | None = None
    auto_map_params: Any = None
    calibration_file: str | Path | None = None
    imatrix: str | Path | None = None
    hf_cache_path: str | Path | None = None
    matformer_config_path: str | None = field(default=None, kw_only=True)
    matformer_slice_name: str | None = field(default=None, kw_only=True)
    organization: IsqOrganization | None = field(default=None, kw_only=True)
    encoder_cache_memory_bytes: int | None = field(default=None, kw_only=True)
    revision: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check(self, "model_id")
        _uqff_files(self.from_uqff)

    def source(self) -> CheckpointSource:
        """Where to load from."""
        return _plain_source(self)


@dataclass(frozen=True)
class GGUF(Which):
    """A GGUF file of a folder or hub id.

    quantized_model_id: folder or hub id. quantized_filename: the file's name, or the names of a split file.
    tok_model_id: folder or hub id whose tokenizer is used instead of the file's own.
    mmproj_filename: the file with the image half, a name in the same folder or repository, or a path. Without
        it, the only mmproj file beside the model is used.
    max_edge: accepted, without effect. encoder_cache_memory_bytes: as in MultimodalPlain.
    max_adapters, max_rank, max_bytes: limits of adapters, which are not offered; accepted.
    """

    quantized_model_id: str
    quantized_filename: FileNames
    tok_model_id: str | None = None
    topology: str | Path | None = None
    dtype: ModelDType | str = ModelDType.Auto
    auto_map_params: Any = None
    tokenizer_json: str | Path | None = field(default=None, kw_only=True)
    mmproj_filename: FileNames | None = field(default=None, kw_only=True)
    organization: IsqOrganization | None = field(default=None, kw_only=True)
    write_uqff: str | None = field(default=None, kw_only=True)
    imatrix: str | Path | None = field(default=None, kw_only=True)
    calibration_file: str | Path | None = field(default=None, kw_only=True)
    max_edge: int | None = field(default=None, kw_only=True)
    adapters: Sequence[Any] | None = field(default=None, kw_only=True)
    max_adapters: int = field(default=16, kw_only=True)
    max_rank: int = field(default=256, kw_only=True)
    max_bytes: int = field(default=8 << 30, kw_only=True)
    hf_cache_path: str | Path | None = field(default=None, kw_only=True)
    encoder_cache_memory_bytes: int | None = field(default=None, kw_only=True)
    revision: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check(self, "quantized_model_id")
        self._file()
        self._mmproj()

    def source(self) -> CheckpointSource:
        """Where to load from."""
        return CheckpointSource(
            str(self.quantized_model_id),
            gguf_file=self._file(),
            mmproj_file=self._mmproj(),
            tokenizer_json=_path(self.tokenizer_json),
            tok_model_id=self.tok_model_id,
            revision=self.revision,
            cache_dir=_path(self.hf_cache_path),
            topology=_path(self.topology),
            imatrix=_path(self.imatrix),
            calibration_file=_path(self.calibration_file),
            write_uqff=_path(self.write_uqff),
        )

    def _file(self) -> str:
        """The file to open; a split file's first part stands for all of them."""
        names = self.quantized_filename
        files = [names] if isinstance(names, str) else list(names)
        if not files or not all(isinstance(name, str) and name for name in files):
            raise InvalidParameter(
                "quantized_filename must name a file, or the parts of a split file",
                param="quantized_filename",
            )
        parts = [re.fullmatch(r"(.+)-\d{5}-of-(\d{5}\.gguf)", name) for name in files]
        if len(files) > 1 and (None in parts or len({part.groups() for part in parts if part}) > 1):
            raise InvalidParameter(
                "quantized_filename may name several files only if they are the parts of one split file "
                f"(…-00001-of-00002.gguf), got {', '.join(files)}",
                param="quantized_filename",
            )
        return min(files)

    def _mmproj(self) -> str | None:
        names = self.mmproj_filename
        if names is None or names in ([], ()):
            return None
        files = list(names) if isinstance(names, (list, tuple)) else [names]
        if len(files) != 1 or not isinstance(files[0], str) or not files[0]:
            raise InvalidParameter(
                f"mmproj_filename must name one file, got {names!r}", param="mmproj_filename"
            )
        return files[0]


Which.Plain = Plain
Which.GGUF = GGUF
Which.VisionPlain = MultimodalPlain
Which.MultimodalPlain = MultimodalPlain

_NOT_OFFERED = (
    "auto_map_params",
    "matformer_config_path",
    "matformer_slice_name",
    "adapters",
)


def _check(which: Which, model: str) -> None:
    name = getattr(which, model)
    if not isinstance(name, (str, Path)) or not str(name):
        raise InvalidParameter(f"{model} must be a path or a hub id, got {name!r}", param=model)
    arch = getattr(which, "arch", None)
    if arch is not None and str(getattr(arch, "value", arch)).lower() != MultimodalArchitecture.Gemma3.value:
        raise UnsupportedField(f"arch {arch} is not offered: ostro runs gemma3", param="arch")
    dtype = getattr(which, "dtype", ModelDType.Auto)
    if str(getattr(dtype, "value", dtype)).lower() not in {member.value for member in ModelDType}:
        raise InvalidParameter(f"dtype must be one of auto, bf16, f16, f32, got {dtype!r}", param="dtype")
    for name in ("topology", "imatrix", "calibration_file"):
        value = getattr(which, name, None)
        if value is not None and (not isinstance(value, (str, Path)) or not str(value)):
            raise InvalidParameter(f"{name} must be the path of a file, got {value!r}", param=name)
    if None not in (getattr(which, "imatrix", None), getattr(which, "calibration_file", None)):
        raise InvalidParameter("imatrix and calibration_file exclude each other", param="imatrix")
    if getattr(which, "organization", None) not in (None, IsqOrganization.Default):
        raise UnsupportedField("organization MoQE is for mixtures of experts only", param="organization")
    for unsupported in _NOT_OFFERED:
        if getattr(which, unsupported, None) not in (None, [], ()):
            raise UnsupportedField(
                f"{unsupported} is not offered by this version of ostro; leave it out", param=unsupported
            )


def _plain_source(which: Plain | MultimodalPlain) -> CheckpointSource:
    return CheckpointSource(
        str(which.model_id),
        uqff_files=_uqff_files(which.from_uqff),
        tokenizer_json=_path(which.tokenizer_json),
        revision=which.revision,
        cache_dir=_path(which.hf_cache_path),
        topology=_path(which.topology),
        imatrix=_path(which.imatrix),
        calibration_file=_path(which.calibration_file),
        write_uqff=_path(which.write_uqff),
    )


def _uqff_files(names: FileNames | None) -> tuple[str, ...]:
    """The names in a list, or in a text with semicolons between them."""
    if names is None or names in ([], ()):
        return ()
    files = names.split(";") if isinstance(names, str) else names
    if not isinstance(files, Sequence) or not all(isinstance(name, str) and name.strip() for name in files):
        raise InvalidParameter(
            f"from_uqff must name a file, or several of one model, got {names!r}", param="from_uqff"
        )
    return tuple(name.strip() for name in files)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
