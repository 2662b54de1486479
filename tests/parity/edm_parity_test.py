"""Preconditioning, loss and samplers of EDM against the official code."""

import dataclasses
import math

import numpy as np
import pytest

from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify


FILES = (
  'edm_precond_edm.npz',
  'edm_precond_iddpm.npz',
  'edm_precond_ve.npz',
  'edm_precond_vp.npz',
  'edm_sampler_ablation_euler.npz',
  'edm_sampler_ablation_vp.npz',
  'edm_sampler_det.npz',
  'edm_sampler_stoch.npz',
)


@pytest.mark.parametrize('file', FILES)
def test_recorded_runs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  # The reference's own float32 is 1.7e-4 off in the network of VP.
  tolerance = 2e-4 if 'vp' in file else 2e-5
  rows = verify.compare(verify.run(case), case, tolerance)
  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


def case(family, inputs, notes='', **config):
  return families.Case(
    family=family,
    config=config,
    state={},
    inputs=inputs,
    expected={},
    tolerance=1e-4,
    notes=notes,
  )


# An oracle in float64: algorithm 2 of the paper and its ablations, by hand.


def network(x, c):
  moved = np.roll(x, 1, axis=1)
  return np.tanh(0.7 * x + 0.3 * np.sin(c)) + 0.1 * np.cos(0.5 * c) * moved


def denoised(x, sigma, data):
  total = sigma**2 + data**2
  raw = network(x / np.sqrt(total), np.log(sigma) / 4)
  return data**2 / total * x + sigma * data / np.sqrt(total) * raw


def noise_levels(o):
  """Returns the falling levels and the range."""
  kind, count = o['discretization'], o['num_steps']
  vp = lambda t: math.sqrt(math.exp(19.9 / 2 * t * t + 0.1 * t) - 1)
  low, high = {
    'vp': (vp(o['epsilon_s']), vp(1)),
    've': (0.02, 100),
    'iddpm': (0.002, 81),
    'edm': (0.002, 80),
  }[kind]
  low, high = o['sigma_min'] or low, o['sigma_max'] or high
  i = np.arange(count) / (count - 1)
  if kind == 'edm':
    a, b = high ** (1 / o['rho']), low ** (1 / o['rho'])
    return (a + i * (b - a)) ** o['rho'], low, high
  if kind == 've':
    return high * (low / high) ** i, low, high
  if kind == 'vp':
    time, _, _, _ = vp_process(low, high, o['epsilon_s'])
    return time(1 + i * (o['epsilon_s'] - 1)), low, high
  u = [0.0]
  bar = lambda j: math.sin(math.pi / 2 * j / o['M'] / (o['C_2'] + 1)) ** 2
  for j in range(o['M'], 0, -1):
    ratio = max(bar(j - 1) / bar(j), o['C_1'])
    u.append(math.sqrt((u[-1] ** 2 + 1) / ratio - 1))
  kept = [v for v in u[::-1] if low <= v <= high]
  return np.array([kept[round((len(kept) - 1) * k)] for k in i]), low, high


def vp_process(low, high, eps):
  """sigma(t), its slope, its inverse."""
  end = math.log(high**2 + 1)
  d = 2 * (math.log(low**2 + 1) / eps - end) / (eps - 1)
  m = end - d / 2
  sigma = lambda t: np.sqrt(np.exp(d / 2 * t**2 + m * t) - 1)
  slope = lambda t: (m + d * t) / 2 * (sigma(t) + 1 / sigma(t))
  time = lambda s: (np.sqrt(m * m + 2 * d * np.log(s * s + 1)) - m) / d
  return sigma, slope, time, (d, m)


def process(o, low, high):
  if o['schedule'] == 'vp':
    return vp_process(low, high, o['epsilon_s'])[:3]
  if o['schedule'] == 've':
    return np.sqrt, lambda t: 0.5 / np.sqrt(t), lambda s: s * s
  return (lambda t: t), (lambda t: 1.0), (lambda s: s)


DEFAULTS = {
  'num_steps': 18,
  'sigma_min': None,
  'sigma_max': None,
  'rho': 7,
  'solver': 'heun',
  'discretization': 'edm',
  'schedule': 'linear',
  'scaling': 'none',
  'epsilon_s': 1e-3,
  'C_1': 0.001,
  'C_2': 0.008,
  'M': 1000,
  'alpha': 1,
  'S_churn': 0,
  'S_min': 0,
  'S_max': math.inf,
  'S_noise': 1,
  'sigma_data': 0.5,
}


