import numpy as np
import pytest

from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import timesteps


def test_frido_schedule_has_the_published_values():
  chain = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0155)
  np.testing.assert_allclose(
    chain.betas[[0, 1, 500, 999]],
    [0.0015, 0.00150665767, 0.00666792154, 0.0155],
    rtol=1e-8,
  )
  np.testing.assert_allclose(
    chain.alphas_bar[[0, 250, 500, 750, 999]],
    [0.9985, 0.535476001, 0.150070051, 0.0173944740, 6.68665174e-4],
    rtol=1e-8,
  )


def test_cosine_schedule_equals_its_formula():
  chain = schedules.make_chain('cosine', 10)
  bar = lambda k: np.cos((k / 10 + 8e-3) / 1.008 * np.pi / 2) ** 2
  assert chain.betas[3] == pytest.approx(1 - bar(4) / bar(3))
  assert chain.betas.max() <= 0.999


def test_posterior_variance_equals_bayes_rule():
  chain = schedules.make_chain('scaled_linear', 50, 0.01, 0.2)
  t = 20
  a, b = chain.alphas_bar[t - 1], chain.betas[t]
  # Product of the densities of x_t given x_{t-1} and of x_{t-1} given x0.
  expected = 1 / ((1 - b) / b + 1 / (1 - a))
  assert chain.posterior_variance[t] == pytest.approx(expected)
  assert chain.posterior_variance[0] == 0


@pytest.mark.parametrize(
  ('steps', 'count', 'last'), [(200, 200, 996), (50, 50, 981), (30, 31, 991)]
)
def test_uniform_timesteps_are_the_official_ones(steps, count, last):
  times = timesteps.uniform_timesteps(1000, steps)
  assert len(times) == count
  assert times[0] == 1
  assert times[-1] == last


@pytest.mark.parametrize('steps', [0, 300, 1000, 1001])
def test_uniform_timesteps_refuse_counts_that_cannot_work(steps):
  with pytest.raises(ValueError, match=str(steps)):
    timesteps.uniform_timesteps(1000, steps)


# Printed values of the reference code at indices 0, 1, 500, 998, 999, and of
# the posterior variance and the weights of the bound at 1, 500, 999.
PUBLISHED = [
  (
    (0.0015, 0.0195),
    (0.99849999, 0.99699444, 0.11492200, 0.00014513409, 0.00014230398),
    (0.00075251941, 0.0079548750, 0.0194999445),
    (0.50337201, 0.0045394138, 0.0099453498),
  ),
  (
    (0.0015, 0.0155),
    (0.99849999, 0.99699563, 0.15007006, 0.00067919266, 0.00066866516),
    (0.00075222616, 0.0066600186, 0.0154998368),
    (0.50298131, 0.0039536473, 0.0078773666),
  ),
  (
    (0.0015, 0.0205),
    (0.99849999, 0.99699414, 0.10767675, 0.000098939119, 0.000096910866),
    (0.00075258792, 0.0082737999, 0.0204999577),
    (0.50346005, 0.0046842545, 0.0104655596),
  ),
  (
    (0.00085, 0.012),
    (0.99914998, 0.99829602, 0.27633268, 0.0047166990, 0.0046600983),
    (0.00042635313, 0.0048060585, 0.0119993174),
    (0.50319237, 0.0033490562, 0.0061016544),
  ),
  (
    (0.0015, 0.015),
    (0.99849999, 0.99699575, 0.15529056, 0.00082489185, 0.00081251847),
    (0.00075218693, 0.0064956401, 0.0149998143),
    (0.50292236, 0.0038793972, 0.0076204990),
  ),
  (
    (1e-4, 2e-2),
    (0.99989998, 0.99979734, 0.33127457, 0.00074838009, 0.00073341245),
    (0.000050656003, 0.0057256431, 0.0199996997),
    (0.51324970, 0.0043304791, 0.0102117248),
  ),
]


@pytest.mark.parametrize(('ends', 'bar', 'variance', 'weights'), PUBLISHED)
def test_ldm_schedules_have_the_published_values(ends, bar, variance, weights):
  chain = schedules.make_chain('scaled_linear', 1000, *ends)
  # The reference rounds its tables to float32 before they were printed.
  np.testing.assert_allclose(
    chain.alphas_bar[[0, 1, 500, 998, 999]], bar, rtol=1e-6
  )
  at = [1, 500, 999]
  np.testing.assert_allclose(chain.posterior_variance[at], variance, rtol=1e-6)
  # 1 - alphas_bar loses digits in float32, and the reference forms it there.
  np.testing.assert_allclose(chain.loss_weights('eps')[at], weights, rtol=1e-4)
  assert chain.loss_weights('eps')[0] == chain.loss_weights('eps')[1]


