import contextlib
import json
import os
import shutil

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import reading
from pyramid_jax.runs import restoring
from pyramid_jax.runs import state as run_state
from pyramid_jax.runs import step_meta
from pyramid_jax.training import step as state_lib
from tests.helpers import fake_run


def make_state(mesh, width=64, step=0):
  """A state of the fake system with distinct values, and its abstract form."""
  config = fake_run.get_config()
  config_lib.override(config, {'network.width': str(width)})
  system = fake_run.System(config)
  shapes = jax.eval_shape(lambda: state_lib.create(system, config))
  abstract = sharding.abstract(shapes, mesh, 16)
  leaves, tree = jax.tree.flatten(abstract)
  rng = np.random.default_rng(step)
  values = [
    jax.device_put(rng.normal(size=s.shape).astype(s.dtype), s.sharding)
    for s in leaves
  ]
  state = jax.tree.unflatten(tree, values)
  number = jax.device_put(np.int32(step), abstract.step.sharding)
  return state.replace(step=number), abstract


def make_mesh(data=2, fsdp=4, devices=None):
  config = fake_run.get_config().mesh
  config.data, config.fsdp = data, fsdp
  return mesh_lib.create(config, devices or jax.devices()[: data * fsdp])


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A workdir with the steps 1, 2 and 3; tests copy it before they break it."""
  workdir = tmp_path_factory.mktemp('saved')
  mesh = make_mesh()
  store = checkpoints.Checkpoints(workdir, keep=3)
  states = {}
  for step in range(1, 5):
    states[step], _ = make_state(mesh, step=step)
    store.save(states[step], fake_run.get_config(), mesh, step * 8)
  store.close()
  return workdir, states


@pytest.fixture
def broken(saved, tmp_path):
  shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
  return tmp_path


def test_arrays_of_parts_of_an_axis_are_restored(tmp_path):
  mesh = make_mesh(8, 1)
  state, abstract = make_state(mesh)
  odd = np.arange(12 * 33, dtype=np.float32).reshape(12, 33)
  shapes = sharding.abstract({'generator': {'v': odd}}, mesh, 16, over_all=True)
  place = shapes['generator']['v'].sharding
  assert tuple(place.spec) == ('data_0',)
  averages = {'generator': {'v': jax.device_put(odd, place)}}
  state, abstract = state.replace(ema=averages), abstract.replace(ema=shapes)
  store = checkpoints.Checkpoints(tmp_path, keep=1)
  store.save(state, fake_run.get_config(), mesh, 8)
  store.close()
  found = checkpoints.Checkpoints(tmp_path, 1).restore_latest(abstract)
  jax.tree.map(np.testing.assert_array_equal, found, state)
  places = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
  assert places(found) == places(abstract)


def restore(workdir, mesh=None, width=64):
  mesh = mesh or make_mesh()
  _, abstract = make_state(mesh, width)
  return checkpoints.Checkpoints(workdir, 3).restore_latest(abstract)


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert hashes.tree(a) == hashes.tree(b)


def values_file(step):
  """Returns the file that holds the values; they are few, so there is one."""
  files = (step / 'state' / 'd').iterdir()
  return max(files, key=lambda p: p.stat().st_size)


def test_round_trip_and_keep(saved):
  workdir, states = saved
  assert checkpoints.steps(workdir) == [4, 3, 2]
  assert checkpoints.reaches(workdir, 4)
  assert not checkpoints.reaches(workdir, 5)
  state = restore(workdir)
  assert_equal(state, states[4])
  assert int(state.step) == 4
  same = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, states[4])
  assert all(jax.tree.leaves(same))


def test_items(saved):
  folder = checkpoints.directory(saved[0]) / '4'
  data = json.loads((folder / 'data' / 'metadata').read_text())
  assert data == {'position': 32}
  meta = json.loads((folder / 'meta' / 'metadata').read_text())
  assert meta['config']['network']['width'] == 8
  assert meta['mesh'] == {'data': 2, 'fsdp': 4, 'tensor': 1}
  assert 'jax' in meta['versions']
  assert list(meta['tree']['ema']) == ['generator/w']


@pytest.mark.parametrize(('data', 'fsdp'), [(1, 1), (4, 2), (1, 8)])
def test_restores_onto_another_mesh(saved, data, fsdp):
  workdir, states = saved
  state = restore(workdir, make_mesh(data, fsdp))
  assert hashes.tree(state) == hashes.tree(states[4])
  assert state.params['generator']['w'].sharding.mesh.shape['fsdp'] == fsdp


def test_saving_a_step_again_does_nothing(broken):
  mesh = make_mesh()
  other, _ = make_state(mesh, step=4)
  other = other.replace(extra={'count': other.extra['count'] + 1})
  store = checkpoints.Checkpoints(broken, keep=3)
  store.save(other, fake_run.get_config(), mesh, 0)
  store.close()
  assert int(restore(broken).extra['count']) != int(other.extra['count'])


def test_state_may_be_donated_while_it_is_written(tmp_path):
  mesh = make_mesh()
  state, _ = make_state(mesh, step=1)
  want = hashes.tree(state)
  forget = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
  store = checkpoints.Checkpoints(tmp_path, keep=1)
  store.save(state, fake_run.get_config(), mesh, 0)
  jax.block_until_ready(forget(state))
  store.close()
  assert hashes.tree(restore(tmp_path)) == want


def test_flipped_byte(broken, caplog):
  file = values_file(checkpoints.directory(broken) / '4')
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  state = restore(broken)
  assert int(state.step) == 3
  assert 'damaged' in caplog.text
  assert checkpoints.steps(broken) == [3, 2]
  names = [p.name for p in checkpoints.directory(broken).iterdir()]
  assert [n.startswith('4.bad-') for n in names].count(True) == 1


@contextlib.contextmanager
def changed_meta(step):
  """Yields the record of a step to be changed, and writes it."""
  path = step / 'meta' / 'metadata'
  meta = json.loads(path.read_text())
  yield meta
  path.write_text(json.dumps(meta))


def test_a_finished_run_has_a_valid_checkpoint(broken):
  file = values_file(checkpoints.directory(broken) / '4')
  content = bytearray(file.read_bytes())
  assert checkpoints.reaches(broken, 4)
  assert checkpoints.reaches(broken, 3)
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  assert not checkpoints.reaches(broken, 4)
  assert checkpoints.reaches(broken, 3)
  assert checkpoints.steps(broken) == [4, 3, 2]  # nothing is renamed


@pytest.mark.parametrize('is_old', [False, True])
def test_changed_value_is_seen_by_its_hash(broken, is_old):
  with changed_meta(checkpoints.directory(broken) / '4') as meta:
    meta['tree']['ema']['generator/w'][2] = '0' * 16
    if is_old:
      del meta['sha256'], meta['format']
  assert int(restore(broken).step) == 3
  assert (checkpoints.directory(broken) / '4.bad-hash').is_dir()


def test_every_flipped_bit_of_meta_and_data_is_found_or_harmless(broken):
  rng = np.random.default_rng(0)
  folder = checkpoints.directory(broken) / '4'
  want = step_meta.read(folder)
  found = 0
  for item in ('meta', 'data'):
    file = folder / item / 'metadata'
    content = file.read_bytes()
    for place in rng.integers(0, 8 * len(content), 300):
      flipped = bytearray(content)
      flipped[place // 8] ^= 1 << place % 8
      file.write_bytes(flipped)
      try:
        meta = step_meta.read(folder)
        # Of the name of the hash itself: it is as if there were none.
        assert meta.keys() - {'sha256'} or meta == want
        same = ('tree', 'config', 'frozen', 'record', 'position')
        assert [meta[k] for k in same] == [want[k] for k in same]
      except reading.DamagedError:
        found += 1
    file.write_bytes(content)
  assert found > 550


def test_checkpoints_of_older_versions_are_read(broken):
  with changed_meta(checkpoints.directory(broken) / '4') as meta:
    for name in ('sha256', 'format', 'record', 'position', 'scores', 'time'):
      del meta[name]
    del meta['config']['format']
  assert int(restore(broken).step) == 4
  assert checkpoints.record(broken, 4) == {}


def test_the_record_is_kept(tmp_path):
  mesh = make_mesh()
  state, _ = make_state(mesh, step=1)
  kept = {'data': {'files': 3}}
  store = checkpoints.Checkpoints(tmp_path, 1, record=kept)
  store.save(state, fake_run.get_config(), mesh, 0)
  store.close()
  assert checkpoints.record(tmp_path, 1) == kept


def test_a_state_is_put_aside(broken):
  mesh = make_mesh()
  state, _ = make_state(mesh, step=5)
  store = checkpoints.Checkpoints(broken, 3, record={'data': 1})
  for batch in (6, 7):  # the second replaces the first
    path = store.save_aside(
      'diverged', state, fake_run.get_config(), mesh, 40, {'batch': batch}
    )
  assert path == checkpoints.directory(broken) / '5.diverged'
  assert step_meta.read(path)['record'] == {'data': 1, 'batch': 7}
  store.save(make_state(mesh, step=6)[0], fake_run.get_config(), mesh, 48)
  store.close()
  assert checkpoints.steps(broken) == [6, 4, 3]
  path.rename(path.with_name('7'))
  assert hashes.tree(restore(broken)) == hashes.tree(state)


@pytest.mark.parametrize(
  'damage',
  [
    lambda f: shutil.rmtree(f / 'meta'),
    lambda f: (f / 'meta' / 'metadata').write_text('{'),
    lambda f: shutil.rmtree(f / 'ema'),
    lambda f: (f / 'state' / 'manifest.ocdbt').unlink(),
    lambda f: (f / 'state' / '_METADATA').write_text('x'),
    lambda f: os.truncate(values_file(f), 10),
    lambda f: values_file(f).unlink(),
  ],
)
def test_damage_of_all_kinds(broken, damage):
  damage(checkpoints.directory(broken) / '4')
  assert int(restore(broken).step) == 3
  assert checkpoints.steps(broken) == [3, 2]


def test_empty_folder_stray_file_and_leftover(broken):
  folder = checkpoints.directory(broken)
  (folder / '7').mkdir()
  (folder / '9').touch()
  (folder / '5.orbax-checkpoint-tmp').mkdir()
  for name in ('007', '\u00b2', '\u0667', '-1', '1' * 30):
    (folder / name).mkdir()
  assert int(restore(broken).step) == 4
  assert (folder / '7.bad-incomplete').is_dir()
  # The next save goes on from there.
  mesh = make_mesh()
  store = checkpoints.Checkpoints(broken, keep=3)
  state, _ = make_state(mesh, step=6)
  store.save(state, fake_run.get_config(), mesh, 48)
  store.close()
  assert checkpoints.steps(broken) == [6, 4, 3]
  assert (folder / '007').is_dir()
  assert not list(folder.glob('*tmp'))


def test_nothing_valid_is_not_a_fresh_start(broken):
  for step in checkpoints.steps(broken):
    shutil.rmtree(checkpoints.directory(broken) / str(step) / 'state')
  for _ in range(2):  # nor at the second attempt
    with pytest.raises(errors.UserError, match='no usable') as info:
      restore(broken)
    assert info.value.code == errors.DATA
  # It may be the reader that fails: nothing is renamed.
  assert checkpoints.steps(broken) == [4, 3, 2]
  (checkpoints.directory(broken) / '4').rename(
    checkpoints.directory(broken) / '4.bad-unreadable'
  )
  for step in (3, 2):
    shutil.rmtree(checkpoints.directory(broken) / str(step))
  with pytest.raises(errors.UserError, match='only 4.bad-unreadable'):
    restore(broken)


def test_nothing_there_is(tmp_path):
  assert restore(tmp_path) is None
  (tmp_path / 'checkpoints' / '5.orbax-checkpoint-tmp').mkdir(parents=True)
  assert restore(tmp_path) is None


def test_another_network_is_refused_and_kept(broken):
  with pytest.raises(
    errors.UserError,
    match=r'params/generator/b is float32\[9\] .* float32\[64\] in the file',
  ) as info:
    restore(broken, width=9)
  assert info.value.code == errors.DATA
  assert '\n' not in str(info.value)
  assert str(info.value).count('params/') <= 5
  assert checkpoints.steps(broken) == [4, 3, 2]


def test_another_dtype_is_refused(saved):
  _, abstract = make_state(make_mesh())
  half = lambda s: jax.ShapeDtypeStruct(
    s.shape, jnp.bfloat16, sharding=s.sharding
  )
  abstract = abstract.replace(params=jax.tree.map(half, abstract.params))
  with pytest.raises(errors.UserError, match='bfloat16'):
    checkpoints.Checkpoints(saved[0], 3).restore_latest(abstract)


def test_full_disk(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  mesh = make_mesh()
  state, _ = make_state(mesh)
  store = checkpoints.Checkpoints(tmp_path, 3)
  with pytest.raises(errors.UserError, match='bytes are free') as info:
    store.save(state, fake_run.get_config(), mesh, 0)
  assert info.value.code == errors.OUTPUT


def test_unwritable_folder(tmp_path):
  (tmp_path / 'checkpoints').touch()
  mesh = make_mesh()
  state, _ = make_state(mesh)
  store = checkpoints.Checkpoints(tmp_path, 3)

  def save():
    store.save(state, fake_run.get_config(), mesh, 0)
    store.wait()

  with pytest.raises(errors.UserError, match='cannot write') as info:
    save()
  assert info.value.code == errors.OUTPUT


def abstract_weights():
  _, abstract = make_state(make_mesh())
  return {'params': abstract.params, 'extra': abstract.extra}


def test_load_prefers_the_averages(saved):
  workdir, states = saved
  weights = checkpoints.load(workdir, abstract_weights())
  want = run_state.averaged(states[4].params, states[4].ema)
  assert_equal(weights['params'], want)
  assert_equal(weights['extra'], states[4].extra)
  assert hashes.tree(want) != hashes.tree(states[4].params)
  older = checkpoints.load(workdir, abstract_weights(), step=3)
  assert_equal(older['extra'], states[3].extra)


def test_what_averages_replace_is_not_read(saved, monkeypatch):
  workdir, states = saved
  asked, restore = [], restoring.restore
  monkeypatch.setattr(
    restoring,
    'restore',
    lambda path, meta, target, partial: (
      asked.append(target) or restore(path, meta, target, partial)
    ),
  )
  checkpoints.load(workdir, abstract_weights())
  ((state, ema),) = [(t['state'], t['ema']) for t in asked]
  averages = traverse_util.flatten_dict(states[4].ema).keys()
  assert traverse_util.flatten_dict(ema).keys() == averages
  read = traverse_util.flatten_dict(state['params']).keys()
  assert averages
  assert read
  assert not read & averages


def test_load_part(saved):
  workdir, states = saved
  part = abstract_weights()['params']['critic']
  assert_equal(
    checkpoints.load_part(workdir, 'critic', part), states[4].params['critic']
  )


def test_load_changes_nothing_in_a_damaged_workdir(broken):
  shutil.rmtree(checkpoints.directory(broken) / '4' / 'state')
  before = sorted(broken.rglob('*'))
  weights = checkpoints.load(broken, abstract_weights())
  assert sorted(broken.rglob('*')) == before
  assert hashes.tree(weights['extra'])
  with pytest.raises(errors.UserError, match='damaged') as info:
    checkpoints.load(broken, abstract_weights(), step=4)
  assert info.value.code == errors.DATA


def test_load_of_what_is_not_there(saved, tmp_path):
  with pytest.raises(errors.UserError, match='there: none') as info:
    checkpoints.load(tmp_path, abstract_weights())
  assert info.value.code == errors.MISSING
  with pytest.raises(errors.UserError, match='step 9 .* there: 2, 3, 4'):
    checkpoints.load(saved[0], abstract_weights(), step=9)


def test_nothing_averaged(tmp_path):
  mesh = make_mesh()
  state, abstract = make_state(mesh, step=1)
  state, abstract = state.replace(ema={}), abstract.replace(ema={})
  store = checkpoints.Checkpoints(tmp_path, 1)
  store.save(state, fake_run.get_config(), mesh, 0)
  store.close()
  assert_equal(store.restore_latest(abstract), state)
  weights = checkpoints.load(tmp_path, {'params': abstract.params})
  assert_equal(weights['params'], state.params)


def test_other_frozen_weights_are_refused(tmp_path):
  mesh = make_mesh()
  state, abstract = make_state(mesh, step=1)
  frozen = {'first_stage': 'aa', 'clip': 'bb'}
  store = checkpoints.Checkpoints(tmp_path, 1, frozen)
  store.save(state, fake_run.get_config(), mesh, 0)
  store.close()
  again = lambda **new: checkpoints.Checkpoints(
    tmp_path, 1, frozen | new
  ).restore_latest(abstract)
  assert_equal(again(), state)
  assert_equal(again(added='cc'), state)  # what was not there is not checked
  with pytest.raises(errors.UserError, match='weights of clip are') as info:
    again(clip='cc')
  assert info.value.code == errors.DATA
  assert checkpoints.steps(tmp_path) == [1]
