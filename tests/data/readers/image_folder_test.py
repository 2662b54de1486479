import json

import jax
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import edges
from pyramid_jax.data import degradation
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import image_folder
from tests.helpers import configs


def paint(path, colour, size=(8, 6)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, colour).save(path)


@pytest.fixture
def root(tmp_path):
  base = tmp_path / 'pictures'
  paint(base / 'dogs' / 'b.png', 'red')
  paint(base / 'cats' / 'deep' / 'a.PNG', 'lime')
  paint(base / 'cats' / 'z.webp', 'blue')
  paint(base / 'loose.png', 'white')
  paint(base / '.hidden' / 'x.png', 'black')
  paint(base / '._y.png', 'black')
  (base / 'notes.txt').write_text('not an image')
  return base


def of_task(root, task='none', **fields):
  fields = {'image_size': 4, 'max_length': 6, **fields}
  return configs.of_reader('image_folder', root, task, **fields)


def read_all(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def test_files_are_sorted_and_folders_are_classes(root):
  reader = data.create(of_task(root), 'train')
  assert reader.label_names == ('', 'cats', 'dogs')
  batch = read_all(reader)
  # cats/deep/a.PNG, cats/z.webp, dogs/b.png, loose.png
  assert batch['class'].tolist() == [1, 1, 2, 0]
  assert batch['id'].tolist() == [0, 1, 2, 3]
  middle = batch['image'][:, 2, 2].astype(int)
  want = [[0, 255, 0], [0, 0, 255], [255, 0, 0], [255, 255, 255]]
  assert np.abs(middle - want).max() < 12  # WebP is lossy
  assert batch['image'].shape == (4, 4, 4, 3)
  assert reader.report == {'broken_images': 0, 'replaced_examples': 0}
  finished = jax.jit(reader.finish)(batch)
  np.testing.assert_allclose(finished['image'][2, 2, 2], [1, -1, -1])


def test_folders_have_the_numbers_of_a_list(tmp_path):
  for name in ('n02099601', 'Tench', 'mine'):
    paint(tmp_path / name / '1.png', (0, 0, 0))
  fields = {'category_file': 'imagenet', 'task': 'class'}
  config = of_task(tmp_path, **fields, unlisted_categories='drop')
  reader = data.create(config, 'train')
  assert len(reader.label_names) == 1001
  assert reader.label_names[208] == 'golden retriever'
  assert read_all(reader)['class'].tolist() == [1, 208]
  assert reader.report['without_category'] == 1
  with pytest.raises(ValueError, match='num_classes is 1000, must be .* 1001'):
    data.create(of_task(tmp_path, **fields), 'train')


def test_every_split_reads_a_plain_folder(root):
  for split in data.SPLITS:
    assert len(data.create(of_task(root), split)) == 4


def test_folders_of_splits(tmp_path):
  paint(tmp_path / 'train' / 'a.png', 'red')
  paint(tmp_path / 'train' / 'b.png', 'red')
  paint(tmp_path / 'val' / 'c.png', 'red')
  config = of_task(tmp_path)
  assert len(data.create(config, 'train')) == 2
  assert len(data.create(config, 'val')) == 1
  assert len(data.create(config, 'test')) == 1
  paint(tmp_path / 'test' / 'd.png', 'red')
  paint(tmp_path / 'test' / 'e.png', 'red')
  paint(tmp_path / 'test' / 'f.png', 'red')
  assert len(data.create(config, 'test')) == 3


def test_a_class_has_the_same_number_in_every_split(tmp_path):
  for name in ('train/b', 'train/d', 'train/.git', 'val/a', 'val/d', 'test/d'):
    paint(tmp_path / name / '1.png', 'red')
  readers = {x: data.create(of_task(tmp_path), x) for x in data.SPLITS}
  for reader in readers.values():
    assert reader.label_names == ('', 'a', 'b', 'd')
  found = {x: read_all(y)['class'].tolist() for x, y in readers.items()}
  assert found == {'train': [2, 3], 'val': [1, 3], 'test': [3]}


def test_crop_flip_and_orientation(tmp_path):
  pixels = np.zeros((4, 8, 3), np.uint8)
  pixels[:, 4:] = 255
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down
  Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
  reader = data.create(of_task(tmp_path, crop='none', flip=True), 'train')
  seen = set()
  for draw in range(20):
    batch = reader.batch(np.zeros(1, int), np.array([draw], np.uint64))
    left = int(batch['image'][0, 0, 0, 0])
    flipped = bool(batch['flipped'][0])
    assert (left < 128) == flipped  # turned, white is at the left
    seen.add(flipped)
  assert seen == {False, True}
  val = data.create(of_task(tmp_path, flip=True), 'val')
  assert not read_all(val)['flipped'].any()
  np.testing.assert_allclose(read_all(val)['crop'], [[0.25, 0, 0.75, 1]])


def test_one_broken_file_of_five(root):
  (root / 'cats' / 'broken.jpg').write_bytes(b'\xff\xd8\xff')
  reader = data.create(of_task(root), 'train')
  assert len(reader) == 5
  batch = read_all(reader)
  # cats/broken.jpg is the first; the next one takes its place.
  assert batch['id'].tolist() == [1, 1, 2, 3, 4]
  assert reader.report == {'broken_images': 1, 'replaced_examples': 1}


def write_captions(root, entries):
  lines = [json.dumps(entry) for entry in entries]
  (root / 'captions.jsonl').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\n')
  return str(path)


def test_captions(root, vocab):
  write_captions(
    root,
    [
      {'file': 'cats/z.webp', 'caption': 'a cat'},
      {'file': './loose.png', 'caption': 'cat'},
      {'file': 'cats/z.webp', 'caption': 'second'},
      {'file': 'gone.png', 'caption': 'x'},
    ],
  )
  config = of_task(root, 'text', vocab_file=vocab)
  reader = data.create(config, 'val')
  batch = read_all(reader)
  assert batch['caption'].tolist() == [b'a cat', b'cat']
  np.testing.assert_array_equal(
    batch['condition_ids'], [[2, 4, 5, 3, 0, 0], [2, 5, 3, 0, 0, 0]]
  )
  np.testing.assert_array_equal(batch['caption_mask'].sum(1), [4, 3])
  assert reader.report['without_caption'] == 2
  assert reader.label_names == ('', 'cats')
  assert 'caption' not in read_all(data.create(config, 'train'))


def test_captions_with_separators_and_names_in_another_form(root, vocab):
  composed, apart = '\u00e9.png', 'e\u0301.png'
  paint(root / 'dogs' / apart, 'red')
  (root / 'captions.jsonl').write_bytes(
    b'\xef\xbb\xbf{"file": "dogs/'
    + composed.encode()
    + '", "caption": "a\u2028cat\x85"}\r\n\r\n'.encode()
  )
  reader = data.create(of_task(root, 'text', vocab_file=vocab), 'val')
  batch = read_all(reader)
  assert batch['caption'].tolist() == ['a\u2028cat\x85'.encode()]
  assert batch['id'].tolist() == [0]
  assert reader.label_names == ('', 'dogs')


def test_maps_whose_names_have_another_form(root):
  paint(root / '\u00e9.png', 'red')
  Image.new('L', (8, 6), 7).save(root / 'e\u0301.map.png')
  reader = data.create(of_task(root, 'map'), 'train')
  assert (read_all(reader)['mask'] == 7).all()


def test_cameras(root):
  write_captions(
    root,
    [
      {'file': 'loose.png', 'caption': 'x', 'pitch': 'eye level'},
      {'file': 'dogs/b.png', 'caption': 'x', 'depth_of_field': 'deep'},
    ],
  )
  config = of_task(root, also='camera')
  batch = read_all(data.create(config, 'train'))
  # cats/deep/a.PNG, cats/z.webp, dogs/b.png, loose.png
  assert batch['pitch'].tolist() == [0, 0, 0, 2]
  assert batch['depth_of_field'].tolist() == [0, 0, 2, 0]
  assert batch['pitch'].dtype == np.int32
  assert 'pitch' not in read_all(data.create(of_task(root), 'train'))

  (root / 'captions.jsonl').write_text(
    '{"file": "a", "caption": "x", "pitch": "down"}'
  )
  with pytest.raises(errors.UserError, match="line 1: pitch is 'down', must"):
    data.create(config, 'train')
  (root / 'captions.jsonl').unlink()
  with pytest.raises(FileNotFoundError, match=r'captions\.jsonl \(captions'):
    data.create(config, 'train')


@pytest.mark.parametrize('line', ['{"file": "a"}', 'x', '["a", "b"]', '{"a'])
def test_malformed_captions(root, vocab, line):
  (root / 'captions.jsonl').write_text(f'\n{line}\n')
  config = of_task(root, 'text', vocab_file=vocab)
  with pytest.raises(errors.UserError, match=r'captions\.jsonl: line 2 must'):
    data.create(config, 'train')


def test_captions_of_other_files(root, vocab):
  write_captions(root, [{'file': 'gone.png', 'caption': 'x'}])
  config = of_task(root, 'text', vocab_file=vocab)
  with pytest.raises(errors.UserError, match='no caption of any of the 4'):
    data.create(config, 'train')


def one_line(error):
  text = str(error.value)
  assert '\n' not in text
  return text


def test_nothing_to_read(tmp_path, vocab):
  with pytest.raises(errors.UserError, match=r'holds no images') as error:
    data.create(of_task(tmp_path), 'train')
  assert str(tmp_path) in one_line(error)
  assert error.value.code == errors.MISSING
  with pytest.raises(FileNotFoundError, match=r'/no/where \(image folder'):
    data.create(of_task('/no/where'), 'train')
  with pytest.raises(FileNotFoundError, match=r'config\.data\.root is empty'):
    data.create(of_task(''), 'train')
  with pytest.raises(FileNotFoundError) as error:
    data.create(of_task(tmp_path, 'text', vocab_file='/no/v'), 'train')
  assert 'captions.jsonl' in one_line(error)
  assert '/no/v (config.condition.vocab_file)' in one_line(error)
  assert image_folder.missing_inputs(of_task(tmp_path)) == []


def test_semantic_maps(root):
  classes = np.zeros((6, 8), np.uint8)
  classes[:, 4:] = 5
  for name in ('dogs/b', 'cats/z'):
    Image.fromarray(classes).save(root / f'{name}.map.png')
  assert len(data.create(of_task(root), 'train')) == 4  # maps are no images
  reader = data.create(of_task(root, 'map', flip=True), 'train')
  assert len(reader) == 2
  assert reader.report['without_map'] == 2
  for draw in range(8):
    batch = reader.batch(np.arange(2), np.full(2, draw, np.uint64))
    assert batch['mask'].shape == (2, 4, 4)
    assert batch['mask'].dtype == np.uint8
    left, right = batch['mask'][:, :, 0], batch['mask'][:, :, -1]
    flipped = batch['flipped'][:, None]
    crop = batch['crop'][:, None]
    high = (crop[..., 2] > 0.55) * 5, (crop[..., 0] >= 0.45) * 5
    assert (np.where(flipped, left, right) == high[0]).all()
    assert (np.where(flipped, right, left) == high[1]).all()
  finished = jax.jit(reader.finish)(batch)
  np.testing.assert_array_equal(finished['mask'], batch['mask'])


def test_bad_semantic_maps(root):
  with pytest.raises(
    errors.UserError, match=r'the map of a.jpg is a\.map\.png'
  ):
    data.create(of_task(root, 'map'), 'train')
  Image.fromarray(np.zeros((5, 8), np.uint8)).save(root / 'loose.map.png')
  reader = data.create(of_task(root, 'map'), 'train')
  with pytest.raises(errors.UserError, match='none of the 1 images'):
    read_all(reader)
  Image.fromarray(np.full((6, 8), 182, np.uint8)).save(root / 'loose.map.png')
  with pytest.raises(errors.UserError, match='class 182.*map_classes = 182'):
    read_all(reader)


@pytest.fixture
def numbered(tmp_path):
  """Images of odd sizes, each pixel as grey as its map says."""
  values = np.random.default_rng(0).permutation(13 * 18).astype(np.uint8)
  for name, shape in (('wide', (13, 18)), ('high', (18, 13))):
    grey = values.reshape(shape)
    picture = np.repeat(grey[..., None], 3, -1)
    Image.fromarray(picture).save(tmp_path / f'{name}.png')
    Image.fromarray(grey).save(tmp_path / f'{name}.map.png')
  paint(tmp_path / 'other.png', 'red', (13, 13))
  return tmp_path


@pytest.mark.parametrize('crop', ['center', 'random-1d', 'random-2d', 'square'])
def test_maps_beside_images_agree_pixel_for_pixel(numbered, crop):
  maps = ('mask', 'edges', 'inpaint_mask')
  fields = {'crop': crop, 'flip': True, 'map_classes': 256, 'maps': maps}
  config = of_task(numbered, image_size=13, **fields)
  reader = data.create(config, 'train')
  assert reader.report['without_map'] == 1
  finish = jax.jit(reader.finish)
  seen = set()
  for draw in range(6):
    batch = reader.batch(np.arange(2), np.full(2, draw, np.uint64))
    seen.add(bool(batch['flipped'][0]))
    np.testing.assert_array_equal(batch['mask'], batch['image'][..., 0])
    got = finish(batch)
    np.testing.assert_array_equal(got['mask'], batch['mask'])
    assert got['inpaint_mask'].shape == (2, 13, 13)
    assert set(np.unique(got['inpaint_mask'])) == {0, 1}
  assert seen == {False, True}


@pytest.mark.parametrize('detector', edges.DETECTORS)
def test_edges_are_those_of_the_crop(tmp_path, detector):
  pixels = np.full((32, 40, 3), 250, np.uint8)
  pixels[:, 17:] = 20
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  fields = {'maps': ('edges',), 'edges': detector, 'flip': True}
  config = of_task(tmp_path, image_size=32, **fields)
  reader = data.create(config, 'train')
  batch = reader.batch(np.zeros(3, int), np.arange(3, dtype=np.uint64))
  got = jax.jit(reader.finish)(batch)
  lines = np.asarray(got['edges'])
  assert lines.dtype == np.float32
  want = np.asarray(edges.detector(detector)(batch['image']))
  np.testing.assert_allclose(lines, want, atol=1e-3)
  # The line is where the picture changes, wherever the crop has it.
  place = np.argmax(batch['image'][:, 16, :, 0] < 135, axis=1)
  dark = batch['image'][:, 16, 0, 0] < 135
  place = np.where(dark, np.argmax(batch['image'][:, 16, :, 0] > 135, 1), place)
  assert np.abs(lines[:, 16].argmax(1) - place).max() <= 2
  assert 'edges' not in read_all(data.create(of_task(tmp_path), 'val'))


def test_maps_that_there_are_not(numbered):
  with pytest.raises(ValueError, match=r"\('depth',\), must be of edges, mask"):
    data.create(of_task(numbered, maps=('depth',)), 'train')
  config = of_task(numbered, maps=('mask',), buckets=13, image_size=13)
  with pytest.raises(ValueError, match=r"buckets is 13, must be 0 .*'mask'"):
    data.create(config, 'train')


def test_pictures_to_enlarge(root):
  config = of_task(root, 'superres', lr_factor=2)
  reader = data.create(config, 'train')
  batch = read_all(reader)
  assert batch['lr_image'].shape == (4, 2, 2, 3)
  want = [degradation.degrade('bicubic', x, 2, 0) for x in batch['image']]
  np.testing.assert_array_equal(batch['lr_image'], want)
  finished = jax.jit(reader.finish)(batch)
  low = (np.asarray(finished['lr_image']) + 1) * 127.5
  np.testing.assert_allclose(low, batch['lr_image'], atol=1e-4)
  config = of_task(root, 'class', also='superres', lr_factor=2)
  beside = read_all(data.create(config, 'train'))
  np.testing.assert_array_equal(beside['lr_image'], batch['lr_image'])
  config = of_task(root, 'superres', degradation='bsr_light', image_size=16)
  batch = read_all(data.create(config, 'train'))
  want = [degradation.degrade('bsr_light', x, 4, 0) for x in batch['image']]
  np.testing.assert_array_equal(batch['lr_image'], want)
  with pytest.raises(ValueError, match='image_size is 4.*lr_factor = 3'):
    data.create(of_task(root, 'superres', lr_factor=3), 'train')


def test_pictures_with_holes(root):
  config = of_task(root, 'inpaint', image_size=32)
  reader = data.create(config, 'train')
  draws = np.arange(4).astype(np.uint64)
  batch = reader.batch(np.arange(4), draws)
  mask = np.asarray(jax.jit(reader.finish)(batch)['inpaint_mask'])
  assert mask.shape == (4, 32, 32)
  assert mask.dtype == np.uint8
  assert all(0 < m.mean() < 0.9 for m in mask)
  again = reader.batch(np.zeros(4, int), draws)  # another picture, same draw
  np.testing.assert_array_equal(again['hole_boxes'], batch['hole_boxes'])
  assert len({m.tobytes() for m in mask}) == 4


def test_the_config_decides_how_to_resize(root):
  paint(root / 'dogs' / 'edge.png', 'black', (16, 16))
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:, 7:] = 255
  Image.fromarray(pixels).save(root / 'dogs' / 'edge.png')
  rows = {}
  for name in ('', 'bicubic', 'bilinear', 'area'):
    reader = data.create(of_task(root, resize=name), 'train')
    rows[name] = read_all(reader)['image'][3, 0, :, 0].tolist()
  assert rows[''] == rows['bicubic']
  assert rows['area'] == [0, 64, 255, 255]
  assert rows['bilinear'] == [0, 0, 255, 255]