def test_published_weights_and_factors_of_the_posterior():
  chain = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
  at = [0, 1, 500, 998, 999]
  np.testing.assert_allclose(
    chain.loss_weights('x0')[at],
    [0.49775207, 0.49775207, 0.089917101, 0.0030120087, 0.0029824930],
    rtol=1e-6,
  )
  of_x0, of_x = chain.posterior_mean
  np.testing.assert_allclose(
    of_x0[at],
    [1, 0.50130320, 0.0030622624, 0.00023693202, 0.00023495307],
    rtol=2e-6,
  )
  np.testing.assert_allclose(
    of_x[[0, 1, 500]], [0, 0.4986965060, 0.9949723482], rtol=2e-6
  )


@pytest.mark.parametrize(
  ('kind', 'ends', 'betas'),
  [
    (
      'cosine',
      (0.0015, 0.0195),
      (4.1284225e-5, 4.6141753e-5, 0.0031556914, 0.74999939, 0.999),
    ),
    (
      'sqrt',
      (1e-4, 2e-2),
      (0.01, 0.0109507954, 0.1002993517, 0.1413509111, 0.1414213562),
    ),
    (
      'linear',
      (1e-4, 2e-2),
      (1e-4, 1.1991992e-4, 0.01005995996, 0.01998008008, 0.02),
    ),
  ],
)
def test_published_betas_of_other_schedules(kind, ends, betas):
  chain = schedules.make_chain(kind, 1000, *ends)
  np.testing.assert_allclose(
    chain.betas[[0, 1, 500, 998, 999]], betas, rtol=1e-7
  )


def test_v_posterior_goes_from_the_posterior_to_the_forward_variance():
  small, half, large = (
    schedules.make_chain('scaled_linear', 50, 0.01, 0.2, v_posterior=v)
    for v in (0.0, 0.5, 1.0)
  )
  np.testing.assert_allclose(large.posterior_variance, large.betas)
  np.testing.assert_allclose(
    half.posterior_variance,
    (small.posterior_variance + large.posterior_variance) / 2,
  )
  # The levels of all times are the chain itself.
  levels = timesteps.levels(half, np.arange(50), 1.0)
  np.testing.assert_allclose(
    np.exp(levels.log_variance[:-1][::-1]), half.posterior_variance, rtol=1e-5
  )
  weights = half.betas**2 / (
    2 * half.posterior_variance * (1 - half.betas) * (1 - half.alphas_bar)
  )
  np.testing.assert_allclose(half.loss_weights('eps')[1:], weights[1:])


def test_unknown_schedule_is_named():
  with pytest.raises(ValueError, match='quadratic'):
    schedules.make_chain('quadratic')


def test_levels_fall_and_end_where_asked():
  chain = schedules.make_chain()
  levels = timesteps.levels(chain, np.array([1, 500, 999]), 1.0)
  assert levels.time.tolist() == [999, 500, 1, 1]
  assert np.all(np.diff(levels.sigma) < 0)
  assert levels.sigma[-1] == 0
  np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, atol=1e-6)


@pytest.mark.parametrize(
  ('spacing', 'steps', 'expected'),
  [
    ('iddpm', 5, [999, 749, 500, 250, 0]),
    ('strided', 5, [800, 600, 400, 200, 0]),
  ],
)
def test_spacings_of_adm(spacing, steps, expected):
  chain = schedules.make_chain()
  levels = timesteps.spaced_levels(chain, steps, spacing)
  assert levels.time[:-1].tolist() == expected
  assert levels.alpha[-1] == 1
  np.testing.assert_allclose(
    levels.alpha[:-1] ** 2, chain.alphas_bar[expected], rtol=1e-6
  )
  # The last step has the variance of the one before it.
  assert levels.log_variance[-2] == levels.log_variance[-3]
  plain = timesteps.levels(chain, np.array(expected[::-1]), 1.0)
  np.testing.assert_array_equal(
    levels.log_variance[:-2], plain.log_variance[:-2]
  )


def test_strided_spacing_refuses_what_no_stride_gives():
  with pytest.raises(ValueError, match='gives 60 steps; .* 59,63'):
    timesteps.spaced_levels(schedules.make_chain(), 60, 'strided')
