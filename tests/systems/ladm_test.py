import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
B, SIDE = 3, 32
BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (B, SIDE, SIDE, 3)) * 2 - 1,
  'class': jnp.array([3, 24, 1]),
}


def keys_of(seed, count=B):
  return jax.random.split(jax.random.key(seed), count)


def load(variants='class,debug', **overrides):
  values = {
    'network__use_spatial_transformer': 'False',
    'network__grid_frequencies': '0',
    'network__pool_context': 'False',
    'condition__class_by': 'timestep',
    'train__batch_size': str(B),
    'sample__steps': '2',
    **overrides,
  }
  return configs.load(f'ladm_shapes.py:{variants}', **values)


class Built:
  """A system with random weights, and its sampler."""

  def __init__(self, **overrides):
    config = load(**overrides)
    self.system = systems.create(config)
    self.spec = spec_lib.from_config(config)
    self.system.check_spec(self.spec)
    filled = system_weights.weights_of(self.system)
    self.weights = system_lib.Weights(
      params=filled.params,
      frozen=filled.frozen,
      extra={'process': self.system.fingerprint()},
    )

  def stages(self, weights, spec=None):
    condition = self.system.condition(weights, {'class': BATCH['class']})
    shape = (B, SIDE, SIDE)
    return self.system.stages(weights, condition, shape, spec or self.spec)

  @functools.cached_property
  def sample(self):
    def run(weights, keys, edit=None, spec=None):
      spec = spec or self.spec
      stages = self.stages(weights, spec)
      if edit is not None:
        stages = self.system.edited(weights, stages, edit)
      noise = sampling.Noise.from_keys(keys)
      return sampling.run(stages, spec.make_solver(), noise)

    return jax.jit(run)


@pytest.fixture(scope='module')
def shared():
  return Built()


@pytest.fixture(scope='module')
def separate():
  return Built(laplacian__shared='False', sample__guidance='1.0')


def test_a_network_a_stage_or_one_for_all(shared, separate):
  names = shared.weights.params['generator']['networks']
  assert set(names) == {'shared'}
  names = separate.weights.params['generator']['networks']
  assert set(names) == {'stage_1', 'stage_2', 'stage_3'}
  kernel = lambda s: names[s]['input_blocks_0_0']['kernel'].shape[2]
  # Packets of level 2, 1 and 0: every stage works on the coarsest grid.
  assert [kernel(f'stage_{s}') for s in (1, 2, 3)] == [48, 12, 3]


@pytest.mark.turns(3)
def test_the_loss_is_that_of_each_stage_on_its_part(separate):
  system, weights = separate.system, separate.weights
  key = jax.random.key(0)
  losses, extra = jax.jit(lambda w: system.losses(w, key, 0, BATCH))(weights)
  total, metrics = losses['generator']
  shares = system.noise_distribution.shares(system.process)
  want = sum(
    shares[stage - 1] * metrics[f'loss_stage_{stage}'] for stage in (1, 2, 3)
  )
  np.testing.assert_allclose(total, want, rtol=1e-6)
  assert extra is weights.extra or extra.keys() == weights.extra.keys()

  # The finest stage has the last image; by the pure loss on the same draws.
  drop, _, key = jax.random.split(key, 3)
  keys = jax.random.split(jax.random.fold_in(key, 1), 3)
  clean = system.process.clean(BATCH['image'][2:], 1)
  dropped = jax.random.bernoulli(drop, system.cond_dropout, (B,))[2]
  ids = jnp.array([24 if dropped else BATCH['class'][2] - 1])
  network = system.networks.of_stage(1)
  got, _ = jax.jit(
    lambda tree: laplacian_loss.loss(
      lambda x, t: network.apply(
        {'params': tree}, x, t, condition_lib.Inputs(y=ids)
      ),
      system.precond(1),
      clean,
      system.noise_distribution.draw(keys[0], system.process, 1, 1),
      jax.random.normal(keys[1], clean.shape),
    )
  )(weights.params['generator']['networks']['stage_1'])
  np.testing.assert_allclose(got, metrics['loss_stage_1'], rtol=1e-4)


def test_stages_take_their_share_of_neighbouring_rows():
  """So the rows of a stage do not depend on the number of devices."""
  fields = {
    'train__batch_size': '16',
    'laplacian__stage_batch': '(4, 4, 8)',
    'laplacian__shared': 'False',
  }
  system = systems.create(load(**fields))
  rows = [system.rows_of_stage(jnp.arange(16), i).tolist() for i in range(3)]
  assert rows == [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 3, 6, 7, 10, 11, 14, 15],
  ]


