"""Captions and graphs of `shapes` scenes as text, and the way back.

Grammar, with the relation left out where no pair of objects is fit for one:

  0  NOUNS on a BG background, the NOUN is RELATION the NOUN
  1  a picture of NOUNS, the NOUN is RELATION the NOUN, on a BG background
  2  there are NOUNS, with the NOUN RELATION the NOUN, and the background is BG
  3  on a BG background, NOUNS, the NOUN RELATION the NOUN
  4  NOUNS in front of a BG background with the NOUN RELATION the NOUN

NOUNS are at most three of 'a red circle', 'two red circles', largest first.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from pyramid_jax.conditioning import scene_graph
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data.synthetic import scenes


MAX_TOKENS = 40
MAX_NOUNS = 3
TEMPLATES = 5
MARGIN_DEGREES = 8.0  # relations nearer to their border are ambiguous

NUMBERS = ('a', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
PLURALS = ('circles', 'squares', 'triangles', 'crosses')
# Adjectives of `scenes.BACKGROUNDS`.
TEXTURES = ('smooth', 'striped', 'checked', 'wavy')
PREDICATES = scene_graph.PREDICATES
_LETTERS = tuple('bcdefghi')  # of graphs: up to nine objects of one name
_GLUE = 'and on background picture there is are the in front with left right of'
WORDS: tuple[str, ...] = (
  ',',
  *NUMBERS,
  *scenes.COLOURS,
  *scenes.SHAPES,
  *PLURALS,
  *TEXTURES,
  *_GLUE.split(),
  *PREDICATES[3:],
  *_LETTERS,
)
# Every word by its id: padding, unknown, begin and end come first.
VOCABULARY = (*tokenizers.WORD_SPECIAL, *WORDS)


def tokenizer(max_length: int = MAX_TOKENS) -> tokenizers.Tokenizer:
  """Returns the tokenizer of captions and graphs of scenes."""
  return tokenizers.words(WORDS, max_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """The constraints of a caption."""

  counts: Mapping[int, int]  # label -> exact number of objects
  # Subject label, place in `PREDICATES`, object label of each.
  relations: tuple[tuple[int, int, int], ...] = ()
  background: int | None = None  # a place in `scenes.BACKGROUNDS`


def relation_matrix(boxes: np.ndarray, n_boxes: np.ndarray) -> np.ndarray:
  """Returns the predicate of every ordered pair of boxes (B, N, 4).

  They are (B, N, N) int32, subject by row: places in `PREDICATES`, -1 where
  there is no pair or no clear relation: directions within 8 degrees of a border
  between two are left out.
  """
  count = boxes.shape[1]
  centres = (boxes[..., :2] + boxes[..., 2:]) / 2
  predicates = scene_graph.predicate_ids(
    boxes[:, :, None],
    boxes[:, None],
    centres[:, :, None],
    centres[:, None],
    MARGIN_DEGREES,
  )
  valid = np.arange(count) < np.asarray(n_boxes)[:, None]
  pairs = valid[:, :, None] & valid[:, None] & ~np.eye(count, dtype=bool)
  return np.where(pairs, predicates, -1).astype(np.int32)


def _noun(label: int, count: int) -> str:
  shape, colour = divmod(label - 1, len(scenes.COLOURS))
  words = scenes.SHAPES if count == 1 else PLURALS
  return f'{scenes.COLOURS[colour]} {words[shape]}'


def _caption(
  template: int,
  pick: float,
  labels: Sequence[int],
  relations: np.ndarray,
  background: int,
) -> str:
  """Writes one caption; objects come largest first, `pick` in [0, 1)."""
  counts: dict[int, int] = {}
  for label in labels:
    counts[label] = counts.get(label, 0) + 1
  named = list(counts)[:MAX_NOUNS]
  phrases = [f'{NUMBERS[counts[y] - 1]} {_noun(y, counts[y])}' for y in named]
  nouns = ' and '.join([', '.join(phrases[:-1]), phrases[-1]])
  nouns = nouns.removeprefix(' and ')
  texture = TEXTURES[background]
  # Only what is named, and is the only one of its name, can be 'the' one.
  alone = [labels.index(y) for y in named if counts[y] == 1]
  pairs = [(s, o) for s in alone for o in alone if relations[s][o] >= 0]
  clause, link = '', ''
  if pairs:
    s, o = pairs[int(pick * len(pairs))]
    link = 'is ' if template < 2 else ''
    predicate = PREDICATES[relations[s][o]]
    clause = f'the {_noun(labels[s], 1)} {link}{predicate} '
    clause += f'the {_noun(labels[o], 1)}'
  verb = 'is' if counts[named[0]] == 1 else 'are'
  comma = f', {clause}' if clause else ''
  with_ = f' with {clause}' if clause else ''
  return (
    f'{nouns} on a {texture} background{comma}',
    f'a picture of {nouns}{comma}, on a {texture} background',
    f'there {verb} {nouns},{with_ + "," if clause else ""} and the background '
    f'is {texture}',
    f'on a {texture} background, {nouns}{comma}',
    f'{nouns} in front of a {texture} background{with_}',
  )[template]


def captions(
  seed: int,
  indices: np.ndarray,
  spec: scenes.Scenes,
  template: int | None = None,
) -> list[str]:
  """Writes a caption of every scene; `template` is 0..4, None draws one."""
  u = scenes.uniforms(seed, indices, scenes.CAPTION, 2)
  templates = (u[:, 0] * TEMPLATES).astype(int)
  if template is not None:
    templates = np.full(len(spec), template)
  order = np.argsort(-spec.geometry[..., 2], axis=1, kind='stable')
  labels = np.take_along_axis(spec.labels, order, 1).tolist()
  relations = relation_matrix(
    np.take_along_axis(spec.boxes, order[..., None], 1), spec.n_boxes
  ).tolist()
  return [
    _caption(
      templates[i],
      u[i, 1],
      labels[i][: spec.n_boxes[i]],
      relations[i],
      spec.background[i],
    )
    for i in range(len(spec))
  ]


def _singular_noun(words: Sequence[str]) -> int | None:
  """Returns the label of 'red circle' or 'red circles', or None."""
  if len(words) < 2 or words[0] not in scenes.COLOURS:
    return None
  colour = scenes.COLOURS.index(words[0])
  for names in (scenes.SHAPES, PLURALS):
    if words[1] in names:
      return 1 + names.index(words[1]) * len(scenes.COLOURS) + colour
  return None


def _relation(words: Sequence[str]) -> tuple[int, int, int]:
  """Parses 'red circle [is] left of the blue square ...'."""
  subject = _singular_noun(words)
  rest = list(words[2:])
  if rest[:1] == ['is']:
    rest = rest[1:]
  for place, name in enumerate(PREDICATES[1:], 1):
    parts = [*name.split(), 'the']
    target = _singular_noun(rest[len(parts) :])
    if rest[: len(parts)] == parts and subject and target:
      return subject, place, target
  raise ValueError(
    f'no relation in {" ".join(words)!r}; predicates are {PREDICATES[1:]}.'
  )


def parse(caption: str) -> Constraints:
  """Returns what a caption asks for; words outside the grammar do not count.

  Raises:
    ValueError: 'the' and a noun are not followed by a relation to another.
  """
  words = caption.lower().replace(',', ' , ').split()
  counts: dict[int, int] = {}
  relations = []
  background = None
  target = -1  # where the object of the last relation begins
  for i, word in enumerate(words):
    label = _singular_noun(words[i + 1 :])
    if word in TEXTURES:
      background = TEXTURES.index(word)
    elif word in NUMBERS and label is not None:
      counts[label] = NUMBERS.index(word) + 1
    elif word == 'the' and label is not None and i != target:
      relations.append(_relation(words[i + 1 :]))
      target = words.index('the', i + 1)
  return Constraints(
    counts=counts, relations=tuple(relations), background=background
  )


def graphs(spec: scenes.Scenes, triples: np.ndarray) -> list[str]:
  """Writes every scene's graph, 'red circle left of blue square , ...'.

  `triples` are (B, T, 3) of `relations_from_boxes`.
  """
  names = [[scenes.LABEL_NAMES[y] for y in row] for row in spec.labels]
  return [
    scene_graph.graph_text(n, t, PREDICATES)
    for n, t in zip(names, triples, strict=True)
  ]


def triples(
  seed: int, indices: np.ndarray, spec: scenes.Scenes, width: int
) -> np.ndarray:
  """Returns the triples of scenes by the rule of sg2im, only clear ones.

  They are (B, 2 * width, 3) int32 (subject, place in `PREDICATES`, object), one
  relation and one '__in_image__' (with the node `n_boxes`) for each of the
  `width` places of objects, padded with -1.
  """
  draws = scenes.uniforms(seed, indices, scenes.TRIPLES, 1)[:, 0]
  rows = scene_graph.relations_from_boxes(
    spec.boxes,
    spec.n_boxes,
    (draws * 2**53).astype(np.uint64),
    margin_degrees=MARGIN_DEGREES,
    in_image=True,
  )
  missing = 2 * width - rows.shape[1]
  return np.pad(rows, [(0, 0), (0, missing), (0, 0)], constant_values=-1)
