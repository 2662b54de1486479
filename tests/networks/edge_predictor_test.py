import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks.layers import resampling


SIDES, CHANNELS = (8, 4, 2), (6, 5, 7)
SIZE = (8, 8)
B = 3


def activations(seed=0, scale=1.0, sides=SIDES):
  keys = jax.random.split(jax.random.key(seed), len(sides))
  return [
    scale * jax.random.normal(key, (B, side, side, c))
    for key, side, c in zip(keys, sides, CHANNELS, strict=True)
  ]


def build(**options):
  module = edge_predictor.EdgePredictor(**{'hidden': (16, 8)} | options)
  noise = jnp.linspace(0.1, 0.9, B)
  if module.noise_input != 'scalar':
    noise = jax.random.normal(jax.random.key(9), (B, *SIZE, 4))
  features = activations()
  variables = module.init(jax.random.key(1), features, noise, SIZE)
  return module, variables, features, noise


def test_the_first_layer_is_one_kernel_over_all_that_goes_in():
  module, variables, features, noise = build(hidden=(16,), feature_norm='none')
  params = variables['params']
  got = module.apply(variables, features, noise, SIZE)

  whole = [resampling.bilinear(feature, SIZE) for feature in features]
  level = edge_predictor.encode_level(noise, 10)[:, None, None]
  whole.append(jnp.broadcast_to(level, (B, *SIZE, level.shape[-1])))
  names = [f'fc0_tap{k}' for k in range(3)] + ['fc0_level']
  kernel = jnp.concatenate([params[name]['kernel'] for name in names])
  h = jnp.concatenate(whole, axis=-1) @ kernel + params['fc0_bias']
  h = jax.nn.relu(h) / np.sqrt(1 + 1e-5)  # running statistics 0 and 1
  want = h @ params['out']['kernel'] + params['out']['bias']
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert np.std(want) > 0.05


def test_no_array_has_all_channels_together():
  module, variables, features, noise = build()
  call = lambda features: module.apply(variables, features, noise, SIZE).sum()
  text = jax.jit(jax.value_and_grad(call)).lower(features).compile().as_text()
  shapes = set(re.findall(r'f32\[([\d,]+)\]', text))
  widths = {int(s.split(',')[-1]) for s in shapes if s.count(',') == 3}
  assert {6, 5, 7, 16} <= widths  # the text is read as it should be
  total = sum(CHANNELS)
  assert not widths & {total, total + 21, sum(CHANNELS[:2])}


def test_published_size():
  # SD-v1: 9280 channels at nine places, the level and ten octaves of it.
  sides = (64, 32, 16, 8, 8, 8, 16, 16, 64)
  channels = (320, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640)
  features = [
    jnp.zeros((1, s, s, c)) for s, c in zip(sides, channels, strict=True)
  ]
  module = edge_predictor.EdgePredictor()
  shapes = jax.eval_shape(
    lambda key: module.init(key, features, jnp.zeros(1), (64, 64)),
    jax.random.key(0),
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  inputs = 9280 + 21
  widths = (inputs, 512, 256, 128, 64, 4)
  want = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))
  assert count == want + 2 * (512 + 256 + 128 + 64)
  assert inputs == 9301


def test_the_level_is_encoded_by_octaves():
  level = jnp.array([0.0, 0.3])
  got = np.asarray(edge_predictor.encode_level(level, 10))
  assert got.shape == (2, 21)
  angles = 2 * np.pi * 0.3 / 2.0 ** np.arange(10)
  want = [0.3, *np.sin(angles), *np.cos(angles)]
  np.testing.assert_allclose(got[1], want, atol=1e-6)


@pytest.mark.parametrize('kind', ['map', 'map_pred'])
def test_maps_of_noise_are_read_place_by_place(kind):
  module, variables, features, noise = build(noise_input=kind)
  got = module.apply(variables, features, noise, SIZE)
  other = module.apply(variables, features, noise.at[:, 2, 3].add(1.0), SIZE)
  moved = np.abs(got - other).max((0, 3)) > 0
  assert moved[2, 3]
  assert moved.sum() == 1


