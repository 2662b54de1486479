"""Single networks: where they hide in checkpoints, and our own files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.networks import lpips
from pyramid_jax.networks import text_encoders


def shapes_of(network, *inputs):
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']


@pytest.fixture(scope='module')
def bert():
  network = text_encoders.TransformerEncoder(
    vocab_size=7, max_seq_len=5, dim=8, depth=1, heads=2, head_dim=4
  )
  return shapes_of(network, jnp.zeros((1, 2), jnp.int32))


def state_for(family, template, prefix=''):
  _, report = parts.to_flax(family, {}, template)
  rng = np.random.default_rng(0)
  return {
    prefix + key: rng.normal(size=shape).astype(np.float32)
    for key, shape in report.missing.items()
  }


@pytest.mark.parametrize(
  'prefix', ['', 'transformer.', 'cond_stage_model.transformer.']
)
def test_prefixes_are_found(bert, prefix):
  state = state_for('bert', bert, prefix)
  noise = {'model.diffusion_model.out.0.0.weight': np.zeros(3)}
  params, report = parts.to_flax('bert', state | noise, bert)
  assert report.complete
  assert list(report.unused) == list(noise)
  np.testing.assert_array_equal(
    params['token_emb']['embedding'], state[prefix + 'token_emb.weight']
  )
  back = parts.to_official('bert', params)
  assert {prefix + key for key in back} == state.keys()


def test_missing_keys_are_named_with_the_file(bert, tmp_path):
  state = state_for('bert', bert)
  del state['norm.weight']
  path = tmp_path / 'x.safetensors'
  safetensors_file.write(path, state)
  message = rf'{path} as bert: .*norm\.weight \(8,\) is missing'
  with pytest.raises(ValueError, match=message):
    parts.load_part('bert', path, bert)


def test_own_files(bert, tmp_path):
  params, _ = parts.to_flax('bert', state_for('bert', bert), bert)
  path = tmp_path / 'params.safetensors'
  parts.write('bert', path, params)
  family, tree, heads = parts.read_own(path)
  assert family == 'bert'
  assert heads is None
  for got in (tree, parts.load_part('bert', path, bert)):
    flat = mapping.flatten(got)
    assert flat.keys() == mapping.flatten(params).keys()
    for name, value in mapping.flatten(params).items():
      np.testing.assert_array_equal(flat[name], value)
  with pytest.raises(ValueError, match="holds 'bert', needed 'lpips'"):
    parts.load_part('lpips', path, bert)
  safetensors_file.write(path, {'a': np.zeros(1)})
  with pytest.raises(ValueError, match='not written by this package'):
    parts.read_own(path)
  with pytest.raises(ValueError, match="family 'brt'; allowed: frido.msvqgan"):
    parts.load_part('brt', tmp_path / 'absent', bert)


def test_clip_of_both_origins():
  network = text_encoders.CLIPTextEncoder(
    vocab_size=9, max_length=4, dim=8, depth=1, heads=2, mlp_dim=16
  )
  template = shapes_of(network, jnp.zeros((1, 2), jnp.int32))
  prefix = 'cond_stage_model.transformer.'
  state = state_for('clip_text', template, prefix)
  params, report = parts.to_flax('clip_text', state, template)
  assert report.complete
  assert prefix + 'text_model.final_layer_norm.weight' in report.matched

  block = f'{prefix}text_model.encoder.layers.0.'
  theirs = 'cond_stage_model.model.transformer.resblocks.0.'
  attention = f'{block}self_attn.'
  openai = {
    'cond_stage_model.model.visual.proj': np.zeros((2, 2)),
    'cond_stage_model.model.token_embedding.weight': state[
      f'{prefix}text_model.embeddings.token_embedding.weight'
    ],
    'cond_stage_model.model.positional_embedding': state[
      f'{prefix}text_model.embeddings.position_embedding.weight'
    ],
  }
  for leaf in ('weight', 'bias'):
    openai |= {
      f'cond_stage_model.model.ln_final.{leaf}': state[
        f'{prefix}text_model.final_layer_norm.{leaf}'
      ],
      f'{theirs}ln_1.{leaf}': state[f'{block}layer_norm1.{leaf}'],
      f'{theirs}ln_2.{leaf}': state[f'{block}layer_norm2.{leaf}'],
      f'{theirs}mlp.c_fc.{leaf}': state[f'{block}mlp.fc1.{leaf}'],
      f'{theirs}mlp.c_proj.{leaf}': state[f'{block}mlp.fc2.{leaf}'],
      f'{theirs}attn.out_proj.{leaf}': state[f'{attention}out_proj.{leaf}'],
      f'{theirs}attn.in_proj_{leaf}': np.concatenate(
        [state[f'{attention}{part}_proj.{leaf}'] for part in 'qkv']
      ),
    }
  again, report = parts.to_flax('clip_text', openai, template)
  assert report.complete
  flat = mapping.flatten(again)
  for name, value in mapping.flatten(params).items():
    np.testing.assert_array_equal(flat[name], value)


def test_lpips_files():
  """torchvision's VGG16 and the weightings make what LPIPS itself saves."""
  image = jnp.zeros((1, 16, 16, 3))
  template = shapes_of(lpips.LPIPS(), image, image)
  places = {
    f'net.slice{n}.{index}.{leaf}': f'features.{index}.{leaf}'
    for n, (_, indices) in enumerate(lpips.SLICES, start=1)
    for index in indices
    for leaf in ('weight', 'bias')
  }
  _, report = parts.to_flax('lpips', {}, template)
  whole = {
    key: np.broadcast_to(np.float32(i), shape)
    for i, (key, shape) in enumerate(report.missing.items())
  }
  pieces = {places.get(key, key): value for key, value in whole.items()}
  assert sum(key.startswith('features.') for key in pieces) == 26
  pieces['classifier.0.weight'] = np.zeros(3)
  params, report = parts.to_flax('lpips', pieces, template)
  assert report.complete
  assert list(report.unused) == ['classifier.0.weight']
  back = parts.to_official('lpips', params)
  assert back.keys() - whole.keys() == {
    'scaling_layer.shift',
    'scaling_layer.scale',
  }
  for key, value in whole.items():
    np.testing.assert_array_equal(back[key], value)

  old = {**whole, 'scaling_layer.shift': np.zeros((1, 3, 1, 1))}
  with pytest.raises(ValueError, match=r'scaling_layer\.shift is \[0'):
    parts.to_flax('lpips', old, template)
