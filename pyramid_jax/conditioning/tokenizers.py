"""Texts as token ids: pieces of BERT, CLIP and T5, and whole words.

The pieces are those of the package `tokenizers`, which is imported where a
vocabulary is read.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import re
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import files
from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text
from pyramid_jax.files import retries


TEXT_TASKS = ('text', 'scene_graph')  # tasks whose condition is a text
PROMPTED = (*TEXT_TASKS, 'retrieval')  # tasks that take a text in sampling
PRETRAINED = ('clip', 't5')  # encoders with their own tokenizers

WORD_PIECES = 'a WordPiece vocab.txt'
CLIP_VOCAB = "CLIP's vocab.json"
CLIP_MERGES = "CLIP's merges.txt"
T5_PIECES = "T5's tokenizer.json"
# What of that file may have expressions, and the one that T5 has.
_STEPS = ('normalizer', 'pre_tokenizer', 'post_processor', 'decoder')
_SPACES = ' {2,}'

# Special tokens of the small vocabulary of whole words, ids 0 to 3.
WORD_SPECIAL = ('<pad>', '<unk>', '<bos>', '<eos>')
# huggingface/transformers: convert_slow_tokenizer.py, CLIPConverter.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


# The fields that name the files, for messages.
VOCAB_FIELD = 'config.condition.vocab_file'
MERGES_FIELD = 'config.condition.merges_file'
_NAMED = 10  # words that a warning names
# Words and punctuation of vocabularies of whole words.
_WORD = r'\w+|[^\w\s]'

# The ids of a text, and where in the text each of them begins.
Pieces = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Maps a text to a fixed number of ids.

  Attributes:
    pieces: text -> `Pieces`, without start, end and padding.
    max_length: ids of a text, with start, end and padding.
    size: number of ids.
    start: the ids in front of a text, at most one.
    end: the id after it.
    pad_id: the id that fills up.
    drop_full_stops: whether '.' is taken out of a text first.
    unknown_id: the id of a word that is not in a vocabulary of whole words,
      None where every word has pieces.
  """

  pieces: Callable[[str], Pieces]
  max_length: int
  size: int
  start: tuple[int, ...]
  end: int
  pad_id: int
  drop_full_stops: bool = False
  unknown_id: int | None = None

  def __post_init__(self):
    if self.max_length < 2:
      raise ValueError(f'max_length is {self.max_length}, must be at least 2.')

  def tokens(self, text: str) -> list[int]:
    """Returns start, the ids of the text cut to fit, and end."""
    ids, _ = self.pieces(self._plain(text))
    return [*[*self.start, *ids][: self.max_length - 1], self.end]

  def length(self, text: str) -> int:
    """Returns the number of ids of the whole text, with start and end."""
    return len(self.start) + len(self.pieces(self._plain(text))[0]) + 1

  def rest(self, text: str) -> str:
    """Returns the end of a text that `tokens` cuts off, '' if it fits."""
    text = self._plain(text)
    _, begins = self.pieces(text)
    fitting = self.max_length - 1 - len(self.start)
    return text[begins[fitting] :].strip() if len(begins) > fitting else ''

  def unknown(self, text: str) -> list[str]:
    """Returns the words of a text that the vocabulary does not have."""
    if self.unknown_id is None:
      return []
    words = re.findall(_WORD, self._plain(text))
    return [w for w in words if self.unknown_id in self.pieces(w)[0]]

  def _plain(self, text: str) -> str:
    return text.replace('.', '') if self.drop_full_stops else text

  def encode(self, text: str) -> np.ndarray:
    """Returns (max_length,) int32: `tokens(text)` and padding."""
    ids = np.full(self.max_length, self.pad_id, np.int32)
    tokens = self.tokens(text)
    ids[: len(tokens)] = tokens
    return ids


