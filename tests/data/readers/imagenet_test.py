"""ImageNet of each official form: the same examples, and the same classes."""

import gzip
import io
import json

import numpy as np
from PIL import Image
import pytest
import scipy.io

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import edges
from pyramid_jax.data import identity
from pyramid_jax.data.readers import imagenet
from pyramid_jax.data.storage import image_sides
from pyramid_jax.data.storage import image_stores
from tests.helpers import archives as made
from tests.helpers import configs


# Ranks 0, 1 and 207 of the sorted synsets.
TENCH, GOLDFISH, RETRIEVER = 'n01440764', 'n01443537', 'n02099601'
IGNORED = 'n06596364'
# The names are those of JPEGs, the content is PNG, so that pixels are exact.
TRAIN = {
  f'{RETRIEVER}/{RETRIEVER}_7.JPEG': made.pixels(1),
  f'{TENCH}/{TENCH}_10026.JPEG': made.pixels(2),
  f'{TENCH}/{TENCH}_18.JPEG': made.pixels(3),
  f'{IGNORED}/{IGNORED}_1.JPEG': made.pixels(4),
  f'{IGNORED}/{IGNORED}_9591.JPEG': made.pixels(5),
}
VAL = {f'ILSVRC2012_val_{i:08d}.JPEG': made.pixels(10 + i) for i in (1, 2, 3)}
# Of the first, the second and the third image of val.
SYNSETS = (GOLDFISH, RETRIEVER, TENCH)
LABELS = [2, 208, 1]


def config_of(root, task='class', **fields):
  return configs.of_reader('imagenet', root, task, image_size=4, **fields)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def files_of(images):
  return {name: made.encoded(image) for name, image in images.items()}


def class_tars():
  """The archives of the synsets."""
  folders: dict[str, dict[str, bytes]] = {}
  for name, content in files_of(TRAIN).items():
    folder, _, file = name.partition('/')
    folders.setdefault(f'{folder}.tar', {})[file] = content
  return {name: made.tarred(files) for name, files in folders.items()}


def write_train(root, form):
  if form == 'tar':
    tar = made.tarred(class_tars())
    made.written(root, {'ILSVRC2012_img_train.tar': tar})
  elif form == 'tars':
    made.written(root / 'train', class_tars())
  else:
    folder = {'train': 'train', 'kaggle': 'ILSVRC/Data/CLS-LOC/train'}[form]
    made.written(root / folder, files_of(TRAIN))


@pytest.mark.parametrize('form', ['tar', 'tars', 'train', 'kaggle'])
def test_every_form_of_train_gives_the_same_examples(tmp_path, form):
  write_train(tmp_path, form)
  reader = data.create(config_of(tmp_path), 'train')
  assert len(reader) == 4
  batch = read(reader)
  # In the order of the names: 10026 comes before 18, and 9591 is left out.
  want = [made.pixels(i) for i in (2, 3, 1, 4)]
  np.testing.assert_array_equal(batch['image'], want)
  assert batch['class'].tolist() == [1, 1, 208, 917 + 1]
  assert batch['id'].tolist() == [0, 1, 2, 3]
  assert len(reader.label_names) == 1001
  assert reader.label_names[1] == 'tench'
  assert reader.label_names[208] == 'golden retriever'
  assert reader.label_names == data.published_labels(config_of(tmp_path))


def test_the_parts_of_an_archive_and_of_a_folder_are_the_same(tmp_path):
  parts = []
  for form in ('tar', 'train'):
    write_train(tmp_path / form, form)
    parts.append(data.create(config_of(tmp_path / form), 'train').identity())
  assert parts[0] == parts[1]
  assert len(parts[0][identity.IMAGES]) == 4


