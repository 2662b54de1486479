import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.runs import state as run_state
from pyramid_jax.training import hooks
from pyramid_jax.training import muon as muon_lib
from pyramid_jax.training import optimizer
from pyramid_jax.training import step as state_lib
from tests.helpers import fake_run


def host_batch(config, step=0):
  size = config.train.batch_size
  rows = np.arange(size) + step * size
  return fake_run.Reader(config).batch(rows, rows.astype(np.uint64))


class Quiet(fake_run.System):
  """Without noise, so that microbatches and their whole agree."""

  def losses(self, weights, key, step, batch):
    params = weights.params
    x = batch['x'] @ params['generator']['w'] + params['generator']['b']
    error = jnp.mean(jnp.square(x - batch['y']))
    v = params['critic']['v']
    judged = jnp.mean(x @ v)
    losses = {
      'generator': (error - judged, {'error': error}),
      'critic': (jnp.mean((x @ v) ** 2), {}),
    }
    return losses, {'count': weights.extra['count'] + 1}


def run(config, devices, steps=3, system=Quiet):
  """Returns the state and the metrics after some steps on a mesh."""
  mesh = mesh_lib.create(config.mesh, devices)
  system = system(config)
  finish = fake_run.Reader(config).finish
  place = lambda step: mesh_lib.place(mesh, host_batch(config, step))
  create = lambda: state_lib.create(system, config)
  abstract = state_lib.abstract(create, mesh, config)
  step_fn = state_lib.compile_step(
    state_lib.make_step(system, config, finish, mesh),
    mesh,
    abstract,
    {},
    place(0),
  )
  shardings = jax.tree.map(lambda s: s.sharding, abstract)
  state = initial.place(initial.evaluate(create), shardings)
  metrics = {}
  for step in range(steps):
    state, metrics = step_fn(state, {}, place(step))
    jax.block_until_ready(state)
  return state, jax.device_get(metrics)


def test_data_and_fsdp_equal_one_device():
  split = fake_run.config(mesh__data=2, mesh__fsdp=4, train__steps=3)
  a, metrics_a = run(split, jax.devices(), system=fake_run.System)
  b, metrics_b = run(
    fake_run.config(), jax.devices()[:1], system=fake_run.System
  )
  spec = a.params['generator']['w'].sharding
  assert isinstance(spec, NamedSharding)
  assert spec.spec == PartitionSpec(None, 'fsdp')
  parts = PartitionSpec('data', 'fsdp')
  assert a.opt_state['generator'][0].mu['w'].sharding.spec == parts
  assert a.ema['generator']['w'].sharding.spec == parts
  sampled = hooks.averaged_weights(a, {}).params['generator']['w']
  assert sampled.sharding == spec
  np.testing.assert_array_equal(sampled, a.ema['generator']['w'])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    (a, metrics_a),
    (b, metrics_b),
  )


def test_muon_on_a_mesh_equals_one_device():
  sizes = {'mesh__data': 2, 'mesh__fsdp': 4}
  name = {'optimizer__name': 'muon'}
  split = fake_run.config('attention', **sizes, **name)
  a, _ = run(split, jax.devices(), system=fake_run.System)
  alone = fake_run.config('attention', **name)
  b, _ = run(alone, jax.devices()[:1], system=fake_run.System)
  states = optax.tree.get_all_with_path(a.opt_state, 'mu')
  split = {x.sharding.spec for _, mu in states for x in jax.tree.leaves(mu)}
  assert PartitionSpec('data', 'fsdp') in split
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b
  )


def test_accumulation_equals_the_full_batch():
  a, metrics_a = run(fake_run.config(), jax.devices()[:2])
  b, metrics_b = run(fake_run.config(train__accumulate=4), jax.devices()[:2])
  # Adam divides by the gradient's size, so rounding is magnified.
  np.testing.assert_allclose(
    a.params['generator']['w'], b.params['generator']['w'], atol=1e-5
  )
  assert metrics_a['error'] == pytest.approx(metrics_b['error'], rel=1e-5)
  assert metrics_a['grad_norm'] == pytest.approx(
    metrics_b['grad_norm'], rel=1e-5
  )
  assert int(a.extra['count']) == 3
  assert int(b.extra['count']) == 12  # every microbatch went through