def oracle(latents, noise, options):
  o = {**DEFAULTS, **options}
  levels, low, high = noise_levels(o)
  sigma, slope, time = process(o, low, high)
  scaled = o['scaling'] == 'vp'
  s = lambda t: 1 / np.sqrt(1 + sigma(t) ** 2) if scaled else 1.0
  ds = lambda t: -sigma(t) * slope(t) * s(t) ** 3 if scaled else 0.0
  seen = []

  def dx(x, t):
    clean = denoised(x / s(t), sigma(t), o['sigma_data'])
    seen.append((sigma(t), x / s(t), clean))
    linear = slope(t) / sigma(t) + ds(t) / s(t)
    return linear * x - slope(t) * s(t) / sigma(t) * clean

  t = np.append(time(levels), 0)
  x = latents * sigma(t[0]) * s(t[0])
  for i in range(len(levels)):
    now, after = t[i], t[i + 1]
    inside = o['S_min'] <= sigma(now) <= o['S_max']
    gamma = min(o['S_churn'] / len(levels), 2**0.5 - 1) if inside else 0
    hat = time((1 + gamma) * sigma(now))
    extra = max(sigma(hat) ** 2 - sigma(now) ** 2, 0) ** 0.5
    x = s(hat) / s(now) * x + extra * s(hat) * o['S_noise'] * noise[i]
    h = after - hat
    d = dx(x, hat)
    if o['solver'] == 'euler' or after == 0:
      x = x + h * d
      continue
    a = o['alpha']
    other = dx(x + a * h * d, hat + a * h)
    x = x + h * ((1 - 1 / (2 * a)) * d + other / (2 * a))
  return x, seen


@pytest.mark.parametrize(
  'options',
  [
    {'discretization': 've', 'schedule': 've', 'num_steps': 7},
    {'discretization': 'iddpm', 'M': 50, 'C_2': 0.02, 'num_steps': 9},
    {'discretization': 'iddpm', 'schedule': 'vp', 'scaling': 'vp'},
    {'schedule': 'vp', 'scaling': 'vp', 'alpha': 0.5, 'num_steps': 8},
    {'schedule': 've', 'scaling': 'vp', 'alpha': 0.7, 'sigma_data': 1.3},
    {'discretization': 'vp', 'schedule': 'vp', 'epsilon_s': 0.01},
    {
      'discretization': 'vp',
      'schedule': 'vp',
      'scaling': 'vp',
      'S_churn': 6,
      'S_min': 0.1,
      'S_max': 60,
      'S_noise': 1.01,
    },
    {'schedule': 've', 'S_churn': 40, 'solver': 'euler', 'num_steps': 5},
    {'rho': 4, 'sigma_min': 0.05, 'sigma_max': 20, 'num_steps': 2},
  ],
)
def test_samplers_equal_an_oracle_in_float64(options):
  steps = options.get('num_steps', 18)
  latents = official_fill.inputs('latents', (2, 3, 4, 4))
  noise = official_fill.inputs('noise', (steps, 2, 3, 4, 4))
  got = verify.run(
    case(
      'edm.sampler',
      {'latents': latents, 'noise': noise},
      function='ablation_sampler',
      **options,
    )
  )
  x, seen = oracle(latents.astype(float), noise.astype(float), options)
  want = [np.stack(part) for part in zip(*seen, strict=True)]
  names = ('eval_sigma', 'eval_x', 'eval_D')
  for name, value in zip(names, want, strict=True):
    assert got[name].shape == value.shape
    assert verify.error(got[name], value) < 1e-5, name
  # Where the steps are coarse the last of them takes digits.
  assert verify.error(got['x'], x) < 5e-5
  assert verify.error(got['x_t'][-1], x) < 5e-5


def precond_inputs(**extra):
  sigma = np.array([0.05, 0.7, 11.0], np.float32)
  x = official_fill.inputs('x', (3, 3, 4, 4))
  return {'x': x, 'sigma': sigma, **extra}


