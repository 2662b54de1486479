import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import system_weights


B = 2
BATCH = {
  'image': jax.random.uniform(jax.random.key(5), (B, 16, 16, 3)) * 2 - 1,
  'class': jnp.array([3, 24]),
}
SIGMA_DATA = 0.4
P_MEAN, P_STD = -0.6, 1.1


def load(variants='debug', **overrides):
  values = {
    'data__image_size': '16',
    'network__window': '4',
    'diffusion__sigma_data': str(SIGMA_DATA),
    'diffusion__P_mean': str(P_MEAN),
    'diffusion__P_std': str(P_STD),
    **overrides,
  }
  return configs.load(f'diffit_shapes.py:{variants}', **values)


class Moved:
  """A system with classes, guidance and augmentation, and its programs."""

  def __init__(self):
    config = load(diffusion__augment='0.5')
    self.system = systems.create(config)
    self.spec = spec_lib.from_config(config)
    self.weights = system_weights.weights_of(self.system)
    self._losses = jax.jit(functools.partial(losses, self.system))
    self._sample = jax.jit(self._run)
    self._apply = jax.jit(
      lambda x, noise, ids, moves: self.system.network.apply(
        {'params': self.weights.params['generator']['network']},
        x,
        noise,
        ids,
        moves,
      )
    )

  def losses(self, weights, key=0):
    with jax.default_matmul_precision('highest'):
      return self._losses(weights, jax.random.key(key))

  def sample(self, weights, initial, classes=BATCH['class']):
    with jax.default_matmul_precision('highest'):
      return np.asarray(self._sample(weights, initial, classes))

  def _run(self, weights, initial, classes):
    condition = self.system.condition(weights, {'class': classes})
    stages = self.system.stages(weights, condition, (B, 16, 16), self.spec)
    noise = sampling.Noise.recorded([initial])
    return sampling.run(stages, self.spec.make_solver(), noise)[0]

  def denoised(self, x, sigma, ids, moves=None):
    """D(x; sigma) by the paper's formulas; ids count from 0, 24 = none."""
    per = lambda v: np.reshape(v, (-1, 1, 1, 1))
    total = sigma**2 + SIGMA_DATA**2
    scaled = jnp.asarray(x / per(np.sqrt(total)), jnp.float32)
    noise = jnp.asarray(np.log(sigma) / 4, jnp.float32)
    moves = jnp.zeros((B, 9)) if moves is None else moves
    with jax.default_matmul_precision('highest'):
      out = self._apply(scaled, noise, jnp.asarray(ids), moves)
    skip = per(SIGMA_DATA**2 / total)
    scale = per(sigma * SIGMA_DATA / np.sqrt(total))
    return skip * x + scale * np.asarray(out, np.float64)


@pytest.fixture(scope='module')
def moved():
  return Moved()


INITIAL = jnp.asarray(np.random.default_rng(0).normal(size=(B, 16, 16, 3)))


def losses(system, weights, key, batch=BATCH):
  return system.losses(weights, key, jnp.int32(0), batch)[0]['generator']


def test_loss_of_the_paper_on_the_same_draws(moved):
  keys = jax.random.split(jax.random.key(1), 5)
  images, moves = jax.jit(moved.system.augment)(BATCH['image'], keys[2])
  assert moves.shape == (B, 9)
  assert np.abs(moves).max() > 0
  y = np.asarray(images, np.float64)
  sigma = np.exp(P_MEAN + P_STD * np.float64(jax.random.normal(keys[0], (B,))))
  eps = np.asarray(jax.random.normal(keys[1], y.shape))
  noisy = y + sigma.reshape(-1, 1, 1, 1) * eps
  dropped = jax.random.bernoulli(keys[3], moved.system.cond_dropout, (B,))
  ids = np.where(dropped, 24, np.array([2, 23]))
  clean = moved.denoised(noisy, sigma, ids, moves)
  weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
  want = (weight.reshape(-1, 1, 1, 1) * (clean - y) ** 2).sum() / B
  loss, metrics = moved.losses(moved.weights, key=1)
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss_mean'], want / y[0].size, rtol=1e-4)


def test_samples_are_those_of_a_plain_loop(moved):
  # Algorithm 2 without churn, guided; nothing is told of the augmentation.
  def slope(x, t):
    sigma = np.full(B, t)
    null = moved.denoised(x, sigma, [24, 24])
    cond = moved.denoised(x, sigma, [2, 23])
    return (x - (null + 2.0 * (cond - null))) / t

  grid = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 3) ** 7
  x = np.float64(INITIAL) * grid[0]
  for t, after in zip(grid, [*grid[1:], 0.0], strict=True):
    d = slope(x, t)
    ahead = x + (after - t) * d
    if after:
      ahead = x + (after - t) * 0.5 * (d + slope(ahead, after))
    x = ahead
  got = moved.sample(moved.weights, INITIAL)
  np.testing.assert_allclose(got, x, atol=2e-4 * np.abs(x).max())