@pytest.mark.parametrize('accumulate', [1, 2])
def test_noise_is_a_function_of_seed_and_step(accumulate):
  class Noisy(Quiet):
    def losses(self, weights, key, step, batch):
      losses, extra = super().losses(weights, key, step, batch)
      value, _ = losses['critic']
      noise = {'noise': jax.random.normal(key)}
      return {**losses, 'critic': (value, noise)}, extra

  def noise(seed, steps):
    config = fake_run.config(train__seed=seed, train__accumulate=accumulate)
    _, metrics = run(config, jax.devices()[:1], steps, Noisy)
    return float(metrics['critic/noise'])

  drawn = [noise(0, 1), noise(0, 2), noise(1, 1)]
  assert len(set(drawn)) == 3
  assert noise(0, 2) == drawn[1]


def test_parameters_move_by_the_loss_of_their_name():
  p = {'a': jnp.asarray(2.0), 'b': jnp.asarray(3.0)}

  def losses(params):
    product = params['a'] * params['b']
    return {'a': product**2, 'b': params['b'] - 5 * product}, 'aux'

  values, aux, grads = state_lib.gradients(losses, p)
  assert (float(values['a']), float(values['b'])) == (36.0, -27.0)
  assert aux == 'aux'
  assert float(grads['a']) == 2 * 6 * 3  # d (ab)^2 / da
  assert float(grads['b']) == 1 - 5 * 2  # d (b - 5ab) / db


def test_forward_pass_is_traced_once():
  calls = []

  def losses(params):
    calls.append(1)
    return {'a': params['a'] ** 2, 'b': params['b'] * params['a']}, None

  state_lib.gradients(losses, {'a': jnp.ones(()), 'b': jnp.ones(())})
  assert len(calls) == 1


def test_ema_rule():
  config = fake_run.config(ema__decay=0.9999)
  decays = [float(optimizer.ema_decay(config, n)) for n in (1, 2, 90, 10**6)]
  np.testing.assert_allclose(decays, [2 / 11, 3 / 12, 0.91, 0.9999], rtol=1e-6)
  constant = fake_run.config(ema__decay=0.9999, ema__warmup=False)
  decays = [float(optimizer.ema_decay(constant, n)) for n in (1, 90)]
  np.testing.assert_allclose(decays, 0.9999, rtol=1e-6)


def test_ema_half_life_in_images():
  config = fake_run.config(
    ema__halflife_images=500_000.0, train__batch_size=500, ema__decay=0.1
  )
  decay = lambda n: float(optimizer.ema_decay(config, n))
  assert decay(1) == 0  # no image was seen before
  # 5 % of the images so far: 500 after 20 updates, 500,000 after 20,000.
  assert decay(21) == pytest.approx(0.5, rel=1e-6)
  assert decay(81) == pytest.approx(0.5**0.25, rel=1e-6)
  for n in (20_001, 10**6):
    assert decay(n) == pytest.approx(0.5**0.001, rel=1e-6)
  slow = fake_run.config(
    ema__halflife_images=1000.0,
    ema__halflife_rampup=float('inf'),
    train__batch_size=500,
  )
  assert float(optimizer.ema_decay(slow, 2)) == pytest.approx(0.5**0.5)


def test_ema_follows_the_parameters():
  config = fake_run.config(train__learning_rate=0.1)
  means, values = None, None
  for steps in range(3):
    state, _ = run(config, jax.devices()[:1], steps)
    values = np.asarray(state.params['generator']['w'])
    if steps == 0:
      means = values
    else:
      d = min(0.9, (1 + steps) / (10 + steps))
      means = d * means + (1 - d) * values
    assert set(state.ema) == {'generator'}
    assert set(state.ema['generator']) == {'w'}  # the only pattern
    np.testing.assert_allclose(
      state.ema['generator']['w'], means, rtol=1e-5, atol=1e-6
    )
  whole = run_state.averaged(state.params, state.ema)
  assert whole['generator']['w'] is state.ema['generator']['w']
  assert whole['generator']['b'] is state.params['generator']['b']


def test_averages_can_be_switched_off():
  """Without averages the state is smaller by their copy."""
  sizes = {}
  for decay in (0, 0.9):
    state, _ = run(fake_run.config(ema__decay=decay), jax.devices()[:1], 2)
    sizes[decay] = sum(leaf.size for leaf in jax.tree.leaves(state))
    w = state.params['generator']['w']
  assert sizes[0] == sizes[0.9] - w.size
  state, _ = run(fake_run.config(ema__decay=0), jax.devices()[:1], 2)
  assert state.ema == {}
  weights = run_state.averaged(state.params, state.ema)
  assert weights['generator']['w'] is state.params['generator']['w']
  config = fake_run.config(ema__decay=0, ema__halflife_images=8.0)
  state, _ = run(config, jax.devices()[:1], 1)
  assert set(state.ema) == {'generator'}