def denoiser(system, stage):
  """Returns (weights, x, sigma) -> the clean part of a stage."""
  network = system.networks.of_stage(stage)
  inputs = condition_lib.Inputs(y=BATCH['class'] - 1)

  @jax.jit
  def denoised(weights, x, sigma):
    tree = weights.params['generator']['networks'][f'stage_{stage}']
    return system.precond(stage).denoise(
      lambda x, t: network.apply({'params': tree}, x, t[None], inputs), x, sigma
    )

  return denoised


@pytest.mark.turns(3)
def test_the_sampler_is_a_plain_loop_over_the_stages(separate):
  system, weights = separate.system, separate.weights
  sides = [SIDE // 4, SIDE // 2, SIDE]
  initial = [
    jax.random.normal(jax.random.key(i), (B, n, n, 3))
    for i, n in enumerate(sides)
  ]
  solver = separate.spec.make_solver()
  run = jax.jit(
    lambda w: sampling.run(
      separate.stages(w), solver, sampling.Noise.recorded(initial)
    )
  )
  with jax.default_matmul_precision('highest'):
    got = run(weights)
    assert [z.shape for z in got] == [(B, n, n, 6) for n in sides]
    x = 0.0
    for index, stage in enumerate((3, 2, 1)):
      sigma = laplacian_timesteps.sigmas(
        system.process, stage, 2, separate.spec.rho
      )
      if stage == 3:
        x = sigma[0] / 4 * initial[0]
      else:
        x = system.process.switched(initial[index], x, stage + 1)
      denoised = denoiser(system, stage)
      for s1, s2 in zip(sigma, sigma[1:], strict=False):
        d = denoised(weights, x, jnp.float32(s1))
        a1, a2 = (
          jnp.asarray(system.process.alphas(s)[stage - 1 :], jnp.float32)
          for s in (s1, s2)
        )
        unit = 2 ** (stage - 1)
        eps = (x - laplacian.mix(a1, d)) / (s1 / unit)
        x = laplacian.mix(a2, d) + s2 / unit * eps
      scale = np.abs(x).max()
      np.testing.assert_allclose(got[index][..., :3], x, atol=2e-4 * scale)
      np.testing.assert_allclose(got[index][..., 3:], d, atol=2e-4 * scale)


def test_every_resolution_gives_an_image(shared):
  state = shared.sample(shared.weights, keys_of(0))
  for index, side in enumerate((8, 16, 32)):
    image = shared.system.decode(shared.weights, state[: index + 1])
    assert image.shape == (B, side, side, 3)
    assert np.abs(image).max() <= 1
  # What the switch made of a scale still has it inside.
  last = shared.system.decode(shared.weights, state)
  np.testing.assert_allclose(last, np.clip(state[-1][..., :3], -1, 1))


@pytest.mark.turns(3)
def test_guidance_moves_the_clean_prediction(shared):
  def run(guidance):
    spec = shared.spec.replace(guidance=guidance)
    return shared.sample(shared.weights, keys_of(0), None, spec)[-1]

  one, two = run(None), run(shared.spec.guidance)
  assert np.abs(one - two).max() > 1e-3
  config = load(sample__guidance_parts='(0.0, 0.0, 0.0)')
  nowhere = spec_lib.from_config(config).guidance
  np.testing.assert_array_equal(nowhere.scale, [1.0, 1.0, 1.0])
  same = run(nowhere)
  np.testing.assert_allclose(same, one, atol=1e-4 * np.abs(one).max())


def test_one_program_serves_all_samples_and_scales(shared):
  before = shared.sample._cache_size()
  images = []
  for seed, scale in ((1, 2.0), (2, 2.0), (2, 3.0)):
    spec = shared.spec.replace(guidance=classifier_free.Guidance(scale))
    sampled = shared.sample(shared.weights, keys_of(seed), None, spec)
    images.append(sampled[-1])
  assert shared.sample._cache_size() - before <= 1
  assert np.abs(images[1] - images[0]).max() > 1e-3
  assert np.abs(images[2] - images[1]).max() > 1e-3


@pytest.mark.turns(3)
def test_starting_from_an_image(shared):
  edit = lambda strength, mask=None: system_lib.Edit(
    BATCH['image'], mask, strength
  )
  key = keys_of(0)
  near = shared.sample(shared.weights, key, edit(1 / 7))
  assert len(near) == 1  # the last step, in the finest stage
  half = shared.sample(shared.weights, key, edit(0.6))
  assert [z.shape[1] for z in half] == [16, 32]
  image = shared.system.decode(shared.weights, half)
  assert image.shape == (B, SIDE, SIDE, 3)
  mask = jnp.zeros((B, SIDE, SIDE)).at[:, :16].set(1)
  kept = shared.sample(shared.weights, key, edit(1.0, mask))
  assert [z.shape[1] for z in kept] == [8, 16, 32]
  # The state is the picture's at the last level before the end.
  free = shared.sample(shared.weights, key)
  known = shared.system.decode(shared.weights, kept)[:, 20:]
  other = shared.system.decode(shared.weights, free)[:, 20:]
  error = lambda x: np.square(x - BATCH['image'][:, 20:]).mean()
  assert error(known) < error(other)


def test_an_image_is_noised_to_where_the_steps_begin(shared):
  stages = shared.stages(shared.weights)
  edit = system_lib.Edit(BATCH['image'], None, 0.6)
  first = shared.system.edited(shared.weights, stages, edit)[0]
  ones = lambda shape: jnp.ones(shape)
  x, _ = jax.jit(lambda: first.enter([], ones))()
  process = shared.system.process
  # Four of seven steps: three of the finest stage and the last before it.
  sigma = laplacian_timesteps.sigmas(process, 2, 2, shared.spec.rho)[1]
  clean = process.clean(BATCH['image'], 2)
  want = process.noised(clean, jnp.ones_like(clean), jnp.float32(sigma), 2)
  np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


def test_the_process_can_be_saved_whatever_the_levels():
  system = systems.create(load('class,one,debug', train__batch_size='3'))
  leaves = jax.tree.leaves(system.fingerprint())
  assert all(leaf.size for leaf in leaves)  # empty arrays cannot be saved


def test_weights_of_another_process_are_refused(shared):
  shared.system.check_extra(shared.weights.extra)
  other = systems.create(load(laplacian__schedule='linear'))
  with pytest.raises(ValueError, match='schedule is 1, the weights .* with 0'):
    other.check_extra(shared.weights.extra)
  other = systems.create(load(laplacian__band_rms='(0.05, 0.077, 0.31)'))
  with pytest.raises(ValueError, match='band_rms is'):
    other.check_extra(shared.weights.extra)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'data__image_size': '34'}, 'image_size is 34, must be a multiple of 4'),
    ({'laplacian__switch_sigmas': '(2.0, 1.0)'}, 'must rise from above'),
    ({'laplacian__band_rms': '(0.1, 0.2)'}, 'must be 3 numbers for 3 levels'),
    ({'laplacian__preconditioning': 'both'}, 'must be one of scalar, band'),
    ({'laplacian__stage_batch': '(1, 1, 2)'}, 'that sum to 3, the batch'),
    ({'laplacian__wavelets': '(0, 1)'}, 'must be one number or 3'),
    (
      {'laplacian__schedule': 'hard', 'condition__also': 'superres'},
      "is 'hard', must be another with a low-resolution image",
    ),
    (
      {'laplacian__latent': 'True', 'condition__also': 'superres'},
      'latent is True, must be False with a low-resolution image',
    ),
  ],
)
def test_what_does_not_fit_is_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    systems.create(load(**overrides))


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'sample__steps': '(2, 2)'}, 'steps has 2 values, .* one number or 3'),
    ({'sample__solver': 'plms'}, "'plms', must be one of ddim, .* for ladm"),
    ({'sample__solver': 'unipc'}, "'unipc', must be one of ddim, .* for ladm"),
    (
      {'laplacian__schedule': 'vp', 'sample__solver': 'heun'},
      'an infinite slope',
    ),
    ({'sample__churn': '5.0'}, 'churn is 5.0, but ddim needs churn = 0'),
    (
      {'sample__temperature': '0.9', 'sample__solver': 'euler'},
      'temperature is 0.9, but euler adds no noise',
    ),
    (
      {'sample__spacing': 'official'},
      "'official', must be one of auto, karras",
    ),
    (
      {'condition__null_class': 'False', 'condition__cond_dropout': '0'},
      'no null condition for guidance: config.sample.guidance must be 1',
    ),
  ],
)
def test_sampling_that_does_not_fit_is_named(overrides, message):
  config = load(**overrides)
  system = systems.create(config)
  with pytest.raises(ValueError, match=message):
    system.check_spec(spec_lib.from_config(config))


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'windows': (4, 2)}, r'windows is \(4, 2\), must be \(0, 0\) for'),
  ],
)
def test_specs_of_other_systems_are_refused(changed, message):
  config = load()
  spec = spec_lib.from_config(config).replace(**changed)
  with pytest.raises(ValueError, match=message):
    systems.create(config).check_spec(spec)