@pytest.mark.parametrize(
  ('kind', 'options', 'expected'),
  [
    (
      'VPPrecond',
      {'beta_d': 15.0, 'beta_min': 0.3, 'M': 100, 'epsilon_t': 1e-3},
      {'sigma_max': np.sqrt(np.exp(7.8) - 1), 'c_noise': None},
    ),
    (
      'VEPrecond',
      {'sigma_min': 0.1, 'sigma_max': 30},
      {'sigma_min': 0.1, 'sigma_max': 30},
    ),
    (
      'EDMPrecond',
      {'sigma_data': 0.8, 'sigma_min': 0.01, 'sigma_max': 'inf'},
      {'sigma_min': 0.01, 'sigma_max': -1},
    ),
    ('iDDPMPrecond', {'M': 20, 'C_1': 0.01, 'C_2': 0.05}, {}),
  ],
)
def test_other_options_of_the_preconditionings(kind, options, expected):
  inputs = precond_inputs()
  got = verify.run(
    case('edm.precond', inputs, img_resolution=4, **{'class': kind}, **options)
  )
  sigma = inputs['sigma'].astype(float)
  for name, value in expected.items():
    if value is not None:
      assert got[name] == pytest.approx(value, rel=1e-6), name
  if kind == 'VPPrecond':
    root = np.sqrt(0.09 + 30 * np.log(1 + sigma**2))
    np.testing.assert_allclose(got['c_noise'], 99 * (root - 0.3) / 15, 1e-5)
  if kind == 'EDMPrecond':
    want = [
      denoised(x, s, 0.8)
      for x, s in zip(inputs['x'][:, None], sigma, strict=True)
    ]
    np.testing.assert_allclose(
      got['D'], np.concatenate(want), rtol=1e-5, atol=1e-6
    )
  if kind == 'iDDPMPrecond':
    assert got['u'].shape == (21,)
    nearest = np.abs(got['u'][None] - sigma[:, None]).argmin(1)
    np.testing.assert_array_equal(got['c_noise'], 19 - nearest)
    np.testing.assert_allclose(got['round_sigma'], got['u'][nearest], 1e-6)


def test_arguments_of_the_loss_are_read_from_the_notes():
  images = official_fill.inputs('images', (2, 3, 4, 4))
  eps = official_fill.inputs('eps', (2, 3, 4, 4))
  random = np.array([-0.5, 0.8], np.float32).reshape(2, 1, 1, 1)
  inputs = precond_inputs(loss_images=images, loss_eps=eps, loss_rnd=random)
  notes = "loss = EDMLoss({'P_mean': -0.4, 'P_std': 1.0, 'sigma_data': 0.6})"
  got = verify.run(
    case('edm.precond', inputs, notes, **{'class': 'EDMPrecond'})
  )
  sigma = np.exp(random - 0.4)
  error = denoised(images + sigma * eps, sigma, 0.5) - images
  want = (sigma**2 + 0.36) / (0.6 * sigma) ** 2 * error**2
  np.testing.assert_allclose(got['loss'], want, rtol=1e-3, atol=1e-5)


SAMPLER = {'function': 'edm_sampler'}


@pytest.mark.parametrize(
  ('family', 'config', 'message'),
  [
    ('edm.precond', {'class': 'DDPM'}, "class 'DDPM'; known"),
    ('edm.precond', {'class': 'VEPrecond', 'M': 3}, r"arguments: \['M'\]"),
    ('edm.precond', {'class': 'VEPrecond', 'label_dim': 3}, 'label_dim'),
    ('edm.precond', {'class': 'VEPrecond', 'sigma_min': -1}, 'sigma_min is -1'),
    ('edm.sampler', {'function': 'ddim'}, "function 'ddim'; known"),
    ('edm.sampler', SAMPLER | {'alpha': 0.5}, r"arguments: \['alpha'\]"),
    ('edm.sampler', SAMPLER | {'sigma_min': 90}, 'must rise from above 0'),
  ],
)
def test_what_we_lack_is_said(family, config, message):
  latents = np.zeros((1, 3, 4, 4), np.float32)
  inputs = precond_inputs() if 'precond' in family else {'latents': latents}
  with pytest.raises(families.Unsupported, match=message):
    verify.run(case(family, inputs, **config))


def test_churn_needs_recorded_noise():
  latents = np.zeros((1, 3, 4, 4), np.float32)
  lacking = case('edm.sampler', {'latents': latents}, S_churn=3, **SAMPLER)
  with pytest.raises(KeyError, match='noise'):
    verify.run(lacking)


def test_a_wrong_output_is_noticed(golden):
  right = verify.read_case(golden('edm_sampler_det.npz'))
  options = {**right.config, 'rho': 6}
  wrong = dataclasses.replace(right, config=options)
  rows = verify.compare(verify.run(wrong), wrong, 1e-3)
  assert not any(row.ok for row in rows)
