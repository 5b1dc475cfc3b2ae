"""Images by whatever names them: a URL, a path, base64, bytes, a picture, an array.

What a request may name is ruled by ImageAccess, how much it may bring by ImageLimits. The work is done by
ostro.prompt.network (URLs), ostro.prompt.local_file (paths) and ostro.prompt.decode (pictures).
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostro.errors import BadImage, EngineError, ImageRefused, ImageTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any, TypeAlias

    import PIL.Image
    from numpy.typing import NDArray

    from ostro.prompt.decode import PixelBudget
    from ostro.prompt.network import HttpReader

    ImageSource: TypeAlias = str | bytes | os.PathLike[str] | PIL.Image.Image | NDArray[Any]

_FETCHES_PER_REQUEST = 8
_DECODES_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What the images of one request may cost.

    max_bytes: of one image, as it comes and unpacked from the HTTP transfer. max_images: of one request.
    max_pixels: width times height of one image. A decoded pixel takes 4 bytes, and for a moment 8 (WebP
        16): the 50 megapixels of a telephone's photograph are 200 MB, and at their peak 400 (800).
    max_request_pixels: of all images of a request, which are held at the same time.
    timeout_seconds: of one fetch, from the look-up of the name to the last byte, redirects included.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_request_pixels: int = 150_000_000
    timeout_seconds: float = 10.0
    max_redirects: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccess:
    """What requests may name: nothing local and nothing in private networks, unless it says otherwise.

    urls: http and https. private_hosts: also addresses that are not public (loopback, local networks).
    any_path: every file that the process may read; `~` is expanded. roots: files below these folders.
    """

    urls: bool = True
    private_hosts: bool = False
    any_path: bool = False
    roots: tuple[Path, ...] = ()


IN_PROCESS = ImageAccess(private_hosts=True, any_path=True)
"""For requests of the program that runs the model: it may read and reach all that it could by itself."""


class ImageFetcher:
    """Gets the images of requests; one for a model, for any number of threads at once.

    It keeps neither threads nor connections between calls.
    """

    def __init__(self, access: ImageAccess, limits: ImageLimits = ImageLimits()) -> None:
        self._access = access
        self._limits = limits
        self._closed = threading.Event()
        # Bounds the memory of decoding over all requests.
        self._decoding = threading.BoundedSemaphore(_DECODES_AT_ONCE)
        self._http: HttpReader | None = None

    @property
    def reads_any_file(self) -> bool:
        """Whether requests may name every file that the process may read."""
        return self._access.any_path

    def check_count(self, wheres: Sequence[str]) -> None:
        """ImageTooLarge when one request has images at more places than the limits allow."""
        if len(wheres) > self._limits.max_images:
            where = wheres[self._limits.max_images]
            raise ImageTooLarge(
                f"{where}: the request has {len(wheres)} images; at most {self._limits.max_images} are read",
                param=where,
            )

    def fetch_all(self, sources: Sequence[ImageSource], wheres: Sequence[str]) -> list[PIL.Image.Image]:
        """The pictures, RGB and upright, in the order of their sources; blocks until all are there.

        wheres: the place of each source in the request, e.g. "messages[0].content[1].image_url.url"; errors
            name it. A string is a URL (http, https, file, data), a path, or base64.
        The first error ends the call; what else was under way is given up. Errors under BadImage.
        """
        self.check_count(wheres)
        if not sources:
            return []
        from ostro.prompt.decode import PixelBudget

        budget = PixelBudget(self._limits.max_pixels, self._limits.max_request_pixels)
        if len(sources) == 1:
            return [self._picture(sources[0], wheres[0], budget, self._closed.is_set)]
        abandoned = threading.Event()

        def stop() -> bool:
            return abandoned.is_set() or self._closed.is_set()

        pool = ThreadPoolExecutor(min(_FETCHES_PER_REQUEST, len(sources)), thread_name_prefix="ostro-images")
        try:
            fetches = [
                pool.submit(self._picture, source, where, budget, stop)
                for source, where in zip(sources, wheres, strict=True)
            ]
            done, _ = wait(fetches, return_when=FIRST_EXCEPTION)
            for fetch in fetches:
                if fetch in done:
                    fetch.result()
            return [fetch.result() for fetch in fetches]
        finally:
            abandoned.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Give up what is under way; later calls raise EngineError."""
        self._closed.set()

    def _picture(
        self, source: Any, where: str, budget: PixelBudget, stop: Callable[[], bool]
    ) -> PIL.Image.Image:
        import numpy as np
        from PIL import Image

        from ostro.prompt import decode

        if stop():
            raise EngineError("the model was closed before its images were fetched")
        if isinstance(source, Image.Image):
            with self._decoding:
                return decode.from_image(source, budget, where)
        if isinstance(source, np.ndarray):
            with self._decoding:
                return decode.from_array(source, budget, where)
        data = self._bytes(source, where, stop)
        with self._decoding:
            return decode.decode(data, budget, where)

    def _bytes(self, source: Any, where: str, stop: Callable[[], bool]) -> bytes:
        if isinstance(source, str):
            return self._from_text(source, where, stop)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return self._check_size(bytes(source), where)
        if isinstance(source, os.PathLike):
            return self._read(os.fsdecode(source), where)
        raise BadImage(
            f"{where}: {type(source).__name__} is no image; give a URL, a path, base64, bytes, a PIL image or"
            " a numpy array",
            param=where,
        )

    def _from_text(self, text: str, where: str, stop: Callable[[], bool]) -> bytes:
        from ostro.prompt import image_text
        from ostro.prompt.local_file import is_there

        scheme = image_text.scheme_of(text)
        if scheme in ("http", "https"):
            return self._download(text.strip(), where, stop)
        if scheme == "data":
            return self._check_size(image_text.from_data_url(text, self._limits.max_bytes, where), where)
        if scheme == "file":
            return self._read(image_text.path_of(text, where), where)
        if scheme is not None:
            raise BadImage(
                f"{where}: {scheme}: URLs are not read; http, https, file and data are, and paths and base64",
                param=where,
            )
        if image_text.may_be_path(text) and is_there(text, self._access):
            return self._read(text, where)
        data = image_text.from_base64_image(text, self._limits.max_bytes, where)
        if data is not None:
            return self._check_size(data, where)
        if image_text.looks_like_path(text):
            return self._read(text, where)
        raise BadImage(f"{where}: {image_text.describe(text)}", param=where)

    def _download(self, url: str, where: str, stop: Callable[[], bool]) -> bytes:
        if not self._access.urls:
            raise ImageRefused(
                f"{where}: this server fetches no URLs; send the image's bytes as base64 or a data: URL",
                param=where,
            )
        if self._http is None:
            from ostro.prompt.network import HttpReader

            self._http = HttpReader(private_hosts=self._access.private_hosts, limits=self._limits)
        return self._http.read(url, where, stop)

    def _read(self, path: str, where: str) -> bytes:
        from ostro.prompt.local_file import read_file

        return read_file(path, self._access, self._limits.max_bytes, where)

    def _check_size(self, data: bytes, where: str) -> bytes:
        if len(data) > self._limits.max_bytes:
            raise ImageTooLarge(
                f"{where}: the image has {len(data):,} bytes; at most {self._limits.max_bytes:,} are read",
                param=where,
            )
        return data
