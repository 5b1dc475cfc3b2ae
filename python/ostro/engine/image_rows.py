"""What the model sees of images: computed in slices, so that others wait little, and cached by content."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from ostro.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from ostro.engine.sequence import Sequence

    Rows = NDArray[np.float32]
    Encode = Callable[[NDArray[np.uint8]], Generator[None, None, Rows]]

_log = logging.getLogger(__name__)


class ImageRows:
    """Encodes the images that sequences wait for, one after the other.

    capacity: bytes of rows that are kept for later requests; those that a sequence holds do not count.
    """

    def __init__(self, capacity: int) -> None:
        self._encode: Encode | None = None
        self._capacity = capacity
        self._cache: OrderedDict[bytes, Rows] = OrderedDict()
        self._failed: dict[bytes, EngineError] = {}
        self._job: Generator[None, None, Rows] | None = None
        self._job_hash = b""
        self.nbytes = 0
        self.encoded = 0

    def encode_with(self, encode: Encode | None) -> None:
        """Compute images with this from now on, and forget those of before.

        encode: starts to compute an image; None for a model that reads text only.
        """
        self._encode = encode
        self._cache.clear()
        self._job = None
        self.nbytes = 0

    def provide(self, sequences: Iterable[Sequence]) -> list[tuple[Sequence, EngineError]]:
        """Give each sequence the rows of its next image if they are known, else see that they will be.

        Earlier sequences come first. Returns those whose image could not be encoded.
        """
        failed = []
        wanted = []
        for sequence in sequences:
            for span in sequence.missing_images():
                if (error := self._failed.get(span.content_hash)) is not None:
                    failed.append((sequence, error))
                    break
                if (rows := self._cache.get(span.content_hash)) is None:
                    wanted.append(span)
                    break
                if len(rows) != span.length:
                    message = f"an image became {len(rows):,} rows, its place has {span.length:,}"
                    failed.append((sequence, EngineError(message)))
                    break
                self._cache.move_to_end(span.content_hash)
                sequence.image_rows[span.content_hash] = rows
        self._failed.clear()
        self._shrink()
        if self._job is not None and all(span.content_hash != self._job_hash for span in wanted):
            self._job = None  # whoever wanted it has left
        if self._job is None and wanted and self._encode is not None:
            self._job_hash = wanted[0].content_hash
            self._job = self._encode(wanted[0].pixels)
        return failed

    @property
    def busy(self) -> bool:
        """Whether an image is at hand."""
        return self._job is not None

    def advance(self) -> bool:
        """Compute a slice of the image at hand, if there is one; whether that ended it."""
        if self._job is None:
            return False
        try:
            next(self._job)
        except StopIteration as end:
            self._keep(end.value)
            return True
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as cause:  # a panic in a kernel is no Exception
            _log.exception("an image could not be encoded")
            error = EngineError(f"an image could not be encoded: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
            self._failed[self._job_hash] = error
            self._job = None
            return True
        return False

    def _keep(self, rows: Rows) -> None:
        self._cache[self._job_hash] = rows
        self.nbytes += rows.nbytes
        self.encoded += 1
        self._job = None

    def _shrink(self) -> None:
        """Forget what has not been used for longest; called when every waiting sequence has what there is."""
        while self.nbytes > self._capacity and self._cache:
            _, rows = self._cache.popitem(last=False)
            self.nbytes -= rows.nbytes
