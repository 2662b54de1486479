"""Texts as token ids: pieces of BERT, CLIP and T5, and whole words."""

from collections.abc import Iterable
from collections.abc import Sequence
import functools
import json
import pathlib
import re
import string
from typing import Any
import unicodedata

from absl import logging
from ml_collections import ConfigDict
import numpy as np


# Tasks whose condition is a text.
TEXT_TASKS = ('text', 'scene_graph')
# Encoders that were trained with a tokenizer of their own on any text.
PRETRAINED = ('clip', 't5')


class Tokenizer:
  """Maps a text to a fixed number of ids.

  Attributes:
    max_length: ids of a text, with start, end and padding.
    pad_id: the id that fills up.
    size: number of ids.
  """

  def __init__(self, max_length: int, size: int, frame: Sequence[int]):
    """`frame` has the ids of start, end and padding."""
    if max_length < 2:
      raise ValueError(f'max_length is {max_length}, must be at least 2.')
    self.max_length = max_length
    self.size = size
    self._start, self._end, self.pad_id = frame

  def _words(self, text: str) -> Iterable[int]:
    raise NotImplementedError

  def tokens(self, text: str) -> list[int]:
    """Returns start, the ids of the text cut to fit, and end."""
    ids = list(self._words(text))[: self.max_length - 2]
    return [self._start, *ids, self._end]

  def length(self, text: str) -> int:
    """Returns the ids of the whole text, with start and end."""
    return 2 + sum(1 for _ in self._words(text))

  def encode(self, text: str) -> np.ndarray:
    """Returns (max_length,) int32: `tokens(text)` and padding."""
    ids = np.full(self.max_length, self.pad_id, np.int32)
    tokens = self.tokens(text)
    ids[: len(tokens)] = tokens
    return ids


def _is_cjk(char: str) -> bool:
  """Ideographs of the CJK blocks, each a word of its own for BERT."""
  code = ord(char)
  return any(
    low <= code <= high
    for low, high in (
      (0x4E00, 0x9FFF),
      (0x3400, 0x4DBF),
      (0x20000, 0x2A6DF),
      (0x2A700, 0x2B73F),
      (0x2B740, 0x2B81F),
      (0x2B820, 0x2CEAF),
      (0xF900, 0xFAFF),
      (0x2F800, 0x2FA1F),
    )
  )


def _is_punctuation(char: str) -> bool:
  # All of ASCII that is neither a letter nor a digit counts, '$' and '^' too.
  return char in string.punctuation or unicodedata.category(char)[0] == 'P'


# Control, format, private use; unassigned characters stay, as unknown text.
_CONTROL = ('Cc', 'Cf', 'Co', 'Cs')


def _lower(text: str) -> str:
  # One letter at a time: no special form of sigma at the end of a word.
  return ''.join(char.lower() for char in text)


def basic_words(text: str) -> list[str]:
  """Splits a text as the uncased BERT does before its word pieces.

  Control characters go, white space separates, ideographs and punctuation
  marks stand alone, accents are stripped and letters lowered.
  """
  clean = []
  for char in text:
    if char in '\t\n\r' or unicodedata.category(char)[0] == 'Z':
      clean.append(' ')
    elif char == '\ufffd' or unicodedata.category(char) in _CONTROL:
      continue
    elif _is_cjk(char):
      clean.append(f' {char} ')
    else:
      clean.append(char)
  bare = ''.join(
    char
    for char in unicodedata.normalize('NFD', ''.join(clean))
    if unicodedata.category(char) != 'Mn'
  )
  lowered = _lower(bare)
  apart = (f' {char} ' if _is_punctuation(char) else char for char in lowered)
  return ''.join(apart).split()