def words(vocabulary: Sequence[str], max_length: int) -> Tokenizer:
  """Returns the tokenizer of words, ids 4 ...: <bos> words <eos> <pad>..."""
  ids = {word: i for i, word in enumerate((*WORD_SPECIAL, *vocabulary))}

  def pieces(text: str) -> Pieces:
    found = list(re.finditer(_WORD, text))
    return (
      [ids.get(word.group().lower(), 1) for word in found],
      [word.start() for word in found],
    )

  return Tokenizer(
    pieces, max_length, len(ids), start=(2,), end=3, pad_id=0, unknown_id=1
  )


def load_word_piece(path: str, max_length: int) -> Tokenizer:
  """Reads a vocab.txt, one piece a line: [CLS] pieces [SEP] [PAD]...

  Equal to Hugging Face's `BertTokenizerFast` of bert-base-uncased, except that
  special tokens written in a text ('[SEP]') are read as text.

  Raises:
    ValueError: the file cannot be read or is not a vocabulary.
  """
  lines = _read(path, VOCAB_FIELD, WORD_PIECES).split('\n')
  _check_count(len(lines), path, VOCAB_FIELD)
  lines = [line.rstrip('\r') for line in lines]
  if not lines[-1]:
    lines.pop()
  ids = {piece: i for i, piece in enumerate(lines)}
  start, end, pad, _ = _ids_of(ids, ('[CLS]', '[SEP]', '[PAD]', '[UNK]'), path)
  import tokenizers as library

  model = library.models.WordPiece(
    ids, unk_token='[UNK]', max_input_chars_per_word=100
  )
  pieces = library.Tokenizer(model)
  pieces.normalizer = library.normalizers.BertNormalizer(lowercase=True)
  pieces.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  size = len(lines)
  return Tokenizer(_plain(pieces), max_length, size, (start,), end, pad)


