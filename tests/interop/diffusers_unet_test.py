"""The U-Net of LDM in the layout of the diffusers library."""

import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import convert as convert_command
from pyramid_jax.interop import convert
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import diffusers_unet
from pyramid_jax.interop.families import unet as names
from tests.helpers import official_fill
from tests.parity.families import unet as family


# Compiling costs more than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'

TINY = {
  'in_channels': 3,
  'out_channels': 3,
  'model_channels': 32,
  'channel_mult': [1, 2],
  'num_res_blocks': 1,
  'attention_resolutions': [2],
}
ATTENDING = {'use_spatial_transformer': True, 'context_dim': 24}
FOUR = {'in_channels': 4, 'out_channels': 4}
SD_1 = FOUR | {
  'model_channels': 320,
  'channel_mult': [1, 2, 4, 4],
  'num_res_blocks': 2,
  'attention_resolutions': [4, 2, 1],
  'num_heads': 8,
  'use_spatial_transformer': True,
  'context_dim': 768,
  'legacy': False,
}

NETWORKS = {
  'transformers': TINY
  | ATTENDING
  | FOUR
  | {'attention_resolutions': [1], 'num_heads': 4, 'legacy': False},
  'transformers_class': TINY
  | ATTENDING
  | {'num_head_channels': 16, 'num_classes': 7, 'use_scale_shift_norm': True},
  'self': TINY | {'num_head_channels': 16},
  'self_class_updown': TINY
  | {
    'attention_resolutions': [1],
    'num_head_channels': 8,
    'num_classes': 5,
    'use_scale_shift_norm': True,
    'resblock_updown': True,
  },
  'one_head': TINY | {'attention_resolutions': [1, 2], 'num_heads': 1},
  'new_order': TINY
  | {'num_head_channels': 16, 'use_new_attention_order': True},
  'deep': TINY
  | ATTENDING
  | {'num_res_blocks': 2, 'transformer_depth': 3, 'num_head_channels': 16},
  'levels': TINY
  | {'channel_mult': [1, 1, 2], 'attention_resolutions': [4, 1]}
  | {'num_head_channels': 16},
  'middle_only': TINY | {'attention_resolutions': [], 'num_heads': 2},
  'one_level': TINY | {'channel_mult': [1], 'num_head_channels': 16},
  'updown_beside_transformers': TINY
  | ATTENDING
  | {'channel_mult': [1, 1, 2], 'attention_resolutions': [8]}
  | {'num_heads': 2, 'resblock_updown': True},
}


def inputs(config):
  call = {'x': jnp.zeros((2, 8, 8, config['in_channels'])), 't': jnp.zeros(2)}
  if 'context_dim' in config:
    call['context'] = jnp.zeros((2, 5, config['context_dim']))
  if 'num_classes' in config:
    call['y'] = jnp.zeros(2, jnp.int32)
  return call


def traced(config, **ours):
  """The parameters of a network, as shapes."""
  network = family.build(config).clone(**ours)
  init = lambda: network.init(jax.random.key(0), **inputs(config))
  return jax.eval_shape(init)['params']


@functools.cache
def template(name):
  return traced(NETWORKS[name])


def heads_of(config):
  return diffusers_unet.Heads.of(family.build(config))


def zeros(tree):
  """An official state dict of no size in memory."""
  return {
    key: np.broadcast_to(np.float32(0), shape)
    for key, shape in official_fill.official_shapes(tree, names.rename).items()
  }


def random_state(tree):
  rng = np.random.default_rng(0)
  draw = lambda shape: rng.random(shape, np.float32)
  return {key: draw(value.shape) for key, value in zeros(tree).items()}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value, err_msg=key)


def linear(state):
  """Projections of transformers as linear layers (use_linear_projection)."""
  return {
    key: value[:, :, 0, 0] if '.proj_' in key and value.ndim == 4 else value
    for key, value in state.items()
  }


def old_names(state):
  """The attention of files from before diffusers 0.15."""
  pairs = (
    ('to_q', 'query'),
    ('to_k', 'key'),
    ('to_v', 'value'),
    ('to_out.0', 'proj_attn'),
  )
  renamed = {}
  for key, value in state.items():
    for new, old in pairs:
      if 'transformer_blocks' not in key:
        key = key.replace(f'.{new}.', f'.{old}.')
    renamed[key] = value
  return renamed


