import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data.synthetic import text
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import control as ladm_control
from pyramid_jax.systems.ladm import ladm
from tests.helpers import configs
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
B, SIDE = 3, 16
BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (B, SIDE, SIDE, 3)) * 2 - 1,
  'edges': jax.random.bernoulli(jax.random.key(6), 0.2, (B, SIDE, SIDE)).astype(
    jnp.float32
  ),
}


def load(variants='none,two,control,debug', **overrides):
  values = {
    'data__image_size': str(SIDE),
    'laplacian__wavelets': '(0, 1)',
    'train__batch_size': str(B),
    'laplacian__stage_batch': '(1, 2)',
    'sample__steps': '1',
    **({'control__base': 'BASE'} if 'control' in variants else {}),
    **overrides,
  }
  return configs.load(f'ladm_shapes.py:{variants}', **values)


def weights_of(system, seed=0):
  """A base of random weights, and the branches as they begin."""
  shapes = system_weights.shapes_of(system)
  params, extra = system_weights.initial_values(system, seed)
  base = system_weights.fill(shapes.frozen[ladm_control.BASE])
  return system_lib.Weights(
    params=params, frozen={ladm_control.BASE: base}, extra=extra
  )


def sample(system, weights, batch):
  spec = spec_lib.from_config(load())

  def run(weights, batch):
    condition = system.condition(weights, batch)
    stages = system.stages(weights, condition, (B, SIDE, SIDE), spec)
    noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(0), B))
    return sampling.run(stages, spec.make_solver(), noise)[-1]

  return np.asarray(jax.jit(run)(weights, batch))


@pytest.fixture(scope='module')
def built():
  system = systems.create(load())
  return system, weights_of(system)


def moved(weights):
  """The branches after some training."""
  branches = jax.tree.map(
    lambda x: x + 0.1, weights.params['generator']['branches']
  )
  return system_lib.Weights(
    params={'generator': {'branches': branches}},
    frozen=weights.frozen,
    extra=weights.extra,
  )


@pytest.mark.turns(3)
@pytest.mark.parametrize('shared', ['True', 'False'])
def test_at_first_it_is_the_base(shared):
  system = systems.create(load(laplacian__shared=shared))
  weights = weights_of(system)
  base = systems.create(load('none,two,debug', laplacian__shared=shared))
  assert type(base) is ladm.LaDM
  own = system_lib.Weights(
    params={'generator': weights.frozen[ladm_control.BASE]},
    frozen={},
    extra=weights.extra,
  )
  want = sample(base, own, BATCH)
  np.testing.assert_array_equal(sample(system, weights, BATCH), want)
  # Trained it is something else, but not without weight.
  there = moved(weights)
  assert np.abs(sample(system, there, BATCH) - want).max() > 1e-3
  idle = systems.create(load(laplacian__shared=shared, control__weight='0.0'))
  np.testing.assert_array_equal(sample(idle, there, BATCH), want)


@pytest.mark.turns(3)
def test_the_map_matters_and_a_drawing_takes_its_place(built):
  system, weights = built
  there = moved(weights)
  one = sample(system, there, BATCH)
  other = {**BATCH, 'edges': 1.0 - BATCH['edges']}
  assert np.abs(sample(system, there, other) - one).max() > 1e-3
  drawn = {**other, 'sketch': 2.0 * BATCH['edges'] - 1.0}
  np.testing.assert_allclose(sample(system, there, drawn), one, atol=1e-5)


@pytest.mark.turns(3)
def test_only_the_branches_are_trained(built):
  system, weights = built

  def loss(params, frozen):
    key = jax.random.key(0)
    changed = system_lib.Weights(params, frozen, weights.extra)
    losses, _ = system.losses(changed, key, 0, BATCH)
    return losses['generator'][0]

  grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(
    weights.params, weights.frozen
  )
  assert all(not np.any(g) for g in jax.tree.leaves(grads[1]))
  branches = grads[0]['generator']['branches']
  for branch in branches.values():
    # What begins as zero is what moves first.
    assert np.abs(branch['zero_0']['kernel']).max() > 0
  assert set(branches) == {'shared'}


def joined(*others, **overrides):
  """A system whose run the controls of other runs join."""
  paths = [f'OTHER_{i}' for i in range(len(others))]
  config = load(control__also=','.join(paths), **overrides)
  return systems.create(config, *others)


def of_both(system, weights, other):
  """The weights of a run, and as its second control those of another."""
  frozen = {**weights.frozen, 'control_1': other.params['generator']}
  return system_lib.Weights(weights.params, frozen, weights.extra)


def by_map():
  return load(
    control__map='depth', data__maps="('mask',)", condition__map_classes='256'
  )


SEVERAL = {**BATCH, 'mask': (255 * BATCH['edges']).astype(jnp.uint8)}


