import math

import numpy as np
import pytest

from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import scene_graph


def test_text_has_letters_for_shared_names_only():
  names = ['man', 'horse', 'man', 'tree', 'man']
  predicates = ['__in_image__', 'riding', 'next to']
  triples = np.array([[0, 1, 1], [2, 2, 3], [4, 0, 5], [-1, -1, -1], [0, 2, 2]])
  # Object 4 occurs in '__in_image__' only, so it takes no letter.
  assert scene_graph.graph_text(names, triples, predicates) == (
    'man A riding horse , man B next to tree , man A next to man B'
  )


def test_text_without_relations_is_empty():
  assert scene_graph.graph_text(['a'], np.full((2, 3), -1)) == ''
  triples = np.array([[0, 3, 1]])
  assert scene_graph.graph_text(['st. bus', 'road'], triples) == (
    'st. bus above road'
  )


@pytest.mark.parametrize(
  ('rank', 'want'),
  [(0, 'A'), (25, 'Z'), (26, 'AB'), (27, 'AC'), (30, 'AF'), (51, 'BA')],
)
def test_letters(rank, want):
  assert scene_graph.instance_letters(rank) == want


@pytest.mark.parametrize('degrees', range(-180, 181, 15))
def test_sectors_follow_atan2(degrees):
  theta = math.radians(degrees)
  # Exact diagonals, as the borders of the sectors are.
  x, y = round(math.cos(theta), 12), round(math.sin(theta), 12)
  angle = math.atan2(y, x)
  if abs(angle) >= 3 * math.pi / 4:
    want = 'left of'
  elif angle < -math.pi / 4:
    want = 'above'
  elif angle < math.pi / 4:
    want = 'right of'
  else:
    want = 'below'
  box = np.array([0.0, 0, 1, 1])
  got = scene_graph.predicate_ids(box, box, np.array([x, y]), np.zeros(2))
  assert scene_graph.PREDICATES[int(got)] == want


def test_margin_leaves_out_what_is_near_a_border():
  box = np.zeros((4, 4))
  angles = np.radians([38.0, 36.0, 52.0, 54.0])
  centres = np.stack([np.cos(angles), np.sin(angles)], -1)
  got = scene_graph.predicate_ids(box, box, centres, np.zeros(2), 8.0)
  np.testing.assert_array_equal(got, [-1, 2, -1, 4])


def test_containment_is_strict_and_wins():
  outer, inner = np.array([0.0, 0, 1, 1]), np.array([0.2, 0.2, 0.4, 0.4])
  touching = np.array([0.0, 0.2, 0.4, 0.4])
  centre = np.array([0.5, 0.5])

  def name(s, o):
    ids = scene_graph.predicate_ids(s, o, centre, centre, 8.0)
    return scene_graph.PREDICATES[int(ids)]

  assert name(outer, inner) == 'surrounding'
  assert name(inner, outer) == 'inside'
  assert name(outer, touching) == 'right of'  # equal centres: angle 0


def test_relations_are_the_stated_hashes():
  boxes = np.array([[0, 0, 0.2, 0.2], [0.5, 0, 0.7, 0.2], [0, 0.6, 0.2, 0.9]])
  boxes = np.concatenate([boxes, np.zeros((2, 4))])
  got = scene_graph.relations_from_boxes(boxes, 3, 11)
  assert got.shape == (5, 3)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got[3:], -1)
  for one in range(3):
    others = [i for i in range(3) if i != one]
    other = others[int(2 * hashing.uniforms(11, 7, 2 * one))]
    pair = (one, other)
    if hashing.uniforms(11, 7, 2 * one + 1) <= 0.5:
      pair = (other, one)
    subject, predicate, target = got[one]
    assert (subject, target) == pair
    want = {
      (0, 1): 'left of',
      (1, 0): 'right of',
      (0, 2): 'above',
      (2, 0): 'below',
      (1, 2): 'above',
      (2, 1): 'below',
    }[pair]
    assert scene_graph.PREDICATES[predicate] == want


def test_every_partner_and_both_orders_occur():
  boxes = np.tile(np.linspace(0, 0.6, 4)[:, None], (1, 4)) + [0, 0, 0.1, 0.1]
  batch = np.tile(boxes, (300, 1, 1))
  got = scene_graph.relations_from_boxes(batch, np.full(300, 4), np.arange(300))
  of_first = {(int(s), int(o)) for s, _, o in got[:, 0]}
  assert of_first == {(0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0)}
  first = np.mean([s == 0 for s, _, _ in got[:, 0]])
  assert 0.4 < first < 0.6
  single = scene_graph.relations_from_boxes(boxes, 4, 7)
  np.testing.assert_array_equal(single, got[7])


def test_in_image_rows_and_lonely_objects():
  boxes = np.zeros((2, 3, 4))
  got = scene_graph.relations_from_boxes(
    boxes, np.array([1, 0]), np.array([1, 2]), in_image=True
  )
  assert got.shape == (2, 6, 3)
  np.testing.assert_array_equal(got[0, 0], [0, 0, 1])
  np.testing.assert_array_equal(got[0, 1:], -1)
  np.testing.assert_array_equal(got[1], -1)


def test_given_centres_decide():
  boxes = np.array([[0, 0, 0.4, 0.4], [0.1, 0, 0.5, 0.4]])
  centres = np.array([[0.2, 0.1], [0.2, 0.3]])
  got = scene_graph.relations_from_boxes(boxes, 2, 0, centres)
  names = {scene_graph.PREDICATES[p] for _, p, _ in got}
  assert names <= {'above', 'below'}
