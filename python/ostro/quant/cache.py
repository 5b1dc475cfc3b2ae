"""Quantized tensors kept on disk, by what they were made of: the second start maps them like any file.

An entry is one safetensors file: every tensor's blocks as U8, its format and shape in the header's metadata.
Its name is a hash of the source files' content, the formats, the importance and the version of the
quantizers. A folder may be shared by processes and models; what is not needed any more can be deleted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ostro.errors import BadConfig, CorruptFile, ModelError
from ostro.loading.mapped_file import map_file
from ostro.loading.safetensors import read_annotated
from ostro.ops.tensor import FORMATS, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostro.quant.plan import Plan
    from ostro.quant.quantize import Importance

logger = logging.getLogger(__name__)

QUANTIZERS = 2
"""Raised when the same input no longer gives the same blocks."""
_SOURCES = "sources.json"
_BLOB = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HASHED_AT_ONCE = 32 << 20


@dataclass(frozen=True, slots=True)
class IsqCache:
    """A folder of entries."""

    folder: Path

    def key(self, files: Sequence[Path], plan: Plan, importance: Importance | None) -> str:
        """The name of the entry for `plan` made of `files`; reads them if it has not seen them before."""
        import xxhash

        digest = xxhash.xxh3_128(f"{QUANTIZERS}".encode())
        for file in files:
            digest.update(self._content(file).encode())
        digest.update(repr(sorted((name, chosen.name) for name, chosen in plan.items())).encode())
        for name in sorted(importance or ()):
            digest.update(name.encode())
            digest.update((importance or {})[name].tobytes())
        return digest.hexdigest()

    def importance_file(self, files: Sequence[Path], text: Path, how: str) -> Path:
        """Where the importance matrix of a model for a text is kept; how: what else it depends on."""
        import xxhash

        digest = xxhash.xxh3_128(how.encode())
        for file in (*files, text):
            digest.update(self._content(file).encode())
        return self.folder / f"{digest.hexdigest()}.imatrix.gguf"

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, mapped; None if there is none, or none that can be read."""
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            return None
        try:
            return _read(path)
        except ModelError as error:
            logger.warning("%s is made anew: %s", path, error.message)
            return None

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry; whole or not at all, and a log line if there is no room for it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".part-", delete=False) as file:
                part = Path(file.name)
                try:
                    file.write(_header(tensors))
                    for tensor in tensors.values():
                        file.write(tensor.data.data)
                    file.flush()
                    os.fsync(file.fileno())
                    part.replace(self.folder / f"{key}.safetensors")
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        except OSError as error:
            logger.warning("%s: the quantized weights are not kept: %s", self.folder, error.strerror)

    def _content(self, file: Path) -> str:
        """A hash of the file's bytes, known from before if its size and time of change are the same."""
        import xxhash

        file = file.resolve()
        # The hub's cache names files after the hash of their content.
        if _BLOB.fullmatch(file.name) and file.parent.name == "blobs":
            return file.name
        stat = file.stat()
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known()
        entry = known.get(str(file))
        if isinstance(entry, list) and entry[:-1] == signature and isinstance(entry[-1], str):
            return entry[-1]
        mapped = map_file(file)
        view = memoryview(mapped)
        digest = xxhash.xxh3_128()
        for start in range(0, len(view), _HASHED_AT_ONCE):
            digest.update(view[start : start + _HASHED_AT_ONCE])
        known[str(file)] = [*signature, digest.hexdigest()]
        self._remember(known)
        return digest.hexdigest()

    def _known(self) -> dict[str, object]:
        try:
            known = json.loads((self.folder / _SOURCES).read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, known: dict[str, object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{_SOURCES}-{os.getpid()}"
            part.write_text(json.dumps(known))
            part.replace(self.folder / _SOURCES)
        except OSError as error:
            raise BadConfig(
                f"{self.folder}: quantized weights cannot be kept there: {error.strerror}"
            ) from error


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    header: dict[str, object] = {
        "__metadata__": {
            name: json.dumps([tensor.format.name, *tensor.shape]) for name, tensor in tensors.items()
        }
    }
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.data.nbytes
        header[name] = {"dtype": "U8", "shape": [tensor.data.nbytes], "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text


def _read(path: Path) -> dict[str, Tensor]:
    stored, metadata = read_annotated(path)
    result: dict[str, Tensor] = {}
    for name, entry in stored.items():
        try:
            chosen, *shape = json.loads(metadata[name])
            form = FORMATS[chosen]
            size = math.prod(shape[:-1]) * form.row_bytes(shape[-1])
        except (KeyError, ValueError, TypeError, IndexError, ModelError) as error:
            raise CorruptFile(f"{path}: tensor {name!r} has no valid entry") from error
        if size != len(entry.data):
            raise CorruptFile(f"{path}: tensor {name!r} has {len(entry.data)} bytes, not {size}")
        result[name] = Tensor(name, form, tuple(shape), entry.data)
    return result
