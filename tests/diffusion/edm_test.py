import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import levels as levels_lib


ALL = [edm.make_preconditioning(name) for name in edm.PRECONDITIONINGS]
ONE = np.ones(())


def values(precond, sigma):
  names = ('c_skip', 'c_out', 'c_in', 'c_noise')
  return [float(getattr(precond, name)(sigma)) for name in names]


@pytest.mark.parametrize(
  ('precond', 'expected'),
  [
    (edm.EDM(), [0.2, 0.4472136, 0.8944272, 0.0]),
    (edm.VP(), [1.0, -1.0, 0.7071068, 258.7013]),
    (edm.VE(), [1.0, 1.0, 1.0, -0.6931472]),
    (edm.IDDPM(), [1.0, -1.0, 0.7071068, 495.0]),
  ],
)
def test_printed_values_at_sigma_one(precond, expected):
  np.testing.assert_allclose(values(precond, ONE), expected, rtol=1e-6)
  on_device = values(precond, jnp.ones(()))
  np.testing.assert_allclose(on_device, expected, rtol=1e-6, atol=1e-6)


def test_printed_times_of_vp():
  times = np.array([1.0, 1e-3, 1e-5])
  np.testing.assert_allclose(
    edm.vp_sigma(times, 19.9, 0.1),
    [152.167, 0.0104860, 0.00100050],
    rtol=5e-6,
  )
  assert edm.vp_time(ONE, 19.9, 0.1) == pytest.approx(0.258960, rel=2e-6)
  assert edm.VP().sigma_max == pytest.approx(152.167, rel=1e-5)


def test_printed_levels_of_iddpm():
  u = edm.IDDPM().sigmas
  assert u.shape == (1001,)
  np.testing.assert_allclose(
    u[[0, 1, 500, 999, 1000]],
    [20291.2, 641.66, 1.012390, 0.00642541, 0],
    rtol=1e-5,
  )


@pytest.mark.parametrize('library', [np, jnp])
def test_time_of_vp_inverts_its_noise(library):
  # In float32 too: neither function loses digits near zero.
  t = library.asarray(np.logspace(-5, 0, 30), library.float32)
  back = edm.vp_time(edm.vp_sigma(t, 19.9, 0.1), 19.9, 0.1)
  np.testing.assert_allclose(back, t, rtol=2e-6)


def test_float64_stays_on_the_host():
  sigma = np.array([0.01, 3.0])
  for precond in (edm.VP(), edm.VE(), edm.EDM()):
    for name in ('c_skip', 'c_out', 'c_in', 'c_noise'):
      assert getattr(precond, name)(sigma).dtype == np.float64


@pytest.mark.parametrize('sigma', [0.002, 0.1, 0.5, 3.0, 80.0])
def test_inputs_and_targets_of_edm_have_unit_variance(sigma):
  precond = edm.EDM(sigma_data=0.7)
  skip, out, scale, _ = values(precond, np.float64(sigma))
  data, noise = 0.7**2, sigma**2
  assert scale**2 * (data + noise) == pytest.approx(1)
  # What F should give: (y - c_skip (y + n)) / c_out.
  target = ((1 - skip) ** 2 * data + skip**2 * noise) / out**2
  assert target == pytest.approx(1)


def test_without_noise_edm_is_the_identity():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  got = edm.denoise(edm.EDM(), lambda x, c: x + 7, x, jnp.full((2,), 1e-6))
  np.testing.assert_allclose(got, x, atol=2e-5)


@pytest.mark.parametrize('precond', ALL)
def test_each_example_has_its_own_level(precond):
  sigma = np.array([0.05, 2.0], np.float32)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  network = lambda x, c: jnp.sin(x + c[:, None, None, None])
  both = edm.denoise(precond, network, x, jnp.asarray(sigma))
  assert both.dtype == jnp.float32
  for i in range(2):
    skip, out, scale, noise = values(precond, sigma[i])
    want = skip * x[i] + out * np.sin(scale * x[i] + noise)
    np.testing.assert_allclose(both[i], want, rtol=1e-4, atol=1e-4)


def test_only_the_first_half_of_a_double_output_is_read():
  x = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
  plain = lambda x, c: jnp.tanh(x)
  double = lambda x, c: jnp.concatenate([jnp.tanh(x), 100 * x], -1)
  sigma = jnp.full((1,), 0.3)
  for precond in ALL:
    np.testing.assert_array_equal(
      edm.denoise(precond, plain, x, sigma),
      edm.denoise(precond, double, x, sigma),
    )


def test_iddpm_rounds_to_the_nearest_level():
  precond = edm.IDDPM()
  u = precond.sigmas
  between = 0.4 * u[300:303] + 0.6 * u[301:304]
  for sigma in (between, jnp.asarray(between, jnp.float32)):
    np.testing.assert_array_equal(precond.index(sigma), [301, 302, 303])
    np.testing.assert_allclose(
      precond.round_sigma(sigma), u[301:304], rtol=1e-6
    )
    np.testing.assert_array_equal(precond.c_noise(sigma), [698, 697, 696])


def test_prediction_of_a_scaled_state():
  x = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
  unused = dict.fromkeys(
    [f.name for f in dataclasses.fields(levels_lib.Levels)], jnp.zeros(())
  )
  level = levels_lib.Levels(
    **unused | {'alpha': jnp.asarray(0.3), 'sigma': jnp.asarray(0.9)}
  )
  network = lambda x, c: jnp.cos(x + c)
  got = edm.predict(edm.EDM(), network, x, level)
  want = edm.denoise(edm.EDM(), network, x / 0.3, jnp.asarray(3.0))
  np.testing.assert_allclose(got.x0, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(0.3 * got.x0 + 0.9 * got.eps, x, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('ddpm', {}, "'ddpm' is not one of .*iddpm"),
    ('ve', {'sigma_min': 0}, 'sigma_min is 0, must be above 0 and below'),
    ('ve', {'sigma_min': 3, 'sigma_max': 2}, 'sigma_min is 3, .*sigma_max 2'),
    ('edm', {'sigma_min': -1}, 'sigma_min is -1, must be at least 0'),
    ('edm', {'sigma_data': 0}, 'sigma_data is 0, must be above 0'),
    ('vp', {'epsilon_t': 1}, 'epsilon_t is 1, must be between 0 and 1'),
    ('vp', {'beta_min': 0}, 'beta_min is 0, must be above 0'),
    ('vp', {'beta_d': -1}, 'beta_d is -1, must be at least 0'),
    ('iddpm', {'length': 1}, 'M is 1, must be at least 2'),
    ('iddpm', {'c1': 0}, 'C_1 is 0, must be between 0 and 1'),
    ('iddpm', {'c2': -1}, 'C_2 is -1, must be at least 0'),
  ],
)
def test_bad_input_is_told(name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    edm.make_preconditioning(name, **options)
  assert '\n' not in str(error.value)
