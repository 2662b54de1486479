"""The pyramid U-Net against numbers and keys of the official code."""

import ctypes
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import unet as names
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import pyunet as family


FILES = (
  'frido_pyunet_2s.npz',
  'frido_pyunet_2s_plain.npz',
  'frido_pyunet_3s_mscond.npz',
)

COMMON = {
  'num_head_channels': 32,
  'use_spatial_transformer': True,
  'num_stage': 2,
  'use_split_head': True,
  'use_SPADE_norm': True,
}

SMALL = COMMON | {
  'image_size': 16,
  'in_channels': 8,
  'out_channels': 8,
  'split_embed_dim_list': [4, 4],
  'model_channels': 32,
  'channel_mult': [1, 2],
  'num_res_blocks': 1,
  'attention_resolutions': [2],
  'context_dim': 48,
}


def _published(size, channels, context_dim=640):
  return COMMON | {
    'image_size': size,
    'in_channels': 2 * channels,
    'out_channels': 2 * channels,
    'split_embed_dim_list': [channels, channels],
    'model_channels': 192,
    'channel_mult': [1, 2, 3, 5],
    'num_res_blocks': 2,
    'attention_resolutions': [8, 4, 2],
    'context_dim': context_dim,
  }


def _template(config, **inputs):
  network = family.build(config)
  x = jnp.zeros((1, 8, 8, config['in_channels']))
  inputs = {'x': x, 't': jnp.zeros(1), 'stage': 0} | inputs
  if config.get('context_dim'):
    inputs['context'] = jnp.zeros((1, 3, config['context_dim']))
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), **inputs)['params']
  )


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, 1e-5)
  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize(
  'name', ['uncond', 'class', 'context', 'context_legacy', 'sss_updown']
)
def test_without_its_own_options_it_is_the_unet_of_ldm(golden, name):
  # Same trunk and keys; only the rule of the head counts has to be named.
  case = verify.read_case(golden(f'ldm_unet_{name}.npz'))
  config = {**case.config, 'legacy': False, 'use_embed': True}
  expected = {
    'y_0': case.expected['y'],
    'middle_0': case.expected['middle_block'],
  }
  case = dataclasses.replace(case, config=config, expected=expected)
  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, 1e-5)
  assert len(rows) == 2
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))
  params, report = mapping.to_flax(
    case.state, _template(case.config), names.rename
  )
  back = mapping.to_official(params, names.rename)
  assert report.complete
  assert not report.unused
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


def _check(got, shape, first, mean, std, abs_sum, name=''):
  """Compares an array with a row of the reference table (NCHW)."""
  got = np.asarray(got, np.float64)
  if got.ndim == 4:
    got = got.transpose(0, 3, 1, 2)
  assert got.shape == shape
  # the table has six decimals, or seven digits of sums
  close = np.testing.assert_allclose
  # Between processors, float32 differs by 4e-6 where the values are below 4.
  close(got.ravel()[: len(first)], first, atol=1e-5, err_msg=name)
  if mean is not None:
    close(got.mean(), mean, atol=2e-6, err_msg=name)
  close(got.std(), std, atol=5e-6, err_msg=name)
  close(np.abs(got).sum(), abs_sum, rtol=5e-6, err_msg=name)


def _filled(config, x_shape, context_shape):
  """Returns network, parameters and inputs of the table's fill rule."""
  network = family.build(config)
  x = official_fill.inputs('x', x_shape).transpose(0, 2, 3, 1)
  context = official_fill.inputs('context', context_shape)
  params = official_fill.params(
    network.init, names.rename, x, jnp.zeros(1), context, stage=0
  )
  return network, params, x, context