class WordPieceTokenizer(Tokenizer):
  """The tokenizer of bert-base-uncased: [CLS] pieces [SEP] [PAD]...

  Equal to Hugging Face's `BertTokenizerFast`, except that special tokens
  written in a text ('[SEP]') are read as text.
  """

  MAX_CHARS = 100  # longer words are unknown

  def __init__(self, vocabulary: Sequence[str], max_length: int):
    """Takes the pieces in the order of their ids.

    Raises:
      ValueError: one of the four special tokens is not in the vocabulary.
    """
    self._ids = {token: i for i, token in enumerate(vocabulary)}
    special = ('[CLS]', '[SEP]', '[PAD]', '[UNK]')
    absent = [token for token in special if token not in self._ids]
    if absent:
      raise ValueError(f'the vocabulary lacks {", ".join(absent)}.')
    *frame, self._unknown = (self._ids[token] for token in special)
    super().__init__(max_length, len(vocabulary), frame)
    self._cached = functools.lru_cache(2**16)(self._pieces)

  def _pieces(self, word: str) -> tuple[int, ...]:
    """The longest known piece first, from left to right."""
    if len(word) > self.MAX_CHARS:
      return (self._unknown,)
    ids, start = [], 0
    while start < len(word):
      prefix = '##' if start else ''
      for end in range(len(word), start, -1):
        piece = self._ids.get(prefix + word[start:end])
        if piece is not None:
          break
      else:
        return (self._unknown,)
      ids.append(piece)
      start = end
    return tuple(ids)

  def _words(self, text: str) -> Iterable[int]:
    for word in basic_words(text):
      yield from self._cached(word)


# Unicode's White_Space; Python counts four separators more.
_WHITE = re.compile(r'[^\S\x1c-\x1f]+')
_CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")


def _kind(char: str) -> str:
  """'L' letter, 'N' number, ' ' white space, '*' anything else."""
  if _WHITE.match(char):
    return ' '
  first = unicodedata.category(char)[0]
  return first if first in 'LN' else '*'


def clip_words(text: str) -> list[str]:
  """Splits a text as CLIP does before its byte pairs.

  Lower case in NFC with single spaces; words are contractions ('s), runs of
  letters, single digits, and runs of anything else.
  """
  text = unicodedata.normalize('NFC', text)
  text = _lower(_WHITE.sub(' ', text))
  words, start = [], 0
  while start < len(text):
    match = _CONTRACTION.match(text, start)
    kind = _kind(text[start])
    if match:
      end = match.end()
    else:
      end = start + 1
      while kind in 'L*' and end < len(text) and _kind(text[end]) == kind:
        end += 1
    if kind != ' ':
      words.append(text[start:end])
    start = end
  return words


