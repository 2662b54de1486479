"""Edge scores by hand, and on real images."""

import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import edges
from tests.helpers import aligned
from tests.helpers import shapes_renderer


def line(column, size=64, rows=slice(None)):
  out = np.zeros((1, size, size), bool)
  out[0, rows, column] = True
  return out


def blur(images, sigma):
  x = ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0))
  return np.round(x).astype(np.uint8)


@pytest.mark.parametrize(
  ('size', 'want'), [(32, 1.0), (64, 1.0), (256, 2.715), (512, 5.43)]
)
def test_tolerance_is_a_part_of_the_diagonal(size, want):
  assert edges.tolerance(size, size) == pytest.approx(want, abs=1e-3)


def test_counts_by_hand():
  wanted = line(20) | line(40)
  found = line(21, rows=slice(0, 32)) | line(43, rows=slice(0, 16))
  values = edges.compare(found, wanted)
  # 32 of 48 found pixels lie 1 px away, the others 3 px; of the first line
  # the upper 33 pixels are met (the last over a corner, 2 ** 0.5 px: not).
  assert values['precision'][0] == pytest.approx(32 / 48)
  assert values['recall'][0] == pytest.approx(32 / 128)
  p, r = 32 / 48, 32 / 128
  assert values['f1'][0] == pytest.approx(2 * p * r / (p + r))
  assert values['to_wanted'][0] == pytest.approx((32 * 1 + 16 * 3) / 48)
  y, down = np.arange(64), lambda start: np.maximum(np.arange(64) - start, 0)
  first = np.hypot(1, down(31))
  second = np.minimum(np.hypot(3, down(15)), np.hypot(19, down(31)))
  far = np.concatenate([first, second]).sum() / (2 * len(y))
  assert values['to_found'][0] == pytest.approx(far)
  assert values['chamfer'][0] == values['to_wanted'][0] + values['to_found'][0]
  table = bootstrap.ratios(edges.pairs(found, wanted))
  for name, key in (
    ('edge_f1', 'f1'),
    ('edge_precision', 'precision'),
    ('edge_recall', 'recall'),
    ('edge_chamfer', 'chamfer'),
    ('edge_missed', 'to_found'),
  ):
    assert table[name].value == values[key][0], name


def test_empty_maps():
  some, none = line(3, 8), line(3, 8) & False
  values = edges.compare(
    np.concatenate([none, none, some]), np.concatenate([none, some, none])
  )
  for name in ('precision', 'recall', 'f1'):
    assert values[name].tolist() == [1, 0, 0], name
  for name in ('to_wanted', 'to_found'):
    np.testing.assert_allclose(values[name], [0, 128**0.5, 128**0.5])
  assert edges.pairs(none, none)['edge_f1'].tolist() == [[1, 1]]


def test_thick_lines_win_nothing():
  thick = ndimage.binary_dilation(line(30), np.ones((1, 1, 5)))
  wanted = line(33)
  assert edges.compare(thick, wanted)['f1'][0] == 0
  # But for its ends, which thinning draws in.
  assert edges.compare(thick, line(30))['f1'][0] > 0.97


def test_thinning_breaks_and_erases_nothing():
  random = np.random.RandomState(0)
  maps = ndimage.gaussian_filter(random.rand(12, 48, 48), (0, 1.2, 1.2)) > 0.5
  maps[0, :2, :2], maps[1] = True, True
  thinned = edges.thin(maps)
  assert not (thinned & ~maps).any()
  near, both = np.ones((3, 3)), 0
  for before, after in zip(maps, thinned, strict=True):
    assert ndimage.label(after, near)[1] == ndimage.label(before, near)[1]
    holes = [ndimage.label(~np.pad(x, 1))[1] for x in (before, after)]
    assert holes[0] == holes[1]
    both += ndimage.binary_erosion(after, np.ones((2, 2))).sum()
  assert both <= 12  # hardly a square of four pixels is left


def test_distances_of_oblong_maps():
  found, wanted = np.zeros((2, 1, 4, 9), bool)
  found[0, 0, 0] = wanted[0, 3, 8] = True
  assert edges.compare(found, wanted)['chamfer'][0] == 2 * np.hypot(3, 8)


@pytest.mark.parametrize('level', [0, 2])
def test_scores_order_clean_blurred_shuffled(level):
  spec = scenes.sample(3, np.arange(80), level)
  drawn = shapes_renderer.render(spec, 64)
  images = drawn['image']
  seen = [map_scores.edges(blur(images, sigma)) for sigma in (0, 1, 2)]
  seen.append(np.roll(seen[0], 1, 0))
  # Where the pixels of objects end, and their outlines between the pixels,
  # from which the seen edges are half a pixel away.
  for wanted in (map_scores.borders(drawn['mask']), drawn['edge'] >= 128):
    rows = [bootstrap.ratios(edges.pairs(found, wanted)) for found in seen]
    for name in ('edge_f1', 'edge_chamfer', 'edge_missed'):
      values = [row[name].value for row in rows]
      better_high = name == 'edge_f1'
      assert values == sorted(values, reverse=better_high), (name, values)
      assert len(set(values)) == 4, name
    assert rows[0]['edge_f1'].value > 0.97
    assert rows[2]['edge_f1'].value > 0.85
    assert rows[3]['edge_f1'].value < 0.2


def test_what_examples_ask_for():
  soft = np.array([[[0.0, 0.4, 0.6, 1.0]]])
  want = [[[False, False, True, True]]]
  assert edges.asked({'edges': soft}).tolist() == want
  grey = np.round(255 * soft).astype(np.uint8)
  assert edges.asked({'edges': grey}).tolist() == want
  assert edges.asked({'edges': soft > 0.5}).tolist() == want
  # What was drawn comes first.
  assert not edges.asked({'edges': grey, 'sketch': 0 * grey}).any()
  assert edges.asked({'image': grey}) is None


def test_bad_maps():
  with pytest.raises(ValueError, match=r'\(1, 8, 8\) and \(1, 9, 9\)'):
    edges.compare(line(3, 8), line(3, 9))


def test_every_task_has_a_row_where_edges_are_asked_for():
  spec = scenes.sample(3, np.arange(12), 1)
  drawn = shapes_renderer.render(spec, 64)
  images = drawn['image']
  examples = {
    'edges': drawn['edge'],
    'mask': drawn['mask'],
    'image': images,
    'inpaint_mask': np.ones(images.shape[:3], np.uint8),
  }
  for task in ('map', 'inpaint'):
    rows = aligned.rows(task, blur(images, 2), examples, images)
    table = {row.name: row for row in rows}
    row = table['edge_f1']
    assert row.ceiling.value > 0.97 > row.score.value > 0.8 > row.floor.value
    missed = table['edge_missed']
    assert missed.ceiling.value < missed.score.value < missed.floor.value
    # Without true edges there is nothing to compare with.
    fewer = {k: v for k, v in examples.items() if k != 'edges'}
    names = aligned.values(task, images, fewer)
    assert not [name for name in names if name.startswith('edge')]
  wrong = {**examples, 'edges': drawn['edge'][:, :32]}
  with pytest.raises(ValueError, match=r'\(12, 64, 64\) and \(12, 32, 64\)'):
    aligned.rows('map', images, wrong)