@pytest.mark.turns(3, group='recorded cases')
def test_rows_of_the_reference_table():
  network, params, x, context = _filled(SMALL, (2, 8, 16, 16), (2, 7, 48))
  t = jnp.array([10, 500])

  @jax.jit
  def run(params):
    coarse = network.apply({'params': params}, x[..., :4], t, context, stage=0)
    fine, taken = network.apply(
      {'params': params},
      x,
      t,
      context,
      stage=1,
      capture_intermediates=True,
      mutable=['intermediates'],
    )
    return coarse, fine, taken['intermediates']

  with jax.default_matmul_precision('highest'):
    coarse, fine, parts = run(params)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4_615_208
  assert len(jax.tree.leaves(params)) == 337

  def part(name):
    return parts[name]['__call__'][0]

  emb = np.float64(part('time_embed_2'))
  rows = {
    'time_embed': (
      emb,
      (2, 128),
      [-0.190995, 0.112938, -0.636172, -0.047842],
      (-0.0171290, 0.385047, 78.84119),
    ),
    'with the scale': (
      emb + part('stage_emb'),
      (2, 128),
      [-0.228032, 0.253151, -0.730699, -0.196689],
      (-0.0125178, 0.398072, 82.63920),
    ),
    'stem': (
      part('pre_input_blocks_1_0'),
      (2, 32, 16, 16),
      [-0.716567, -0.553871, 1.124532, 0.300134],
      (None, 0.552519, 7194.11473),
    ),
    'features of the coarse scale': (
      part('pre_input_cond_blocks_0_0'),
      (2, 32, 16, 16),
      [0.693755, 0.324227, 0.885274, -0.799440],
      (None, 0.557802, 7265.16785),
    ),
    'gated block': (
      part('input_blocks_0_0'),
      (2, 32, 16, 16),
      [-0.537341, -0.871822, -0.785594, 0.546911],
      (None, 0.866129, 11221.7442),
    ),
    'downsample': (
      part('input_blocks_1_0'),
      (2, 32, 8, 8),
      [-0.805174, -0.395497, 0.779442, 0.926930],
      (None, 0.837304, 2701.40829),
    ),
    'transformer': (
      part('input_blocks_2_1'),
      (2, 64, 8, 8),
      [-0.211815, 3.063593, -1.004062, -1.940864],
      (None, 1.740187, 11193.3467),
    ),
    'middle': (
      part('middle_block_2'),
      (2, 64, 8, 8),
      [2.790247, 3.868886, -1.185410, -3.470341],
      (None, 2.484361, 15944.3711),
    ),
    'coarse output': (
      coarse,
      (2, 4, 16, 16),
      [-0.370438, -0.164156, -0.038323, 0.345432],
      (-0.0490980, 0.584263, 928.05143),
    ),
    'fine output': (
      fine,
      (2, 4, 16, 16),
      [-0.260460, 0.282768, 0.109549, 0.090733],
      (0.0711507, 0.527504, 843.88274),
    ),
  }
  for name, (got, shape, first, sums) in rows.items():
    _check(got, shape, first, *sums, name=name)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_rows_of_the_published_size():
  network, params, x, context = _filled(
    _published(32, 4), (1, 8, 32, 32), (1, 77, 640)
  )
  # 2 GB, held once: the memory of each array goes back as it is placed.
  leaves, tree = jax.tree.flatten(params)
  del params
  for i in range(len(leaves)):
    leaves[i] = jnp.asarray(leaves[i])
    if i % 20 == 0:
      ctypes.CDLL(None).malloc_trim(0)
  params = jax.tree.unflatten(tree, leaves)
  t = jnp.array([500])
  rows = [
    [0.485139, -0.139137, 0.228178, -0.040225],
    [0.119771, -0.491231, -0.210103, -0.382325],
  ]
  sums = [
    (0.1197876, 0.494413, 1637.0590),
    (-0.1472707, 0.507777, 1710.2985),
  ]
  for stage in range(2):
    apply = jax.jit(network.apply, static_argnames='stage')
    with jax.default_matmul_precision('highest'):
      got = apply({'params': params}, x, t, context, stage=stage)
    _check(got, (1, 4, 32, 32), rows[stage], *sums[stage])


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize(
  ('size', 'channels', 'parameters'),
  [(32, 4, 511_678_088), (64, 3, 511_669_446)],
)
def test_published_sizes(size, channels, parameters):
  shapes = official_fill.official_shapes(
    _template(_published(size, channels)), names.rename
  )
  assert len(shapes) == 1057
  assert sum(np.prod(s) for s in shapes.values()) == parameters
  expected = {
    'time_embed.0.weight': (768, 192),
    'stage_emb.weight': (2, 768),
    'pre_input_blocks.1.0.weight': (192, channels, 3, 3),
    'pre_input_cond_blocks.0.0.weight': (192, channels, 3, 3),
    'input_blocks.0.0.in_layers.0.mlp_shared.0.weight': (128, 192, 3, 3),
    'input_blocks.2.0.op.weight': (192, 192, 3, 3),
    'input_blocks.3.0.skip_connection.weight': (384, 192, 1, 1),
    'input_blocks.3.0.emb_layers.1.weight': (384, 768),
    'input_blocks.10.1.norm.param_free_norm.weight': (960,),
    'middle_block.1.proj_in.weight': (960, 960, 1, 1),
    'output_blocks.2.0.in_layers.2.weight': (960, 1536, 3, 3),
    'output_blocks.2.2.conv.weight': (960, 960, 3, 3),
    'output_blocks.11.0.out_layers.3.weight': (192, 192, 3, 3),
    'out.1.2.weight': (channels, 192, 3, 3),
  }
  block = 'output_blocks.8.1.transformer_blocks.0'
  expected |= {
    f'{block}.attn1.to_out.0.weight': (384, 384),
    f'{block}.attn2.to_k.weight': (384, 640),
    f'{block}.ff.net.0.proj.weight': (8 * 384, 384),
    f'{block}.ff.net.2.weight': (384, 4 * 384),
    f'{block}.norm3.bias': (384,),
  }
  assert {k: shapes.get(k) for k in expected} == expected