# Outputs of diffusers 0.42.1 (UNet2DConditionModel and UNet2DModel) whose
# tensors are filled by their keys in that library.
@pytest.mark.turns(3, group='releases')
@pytest.mark.parametrize(
  ('name', 'change', 'mean', 'std', 'first'),
  [
    (
      'transformers_class',
      linear,
      -0.1048201,
      0.5556322,
      (0.1856164, 0.4965109, -0.2189887, 0.0473389),
    ),
    (
      'self',
      old_names,
      -0.1108118,
      0.5125343,
      (-0.0670488, -0.0470723, -0.2630110, -0.2060637),
    ),
    (
      'self_class_updown',
      dict,
      -0.1100838,
      0.5465792,
      (0.0762941, 0.1811745, -0.2147215, 0.1286200),
    ),
  ],
)
def test_outputs_of_the_library(name, change, mean, std, first):
  config = NETWORKS[name]
  network = family.build(config)
  tree, heads = template(name), heads_of(config)
  state = {
    key: official_fill.tensor(key, value.shape)
    for key, value in diffusers_unet.from_official(zeros(tree), heads).items()
  }
  params, report = parts.to_flax('ldm.unet', change(state), tree, heads)
  report.require_complete()
  assert not report.unused
  x = official_fill.sine((2, config['in_channels'], 8, 8))
  call = {'x': x.transpose(0, 2, 3, 1), 't': np.array([7, 500])}
  if 'context_dim' in config:
    call['context'] = official_fill.sine((2, 5, 24), 0.9)
  if 'num_classes' in config:
    call['y'] = np.array([1, 4])
  with jax.default_matmul_precision('highest'):
    apply = jax.jit(
      lambda params, call: network.apply(params, **call),
      compiler_options=FAST,
    )
    y = np.asarray(apply({'params': params}, call), np.float64)
  y = y.transpose(0, 3, 1, 2)
  np.testing.assert_allclose(y.mean(), mean, atol=1e-5)
  np.testing.assert_allclose(y.std(), std, atol=1e-5)
  np.testing.assert_allclose(y.ravel()[:4], first, atol=2e-5)


@pytest.mark.turns(3, group='releases')
@pytest.mark.parametrize('name', NETWORKS)
def test_there_and_back(name):
  heads, tree = heads_of(NETWORKS[name]), template(name)
  official = random_state(tree)
  params, report = parts.to_flax('ldm.unet', official, tree)
  report.require_complete()
  theirs = parts.to_official('ldm.unet', params, 'diffusers', heads)
  assert not any('blocks_' in key or '.qkv.' in key for key in theirs)
  for change in (dict, linear, old_names):
    again, report = parts.to_flax('ldm.unet', change(theirs), tree, heads)
    report.require_complete()
    assert not report.unused
    assert_same(parts.to_official('ldm.unet', again), official)
    assert_same(
      parts.to_official('ldm.unet', again, 'diffusers', heads), theirs
    )


def test_official_state_dicts_stay_as_they_are():
  official = zeros(template('self'))
  assert diffusers_unet.to_official(official) is official


# (key, shape, key of the same tensor in the official layout)
NAMES = (
  ('conv_in.weight', (320, 4, 3, 3), 'input_blocks.0.0.weight'),
  ('time_embedding.linear_2.bias', (1280,), 'time_embed.2.bias'),
  (
    'down_blocks.1.resnets.0.conv_shortcut.weight',
    (640, 320, 1, 1),
    'input_blocks.4.0.skip_connection.weight',
  ),
  (
    'down_blocks.2.downsamplers.0.conv.weight',
    (1280, 1280, 3, 3),
    'input_blocks.9.0.op.weight',
  ),
  (
    'down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight',
    (1280, 768),
    'input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight',
  ),
  (
    'mid_block.attentions.0.proj_in.weight',
    (1280, 1280, 1, 1),
    'middle_block.1.proj_in.weight',
  ),
  (
    'mid_block.resnets.1.time_emb_proj.weight',
    (1280, 1280),
    'middle_block.2.emb_layers.1.weight',
  ),
  # no attention in front of the first, so another place than the second
  (
    'up_blocks.0.upsamplers.0.conv.bias',
    (1280,),
    'output_blocks.2.1.conv.bias',
  ),
  (
    'up_blocks.1.upsamplers.0.conv.bias',
    (1280,),
    'output_blocks.5.2.conv.bias',
  ),
  (
    'up_blocks.3.resnets.2.conv1.weight',
    (320, 640, 3, 3),
    'output_blocks.11.0.in_layers.2.weight',
  ),
  (
    'up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight',
    (2560, 320),
    'output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight',
  ),
  ('conv_norm_out.weight', (320,), 'out.0.weight'),
  ('conv_out.weight', (4, 320, 3, 3), 'out.2.weight'),
)