@pytest.mark.turns(3)
@pytest.mark.slow
def test_two_controls_without_strength_of_one_are_the_other(built):
  system, weights = built
  alone = systems.create(by_map())
  own, theirs = moved(weights), moved(weights_of(alone, 1))
  for given, want in (
    ({'control__also_weights': '0.0'}, sample(system, own, SEVERAL)),
    ({'control__weight': '0.0'}, sample(alone, theirs, SEVERAL)),
  ):
    both = joined(by_map(), **given)
    got = sample(both, of_both(both, own, theirs), SEVERAL)
    np.testing.assert_array_equal(got, want)
  parts = both.pretrained_parts()
  assert parts['control_1'].path == 'OTHER_0'
  shapes = jax.eval_shape(parts['control_1'].init, jax.random.key(0))
  want = jax.tree.map(lambda x: x.shape, theirs.params['generator'])
  assert jax.tree.map(lambda x: x.shape, shapes) == want


class Stub:
  """A module that returns its control, or multiplies it by its weights."""

  def apply(self, variables, x, control=None, **kwargs):
    del kwargs
    params = variables['params']
    if params is None:
      return control
    return [params * control, params * x]


def test_what_controls_add_is_weighted_and_summed():
  x, maps = jnp.float32(5), [jnp.float32(2), jnp.float32(3)]
  params = {'base': None, 'branches': [jnp.float32(7), jnp.float32(11)]}

  def call(*weights):
    network = ladm_control.ControlledNetwork(
      module=Stub(),
      stage=None,
      wavelet=0,
      halvings=0,
      branches=(Stub(), Stub()),
      weights=weights,
    )
    return network.call({'params': params}, x, maps)

  assert call(0.25, 0.5) == [0.25 * 14 + 0.5 * 33, 0.25 * 35 + 0.5 * 55]
  assert call(0.0, 1.0) == [33, 55]
  assert call(0.0, 0.0) is None


def test_maps_are_pooled_to_the_stage(built):
  system, _ = built
  one = {'edges': jnp.zeros((1, SIDE, SIDE)).at[0, 3, 5].set(1.0)}
  ((fine, coarse),) = system.inputs(condition_lib.Inputs(), one).control
  assert fine.shape == (1, SIDE, SIDE, 1)
  assert coarse.shape == (1, SIDE // 2, SIDE // 2, 1)
  assert coarse[0, 1, 2, 0] == 1  # lines survive
  assert coarse.sum() == 1


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'laplacian__network': 'diffit'}, "'diffit', must be 'unet' for"),
    ({'control__map': 'lines'}, "'lines', must be one of edges, mask"),
    ({'control__map': 'inpaint'}, "must have 'inpaint_mask' for"),
  ],
)
def test_what_does_not_fit_is_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    systems.create(load(**overrides))


def test_controls_that_do_not_fit_are_refused():
  other = load('none,two,control,debug', network__model_channels='64')
  with pytest.raises(
    ValueError, match='network.model_channels is 64 in OTHER_0'
  ):
    joined(other)
  with pytest.raises(ValueError, match="'ladm', must be 'ladm_control' in OT"):
    joined(load('none,two,debug'))
  with pytest.raises(ValueError, match='train_base is True, must be False in'):
    joined(load(control__train_base='True'))
  classes = load(
    control__map='mask', data__maps="('mask',)", condition__map_classes='9'
  )
  with pytest.raises(
    ValueError, match='both depth of 256 .* and mask of 9 cla'
  ):
    joined(by_map(), classes)


@pytest.mark.turns(3)
@pytest.mark.parametrize('control', ['edges', 'depth', 'inpaint'])
def test_photographs_with_maps_can_be_trained_on(
  control, tmp_path, monkeypatch
):
  make = lambda config: text.tokenizer(config.condition.max_length)
  monkeypatch.setattr(tokenizers, 'create', make)  # no pieces of T5
  (tmp_path / 'tokenizer.json').touch()
  pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  Image.fromarray(pixels[..., 0]).save(tmp_path / 'a.map.png')
  line = json.dumps({'file': 'a.png', 'caption': 'a cat'})
  (tmp_path / 'captions.jsonl').write_text(line)
  config = config_lib.load(f'{CONFIGS}/ladm_controlnet.py:{control},debug')
  config_lib.override(
    config,
    {
      'data.root': str(tmp_path),
      'condition.vocab_file': str(tmp_path / 'tokenizer.json'),
      'control.base': 'BASE',
    },
  )
  reader = data.create(config, 'train')
  batch = reader.batch(np.zeros(B, int), np.arange(B, dtype=np.uint64))
  system = systems.create(config)
  weights = system_weights.shapes_of(system)

  def loss(weights, batch):
    return system.losses(
      weights,
      jax.random.key(0),
      jnp.zeros((), int),
      reader.finish(batch),
    )

  losses, _ = jax.eval_shape(loss, weights, mesh_lib.numeric(batch))
  assert losses['generator'][0].shape == ()


def test_shapes_of_buckets_are_refused():
  with pytest.raises(ValueError, match='buckets is 16, must be 0 for ladm_con'):
    systems.create(load(data__buckets='16'))
