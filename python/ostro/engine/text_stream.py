"""From sampled tokens to text that is never taken back.

Held back until decided: bytes that may become a stop string, and the bytes of an incomplete character.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostro.types import Vocabulary


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """What one token decided.

    text: newly decided text. stopped: a stop string is complete; the text before it is out, nothing follows.
    released: how many more tokens, oldest first, now have all of their text out. Tokens that share a byte
        with the stop string never count.
    """

    text: str = ""
    stopped: bool = False
    released: int = 0


class TextStream:
    """Text of one sequence, token by token.

    The answer ends before the stop string that is complete first, and of those complete at the same byte
    before the longest; how the text was cut into tokens does not matter. Invalid UTF-8 becomes U+FFFD.
    stop: non-empty texts.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        self._vocabulary = vocabulary
        # A surrogate cannot occur in decoded text; encoded like this, it matches nothing.
        self._stops = [_Matcher(text.encode(errors="surrogatepass")) for text in stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = bytearray()  # may be the beginning of a stop string
        self._received = 0  # bytes
        self._ends: deque[int] = deque()  # of the tokens not yet released, in bytes received
        self._stopped = False

    def push(self, token_id: int) -> StreamDelta:
        """Take the next token. After a stop string: nothing more, whatever comes."""
        if self._stopped:
            return StreamDelta(stopped=True)
        data = self._vocabulary.token_bytes(token_id)
        start = self._received
        self._received += len(data)
        self._ends.append(self._received)
        self._held += data
        for count, byte in enumerate(data, start=1):
            matched = max((stop.advance(byte) for stop in self._stops), default=0)
            if matched:
                self._stopped = True
                del self._held[len(self._held) - len(data) + count - matched :]
                return self._emit(len(self._held), decided=start + count - matched)
        pending = max((stop.pending for stop in self._stops), default=0)
        return self._emit(len(self._held) - pending, decided=self._received - pending)

    def finish(self) -> StreamDelta:
        """The sequence has ended otherwise: let everything held back go."""
        if self._stopped:
            return StreamDelta(stopped=True)
        return self._emit(len(self._held), decided=self._received, last=True)

    def _emit(self, count: int, *, decided: int, last: bool = False) -> StreamDelta:
        """Decode the first `count` held bytes, which end at position `decided` of the received ones."""
        last = last or self._stopped
        text = self._decoder.decode(bytes(self._held[:count]), final=last)
        del self._held[:count]
        out = decided - len(self._decoder.getstate()[0])
        released = 0
        while self._ends and self._ends[0] <= out:
            self._ends.popleft()
            released += 1
        return StreamDelta(text, self._stopped, released)


class _Matcher:
    """Finds one stop string in a stream of bytes (Knuth, Morris and Pratt 1977).

    pending: how many bytes at the end of the stream are a beginning of the stop string, the most possible.
    """

    def __init__(self, stop: bytes) -> None:
        self._stop = stop
        self._shorter = _borders(stop)
        self.pending = 0

    def advance(self, byte: int) -> int:
        """Take a byte; the length of the stop string if this completes it, else 0."""
        stop = self._stop
        while self.pending and stop[self.pending] != byte:
            self.pending = self._shorter[self.pending - 1]
        if stop[self.pending] == byte:
            self.pending += 1
        return len(stop) if self.pending == len(stop) else 0


def _borders(stop: bytes) -> list[int]:
    """For each beginning of `stop`, the length of its longest proper beginning that is also its end."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[length] != stop[i]:
            length = borders[length - 1]
        if stop[length] == stop[i]:
            length += 1
        borders[i] = length
    return borders
