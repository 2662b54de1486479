import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import row
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.diffit import latent as latent_diffit
from tests.helpers import configs
from tests.helpers import system_weights
from tests.parity import verify


IMAGENET, SHAPES = 'diffit_imagenet.py:debug', 'diffit_latent_shapes.py:debug'
CHAIN = schedules.make_chain('linear', 1000, 1e-4, 0.02)
B, SIDE = 3, 4  # of the latents of IMAGENET
LATENTS = {
  'latent_mean_0': jax.random.normal(jax.random.key(1), (B, SIDE, SIDE, 4)),
  'latent_std_0': jnp.full((B, SIDE, SIDE, 4), 0.1),
  'class': jnp.array([1, 1000, 0]),
}


def load(name=IMAGENET, **overrides):
  return configs.load(name, **overrides)


def create(name=IMAGENET, **overrides):
  return systems.create(load(name, **overrides))


def losses(system, weights, key, batch, step=1):
  return system.losses(weights, key, jnp.int32(step), batch)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {
      'diffusion__parameterization': 'v',
      'diffusion__variance': 'fixed_small',
      'network__learn_sigma': 'false',
    },
  ],
)
def test_the_loss_is_that_of_the_whole_chain(options):
  system = create(**options)
  weights = system_weights.weights_of(system)
  key = jax.random.key(7)
  results, extra = jax.jit(functools.partial(losses, system))(
    weights, key, LATENTS
  )
  total, metrics = results['generator']
  np.testing.assert_array_equal(extra['latent_scale'], [0.5])

  time_key, noise_key, draw_key, drop_key = jax.random.split(key, 4)
  shape = LATENTS['latent_mean_0'].shape
  z = LATENTS['latent_mean_0'] + 0.1 * jax.random.normal(draw_key, shape)
  tree = {'params': weights.params['generator']['network']}
  labels = jnp.array([0, 999, 1000])  # classes from 0; none is the last
  call = lambda x, t: system.network.apply(
    tree, x, t, labels, train=True, rngs={'dropout': drop_key}
  )
  given = {k.removeprefix('diffusion__'): v for k, v in options.items()}
  given.pop('network__learn_sigma', None)
  terms = jax.jit(
    lambda: iddpm_loss.loss(
      call,
      timesteps.respaced_levels(CHAIN),
      iddpm_loss.LossSettings(**given),
      0.5 * z,
      jax.random.randint(time_key, (B,), 0, 1000),
      jax.random.normal(noise_key, shape),
    )
  )()
  np.testing.assert_allclose(total, terms.pop('loss').mean(), rtol=1e-5)
  assert metrics.keys() == terms.keys()
  for name, value in terms.items():
    np.testing.assert_allclose(metrics[name], value.mean(), rtol=1e-5)
  assert ('vb' in metrics) == system.network.learn_sigma


def test_labels_are_dropped_at_the_rate_of_the_condition():
  system = create(condition__cond_dropout='0.999')
  assert system.network.class_dropout_prob == 0.999
  weights = system_weights.weights_of(system)

  @jax.jit
  def table_gradient(weights):
    def loss(params):
      params = {'generator': {'network': params}}
      told = dataclasses.replace(weights, params=params)
      return losses(system, told, jax.random.key(0), LATENTS)[0]['generator'][0]

    grads = jax.grad(loss)(weights.params['generator']['network'])
    return grads['y_embedder']['embedding']

  rows = np.abs(table_gradient(weights)).max(1)
  assert rows.shape == (1001,)
  assert np.flatnonzero(rows).tolist() == [1000]


class Analytic:
  """The network of the recorded sampling runs, which has no weights."""

  def apply(self, variables, x, t, y, features=()):
    del variables, features
    t = t.reshape(-1, 1, 1, 1) / 1000
    moved = jnp.roll(x, 1, axis=-1)
    eps = jnp.tanh(0.8 * x) + 0.2 * jnp.sin(6 * t) * moved
    if y is not None:
      eps = eps * (1 + 0.1 * y.reshape(-1, 1, 1, 1))
    return jnp.concatenate([eps, jnp.sin(x + t)], axis=-1)


def of_classes(y=None, null=None):
  """Returns the condition of class ids, and perhaps of the null class."""
  return condition_lib.Condition(
    context=condition_lib.Inputs(y=y),
    null=None if null is None else condition_lib.Inputs(y=null),
  )


def run(solver, steps, x, noises=(), condition=None, guidance=None):
  """Samples with `Analytic`; returns x after every step."""
  stage = latent_diffit.denoiser(Analytic(), {}).guided(
    timesteps.spaced_levels(CHAIN, steps, 'iddpm'),
    condition or of_classes(),
    x.shape,
    guidance,
  )
  noise = sampling.Noise.recorded([x], noises)
  with jax.default_matmul_precision('highest'):
    _, (trace,) = sampling.run([stage], solver, noise, trace=True)
  return trace.x


