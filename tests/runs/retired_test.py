"""Arrays of older versions: left out of what is restored, and hashed."""

import logging

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import pretrained as parts
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import compact
from pyramid_jax.runs import hashes
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import retired
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import fake_run


HEAD = ('generator', 'condition', 'to_logits')


def params(*others):
  """Returns the parameters of a run, with those of other paths."""
  shapes = {
    ('generator', 'condition', 'token_emb', 'embedding'): (6, 8),
    ('generator', 'unet', 'kernel'): (8, 8),
    **dict(others),
  }
  rng = np.random.default_rng(0)
  leaves = {k: jnp.float32(rng.normal(size=s)) for k, s in shapes.items()}
  return traverse_util.unflatten_dict(leaves)


OLD = [((*HEAD, 'kernel'), (8, 6)), ((*HEAD, 'bias'), (6,))]


def state(trees):
  """Returns the state of a run, with averages and moments."""
  moments = optax.adamw(1e-3).init(trees['generator'])
  return state_lib.TrainState(
    step=jnp.int32(3),
    params=trees,
    ema=jax.tree.map(lambda x: x + 1, trees),
    opt_state={'generator': moments},
    extra={'scale': jnp.ones(1)},
  )


def mesh():
  return mesh_lib.create(fake_run.get_config().mesh)


def saved(folder, trees):
  store = checkpoints.Checkpoints(folder, 1)
  store.save(state(trees), fake_run.get_config(), mesh(), 0)
  store.close()
  return folder


@pytest.fixture(scope='module')
def old(tmp_path_factory):
  return saved(tmp_path_factory.mktemp('old'), params(*OLD))


def abstract(tree):
  return sharding.abstract(tree, mesh(), 2**10)


def test_a_run_goes_on_without_them(old, caplog):
  caplog.set_level(logging.INFO)
  wanted = state(params())
  found = checkpoints.Checkpoints(old, 1).restore_latest(abstract(wanted))
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for name, leaf in sharding.leaves(found).items():
    assert leaf.shape == sharding.leaves(wanted)[name].shape
  old_leaves = sharding.leaves(state(params(*OLD)))
  for name, value in sharding.leaves(found).items():
    np.testing.assert_array_equal(value, old_leaves[name], err_msg=name)
  lines = [x for x in caplog.messages if 'left out' in x]
  # Two of the parameters, of the averages and of each moment.
  assert len(lines) == 1
  assert f'{old}/checkpoints/3: 8 arrays of a head' in lines[0]


def test_other_arrays_are_still_refused(tmp_path):
  other = ('generator', 'unet', 'bias'), (8,)
  folder = saved(tmp_path, params(*OLD, other))
  with pytest.raises(errors.UserError) as caught:
    checkpoints.Checkpoints(folder, 1).restore_latest(abstract(state(params())))
  assert 'unet/bias is absent in the config' in str(caught.value)
  assert 'to_logits' not in str(caught.value)


@pytest.mark.parametrize('kind', ['checkpoints', 'one file'])
def test_a_part_is_known_by_its_hash(old, tmp_path, kind):
  folder = old
  averages = jax.tree.map(lambda x: x + 1, params(*OLD))
  if kind == 'one file':
    folder = tmp_path
    trees = {'params': averages, 'extra': {}, 'step': np.int32(3)}
    config = fake_run.get_config()
    compact.write(folder, config, trees, dtype='float32')
    workdir_lib.write_record(folder, config, (), [compact.FILE])
  wanted = abstract(params()['generator'])
  found = checkpoints.load_part(folder, 'generator', wanted)
  assert hashes.digest(found) == hashes.digest(averages['generator'])

  part = parts.PretrainedPart(
    init=lambda key: params()['generator'], family='', is_denoiser=True
  )

  class System:
    def pretrained_parts(self):
      return {'base': part}

  used = pretrained.in_use(System(), {'base': found})['base']
  assert jax.tree.structure(used) == jax.tree.structure(wanted)


def test_what_has_none_stays(old):
  trees = {'extra': {'scale': jax.ShapeDtypeStruct((1,), jnp.float32)}}
  assert (
    retired.added(trees, {'params/a/to_logits/bias': ((6,), 'f4')}) == trees
  )