def test_feature_norm_takes_the_scale_away():
  for kind, same in (('layer', True), ('none', False)):
    module, variables, features, noise = build(feature_norm=kind)
    got = module.apply(variables, features, noise, SIZE)
    large = module.apply(variables, [50 * t for t in features], noise, SIZE)
    assert np.allclose(got, large, atol=1e-3) == same


def test_stages_share_the_trunk_and_have_heads_of_their_own():
  module, variables, features, noise = build(out_channels=(4, 2))
  outs = [
    module.apply(variables, features, noise, SIZE, stage=stage)
    for stage in (0, 1)
  ]
  assert [out.shape[-1] for out in outs] == [4, 2]
  params = variables['params']
  assert {'out_0', 'out_1', 'fc0_stage', 'fc1'} <= params.keys()
  _, state = module.apply(
    variables,
    features,
    noise,
    SIZE,
    stage=1,
    train=True,
    mutable=['batch_stats'],
  )
  new, old = state['batch_stats'], variables['batch_stats']
  np.testing.assert_array_equal(new['norm0_0']['mean'], old['norm0_0']['mean'])
  assert np.abs(new['norm0_1']['mean']).max() > 0


def test_statistics_are_renewed_by_a_tenth():
  module, variables, features, noise = build()
  _, state = module.apply(
    variables, features, noise, SIZE, train=True, mutable=['batch_stats']
  )
  steady = variables
  for _ in range(150):
    _, after = module.apply(
      steady, features, noise, SIZE, train=True, mutable=['batch_stats']
    )
    steady = {**steady, **after}
  settled = steady['batch_stats']['norm0']
  np.testing.assert_allclose(
    state['batch_stats']['norm0']['mean'], 0.1 * settled['mean'], rtol=1e-3
  )
  trained, _ = module.apply(
    steady, features, noise, SIZE, train=True, mutable=['batch_stats']
  )
  count = B * SIZE[0] * SIZE[1]
  got = module.apply(steady, features, noise, SIZE)
  # The batch is normalised by its biased variance, later ones by the other.
  np.testing.assert_allclose(got, trained, rtol=3 / count, atol=3 / count)


@pytest.mark.parametrize('head', ['pixel', 'token'])
def test_heads_of_a_base_with_tokens(head):
  module, variables, features, noise = build(patches=(2,), head=head)
  got = module.apply(variables, features, noise, SIZE)
  assert got.shape == (B, *SIZE, 4)
  # Places within a patch differ though the activations there do not.
  flat = [
    jnp.ones_like(feature) * jnp.arange(c)
    for feature, c in zip(features, CHANNELS, strict=True)
  ]
  out = np.asarray(module.apply(variables, flat, noise, SIZE))
  assert np.abs(out[:, 0, 0] - out[:, 0, 1]).max() > 1e-3
  np.testing.assert_allclose(out[:, :2, :2], out[:, 2:4, 4:6], atol=1e-5)


def test_wide_numbers_stay_wide():
  with jax.enable_x64(True):
    module, variables, features, noise = build()
    features = [feature.astype(jnp.float64) for feature in features]
    got = module.apply(variables, features, noise, SIZE)
    assert got.dtype == jnp.float64
    step = 1e-10
    moved = [features[0].at[..., 0].add(step), *features[1:]]
    near = module.apply(variables, moved, noise, SIZE)
    assert np.abs(near - got).max() > 1e-13  # a float32 would not tell


def test_wrong_options_are_named():
  with pytest.raises(ValueError, match="noise_input is 'none', allowed: scal"):
    build(noise_input='none')
  with pytest.raises(ValueError, match=r'8 x 8 must have .* patches\[0\] = 3'):
    build(patches=(3,))