def meta():
  """The table of the development kit, whose numbers are no ranks."""
  kind = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('words', 'O')]
  rows = [
    (np.uint8(1), RETRIEVER, 'golden retriever'),
    (np.uint8(2), TENCH, 'tench'),
    (np.uint16(317), GOLDFISH, 'goldfish'),
  ]
  stream = io.BytesIO()
  table = np.array(rows, kind).reshape(3, 1)
  scipy.io.savemat(stream, {'synsets': table}, do_compression=True)
  return stream.getvalue()


NAMES = list(VAL)
KIT = 'ILSVRC2012_devkit_t12'
NUMBERS = b'317\n1\n2\n'
KIT_FILES = {
  f'{KIT}/data/meta.mat': meta(),
  f'{KIT}/data/ILSVRC2012_validation_ground_truth.txt': NUMBERS,
}
FORMS = {
  'kaggle': {
    'LOC_val_solution.csv': (
      'ImageId,PredictionString\n'
      f'ILSVRC2012_val_00000003,{TENCH} 85 1 499 272 \n'
      f'ILSVRC2012_val_00000001,{GOLDFISH} 131 0 499 254 {GOLDFISH} 1 1 2 2 \n'
      f'ILSVRC2012_val_00000002,{RETRIEVER} 1 2 3 4 \n'
    ).encode()
  },
  'taming': {
    'validation_synset.txt': ''.join(
      f'{name} {synset}\n' for name, synset in zip(NAMES, SYNSETS, strict=True)
    ).encode()
  },
  'tensorflow': {
    'imagenet_2012_validation_synset_labels.txt': '\n'.join(SYNSETS).encode()
  },
  'kit': KIT_FILES,
  'packed kit': {f'{KIT}.tar.gz': gzip.compress(made.tarred(KIT_FILES))},
  'caffe': {
    'val.txt': ''.join(
      f'{name} {rank}\n' for name, rank in zip(NAMES, (1, 207, 0), strict=True)
    ).encode()
  },
}


def write_val(root, form='tar'):
  if form == 'tar':
    tar = made.tarred(files_of(VAL))
    made.written(root, {'ILSVRC2012_img_val.tar': tar})
  else:
    made.written(root / 'val', files_of(VAL))


@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_the_labels_of_val_gives_the_same_classes(tmp_path, form):
  write_val(tmp_path, 'tar')
  made.written(tmp_path, FORMS[form])
  for split in ('val', 'test'):
    batch = read(data.create(config_of(tmp_path), split))
    np.testing.assert_array_equal(batch['image'], list(VAL.values()))
    assert batch['class'].tolist() == LABELS


def test_val_in_folders_is_that_of_the_archive(tmp_path):
  write_val(tmp_path, 'folder')
  made.written(tmp_path, FORMS['kaggle'])
  flat = read(data.create(config_of(tmp_path), 'val'))
  assert flat['class'].tolist() == LABELS
  synsets = {
    f'{synset}/{name}': content
    for synset, (name, content) in zip(
      SYNSETS, files_of(VAL).items(), strict=True
    )
  }
  made.written(tmp_path / 'other' / 'val', synsets)
  sorted_ = read(data.create(config_of(tmp_path / 'other'), 'val'))
  # By folder: tench, goldfish, retriever.
  assert sorted_['class'].tolist() == [1, 2, 208]
  np.testing.assert_array_equal(sorted_['image'], flat['image'][[2, 0, 1]])


def test_labels_that_are_not_known_say_what_is_missing(tmp_path):
  write_val(tmp_path)
  lines = data.missing_inputs(config_of(tmp_path), ('val',))
  assert len(lines) == 1
  assert 'labels of val: one of LOC_val_solution.csv' in lines[0]
  made.written(tmp_path, {'ILSVRC2012_validation_ground_truth.txt': NUMBERS})
  with pytest.raises(errors.UserError, match=r'meta.mat: .*the numbers of'):
    data.create(config_of(tmp_path), 'val')
  made.written(tmp_path, {'meta.mat': b'MATLAB 5.0' + b'\0' * 200})
  with pytest.raises(errors.UserError, match=r'not the meta.mat of the devel'):
    data.create(config_of(tmp_path), 'val')
  made.written(tmp_path, {'meta.mat': meta()})
  (tmp_path / 'ILSVRC2012_validation_ground_truth.txt').write_text('1\n5000\n')
  with pytest.raises(
    errors.UserError, match="line 2 must have a class.*'5000'"
  ):
    data.create(config_of(tmp_path), 'val')


