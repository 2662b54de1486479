"""Parquet files: columns, classes, row groups, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.shards import parquet_files
from tests.helpers import configs
from tests.helpers import tar_files


pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# What `datasets` writes beside the columns.
FEATURES = {
  'image': {'_type': 'Image'},
  'label': {'names': ['cat', 'dog', 'cow'], '_type': 'ClassLabel'},
}


def struct(*colours):
  return [
    {'bytes': tar_files.encoded(colour), 'path': f'{i}.png'}
    for i, colour in enumerate(colours)
  ]


def write(path, columns, features=None, rows=2):
  """Writes a file with `rows` rows in each row group."""
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.table(columns)
  if features:
    text = json.dumps({'info': {'features': features}})
    table = table.replace_schema_metadata({'huggingface': text})
  pq.write_table(table, path, row_group_size=rows)
  return path


@pytest.fixture
def root(tmp_path):
  """The names that `datasets` gives, three rows and one."""
  root = tmp_path / 'data'
  write(
    root / 'train-00000-of-00002.parquet',
    {'image': struct(RED, GREEN, BLUE), 'label': [2, 0, -1]},
    FEATURES,
  )
  write(
    root / 'train-00001-of-00002.parquet',
    {'image': struct((9, 9, 9)), 'label': [1]},
    FEATURES,
  )
  write(
    root / 'test-00000-of-00001.parquet',
    {'image': struct((7, 7, 7)), 'label': [1]},
    FEATURES,
  )
  return root


def of_task(root, task='none', **fields):
  fields = {'image_size': 4, 'max_length': 6, 'num_classes': 3, **fields}
  return configs.of_reader('parquet', root, task, **fields)


def read_all(config, split='train'):
  reader = data.create(config, split)
  count = len(reader)
  return reader, reader.batch(np.arange(count), np.zeros(count, np.uint64))


def colours(batch):
  return batch['image'][:, 2, 2].tolist()


def test_rows_come_in_the_order_of_the_files(root):
  reader, batch = read_all(of_task(root))
  assert colours(batch) == [[*RED], [*GREEN], [*BLUE], [9, 9, 9]]
  assert batch['id'].tolist() == [0, 1, 2, 3]
  assert 'class' not in batch
  assert reader.report == {'broken_images': 0, 'replaced_examples': 0}
  assert colours(read_all(of_task(root), 'val')[1]) == [[7, 7, 7]]


def test_classes_have_the_names_in_the_files(root):
  reader, batch = read_all(of_task(root, 'class'))
  assert reader.label_names == ('', 'cat', 'dog', 'cow')
  assert batch['class'].tolist() == [3, 1, 0, 2]


def test_classes_are_numbered_by_a_list(root, tmp_path):
  listed = tmp_path / 'list.csv'
  listed.write_text('n1,Horse\nn2,Cow\nn3,Dog\nn4,Cat\n')
  fields = {'category_file': str(listed), 'num_classes': 4}
  reader, batch = read_all(of_task(root, 'class', **fields))
  assert reader.label_names == ('', 'Horse', 'Cow', 'Dog', 'Cat')
  assert batch['class'].tolist() == [2, 4, 0, 3]


def test_names_as_classes(tmp_path):
  columns = {'img': struct(RED, GREEN, BLUE), 'kind': ['dog', 'cat', None]}
  path = write(tmp_path / 'x.parquet', columns)
  fields = {'image_field': 'img', 'label_field': 'kind'}
  reader, batch = read_all(of_task(path, 'class', **fields))
  assert reader.label_names == ('', 'cat', 'dog')
  assert batch['class'].tolist() == [2, 1, 0]


def test_numbers_without_names(tmp_path):
  path = write(
    tmp_path / 'x.parquet', {'image': struct(RED, GREEN), 'label': [4, 0]}
  )
  reader, batch = read_all(of_task(path, 'class', num_classes=5))
  assert reader.label_names == ('', '0', '1', '2', '3', '4')
  assert batch['class'].tolist() == [5, 1]
  with pytest.raises(
    errors.UserError, match='has the class 4, must be below 3'
  ):
    data.create(of_task(path, 'class'), 'train')


def test_captions(tmp_path):
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\ndog\n')
  columns = {
    'image': [x['bytes'] for x in struct(RED, GREEN, BLUE, RED)],
    'text': ['a cat', '', 'dog', 'cat'],
    'said': [['dog', 'x'], ['cat'], [], ['a dog']],
  }
  path = write(tmp_path / 'x.parquet', columns)
  config = of_task(path, 'text', vocab_file=str(vocab))
  reader, batch = read_all(config, 'val')
  # The second has no text; the next one takes its place.
  assert batch['caption'].tolist() == [b'a cat', b'dog', b'dog', b'cat']
  assert batch['caption_ids'][0].tolist() == [2, 4, 5, 3, 0, 0]
  assert reader.report['broken_images'] == 1
  config = of_task(path, 'text', vocab_file=str(vocab), text_field='said')
  _, batch = read_all(config, 'val')
  assert batch['caption'].tolist() == [b'dog', b'cat', b'a dog', b'a dog']
  assert list(reader.captions()) == ['a cat', 'dog', 'cat']


def test_broken_images_are_named_by_their_row(tmp_path, caplog):
  images = struct(RED, GREEN, BLUE, RED, RED)
  images[1]['bytes'] = None
  images[3]['bytes'] = b'\x89PNG'
  path = write(tmp_path / 'x.parquet', {'image': images})
  reader, batch = read_all(of_task(path, max_broken=2))
  assert batch['id'].tolist() == [0, 2, 2, 4, 4]
  assert f'{path}, row 1 of row group 0: no bytes of an image' in caplog.text
  assert f'{path}, row 1 of row group 1: ' in caplog.text


@pytest.mark.parametrize(
  ('columns', 'fields', 'words'),
  [
    (
      {'img': [b'x'], 'label': [0]},
      {},
      "image_field is 'image', must be a column of .*x.parquet: img, label",
    ),
    (
      {'image': ['x'], 'label': [0]},
      {},
      "the column 'image' .* is of the type string, must be binary",
    ),
    (
      {'image': [{'path': 'x'}], 'label': [0]},
      {},
      r'type struct<path: string>, must be binary or a struct',
    ),
    (
      {'image': [b'x'], 'label': [[0]]},
      {},
      "'label' is of the type list.*, must be integers or strings",
    ),
    ({'image': [b'x'], 'x': [0]}, {}, "label_field is '', must be a column"),
    (
      {'image': [b'x'], 'label': [-2]},
      {},
      'has the class -2, must be below 3',
    ),
  ],
)
def test_columns_that_do_not_serve(tmp_path, columns, fields, words):
  path = write(tmp_path / 'x.parquet', columns)
  with pytest.raises(errors.UserError, match=words):
    data.create(of_task(path, 'class', **fields), 'train')


def test_files_that_do_not_serve(root):
  path = root / 'train-00001-of-00002.parquet'
  whole = path.read_bytes()
  for damaged in (b'', b'no parquet', whole[:-20], whole[:-8] + whole[-4:]):
    path.write_bytes(damaged)
    words = '00001-of-00002.parquet: no parquet, or damaged'
    with pytest.raises(errors.UserError, match=words) as error:
      data.create(of_task(root), 'train')
    assert error.value.code == errors.DATA
  write(path, {'image': struct(RED)})
  with pytest.raises(errors.UserError, match='has the columns image, .* label'):
    data.create(of_task(root), 'train')


def test_large_row_groups_are_refused(root, monkeypatch):
  monkeypatch.setattr(parquet_files.limits, 'ROW_GROUP_BYTES', 50)
  with pytest.raises(errors.UserError, match='row group 0 has .* at most 50'):
    data.create(of_task(root), 'train')


def test_row_groups_are_kept_up_to_a_limit(root, monkeypatch):
  reads = []
  load = parquet_files.Rows._load

  def counted(self, path, footer, group, columns):
    reads.append((path.name[6:11], group))
    return load(self, path, footer, group, columns)

  monkeypatch.setattr(parquet_files.Rows, '_load', counted)
  reader = data.create(of_task(root), 'train')
  of = lambda *rows: reader.batch(np.array(rows), np.zeros(len(rows), int))
  of(0, 1, 3, 2, 0)
  assert sorted(reads) == [('00000', 0), ('00000', 1), ('00001', 0)]
  monkeypatch.setattr(parquet_files, 'KEPT_BYTES', 1)
  reader = data.create(of_task(root), 'train')
  reads.clear()
  for row in (0, 1, 3, 1):
    of(row)
  assert reads == [('00000', 0), ('00001', 0), ('00000', 0)]


def test_a_damaged_row_group_is_a_broken_image(tmp_path, caplog):
  path = write(tmp_path / 'x.parquet', {'image': struct(*[RED] * 9)}, rows=1)
  footer = pq.read_metadata(path)
  column = footer.row_group(4).column(0)
  whole = bytearray(path.read_bytes())
  start = column.dictionary_page_offset or column.data_page_offset
  whole[start : start + 30] = b'\xff' * 30
  path.write_bytes(whole)
  reader, batch = read_all(of_task(path))
  assert batch['id'].tolist() == [0, 1, 2, 3, 5, 5, 6, 7, 8]
  assert reader.report['broken_images'] == 1


def test_a_reader_can_be_sent_to_another_process(root):
  config = of_task(root)
  reader, batch = read_all(config)
  again = pickle.loads(pickle.dumps(reader._rows))
  assert again.row(3, ['label']) == {'label': 1}
  assert reader.identity()['shards']['train-00000-of-00002.parquet'][0] == 3


METADATA = {
  'image': struct(RED, GREEN, BLUE, (9, 9, 9), (7, 7, 7)),
  'width': [8, 5, 9, None, 8],
  'height': [8, 9, 9, 9, 8],
  'similarity': [0.3, 0.4, 0.2, 0.5, 0.31],
  'NSFW': ['UNLIKELY', 'UNLIKELY', 'UNLIKELY', 'UNLIKELY', 'UNSURE'],
  'punsafe': [0.01, 0.5, 0.02, float('nan'), 0.03],
}


@pytest.mark.parametrize(
  ('fields', 'kept', 'left_out'),
  [
    ({'min_side': 8}, [0, 2, 4], {'too_small': 2}),
    ({'min_similarity': 0.3}, [0, 1, 3, 4], {'low_similarity': 1}),
    ({'nsfw': ('UNLIKELY',)}, [0, 1, 2, 3], {'unsafe': 1}),
    ({'max_unsafe': 0.1}, [0, 2, 4], {'unsafe': 2}),
    ({'max_unsafe': 0.1, 'nsfw': ('UNLIKELY',)}, [0, 2], {'unsafe': 3}),
    (  # A row counts once, for the first reason.
      {'min_side': 8, 'min_similarity': 0.3, 'max_unsafe': 0.1},
      [0, 4],
      {'low_similarity': 1, 'unsafe': 2},
    ),
  ],
)
def test_rows_are_left_out_by_their_metadata(tmp_path, fields, kept, left_out):
  path = write(tmp_path / 'x.parquet', METADATA)
  reader, batch = read_all(of_task(path, **fields))
  every = [[*RED], [*GREEN], [*BLUE], [9, 9, 9], [7, 7, 7]]
  assert colours(batch) == [every[i] for i in kept]
  assert batch['id'].tolist() == list(range(len(kept)))
  skipped = {'broken_images': 0, 'replaced_examples': 0}
  assert reader.report == {**skipped, **left_out}
  plain = data.create(of_task(path), 'train').identity()
  assert reader.identity() != plain


def test_filters_without_their_columns_are_refused(root, tmp_path):
  message = 'max_unsafe is 0.1, which needs the column punsafe; .* image, label'
  with pytest.raises(errors.UserError, match=message):
    data.create(of_task(root, max_unsafe=0.1), 'train')
  path = write(tmp_path / 'x.parquet', METADATA)
  with pytest.raises(errors.UserError, match="no row of .*'too_small': 5"):
    data.create(of_task(path, min_side=10), 'train')
