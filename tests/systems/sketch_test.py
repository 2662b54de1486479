import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.guidance import sketch as sketch_guidance
from pyramid_jax.diffusion.levels import row
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
BASES = {
  'ldm': 'ldm_shapes.py:text,debug',
  'frido': 'frido_shapes.py:text,debug',
  'diffit': 'diffit_latent_shapes.py:class,debug',
  'ladm': 'ladm_shapes.py:text,debug',
  'lapdit': 'ladm_latent_shapes.py:class,debug',
}
PICTURES = 'diffit_shapes.py:class,debug'  # a base on pictures, without chain
B = 2
KEYS = jax.random.split(jax.random.key(7), B)


def edges(size):
  """A square and a cross, (B, H, W) in [0, 1]."""
  e = np.zeros((B, size, size), np.float32)
  a, b = size // 4, 3 * size // 4
  e[0, a, a:b] = e[0, b, a:b] = e[0, a:b, a] = e[0, a:b, b] = 1
  e[1, size // 2] = e[1, :, size // 2] = 1
  return jnp.asarray(e)


def batch_of(size):
  image = jax.random.uniform(jax.random.key(5), (B, size, size, 3)) * 2 - 1
  return {
    'image': image,
    'edges': edges(size),
    'condition_ids': jnp.tile(jnp.arange(40) % 9, (B, 1)),
    'class': jnp.array([3, 24]),
  }


@pytest.fixture
def load(tmp_path):
  """Returns (base, **overrides) -> the config of a predictor on it."""

  def make(base='ldm', variants='', **overrides):
    base_config = config_lib.load(f'{CONFIGS}/{BASES[base]}')
    (tmp_path / 'config.json').write_text(config_lib.to_json(base_config))
    config = config_lib.load(f'{CONFIGS}/sketch_shapes.py:{base},debug')
    values = {'sketch.base': str(tmp_path), 'sketch.target_space': 'pixels'}
    values |= {k.replace('__', '.'): v for k, v in overrides.items()}
    config_lib.override(config, values)
    config_lib.validate(config)
    return config

  return make


CREATED = {}


def create(config):
  """Builds a system, once for all tests of the same config and base."""
  base = pathlib.Path(config.sketch.base)
  text = config_lib.to_json(config).replace(str(base), 'BASE')
  key = (text, (base / 'config.json').read_text())
  if key not in CREATED:
    CREATED[key] = workdir_lib.create_system(config)
  return CREATED[key]


def weights_of(system):
  """Random weights whose running statistics are those of a fresh start."""
  weights = system_weights.weights_of(system)
  statistics = system_weights.initial_extra(system)
  return dataclasses.replace(weights, extra=statistics)


@pytest.mark.turns(3)
@pytest.mark.parametrize('base', sorted(BASES))
def test_every_base_trains_and_samples(load, base):
  config = load(base)
  system, spec = create(config), spec_lib.from_config(config)
  system.check_spec(spec)
  weights = system_weights.shapes_of(system)
  batch = jax.eval_shape(lambda: batch_of(system.image_size))
  results, extra = jax.eval_shape(
    lambda w, b: system.losses(w, jax.random.key(0), jnp.int32(0), b),
    weights,
    batch,
  )
  loss, metrics = results['generator']
  assert loss.shape == ()
  assert {f'loss_stage_{s}' for s in range(len(system.shapes))} < set(metrics)
  same = jax.tree.map(lambda a, b: a.shape == b.shape, extra, weights.extra)
  assert all(jax.tree.leaves(same))
  image, _ = jax.eval_shape(
    lambda w, b: system_lib.generate(system, w, KEYS, b, spec),
    weights,
    batch,
  )
  assert image.shape == (B, system.image_size, system.image_size, 3)


@pytest.mark.parametrize('space', ['latent', 'pixels'])
def test_targets_and_back(load, space):
  system = create(load(sketch__target_space=space))
  weights = system.base_weights(weights_of(system).frozen)
  wanted = 2 * edges(32) - 1
  (target,) = system.targets.of_edges(weights, wanted)
  assert target.shape == (B, 8, 8, {'latent': 4, 'pixels': 16}[space])
  back = system.targets.to_edges(weights, [target])
  assert back.shape == wanted.shape
  if space == 'pixels':
    np.testing.assert_array_equal(back, wanted)
  else:  # what the first stage makes of three equal channels
    picture = jnp.repeat(wanted[..., None], 3, axis=-1)
    (z,) = system.base.states(weights, picture)
    np.testing.assert_array_equal(target, z)


def test_pixel_systems_keep_thin_lines(load):
  system = create(load('ladm'))
  targets = system.targets.of_edges(None, 2 * edges(system.image_size) - 1)
  size = system.image_size
  for target, shape in zip(targets, system.shapes, strict=True):
    assert target.shape == (B, *shape.state[1:3], 1)
    cell = size // target.shape[1]
    whole = np.asarray(edges(size)).reshape(B, size // cell, cell, -1, cell)
    np.testing.assert_array_equal(target[..., 0] > 0, whole.max((2, 4)) > 0)


@pytest.mark.turns(3)
def test_the_predictor_learns_eight_pictures_by_heart(load):
  system = create(load(sketch__hidden='256,128'))
  weights = weights_of(system)
  rng = np.random.default_rng(0)
  frames = np.zeros((8, 32, 32), np.float32)
  for frame in frames:
    (a, b), (c, d) = rng.integers(2, 12, 2), rng.integers(16, 30, 2)
    frame[a, b:d] = frame[c, b:d] = frame[a:c, b] = frame[a:c, d] = 1
  batch = {
    'image': jnp.asarray(rng.uniform(-1, 1, (8, 32, 32, 3)), jnp.float32),
    'edges': jnp.asarray(frames),
    'condition_ids': jnp.tile(jnp.arange(40) % 9, (8, 1)),
  }
  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(frozen, params, extra, moments):
    def value(params):
      # One noise and one level, as often as it takes.
      weights = system_lib.Weights(params, frozen, extra)
      results, new = system.losses(
        weights, jax.random.key(1), jnp.int32(0), batch
      )
      return results['generator'][0], new

    (loss, new), grads = jax.value_and_grad(value, has_aux=True)(params)
    updates, moments = optimizer.update(grads, moments)
    return optax.apply_updates(params, updates), new, moments, loss

  params, extra = system_weights.initial_values(system, seed=2)
  moments = optimizer.init(params)
  losses = []
  for _ in range(80):
    params, extra, moments, loss = step(weights.frozen, params, extra, moments)
    losses.append(float(loss))
  assert losses[-1] < 0.05 * losses[0]
  assert (np.asarray(extra['loss_by_part']) >= 0).all()


def test_previews_are_edge_maps(load):
  system = create(load())
  weights = system_weights.shapes_of(system)
  shown = jax.eval_shape(
    lambda w, b: system.preview(w, KEYS[0], b),
    weights,
    jax.eval_shape(lambda: batch_of(32)),
  )
  assert shown.shape == (B, 32, 32, 3)
  errors, edges = jax.eval_shape(
    lambda w, b: system.predicted(w, jax.random.key(0), b, jnp.zeros(B)),
    weights,
    jax.eval_shape(lambda: batch_of(32)),
  )
  assert (errors.shape, edges.shape) == ((B,), (B, 32, 32))


def test_pictures_may_be_the_base(load, tmp_path):
  config = load('diffit', sketch__features='down0_0,down1_0,up0_0')
  base = config_lib.load(f'{CONFIGS}/{PICTURES}')
  (tmp_path / 'config.json').write_text(config_lib.to_json(base))
  config.sample = base.sample
  with config.unlocked():
    config.condition = base.condition
    config.data.image_size = base.data.image_size
  system, spec = create(config), spec_lib.from_config(config)
  system.check_spec(spec)
  size = system.image_size
  assert system.shapes[0].state == (1, size, size, 3)
  weights = system_weights.shapes_of(system)
  batch = jax.eval_shape(lambda: batch_of(size))
  image, _ = jax.eval_shape(
    lambda w, b: system_lib.generate(system, w, KEYS, b, spec),
    weights,
    batch,
  )
  assert image.shape == (B, size, size, 3)
  results, _ = jax.eval_shape(
    lambda w, b: system.losses(w, jax.random.key(0), jnp.int32(0), b),
    weights,
    batch,
  )
  assert results['generator'][0].shape == ()


def sampler(system, spec):
  """Returns (weights, batch) -> the finished state of a sampling run."""
  return jax.jit(lambda w, b: system_lib.generate(system, w, KEYS, b, spec)[1])


@pytest.mark.turns(3)
@pytest.mark.slow
def test_sampling_is_steered_by_the_sketch(load):
  config = load()
  system, spec = create(config), spec_lib.from_config(config)
  weights, batch = weights_of(system), batch_of(32)
  base = system.base_weights(weights.frozen)
  want = sampler(system.base, spec)(base, batch)
  run = sampler(system, spec)
  still = run(weights, batch | {'sketch_beta': jnp.zeros((B, 1))})
  scale = np.abs(want[0]).max()
  np.testing.assert_allclose(still[0], want[0], atol=1e-5 * scale)
  beta = jnp.array([[0.0], [1.6]])  # of each picture
  moved = run(weights, batch | {'sketch_beta': beta})
  np.testing.assert_allclose(moved[0][0], want[0][0], atol=1e-5 * scale)
  assert np.abs(moved[0][1] - want[0][1]).max() > 1e-2 * scale
  drawn = batch | {'sketch': 2 * batch['edges'][::-1] - 1, 'sketch_beta': beta}
  other = run(weights, drawn)
  assert np.abs(moved[0][1] - other[0][1]).max() > 1e-3 * scale


def first_gradient(monkeypatch, system, spec, weights, batch, dtype):
  """Returns x, the loss as a function of it, and the gradient of a step."""
  condition = system.condition(weights, batch)
  shape = (B, 32, 32)
  plain, *_ = system.stages(weights, condition, shape, spec)
  (stage,) = system.guided(weights, condition, [plain])
  levels = jax.tree.map(
    lambda a: jnp.asarray(a, dtype), stage.segments[0].levels
  )
  level, ahead = row(levels, 1), row(levels, 2)
  x = jax.random.normal(jax.random.key(3), (B, 8, 8, 4), dtype)
  _, context = stage.enter([], lambda shape: x)

  variables = {
    'params': weights.params['generator'],
    'batch_stats': weights.extra['batch_stats'],
  }
  loss = system._loss(variables, 0, condition.guide['targets'][0])
  unguided = spec.replace(guidance=None)
  (alone,) = system.stages(weights, condition, shape, unguided)
  _, of_alone = alone.enter([], lambda shape: x)
  initial = x

  def value(x):
    (segment,) = alone.segments
    found = segment.denoise(x, level, of_alone, True, features=system.features)
    return loss(found, level, initial).sum()

  gradients = []

  def seen(gradient, step, beta):
    del beta
    gradients.append(gradient)
    return jnp.zeros_like(step)

  monkeypatch.setattr(sketch_guidance, 'correction', seen)
  segment = stage.segments[0]
  solver = solvers.create('ddim')
  step = solver.step
  for around in segment.around:
    step = around(step, context)
  inputs = solvers.base.StepInputs(
    lambda x, level, first: segment.denoise(x, level, context, first),
    level,
    ahead,
    lambda: jnp.zeros_like(x),
  )
  step(solver.start(x, levels), inputs)
  (gradient,) = gradients
  return x, value, gradient


@pytest.mark.turns(3)
@pytest.mark.slow
def test_the_gradient_through_the_network_is_that_of_differences(
  load, monkeypatch
):
  with jax.enable_x64(True):
    config = load()
    system = create(config)
    wide = dataclasses.replace(system.base.unet, dtype=jnp.float64)
    base = dataclasses.replace(system.base, unet=wide)
    system = dataclasses.replace(system, base=base)
    guidance = classifier_free.Guidance(2.0)
    spec = spec_lib.from_config(config).replace(guidance=guidance)
    weights = jax.tree.map(lambda a: a.astype(jnp.float64), weights_of(system))
    batch = batch_of(32)

    @jax.jit
    def both(weights, h):
      x, value, gradient = first_gradient(
        monkeypatch, system, spec, weights, batch, jnp.float64
      )
      d = jax.random.normal(jax.random.key(4), x.shape, jnp.float64)
      difference = (value(x + h * d) - value(x - h * d)) / (2 * h)
      return (gradient * d).sum(), difference, gradient

    got, want, gradient = both(weights, 1e-5)
    assert gradient.dtype == jnp.float64
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradient(load, monkeypatch):
  gradients = []
  for remat in ('none', 'full'):
    config = load(remat=remat)
    system, spec = (
      create(config),
      spec_lib.from_config(config),
    )
    assert system.base.unet.remat == remat
    weights, batch = weights_of(system), batch_of(32)

    def run(weights, batch, system=system, spec=spec):
      return first_gradient(
        monkeypatch, system, spec, weights, batch, jnp.float32
      )[2]

    gradients.append(jax.jit(run)(weights, batch))
  scale = np.abs(gradients[0]).max()
  np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5 * scale)


def test_wrong_configs_are_named(load, tmp_path):
  for overrides, message in (
    (
      {'sketch__features': 'in1,in9'},
      r"feature 'in9' is not one of .*: in0, in1",
    ),
    ({'sketch__base': ''}, 'config.sketch.base is not set'),
    ({'condition__max_length': '39'}, 'max_length is 39, must be 40 as in'),
  ):
    with pytest.raises(ValueError, match=message):
      workdir_lib.create_system(load(**overrides))
  with pytest.raises(errors.UserError, match='nowhere/config.json'):
    workdir_lib.create_system(load(sketch__base=f'{tmp_path}/nowhere'))


def test_windows_are_refused(load):
  config = load(sample__windows='4,2')
  system = create(config)
  message = r'windows is \(4, 2\), must be \(0, 0\) with'
  with pytest.raises(ValueError, match=message):
    system.check_spec(spec_lib.from_config(config))


def test_what_the_base_refuses_is_refused(load):
  config = load('ladm', sample__solver='plms')
  system = create(config)
  with pytest.raises(ValueError, match="'plms', must be one of .* for ladm"):
    system.check_spec(spec_lib.from_config(config))


@pytest.mark.turns(3)
@pytest.mark.parametrize(('base', 'strength'), [('ldm', 0.5), ('ladm', 0.16)])
def test_a_sketch_guides_the_steps_that_an_image_leaves(load, base, strength):
  config = load(base, sketch__stop_fraction='0.5', sample__steps='4')
  system, spec = create(config), spec_lib.from_config(config)
  assert set(system.stop_fraction) == {0.5}
  weights, batch = weights_of(system), batch_of(system.image_size)

  @jax.jit
  def sample(weights, beta, edit):
    given = batch | {'sketch_beta': beta}
    return system_lib.generate(system, weights, KEYS, given, spec, edit)[1]

  beta = jnp.zeros((B, system.stage_count)).at[1].set(1.6)
  # Two steps are left, and the first half of all steps is none of them.
  edit = system_lib.Edit(batch['image'], strength=strength)
  (still,) = sample(weights, 0 * beta, edit)
  (moved,) = sample(weights, beta, edit)
  scale = np.abs(still).max()
  np.testing.assert_allclose(moved[0], still[0], atol=1e-5 * scale)
  assert np.abs(moved[1] - still[1]).max() > 1e-2 * scale


def test_edges_are_those_of_the_data_or_of_a_detector(load):
  system = create(load())
  with pytest.raises(ValueError, match="config.data.maps = 'edges'"):
    system.target_edges({}, {'image': jnp.zeros((1, 4, 4, 3))})
  half = jnp.ones((1, 16, 16, 3)).at[:, :, 8:].set(-1.0)
  found = create(load(sketch__edges='sobel')).target_edges({}, {'image': half})
  assert (np.asarray(found[0, 4:12]) > 0).any(0).nonzero()[0].tolist() in (
    [7],
    [8],
    [7, 8],
  )
  by_map = create(load(sketch__edges='map'))
  classes = by_map.source.classes
  mask = jnp.array([[[0, classes - 1]]], jnp.uint8)
  got = by_map.target_edges({}, {'mask': mask, 'image': half})
  np.testing.assert_allclose(got, [[[-1.0, 1.0]]])
  drawn = jnp.ones((1, 2, 2))
  assert by_map.target_edges({}, {'sketch': drawn, 'mask': mask}) is drawn


@pytest.mark.parametrize('weights', ['', 'pidinet.pth'])
def test_without_weights_of_pidinet_edges_are_sobels(load, weights):
  values = {'sketch__edges': 'auto', 'sketch__edge_weights': weights}
  source = create(load(**values)).source
  assert source.kind == ('pidinet' if weights else 'sobel')
  paths = [part.path for part in source.pretrained_parts().values()]
  assert paths == [weights] * bool(weights)


def test_a_network_may_be_the_detector(load):
  config = load(sketch__edges='pidinet-tiny', sketch__edge_weights='tiny.pth')
  system = create(config)
  part = system.pretrained_parts()['edges']
  assert (part.family, part.path) == ('pidinet', 'tiny.pth')
  shapes = jax.eval_shape(part.init, jax.random.key(0))
  found = jax.eval_shape(
    lambda tree, image: system.target_edges({'edges': tree}, {'image': image}),
    shapes,
    jax.ShapeDtypeStruct((B, 32, 32, 3), jnp.float32),
  )
  assert found.shape == (B, 32, 32)
