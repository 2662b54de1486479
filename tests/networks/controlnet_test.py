import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.networks import controlnet
from pyramid_jax.networks import unet


B, SIDE = 2, 4
BASE = unet.UNet(
  in_channels=3,
  out_channels=3,
  model_channels=32,
  num_res_blocks=1,
  attention_resolutions=(),
  channel_mult=(1, 2),
  num_heads=2,
)
BRANCH = controlnet.branch(controlnet.ControlUNet, BASE, hint_channels=2)


def _inputs():
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (B, SIDE, SIDE, 3))
  hint = jax.random.uniform(keys[1], (B, SIDE, SIDE, 2))
  return {'x': x, 't': jnp.array([3, 700])}, hint


@pytest.fixture(scope='module')
def trees():
  """Weights of the base, random where they begin as zeros, and of a branch."""
  inputs, hint = _inputs()
  key = jax.random.key(1)
  base = initial.evaluate(lambda key: BASE.init(key, **inputs), key)
  branch = initial.evaluate(
    lambda key: BRANCH.init(key, **inputs, control=hint), key
  )
  rng = np.random.default_rng(0)
  base = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype('f'), base
  )
  base, branch = base['params'], branch['params']
  return base, {**branch, **{k: base[k] for k in base if k in branch}}


@jax.jit
def _plain(base):
  return BASE.apply({'params': base}, **_inputs()[0])


@jax.jit
def _run(base, branch, weight):
  """Returns the prediction, and the gradients of its mean square."""
  inputs, hint = _inputs()

  def loss(trees):
    base, branch = jax.lax.stop_gradient(trees[0]), trees[1]
    control = BRANCH.apply({'params': branch}, **inputs, control=hint)
    control = controlnet.weighted(control, weight)
    out = BASE.apply({'params': base}, **inputs, control=control)
    return jnp.square(out).mean(), out

  gradients, out = jax.grad(loss, has_aux=True)((base, branch))
  return out, gradients


def _controlled(base, branch, weight=1.0):
  return _run(base, branch, weight)[0]


@pytest.mark.turns(3, group='networks')
def test_at_first_a_branch_changes_nothing(trees):
  base, branch = trees
  want = _plain(base)
  assert np.abs(want).max() > 0.1
  # Two programs add the same terms in orders of their own.
  np.testing.assert_allclose(_controlled(base, branch), want, atol=1e-5)


def test_a_branch_has_the_weights_of_the_way_down_and_the_middle(trees):
  base, branch = trees
  # Four skips (stem, block, halving, block) and the middle.
  assert branch.keys() - base.keys() == {f'hint_1_{i}' for i in range(3)} | {
    f'zero_{i}' for i in range(5)
  }
  assert {n for n in base if n.startswith(('out', 'output_blocks'))} == (
    base.keys() - branch.keys()
  )
  assert not any(np.any(x) for x in jax.tree.leaves(branch['zero_4']))
  assert np.any(branch['hint_1_2']['kernel'])


def test_every_trained_convolution_acts_as_the_weight_says(trees):
  base, branch = trees
  plain = _plain(base)
  for i in range(5):
    kernel = branch[f'zero_{i}']['kernel']
    trained = {'bias': branch[f'zero_{i}']['bias'], 'kernel': kernel + 0.05}
    acting = {**branch, f'zero_{i}': trained}
    whole = np.abs(_controlled(base, acting) - plain).max()
    half = np.abs(_controlled(base, acting, 0.5) - plain).max()
    assert 0 < half != whole > 1e-3, i
    got = _controlled(base, acting, 0.0)
    np.testing.assert_allclose(got, plain, atol=1e-5)


def test_gradients_reach_the_branch_alone(trees):
  base, branch = trees
  _, (of_base, of_branch) = _run(base, branch, 1.0)
  assert not any(np.any(x) for x in jax.tree.leaves(of_base))
  # What lies behind a convolution of zeros learns after it has moved.
  for name, tree in of_branch.items():
    moves = any(np.any(x) for x in jax.tree.leaves(tree))
    assert moves == name.startswith('zero_'), name

  branch = jax.tree.map(lambda x, g: x - 0.1 * g, branch, of_branch)
  _, (_, of_branch) = _run(base, branch, 1.0)
  for name, tree in of_branch.items():
    assert any(np.any(x) for x in jax.tree.leaves(tree)), name


def test_maps_of_another_size_are_refused():
  inputs, hint = _inputs()

  def trace(branch, control):
    return jax.eval_shape(
      lambda: branch.init_with_output(
        jax.random.key(0), **inputs, control=control
      )
    )[0]

  for bad in (hint[:, :2], hint[..., :1], hint[:1], None):
    got = re.escape(str(None if bad is None else bad.shape))
    with pytest.raises(ValueError, match=rf'\(2, 4, 4, 2\), got {got}'):
      trace(BRANCH, bad)


def test_a_map_may_be_finer_where_pixels_are_channels():
  inputs, hint = _inputs()
  branch = controlnet.branch(controlnet.ControlUNet, BASE, 2, cells=(1, 2))

  def trace(control):
    return jax.eval_shape(
      lambda: branch.init_with_output(
        jax.random.key(0), **inputs, control=control
      )
    )

  with pytest.raises(
    ValueError, match=r'4, 2\) or \(2, 8, 8, 2\), got \(2, 2,'
  ):
    trace(hint[:, :2, :2])
  control, variables = trace(jnp.zeros((B, 8, 8, 2)))
  shapes = [x.shape[1:] for x in control]
  assert shapes == [
    (4, 4, 32),
    (4, 4, 32),
    (2, 2, 32),
    (2, 2, 64),
    (2, 2, 64),
  ]
  # All are made whichever comes first.
  for cell in (1, 2):
    kernel = variables['params'][f'hint_{cell}_0']['kernel']
    assert kernel.shape == (3, 3, 2 * cell**2, 32)


def test_a_weight_keeps_the_type():
  control = [jnp.ones((1, 2, 2, 4), jnp.bfloat16)]
  (got,) = controlnet.weighted(control, jnp.float32(0.5))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, 0.5)
