"""Images cut and resized once: the same examples, resumed, refused."""

import json
import sys

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.commands import prepare
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.shards import tf_example
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import open_images_files


SIZE = 8


def paint(path, seed, size=(13, 10)):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 255, (*size[::-1], 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
  base = tmp_path / 'given'
  for i in range(7):
    paint(base / 'train' / f'{"cat" if i % 3 else "dog"}' / f'{i}.png', i)
  for i in range(3):
    paint(base / 'val' / 'cat' / f'{i}.png', 100 + i, (9, 16))
  for split in ('train', 'val'):
    lines = [
      json.dumps({'file': str(x.relative_to(base / split)), 'caption': x.stem})
      for x in sorted((base / split).rglob('*.png'))
    ]
    (base / split / 'captions.jsonl').write_text('\n'.join(lines))
  return base


def of_task(root, task='none', **fields):
  fields = {'image_size': SIZE, 'crop': 'center', 'flip': True, **fields}
  return configs.of_reader('image_folder', root, task, **fields)


def of_records(config, folder):
  config = config.copy_and_resolve_references()
  config.data.name, config.data.root = 'records', str(folder)
  return config


def same_batches(got, want):
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert got[name].dtype == value.dtype, name
    np.testing.assert_array_equal(got[name], value, err_msg=name)


def compare(config, folder, splits=('train', 'val')):
  """Examples of the files and of the records, with many draws."""
  for split in splits:
    own = data.create(config, split)
    cut = data.create(of_records(config, folder), split)
    assert len(own) == len(cut)
    assert own.label_names == cut.label_names
    assert own.id_counts == cut.id_counts
    indices = np.arange(4 * len(own)) % len(own)
    draws = np.arange(len(indices), dtype=np.uint64)
    want = own.batch(indices, draws)
    same_batches(cut.batch(indices, draws), want)
    assert want['flipped'].any() == (split == 'train')


VOCAB = '[PAD]\n[UNK]\n[CLS]\n[SEP]\n0\n1\n2\n'


@pytest.mark.parametrize(
  ('task', 'encoding'),
  [
    *(('class', name) for name in ('ppm', 'webp', 'png')),
    *((name, 'ppm') for name in ('text', 'superres', 'inpaint')),
  ],
)
def test_records_give_the_examples_of_the_files(root, tmp_path, task, encoding):
  (tmp_path / 'vocab.txt').write_text(VOCAB)
  config = of_task(root, task, vocab_file=str(tmp_path / 'vocab.txt'))
  out = tmp_path / 'out'
  prepare.run(config, out, encoding=encoding, shard_size=3, workers=2)
  assert len(list(out.glob('prepared-train.array_record-0000?-of-00003'))) == 3
  compare(config, out)
  if task == 'text':
    for split in ('train', 'val'):
      own = data.create(config, split)
      cut = data.create(of_records(config, out), split)
      assert list(cut.captions()) == list(own.captions())


def test_maps_and_cameras(root, tmp_path):
  for path in sorted(root.rglob('*.png')):
    with Image.open(path) as image:
      classes = np.arange(image.width * image.height) % 150
      size = image.size
    mask = Image.fromarray(classes.astype(np.uint8).reshape(size[::-1]))
    mask.save(path.with_suffix('.map.png'))
  config = of_task(root, 'map', also='camera')
  prepare.run(config, tmp_path / 'out')
  compare(config, tmp_path / 'out')


@pytest.mark.parametrize('task', ['layout', 'label', 'scene_graph', 'none'])
def test_objects(tmp_path, monkeypatch, task):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  config = coco_files.make_config(tmp_path, task, flip=True, encode_crop=True)
  out = tmp_path / 'out'
  prepare.run(config, out, shard_size=2)
  compare(config, out)
  if task == 'layout':
    other = of_records(config, out)
    other.condition.task = 'scene_graph'
    with pytest.raises(errors.UserError, match='prepared for label, layout'):
      data.create(other, 'train')


def test_crops_keep_their_digits(root):
  maker = prepare.RecordMaker(data.create(of_task(root), 'train'), 'ppm')
  crop = np.array([0.1, 0, 0.9, 1])  # 13 x 10 px become 10 x 8
  facts = json.loads(tf_example.unpack(maker(0)[1])['facts'][0])
  np.testing.assert_allclose(facts['crop'], crop, rtol=0, atol=1e-15)
  assert (crop != crop.astype(np.float32)).any()


def test_flags_of_open_images(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  open_images_files.write_all(tmp_path)
  config = open_images_files.make_config(tmp_path, flip=True)
  prepare.run(config, tmp_path / 'out')
  compare(config, tmp_path / 'out')


def test_a_broken_image_is_replaced_as_in_training(root, tmp_path):
  (root / 'train' / 'cat' / '2.png').write_bytes(b'\x89PNG')
  config = of_task(root, 'class')
  prepare.run(config, tmp_path / 'out', shard_size=4)
  compare(config, tmp_path / 'out')


def test_objects_of_a_broken_image(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  path = tmp_path / 'coco/2017/train2017/000000000025.jpg'
  path.write_bytes(b'\xff\xd8')
  config = coco_files.make_config(tmp_path, 'layout', flip=True)
  prepare.run(config, tmp_path / 'out')
  compare(config, tmp_path / 'out')


def test_random_crops_are_drawn_once(root, tmp_path):
  config = of_task(root, crop='random-2d', flip=False)
  out = tmp_path / 'out'
  prepare.run(config, out, splits=('train',))
  reader = data.create(of_records(config, out), 'train')
  assert len(data.create(of_records(config, out), 'train')) == 7
  one, two = (
    reader.batch(np.arange(7), np.full(7, d, np.uint64)) for d in (1, 2)
  )
  same_batches(one, two)
  sides = one['crop'][:, 2] - one['crop'][:, 0]
  assert (sides < 1).any()
  with pytest.raises(errors.UserError, match='has no split val, only train'):
    data.create(of_records(config, out), 'val')


def test_a_killed_run_goes_on(root, tmp_path, monkeypatch):
  config, out = of_task(root, 'class'), tmp_path / 'out'
  made = []
  call = prepare.RecordMaker.__call__

  def failing(self, index):
    made.append(index)
    if len(made) == 6:
      raise KeyboardInterrupt
    return call(self, index)

  monkeypatch.setattr(prepare.RecordMaker, '__call__', failing)
  with pytest.raises(KeyboardInterrupt):
    prepare.run(config, out, shard_size=2, workers=1)
  with pytest.raises(errors.UserError, match='is not complete'):
    data.create(of_records(config, out), 'train')
  names = sorted(x.name for x in out.iterdir())
  there = [x for x in names if x.endswith('-of-00004')]
  assert there
  before = {x: (out / x).stat().st_mtime_ns for x in there}
  monkeypatch.setattr(prepare.RecordMaker, '__call__', call)
  prepare.run(config, out, shard_size=2)
  assert {x: (out / x).stat().st_mtime_ns for x in there} == before
  compare(config, out)
  assert not [x for x in out.iterdir() if x.name.startswith('.')]


def test_another_set_is_not_overwritten(root, tmp_path):
  config, out = of_task(root, 'class'), tmp_path / 'out'
  prepare.run(config, out)
  with pytest.raises(errors.UserError, match="encoding is 'ppm', not 'png'"):
    prepare.run(config, out, encoding='png')
  paint(root / 'train' / 'cat' / 'new.png', 50)
  with pytest.raises(errors.UserError, match='its splits is'):
    prepare.run(config, out)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('image_size', 16, r'image_size is 16, the images .* prepared with 8'),
    ('crop', 'adm', "crop is 'adm', the images .* with 'center'"),
    ('resize', 'area', "resize is 'area'"),
    ('min_area', 0.5, r'min_area is 0\.5'),
  ],
)
def test_another_config_is_refused(root, tmp_path, field, value, words):
  config, out = of_task(root, 'class'), tmp_path / 'out'
  prepare.run(config, out)
  other = of_records(config, out)
  other.data[field] = value
  with pytest.raises(errors.UserError, match=words):
    data.create(other, 'train')


def test_damage_is_noticed(root, tmp_path):
  config, out = of_task(root, 'class'), tmp_path / 'out'
  prepare.run(config, out)
  (shard,) = out.glob('prepared-train.array_record-?????-of-?????')
  whole = shard.read_bytes()
  spot = whole.index(b'P6\n8 8') + 50  # in the pixels of an image
  shard.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
  reader = data.create(of_records(config, out), 'train')
  reader.batch(np.arange(7), np.zeros(7, np.uint64))
  assert reader.report['broken_images'] == 1
  shard.write_bytes(whole[:-1])
  with pytest.raises(errors.UserError, match='bytes, must have'):
    data.create(of_records(config, out), 'train')
  record = out / f'{shard.name}.json'
  record.write_text('{"count": 7}')
  with pytest.raises(errors.UserError, match='damaged'):
    data.create(of_records(config, out), 'train')
  (out / manifests.NAME).write_text('{"format": 1, "maps": 3}')
  with pytest.raises(errors.UserError, match='"task": None, must be a text'):
    data.create(of_records(config, out), 'train')


def test_the_command_line(root, tmp_path, capsys):
  out = tmp_path / 'out'
  common = [f'--output={out}', '--image_size=8', '--crop=center']
  source = f'--source=image_folder:{root}'
  assert prepare.main([source, *common, '--task=class', '--workers=1']) == 0
  compare(of_task(root, 'class'), out)
  # Overrides are for the config that --source makes.
  more = ['--task=class', '--config.data.resize=area']
  area = [f'--output={tmp_path}/area', *common[1:], *more]
  assert prepare.main([source, *area]) == 0
  compare(of_task(root, 'class', resize='area'), tmp_path / 'area')
  for arguments, words in (
    (common, 'one of --config=FILE.py and --source=NAME:ROOT'),
    ([*common, '--source=image_folder'], 'must be NAME:ROOT'),
    ([*common, source, '--splits=dev'], '--splits=dev: must be of train'),
    ([*common, '--source=shapes:x'], 'only images in files are prepared'),
    ([*common, source, '--encoding=gif'], 'invalid choice'),
  ):
    assert prepare.main(arguments) == errors.USAGE
    assert words in capsys.readouterr().err


def test_tensorflow_datasets_gives_equal_examples(tmp_path, monkeypatch):
  for name in ('tensorflow_datasets', 'importlib_resources'):
    pytest.importorskip(name, reason="needs pip install '.[tfds]'")
  import tensorflow_datasets as tfds

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  config = coco_files.make_config(tmp_path, 'layout', encoder='boxes')
  out = tmp_path / 'sets' / 'prepared'
  prepare.run(config, out, shard_size=2)
  builder = tfds.builder_from_directory(str(out))
  names = builder.info.features['objects']['label'].names
  reader = data.create(of_records(config, out), 'train')
  assert ('', *names) == reader.label_names
  source = builder.as_data_source('train')
  assert len(source) == len(reader)
  for i in range(len(source)):
    want = reader.batch(np.array([i]), np.zeros(1, np.uint64))
    np.testing.assert_array_equal(source[i]['image'], want['image'][0])
    count = int(want['n_boxes'][0])
    found = source[i]['objects']
    key = lambda row: tuple(np.round(row, 5))
    got = sorted(
      (int(label) + 1, key(np.array(box)[[1, 0, 3, 2]]))
      for label, box in zip(found['label'], found['bbox'], strict=True)
    )
    rows = zip(want['labels'][0], want['boxes'][0][:count], strict=False)
    assert got == sorted((int(label), key(box)) for label, box in rows)
  own = config.copy_and_resolve_references()
  own.data.name, own.data.root = 'tfds/prepared', str(tmp_path / 'sets')
  images = data.create(own, 'train').batch(np.arange(3), np.zeros(3, np.uint64))
  other = reader.batch(np.arange(3), np.zeros(3, np.uint64))
  np.testing.assert_array_equal(images['image'], other['image'])
  assert 'tensorflow' not in sys.modules


def test_records_are_those_of_tensorflow():
  packed = tf_example.pack(
    {
      'a': [b'x', b''],
      'b': np.array([1.5], np.float32),
      'c': np.array([-1, 2**40]),
    }
  )
  # By tensorflow.train.Example of TensorFlow 2, deterministic.
  feature = lambda name, kind: (
    b'\x0a' + bytes([len(kind) + 5]) + b'\x0a\x01' + name + b'\x12'
    + bytes([len(kind)]) + kind
  )  # fmt: skip
  body = feature(b'a', b'\x0a\x05\x0a\x01x\x0a\x00')
  body += feature(b'b', b'\x12\x06\x0a\x04\x00\x00\xc0\x3f')
  whole = b'\xff' * 9 + b'\x01' + b'\x80' * 5 + b'\x20'
  body += feature(b'c', b'\x1a\x12\x0a\x10' + whole)
  assert packed == b'\x0a' + bytes([len(body)]) + body
  assert tf_example.unpack(packed) == {
    'a': [b'x', b''],
    'b': [1.5],
    'c': [-1, 2**40],
  }
  with pytest.raises(ValueError, match=r'no tf\.train\.Example'):
    tf_example.unpack(b'\xff')
