import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import optax
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding


SIZES = {'data': 2, 'fsdp': 2, 'tensor': 2}


@pytest.mark.parametrize(
  ('name', 'shape', 'want'),
  [
    ('a/conv/kernel', (3, 3, 64, 128), P(None, None, None, 'fsdp')),
    ('a/conv/kernel', (3, 3, 128, 64), P(None, None, 'fsdp')),
    ('a/conv/kernel', (64, 64), P(None, 'fsdp')),  # the last of equals
    ('a/conv/kernel', (6, 129), P('fsdp')),  # 129 does not divide
    ('a/conv/kernel', (63, 129), P()),
    ('a/conv/kernel', (8, 8), P()),  # too small
    ('a/attn/to_q/kernel', (64, 64), P('fsdp', 'tensor')),
    ('a/attn/to_q/kernel', (12, 64, 64), P(None, 'fsdp', 'tensor')),  # scanned
    ('a/attn/to_q/kernel', (63, 64), P(None, 'tensor')),
    ('a/attn/to_out_0/kernel', (64, 64), P('tensor', 'fsdp')),
    ('scale', (), P()),
  ],
)
def test_rules(name, shape, want):
  assert sharding.spec(name, shape, SIZES, min_size=128) == want


def test_without_fsdp_nothing_is_split():
  sizes = {'data': 8, 'fsdp': 1, 'tensor': 1}
  assert sharding.spec('a/kernel', (1024, 1024), sizes, 1) == P()


def test_moments_live_where_their_parameters_do():
  mesh = mesh_lib.create(ConfigDict({'data': 2, 'fsdp': 4, 'tensor': 1}))
  params = {
    'net': {'to_q': {'kernel': jnp.ones((64, 64)), 'bias': jnp.ones((64,))}}
  }
  moments = optax.adam(1e-3).init(params)[0]
  tree = {'params': params, 'mu': moments.mu, 'nu': moments.nu}
  abstract = sharding.abstract(tree, mesh, 128)
  specs = jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)
  assert specs['params'] == specs['mu'] == specs['nu']
  assert specs['params']['net']['to_q']['kernel'] == P('fsdp', 'tensor')
  table = sharding.table(abstract)
  assert 'fsdp, tensor' in table
  assert 'replicated' in table