@pytest.mark.parametrize(
  ('warmup', 'decay', 'want'),
  [
    (0, 0, [1, 1, 1, 1]),
    (4, 0, [0.25, 0.5, 1, 1]),
    (0, 8, [1, 0.5 + 0.5 * np.cos(np.pi / 8), 0.5, 0]),
    (4, 12, [0.25, 0.5, 1, 0.5]),
  ],
)
def test_learning_rate(warmup, decay, want):
  config = fake_run.config(
    train__learning_rate=1, train__warmup_steps=warmup, train__decay_steps=decay
  )
  got = [float(optimizer.learning_rate(config, n)) for n in (0, 1, 4, 8)]
  np.testing.assert_allclose(got, want, atol=1e-6)
  longer = fake_run.config(
    train__learning_rate=1,
    train__warmup_steps=warmup,
    train__decay_steps=decay,
    train__steps=10**6,
  )
  assert got == [
    float(optimizer.learning_rate(longer, n)) for n in (0, 1, 4, 8)
  ]


def test_a_linear_decay_ends_at_zero():
  config = fake_run.config(
    train__learning_rate=1,
    train__warmup_steps=4,
    train__decay_steps=12,
    train__decay='linear',
  )
  got = [float(optimizer.learning_rate(config, n)) for n in (1, 4, 6, 8, 12)]
  np.testing.assert_allclose(got, [0.5, 1, 0.75, 0.5, 0], atol=1e-6)


def test_clipping_bounds_an_update():
  free, _ = run(fake_run.config(optimizer__eps=1), jax.devices()[:1], 1)
  held, metrics = run(
    fake_run.config(optimizer__eps=1, train__clip_norm=1e-3),
    jax.devices()[:1],
    1,
  )
  start, _ = run(fake_run.config(), jax.devices()[:1], 0)
  move = lambda s: np.abs(
    np.asarray(s.params['generator']['w'])
    - np.asarray(start.params['generator']['w'])
  ).max()
  assert metrics['grad_norm'] > 0.1  # reported as it was
  assert move(held) < 0.01 * move(free)


def test_weight_decay_of_adamw_only():
  def moved(name):
    config = fake_run.config(
      optimizer__name=name,
      optimizer__weight_decay=0.5,
      train__learning_rate=0.1,
    )
    state, _ = run(config, jax.devices()[:1], 1)
    return np.asarray(state.params['generator']['w'])

  start, _ = run(fake_run.config(), jax.devices()[:1], 0)
  w = np.asarray(start.params['generator']['w'])
  np.testing.assert_allclose(
    moved('adamw'), moved('adam') - 0.1 * 0.5 * w, atol=1e-6
  )


def test_muon_turns_kernels_by_orthogonal_updates():
  """Every direction of a kernel moves alike; the rest is moved by Adam."""
  shapes = {
    'dense': {'kernel': (12, 6), 'bias': (6,)},
    'conv': {'kernel': (3, 3, 2, 8)},
    'scanned': {'kernel': (2, 6, 6)},
    'table': {'embedding': (5, 6)},
  }
  keys = iter(jax.random.split(jax.random.key(0), 10))
  draw = lambda shape: jax.random.normal(next(keys), shape)
  is_shape = lambda x: isinstance(x, tuple)
  params = jax.tree.map(draw, shapes, is_leaf=is_shape)
  gradients = jax.tree.map(draw, shapes, is_leaf=is_shape)

  def moves(tx):
    return tx.update(gradients, tx.init(params), params)[0]

  config = fake_run.config(optimizer__name='muon', train__learning_rate=0.1)
  muon = moves(optimizer.create(config))
  adam = moves(optax.adam(0.1, nesterov=True))
  for matrix in (
    muon['dense']['kernel'],
    muon['conv']['kernel'].reshape(18, 8),
    *muon['scanned']['kernel'],
  ):
    values = np.linalg.svd(matrix, compute_uv=False)
    unit = 0.1 * muon_lib.RMS * np.sqrt(max(matrix.shape))
    assert (values > 0.6 * unit).all()
    assert (values < 1.3 * unit).all()
  for layer, leaf in (('dense', 'bias'), ('table', 'embedding')):
    np.testing.assert_allclose(muon[layer][leaf], adam[layer][leaf], rtol=1e-5)


