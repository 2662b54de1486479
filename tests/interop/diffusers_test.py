"""The autoencoders of LDM under the names of the diffusers library."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import convert as convert_command
from pyramid_jax.interop import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import diffusers
from pyramid_jax.interop.families import msvqgan as family
from pyramid_jax.systems import autoencoder


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'

# Names of a released SD 1.x file, with shapes: (key, shape, key of the same
# tensor in the official layout).
NAMES = (
  ('encoder.conv_in.weight', (128, 3, 3, 3), 'encoder.conv_in.weight'),
  (
    'encoder.down_blocks.1.resnets.0.conv_shortcut.weight',
    (256, 128, 1, 1),
    'encoder.down.1.block.0.nin_shortcut.weight',
  ),
  (
    'encoder.down_blocks.0.downsamplers.0.conv.bias',
    (128,),
    'encoder.down.0.downsample.conv.bias',
  ),
  (
    'encoder.mid_block.attentions.0.to_q.weight',
    (512, 512),
    'encoder.mid.attn_1.q.weight',
  ),
  (
    'decoder.mid_block.attentions.0.to_out.0.bias',
    (512,),
    'decoder.mid.attn_1.proj_out.bias',
  ),
  (
    'decoder.mid_block.attentions.0.group_norm.weight',
    (512,),
    'decoder.mid.attn_1.norm.weight',
  ),
  (
    'decoder.mid_block.resnets.1.conv2.weight',
    (512, 512, 3, 3),
    'decoder.mid.block_2.conv2.weight',
  ),
  # levels of the decoder are counted from the other end
  (
    'decoder.up_blocks.0.upsamplers.0.conv.weight',
    (512, 512, 3, 3),
    'decoder.up.3.upsample.conv.weight',
  ),
  (
    'decoder.up_blocks.3.resnets.0.conv_shortcut.weight',
    (128, 256, 1, 1),
    'decoder.up.0.block.0.nin_shortcut.weight',
  ),
  ('decoder.conv_norm_out.weight', (128,), 'decoder.norm_out.weight'),
  ('decoder.conv_out.bias', (3,), 'decoder.conv_out.bias'),
  ('quant_conv.weight', (8, 8, 1, 1), 'quant_conv.weight'),
  ('post_quant_conv.bias', (4,), 'post_quant_conv.bias'),
)


def template(variant):
  config = config_lib.load(f'{CONFIGS}/ldm_autoencoder.py:{variant}')
  model = autoencoder.network(config)
  image = jnp.zeros((1, 32, 32, 3))
  return jax.eval_shape(model.init, jax.random.key(0), image)['params']


def official_shapes(variant):
  return mapping.to_flax({}, template(variant), family.rename)[1].missing


def numbered(shapes):
  """A state dict whose every element is a number of its own tensor."""
  return {
    key: np.broadcast_to(np.float32(i), shape)
    for i, (key, shape) in enumerate(shapes.items())
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
      key = key.replace(f'.{new}.', f'.{old}.')
    renamed[key] = value
  return renamed


def test_names_of_the_stable_diffusion_autoencoder():
  official = numbered(official_shapes('kl_f8'))
  theirs = diffusers.from_official(official)
  assert len(theirs) == len(official) == 248
  for key, shape, ours in NAMES:
    assert theirs[key].shape == shape
    assert theirs[key].flat[0] == official[ours].flat[0], key


@pytest.mark.turns(3, group='releases')
@pytest.mark.parametrize(
  'variant', ['kl_f8', 'kl_f32', 'vq_f8', 'vq_f4_noattn']
)
@pytest.mark.parametrize('names', [dict, old_names])
def test_there_and_back(variant, names):
  official = numbered(official_shapes(variant))
  theirs = names(diffusers.from_official(official))
  back = diffusers.to_official(theirs)
  assert back.keys() == official.keys()
  for key, value in official.items():
    assert back[key].shape == value.shape
    assert back[key].flat[0] == value.flat[0], key


def test_official_state_dicts_stay_as_they_are():
  official = numbered(official_shapes('kl_f4'))
  assert diffusers.to_official(official) is official


def test_linear_attention_is_refused():
  state = {'encoder.mid.attn_1.to_qkv.weight': np.zeros((96, 32, 1, 1))}
  with pytest.raises(ValueError, match='no linear attention'):
    diffusers.from_official(state)


def random_state(shapes):
  rng = np.random.default_rng(0)
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize('variant', ['kl_f4', 'vq_f4'])
def test_a_file_of_either_layout_gives_the_same_network(
  variant, tmp_path, capsys
):
  config = f'{CONFIGS}/ldm_autoencoder.py:{variant},debug'
  name = {'kl_f4': 'ldm.autoencoder_kl', 'vq_f4': 'ldm.vq'}[variant]
  tree = convert._template(name, config_lib.load(config), False, {})
  official = random_state(mapping.to_flax({}, tree, family.rename)[1].missing)
  extra = {'loss.logvar': np.zeros((), np.float32)}
  files = {
    'official': official | extra,
    'diffusers': diffusers.from_official(official),
  }
  trees = []
  for layout, state in files.items():
    file = tmp_path / f'{layout}.safetensors'
    safetensors_file.write(file, state, {'format': 'pt'})
    workdir = tmp_path / layout
    flags = [f'--family={name}', f'--workdir={workdir}']
    code = convert_command.main(
      [*flags, f'--config={config}', f'--checkpoint={file}']
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert 'missing: 0\nmismatched: 0\n' in printed
    assert ('  loss.logvar ()' in printed) == (layout == 'official')
    params = parts.load_part(name, workdir / 'params.safetensors', tree)
    trees.append(mapping.flatten(params))
    for target in parts.LAYOUTS:
      out = tmp_path / f'{layout}_{target}.safetensors'
      code = convert_command.main(
        [*flags, f'--export={out}', f'--layout={target}']
      )
      assert code == 0
      want = official if target == 'official' else files['diffusers']
      got = safetensors_file.Tensors(out)
      assert got.keys() == want.keys()
      for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)
  for path, value in trees[0].items():
    np.testing.assert_array_equal(trees[1][path], value)


def test_other_networks_have_one_layout(tmp_path, capsys):
  workdir = tmp_path / 'part'
  workdir.mkdir()
  params = {'main_0': {'bias': np.zeros(2, np.float32)}}
  parts.write('discriminator', workdir / 'params.safetensors', params)
  code = convert_command.main(
    [
      '--family=discriminator',
      f'--workdir={workdir}',
      f'--export={tmp_path}/x.safetensors',
      '--layout=diffusers',
    ]
  )
  assert code == errors.DATA
  assert (
    'only ldm.autoencoder_kl, ldm.vq, ldm.unet have it'
    in capsys.readouterr().err
  )