def load_clip(
  vocab: str,
  merges: str,
  max_length: int,
  pad_id: int | None = None,
  pad_in_text: bool = False,
  fields: tuple[str, str] = (VOCAB_FIELD, MERGES_FIELD),
) -> Tokenizer:
  """Reads the vocab.json and merges.txt of CLIP: start, pairs, end, pad...

  Equal to Hugging Face's `CLIPTokenizerFast` of clip-vit-large-patch14, which
  pads with the end token, except that special tokens written in a text are
  read as text.

  Args:
    vocab: the path of vocab.json, or of a tokenizer.json, which has both.
    merges: the path of merges.txt, or of that tokenizer.json.
    max_length: of `Tokenizer`.
    pad_id: of `Tokenizer`, None for the end token.
    pad_in_text: whether the padding token, written in a text, is that token.
    fields: what names the two files, for messages.

  Raises:
    ValueError: a file cannot be read or is not what it should be.
  """
  ids = clip_vocabulary(vocab, fields[0])
  pairs = _clip_merges(merges, fields[1])
  unknown = '<|endoftext|>'
  start, end = _ids_of(ids, ('<|startoftext|>', unknown), vocab, fields[0])
  import tokenizers as library

  with _not_a(fields[1], merges, CLIP_MERGES):
    model = library.models.BPE(
      ids, pairs, unk_token=unknown, end_of_word_suffix='</w>'
    )
  pieces = library.Tokenizer(model)
  blank = library.normalizers.Replace(library.Regex(r'\s+'), ' ')
  pieces.normalizer = library.normalizers.Sequence(
    [library.normalizers.NFC(), blank, library.normalizers.Lowercase()]
  )
  split = library.pre_tokenizers.Split(
    library.Regex(_CLIP_WORDS), behavior='removed', invert=True
  )
  pieces.pre_tokenizer = library.pre_tokenizers.Sequence(
    [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  size = max(ids.values()) + 1
  pad_id = end if pad_id is None else pad_id
  if pad_in_text:
    pieces.add_special_tokens([key for key, i in ids.items() if i == pad_id])
  return Tokenizer(_plain(pieces), max_length, size, (start,), end, pad_id)


def load_t5(path: str, max_length: int) -> Tokenizer:
  """Reads the tokenizer.json of Hugging Face's T5: pieces, end, padding...

  Raises:
    ValueError: the file cannot be read or is not what it should be.
  """
  text = _read(path, VOCAB_FIELD, T5_PIECES)
  import tokenizers as library

  with _not_a(VOCAB_FIELD, path, T5_PIECES):
    _check_patterns(json_text.loads(text))
    pieces = library.Tokenizer.from_str(text)
    pad, end = map(pieces.token_to_id, ('<pad>', '</s>'))
    if (pad, end) != (0, 1):
      raise ValueError(
        f'the ids of <pad> and </s> must be 0 and 1, are {pad} and {end}.'
      )
    pieces.no_padding()
    pieces.no_truncation()
    pieces.encode('\ue000', add_special_tokens=False)  # which no piece has
  size = pieces.get_vocab_size()
  return Tokenizer(_plain(pieces), max_length, size, start=(), end=1, pad_id=0)


def _check_patterns(value: Any) -> None:
  """Raises a ValueError for expressions that T5 lacks: some take for ever."""
  todo = [value[k] for k in _STEPS if k in value]
  while todo:
    item = todo.pop()
    if isinstance(item, dict):
      if item.get('Regex', _SPACES) != _SPACES:
        raise ValueError(f'the expression {item["Regex"]!r:.60} is not read')
      todo += item.values()
    elif isinstance(item, list):
      todo += item


def warn_of_cut(tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
  """Logs one warning if a text is longer than the tokenizer's length.

  Such a text is cut, as the official pipelines do. Returns whether there is
  one.
  """
  long = [text for text in texts if tokenizer.rest(text)]
  if not long:
    return False
  more = f' ({len(long) - 1} more texts are cut, too)' if long[1:] else ''
  logging.warning(
    'the text %s has %d tokens, start and end included, the model takes %d:'
    ' %s is cut off%s',
    _shortened(long[0]),
    tokenizer.length(long[0]),
    tokenizer.max_length,
    _shortened(tokenizer.rest(long[0])),
    more,
  )
  return True


def warn_of_unknown(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
  """Logs one warning that names words which the vocabulary does not have."""
  words = dict.fromkeys(w for text in texts for w in tokenizer.unknown(text))
  if words:
    more = f' and {len(words) - _NAMED} more' if len(words) > _NAMED else ''
    logging.warning(
      'the model does not know %s%s: its vocabulary has whole words only',
      ', '.join(map(_shortened, list(words)[:_NAMED])),
      more,
    )


def _shortened(text: str, most: int = 80) -> str:
  """Returns the text in quotes, without its middle if it is long."""
  half = most // 2
  return repr(
    text if len(text) <= most else f'{text[:half]} ... {text[-half:]}'
  )


def _plain(pieces: Any) -> Callable[[str], Pieces]:
  """Returns text -> pieces without special tokens."""

  def encode(text: str) -> Pieces:
    found = pieces.encode(text, add_special_tokens=False)
    return found.ids, [begin for begin, _ in found.offsets]

  return encode


def _read(path: str, field: str, what: str) -> str:
  if not path:
    raise ValueError(f'{field} is empty, expected {what}.')
  found = files.local(path, field)
  try:
    return retries.repeat(lambda: bounded.text(found, limits.JSON_BYTES), found)
  except OSError as error:
    reason = error.strerror or str(error)
  except ValueError as error:
    reason = str(error)
  raise ValueError(f'cannot read {path} of {field}, expected {what}: {reason}.')


@contextlib.contextmanager
def _not_a(field: str, path: str, what: str) -> Iterator[None]:
  """Names the file of which `tokenizers` cannot make what it should be."""
  try:
    yield
  except Exception as error:  # that package raises nothing more special
    reason = ' '.join(str(error).split())
    raise ValueError(f'{path} ({field}), expected {what}: {reason}') from None


def _ids_of(
  ids: Mapping[str, int],
  special: Sequence[str],
  path: str,
  field: str = VOCAB_FIELD,
) -> list[int]:
  """Returns the ids of the special tokens, which a vocabulary must have."""
  absent = [token for token in special if token not in ids]
  if absent:
    raise ValueError(
      f'{path} ({field}): the vocabulary lacks {", ".join(absent)}.'
    )
  return [ids[token] for token in special]


def _check_count(count: int, path: str, field: str) -> None:
  if count > limits.VOCABULARY:
    raise ValueError(
      f'{path} ({field}) has {count} entries, at most {limits.VOCABULARY} are'
      ' read.'
    )


def clip_vocabulary(path: str, field: str = VOCAB_FIELD) -> dict[str, int]:
  text = _read(path, field, CLIP_VOCAB)
  ids = json_text.loads(text, f'{path} ({field})')
  if isinstance(ids, dict) and isinstance(ids.get('model'), dict):
    ids = ids['model'].get('vocab')  # a tokenizer.json
  values = list(ids.values()) if isinstance(ids, dict) else [ids]
  _check_count(len(values), path, field)
  most = np.iinfo(np.int32).max
  if not all(type(value) is int and 0 <= value < most for value in values):
    raise ValueError(
      f'{path} ({field}) must be one JSON object of {{token: id}}.'
    )
  return ids


def _clip_merges(path: str, field: str = MERGES_FIELD) -> list[tuple[str, str]]:
  """Returns the merges in the order of their rank."""
  pairs = []
  text = _read(path, field, CLIP_MERGES)
  lines = text.split('\n')
  if text.lstrip().startswith('{'):
    lines = _json_merges(text, f'{path} ({field})')
  _check_count(len(lines), path, field)
  for number, line in enumerate(lines, 1):
    parts = line.split()
    if not parts or (number == 1 and line.startswith('#version')):
      continue
    if len(parts) != 2:
      raise ValueError(
        f'{path} ({field}) line {number} must be two tokens, got {line!r}.'
      )
    pairs.append((parts[0], parts[1]))
  return pairs


def _json_merges(text: str, what: str) -> list[str]:
  """Returns the lines of a merges.txt from the text of a tokenizer.json.

  `what` names the file, for messages.
  """
  try:
    merges = json_text.loads(text, what)['model']['merges']
    # two generations: 'a b', and ['a', 'b']
    return [m if isinstance(m, str) else ' '.join(m) for m in merges]
  except (KeyError, TypeError):
    raise ValueError(f'{what} is no tokenizer.json with merges.') from None


def create(config: ConfigDict) -> Tokenizer:
  """Builds the tokenizer of `config.condition.encoder` from its files.

  Raises:
    ValueError: a vocabulary is missing, broken, or larger than the network's.
  """
  c = config.condition
  if c.encoder == 'clip':
    tokenizer = load_clip(
      c.vocab_file, c.merges_file, c.max_length, c.pad_id, c.pad_in_text
    )
  else:
    load = load_t5 if c.encoder == 't5' else load_word_piece
    tokenizer = load(c.vocab_file, c.max_length)
  if tokenizer.size > c.vocab_size:
    raise ValueError(
      f'{c.vocab_file} has {tokenizer.size} tokens, more than '
      f'config.condition.vocab_size = {c.vocab_size}.'
    )
  given = tuple(c.null_prefix), c.pad_id
  empty = tuple(tokenizer.tokens('')), tokenizer.pad_id
  if given != empty:
    logging.warning(
      'config.condition.null_prefix, pad_id = %s, %d, but the empty text of '
      '%s is %s and then %d: the null condition is not the empty text.',
      *given,
      c.vocab_file,
      *empty,
    )
  return dataclasses.replace(tokenizer, drop_full_stops=c.drop_full_stops)


def missing_inputs(config: ConfigDict) -> list[str]:
  """Returns one entry for every file of the tokenizer that is not there."""
  c = config.condition
  if c.task not in TEXT_TASKS:
    return []
  vocabulary = {'clip': CLIP_VOCAB, 't5': T5_PIECES}.get(c.encoder, WORD_PIECES)
  kinds = {'vocab_file': vocabulary}
  if c.encoder == 'clip':
    kinds['merges_file'] = CLIP_MERGES
  lines = [
    files.missing(c[field], f'config.condition.{field}')
    if c[field]
    else f'{what} (config.condition.{field} is empty)'
    for field, what in kinds.items()
  ]
  return [line for line in lines if line]