def test_missing_images_are_named(tmp_path):
  lines = data.missing_inputs(config_of(tmp_path / 'none'), ('train', 'test'))
  assert lines == [
    f'{tmp_path}/none/ILSVRC2012_img_train.tar or train (images of ImageNet,'
    ' config.data.root)',
    f'{tmp_path}/none/ILSVRC2012_img_val.tar or val (images of ImageNet,'
    ' config.data.root)',
  ]


def test_a_folder_of_synsets_or_an_archive_may_be_the_root(tmp_path):
  write_train(tmp_path, 'train')
  for split in ('train', 'val'):
    assert len(data.create(config_of(tmp_path / 'train'), split)) == 4
  write_train(tmp_path / 'b', 'tar')
  root = tmp_path / 'b' / 'ILSVRC2012_img_train.tar'
  assert len(data.create(config_of(root), 'train')) == 4


def test_images_of_four_channels_are_read_as_pillow_converts_them(tmp_path):
  stream = io.BytesIO()
  Image.new('CMYK', (4, 4), (0, 255, 255, 0)).save(stream, 'JPEG')
  made.written(tmp_path / TENCH, {f'{TENCH}_1.JPEG': stream.getvalue()})
  image = read(data.create(config_of(tmp_path), 'train'))['image'][0]
  want = np.asarray(Image.open(stream).convert('RGB'))
  np.testing.assert_array_equal(image, want)
  assert np.ptp(image[0, 0].astype(int)) > 200  # It is a colour.


def test_synsets_of_other_lists_are_numbered_by_them(tmp_path):
  write_train(tmp_path, 'train')
  path = tmp_path / 'mine.csv'
  path.write_text(f'{TENCH},fish\n{RETRIEVER},dog\n')
  fields = {'category_file': str(path), 'unlisted_categories': 'drop'}
  reader = data.create(config_of(tmp_path, **fields), 'train')
  assert reader.label_names == ('', 'fish', 'dog')
  assert read(reader)['class'].tolist() == [1, 1, 2]
  assert reader.report['without_category'] == 1


def test_lists_of_images_choose_those_of_a_split(tmp_path):
  write_train(tmp_path, 'tar')
  path = tmp_path / 'filelist.txt'
  path.write_text(f'{TENCH}/{TENCH}_18.JPEG\n{TENCH}/gone.JPEG\n')
  config = config_of(tmp_path, ids_file=str(path))
  reader = data.create(config, 'train')
  np.testing.assert_array_equal(read(reader)['image'], [made.pixels(3)])
  parts = reader.identity()
  assert list(parts[identity.IMAGES]) == [f'{TENCH}/{TENCH}_18.JPEG']
  assert 'config.data.ids_file' in parts[identity.FILES]


def test_names_of_classes_are_texts(tmp_path):
  write_train(tmp_path, 'train')
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\ntench\ngolden\nretriever\n')
  config = config_of(tmp_path, 'text', vocab_file=str(vocab), max_length=5)
  batch = read(data.create(config, 'train'))
  assert batch['condition_ids'][0].tolist() == [2, 4, 3, 0, 0]
  assert batch['condition_ids'][2].tolist() == [2, 5, 6, 3, 0]


def test_maps_of_images_are_found_and_drawn(tmp_path):
  write_train(tmp_path, 'train')
  maps = ('edges', 'inpaint_mask')
  config = config_of(tmp_path, maps=maps, edges='sobel')
  reader = data.create(config, 'train')
  batch = read(reader)
  out = reader.finish(batch)
  np.testing.assert_array_equal(
    out['edges'], edges.detector('sobel')(batch['image'])
  )
  assert out['inpaint_mask'].shape == out['edges'].shape
  with pytest.raises(ValueError, match="without 'mask'"):
    data.create(config_of(tmp_path, maps=('mask',)), 'train')