def test_names_of_the_stable_diffusion_unet():
  shapes = official_fill.official_shapes(traced(SD_1), names.rename)
  official = {
    key: np.broadcast_to(np.float32(i), shape)
    for i, (key, shape) in enumerate(shapes.items())
  }
  theirs = diffusers_unet.from_official(official)
  assert len(theirs) == len(official) == 686
  # as printed in the library's ModelMixin.num_parameters
  assert sum(value.size for value in theirs.values()) == 859_520_964
  for key, shape, ours in NAMES:
    assert theirs[key].shape == shape
    assert theirs[key].flat[0] == official[ours].flat[0], key
  # of all keys and shapes of UNet2DConditionModel in diffusers 0.42.1
  lines = [f'{key} {value.shape}' for key, value in sorted(theirs.items())]
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  assert digest == (
    '5159ace1d6e60acb2ff7b9ddd73044e92771c04623d5c12ebfaaf0067d0aabb7'
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'num_heads': 1, 'conv_resample': False},
      r'^levels .*conv_resample = False',
    ),
    (
      {'attention_resolutions': [1, 2], 'num_heads': 2},
      r'^heads of \[16, 32\] channels: .* one width',
    ),
    (
      ATTENDING | {'num_head_channels': 24, 'legacy': False},
      r'proj_in.weight is \(48, 64, 1, 1\): .* fill the channels',
    ),
    (
      ATTENDING | {'num_heads': 2, 'resblock_updown': True},
      r'^up_blocks.0.upsamplers.0.norm1.weight: .*resblock_updown = False',
    ),
    (
      ATTENDING
      | {'num_heads': 2, 'resblock_updown': True}
      | {'attention_resolutions': [1]},
      r'^down_blocks.0.downsamplers.0.norm1.weight: .*resblock_updown',
    ),
  ],
)
def test_networks_that_the_library_lacks_are_told(change, message):
  config = TINY | change
  with pytest.raises(ValueError, match=message) as error:
    diffusers_unet.from_official(zeros(traced(config)), heads_of(config))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'options', [{'grid_frequencies': 2}, {'pool_context': True}]
)
def test_what_is_ours_alone_is_told(options):
  config = TINY | ATTENDING | {'num_heads': 2}
  with pytest.raises(ValueError, match=r'(grid_proj|pooled_).* has no name'):
    diffusers_unet.from_official(zeros(traced(config, **options)))


def test_foreign_networks_are_told():
  heads = heads_of(NETWORKS['self'])
  theirs = diffusers_unet.from_official(zeros(template('self')), heads)

  def refuse(message, state, heads=heads):
    with pytest.raises(ValueError, match=message) as error:
      diffusers_unet.to_official(state, heads)
    assert '\n' not in str(error.value)

  more = np.zeros((4, 4), np.float32)
  key = 'add_embedding.linear_1.weight'
  refuse(rf'^{key} of diffusers has no place', theirs | {key: more})
  key = 'down_blocks.1.resnets.1.conv1.weight'
  refuse(r'^levels of \[1, 2\] residual blocks', theirs | {key: more})
  lacking = dict(theirs)
  del lacking['mid_block.attentions.0.to_k.weight']
  refuse(r'middle_block.1 has .to_q, .to_v of shapes', lacking)
  refuse(r'^\w+.\w+.1 is .*: without the number of its heads', theirs, None)
  other = diffusers_unet.Heads(counts=dict.fromkeys(heads.counts, 5))
  refuse(r'of 64 channels, which the config has with 5 heads', theirs, other)
  none = diffusers_unet.Heads(counts={})
  refuse(r'of 64 channels, which the config has not', theirs, none)


@pytest.mark.parametrize(
  ('variant', 'layout'),
  [
    ('stable_diffusion.py:v1,debug', 'diffusers'),
    ('ldm_unconditional.py:ffhq,debug', 'official'),
  ],
)
def test_a_file_of_one_layout_is_exported_in_both(
  variant, layout, tmp_path, capsys
):
  config = f'{CONFIGS}/{variant}'
  loaded = config_lib.load(config)
  tree = convert._template('ldm.unet', loaded, False, {})
  heads = diffusers_unet.Heads.of(convert._system(loaded).unet)
  assert bool(heads.counts) == ('uncond' in variant)
  official = random_state(tree)
  files = {
    'official': official,
    'diffusers': diffusers_unet.from_official(official, heads),
  }
  file, workdir = tmp_path / 'unet.safetensors', tmp_path / 'run'
  safetensors_file.write(file, files[layout], {'format': 'pt'})
  flags = ['--family=ldm.unet', f'--workdir={workdir}']
  code = convert_command.main(
    [*flags, f'--config={config}', f'--checkpoint={file}']
  )
  assert code == errors.OK
  printed = capsys.readouterr().out
  assert 'missing: 0\nmismatched: 0\nunused: 0' in printed
  params = parts.load_part('ldm.unet', workdir / 'params.safetensors', tree)
  want = official['input_blocks.0.0.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(params['input_blocks_0_0']['kernel'], want)
  for target in parts.LAYOUTS:
    out = tmp_path / f'{target}.safetensors'
    code = convert_command.main(
      [*flags, f'--export={out}', f'--layout={target}']
    )
    assert code == errors.OK
    assert_same(safetensors_file.Tensors(out), files[target])


def test_a_whole_model_has_no_such_layout(tmp_path, capsys):
  code = convert_command.main(
    [
      '--family=ldm',
      f'--workdir={tmp_path}',
      f'--export={tmp_path}/x.safetensors',
      '--layout=diffusers',
    ]
  )
  assert code == errors.USAGE
  assert '--layout=diffusers is one of single' in capsys.readouterr().err
