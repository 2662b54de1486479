"""Damaged copies, and the count of what readers do with them."""

import json

import pytest

from tests.helpers import mutations


WHOLE = json.dumps({'a': [1, 2.5, 'three'], 'b': {'c': None}}).encode()


def test_copies_depend_on_the_seed_and_the_number():
  copies = list(mutations.several(WHOLE, 300, seed=1))
  assert copies == list(mutations.several(WHOLE, 300, seed=1))
  assert copies[:9] == list(mutations.several(WHOLE, 9, seed=1))
  others = [copy for _, copy in mutations.several(WHOLE, 300, seed=2)]
  assert others != [copy for _, copy in copies]
  assert sum(copy != WHOLE for copy in others) > 270


def test_other_files_lend_blocks():
  copies = mutations.several(WHOLE, 300, [b'\xff' * 5000])
  assert any(b'\xff' * 9 in copy for _, copy in copies)


def test_length_fields_of_an_archive_are_hit():
  whole = b'PK\1\2' + bytes(42) + b'name'
  copies = [copy for _, copy in mutations.several(whole, 400)]
  sizes = {copy[20:24] for copy in copies if copy[:4] == b'PK\1\2'}
  assert {b'\0\0\0\x80', b'\xff\xff\xff\xff'} <= sizes


def test_a_count_has_all_copies():
  copies = mutations.several(WHOLE, 200)
  kinds = (ValueError, RecursionError)
  count = mutations.tried(json.loads, copies, kinds)
  assert count.read + count.refused == 200
  assert count.refused > 100
  assert str(count).startswith('200 of 200: ')


def test_another_error_slowness_and_memory_are_seen(monkeypatch):
  def tried(reader):
    mutations.tried(reader, mutations.several(WHOLE, 2))

  def raises(error):
    def reader(raw):
      raise error

    return reader

  tried(raises(ValueError('one line')))
  with pytest.raises(AssertionError, match='copy 0: KeyError'):
    tried(raises(KeyError('x')))
  with pytest.raises(AssertionError, match='copy 0: a\nb'):
    tried(raises(ValueError('a\nb')))
  with pytest.raises(AssertionError, match='no message'):
    tried(raises(ValueError()))
  monkeypatch.setattr(mutations, 'MOST_SECS', -1)
  with pytest.raises(AssertionError, match='copy 0: .* s'):
    tried(len)
  monkeypatch.undo()
  monkeypatch.setattr(mutations, 'MOST_BYTES', 0)
  with pytest.raises(AssertionError, match='too much memory'):
    tried(len)