def test_more_classes_than_the_model_has(root):
  reader = data.create(of_task(root, 'class', num_classes=2), 'train')
  assert read_all(reader)['class'].max() == 2
  with pytest.raises(ValueError, match='num_classes is 1, must be at least 2'):
    data.create(of_task(root, 'class', num_classes=1), 'train')


def _wide_and_high(tmp_path):
  """Two wide images, two high ones by their EXIF data, and squares."""
  for i in range(2):
    paint(tmp_path / f'wide{i}.png', 'red', (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture = Image.new('RGB', (40, 20), 'blue')
    picture.save(tmp_path / f'high{i}.png', exif=exif)
  for i in range(3):
    paint(tmp_path / f'square{i}.png', 'lime', (20, 20))


def test_buckets_keep_the_shape_of_pictures(tmp_path):
  _wide_and_high(tmp_path)
  fields = {'buckets': 4, 'image_size': 12}
  config = of_task(tmp_path, **fields)
  config.train.batch_size = 2
  reader = data.create(config, 'train')
  assert reader.buckets.shapes == ((8, 16), (12, 12), (16, 8))
  high, square, wide = reader.buckets.members[::-1]
  # Sorted by name: high, square, wide.
  assert [x.tolist() for x in (high, square, wide)] == [
    [0, 1],
    [2, 3, 4],
    [5, 6],
  ]
  draws = np.arange(2).astype(np.uint64)
  got = reader.batch(wide, draws)
  assert got['image'].shape == (2, 8, 16, 3)
  np.testing.assert_allclose(
    got['aspect'], [np.log([8 / 12, 16 / 12])] * 2, rtol=1e-6
  )
  np.testing.assert_array_equal(got['image'][0, 4, 8], [255, 0, 0])
  assert reader.batch(high, draws)['image'].shape == (2, 16, 8, 3)
  with pytest.raises(ValueError, match=r'\(8, 16\), \(12, 12\)\] are no batch'):
    reader.batch(np.array([2, 5]), draws)
  val = data.create(config, 'val')
  assert read_all(val)['image'].shape == (7, 12, 12, 3)

  # What is broken is replaced by another one in its own shape.
  (tmp_path / 'high1.png').write_bytes(b'no picture')
  reader = data.create(config, 'train')
  of = reader.buckets.of[1]
  got = reader.batch(np.array([1]), draws[:1])
  assert got['image'].shape[1:3] == reader.buckets.shapes[of]
  assert reader.report['replaced_examples'] == 1


def test_what_buckets_do_not_serve(tmp_path):
  _wide_and_high(tmp_path)
  for fields, message in (
    ({'task': 'superres'}, "task is 'superres'"),
    ({'also': 'superres'}, "also 'superres'"),
    ({'crop': 'none'}, "crop 'none'"),
    ({'image_size': 10}, 'image_size is 10, must be a multiple'),
  ):
    config = of_task(tmp_path, **{'buckets': 4, 'image_size': 12} | fields)
    with pytest.raises(ValueError, match=message):
      data.create(config, 'train')


def test_large_photographs_are_decoded_smaller_where_that_is_asked_for(
  tmp_path,
):
  y, x = np.mgrid[:192, :256]
  wave = np.stack([x, y, 127 + 100 * np.sin(x / 9) * np.cos(y / 11)], -1)
  Image.fromarray(wave.astype(np.uint8)).save(tmp_path / 'a.jpg', quality=95)
  Image.fromarray(wave.astype(np.uint8)).save(tmp_path / 'b.png')

  def read(crop='center', **fields):
    config = of_task(tmp_path, image_size=24, crop=crop, **fields)
    return read_all(data.create(config, 'train'))

  exact, fast = read(), read(fast_decode=True)
  np.testing.assert_array_equal(exact['image'][1], fast['image'][1])
  apart = np.abs(exact['image'][0].astype(int) - fast['image'][0])
  assert 0 < apart.mean() < 1.5
  np.testing.assert_allclose(exact['crop'], fast['crop'])
  # A quarter leaves the 48 pixels that are twice the side, an eighth does not.
  content = (tmp_path / 'a.jpg').read_bytes()
  size = lambda least: images.decode_image(content, 'a', least=least).size
  assert [size(x) for x in (0, 48, 49, 97)] == [
    *((256, 192), (64, 48), (128, 96), (256, 192)),
  ]
  # In the pixels of which a random square has its size.
  for crop in ('random-2d', 'random-half'):
    want, got = (read(crop, fast_decode=x)['image'][0] for x in (False, True))
    assert (want == got).all() == (crop == 'random-2d')
