"""What blocks keep for the backward pass, by the name of the policy."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.networks import latent_diffit
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks import unet
from pyramid_jax.networks.layers import remat
from pyramid_jax.training import setup as setup_lib
from tests.helpers import configs


DEPTH = 3
X = jax.random.normal(jax.random.key(0), (4, 64, 32))


def gradient(policy):
  """Returns a function of parameters, and parameters."""
  network = text_encoders.EncoderStack(
    depth=DEPTH, heads=2, head_dim=16, remat=policy
  )
  params = network.init(jax.random.key(1), X)

  def loss(params, x):
    return (network.apply(params, x) ** 2).mean()

  return jax.grad(loss, (0, 1)), params


def counts(jaxpr):
  """Counts primitives, and products apart: with weights, and of attention."""
  found = Counter()
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      _, (batch, _) = eqn.params['dimension_numbers']
      name = 'attention' if batch else 'layer'
    found[name] += 1
    for inner in jax.tree.leaves(list(eqn.params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        found += counts(inner)
  return found


# Products that a block computes again: with weights (queries, keys, values, the
# output, two of the feed-forward, whose last one no gradient reads), and of the
# attention (logits, and their sum of values).
AGAIN = {
  'none': (0, 0),
  'products': (0, 2),
  'offload': (0, 2),
  'attention': (5, 1),
  'full': (5, 2),
}


@pytest.mark.turns(3, group='networks')
@pytest.mark.parametrize('policy', list(remat.POLICIES))
def test_what_is_computed_again(policy):
  run, params = gradient(policy)
  found = counts(jax.make_jaxpr(run)(params, X).jaxpr)
  layers, attention = AGAIN[policy]
  assert found['layer'] == DEPTH * (3 * 6 + layers)
  assert found['attention'] == DEPTH * (3 * 2 + attention)


@pytest.mark.parametrize('policy', list(remat.POLICIES))
def test_convolutions_are_products(policy):
  network = unet.UNet(
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1,),
    attention_resolutions=(),
    num_heads=1,
    in_channels=3,
    out_channels=3,
    remat=policy,
  )
  x, t = jnp.ones((1, 8, 8, 3)), jnp.zeros(1)
  params = jax.eval_shape(network.init, jax.random.key(0), x, t)
  loss = lambda params: network.apply(params, x, t).sum()
  found = counts(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  # Two in each of five residual blocks, and one at both ends. The second one
  # of a block is read by no gradient.
  again = 5 if policy in ('attention', 'full') else 0
  assert found['conv_general_dilated'] == 3 * 12 + again


@pytest.mark.turns(3, group='networks')
def test_policies_give_the_same_gradients():
  run, params = gradient('none')
  want = jax.jit(run)(params, X)
  assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(want)) > 1e-3
  for policy in remat.POLICIES:
    got = jax.jit(gradient(policy)[0])(params, X)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
      got,
      want,
    )


def test_policies_are_in_the_order_of_their_memory():
  sizes = []
  for policy in ('none', 'products', 'attention', 'full'):
    # Its blocks are a loop, of which the compiler for CPUs undoes nothing.
    network = latent_diffit.LatentDiffiT(
      input_size=16, hidden_size=32, num_heads=2, depth=6, remat=policy
    )
    arguments = (jnp.ones((4, 16, 16, 4)), jnp.ones(1), jnp.ones(4, jnp.int32))
    params = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    run = lambda params, network=network, arguments=arguments: network.apply(
      params, *arguments
    ).sum()
    program = jax.jit(jax.grad(run)).lower(params).compile()
    sizes.append(program.memory_analysis().temp_size_in_bytes)
  assert sizes == sorted(sizes, reverse=True)
  assert len(set(sizes)) == len(sizes)


def test_unknown_policies_are_refused():
  with pytest.raises(ValueError, match="remat is 'all', allowed: none, prod"):
    remat.wrapped(text_encoders.EncoderBlock, 'all')


def test_a_cpu_has_no_other_memory_to_offload_to(tmp_path):
  config = configs.load(
    'ldm_shapes.py:class,debug', remat='offload', train__batch_size='8'
  )
  with pytest.raises(errors.UserError, match="'offload', .* is a CPU") as info:
    setup_lib.prepare(config, tmp_path)
  assert '\n' not in str(info.value)
  remat.check('offload', 'tpu')
