"""Sets of TensorFlow Datasets, read without TensorFlow."""

import importlib
import io
import json
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.readers import tfds as tfds_reader
from pyramid_jax.files import copies
from pyramid_jax.files import remote_path
from tests.helpers import configs
from tests.helpers import remote_store


SOURCE = """
import numpy as np
import tensorflow_datasets as tfds

from tiny_sets import pictures


class Tiny(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    f = tfds.features
    return self.dataset_info_from_configs(features=f.FeaturesDict({
      'image': f.Image(shape=(None, None, 3), encoding_format='png'),
      'label': f.ClassLabel(names=['cat', 'dog']),
      'captions': f.Sequence({'text': f.Text()}),
      'objects': f.Sequence({
        'bbox': f.BBoxFeature(),
        'label': f.ClassLabel(names=['eye', 'ear', 'leg']),
        'is_crowd': np.bool_,
      }),
    }))

  def _split_generators(self, manager):
    del manager
    return {'train': self._generate_examples(0, 9),
            'validation': self._generate_examples(9, 12)}

  def _generate_examples(self, first, last):
    box = tfds.features.BBox(ymin=0.25, xmin=0.0, ymax=0.75, xmax=0.5)
    for i in range(first, last):
      objects = [{'bbox': box, 'label': 2, 'is_crowd': True}] * (i % 3)
      texts = [{'text': f'picture {i}'}, {'text': 'second'}]
      yield i, {'image': pictures.png(i), 'label': i % 2,
                'captions': texts, 'objects': objects}
"""


def png(i):
  """An image whose colour is its number, twice as wide as high."""
  file = io.BytesIO()
  Image.new('RGB', (16, 8), (10 * i, 0, 255)).save(file, 'PNG')
  file.seek(0)
  return file


@pytest.fixture(scope='session')
def root(tmp_path_factory):
  reason = "needs tensorflow-datasets: pip install '.[tfds]'"
  for name in ('tensorflow_datasets', 'array_record', 'importlib_resources'):
    pytest.importorskip(name, reason=reason)
  base = tmp_path_factory.mktemp('tfds')
  package = base / 'code' / 'tiny_sets'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('')
  (package / 'tiny.py').write_text(SOURCE)
  sys.path.insert(0, str(package.parent))
  try:
    sys.modules['tiny_sets.pictures'] = sys.modules[__name__]
    importlib.import_module('tiny_sets').pictures = sys.modules[__name__]
    module = importlib.import_module('tiny_sets.tiny')
    builder = module.Tiny(data_dir=str(base), file_format='array_record')
    builder.download_and_prepare()
  finally:
    sys.path.remove(str(package.parent))
  assert 'tensorflow' not in sys.modules
  return base


def of_task(root, task='none', **fields):
  fields = {'image_size': 8, 'max_objects': 3, 'max_length': 6, **fields}
  name = fields.pop('name', 'tfds/tiny')
  return configs.of_reader(name, root, task, **fields)


