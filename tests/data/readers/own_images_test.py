"""Folders of one's own with layouts.json and graphs.jsonl."""

import copy
import json

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from tests.helpers import configs
from tests.helpers import tar_files


WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'b', 'man', 'horse', 'tree']
WORDS += ['riding', 'near', 'left', 'right', 'of', 'above', 'below', 'inside']
WORDS += ['surrounding']
LAYOUTS = {
  'images': [
    {'id': 7, 'file_name': 'x/1.png', 'width': 8, 'height': 4},
    {'id': 3, 'file_name': '2.png', 'width': 4, 'height': 4},
    {'id': 9, 'file_name': '3.png', 'width': 4, 'height': 4},
  ],
  'categories': [{'id': 5, 'name': 'tree'}, {'id': 10, 'name': 'man'}],
  'annotations': [
    {'image_id': 7, 'category_id': 5, 'bbox': [2, 0, 2, 2]},
    {'image_id': 7, 'category_id': 10, 'bbox': [4, 2, 2, 2], 'iscrowd': 1},
    {'image_id': 3, 'category_id': 5, 'bbox': [0, 1, 4, 2]},
  ],
}
GRAPHS = [
  {
    'file': 'x/1.png',
    'objects': [
      {'label': 'man', 'box': [0.25, 0, 0.5, 1]},
      {'label': 'horse'},
      {'label': 'man', 'box': [0, 0, 0.1, 0.1]},
    ],
    'relations': [[0, 'riding', 1], [2, 'near', 0]],
  },
  {'file': '2.png', 'objects': [{'label': 'tree'}]},
]


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  root = tmp_path / 'pictures'
  for name, size in (('x/1.png', (8, 4)), ('2.png', (4, 4)), ('3.png', (4, 4))):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_files.encoded(50, size))
  (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
  return root


def write_graphs(root, graphs):
  lines = [json.dumps(graph) for graph in graphs]
  (root / 'graphs.jsonl').write_text('\n'.join(lines) + '\n')


def of_task(root, task, **fields):
  fields = {
    'image_size': 4,
    'eval_crop': 'center',
    'max_objects': 3,
    'max_length': 20,
    'encoder': 'boxes' if task == 'layout' else 'tokens',
    'num_labels': 10,
    'vocab_size': 1100,
    'no_tokens': 1024,
    'encode_crop': False,
    **fields,
  }
  if task == 'scene_graph':
    fields |= {'vocab_file': str(root.parent / 'vocab.txt')}
  config = configs.of_reader('image_folder', root, task)
  config.unlock()
  for name, value in fields.items():
    section = config.data if name in config.data else config.condition
    if name in section:
      section[name] = value
  config.data.max_objects = config.condition.max_objects = 3
  return config.lock()


def read_all(config, split='val'):
  reader = data.create(config, split)
  count = len(reader)
  return reader, reader.batch(np.arange(count), np.zeros(count, np.uint64))


def objects(batch, row):
  """Returns {label: box} of an example."""
  count = batch['n_boxes'][row]
  return dict(
    zip(
      batch['labels'][row, :count].tolist(),
      batch['boxes'][row, :count].tolist(),
      strict=True,
    )
  )


def test_layouts(root):
  (root / 'layouts.json').write_text(json.dumps(LAYOUTS))
  reader, batch = read_all(of_task(root, 'layout'))
  # By id, as text: '10' comes before '5'. 3.png has no objects.
  assert reader.label_names == ('', 'man', 'tree')
  assert batch['id'].tolist() == [3, 7]
  assert objects(batch, 0) == {2: [0, 0.25, 1, 0.75]}
  # The crop is the middle half of x/1.png, columns 2 to 5.
  assert objects(batch, 1) == {2: [0, 0, 0.5, 0.5], 1: [0.5, 0.5, 1, 1]}
  order = batch['labels'][1].tolist()
  assert batch['box_flags'][1].tolist()[order.index(1)] == 1
  assert batch['box_flags'][1].tolist()[order.index(2)] == 0


def test_filters_of_boxes(root):
  (root / 'layouts.json').write_text(json.dumps(LAYOUTS))
  config = of_task(root, 'layout', eval_min_objects=2)
  assert read_all(config)[1]['id'].tolist() == [7]
  config = of_task(root, 'label', min_area=0.2, eval_min_objects=1)
  assert read_all(config)[1]['id'].tolist() == [3]


def test_categories_of_a_list(root, tmp_path):
  (root / 'layouts.json').write_text(json.dumps(LAYOUTS))
  (tmp_path / 'list.csv').write_text('a,House\nb,Tree\n')
  config = of_task(
    root,
    'layout',
    category_file=str(tmp_path / 'list.csv'),
    unlisted_categories='drop',
  )
  reader, batch = read_all(config)
  assert reader.label_names == ('', 'House', 'Tree')
  assert objects(batch, 1) == {2: [0, 0, 0.5, 0.5]}


def changed(path, value):
  document = copy.deepcopy(LAYOUTS)
  *parents, last = path
  place = document
  for key in parents:
    place = place[key]
  place[last] = value
  return document


@pytest.mark.parametrize(
  ('document', 'words'),
  [
    ([], 'the file must be an object'),
    ({'images': []}, '"categories" must be a list'),
    (
      changed(('images', 1, 'width'), 0),
      r'images\[1\] has "width": 0, must be a positive number',
    ),
    (
      changed(('images', 1, 'file_name'), '../2.png'),
      r"images\[1\] has the file '../2.png', must be inside of the folder",
    ),
    (changed(('images', 1, 'id'), 7), r'images\[1\] has the "id" 7 again'),
    (
      changed(('categories', 1, 'id'), 5),
      r'categories\[1\] has the "id" 5 again',
    ),
    (
      changed(('annotations', 2, 'bbox'), [0, 0, -1, 2]),
      r'annotations\[2\] has "bbox": \[0, 0, -1, 2\], must be \[x, y',
    ),
    (
      changed(('annotations', 2, 'bbox'), [0, 0, float('nan'), 2]),
      r'annotations\[2\] has "bbox": .*nan',
    ),
    (
      changed(('annotations', 2, 'image_id'), 1),
      r'annotations\[2\] has "image_id": 1, which nothing in "images" has',
    ),
    (
      changed(('annotations', 2, 'category_id'), 1),
      r'annotations\[2\] has "category_id": 1, which nothing in "categories"',
    ),
    (changed(('annotations',), []), 'no image of .* passes'),
  ],
)
def test_layouts_that_are_refused(root, document, words):
  (root / 'layouts.json').write_text(json.dumps(document))
  with pytest.raises(errors.UserError, match=words) as error:
    data.create(of_task(root, 'layout'), 'val')
  assert error.value.code == errors.DATA


def test_graphs(root):
  write_graphs(root, GRAPHS)
  reader, batch = read_all(of_task(root, 'scene_graph'))
  assert reader.label_names == ('', 'horse', 'man', 'tree')
  # By name: 2.png, x/1.png.
  assert batch['caption'].tolist() == [
    b'',
    b'man A riding horse , man B near man A',
  ]
  assert batch['labels'][0].tolist() == [3, 0, 0]
  # The second man is not in the crop, so that one relation is left.
  assert sorted(batch['labels'][1].tolist()) == [0, 1, 2]
  man, horse = (batch['labels'][1].tolist().index(i) for i in (2, 1))
  # Predicates are numbered by name: near, riding.
  assert batch['triples'][1].tolist() == [
    [man, 1, horse],
    [-1, -1, -1],
    [-1, -1, -1],
  ]
  assert batch['boxes'][1][horse].tolist() == [0, 0, 1, 1]
  assert batch['boxes'][1][man].tolist() == [0, 0, 0.5, 1]


def test_boxes_without_relations_are_related_by_rule(root):
  boxes = {'man': [0, 0, 0.2, 1], 'tree': [0.8, 0, 1, 1]}
  things = [{'label': name, 'box': box} for name, box in boxes.items()]
  write_graphs(root, [{'file': '2.png', 'objects': things}])
  _, batch = read_all(of_task(root, 'scene_graph'))
  (text,) = batch['caption'].tolist()
  assert set(text.decode().split(' , ')) <= {
    'man left of tree',
    'tree right of man',
  }
  assert text


@pytest.mark.parametrize(
  ('line', 'words'),
  [
    ('{', 'line 2 is not JSON: .*'),
    ('{"file": "2.png"}', r'line 2 must be \{"file": TEXT, "objects"'),
    (
      '{"file": "2.png", "objects": [], "relations": 3}',
      r'line 2 must be \{"file": TEXT',
    ),
    (
      '{"file": "/2.png", "objects": []}',
      "line 2 has the file '/2.png', must be inside",
    ),
    (
      '{"file": "./x/1.png", "objects": []}',
      "line 2 has 'x/1.png' again",
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a"}, {"name": "b"}]}',
      r'line 2: objects\[1\] must be \{"label": TEXT\}, got',
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a", "box": [0, 0, 2, 1]}]}',
      r'line 2: objects\[0\] has "box": \[0, 0, 2, 1\], must be',
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a", "box": [1, 0, 0, 1]}]}',
      r'must be \[x0, y0, x1, y1\], rising, in \[0, 1\]',
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a"}],'
      ' "relations": [[0, "on", 1]]}',
      r'line 2: relations\[0\] must be \[SUBJECT, TEXT, OBJECT\] .* below 1',
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a"}],'
      ' "relations": [[0, "on", 0]]}',
      r'line 2: relations\[0\] must be',
    ),
    (
      '{"file": "2.png", "objects": [{"label": "a"}, {"label": "b"}],'
      ' "relations": [[0, " ", 1]]}',
      r'line 2: relations\[0\] must be',
    ),
  ],
)
def test_graphs_that_are_refused(root, line, words):
  text = f'{json.dumps(GRAPHS[0])}\n{line}\n'
  (root / 'graphs.jsonl').write_text(text)
  with pytest.raises(errors.UserError, match=words) as error:
    data.create(of_task(root, 'scene_graph'), 'val')
  assert error.value.code == errors.DATA


@pytest.mark.parametrize(
  ('task', 'name'),
  [
    ('layout', 'layouts.json'),
    ('label', 'layouts.json'),
    ('scene_graph', 'graphs.jsonl'),
  ],
)
def test_missing_files_are_named(root, task, name):
  with pytest.raises(FileNotFoundError, match=rf'{name} \({task}, config.data'):
    data.create(of_task(root, task), 'val')


def test_splits_have_files_of_their_own(root):
  for split in ('train', 'val'):
    (root / split).mkdir()
  (root / 'val' / '2.png').write_bytes(tar_files.encoded(9, (4, 4)))
  write_graphs(root / 'val', GRAPHS[1:])
  assert len(data.create(of_task(root, 'scene_graph'), 'val')) == 1
  with pytest.raises(FileNotFoundError, match='train/graphs.jsonl'):
    data.create(of_task(root, 'scene_graph'), 'train')


def test_files_beside_the_images_are_not_left_out(root, caplog):
  caplog.set_level('INFO')
  (root / 'layouts.json').write_text('{}')
  write_graphs(root, GRAPHS)
  data.create(of_task(root, 'none'), 'val')
  assert 'left out' not in caplog.text
