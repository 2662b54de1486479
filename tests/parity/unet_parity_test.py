"""The U-Net of LDM against numbers, keys and sizes of the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import unet as names
from pyramid_jax.networks import conditioners as conditioners_lib
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import unet as family


FILES = tuple(
  f'ldm_unet_{name}.npz'
  for name in ('class', 'context', 'context_legacy', 'sss_updown', 'uncond')
)

TINY = {
  'image_size': 8,
  'in_channels': 3,
  'out_channels': 3,
  'model_channels': 32,
  'channel_mult': [1, 2],
  'num_res_blocks': 1,
  'attention_resolutions': [2],
}
EVERYWHERE = TINY | {'attention_resolutions': [1, 2]}
CONTEXT = {'use_spatial_transformer': True, 'context_dim': 24}


def _inputs(config, batch=1, side=16):
  inputs = {
    'x': jnp.zeros((batch, side, side, config['in_channels'])),
    't': jnp.zeros(batch),
  }
  if config.get('context_dim'):
    inputs['context'] = jnp.zeros((batch, 5, config['context_dim']))
  if config.get('num_classes'):
    inputs['y'] = jnp.zeros(batch, jnp.int32)
  return inputs


def _template(config, **kwargs):
  network = family.build(config)
  inputs = _inputs(config, **kwargs)
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), **inputs)['params']
  )


def _shapes(config):
  return official_fill.official_shapes(_template(config), names.rename)


@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  rows = verify.compare(verify.run(case), case, 1e-5)
  assert len(rows) == len(case.expected) == 7
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))
  params, report = parts.to_flax(
    'ldm.unet',
    {f'model.diffusion_model.{k}': v for k, v in case.state.items()},
    _template(case.config),
  )
  back = mapping.to_official(params, names.rename)
  assert report.complete
  assert not report.unused
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize(
  ('config', 'mean', 'std', 'first'),
  [
    (
      TINY | {'num_head_channels': 16},
      -0.0007024,
      0.2925364,
      (0.0646468, 0.0782127, 0.1016898, 0.1030862),
    ),
    (
      EVERYWHERE | {'num_heads': 4},
      -0.0787220,
      0.1894011,
      (-0.0407712, -0.0123051, -0.0429343, -0.1404924),
    ),
    (
      EVERYWHERE | {'num_heads': 4, 'use_new_attention_order': True},
      -0.0772469,
      0.2951324,
      (0.0580593, 0.2303050, 0.4153516, 0.4844276),
    ),
    (
      EVERYWHERE
      | {
        'num_heads': 8,
        'use_scale_shift_norm': True,
        'resblock_updown': True,
      },
      0.0406441,
      0.2905482,
      (0.2967040, 0.3493811, 0.2953312, 0.2925213),
    ),
    (
      EVERYWHERE | CONTEXT | {'num_head_channels': 16},
      0.0940423,
      0.2727678,
      (0.2607062, 0.3141215, 0.2375210, 0.1889199),
    ),
    (
      TINY
      | CONTEXT
      | {'num_heads': 8, 'transformer_depth': 2, 'legacy': False},
      0.0413729,
      0.3876579,
      (-0.2107392, 0.0151537, 0.0811855, 0.0645773),
    ),
    (
      TINY | {'num_heads': 2, 'num_classes': 10},
      -0.0946782,
      0.4996685,
      (0.1212852, 0.2022147, 0.1878904, 0.1412430),
    ),
  ],
)
def test_rows_of_the_reference_table(config, mean, std, first):
  inputs = {
    'x': official_fill.sine((2, 3, 8, 8)),
    'timesteps': np.array([7, 500]),
  }
  if 'context_dim' in config:
    inputs['context'] = official_fill.sine((2, 5, 24), 0.9)
  if 'num_classes' in config:
    inputs['y'] = np.array([3, 9])
  got = verify.run(
    families.Case(
      family='ldm.unet',
      config=config,
      state=official_fill.sine_state(_shapes(config)),
      inputs=inputs,
      expected={'y': np.zeros(0)},
      tolerance=1e-4,
    )
  )['y'].astype(np.float64)
  np.testing.assert_allclose(got.mean(), mean, atol=1e-5)
  np.testing.assert_allclose(got.std(), std, atol=1e-5)
  np.testing.assert_allclose(got.ravel()[:4], first, atol=2e-5)


def _published(channels, mult, attention, **more):
  return {
    'in_channels': 3,
    'out_channels': 3,
    'model_channels': channels,
    'channel_mult': mult,
    'attention_resolutions': attention,
    'num_res_blocks': 2,
  } | more


def _attending(dim, **more):
  return {'use_spatial_transformer': True, 'context_dim': dim} | more


FOUR = {'in_channels': 4, 'out_channels': 4}


@pytest.mark.turns(3, group='published sizes')
@pytest.mark.parametrize(
  ('config', 'millions', 'keys'),
  [
    (  # CelebA-HQ, FFHQ, LSUN bedrooms
      _published(224, [1, 2, 3, 4], [8, 4, 2], num_head_channels=32),
      274.06,
      368,
    ),
    (  # LSUN churches
      _published(
        192,
        [1, 2, 2, 4, 4],
        [1, 2, 4, 8],
        num_heads=8,
        use_scale_shift_norm=True,
        resblock_updown=True,
        **FOUR,
      ),
      294.97,
      520,
    ),
    (  # ImageNet, first version
      _published(
        256,
        [1, 2, 4],
        [4, 2, 1],
        **FOUR,
        **_attending(512, num_head_channels=32),
      ),
      394.98,
      626,
    ),
    (  # ImageNet, second version
      _published(192, [1, 2, 3, 5], [8, 4, 2], **_attending(512, num_heads=1)),
      400.92,
      688,
    ),
    (  # text, small
      _published(
        192, [1, 2, 3, 5], [8, 4, 2], **_attending(640, num_head_channels=32)
      ),
      403.62,
      688,
    ),
    (  # text, large
      _published(
        320,
        [1, 2, 4, 4],
        [4, 2, 1],
        **FOUR,
        **_attending(1280, num_heads=8, legacy=False, use_checkpoint=True),
      ),
      872.30,
      686,
    ),
    (  # layout, OpenImages
      _published(
        128,
        [1, 2, 3, 4],
        [8, 4, 2],
        **_attending(512, num_head_channels=32, transformer_depth=3),
      ),
      246.28,
      1328,
    ),
    (  # semantic maps
      _published(128, [1, 4, 8], [32, 16, 8], num_heads=8, in_channels=6),
      215.23,
      216,
    ),
    (  # super-resolution
      _published(
        160, [1, 2, 2, 4], [16, 8], num_head_channels=32, in_channels=6
      ),
      113.62,
      306,
    ),
    (  # inpainting
      _published(
        256,
        [1, 2, 3, 4],
        [8, 4, 2],
        num_heads=8,
        resblock_updown=True,
        in_channels=7,
      ),
      387.25,
      416,
    ),
    (  # what the benchmark runs
      _published(
        128,
        [1, 2, 3],
        [2, 4],
        **FOUR,
        **_attending(512, num_head_channels=32),
      ),
      65.973508,
      496,
    ),
  ],
)
def test_published_sizes(config, millions, keys):
  shapes = _shapes(config)
  count = sum(np.prod(s, dtype=np.int64) for s in shapes.values())
  digits = 2 if millions > 100 else 6
  assert round(count / 1e6, digits) == millions
  assert len(shapes) == keys


def test_keys_of_a_published_network():
  shapes = _shapes(
    _published(224, [1, 2, 3, 4], [8, 4, 2], num_head_channels=32)
  )
  expected = {
    'input_blocks.0.0.weight': (224, 3, 3, 3),
    'time_embed.0.weight': (896, 224),
    'input_blocks.4.0.skip_connection.weight': (448, 224, 1, 1),
    'input_blocks.4.1.qkv.weight': (1344, 448, 1),
    'middle_block.1.proj_out.weight': (896, 896, 1),
    'output_blocks.0.0.in_layers.2.weight': (896, 1792, 3, 3),
    'output_blocks.2.2.conv.weight': (896, 896, 3, 3),
    'out.2.weight': (3, 224, 3, 3),
  }
  assert {k: shapes.get(k) for k in expected} == expected


def test_keys_of_other_options():
  shapes = _shapes(
    TINY
    | {
      'num_heads': 2,
      'n_embed': 7,
      'num_classes': 5,
      'conv_resample': False,
    }
  )
  expected = {
    'label_emb.weight': (5, 128),
    'id_predictor.0.weight': (32,),
    'id_predictor.1.weight': (7, 32, 1, 1),
    'out.2.weight': (3, 32, 3, 3),
    'input_blocks.2.0.op.weight': None,
    'output_blocks.1.2.conv.weight': None,
  }
  assert {k: shapes.get(k) for k in expected} == expected


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'dims': 3}, 'dims = 3'),
    ({'use_fp16': True}, 'use_fp16'),
    ({'learn_sigma': True}, "unknown arguments of UNetModel: .'learn_sigma'"),
    ({'channel_mult': [2, 2]}, r'start with 1; got channel_mult = \[2, 2\]'),
    ({'num_heads': 5}, '64 channels cannot be split .* num_heads = 5'),
    ({'num_heads': -1}, 'num_heads = -1, num_head_channels = -1'),
    ({'context_dim': 8}, 'context_dim belongs to use_spatial_transformer'),
    ({'use_spatial_transformer': True}, 'context_dim = None'),
  ],
)
def test_what_the_official_code_cannot_run_is_refused(change, message):
  with pytest.raises(families.Unsupported, match=message):
    family.build(TINY | {'num_heads': 2} | change)


def test_unknown_outputs_are_refused(golden):
  case = verify.read_case(golden('ldm_unet_uncond.npz'))
  case.expected['half'] = np.zeros(1)
  with pytest.raises(families.Unsupported, match='half'):
    family.run(case)


def test_spatial_rescaler_of_the_reference_table():
  rescaler = conditioners_lib.SpatialRescaler(n_stages=2, out_channels=3)
  x = official_fill.sine((1, 5, 16, 16)).transpose(0, 2, 3, 1)
  template = jax.eval_shape(rescaler.init, jax.random.key(0), x)['params']
  shapes = official_fill.official_shapes(
    template, parts.part('class_embedder').rename
  )
  assert shapes == {'channel_mapper.weight': (3, 5, 1, 1)}
  params, _ = parts.to_flax(
    'spatial_rescaler', official_fill.sine_state(shapes), template
  )
  with jax.default_matmul_precision('highest'):
    got = np.float64(rescaler.apply({'params': params}, x))
  got = got.transpose(0, 3, 1, 2)
  assert got.shape == (1, 3, 4, 4)
  np.testing.assert_allclose(got.mean(), 0.0018331, atol=1e-6)
  np.testing.assert_allclose(got.std(), 0.0246495, atol=1e-6)
  first = (-0.0143089, -0.0006577, 0.0131186, 0.0243960)
  np.testing.assert_allclose(got.ravel()[:4], first, atol=1e-6)


def test_class_embedder_is_the_official_table():
  embedder = conditioners_lib.ClassEmbedder(n_classes=4, dim=2)
  ids = jnp.array([3, 0])
  template = jax.eval_shape(embedder.init, jax.random.key(0), ids)['params']
  table = np.arange(8, dtype=np.float32).reshape(4, 2)
  state = {'cond_stage_model.embedding.weight': table}
  params, report = parts.to_flax('class_embedder', state, template)
  assert report.complete
  got = embedder.apply({'params': params}, ids)
  np.testing.assert_array_equal(got, [[[6, 7]], [[0, 1]]])
