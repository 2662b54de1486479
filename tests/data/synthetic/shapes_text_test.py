"""Captions say what is true of their scenes, and can be read back."""

import numpy as np
import pytest

from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import text


def _label(name):
  return scenes.LABEL_NAMES.index(name)


def _holds(constraints, spec, b):
  """Whether constraints are true of the specification of scene b."""
  n = spec.n_boxes[b]
  labels, boxes = spec.labels[b, :n], spec.boxes[b, :n]
  counts = [
    (labels == y).sum() == count for y, count in constraints.counts.items()
  ]
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  predicates = scene_graph.predicate_ids(
    boxes[:, None], boxes[None], centres[:, None], centres[None]
  )
  related = [
    predicates[np.ix_(labels == s, labels == o)].tolist() == [[p]]
    for s, p, o in constraints.relations
  ]
  return all(counts) and all(related)


@pytest.mark.parametrize('template', range(text.TEMPLATES))
@pytest.mark.parametrize('level', range(4))
def test_round_trip(level, template):
  indices = np.arange(150)
  spec = scenes.sample(5, indices, level)
  captions = text.captions(5, indices, spec, template)
  related = 0
  for b, caption in enumerate(captions):
    constraints = text.parse(caption)
    assert _holds(constraints, spec, b), caption
    assert constraints.background == spec.background[b]
    kinds = len(set(spec.labels[b][spec.labels[b] > 0]))
    assert len(constraints.counts) == min(kinds, text.MAX_NOUNS)
    assert len(constraints.relations) <= 1
    related += len(constraints.relations)
  if level == 0:
    assert related == 0
  if level == 2:
    assert related > 100


def test_the_round_trip_notices_wrong_captions():
  spec = scenes.sample(5, np.arange(150), 2)
  captions = text.captions(5, np.arange(150), spec)
  wrong = [
    _holds(text.parse(captions[b - 1]), spec, b) for b in range(len(spec))
  ]
  assert np.mean(wrong) < 0.05


@pytest.mark.parametrize('level', range(4))
def test_every_word_is_known_and_captions_fit(level):
  indices = np.arange(300)
  spec = scenes.sample(0, indices, level)
  tokenizer = text.tokenizer()
  texts = text.captions(0, indices, spec)
  graphs = text.graphs(spec, text.triples(0, indices, spec, 9))
  for line in texts:
    ids = tokenizer.tokens(line)
    assert 1 not in ids, line
    assert len(ids) < text.MAX_TOKENS
    assert tokenizer.encode(line).shape == (text.MAX_TOKENS,)
  for line in graphs:
    assert 1 not in text.tokenizer(200).tokens(line), line
  assert len(set(texts)) > 100


def test_vocabulary():
  assert text.VOCABULARY[:4] == ('<pad>', '<unk>', '<bos>', '<eos>')
  assert len(set(text.VOCABULARY)) == len(text.VOCABULARY)
  ids = text.tokenizer(6).encode('a red zebra')
  words = [text.VOCABULARY[i] for i in ids]
  assert words == ['<bos>', 'a', 'red', '<unk>', '<eos>', '<pad>']


def test_templates_by_hand():
  """One scene: two red circles and, right of both, a big blue cross."""
  red, blue, cyan = map(_label, ('red circle', 'blue cross', 'cyan square'))
  side = np.array([0.1, 0.3, 0.12, 0.2])
  xy = np.array([[0.2, 0.2], [0.8, 0.5], [0.2, 0.8], [0.5, 0.5]])
  boxes = np.concatenate([xy - side[:, None] / 2, xy + side[:, None] / 2], 1)
  spec = scenes.Scenes(
    n_boxes=np.array([4]),
    labels=np.array([[red, blue, red, cyan]]),
    geometry=np.column_stack([xy, side, 0 * side])[None],
    parents=np.full((1, 4), -1),
    boxes=boxes[None],
    background=np.array([1]),
    texture=np.zeros((1, 8), np.float32),
  )
  nouns = 'a blue cross, a cyan square and two red circles'
  got = [text.captions(0, np.array([0]), spec, i)[0] for i in range(5)]
  right = 'the blue cross {}right of the cyan square'
  left = 'the cyan square {}left of the blue cross'
  clause = right if 'right' in got[0] else left
  assert got == [
    f'{nouns} on a striped background, {clause.format("is ")}',
    f'a picture of {nouns}, {clause.format("is ")}, on a striped background',
    f'there is {nouns}, with {clause.format("")}, and the background is '
    'striped',
    f'on a striped background, {nouns}, {clause.format("")}',
    f'{nouns} in front of a striped background with {clause.format("")}',
  ]
  constraints = text.parse(got[2])
  assert constraints.counts == {blue: 1, cyan: 1, red: 2}
  assert constraints.background == 1
  pairs = {right: (blue, 2, cyan), left: (cyan, 1, blue)}
  assert constraints.relations == (pairs[clause],)


def test_parse_reads_what_people_write():
  got = text.parse(
    'Three yellow triangles, one zebra. the RED circle is below '
    'the green square, the red circle inside the blue cross'
  )
  assert got.counts == {_label('yellow triangle'): 3}
  circle = _label('red circle')
  assert got.relations == (
    (circle, 4, _label('green square')),
    (circle, 5, _label('blue cross')),
  )
  assert got.background is None
  with pytest.raises(ValueError, match="no relation in 'red circle near"):
    text.parse('the red circle near the blue cross')


def test_relation_matrix_keeps_clear_of_borders():
  def box(x, y, side=0.1):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]

  degrees = np.deg2rad([36.9, 37.1, 45, 53.1])
  for angle, want in zip(degrees, (2, -1, -1, 4), strict=True):
    other = box(0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle))
    boxes = np.array([[other, box(0.5, 0.5), box(0, 0)]])
    matrix = text.relation_matrix(boxes, np.array([2]))
    assert matrix[0, 0, 1] == want
    assert (matrix[0, 2] == -1).all()
    assert (np.diagonal(matrix[0]) == -1).all()
  boxes = np.array([[box(0.5, 0.5, 0.4), box(0.45, 0.5)]])
  matrix = text.relation_matrix(boxes, np.array([2]))
  np.testing.assert_array_equal(matrix, [[[-1, 6], [5, -1]]])


def test_triples_are_true_and_clear():
  indices = np.arange(300)
  spec = scenes.sample(0, indices, 2)
  triples = text.triples(0, indices, spec, 8)
  assert triples.shape == (300, 16, 3)
  matrix = text.relation_matrix(spec.boxes, spec.n_boxes)
  seen = set()
  for b in range(300):
    n = spec.n_boxes[b]
    rows = triples[b][triples[b, :, 1] >= 0].tolist()
    real = [row for row in rows if row[1] > 0]
    assert len(real) <= n
    assert [row for row in rows if row[1] == 0] == [[i, 0, n] for i in range(n)]
    for s, p, o in real:
      assert matrix[b, s, o] == p
      seen.add(p)
  assert seen == {1, 2, 3, 4, 5, 6}


def test_graphs_name_equal_objects_by_letters():
  spec = scenes.sample(0, np.arange(200), 3)
  triples = text.triples(0, np.arange(200), spec, 9)
  lines = text.graphs(spec, triples)
  assert any(' A ' in line and ' B' in line for line in lines)
  for line, rows in zip(lines, triples, strict=True):
    assert line.count(' , ') == max((rows[:, 1] > 0).sum() - 1, 0)
