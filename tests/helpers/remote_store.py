"""Data in a store in the memory of a test, and failures of its objects."""

import pathlib

import pytest

from pyramid_jax.files import retries
from tests.helpers import fake_store


ROOT = 'gs://bucket/data'


class HttpError(Exception):
  """An answer with a status, as the client of the store raises it."""

  __module__ = 'gcsfs.retry'

  def __init__(self, code, words='said by the store'):
    super().__init__(f'{words}, {code}')
    self.code = code


def unavailable():
  """An answer that passes."""
  return HttpError(503, 'Service Unavailable')


def forbidden():
  """The answer to one who has no permission."""
  return OSError('Forbidden: https://storage/o/x\nno access to it')


@pytest.fixture(name='store')
def store_fixture(monkeypatch, tmp_path):
  """An empty store in the place of gs://, and an empty folder for copies."""
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path / 'cache_of_objects'))
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  with fake_store.installed() as store:
    yield store


def put(store, name, data):
  """Writes an object, which is not in the log of the store."""
  with_log = list(store.log)
  store().pipe_file(name, data)
  store.log[:] = with_log


def put_tree(store, folder, name=ROOT):
  """Writes the files below a local folder, and returns where they are."""
  for path in sorted(pathlib.Path(folder).rglob('*')):
    if path.is_file():
      inner = path.relative_to(folder).as_posix()
      put(store, f'{name}/{inner}', path.read_bytes())
  return name


def fail(store, part, *answers):
  """Makes requests for names that have a part fail, by the answers in turn.

  The last answer is that to all later requests; None lets one pass.
  """
  left = list(answers)

  def fault(what, name):
    del what
    if part in name:
      answer = left.pop(0) if len(left) > 1 else left[0]
      if answer is not None:
        raise answer

  store.fault = staticmethod(fault)


def count(store, what, part=''):
  """Returns how many requests there were of names that have a part."""
  return sum(done == what and part in name for done, name in store.log)