PLAIN = SMALL | {
  'use_spatial_transformer': False,
  'context_dim': None,
  'use_split_head': False,
  'use_SPADE_norm': False,
  'num_stage': 1,
}


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (
      PLAIN | {'n_embed': 7, 'num_classes': 5, 'use_embed': True},
      {
        'input_blocks.0.0.weight': (32, 8, 3, 3),
        'input_blocks.3.1.qkv.weight': (192, 64, 1),
        'middle_block.1.proj_out.weight': (64, 64, 1),
        'label_emb.weight': (5, 128),
        'out.2.weight': (8, 32, 3, 3),
        'id_predictor.0.weight': (32,),
        'id_predictor.1.weight': (7, 32, 1, 1),
      },
    ),
    (
      SMALL | {'use_spatial_transformer': False, 'context_dim': None},
      {
        'pre_input_blocks.1.0.weight': (32, 4, 3, 3),
        'input_blocks.2.1.qkv.weight': (192, 64, 1),
      },
    ),
    (
      SMALL
      | {
        'use_stage_expert': True,
        'resblock_updown': True,
        'use_scale_shift_norm': True,
        'num_classes': 5,
      },
      {
        'label_emb.weight': (128, 5),
        'input_blocks_expert.1.1.0.in_layers.2.weight': (32, 32, 3, 3),
        'middle_block_expert.1.0.emb_layers.1.weight': (128, 128),
        'output_blocks_expert.0.1.2.out_layers.3.weight': (64, 64, 3, 3),
      },
    ),
  ],
)
def test_keys_of_the_options(config, expected):
  inputs = {}
  if config.get('num_classes'):
    is_id = config.get('use_embed')
    inputs['y'] = jnp.zeros(1, int) if is_id else jnp.zeros((1, 5))
  shapes = official_fill.official_shapes(
    _template(config, **inputs), names.rename
  )
  assert {k: shapes.get(k) for k in expected} == expected


def test_parameters_of_ours_have_keys_too():
  place = ('input_blocks_2_1', 'transformer_blocks_0', 'attn2')
  key = 'input_blocks.2.1.transformer_blocks.0.attn2'
  renamed = names.rename((*place, 'place_strength'))
  assert renamed == (f'{key}.place_strength', 'raw')
  assert names.rename((*place, 'to_k', 'kernel')) == (
    f'{key}.to_k.weight',
    'linear',
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'dims': 3}, 'dims'),
    ({'use_fp16': True}, 'use_fp16'),
    ({'learn_sigma': True}, 'learn_sigma'),
    ({'in_channels': 9}, 'in_channels'),
    ({'channel_mult': [2, 2]}, 'channel_mult'),
    ({'num_head_channels': -1}, 'num_head_channels'),
    ({'num_head_channels': 48, 'legacy': False, 'n_embed': 3}, 'n_embed'),
    ({'context_dim': None}, 'context_dim'),
    ({'split_embed_dim_list': []}, 'split_embed_dim_list'),
  ],
)
def test_what_the_official_code_cannot_run_is_refused(change, message):
  with pytest.raises(families.Unsupported, match=message):
    family.build(SMALL | change)