@pytest.mark.parametrize('where', ['loss', 'gradient'])
def test_finite_sees_losses_and_gradients(where):
  class Broken(Quiet):
    def losses(self, weights, key, step, batch):
      losses, extra = super().losses(weights, key, step, batch)
      value, metrics = losses['critic']
      v = weights.params['critic']['v']
      if where == 'loss':
        value += jnp.inf
      else:  # the value is finite, its gradient at 0 is not
        value += jnp.sqrt(jnp.sum(v * 0))
      return {**losses, 'critic': (value, metrics)}, extra

  _, good = run(fake_run.config(), jax.devices()[:1], 1)
  _, bad = run(fake_run.config(), jax.devices()[:1], 1, Broken)
  assert good['finite'] == 1.0
  assert bad['finite'] == 0.0


def test_finite_sees_what_is_updated():
  fields = {'optimizer__name': 'adamw', 'optimizer__weight_decay': 1e6}
  for rate, want in ((1e-30, 1.0), (1e38, 0.0)):
    config = fake_run.config(train__learning_rate=rate, **fields)
    _, metrics = run(config, jax.devices()[:1], 1)
    assert np.isfinite([metrics['loss'], metrics['grad_norm']]).all()
    assert metrics['finite'] == want


def test_gradients_that_are_no_numbers_may_be_replaced():
  class Broken(Quiet):
    def losses(self, weights, key, step, batch):
      losses, extra = super().losses(weights, key, step, batch)
      params = weights.params
      v, b = params['critic']['v'], params['generator']['b']
      # Both are 0; the slopes are infinite and NaN.
      steep = jnp.sqrt(jnp.sum(v - jax.lax.stop_gradient(v)))
      broken = jnp.sqrt(jnp.sum(b * 0))
      (error, told), (judged, more) = losses['generator'], losses['critic']
      both = {'generator': (error + broken, told)}
      return {**both, 'critic': (judged + steep, more)}, extra

  config = fake_run.config(optimizer__nan_to_zero=True)
  state, metrics = run(config, jax.devices()[:1], 1, Broken)
  assert metrics['finite'] == 1.0
  np.testing.assert_array_equal(state.params['generator']['b'], 0.0)
  assert metrics['critic/grad_norm'] == pytest.approx(1e5 * 8**0.5)
  _, metrics = run(fake_run.config(), jax.devices()[:1], 1, Broken)
  assert metrics['finite'] == 0.0


def test_seeds_of_32_bits_are_those_of_jax_and_higher_ones_are_others():
  """Of `jax.random.key` 32 bits count, so that 2**32 is 0."""
  step = jnp.int32(7)
  data = lambda seed: np.asarray(
    jax.random.key_data(
      jax.jit(lambda step: state_lib._step_key(config(seed), step))(step)
    )
  )
  config = lambda seed: fake_run.config(train__seed=seed)
  for seed in (0, 1, 2**31, 2**32 - 1):
    key = jax.random.fold_in(jax.random.key(seed), 7)
    np.testing.assert_array_equal(data(seed), jax.random.key_data(key))
  seeds = (0, 5, 2**32, 2**32 + 5, 2**33, 2**63 - 1)
  assert len({tuple(data(seed)) for seed in seeds}) == len(seeds)
  first, other = (
    jax.tree.leaves(state_lib.create(Quiet(config(s)), config(s)).params)
    for s in (0, 2**32)
  )
  assert not np.array_equal(first[0], other[0])


def test_the_compiler_gets_the_options_of_a_step():
  config = fake_run.config()
  mesh = mesh_lib.create(config.mesh, jax.devices()[:1])
  batch = mesh_lib.place(mesh, host_batch(config, 0))
  create = lambda: state_lib.create(fake_run.System(config), config)
  abstract = sharding.abstract(jax.eval_shape(create), mesh, 16)
  step = state_lib.make_step(
    fake_run.System(config), config, fake_run.Reader(config).finish, mesh
  )
  unknown = {'xla_no_such_option': True}
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    state_lib.compile_step(step, mesh, abstract, {}, batch, unknown)