def _byte_letters() -> dict[int, str]:
  """The printable character that stands for each byte in CLIP's files."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  rest = [byte for byte in range(256) if byte not in shown]
  letters = {byte: chr(byte) for byte in shown}
  letters.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
  return letters


class ClipTokenizer(Tokenizer):
  """The byte-pair tokenizer of CLIP: start, pairs, end, end...

  Equal to Hugging Face's `CLIPTokenizerFast` of clip-vit-large-patch14, which
  pads with the end token.
  """

  START = '<|startoftext|>'
  END = '<|endoftext|>'

  def __init__(
    self,
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    max_length: int,
  ):
    """Takes the ids by token, and the merges in the order of their rank.

    Raises:
      ValueError: the start or the end token is not in the vocabulary.
    """
    for token in (self.START, self.END):
      if token not in vocabulary:
        raise ValueError(f'the vocabulary lacks {token}.')
    self._ids = vocabulary
    self._ranks = {pair: rank for rank, pair in enumerate(merges)}
    self._letters = _byte_letters()
    end = vocabulary[self.END]
    frame = (vocabulary[self.START], end, end)
    super().__init__(max_length, max(vocabulary.values()) + 1, frame)
    self._cached = functools.lru_cache(2**16)(self._pieces)

  def _pieces(self, word: str) -> tuple[int, ...]:
    """Merges the pair of the lowest rank until none is left."""
    parts = [self._letters[byte] for byte in word.encode()]
    parts[-1] += '</w>'
    while len(parts) > 1:
      pairs = set(zip(parts, parts[1:], strict=False))
      best = min(pairs, key=lambda p: self._ranks.get(p, len(self._ranks)))
      if best not in self._ranks:
        break
      merged: list[str] = []
      for part in parts:
        # A part that was merged just now cannot be `best[0]`: it is longer.
        if merged and (merged[-1], part) == best:
          merged[-1] += part
        else:
          merged.append(part)
      parts = merged
    return tuple(self._ids.get(part, self._end) for part in parts)

  def _words(self, text: str) -> Iterable[int]:
    for word in clip_words(text):
      yield from self._cached(word)


class T5Tokenizer(Tokenizer):
  """The pieces of T5, by the package `tokenizers`: pieces, end, padding..."""

  PAD, END = '<pad>', '</s>'

  def __init__(self, pieces: Any, max_length: int):
    """Takes a `tokenizers.Tokenizer`.

    Raises:
      ValueError: padding is not 0, or the end not 1.
    """
    frame = tuple(pieces.token_to_id(token) for token in (self.PAD, self.END))
    if frame != (0, 1):
      raise ValueError(
        f'the ids of {self.PAD} and {self.END} must be 0 and 1, are'
        f' {frame[0]} and {frame[1]}.'
      )
    pieces.no_padding()
    pieces.no_truncation()
    self._pieces = pieces
    super().__init__(max_length, pieces.get_vocab_size(), (1, 1, 0))

  def _words(self, text: str) -> Iterable[int]:
    return self._pieces.encode(text, add_special_tokens=False).ids

  def tokens(self, text: str) -> list[int]:
    """Returns the ids of the text cut to fit, and end."""
    return [*list(self._words(text))[: self.max_length - 1], self._end]

  def length(self, text: str) -> int:
    """Returns the ids of the whole text, with end."""
    return super().length(text) - 1


class WordTokenizer(Tokenizer):
  """Whole words of a small vocabulary: <bos> words <eos> <pad>..."""

  SPECIAL = ('<pad>', '<unk>', '<bos>', '<eos>')

  def __init__(self, vocabulary: Sequence[str], max_length: int):
    """Takes the words, without the special tokens (ids 0 to 3)."""
    words = (*self.SPECIAL, *vocabulary)
    self._ids = {word: i for i, word in enumerate(words)}
    super().__init__(max_length, len(words), (2, 3, 0))

  def _words(self, text: str) -> Iterable[int]:
    for word in re.findall(r'\w+|[^\w\s]', text.lower()):
      yield self._ids.get(word, 1)


def _read(path: str, field: str, what: str) -> str:
  if not path:
    raise ValueError(f'config.condition.{field} is empty, expected {what}.')
  try:
    return pathlib.Path(path).expanduser().read_text(encoding='utf-8')
  except OSError as error:
    reason = error.strerror or str(error)
  except UnicodeDecodeError:
    reason = 'not UTF-8 text'
  raise ValueError(
    f'cannot read {path} of config.condition.{field}, expected {what}: '
    f'{reason}.'
  )


WORD_PIECES = 'a WordPiece vocab.txt'
CLIP_VOCAB = "CLIP's vocab.json"
CLIP_MERGES = "CLIP's merges.txt"
T5_PIECES = "T5's tokenizer.json"


def load_word_piece(path: str, max_length: int) -> WordPieceTokenizer:
  """Reads a vocab.txt, one piece a line.

  Raises:
    ValueError: the file cannot be read or is not a vocabulary.
  """
  lines = _read(path, 'vocab_file', WORD_PIECES).split('\n')
  lines = [line.rstrip('\r') for line in lines]
  if not lines[-1]:
    lines.pop()
  try:
    return WordPieceTokenizer(lines, max_length)
  except ValueError as error:
    raise ValueError(f'{path} (config.condition.vocab_file): {error}') from None


def load_clip(vocab: str, merges: str, max_length: int) -> ClipTokenizer:
  """Reads the vocab.json and merges.txt of Hugging Face's CLIP.

  Raises:
    ValueError: a file cannot be read or is not what it should be.
  """
  text = _read(vocab, 'vocab_file', CLIP_VOCAB)
  try:
    ids = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{vocab} (config.condition.vocab_file) is not JSON: {error}.'
    ) from None
  values = list(ids.values()) if isinstance(ids, dict) else [ids]
  if not all(type(value) is int and value >= 0 for value in values):
    raise ValueError(
      f'{vocab} (config.condition.vocab_file) must be one JSON object of '
      '{token: id}.'
    )
  pairs = []
  lines = _read(merges, 'merges_file', CLIP_MERGES).split('\n')
  for number, line in enumerate(lines, 1):
    parts = line.split()
    if not parts or (number == 1 and line.startswith('#version')):
      continue
    if len(parts) != 2:
      raise ValueError(
        f'{merges} (config.condition.merges_file) line {number} must be two '
        f'tokens, got {line!r}.'
      )
    pairs.append((parts[0], parts[1]))
  try:
    return ClipTokenizer(ids, pairs, max_length)
  except ValueError as error:
    raise ValueError(
      f'{vocab} (config.condition.vocab_file): {error}'
    ) from None


def load_t5(path: str, max_length: int) -> T5Tokenizer:
  """Reads the tokenizer.json of Hugging Face's T5.

  Raises:
    ValueError: the package that reads it is missing, or the file cannot be
      read or is not what it should be.
  """
  text = _read(path, 'vocab_file', T5_PIECES)
  try:
    import tokenizers as pieces_lib
  except ImportError:
    raise ValueError(
      "config.condition.encoder 't5' needs the package tokenizers: pip install"
      " 'pyramid_jax[t5]'."
    ) from None
  try:
    return T5Tokenizer(pieces_lib.Tokenizer.from_str(text), max_length)
  except Exception as error:  # that package raises nothing more special
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{path} (config.condition.vocab_file), expected {T5_PIECES}: {reason}'
    ) from None


def create(config: ConfigDict) -> Tokenizer:
  """Builds the tokenizer of a condition encoder from its files.

  Args:
    config: a whole config; `condition.encoder` 'clip' means byte pairs, 't5'
      pieces of T5, anything else word pieces.

  Raises:
    ValueError: a vocabulary is missing, broken, or larger than the network's.
  """
  c = config.condition
  tokenizer: Tokenizer
  if c.encoder == 'clip':
    tokenizer = load_clip(c.vocab_file, c.merges_file, c.max_length)
  elif c.encoder == 't5':
    tokenizer = load_t5(c.vocab_file, c.max_length)
  else:
    tokenizer = load_word_piece(c.vocab_file, c.max_length)
  if tokenizer.size > c.vocab_size:
    raise ValueError(
      f'{c.vocab_file} has {tokenizer.size} tokens, more than '
      f'config.condition.vocab_size = {c.vocab_size}.'
    )
  empty = tuple(tokenizer.tokens(''))
  if (tuple(c.null_prefix), c.pad_id) != (empty, tokenizer.pad_id):
    logging.warning(
      'config.condition.null_prefix, pad_id = %s, %d, but the empty text of '
      '%s is %s and then %d: the null condition is not the empty text.',
      tuple(c.null_prefix),
      c.pad_id,
      c.vocab_file,
      empty,
      tokenizer.pad_id,
    )
  return tokenizer


def missing_inputs(config: ConfigDict) -> list[str]:
  """Returns one entry for every file of the tokenizer that is not there."""
  c = config.condition
  if c.task not in TEXT_TASKS:
    return []
  pieces = T5_PIECES if c.encoder == 't5' else WORD_PIECES
  files = [('vocab_file', c.vocab_file, pieces)]
  if c.encoder == 'clip':
    files = [
      ('vocab_file', c.vocab_file, CLIP_VOCAB),
      ('merges_file', c.merges_file, CLIP_MERGES),
    ]
  return [
    f'{path} (config.condition.{field})'
    if path
    else f'{what} (config.condition.{field} is empty)'
    for field, path, what in files
    if not path or not pathlib.Path(path).expanduser().is_file()
  ]
