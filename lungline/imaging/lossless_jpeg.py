"""Check the entropy-coded data of lossless JPEG (process 14) for damage, which libjpeg would repair without a word.

Each pixel is a Huffman code and the bits that it announces. A walk from code to code must arrive at the end of the data
with as many codes as there are pixels. One walk in Python would take seconds, so thousands of walkers set out at even
distances, in one array. A walker that starts inside a code falls into step after a few. In a second round, each walker
starts where the one before it arrived, which gives the true walk.

Source: ITU-T T.81 annexes F, H and K.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungline.imaging.jpeg import segments

_TABLES, _RESTARTS, _SCAN = 0xC4, 0xDD, 0xDA
_STRIDE = 2048  # bits for each walker
_NEAR = 64  # bits, more than the longest step
_MOST_ROUNDS = 6
_WINDOW = 16  # the longest code

Ints = npt.NDArray[np.int32]


def is_damaged(data: bytes, pixels: int) -> bool:
    """Whether a stream of one component does not hold exactly `pixels` differences.

    Streams with restart markers, and those that cannot be followed, count as undamaged.
    """
    tables, position = dict[int, bytes](), 2
    for marker, start, end in segments(data):
        position = end
        if marker == _TABLES:
            _read_tables(data[start + 4 : end], tables)
        elif marker == _RESTARTS and any(data[start + 4 : end]):
            return False
    if data[position + 1 : position + 2] != bytes((_SCAN,)) or len(data) < position + 8:
        return False
    table = tables.get(data[position + 6] >> 4)
    body = data[position + 2 + int.from_bytes(data[position + 2 : position + 4], "big") : data.rfind(b"\xff\xd9")]
    if table is None or not body:
        return False
    codes = body.replace(b"\xff\x00", b"\xff")
    if codes.count(b"\xff") != body.count(b"\xff\x00"):
        return True  # a marker inside
    count = _count(codes, _steps(table))
    return count is not None and count != pixels and not (count > pixels and codes.endswith(b"\0"))


def _read_tables(segment: bytes, tables: dict[int, bytes]) -> None:
    while len(segment) > _WINDOW:
        length = 17 + sum(segment[1:17])
        tables[segment[0] & 15] = segment[1:length]
        segment = segment[length:]


@dataclass(frozen=True, slots=True)
class _Steps:
    """How to go on for each window of 16 bits: `bits` to the next difference, 0 where no code begins.

    `far` goes over all `passed` differences whose codes lie in the window.
    """

    bits: Ints
    far: Ints
    passed: Ints


def _steps(table: bytes) -> _Steps:
    bits, lengths = np.zeros(1 << _WINDOW, np.int32), np.full(1 << _WINDOW, _WINDOW + 1, np.int32)
    code, symbol = 0, _WINDOW
    for length in range(1, _WINDOW + 1):
        for category in table[symbol : symbol + table[length - 1]]:
            windows = slice(code << (_WINDOW - length), (code + 1) << (_WINDOW - length))
            # A difference of 32,768 has no bits of its own.
            bits[windows], lengths[windows] = length + (category if category < _WINDOW else 0), length
            code += 1
        symbol += table[length - 1]
        code <<= 1
    far, passed, windows = bits.copy(), np.ones(1 << _WINDOW, np.int32), np.arange(1 << _WINDOW, dtype=np.int32)
    for _ in range(_WINDOW):
        following = (windows << np.minimum(far, _WINDOW)) & 0xFFFF
        fits = (far > 0) & (far + lengths[following] <= _WINDOW)
        if not fits.any():
            break
        far, passed = far + np.where(fits, bits[following], 0), passed + fits
    return _Steps(bits, far, passed.astype(np.int32))


def _count(codes: bytes, steps: _Steps) -> int | None:
    """Return the number of differences, -1 if there is no code where one must be, None if it cannot be determined."""
    bits = 8 * len(codes)
    padded = np.frombuffer(codes + b"\xff" * 4, np.uint8).astype(np.int32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    ends = np.append(np.arange(_STRIDE, bits, _STRIDE, dtype=np.int32), np.int32(bits))
    starts = np.append(np.int32(0), ends[:-1])
    counts, is_bad, arrivals = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.bool_), starts.copy()
    changed = np.arange(len(ends))
    for _ in range(_MOST_ROUNDS):
        walk = _walk(words, steps, starts[changed], ends[changed], bits)
        counts[changed], is_bad[changed], arrivals[changed] = walk
        following = np.append(np.int32(0), arrivals[:-1])
        changed = np.flatnonzero(following != starts)
        starts = following
        if not len(changed):
            return -1 if is_bad.any() or arrivals[-1] > bits else int(counts.sum())
    return None


def _walk(words: Ints, steps: _Steps, starts: Ints, ends: Ints, bits: int) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Walk from each start to its end; return counts, whether there was no code, and where the walkers arrived."""
    arrivals, counts, is_bad = starts.copy(), np.zeros(len(starts), np.int32), np.zeros(len(starts), np.bool_)
    walkers = np.flatnonzero(starts < ends)
    at, end, count = starts[walkers], ends[walkers], counts[walkers]
    while len(walkers):
        window = (words[at >> 3] >> (8 - (at & 7))) & 0xFFFF
        is_near = at > end - _NEAR  # the end must not depend on where the last long step began
        step = np.where(is_near, steps.bits[window], steps.far[window])
        count += np.where(is_near, 1, steps.passed[window])
        missing = step == 0
        if missing.any():
            # The last byte is filled up with ones, which no code consists of.
            is_last = missing & (at > bits - 8)
            step[missing] = 1
            step[is_last] = bits - at[is_last]
            count[is_last] -= 1
            is_bad[walkers[missing & ~is_last]] = True
        at += step
        goes_on = at < end
        if not goes_on.all():
            arrived = walkers[~goes_on]
            arrivals[arrived], counts[arrived] = at[~goes_on], count[~goes_on]
            walkers, at, end, count = walkers[goes_on], at[goes_on], end[goes_on], count[goes_on]
    return counts, is_bad, arrivals