@pytest.mark.parametrize(
  ('solver', 'name', 'loop'),
  [('ddpm', 'dit', 'p_sample_loop'), ('ddim', 'dit', 'ddim_sample_loop')],
)
def test_recorded_runs_of_adm(golden, solver, name, loop):
  case = verify.read_case(golden(f'adm_diffusion_{name}_50.npz'))
  nhwc = lambda name: jnp.moveaxis(jnp.asarray(case.inputs[name]), -3, -1)
  made = solvers.create(solver, variance='learned_range')
  noises = (nhwc('loop_noise'),) if solver == 'ddpm' else ()
  got = jax.jit(lambda x: run(made, 50, x, noises))(nhwc('x_T'))
  want = case.expected[f'{loop}/x']
  np.testing.assert_allclose(
    np.moveaxis(got, -1, -3), want, atol=1e-4 * np.abs(want).max()
  )


def test_a_guided_run_is_the_first_half_of_the_official_one():
  """A loop over 2B states in NumPy: 3 channels guided by a power of cosine."""
  steps, scale, power = 10, 4.4, 4.0
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
  noises = rng.normal(size=(steps, 2, 2, 2, 4)).astype(np.float32)
  y, null = jnp.array([1, 3]), jnp.array([9, 9])
  got = run(
    solvers.create('ddpm', variance='learned_range'),
    steps,
    jnp.asarray(x),
    (jnp.asarray(noises),),
    of_classes(y, null),
    classifier_free.Guidance(scale, channels=3, power=power),
  )

  times = np.round(np.arange(steps) * 999 / (steps - 1)).astype(int)
  bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[times]
  before = np.append(1, bar[:-1])
  beta = 1 - bar / before
  small = beta * (1 - before) / (1 - bar)
  small[0] = small[1]
  state = np.concatenate([x, x]).astype(float)
  for step, j in enumerate(range(steps - 1, -1, -1)):
    half = np.concatenate([state[:2], state[:2]])
    t = np.full(4, times[j], np.float32)
    out = Analytic().apply(
      {}, jnp.asarray(half, jnp.float32), t, jnp.r_[y, null]
    )
    eps, v = np.split(np.asarray(out, float), 2, axis=-1)
    factor = 1 + (scale - 1) / 2 * (
      1 - np.cos(np.pi * (1 - times[j] / 1000) ** power)
    )
    mixed = eps[2:, ..., :3] + factor * (eps[:2, ..., :3] - eps[2:, ..., :3])
    eps[..., :3] = np.concatenate([mixed, mixed])
    part = (v + 1) / 2
    log = part * np.log(beta[j]) + (1 - part) * np.log(small[j])
    x0 = (state - np.sqrt(1 - bar[j]) * eps) / np.sqrt(bar[j])
    mean = np.sqrt(before[j]) * beta[j] / (1 - bar[j]) * x0
    mean += (1 - before[j]) * np.sqrt(1 - beta[j]) / (1 - bar[j]) * state
    drawn = np.concatenate([noises[step], rng.normal(size=x.shape)])
    state = mean + (j > 0) * np.exp(log / 2) * drawn
    want = state[:2]
    np.testing.assert_allclose(got[step], want, atol=2e-4 * np.abs(want).max())


def test_what_is_not_guided_is_of_the_condition_bit_for_bit():
  system, spec = create(), spec_lib.from_config(load())
  weights = system_weights.weights_of(system)
  assert (spec.guidance.channels, spec.guidance.power) == (3, 4.0)
  assert spec.make_solver() == solvers.create('ddpm', variance='learned_range')
  assert spec.spacing == 'iddpm'

  @jax.jit
  def predictions(weights):
    batch = {'class': LATENTS['class'][:2]}
    condition = system.condition(weights, batch)
    made = []
    for channels in (3, None):
      guidance = dataclasses.replace(spec.guidance, channels=channels)
      (stage,) = system.stages(
        weights, condition, (2, 32, 32), spec.replace(guidance=guidance)
      )
      (segment,) = stage.segments
      normal = functools.partial(jax.random.normal, jax.random.key(3))
      x, context = stage.enter([], normal)
      level = row(segment.levels, 2)
      made.append(segment.denoise(x, level, context))
    both = system.denoiser(weights.params['generator'], 0).guided(
      segment.levels,
      of_classes(classifier_free.pair(condition.context.y, condition.null.y)),
      (4, 4, 4, 4),
    )
    (segment,) = both.segments
    _, context = both.enter([], normal)
    twice = classifier_free.pair(x, x)
    found = segment.denoise(twice, level, context)
    return *made, classifier_free.unpair(found)[0]

  three, whole, plain = predictions(weights)
  np.testing.assert_array_equal(three.eps[..., 3], plain.eps[..., 3])
  np.testing.assert_array_equal(three.variance, plain.variance)
  np.testing.assert_array_equal(three.eps[..., :3], whole.eps[..., :3])
  assert np.abs(whole.eps[..., 3] - plain.eps[..., 3]).max() > 1e-3