def test_classes_matter_and_none_is_one_of_them(moved):
  images = [
    moved.sample(moved.weights, INITIAL, jnp.array([3, label]))
    for label in (24, 7, 0)
  ]
  for other in images[1:]:
    np.testing.assert_array_equal(images[0][0], other[0])
    assert np.abs(images[0][1] - other[1]).max() > 1e-3


def test_only_training_is_told_of_the_augmentation(moved):
  tree = moved.weights.params['generator']['network']
  kernel = {'kernel': -3 * tree['map_augment']['kernel']}
  other = moved.weights.replace(
    params={'generator': {'network': {**tree, 'map_augment': kernel}}}
  )
  np.testing.assert_array_equal(
    moved.sample(moved.weights, INITIAL), moved.sample(other, INITIAL)
  )
  values = [float(moved.losses(w)[0]) for w in (moved.weights, other)]
  assert values[0] != values[1]


@pytest.mark.parametrize(
  ('task', 'overrides'),
  [
    ('none', {'diffusion__preconditioning': 'vp', 'sample__solver': 'euler'}),
    ('none', {'diffusion__preconditioning': 've', 'sample__churn': '40'}),
    (
      'class',
      {
        'diffusion__preconditioning': 'iddpm',
        'diffusion__noise_distribution': 'edm',
      },
    ),
    (
      'class',
      {
        'sample__discretization': 'vp',
        'sample__guidance_interval': '0.2,0.8',
        'sample__steps': '6',
        'network__time_token': 'add',
      },
    ),
  ],
)
def test_every_choice_trains_and_samples(task, overrides):
  config = load(f'{task},debug', **overrides)
  system, spec = systems.create(config), spec_lib.from_config(config)
  system.check_spec(spec)
  weights = system_weights.shapes_of(system)
  key = jax.random.key(0)
  loss, _ = jax.eval_shape(functools.partial(losses, system), weights, key)
  image, state = jax.eval_shape(
    lambda weights, keys: system_lib.generate(
      system, weights, keys, BATCH, spec
    ),
    weights,
    jax.random.split(key, B),
  )
  assert loss.shape == ()
  assert image.shape == (B, 16, 16, 3)
  assert [x.shape for x in state] == [(B, 16, 16, 3)]
  assert system.network.num_classes == (24 if task == 'class' else 0)
  assert system.network.augment_dim == 0


@pytest.mark.parametrize(
  ('variants', 'preconditioning'),
  [('class,vp', 'vp'), ('none,ve', 've'), ('tmsa', 'edm')],
)
def test_networks_of_edm_train_and_sample(variants, preconditioning):
  config = configs.load(
    f'edm_shapes.py:{variants},debug',
    diffusion__preconditioning=preconditioning,
  )
  system, spec = systems.create(config), spec_lib.from_config(config)
  weights = system_weights.shapes_of(system)
  assert ('buffers' in weights.extra) == ('ve' in variants)
  batch = {'image': jnp.zeros((B, 32, 32, 3)), 'class': BATCH['class']}
  key = jax.random.key(0)
  (loss, _), extra = jax.eval_shape(
    lambda weights: (lambda found: (found[0]['generator'], found[1]))(
      system.losses(weights, key, jnp.int32(0), batch)
    ),
    weights,
  )
  assert loss.shape == ()
  assert jax.tree.structure(extra) == jax.tree.structure(weights.extra)
  image, _ = jax.eval_shape(
    lambda weights, keys: system_lib.generate(
      system, weights, keys, batch, spec
    ),
    weights,
    jax.random.split(key, B),
  )
  assert image.shape == (B, 32, 32, 3)


def test_random_frequencies_are_not_trained():
  config = configs.load('edm_shapes.py:none,ve,debug')
  system = systems.create(config)
  weights = system_weights.weights_of(system)
  batch = {'image': jnp.zeros((B, 32, 32, 3))}
  frequencies = weights.extra['buffers']['freqs']

  @jax.jit
  def losses_of(extra):
    found = weights.replace(extra=extra)
    losses, after = system.losses(found, jax.random.key(0), jnp.int32(0), batch)
    return losses['generator'][0], after

  loss, after = losses_of(weights.extra)
  np.testing.assert_array_equal(after['buffers']['freqs'], frequencies)
  other, _ = losses_of({'buffers': {'freqs': 2 * frequencies}})
  assert loss != other


