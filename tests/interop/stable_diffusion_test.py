"""Released files of Stable Diffusion, which have the keys of LDM."""

import numpy as np

from pyramid_jax import systems
from pyramid_jax.interop import latent_workdir
from tests.helpers import configs


def _open_clip(width, blocks, mlp, vocabulary, length):
  """Returns the shapes of OpenCLIP's text tower under its keys."""
  shapes = {
    'token_embedding.weight': (vocabulary, width),
    'positional_embedding': (length, width),
    'text_projection': (width, width),
    'logit_scale': (),
    'ln_final.weight': (width,),
    'ln_final.bias': (width,),
  }
  for i in range(blocks):
    block = f'transformer.resblocks.{i}'
    shapes |= {
      f'{block}.attn.in_proj_weight': (3 * width, width),
      f'{block}.attn.in_proj_bias': (3 * width,),
      f'{block}.attn.out_proj.weight': (width, width),
      f'{block}.attn.out_proj.bias': (width,),
      f'{block}.ln_1.weight': (width,),
      f'{block}.ln_1.bias': (width,),
      f'{block}.ln_2.weight': (width,),
      f'{block}.ln_2.bias': (width,),
      f'{block}.mlp.c_fc.weight': (mlp, width),
      f'{block}.mlp.c_fc.bias': (mlp,),
      f'{block}.mlp.c_proj.weight': (width, mlp),
      f'{block}.mlp.c_proj.bias': (width,),
    }
  return {f'cond_stage_model.model.{key}': s for key, s in shapes.items()}


def _filled(shapes):
  rng = np.random.default_rng(0)
  return {
    key: rng.normal(size=shape).astype(np.float32)
    for key, shape in shapes.items()
  }


def test_the_second_version():
  config = configs.load('stable_diffusion.py:v2,debug')
  system = systems.create(config)
  c = config.condition
  _, report = latent_workdir.from_official('ldm', {}, system, False)
  shapes = {
    # OpenCLIP has other names, and the projections are linear layers
    key: shape[:2] if '.proj_in.w' in key or '.proj_out.w' in key else shape
    for key, shape in report.missing.items()
    if not key.startswith('cond_stage_model.')
    or key.startswith('first_stage_model')
  }
  unet = {k for k in shapes if k.startswith('model.diffusion_model.')}
  linear = [k for k in unet if '.1.proj_in.weight' in k]
  assert linear
  clip = _open_clip(c.dim, c.depth + 1, 4 * c.dim, c.vocab_size, c.max_length)
  state = _filled(shapes | clip)
  fitted = latent_workdir.fitted(config, state)
  assert not fitted.condition.pooled
  trees, report = latent_workdir.from_official('ldm', state, system, False)
  report.require_complete()
  assert not report.unused
  block = trees.clip['layers_0']
  qkv = state[
    'cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight'
  ]
  np.testing.assert_array_equal(
    block['k_proj']['kernel'], qkv[c.dim : 2 * c.dim].T
  )
  assert f'layers_{c.depth}' not in trees.clip  # states before the last block
  got = trees.generator['unet']['middle_block_1']['proj_in']['kernel']
  key = 'model.diffusion_model.middle_block.1.proj_in.weight'
  assert key in linear
  np.testing.assert_array_equal(got, state[key].T)


def test_the_text_encoders_differ():
  one, two = (
    systems.create(configs.load(f'stable_diffusion.py:{version},debug'))
    for version in ('v1', 'v2')
  )
  assert one.encoder.network.hidden_act == 'quick_gelu'
  assert two.encoder.network.hidden_act == 'gelu'
  assert two.loss.parameterization == 'v'
  assert (one.encoder.pad_id, two.encoder.pad_id) == (49407, 0)
