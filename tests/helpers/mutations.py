"""Damaged copies of a file, the same for each seed, and how readers take them.

A damage is of one of the kinds in `_KINDS`, sometimes of two at once. Numbers
are written where they hurt: into the length fields of zip archives and of
headers, and in place of the numbers of a text.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import random
import re
import struct
import time


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '0'))
# What a reader may take for a foreign file.
MOST_SECS = 10.0
MOST_BYTES = 2 << 30

_NUMBERS = (
  *(0, 1, -1, 2, 7, 16, 99, 127, 128, 255, 256, 1000, 32767, 32768, 65535),
  *(65536, 10**6, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53),
  *(2**63 - 1, 2**63, 2**64 - 1),
)
_WORDS = (
  *(b'null', b'true', b'NaN', b'-Infinity', b'1e999', b'-1', b'0.5', b'{}'),
  *(b'[]', b'""', b'[[', b'}', b'"\\ud800"', b'1' * 5000, b'[' * 2000),
)
# Signature -> place and format of the fields behind it (zip archives).
_FIELDS = {
  b'PK\3\4': ((6, 'H'), (8, 'H'), (18, 'I'), (22, 'I'), (26, 'H'), (28, 'H')),
  b'PK\1\2': (
    *((6, 'H'), (8, 'H'), (10, 'H'), (16, 'I'), (20, 'I'), (24, 'I')),
    *((28, 'H'), (30, 'H'), (32, 'H'), (42, 'I')),
  ),
  b'PK\5\6': ((8, 'H'), (10, 'H'), (12, 'I'), (16, 'I'), (20, 'H')),
  b'\x93NUMPY': ((6, 'B'), (7, 'B'), (8, 'H')),
}

_Random = random.Random


def _span(raw: bytes, rng: _Random) -> tuple[int, int]:
  """Returns the start and the end of a block, short ones more often."""
  start = rng.randrange(len(raw) + 1)
  return start, min(len(raw), start + int(2 ** rng.uniform(0, 12)))


def _flip(raw: bytes, rng: _Random) -> bytes:
  copy = bytearray(raw)
  for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
    copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
  return bytes(copy)


def _cut(raw: bytes, rng: _Random) -> bytes:
  return raw[: rng.randrange(len(raw))]


def _remove(raw: bytes, rng: _Random) -> bytes:
  start, end = _span(raw, rng)
  return raw[:start] + raw[end:]


def _repeat(raw: bytes, rng: _Random) -> bytes:
  start, end = _span(raw, rng)
  return raw[:end] + raw[start:end] * rng.choice((1, 1, 2, 20)) + raw[end:]


def _move(raw: bytes, rng: _Random) -> bytes:
  start, end = _span(raw, rng)
  rest = raw[:start] + raw[end:]
  place = rng.randrange(len(rest) + 1)
  return rest[:place] + raw[start:end] + rest[place:]


def _scramble(raw: bytes, rng: _Random) -> bytes:
  start, end = _span(raw, rng)
  block = (
    bytes(end - start) if rng.random() < 0.3 else rng.randbytes(end - start)
  )
  return raw[:start] + block + raw[end:]


def _extend(raw: bytes, rng: _Random) -> bytes:
  return raw + rng.randbytes(rng.randrange(1, 100))


def _packed(number: int, kind: str, rng: _Random) -> bytes:
  size = struct.calcsize(kind)
  number += rng.choice((0, 0, 0, -1, 1))
  return (number % 256**size).to_bytes(size, rng.choice(('little', 'big')))


def _number(raw: bytes, rng: _Random) -> bytes:
  """Writes a number over bytes anywhere."""
  new = _packed(rng.choice(_NUMBERS), rng.choice('BHIQ'), rng)
  place = rng.randrange(min(len(raw), rng.choice((16, 256, len(raw)))))
  return raw[:place] + new + raw[place + len(new) :]


def _field(raw: bytes, rng: _Random) -> bytes:
  """Writes a number over a field of a known structure."""
  places = [
    (match.start() + offset, kind)
    for mark, fields in _FIELDS.items()
    for match in re.finditer(re.escape(mark), raw)
    for offset, kind in fields
  ]
  if not places:
    return _number(raw, rng)
  place, kind = rng.choice(places)
  size = struct.calcsize(kind)
  new = (rng.choice(_NUMBERS) % 256**size).to_bytes(size, 'little')
  return raw[:place] + new + raw[place + size :]


def _text_number(raw: bytes, rng: _Random) -> bytes:
  """Writes a number or a word in place of one of a text."""
  found = [m.span() for m in re.finditer(rb'\d+|"[^"]*"|\w+', raw)]
  if not found:
    return _number(raw, rng)
  start, end = rng.choice(found)
  new = str(rng.choice(_NUMBERS)).encode()
  if rng.random() < 0.3:
    new = rng.choice(_WORDS)
  return raw[:start] + new + raw[end:]


_KINDS = (
  *(_flip, _cut, _remove, _repeat, _move, _scramble, _extend),
  *(_number, _field, _field, _text_number, _text_number),
)


def mutated(raw: bytes, rng: _Random, others: Sequence[bytes] = ()) -> bytes:
  """Returns a damaged copy of some bytes; `others` lend blocks."""
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    if others and rng.random() < 0.1:
      other = rng.choice(others)
      start, end = _span(other, rng)
      place = min(start, len(raw))
      raw = raw[:place] + other[start:end] + raw[min(end, len(raw)) :]
    elif raw:
      raw = rng.choice(_KINDS)(raw, rng)
  return raw


def several(
  raw: bytes, count: int, others: Sequence[bytes] = (), seed: int = SEED
) -> Iterator[tuple[int, bytes]]:
  """Yields numbers and damaged copies; each depends on its number alone."""
  for number in range(count):
    rng = random.Random(f'{seed} {number}')
    yield number, mutated(raw, rng, others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
  """How a reader took damaged files."""

  read: int  # as if nothing was
  refused: int
  longest: float  # seconds of one, of the processor
  grown: int  # bytes of memory, at most

  def __str__(self) -> str:
    total = self.read + self.refused
    return (
      f'{total} of {total}: {self.refused} refused, {self.read} read; at most'
      f' {self.longest:.2f} s, {self.grown >> 20} MiB'
    )


def tried(
  reader: Callable[[bytes], object],
  copies: Iterator[tuple[int, bytes]],
  errors: tuple[type[Exception], ...] = (ValueError,),
) -> Count:
  """Lets a reader take damaged copies.

  Args:
    reader: takes the bytes of one; `errors` are its own.
    copies: of `several`.
    errors: what it may raise, with a message of one line.

  Raises:
    AssertionError: another error, more than `MOST_SECS` or `MOST_BYTES`.
  """
  read = refused = 0
  longest, before = 0.0, peak_bytes()
  for number, copy in copies:
    start = time.process_time()
    try:
      reader(copy)
      read += 1
    except errors as error:
      refused += 1
      text = str(error)
      assert text, f'copy {number}: no message'
      assert '\n' not in text, f'copy {number}: {text}'
    except Exception as error:
      raise AssertionError(f'copy {number}: {error!r}') from error
    longest = max(longest, time.process_time() - start)
    assert longest < MOST_SECS, f'copy {number}: {longest} s'
    assert peak_bytes() - before < MOST_BYTES, f'copy {number}: too much memory'
  return Count(
    read=read, refused=refused, longest=longest, grown=peak_bytes() - before
  )


def peak_bytes() -> int:
  """Returns the most memory that this process has had in use."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) << 10