def levels_of(config):
  """Returns the levels that the only stage walks."""
  system = systems.create(config)
  (stage,) = system.stages(
    system_weights.shapes_of(system),
    system.example_condition(),
    (1, 16, 16),
    spec_lib.from_config(config),
  )
  (segment,) = stage.segments
  return segment.levels


def test_settings_of_sampling_reach_the_levels_and_the_solver():
  settings = {
    'rho': 5.0,
    'sigma_min': 0.01,
    'sigma_max': 50.0,
    'churn': 40.0,
    'churn_min': 0.05,
    'churn_max': 30.0,
    'churn_noise': 1.003,
    'discretization': 've',
    'solver': 'euler',
    'steps': 5,
  }
  given = {f'sample__{name}': str(value) for name, value in settings.items()}
  config = load(**given)
  solver = spec_lib.from_config(config).make_solver()
  assert solver == solvers.create('euler', churn=40.0)
  system = systems.create(config)
  want = edm_timesteps.EdmTimesteps(
    discretization='ve',
    rho=5.0,
    sigma_min=0.01,
    sigma_max=50.0,
    churn=edm_timesteps.Churn(amount=40.0, low=0.05, high=30.0, noise=1.003),
  ).levels(system.precond, 5)
  jax.tree.map(np.testing.assert_array_equal, levels_of(config), want)
  levels = levels_of(load(sample__steps='3'))
  np.testing.assert_allclose(levels.sigma[[0, 2, 3]], [80, 0.002, 0])


def test_images_are_clipped():
  system = systems.create(load())
  image = system.decode(None, [jnp.array([-3.0, 0.5, 2.0])])
  np.testing.assert_array_equal(image, [-1.0, 0.5, 1.0])


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      {'condition__task': 'text'},
      "'text' is not served by diffit.*none, class",
    ),
    ({'condition__class_by': 'crossattn'}, "'crossattn', must be 'timestep'"),
    (
      {'condition__null_class': 'false'},
      'no null condition for .*condition.cond_dropout = 0.1, which must be 0',
    ),
    ({'data__image_size': '20'}, '20 x 20 do not fit.*multiples of 16'),
    ({'network__head_dim': '5'}, 'head_dim = 5 must divide the 16'),
    ({'network__time_token': 'none'}, "'none', allowed: tmsa, add"),
    (
      {'diffusion__preconditioning': 'iddpm'},
      "noise_distribution is '', must be one of vp, ve, edm .*'iddpm'",
    ),
  ],
)
def test_fields_that_do_not_fit_are_named(overrides, message):
  with pytest.raises(ValueError, match=message) as error:
    systems.create(load(**overrides))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'sample__eta': '1'}, 'eta is 1.0, but heun needs eta = 0'),
    ({'sample__steps': '5,5'}, 'has 2 values, must be one number'),
    ({'sample__sigma_min': '90'}, 'levels from sigma 90.0 to 80.0'),
    (
      {'sample__spacing': 'official'},
      "'official', must be one of auto, karras",
    ),
    (
      {'condition__null_class': 'false', 'condition__cond_dropout': '0'},
      'no null condition for guidance: config.sample.guidance must be 1',
    ),
  ],
)
def test_sampling_that_does_not_fit_is_named(overrides, message):
  config = load(**overrides)
  system = systems.create(config)
  with pytest.raises(ValueError, match=message) as error:
    system.check_spec(spec_lib.from_config(config))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'windows': (4, 2)}, r'windows is \(4, 2\), must be \(0, 0\) for'),
    ({'spacing': 'quad'}, "'quad', must be one of auto, karras"),
    ({'eta': 1.0}, 'eta is 1.0, but heun needs eta = 0'),
  ],
)
def test_specs_of_other_systems_are_refused(changed, message):
  config = load()
  spec = spec_lib.from_config(config).replace(**changed)
  with pytest.raises(ValueError, match=message):
    systems.create(config).check_spec(spec)


def test_solvers_of_chains_walk_the_levels_of_continuous_time():
  system = systems.create(load())
  keys = jax.random.split(jax.random.key(0), B)
  for name in ('ddim', 'dpmpp_2m'):
    spec = spec_lib.from_config(load(sample__solver=name))
    system.check_spec(spec)
    image, _ = jax.eval_shape(
      lambda weights, spec: system_lib.generate(
        system, weights, keys, BATCH, spec
      ),
      system_weights.shapes_of(system),
      spec,
    )
    assert image.shape == (B, 16, 16, 3)