def read_all(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def test_images_and_classes(root):
  reader = data.create(of_task(root, 'class'), 'train')
  assert len(reader) == 9
  assert reader.label_names == ('', 'cat', 'dog')
  batch = read_all(reader)
  number = batch['image'][:, 0, 0, 0] // 10  # the stored order is shuffled
  assert sorted(number) == list(range(9))
  np.testing.assert_array_equal(batch['class'], 1 + number % 2)
  assert batch['class'].dtype == np.int32
  assert batch['image'].shape == (9, 8, 8, 3)
  np.testing.assert_array_equal(batch['n_boxes'], number % 3)
  finished = jax.jit(reader.finish)(batch)
  np.testing.assert_allclose(finished['image'][..., 2], 1)
  for split in ('val', 'test'):  # both read `validation`
    found = read_all(data.create(of_task(root), split))['image']
    assert sorted(found[:, 0, 0, 0] // 10) == [9, 10, 11]


def test_boxes_are_cut_by_the_crop(root):
  config = of_task(root, 'layout', encoder='boxes')
  reader = data.create(config, 'val')
  assert reader.label_names == ('', 'eye', 'ear', 'leg')
  batch = read_all(reader)
  row = int(batch['n_boxes'].argmax())
  assert batch['n_boxes'][row] == 2
  # The middle square shows columns 0.25 to 0.75 of the picture.
  np.testing.assert_allclose(batch['crop'][row], [0.25, 0, 0.75, 1])
  np.testing.assert_allclose(
    batch['boxes'][row], [[0, 0.25, 0.5, 0.75]] * 2 + [[0] * 4]
  )
  assert batch['labels'][row].tolist() == [3, 3, 0]
  assert batch['box_flags'][row].tolist() == [1, 1, 0]


def test_the_first_caption_counts(root, tmp_path):
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\npicture\n9\n')
  config = of_task(root, 'text', vocab_file=str(vocab))
  batch = read_all(data.create(config, 'val'))
  texts = sorted(batch['caption'].tolist())
  assert texts == [b'picture 10', b'picture 11', b'picture 9']
  row = batch['caption'].tolist().index(b'picture 9')
  assert batch['condition_ids'][row].tolist() == [2, 4, 5, 3, 0, 0]


def test_restoration(root):
  batch = read_all(data.create(of_task(root, 'superres'), 'train'))
  assert batch['lr_image'].shape == (9, 2, 2, 3)
  batch = read_all(data.create(of_task(root, 'inpaint'), 'train'))
  assert 'hole_boxes' in batch


def test_parts_of_splits(root):
  splits = ('train[:4]', 'train[4:]', 'validation')
  config = of_task(root, splits=splits)
  sizes = [len(data.create(config, split)) for split in data.SPLITS]
  assert sizes == [4, 5, 3]
  with pytest.raises(ValueError, match='must name what train, val and test'):
    data.create(of_task(root, splits=('train',)), 'train')
  with pytest.raises(
    ValueError, match="'dev'.*splits .* are train, validation"
  ):
    data.create(of_task(root, splits=('dev',) * 3), 'train')


def test_a_broken_record_is_skipped(root, monkeypatch):
  reader = data.create(of_task(root), 'train')
  first = reader._source[0]
  source = [{**first, 'image': b'\x89PNG'}]
  source += [reader._source[i] for i in range(1, 9)]
  monkeypatch.setattr(reader, '_source', source)
  batch = read_all(reader)
  assert batch['id'].tolist()[:2] == [1, 1]
  assert reader.report['broken_images'] == 1


def test_features_that_are_not_there(root):
  with pytest.raises(ValueError, match="encoder is 'tokens', must be 'boxes'"):
    data.create(of_task(root, 'layout'), 'train')
  with pytest.raises(ValueError, match="'map', must be one of none, class"):
    data.create(of_task(root, 'map'), 'train')


def _pretend(root, name, **info):
  folder = root / name
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  return folder


def test_the_newest_version_is_read(tmp_path):
  config = of_task(tmp_path, name='tfds/lsun/bedroom')
  assert tfds_reader.folder(config) == tmp_path / 'lsun' / 'bedroom'
  for version in ('3.1.0', '3.10.0', '3.9.2'):
    folder = _pretend(tmp_path, f'lsun/bedroom/{version}')
    assert tfds_reader.folder(config).name in ('3.1.0', '3.10.0')
  assert tfds_reader.folder(config).name == '3.10.0'
  exact = of_task(tmp_path, name='tfds/lsun/bedroom/3.9.2')
  assert tfds_reader.folder(exact) == folder
  assert data.missing_inputs(exact) == []


def test_what_is_missing_is_named(tmp_path):
  config = of_task(tmp_path, name='tfds/imagenet2012')
  with pytest.raises(FileNotFoundError) as error:
    data.create(config, 'train')
  assert str(error.value) == (
    f'missing: {tmp_path}/imagenet2012 (from "tfds build imagenet2012 '
    '--file_format=array_record", config.data.root).'
  )
  _pretend(tmp_path, 'imagenet2012/5.1.0', fileFormat='tfrecord')
  with pytest.raises(errors.UserError, match='as tfrecord, must be array_rec'):
    data.create(config, 'train')


def test_the_library_is_named(tmp_path, monkeypatch):
  _pretend(tmp_path, 'tiny/1.0.0', fileFormat='array_record')
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(errors.UserError, match=r"install 'pyramid_jax\[tfds\]'"):
    data.create(of_task(tmp_path), 'train')


@pytest.mark.parametrize(
  'name', ['tfds/../../etc', 'tfds//etc', 'tfds/', 'tfds/a/..']
)
def test_sets_outside_of_the_folder(tmp_path, name):
  config = configs.of_reader(
    'image_folder', tmp_path
  ).copy_and_resolve_references()
  config.data.name = name
  for read in (tfds_reader.folder, tfds_reader.missing_inputs):
    with pytest.raises(
      errors.UserError, match='must be tfds/NAME or tfds/NAME/C'
    ):
      read(config)


@pytest.mark.parametrize(
  'text', ['', '[]', '{"fileFormat": 1}', '{', '[' * 999]
)
def test_damaged_descriptions(tmp_path, text):
  (tmp_path / tfds_reader.INFO).write_text(text)
  with pytest.raises(errors.UserError, match=f'{tmp_path}') as error:
    tfds_reader.check_info(tmp_path)
  assert error.value.code == errors.DATA


store = remote_store.store_fixture


def test_a_set_in_a_store(root, store):
  """The splits that are read are fetched, once for each host."""
  remote_store.put_tree(store, root / 'tiny', f'{remote_store.ROOT}/tiny')
  for split in ('train', 'val'):
    far = data.create(of_task(remote_store.ROOT, 'class'), split)
    near = data.create(of_task(root, 'class'), split)
    got, want = read_all(far), read_all(near)
    for name in want:
      np.testing.assert_array_equal(got[name], want[name])
    assert far.identity() == near.identity()
    count = remote_store.count(store, 'read', '.array_record-')
    assert count == {'train': 1, 'val': 2}[split]
  read_all(data.create(of_task(remote_store.ROOT), 'train'))
  assert remote_store.count(store, 'read', '.array_record-') == 2


def test_folders_are_mirrored(store):
  """Newer objects take the place of older ones."""
  place = remote_path.RemotePath(f'{remote_store.ROOT}/set/1.0.0')
  remote_store.put(store, place / 'a', b'old')
  remote_store.put(store, place / 'b', b'other')
  folder = copies.mirrored(place, ['a'])
  assert folder.name == '1.0.0'
  assert (folder / 'a').read_bytes() == b'old'
  assert not (folder / 'b').exists()
  remote_store.put(store, place / 'a', b'new')
  assert copies.mirrored(place, ['a', 'b']) == folder
  assert (folder / 'a').read_bytes() == b'new'
  assert sorted(x.name for x in folder.iterdir()) == ['a', 'b']
