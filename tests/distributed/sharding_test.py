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
    ('a/attn/to_q/kernel', (63, 64), P(None, ('fsdp', 'tensor'))),
    ('a/attn/to_out/kernel', (64, 64), P('tensor', 'fsdp')),
    ('a/blocks/attn/qkv/kernel', (64, 192), P(('fsdp', 'tensor'))),
    ('a/blocks/attn/qkv/kernel', (62, 192), P('tensor', 'fsdp')),
    ('enc_8x8_block0/conv0/kernel', (64, 64), P('fsdp', 'tensor')),  # EDM
    ('dec_8x8_in1/conv1/kernel', (64, 64), P('tensor', 'fsdp')),
    ('block_1/o/kernel', (64, 64), P('tensor', 'fsdp')),  # T5
    ('decoder/attn_1/q/kernel', (1, 1, 64, 64), P(None, None, None, 'fsdp')),
    ('a/token_emb/embedding', (64, 32), P(None, 'fsdp')),
    ('a/codebook/embedding', (64, 3), P('fsdp')),
    ('a/blocks/norm/bias', (64, 64), P()),
    ('scale', (), P()),
  ],
)
def test_rules(name, shape, want):
  assert sharding.spec(name, shape, SIZES, min_size=128) == want


def test_without_fsdp_nothing_is_split():
  sizes = {'data': 8, 'fsdp': 1, 'tensor': 1}
  assert sharding.spec('a/kernel', (1024, 1024), sizes, 1) == P()


def test_rows_that_nothing_divides_are_no_reason_to_be_whole():
  sizes = {'data': 16, 'fsdp': 16, 'tensor': 1}
  table = ('condition/token_emb/embedding', (30522, 640))
  assert sharding.spec(*table, sizes, 2**16) == P(None, 'fsdp')


def _mesh(data, fsdp, tensor):
  sizes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
  return mesh_lib.create(ConfigDict(sizes))


def test_moments_and_averages_are_split_as_their_parameters():
  params = {
    'net': {'to_q': {'kernel': jnp.ones((64, 64)), 'bias': jnp.ones((64,))}}
  }
  moments = optax.adam(1e-3).init(params)[0]
  tree = {'params': params, 'mu': moments.mu, 'nu': moments.nu, 'ema': params}
  abstract = sharding.abstract(tree, _mesh(2, 2, 2), 128)
  specs = jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)
  assert specs['params'] == specs['mu'] == specs['nu'] == specs['ema']
  assert specs['params']['net']['to_q']['kernel'] == P('fsdp', 'tensor')


def test_an_update_is_split_over_all_devices():
  leaf = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  tree = {
    'to_q': {'kernel': leaf(64, 64)},
    'qkv': {'kernel': leaf(28, 12, 6)},  # no dimension that 8 divides
    'odd': leaf(12, 33),  # a part of 4 alone
    'small': leaf(8),
  }
  wanted = {
    'to_q/kernel': (8, P('data'), (8, 64)),
    'qkv/kernel': (4, P('data_1', 'data_0'), (14, 3, 6)),
    'odd': (4, P('data_0'), (3, 33)),
    'small': (8, P(), (8,)),
  }
  there = _mesh(8, 1, 1)
  split = sharding.shardings(tree, there, 128, over_all=True)
  for name, place in sharding.leaves(split).items():
    first, axes, shape = wanted[name]
    found = sharding.leaves(tree)[name]
    assert (place.mesh.devices.shape[0], place.spec) == (first, axes)
    assert place.shard_shape(found.shape) == shape
    assert list(place.mesh.devices.flat) == list(there.devices.flat)


def test_table_names_leaves_that_are_whole():
  leaf = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  tree = {
    'to_q': {'kernel': leaf(64, 64)},
    'odd': leaf(63, 9),
    'small': leaf(3),
    'norm': {'bias': leaf(1024, 1024)},
  }
  split = sharding.abstract(tree, _mesh(2, 2, 2), 128)
  _, *ways, bias, odd = sharding.table(split, 128).splitlines()
  assert [way.split('  ')[0] for way in ways] == ['replicated', 'fsdp, tensor']
  assert bias == 'no rule splits norm/bias (1024, 1024)'
  assert odd == 'fsdp cannot split odd (63, 9)'
  whole = sharding.abstract(tree, _mesh(8, 1, 1), 128)
  assert len(sharding.table(whole, 128).splitlines()) == 2
