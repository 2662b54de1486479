"""The operations of a training step of every system."""

import jax
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax.distributed import flops
from pyramid_jax.networks.layers import remat as remat_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import model_flops
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import step as step_lib
from tests.helpers import configs
from tests.helpers import fake_run
from tests.helpers import system_weights


def parts(config):
  """Returns the arguments of `of_step`, arrays as shapes."""
  system, reader = workdir_lib.create_system(config), data.create(config, 'val')
  batch = setup_lib.batches(config, reader).at(0)
  batch = {k: v for k, v in batch.items() if v.dtype.kind in 'biuf'}
  frozen = system_weights.shapes_of(system).frozen
  state = jax.eval_shape(lambda: step_lib.create(system, config))
  return system, config, reader.finish, state, frozen, batch


@pytest.mark.parametrize('accumulate', [1, 2])
def test_counts_by_hand(accumulate, monkeypatch):
  fake_run.install(monkeypatch.setattr)
  config = fake_run.config(train__accumulate=accumulate)
  # For an example: x w (8 x 8), with a gradient by w alone, and two products
  # with v, each with one gradient: by what was made, and by v.
  macs = 2 * 8 * 8 + 2 * 8 + 2 * 8
  assert model_flops.of_step(*parts(config)) == 2 * 8 * macs


def test_a_frozen_first_stage_counts_once(monkeypatch):
  fake_run.install(monkeypatch.setattr)
  plain = model_flops.of_step(*parts(fake_run.config()))
  two = model_flops.of_step(*parts(fake_run.config('two')))
  # x first (8 x 8) ones (8 x 8)
  assert two - plain == 2 * 8 * (8 * 8 + 8 * 8)


SYSTEMS = [
  'ldm_autoencoder_shapes.py:vq,debug',
  'ladm_latent_shapes.py:class,debug',
]
MORE = [
  'diffit_shapes.py:debug',
  'diffit_latent_shapes.py:debug',
  'flow_shapes.py:debug',
  'frido_shapes.py:text,debug',
  'ladm_shapes.py:text,debug',
  'ldm_autoencoder_shapes.py:kl,debug',
  'ldm_shapes.py:class,debug',
  'msvqgan_shapes.py:debug',
]


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  'name',
  [*SYSTEMS, *(pytest.param(x, marks=pytest.mark.slow) for x in MORE)],
)
def test_the_step_of_a_system_counts_as_its_gradients(name):
  system, config, finish, state, frozen, batch = parts(configs.load(name))
  losses = step_lib.losses_of(system)

  def gradients(params, frozen, extra, step, batch):
    inputs = frozen, extra, system_lib.key_of(0), step, finish(batch)
    return step_lib.gradients(lambda p: losses(p, *inputs), params)

  found = model_flops.of_step(system, config, finish, state, frozen, batch)
  want = flops.count(
    gradients, state.params, frozen, state.extra, state.step, batch
  )
  # The gradient of a convolution also multiplies the zeros around an image.
  np.testing.assert_allclose(found, want, rtol=0.02)
  assert found <= want


def test_what_is_computed_again_does_not_count():
  found = [
    model_flops.of_step(
      *parts(configs.load('diffit_latent_shapes.py:debug', remat=remat))
    )
    for remat in remat_lib.POLICIES
  ]
  assert len(set(found)) == 1
  assert found[0] > 0
