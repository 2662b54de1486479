"""What only a GPU or a TPU can show.

JAX_PLATFORMS=cuda python -m pytest tests/accelerators_test.py -m gpu
JAX_PLATFORMS=tpu python -m pytest tests/accelerators_test.py -m tpu
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.networks.layers import attention
from pyramid_jax.training import loop as train


CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'ldm_shapes.py'


def attended(implementation, batch, tokens, with_bias):
  """Returns the results and the gradients of one attention in bfloat16."""
  keys = jax.random.split(jax.random.key(0), 5)
  draw = lambda key: jax.random.normal(key, (batch, tokens, 4, 64))
  mesh = mesh_lib.pure_data()
  q, k, v, weights = jax.device_put(
    [draw(key).astype(jnp.bfloat16) for key in keys[:4]],
    mesh_lib.batch_sharding(mesh),
  )
  bias = jax.random.normal(keys[4], (4, tokens, tokens)) if with_bias else None

  def total(q, k, v):
    out = attention.dot_product_attention(
      q, k, v, bias=bias, implementation=implementation
    )
    return (out * weights).sum(dtype=jnp.float32), out

  both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
  (_, out), gradients = both(q, k, v)
  assert out.sharding.is_equivalent_to(q.sharding, out.ndim)
  return [np.asarray(x, np.float32) for x in (out, *gradients)]


def assert_kernel_equals_xla(kernel, with_bias):
  count = 2 * jax.device_count()
  want = attended('xla', count, 256, with_bias)
  for a, b in zip(attended(kernel, count, 256, with_bias), want, strict=True):
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())


def losses(folder, implementation):
  """Returns the losses of three steps in bfloat16."""
  config = config_lib.load(f'{CONFIG}:text,debug')
  values = {
    'dtype': 'bfloat16',
    'attention': implementation,
    'train.steps': '3',
    'train.batch_size': str(2 * jax.device_count()),
    'first_stage.train.batch_size': str(2 * jax.device_count()),
    'first_stage.train.steps': '2',
  }
  config_lib.override(config, values)
  train.run(config, folder)
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(row)['loss'] for row in rows]


def assert_steps_equal_those_of_xla(folder, kernel):
  got, want = losses(folder / 'kernel', kernel), losses(folder / 'xla', 'xla')
  assert len(got) == 3
  np.testing.assert_allclose(got, want, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize('with_bias', [False, True])
def test_the_kernel_of_cudnn_equals_xla(with_bias):
  assert_kernel_equals_xla('cudnn', with_bias)


@pytest.mark.gpu
def test_steps_with_the_kernel_of_cudnn(tmp_path):
  assert_steps_equal_those_of_xla(tmp_path, 'cudnn')


@pytest.mark.tpu
@pytest.mark.parametrize('with_bias', [False, True])
def test_the_flash_kernel_equals_xla_on_a_mesh(with_bias):
  assert_kernel_equals_xla('flash', with_bias)


@pytest.mark.tpu
def test_steps_with_the_flash_kernel(tmp_path):
  assert_steps_equal_those_of_xla(tmp_path, 'flash')