@pytest.mark.parametrize(
  ('solver', 'spacing'),
  [
    ('dpmpp_2m', 'auto'),
    ('unipc', 'auto'),
    ('heun', 'auto'),
    ('heun', 'iddpm'),
    ('unipc', 'strided'),
  ],
)
def test_the_other_solvers_follow_the_same_network(solver, spacing):
  """A linear network, exact for normal data: all solvers end in one place."""

  class Normal:  # of deviation 0.5
    def apply(self, variables, x, t, y, features=()):
      del variables, y, features
      level = t.astype(jnp.int32)[0]
      alpha, sigma = CHAIN.alpha(level), CHAIN.sigma(level)
      return sigma * x / (0.25 * alpha**2 + sigma**2)

  spec = spec_lib.SamplerSpec(solver=solver, steps=(200,), spacing=spacing)
  (levels,) = spec.chain_levels(CHAIN)
  stage = latent_diffit.denoiser(Normal(), {}).guided(
    levels, of_classes(), (1, 1, 1, 1)
  )
  noise = sampling.Noise.recorded([jnp.ones(1)])
  (z,) = sampling.run([stage], spec.make_solver(), noise)
  np.testing.assert_allclose(z, 0.5, rtol=0.05)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    (SHAPES, {}),
    ('diffit_latent_shapes.py:none,debug', {}),
    ('diffit_latent_shapes.py:plain,debug', {'diffusion__scale_by_std': '0'}),
    (SHAPES, {'sample__guidance_interval': '0.2,0.8'}),
    (IMAGENET, {'sample__solver': 'unipc', 'sample__spacing': 'auto'}),
  ],
)
def test_images_are_trained_on_sampled_and_changed(name, options):
  config = load(name, **options)
  system, spec = systems.create(config), spec_lib.from_config(config)
  system.check_spec(spec)
  weights = system_weights.shapes_of(system)
  image = jnp.zeros((B, 32, 32, 3))
  batch = {'image': image, 'class': LATENTS['class']}
  results, extra = jax.eval_shape(
    functools.partial(losses, system), weights, jax.random.key(0), batch
  )
  assert results['generator'][0].shape == ()
  assert extra['latent_scale'].shape == (1,)

  def generate(weights, edit=None):
    keys = jax.random.split(jax.random.key(0), B)
    return system_lib.generate(system, weights, keys, batch, spec, edit)

  edit = system_lib.Edit(
    image=image, mask=jnp.ones((B, 32, 32), jnp.uint8), strength=0.5
  )
  for arguments in ((weights,), (weights, edit)):
    made, _ = jax.eval_shape(generate, *arguments)
    assert made.shape == (B, 32, 32, 3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'condition__task': 'text'}, "'text' .* must be one of none, class"),
    ({'condition__also': 'class'}, "also is 'class', must be"),
    ({'condition__class_by': 'crossattn'}, "'crossattn', must be 'timestep'"),
    ({'condition__cond_dropout': '0'}, 'null_class must be False'),
    (
      {'condition__null_class': 'false'},
      'is False, so there is no null condition for .*cond_dropout = 0.1',
    ),
    ({'condition__cond_dropout': '1'}, 'class_dropout_prob = 1.0 must be in'),
    ({'data__image_size': '24'}, 'patch_size = 2 must divide input_size = 3'),
    ({'data__image_size': '20'}, 'must be a multiple of 8'),
    ({'network__learn_sigma': '0'}, 'learn_sigma is False, must be True'),
    ({'diffusion__variance': 'fixed_large'}, 'learn_sigma is True, must be'),
  ],
)
def test_fields_that_do_not_fit_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    create(**options)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sample__steps': '1001'}, "'1001': a section of 1000 levels cannot keep"),
    (
      {'sample__spacing': 'strided', 'sample__steps': '300'},
      "'ddim300': no whole stride",
    ),
    ({'sample__steps': '5,5'}, 'has 2 values, must be one number'),
    ({'sample__guidance_channels': '5'}, 'channels is 5, must be at most 4'),
    (
      {'condition__null_class': 'false', 'condition__cond_dropout': '0'},
      'null_class is False, so there is no null condition for guidance',
    ),
  ],
)
def test_sampling_that_does_not_fit_is_named(options, message):
  config = load(**options)
  system = systems.create(config)
  with pytest.raises(ValueError, match=message):
    system.check_spec(spec_lib.from_config(config))


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    (
      {'solver': 'euler', 'churn': edm_timesteps.Churn(amount=5.0)},
      'churn is 5.0, must be 0 on a discrete chain',
    ),
    ({'windows': (4, 2)}, r'windows is \(4, 2\), must be \(0, 0\) for'),
  ],
)
def test_specs_of_other_systems_are_refused(changed, message):
  config = load()
  spec = spec_lib.from_config(config).replace(**changed)
  with pytest.raises(ValueError, match=message):
    systems.create(config).check_spec(spec)


def test_other_systems_learn_no_variance():
  with pytest.raises(ValueError, match="'ldm' predicts no variance"):
    create('ldm_shapes.py:debug', diffusion__variance='learned_range')
