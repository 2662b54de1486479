"""The lock of a workdir in a store, whose clock a test turns on."""

import json
import threading
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.runs import lock
from pyramid_jax.runs import lock_owner
from pyramid_jax.runs import store_lock
from tests.helpers import fake_store


WORKDIR = 'gs://bucket/run'


@pytest.fixture(autouse=True, name='store')
def store_fixture(monkeypatch):
  monkeypatch.setattr(store_lock, 'POLL_SECS', 0.0)
  with fake_store.installed() as found:
    yield found


def owner(number=1, **fields):
  """Writes the lock of a process on another host; returns its path."""
  values = {**lock_owner.this_process('aa', False), 'host': 'far', **fields}
  path = stores.path(WORKDIR) / 'lock' / str(number)
  path.write_text(json.dumps(values))
  return path


def on_ask(store, function):
  """Calls a function whenever somebody who waits asks for the time."""

  def fault(what, name):
    if what == 'write' and '/ask-' in name:
      function()

  store.fault = staticmethod(fault)


def passing(store, secs=20.0):
  """Lets seconds pass whenever somebody who waits asks for the time."""

  def later():
    store.clock += secs

  on_ask(store, later)


def numbers(store):
  start = 'bucket/run/lock/'
  return sorted(x.removeprefix(start) for x in store.objects if start in x)


def test_one_holds_it_and_the_next_has_another_number(store):
  with lock.shared(WORKDIR) as held:
    assert isinstance(held, store_lock.StoreLock)
    held.check(now=True)
    assert numbers(store) == ['1']
  with lock.shared(WORKDIR) as held:
    held.check(now=True)
    assert numbers(store) == ['2']


def test_a_process_that_lives_here_keeps_it(store):
  with (
    lock.shared(WORKDIR) as held,
    pytest.raises(errors.UserError, match='is in use by process') as info,
    lock.shared(WORKDIR),
  ):
    pass
  assert info.value.code == errors.OUTPUT
  assert numbers(store) == ['1']
  del held


def test_a_process_that_died_here_has_lost_it(store):
  owner(host=lock_owner.this_process('', False)['host'], pid=2**22 + 1)
  with lock.shared(WORKDIR) as held:
    held.check(now=True)
    assert numbers(store) == ['2']


def test_an_owner_elsewhere_that_is_silent_has_lost_it(store):
  owner()
  start = store.clock
  passing(store)
  with lock.shared(WORKDIR) as held:
    assert store.clock - start >= lock_owner.STALE_SECS
    held.check(now=True)
    assert numbers(store) == ['2']


def test_an_owner_elsewhere_that_writes_meanwhile_keeps_it(store):
  owner()

  def beat():
    store.clock += 20
    if store.clock > 1030:
      store.fault = lambda what, name: None
      owner()

  on_ask(store, beat)
  with (
    pytest.raises(errors.UserError, match='is in use by process .* on far'),
    lock.shared(WORKDIR),
  ):
    pass
  assert numbers(store) == ['1']


def test_takeover_waits_until_the_owner_has_stopped(store):
  owner()
  asked = []

  def stop():
    asked.append(1)
    if len(asked) == 3:
      store.fault = lambda what, name: None
      owner(released=True)

  on_ask(store, stop)
  with lock.shared(WORKDIR, takeover=True) as held:
    assert len(asked) == 3
    held.check(now=True)
    assert numbers(store) == ['2']


def test_an_owner_stops_once_it_is_replaced(store):
  with lock.shared(WORKDIR) as held:
    owner(2)
    with pytest.raises(errors.UserError, match='taken over by process .* on f'):
      held.check(now=True)
  # What it writes in the end is in nobody's way.
  assert json.loads(store.objects['bucket/run/lock/2'][0])['host'] == 'far'
  assert 'released' not in json.loads(store.objects['bucket/run/lock/2'][0])


def test_a_lock_that_is_removed_is_lost(store):
  with lock.shared(WORKDIR) as held:
    stores.remove_folder(stores.path(WORKDIR) / 'lock')
    with pytest.raises(errors.UserError, match='lock/1 was removed'):
      held.check(now=True)
  assert not store.objects


def test_a_number_is_never_given_twice(store):
  """An owner that slept through its successor does not wake up as the owner."""
  with lock.shared(WORKDIR) as sleeper:
    path = stores.path(WORKDIR) / 'lock' / '1'
    path.write_text(json.dumps({'released': True}))
    with lock.shared(WORKDIR):
      assert numbers(store) == ['2']
    with pytest.raises(errors.UserError, match='taken over'):
      sleeper.check(now=True)


def test_of_many_one_gets_it(store, monkeypatch):
  monkeypatch.setattr(store_lock.lock_owner, 'process_lives', lambda *_: None)
  gate, done = threading.Barrier(8), threading.Event()
  results = []

  def take():
    gate.wait()
    try:
      with lock.shared(WORKDIR) as held:
        held.check(now=True)
        results.append(True)
        done.wait(60)
    except errors.UserError:
      results.append(False)

  threads = [threading.Thread(target=take) for _ in range(8)]
  # Who waits sees the owner write its object again.
  beats = []

  def beat():
    beats.append(1)
    store.clock += 1
    for name, (data, generation, _) in list(store.objects.items()):
      if name.split('/')[-1].isdecimal():
        store.objects[name] = data, generation, store.clock

  on_ask(store, beat)
  for thread in threads:
    thread.start()
  while len(results) < 8:
    time.sleep(0.01)
  done.set()
  for thread in threads:
    thread.join(60)
  assert sorted(results) == [False] * 7 + [True]


def test_an_answer_that_is_lost_is_found_again(store, monkeypatch):
  create = stores.create

  def lost(path, data):
    create(path, data)
    return False

  monkeypatch.setattr(stores, 'create', lost)
  with lock.shared(WORKDIR) as held:
    held.check(now=True)
    assert numbers(store) == ['1']


def test_a_store_that_is_away_stops_nobody(store, caplog):
  with lock.shared(WORKDIR) as held:

    def fail(what, name):
      raise TimeoutError

    store.fault = staticmethod(fail)
    held.check(now=True)
    assert 'cannot renew' in caplog.text
    store.fault = lambda what, name: None
    held.check(now=True)


def test_the_owner_says_that_it_lives(store, monkeypatch):
  monkeypatch.setattr(store_lock, 'HEARTBEAT_SECS', 0.01)
  beats = threading.Event()

  def note(what, name):
    if what == 'write' and store.count > 5:
      beats.set()

  with lock.shared(WORKDIR):
    store.fault = staticmethod(note)
    assert beats.wait(60)
