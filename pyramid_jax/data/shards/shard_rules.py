"""Which samples of tar shards are read, and what of them.

The filters are those with which sets from the web are cut down (LAION: a side
of at least 256 px, a similarity of image and text of at least 0.3, NSFW =
UNLIKELY). What a sample lacks or says is found once, when a shard is indexed.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import io
import math
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import limits
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import category_lists
from pyramid_jax.data import identity
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import annotation_files
from pyramid_jax.data.storage import archives
from pyramid_jax.files import json_text


TEXT, METADATA, LABEL = 'txt', 'json', 'cls'  # suffixes of members
NO_LABEL = -1
_LABEL_BYTES = 20  # of a number in text
# Why a sample is left out, in the order of the tests.
REASONS = (
  'without_image',
  'without_caption',
  'without_metadata',
  'without_label',
  'low_similarity',
  'unsafe',
  'too_small',
)
# Suffix of a member in lower case -> the member.
Sample = Mapping[str, archives.Member]
Load = Callable[[archives.Member], bytes]


class LeftOut(Exception):
  """A sample that is left out; its text is one of `REASONS`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """What is read of a sample, by places in its shard."""

  image: archives.Member
  text: archives.Member | None  # of the caption, or of the JSON with it
  label: int  # from 0; `NO_LABEL` where none is asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """What is asked of a sample.

  Attributes:
    text: the field of the JSON with the caption, '' for the .txt; None for no
      caption.
    label: the field of the JSON with the class, '' for the .cls; None for none.
    categories: class by the ids and the names, in lower case, of a list.
    list_sha256: of the list, '' without one.
    min_side: the smallest side in px.
    min_similarity: of `similarity` in the JSON; None for any.
    nsfw: the values of `NSFW` in the JSON; () for any.
  """

  text: str | None = None
  label: str | None = None
  categories: Mapping[str, int] = dataclasses.field(default_factory=dict)
  list_sha256: str = ''
  min_side: int = 0
  min_similarity: float | None = None
  nsfw: tuple[str, ...] = ()

  @classmethod
  def of(cls, config: ConfigDict) -> 'Rules':
    """Reads `config.data`, and which condition there is."""
    d, task = config.data, config.condition.task
    categories: dict[str, int] = {}
    digest = ''
    if task == 'class' and d.category_file:
      path = category_lists.path_of(d.category_file)
      digest = identity.digest(path)
      for i, (key, name) in enumerate(category_lists.read(path).items()):
        categories.setdefault(key.lower(), i)
        categories.setdefault(name.lower(), i)
    return cls(
      text=d.text_field if task in tokenizers.TEXT_TASKS else None,
      label=d.label_field if task == 'class' else None,
      categories=categories,
      list_sha256=digest,
      min_side=d.min_side,
      min_similarity=d.min_similarity if d.min_similarity > -1 else None,
      nsfw=tuple(d.nsfw),
    )

  @property
  def options(self) -> dict[str, Any]:
    """Returns what an index depends on, as JSON values."""
    values = dataclasses.asdict(self)
    del values['categories']
    return {**values, 'nsfw': sorted(self.nsfw)}

  @property
  def _needs_metadata(self) -> bool:
    return bool(
      self.text or self.label or self.nsfw or self.min_similarity is not None
    )

  def row(self, sample: Sample, load: Load) -> Row:
    """Returns what is read of a sample.

    Args:
      sample: its members by suffix.
      load: reads a member.

    Raises:
      LeftOut: it lacks something, or a filter drops it.
    """
    image = next(
      (x for k, x in sample.items() if f'.{k}' in images.SUFFIXES), None
    )
    if image is None or not 0 < image.size <= limits.IMAGE_BYTES:
      raise LeftOut('without_image')
    text = self._text(sample)
    metadata: Mapping[str, Any] = {}
    if METADATA in sample and (self._needs_metadata or self.min_side):
      metadata = _metadata(sample[METADATA], load, self._needs_metadata)
    elif self._needs_metadata:
      raise LeftOut('without_metadata')
    if self.text and not _is_text(metadata.get(self.text)):
      raise LeftOut('without_caption')
    label = self._label(sample, metadata, load)
    if self.min_similarity is not None:
      value: Any = metadata.get('similarity')
      is_number = annotation_files.is_number(value)
      if not is_number or value < self.min_similarity:
        raise LeftOut('low_similarity')
    if self.nsfw and metadata.get('NSFW') not in self.nsfw:
      raise LeftOut('unsafe')
    if self.min_side and _side(metadata, image, load) < self.min_side:
      raise LeftOut('too_small')
    return Row(image=image, text=text, label=label)

  def _text(self, sample: Sample) -> archives.Member | None:
    if self.text is None:
      return None
    text = sample.get(METADATA if self.text else TEXT)
    if text is None or not text.size:
      raise LeftOut('without_metadata' if self.text else 'without_caption')
    return text

  def _label(
    self, sample: Sample, metadata: Mapping[str, Any], load: Load
  ) -> int:
    if self.label is None:
      return NO_LABEL
    value: Any = metadata.get(self.label) if self.label else None
    if not self.label and LABEL in sample:
      member = sample[LABEL]
      data = load(member) if member.size <= limits.ARRAY_NAME else b''
      value = data.decode(errors='replace').strip()
      if value.isdecimal() and len(value) < _LABEL_BYTES:
        value = int(value)
    if isinstance(value, str):
      value = self.categories.get(value.lower())
    if type(value) is not int or not 0 <= value < limits.VOCABULARY:
      raise LeftOut('without_label')
    return value


def caption(data: bytes, field: str) -> str:
  """Returns the caption in the bytes of a .txt, or of a field of a .json.

  Raises:
    ValueError: there is none, or a long one.
  """
  text: Any = data.decode('utf-8', 'replace').strip()
  if field:
    found = json_text.loads(data, most=limits.METADATA_BYTES, strict=False)
    text = found.get(field) if isinstance(found, dict) else None
  if not _is_text(text):
    raise ValueError(f'no text in {field!r}' if field else 'no text')
  if len(text) > limits.TEXT_CHARACTERS:
    raise ValueError(f'a text of {len(text)} characters')
  return text


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and bool(value.strip())


def _metadata(
  member: archives.Member, load: Load, is_needed: bool
) -> Mapping[str, Any]:
  """Returns the JSON of a sample; {} for damaged ones that nothing needs."""
  found: Any = None
  if member.size <= limits.METADATA_BYTES:
    with contextlib.suppress(ValueError):
      found = json_text.loads(
        load(member), most=limits.METADATA_BYTES, strict=False
      )
  if isinstance(found, dict):
    return found
  if is_needed:
    raise LeftOut('without_metadata')
  return {}


def _side(
  metadata: Mapping[str, Any], image: archives.Member, load: Load
) -> float:
  """Returns the smaller side of an image in px, as its JSON or it itself says.

  That of an image whose header is damaged is infinite: it counts as broken when
  it is read.
  """
  width: Any = metadata.get('width')
  height: Any = metadata.get('height')
  if type(width) is type(height) is int and min(width, height) > 0:
    return min(width, height)
  try:
    return min(images.size_of(io.BytesIO(load(image)), image.name))
  except images.BrokenImage:
    return math.inf