@functools.cache
def enlarging():
  """Returns an untrained system whose networks say nothing."""
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:superres4,debug')
  system = systems.create(config)
  params, extra = system_weights.initial_values(system)
  return system, system_lib.Weights(params=params, frozen={}, extra=extra)


@pytest.mark.turns(3)
def test_the_small_picture_is_handed_on_without_a_network():
  system, weights = enlarging()
  small = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3)) - 0.5
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:superres4,debug')
  spec = dataclasses.replace(spec_lib.from_config(config), steps=(8,))
  images, _ = jax.jit(
    lambda keys: system_lib.generate(
      system, weights, keys, {'lr_image': small}, spec
    )
  )(keys_of(2, 4))
  rest = images - low_resolution.enlarged(small, 4)
  measured = [
    float(jnp.sqrt(jnp.square(x).mean())) for x in laplacian.bands(rest, 3)
  ]
  noise = system.encoder.sampling**2 * low_resolution.noise_powers(4, 3)
  # Noise of the small picture, and what it leaves open.
  known = np.sqrt(np.square(system.process.band_rms) + 2 * noise)
  # A deterministic sampler of few steps loses some of the power.
  assert (0.5 * known < measured).all()
  assert (measured < 1.1 * known).all()


@pytest.mark.turns(3)
def test_training_asks_for_what_the_small_picture_leaves_open():
  system, weights = enlarging()
  small = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3)) - 0.5
  batch = {'image': low_resolution.enlarged(small, 4), 'lr_image': small}

  @jax.jit
  def loss(image):
    return system.losses(
      weights,
      jax.random.key(3),
      jnp.zeros((), int),
      {**batch, 'image': image},
    )[0]['generator'][0]

  known, other = loss(batch['image']), loss(batch['image'] + 0.3)
  assert known < 2 < 10 < other