def test_recorded_numbers_of_the_kit_are_no_ranks():
  ids = imagenet._kit_ids(imagenet.stores.path('meta.mat'), meta())
  assert ids == {1: RETRIEVER, 2: TENCH, 317: GOLDFISH}
  assert json.loads(json.dumps(ids))  # plain numbers and texts


@pytest.mark.parametrize('form', ['tar', 'train'])
def test_images_with_a_shorter_side_are_left_out(tmp_path, form):
  write_train(tmp_path, form)
  wide = made.encoded(made.pixels(6, (9, 6)))
  large = made.encoded(np.resize(made.pixels(7), (600, 7, 3)))
  noise = np.random.RandomState(0).randint(0, 256, (200, 200, 3), np.uint8)
  far = made.encoded(noise)
  assert len(far) > 64 << 10  # only its beginning is read
  more = {'3': wide, '4': large, '5': far, '6': b'no image'}
  folder = tmp_path / ('x' if form == 'tar' else 'train') / TENCH
  made.written(folder, {f'{TENCH}_{k}.JPEG': x for k, x in more.items()})
  if form == 'tar':
    files = {f'{TENCH}_{k}.JPEG': x for k, x in more.items()}
    tar = made.tarred({f'{TENCH}.tar': made.tarred(files)})
    made.written(tmp_path, {'ILSVRC2012_img_train.tar': tar})
  fields = {'crop': 'none', 'cache_dir': str(tmp_path / 'cache')}
  count = lambda least: len(
    data.create(config_of(tmp_path, min_side=least, **fields), 'train')
  )
  # One that is damaged is counted when it is read.
  assert [count(6), count(7), count(8), count(200)] == [4, 3, 2, 2]
  reader = data.create(config_of(tmp_path, min_side=7, **fields), 'train')
  assert reader.report['too_small'] == (1 if form == 'tar' else 5)
  np.testing.assert_array_equal(reader.decoded(1), noise)
  (folder / f'{TENCH}_6.JPEG').unlink()
  if form == 'train':
    with pytest.raises(errors.UserError, match='is 201, must be at most 200'):
      count(201)


@pytest.mark.parametrize('form', ['tar', 'folder'])
def test_of_a_large_image_the_beginning_is_read(tmp_path, monkeypatch, form):
  noise = np.random.RandomState(0).randint(0, 256, (200, 201, 3), np.uint8)
  files = {'a.png': made.encoded(noise)}
  made.written(
    tmp_path, files if form == 'folder' else {'a.tar': made.tarred(files)}
  )
  path = tmp_path if form == 'folder' else tmp_path / 'a.tar'
  store = image_stores.opened(path, tmp_path / 'cache')
  monkeypatch.delattr(type(store), 'load')
  sides = image_sides.shorter(store, [0], tmp_path / 'cache', 1)
  assert sides.tolist() == [200]


def test_sides_are_kept_until_a_file_changes(tmp_path, monkeypatch):
  monkeypatch.setattr(image_sides, '_LEAST', 1)
  write_train(tmp_path, 'train')
  fields = {'min_side': 4, 'cache_dir': str(tmp_path / 'cache')}
  measured = []
  side = image_sides._side
  monkeypatch.setattr(
    image_sides, '_side', lambda *args: measured.append(1) or side(*args)
  )
  for _ in range(2):
    data.create(config_of(tmp_path, **fields), 'train')
  assert len(measured) == 4
  made.written(
    tmp_path / 'train', {f'{TENCH}/{TENCH}_19.JPEG': made.encoded(VAL_IMAGE)}
  )
  data.create(config_of(tmp_path, **fields), 'train')
  assert len(measured) == 9


VAL_IMAGE = made.pixels(10)
