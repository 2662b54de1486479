import numpy as np
import pytest

from pyramid_jax.evaluation import grids


NAMES = ('padding', 'red circle', 'blue square')


def make_batch(n=2):
  boxes = np.zeros((n, 3, 4), np.float32)
  boxes[:, 0] = (0.25, 0.25, 0.75, 0.75)
  boxes[:, 1] = (0.8, 0.9, 1.0, 1.0)
  return {
    'boxes': boxes,
    'labels': np.tile([1, 2, 0], (n, 1)),
    'n_boxes': np.full(n, 2),
    'class': np.full(n, 2),
    'mask': np.tile(np.uint8([[0, 1], [25, 2]]), (n, 1, 1)),
    'lr_image': np.full((n, 2, 2, 3), 99, np.uint8),
    'image': np.full((n, 32, 32, 3), 77, np.uint8),
    'inpaint_mask': np.tile(np.arange(32) < 16, (n, 32, 1)).astype(np.uint8),
    'caption': np.array([b'a red circle'] * n),
    'triples': np.tile([[[0, 1, 1], [0, 0, 1], [-1, -1, -1]]], (n, 1, 1)),
  }


def draw(task, batch=None, n=2, **kwargs):
  images = np.full((n, 32, 32, 3), 200, np.uint8)
  return grids.draw(images, batch or make_batch(n), task, NAMES, **kwargs)


@pytest.mark.parametrize(
  ('task', 'panels'),
  [
    ('none', 1),
    ('layout', 2),
    ('text', 2),
    ('label', 2),
    ('scene_graph', 2),
    ('class', 2),
  ],
)
def test_condition_beside_the_sample(task, panels):
  grid = draw(task, columns=1)
  side = 160 + grids._GAP
  assert grid.shape == (2 * (side + 4), panels * side + 4, 3)
  assert grid.dtype == np.uint8
  sample = grid[4:164, grid.shape[1] - 164 : -4]
  assert (sample == 200).all()
  if panels == 2:
    panel = grid[4:164, 4:164]
    assert (panel == 255).any()
    assert (panel < 128).any()  # something is drawn


def test_real_images_come_last():
  real = np.full((2, 32, 32, 3), 7, np.uint8)
  grid = draw('layout', real=real, columns=1)
  assert (grid[4:164, -164:-4] == 7).all()


def test_boxes_are_where_they_should_be():
  batch = make_batch(1)
  batch['n_boxes'][:] = 1
  panel = draw('layout', batch, n=1)[4:164, 4:164]
  drawn = (panel != 255).any(-1)
  rows, columns = np.nonzero(drawn)
  assert (rows.min(), rows.max()) == (40, 119)
  assert columns.min() == 40
  assert columns.max() <= 130  # the name may be longer than the box


def test_names_of_boxes_lie_apart_and_on_the_panel():
  taken = []
  for box in [(100, 20, 158, 60)] * 4 + [
    (0, 0, 160, 160),
    (150, 150, 160, 160),
  ]:
    x0, y0, x1, y1 = place = grids._free_place(box, (70, 13), (160, 160), taken)
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 160
    assert not any(grids._overlap(place, other) for other in taken)
    taken.append(place)
  inside, above = (
    grids._free_place((10, 50, x1, 90), (70, 13), (160, 160), [])
    for x1 in (90, 60)
  )
  assert inside[1] == 51
  assert above[3] == 49


@pytest.mark.parametrize('text', ['W' * 600, 'WWWW ' * 90, 'a long text ' * 60])
def test_long_texts_stay_on_the_panel(text):
  batch = {'caption': np.array([text.encode()])}
  panel = draw('text', batch, n=1)[4:164, 4:164]
  assert (panel[:, -3:] == 255).all()
  assert (panel[-3:] == 255).all()
  drawn = (panel != 255).any(-1).any(-1)
  assert drawn[130:].any()


def test_images_that_are_conditions():
  panel = lambda task: draw(task, n=1)[4:164, 4:164]
  assert (panel('superres') == 99).all()
  holed = panel('inpaint')
  assert (holed[:, :80] == 0).all()
  assert (holed[:, 80:] == 77).all()
  quarters = panel('map').reshape(2, 80, 2, 80, 3)
  colours = quarters[:, 0, :, 0].reshape(4, 3)
  assert (quarters == quarters[:, :1, :, :1]).all()
  assert len({tuple(c) for c in colours}) == 4
  assert colours[0].tolist() == [0, 0, 0]  # unlabelled


def test_conditions_that_are_not_there():
  for task in ('map', 'superres', 'inpaint', 'class'):
    assert draw(task, {'labels': np.ones(2)}, columns=1).shape[1] == 168
  grid = draw('text', {'labels': np.ones((2, 3), np.int32)}, columns=1)
  assert grid.shape[1] == 168


def test_words():
  batch = make_batch(1)
  example = {name: x[0] for name, x in batch.items()}
  words = lambda task: grids._texts(example, task, NAMES)
  assert words('text') == ['a red circle']
  assert words('class') == ['blue square']
  assert words('label') == ['1 blue square', '1 red circle']
  assert words('none') is None
  example['caption'] = np.bytes_(b'man on tree , tree near man')
  # The text has the predicates of the data, the triples only their ids.
  assert words('scene_graph') == ['man on tree', 'tree near man']
  del example['caption']
  assert words('scene_graph') == ['red circle left of blue square']


@pytest.mark.parametrize(('n', 'columns'), [(1, 1), (2, 1), (6, 2), (16, 4)])
def test_rows_are_full_where_they_can_be(n, columns):
  assert draw('none', n=n).shape[1] == columns * 168


def test_big_images_stay_as_they_are():
  image = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), np.uint8)
  grid = grids.draw(image, {}, 'none')
  np.testing.assert_array_equal(grid[4:-4, 4:-4], image[0])


def test_images_without_conditions_become_an_image():
  images = np.zeros((3, 8, 8, 3), np.uint8)
  image = grids.grid(images, columns=3)
  cell = 160 + 2 * grids._GAP
  assert image.size == (3 * cell, cell)


def test_edges_stand_before_the_sample_and_on_it():
  edges = np.zeros((1, 32, 32), np.uint8)
  edges[0, 16] = 255
  for name in ('edges', 'sketch'):
    grid = draw('none', {name: edges}, n=1)
    side = 160 + grids._GAP
    panels = [grid[4:164, 4 + i * side :][:, :160] for i in range(3)]
    assert (panels[0][80] == 255).all()
    assert (panels[0][0] == 0).all()
    assert (panels[1] == 200).all()
    assert (panels[2][80] == (255, 0, 0)).all()
    assert (panels[2][0] == 200).all()