@pytest.mark.parametrize('solver', ['heun', 'euler', 'dpmpp_2m'])
def test_other_solvers_go_band_by_band(separate, solver):
  # On Gaussian data they are tested in closed form; here that they are wired.
  spec = dataclasses.replace(separate.spec, solver=solver)
  separate.system.check_spec(spec)
  bands = []

  def run(weights, keys):
    stages = separate.stages(weights, spec)
    levels = [segment.levels for s in stages for segment in s.segments]
    bands.extend(each.alpha.shape[-1] for each in levels)
    assert all(each.has_bands for each in levels)
    noise = sampling.Noise.from_keys(keys)
    return sampling.run(stages, spec.make_solver(), noise)

  state = jax.eval_shape(run, separate.weights, keys_of(0))
  assert bands == [1, 2, 3]
  assert [x.shape[1] for x in state] == [8, 16, 32]


@pytest.mark.turns(3)
def test_networks_are_told_the_shape_of_buckets(shared):
  built = Built(data__buckets='8', sample__steps='1', sample__guidance='1.0')
  own = built.weights.params['generator']['networks']['shared']
  plain = shared.weights.params['generator']['networks']['shared']
  assert set(own) - set(plain) == {
    f'{side}_embed_{layer}' for side in ('height', 'width') for layer in (0, 2)
  }
  system, shape = built.system, (24, 40)

  def loss(weights, image, aspect):
    batch = {**BATCH, 'image': image, 'aspect': aspect}
    losses, _ = system.losses(weights, jax.random.key(0), 0, batch)
    return losses['generator'][0]

  image = jax.random.uniform(jax.random.key(5), (B, *shape, 3)) * 2 - 1
  aspect = jnp.log(jnp.tile(jnp.array(shape) / SIDE, (B, 1)))
  run = jax.jit(loss)
  one, other = (run(built.weights, image, a) for a in (aspect, 0 * aspect))
  assert jnp.abs(one - other) > 1e-4
  # Sampling tells the shape that it makes.
  nothing = condition_lib.Inputs()
  told = system.shaped(nothing, (B, *shape)).aspect
  np.testing.assert_allclose(told, aspect, rtol=1e-6)
  np.testing.assert_array_equal(
    system.inputs(nothing, BATCH).aspect, 0 * aspect
  )
  made, state = jax.jit(
    lambda w: system_lib.generate(
      system,
      w,
      keys_of(0),
      BATCH,
      built.spec,
      extent=system_lib.Extent(shape=shape),
    )
  )(built.weights)
  assert made.shape == (B, *shape, 3)
  np.testing.assert_array_equal(made, np.clip(state[-1][..., :3], -1, 1))
  early = jax.eval_shape(system.decode, built.weights, state[:2])
  assert early.shape == (B, 12, 20, 3)
  for bad in ((26, 40), (64, 32), (16, 32)):
    with pytest.raises(ValueError, match=f'{bad[0]} x {bad[1]} px must have'):
      system.check_shape(bad)
  with pytest.raises(ValueError, match='buckets is 6, must be a multiple of 4'):
    Built(data__buckets='6')
