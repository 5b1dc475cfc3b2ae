"""Images of a conversation: fetched, cut into views, written between the texts of a prompt.

How Gemma 3 reads an image: processing_gemma3.py in Hugging Face's transformers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from ostro.errors import RequestError
from ostro.prompt.image import content_hash, crops, to_pixels
from ostro.prompt.template import ImageSlot

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from ostro.loading.config import PanAndScan, VisionConfig
    from ostro.prompt.control import ControlTexts
    from ostro.prompt.fetch import ImageFetcher, ImageSource
    from ostro.prompt.messages import ImagePart
    from ostro.prompt.template import Segment


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the model sees at a time: an image or a crop of it. pixels: uint8 [image_size, image_size, 3]."""

    pixels: NDArray[np.uint8]
    content_hash: bytes


Piece: TypeAlias = "str | int | View"
"""A segment with the image in place of the slot."""


class ImageReader:
    """Turns the image slots of a conversation into what the model reads. Threads may share it.

    fetcher: None for one with the access rules of a server.
    """

    def __init__(self, vision: VisionConfig, fetcher: ImageFetcher | None, pan: PanAndScan) -> None:
        if fetcher is None:
            from ostro.prompt.fetch import ImageAccess, ImageFetcher

            fetcher = ImageFetcher(ImageAccess())
        self._size = vision.image_size
        self._fetcher = fetcher
        self._pan = pan

    def expand(
        self,
        segments: Sequence[Segment],
        images: Sequence[ImagePart],
        control: ControlTexts,
        pan_and_scan: bool | None,
    ) -> list[Piece]:
        """Segments in which each slot has become its image, between markers and line breaks.

        Blocks until all images are there. An image that is given twice is fetched once.
        pan_and_scan: also show crops of oblong images; None for what the model's files say.
        RequestError if an image cannot be had or the vocabulary has no image markers.
        """
        # Also those that are given twice: each takes its place in the prompt.
        self._fetcher.check_count([image.where for image in images])
        begin, end = (_marker(control, text) for text in ("<start_of_image>", "<end_of_image>"))
        wanted = self._pan.enabled if pan_and_scan is None else pan_and_scan
        views = self._views(images, replace(self._pan, enabled=True) if wanted else None)
        pieces: list[Piece] = []
        for segment in segments:
            if isinstance(segment, ImageSlot):
                pieces += _expansion(views[segment.index], begin, end)
            else:
                pieces.append(segment)
        return pieces

    def _views(self, images: Sequence[ImagePart], pan: PanAndScan | None) -> list[list[View]]:
        """For each image the whole and its crops."""
        first = {_identity(image.source): image for image in reversed(images)}
        distinct = list(dict.fromkeys(_identity(image.source) for image in images))
        parts = [first[key] for key in distinct]
        loaded = self._fetcher.fetch_all([part.source for part in parts], [part.where for part in parts])
        views = {key: list(self._views_of(image, pan)) for key, image in zip(distinct, loaded, strict=True)}
        return [views[_identity(image.source)] for image in images]

    def _views_of(self, image: Image, pan: PanAndScan | None) -> Iterator[View]:
        boxes = [] if pan is None else crops(image.width, image.height, pan)
        for view in (image, *(image.crop((x, y, x + w, y + h)) for x, y, w, h in boxes)):
            pixels = to_pixels(view, self._size)
            yield View(pixels, content_hash(pixels))


def _expansion(views: Sequence[View], begin: int, end: int) -> list[Piece]:
    def framed(view: View) -> list[Piece]:
        return ["\n\n", begin, view, end, "\n\n"]

    whole, *crops = map(framed, views)
    if not crops:
        return whole
    pieces: list[Piece] = ["Here is the original image ", *whole]
    pieces.append(" and here are some crops to help you see better")
    for crop in crops:
        pieces += [" ", *crop]
    return pieces


def _marker(control: ControlTexts, text: str) -> int:
    if (token_id := control.ids.get(text)) is None:
        raise RequestError(f"this model's vocabulary has no {text}, so it cannot be shown images")
    return token_id


def _identity(source: ImageSource) -> Hashable:
    """The same for sources that are the same image for certain."""
    if isinstance(source, (str, bytes)):
        return source
    return ("path", os.fspath(source)) if isinstance(source, os.PathLike) else id(source)
