"""Files that grow, in a store that cannot append."""

import json
import threading

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.runs import events
from pyramid_jax.runs import grown_file
from pyramid_jax.runs import grown_object
from pyramid_jax.runs import writers
from tests.helpers import fake_store


@pytest.fixture(name='store')
def store_fixture(monkeypatch):
  monkeypatch.setattr(retries, 'WAITS_SECS', ())
  with fake_store.installed() as found:
    yield found


@pytest.fixture(name='path')
def path_fixture(store):
  del store
  return stores.path('gs://bucket/run/metrics.jsonl')


def _full(what, name):
  if what == 'write':
    raise TimeoutError


def test_records_are_sent_when_asked_and_in_the_end(store, path):
  file = grown_file.opened(path)
  file.add(b'1\n')
  file.add(b'2\n')
  assert path.read_bytes() == b''
  file.flush()
  assert path.read_bytes() == b'1\n2\n'
  writes = len([what for what, _ in store.log if what == 'write'])
  file.flush()  # nothing is new
  assert len([what for what, _ in store.log if what == 'write']) == writes
  file.add(b'3\n')
  file.close()
  file.close()
  assert path.read_bytes() == b'1\n2\n3\n'
  again = grown_file.opened(path)
  again.add(b'4\n')
  again.close()
  assert path.read_bytes() == b'1\n2\n3\n4\n'


def test_a_new_one_must_not_be_there(path):
  path.write_bytes(b'of another')
  with pytest.raises(errors.UserError, match='File exists'):
    grown_file.opened(path, is_new=True)
  assert path.read_bytes() == b'of another'


def test_records_are_sent_from_time_to_time(path, monkeypatch):
  sent = threading.Event()
  put = stores.put
  monkeypatch.setattr(stores, 'put', lambda *args: (put(*args), sent.set())[0])
  monkeypatch.setattr(grown_object, 'PUT_SECS', 0.01)
  file = grown_file.opened(path)
  file.add(b'1\n')
  assert sent.wait(60)
  assert path.read_bytes() == b'1\n'
  file.close()


def test_a_store_may_be_away_for_a_while(store, path, monkeypatch, caplog):
  file = grown_file.opened(path)
  file.add(b'1\n')
  store.fault = _full
  file.flush()
  file.add(b'2\n')
  assert 'for now' in caplog.text
  monkeypatch.setattr(grown_object, 'PATIENCE_SECS', 0.0)
  with pytest.raises(errors.UserError, match=f'cannot write {path}'):
    file.add(b'3\n')
  with pytest.raises(errors.UserError, match=f'cannot write {path}'):
    file.flush()
  store.fault = lambda what, name: None
  file.flush()
  file.add(b'3\n')
  file.close()
  assert path.read_bytes() == b'1\n2\n3\n'


def test_what_does_not_arrive_in_the_end_is_an_error(store, path):
  file = grown_file.opened(path)
  file.add(b'1\n')
  store.fault = _full
  with pytest.raises(errors.UserError, match=f'cannot write {path}') as info:
    file.close()
  assert info.value.code == errors.OUTPUT


def test_an_answer_that_is_lost_does_no_harm(path, monkeypatch):
  file = grown_file.opened(path)
  file.add(b'1\n')
  version = stores.version
  monkeypatch.setattr(stores, 'version', lambda path: 'older')
  file.flush()
  monkeypatch.setattr(stores, 'version', version)
  file.add(b'2\n')
  file.close()
  assert path.read_bytes() == b'1\n2\n'


def test_what_another_process_wrote_stays(path):
  file = grown_file.opened(path)
  file.add(b'1\n')
  file.flush()
  other = grown_file.opened(path)  # has taken the workdir over
  other.add(b'2\n')
  other.close()
  file.add(b'3\n')
  with pytest.raises(errors.UserError, match='by another process'):
    file.flush()
  with pytest.raises(errors.UserError, match='by another process'):
    file.close()
  assert path.read_bytes() == b'1\n2\n'


def test_metrics_and_events_of_a_run(store):
  folder = stores.path('gs://bucket/run')
  writer = writers.MetricWriter(folder)
  for step in range(1, 4):
    writer.write_scalars(step, {'loss': step / 2})
  writer.write_images(3, {'grid': np.zeros((4, 5, 3), np.uint8)})
  writer.close()
  writer = writers.MetricWriter(folder, first_step=2)
  writer.write_scalars(3, {'loss': 7.0})
  writer.close()
  lines = (folder / writers.METRICS).read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {'step': 1, 'loss': 0.5},
    {'step': 2, 'loss': 1.0},
    {'step': 3, 'loss': 7.0},
  ]
  files = stores.names(folder / writers.EVENTS)
  assert len(files) == 2
  assert all(store.objects[f'bucket/run/{writers.EVENTS}/{x}'] for x in files)


def test_lines_of_others_are_kept_in_a_copy(store):
  del store
  path = stores.path('gs://bucket/run') / writers.METRICS
  path.write_bytes(b'{"step": 1}\nnoise\n{"step": 3}\n')
  writers.truncate(path, 2)
  assert path.read_bytes() == b'{"step": 1}\n'
  assert stores.names(path.parent) == ['metrics.jsonl', 'metrics.jsonl.bad']


def test_events_of_a_long_run_are_several_objects(store, monkeypatch):
  monkeypatch.setattr(events, '_OBJECT_BYTES', 300)
  folder = stores.path('gs://bucket/events')
  file = events.EventFile(folder, 0)
  for step in range(20):
    file.add(step, {'loss': 1.0})
  file.close()
  sizes = stores.sizes(folder)
  assert len(sizes) > 2
  assert max(sizes.values()) < 400
  del store


def test_the_log_is_sent_at_once_where_it_says_an_error(store):
  from absl import logging

  with writers.copied('gs://bucket/run', 1):
    logging.warning('of a step')
    logging.error('the end')
    log = stores.path('gs://bucket/run/logs/process_1.log').read_text()
    assert 'of a step' in log
    assert 'the end' in log
    logging.warning('one more')
  assert b'one more' in store.objects['bucket/run/logs/process_1.log'][0]
