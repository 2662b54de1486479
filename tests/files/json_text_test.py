import json
import os
import pathlib
import re
import socket

import pytest

import pyramid_jax
from pyramid_jax import limits
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text


PACKAGE = pathlib.Path(pyramid_jax.__file__).parent
# JSON of our own making, which goes through text to have the types of JSON.
OWN = re.compile(r'json\.loads\((json\.dumps|config_lib\.to_json)\(')


@pytest.mark.parametrize(
  'value',
  [
    None,
    [],
    {},
    'ä\u2028\U0001f600"\\',
    {'a': [1, -2.5, True, {'b': ''}], '': 10**39},
  ],
)
def test_what_json_is(value):
  for ascii_ in (True, False):
    text = json.dumps(value, ensure_ascii=ascii_)
    assert json_text.loads(text) == value
    assert json_text.loads(text.encode()) == value
    assert json_text.loads(b'\xef\xbb\xbf' + text.encode()) == value
    assert json_text.loads('\ufeff' + text) == value


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    ('', 'Expecting value at line 1, column 1'),
    ('{"a":\n 1,}', 'line 2, column 4'),
    ('[1] 2', 'Extra data at line 1, column 5'),
    ('"a\nb"', 'Invalid control character at line 1, column 3'),
    ('[1, NaN]', 'NaN is no number at line 1, column 5'),
    ('[-Infinity]', '-Infinity is no number'),
    ('[1e999]', 'a number is too large'),
    ('{"a": {"b": 1, "c": 2, "b": 3}}', "an object has 'b' twice"),
    ('[\n1' + '0' * 400 + ']', 'an integer of 401 digits.* line 2, column 1'),
    ('-' + '9' * 5000, 'an integer of 5001 digits, at most 40'),
    ('[' * 65 + ']' * 65, 'nested more than 64 deep'),
    ('{"a":' * 70 + '1' + '}' * 70, 'nested more than 64 deep'),
    ('[' * 100_000, 'nested more than 64 deep'),
    (b'["\xff"]', 'not UTF-8 text: byte 0xff at 2'),
    ('[1]'.encode('utf-16'), 'not UTF-8 text'),
    ('["\\ud800"]', 'half of a character at line 1, column 3'),
    ('["\\ud83d\\ude00\\ude00"]', 'half of a character'),
  ],
)
def test_what_is_refused(data, words):
  with pytest.raises(ValueError, match=f'^a.json: not JSON: .*{words}') as e:
    json_text.loads(data, 'a.json')
  assert type(e.value) is ValueError
  assert '\n' not in str(e.value)
  assert len(str(e.value)) < 200
  with pytest.raises(ValueError, match='^not JSON: '):
    json_text.loads(data)


def test_depth_and_digits_at_their_limits():
  deep = '[' * limits.JSON_DEPTH + ']' * limits.JSON_DEPTH
  assert json.dumps(json_text.loads(deep)) == deep
  long = '9' * limits.JSON_DIGITS
  assert json_text.loads(long) == int(long)
  assert json_text.loads('["\\\\ud800"]') == ['\\ud800']  # no escape


def test_what_python_takes():
  found = json_text.loads('{"a": NaN, "b": 1e999, "a": 2}', strict=False)
  assert found == {'a': 2, 'b': float('inf')}
  assert json_text.loads('1' + '0' * 50, strict=False) == 1e50
  assert json_text.loads('-1' + '0' * 400, strict=False) == -float('inf')
  for data in ('[' * 65 + ']' * 65, '[1', '"\\ud800"'):
    with pytest.raises(ValueError, match='not JSON'):
      json_text.loads(data, strict=False)


def test_too_much(monkeypatch):
  with pytest.raises(ValueError, match='^x: not JSON: 4 bytes, at most 3 are'):
    json_text.loads('[12]', 'x', most=3)
  monkeypatch.setattr(limits, 'JSON_BRACKETS', 4)
  with pytest.raises(ValueError, match='5 lists and objects, at most 4 are'):
    json_text.loads('[{},{},[],[]]')
  assert json_text.loads('[{},{},[]]') == [{}, {}, []]


def test_files(tmp_path):
  path = tmp_path / 'a.json'
  path.write_bytes(b'\xef\xbb\xbf[1]')
  assert json_text.read(path) == [1]
  path.write_text('[1,]')
  with pytest.raises(ValueError, match=f'^{path}: not JSON: .*line 1, col'):
    json_text.read(path)
  with pytest.raises(ValueError, match=f'^{path}: 4 bytes, at most 3 are read'):
    json_text.read(path, most=3)
  with pytest.raises(FileNotFoundError):
    json_text.read(tmp_path / 'absent')


def special_files(folder):
  """Yields files that are none, with the word for each."""
  os.mkfifo(folder / 'pipe')
  yield folder / 'pipe', 'a pipe'
  yield folder, 'a folder'
  (folder / 'zero').symlink_to('/dev/zero')
  yield folder / 'zero', 'a device'
  path = os.path.relpath(folder / 'socket')  # its length is limited
  with socket.socket(socket.AF_UNIX) as opened:
    opened.bind(path)
    yield folder / 'socket', 'a socket'


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  opened = []
  open_ = os.open
  monkeypatch.setattr(os, 'open', lambda *x: opened.append(x) or open_(*x))
  count = 0
  for path, word in special_files(tmp_path):
    count += 1
    for read in (json_text.read, lambda x: bounded.text(x, 99)):
      with pytest.raises(ValueError, match=f'{word}, must be a file$'):
        read(path)
  assert count == 4
  assert not opened
  bounded.read(__file__, 1 << 20)
  assert opened


def test_a_file_that_grows(tmp_path, monkeypatch):
  path = tmp_path / 'a'
  path.write_text('12345')
  assert bounded.read(path, 5) == b'12345'
  path.write_text('123456')
  monkeypatch.setattr(bounded, '_check', lambda *_: None)
  with pytest.raises(ValueError, match='more than 5 bytes'):
    bounded.read(path, 5)


def test_no_other_reader_of_json():
  others = [
    f'{path.relative_to(PACKAGE)}: {line.strip()}'
    for path in PACKAGE.rglob('*.py')
    for line in path.read_text().splitlines()
    if re.search(r'\bjson\.loads?\(', line) and not OWN.search(line)
  ]
  assert sorted(others) == [
    'distributed/messages.py: return json.loads(text)',
    'files/json_text.py: value = json.loads(',
  ]
