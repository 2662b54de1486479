import json
import os
import re

import pytest

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import category_lists
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.storage import annotation_files as af


FIELDS = {'id': af.INTEGER, 'bbox': af.BBOX, 'width': af.POSITIVE}
GOOD = {'id': 1, 'bbox': [0, 0.5, 2, 3], 'width': 2.5}


@pytest.mark.parametrize(
  ('entry', 'words'),
  [
    ({'id': 1, 'width': 1}, r'objects\[1\] lacks "bbox"'),
    ({**GOOD, 'id': '1'}, r'objects\[1\] has "id": \'1\', must be an integer'),
    ({**GOOD, 'id': True}, 'must be an integer'),
    ({**GOOD, 'bbox': [1, 2, 3]}, r'must be \[x, y, width, height\]'),
    ({**GOOD, 'bbox': [1, 2, -3, 1]}, 'must be'),
    ({**GOOD, 'bbox': [1, 2, float('nan'), 1]}, 'must be'),
    ({**GOOD, 'width': 0}, 'must be a positive number'),
    ([], r'objects\[1\] must be an object, got \[\]'),
  ],
)
def test_entries_left_out_name_file_position_and_field(tmp_path, entry, words):
  path = tmp_path / 'a.json'
  path.write_text(json.dumps({'objects': [GOOD, entry, entry, GOOD]}))
  section = af.Section(path, af.load_json(path), 'objects', FIELDS)
  assert list(section) == [(0, GOOD), (3, GOOD)]
  (line,) = section.check()
  assert line.startswith(f'{path}: 2 of 4 objects are left out, the first: obj')
  assert re.search(words, line)
  section = af.Section(path, af.load_json(path), 'objects', FIELDS)
  with pytest.raises(errors.UserError, match=words) as error:
    section.whole()
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)
  assert error.value.code == errors.DATA


def test_more_than_half_left_out(tmp_path):
  section = af.Section(tmp_path, {'a': [GOOD, 1, 2]}, 'a', FIELDS)
  list(section)
  with pytest.raises(errors.UserError, match=r'2 of 3 a are .*: a\[1\] must'):
    section.check()


def test_good_entries(tmp_path):
  section = af.Section(tmp_path, {'objects': [GOOD]}, 'objects', FIELDS)
  assert list(section) == [(0, GOOD)]
  assert section.check() == []
  assert section.whole() == [GOOD]


def test_missing_section_and_broken_files(tmp_path):
  path = tmp_path / 'a.json'
  with pytest.raises(errors.UserError, match='"objects" must be a list'):
    af.Section(path, {}, 'objects', FIELDS)
  for text in ('{"a": [1', '', '\x00'):
    path.write_text(text)
    with pytest.raises(errors.UserError, match=r'a\.json: not JSON'):
      af.load_json(path)
  path.write_bytes(b'\xff{}')
  with pytest.raises(errors.UserError, match=r'a\.json: not JSON'):
    af.load_json(path)
  path.write_text('[]')
  with pytest.raises(errors.UserError, match='must be an object, got list'):
    af.load_json(path)
  with pytest.raises(FileNotFoundError):
    af.load_json(tmp_path / 'absent')


def test_lines(tmp_path):
  path = tmp_path / 'ids.txt'
  path.write_text('\ufeff1\r\n\n  2 \n')
  assert af.load_lines(path) == [(1, '1'), (3, '2')]
  path.write_bytes(b'\xff')
  with pytest.raises(errors.UserError, match='not UTF-8'):
    af.load_lines(path)


@pytest.mark.parametrize(
  'separator', ['\u2028', '\u2029', '\x85', '\x0b', '\x0c', '\x1c']
)
def test_lines_end_at_line_feeds_alone(tmp_path, separator):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(f'a{separator}b\nc\rd\r\n'.encode())
  assert af.load_lines(path) == [(1, f'a{separator}b'), (2, 'c'), (3, 'd')]


@pytest.mark.parametrize('value', ['1' + '0' * 400, '-1' + '0' * 400, '1e999'])
def test_numbers_beyond_floats_are_no_boxes(tmp_path, value):
  path = tmp_path / 'a.json'
  path.write_text(f'{{"objects": [{{"bbox": [0, 0, 1, {value}]}}]}}')
  document = af.load_json(path)
  with pytest.raises(errors.UserError, match='must be'):
    af.Section(path, document, 'objects', {'bbox': af.BBOX}).whole()


def test_json_that_is_nested_too_deep(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('[' * 100_000)
  with pytest.raises(errors.UserError, match=r'a\.json: not JSON'):
    af.load_json(path)


def test_lists_of_odd_lines(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_bytes(b'\xef\xbb\xbf1,a\r\n\r2,b\n\n 3,c ')
  assert af.load_lines(path) == [(1, '1,a'), (3, '2,b'), (5, '3,c')]
  path.write_bytes(b'1,a\n2,' + b'b' * limits.LINE_CHARACTERS)
  with pytest.raises(errors.UserError, match='a.csv: line 2 has 100002 charac'):
    af.load_lines(path)
  path.write_bytes(b'1,a\n\xff')
  with pytest.raises(errors.UserError, match='not UTF-8 text: byte 0xff at 4'):
    af.load_lines(path)
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(errors.UserError, match='pipe: a pipe, must be a file'):
    af.load_lines(tmp_path / 'pipe')


@pytest.mark.parametrize('line', ['1,"a', '1', '1,a,b', '\x00', '"' * 99])
def test_rows_that_are_none(tmp_path, line):
  path = tmp_path / 'a.csv'
  path.write_text(f'1,ok\n{line}\n')
  if line == '1,"a':  # as csv reads it
    assert category_lists.read(path) == {'1': 'a'}
    return
  with pytest.raises(errors.UserError, match='line 2 must be ID,Name, got'):
    category_lists.read(path)


@pytest.mark.parametrize('line', ['x', '1.5', '-1', '9' * 19, '9' * 5000])
def test_ids_that_are_none(tmp_path, line):
  path = tmp_path / 'ids.txt'
  path.write_text(f'12\n{line}\n')
  with pytest.raises(errors.UserError, match='line 2 must be an image id, got'):
    object_index.load_ids(path)


@pytest.mark.parametrize('value', [2**63, -(2**63), 10**30, 1.0, True])
def test_integers_have_64_bits(tmp_path, value):
  section = af.Section(
    tmp_path, {'a': [{**GOOD, 'id': value}, GOOD, GOOD]}, 'a', FIELDS
  )
  assert [i for i, _ in section] == [1, 2]
