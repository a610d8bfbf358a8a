"""Text logs in blocks of whole lines, plain or gzip, from any Beam file system."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\v\f"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableError(Exception):
    """A log file that breaks off or is not of the format its name says."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    Attributes:
        data: the lines, each ended by a newline.
        lines: how many.
        first_line: number of the first one, from 1 where the byte range starts.
        too_long: the block is the head of one line longer than `MAX_LINE_BYTES`.
        numbers: numbers of the lines where some between them were left out, [lines].
    """

    data: bytes
    lines: int
    first_line: int
    too_long: bool = False
    numbers: np.ndarray | None = None

    def number(self, line: int) -> int:
        """Number of the block's `line`-th one, from 0."""
        return self.first_line + line if self.numbers is None else int(self.numbers[line])

    def cut(self, starts: Iterable[int]) -> list[Block]:
        """Cuts it into blocks that begin with these lines, from 0 on, ascending."""
        newlines = np.flatnonzero(np.frombuffer(self.data, dtype=np.uint8) == ord("\n"))
        begins = np.append(0, newlines + 1)
        return [
            Block(
                self.data[begins[first] : begins[end]],
                end - first,
                self.first_line + first,
                numbers=None if self.numbers is None else self.numbers[first:end],
            )
            for first, end in itertools.pairwise([*starts, self.lines])
            if end > first
        ]


def without_blank_lines(block: Block) -> Block:
    """The block without the lines that hold nothing but white space."""
    codes = np.frombuffer(block.data, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    if not block.lines or not _IS_SPACE[codes[starts]].any():
        return block
    ink = np.append(0, np.cumsum(~_IS_SPACE[codes], dtype=np.int32))
    filled = ink[ends] > ink[starts]
    if filled.all():
        return block
    kept = np.repeat(filled, ends - starts + 1)
    numbers = block.first_line + np.flatnonzero(filled)
    return Block(codes[kept].tobytes(), len(numbers), block.first_line, numbers=numbers)


def open_raw(path: str) -> BinaryIO:
    """Opens a log file for reading, without Beam's decompression.

    Beam's own takes a gzip file that breaks off for a whole one.

    Raises:
        UnreadableError: the file is gone, or may not be read.
    """
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except Exception as error:
        # Each object store's client has exceptions of its own.
        raise UnreadableError(f"cannot be opened ({error})") from error


def first_line(path: str) -> bytes:
    """The first line of a text log, without its newline; empty for an empty file."""
    block = next(read_blocks(path), None)
    return b"" if block is None else block.data[: block.data.index(b"\n")].rstrip(b"\r")


def read_blocks(path: str, start: int = 0, end: int | None = None) -> Iterator[Block]:
    """Reads the lines that begin in a byte range of a text log.

    Args:
        path: file name; ends in `.gz` for a gzip file, which has no ranges.
        start: first byte of the range.
        end: byte after the range; None for the end of the file.

    Yields:
        Blocks of about `BLOCK_BYTES`, in the order of the file.

    Raises:
        UnreadableError: the file cannot be read, or its gzip stream is corrupt or breaks off.
    """
    try:
        with open_raw(path) as file:
            chunks = _decompressed(file) if path.endswith(".gz") else _byte_range(file, start, end)
            for block in _whole_lines(chunks):
                if start == 0 and block.first_line == 1 and block.data.startswith(_BYTE_ORDER_MARK):
                    block = dataclasses.replace(block, data=block.data[len(_BYTE_ORDER_MARK) :])
                yield block
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error})") from error


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    stream = None
    members = 0
    try:
        while data := file.read(_READ_BYTES):
            while data:
                if stream is None:
                    # A member may be padded; one that begins with zeros is not gzip.
                    data = data.lstrip(b"\0") if members else data
                    if not data:
                        break
                    stream = zlib.decompressobj(wbits=31)
                    members += 1
                yield stream.decompress(data, BLOCK_BYTES)
                data = stream.unconsumed_tail
                if stream.eof:
                    data, stream = stream.unused_data, None
    except zlib.error as error:
        raise UnreadableError(f"the gzip stream is corrupt ({error})") from error
    if stream is not None:
        yield stream.flush()
        if not stream.eof:
            raise UnreadableError("the gzip stream breaks off")


def _byte_range(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    position = max(start - 1, 0)
    file.seek(position)
    skipping = start > 0
    while data := file.read(_READ_BYTES):
        if skipping:
            newline = data.find(b"\n")
            if newline < 0:
                position += len(data)
                continue
            skipping = False
            position += newline + 1
            data = data[newline + 1 :]
            if end is not None and position >= end:
                return
        if end is not None and position + len(data) >= end:
            newline = data.find(b"\n", max(end - 1 - position, 0))
            if newline >= 0:
                yield data[: newline + 1]
                return
        yield data
        position += len(data)


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[Block]:
    line = 1
    pending: list[bytes] = []
    size = 0
    skipping = False
    for chunk in chunks:
        if skipping:
            newline = chunk.find(b"\n")
            if newline < 0:
                continue
            chunk, skipping = chunk[newline + 1 :], False
        pending.append(chunk)
        size += len(chunk)
        if size < BLOCK_BYTES:
            continue
        data = b"".join(pending)
        cut = data.rfind(b"\n") + 1
        if cut:
            block = Block(data[:cut], data.count(b"\n"), line)
            yield block
            line += block.lines
            data = data[cut:]
        elif size > MAX_LINE_BYTES:
            yield Block(data[:_READ_BYTES] + b"\n", 1, line, too_long=True)
            line += 1
            data, skipping = b"", True
        pending, size = [data], len(data)
    data = b"".join(pending)
    if data:
        data = data if data.endswith(b"\n") else data + b"\n"
        yield Block(data, data.count(b"\n"), line)
