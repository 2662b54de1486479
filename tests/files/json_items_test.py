import json

import pytest

from pyramid_jax import limits
from pyramid_jax.files import json_items


def read(path, text):
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return list(json_items.read(path))


@pytest.mark.parametrize('block', [1, 2, 7, 1 << 20])
@pytest.mark.parametrize('indent', [None, 1])
def test_objects_are_those_of_the_whole_file(
  tmp_path, monkeypatch, block, indent
):
  monkeypatch.setattr(json_items, '_BLOCK_BYTES', block)
  values = [
    {},
    {'a': 'é]},{', 'b': [1, -2.5e3, True, None, {'c': []}]},
    {'long': 'x' * 300, 'name': '\\"'},
  ]
  text = json.dumps(values, ensure_ascii=block % 2 == 0, indent=indent)
  assert read(tmp_path / 'a.json', text) == values
  assert read(tmp_path / 'a.json', ' [ ]\n') == []


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', r"entry 0: expected \[ of a JSON list, got ''"),
    ('{"a": 1}', r"entry 0: expected \[ of a JSON list, got '{'"),
    ('[{"a": 1}', "entry 1: expected , of a JSON list, got ''"),
    ('[{"a": 1} {"b": 2}]', "entry 1: expected , of a JSON list, got '{'"),
    ('[{"a": 1},]', "entry 1: must be an object, it begins with ']'"),
    ('[1]', "entry 0: must be an object, it begins with '1'"),
    ('[{}, {"a": tru}]', 'entry 1: not JSON: Expecting value'),
    ('[{}, {"a": "b', 'entry 1: not JSON: Unterminated string'),
    ('[{}] x', 'entry 1: something stands after the list'),
    (b'[{"a": "\xff"}]', "entry 0: 'utf-8' codec can't decode byte 0xff"),
    ('[{"a": ' + '[' * 20_000, 'entry 0: not JSON: nested too deep'),
  ],
)
def test_what_is_no_list_of_objects_is_named(tmp_path, text, message):
  path = tmp_path / 'a.json'
  with pytest.raises(ValueError, match=f'^{path}: {message}'):
    read(path, text)


def test_errors_do_not_wait_for_the_rest_of_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(json_items, '_BLOCK_BYTES', 64)
  monkeypatch.setattr(limits, 'JSON_BYTES', 1000)
  with pytest.raises(ValueError, match='entry 0: not JSON: Expecting'):
    read(tmp_path / 'a.json', '[{"a" 1}' + ' ' * 5000)
  with pytest.raises(ValueError, match='entry 0: has more than 1000 char'):
    read(tmp_path / 'a.json', '[{"a": "' + 'x' * 5000)
