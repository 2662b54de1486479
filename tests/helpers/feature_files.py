"""Small networks of scores, under the keys of their official files."""

import numpy as np

from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import clip_vision
from pyramid_jax.interop.families import text_encoders as text_family
from pyramid_jax.networks import lpips
from tests.helpers import official_fill


def openai_shapes():
  """Key -> shape of a small CLIP, by the rules of clip/model.py."""

  def tower(prefix, dim, depth):
    shapes = {}
    for i in range(depth):
      block = f'{prefix}.resblocks.{i}'
      shapes |= {
        f'{block}.attn.in_proj_weight': (3 * dim, dim),
        f'{block}.attn.in_proj_bias': (3 * dim,),
        f'{block}.attn.out_proj.weight': (dim, dim),
        f'{block}.attn.out_proj.bias': (dim,),
        f'{block}.mlp.c_fc.weight': (4 * dim, dim),
        f'{block}.mlp.c_fc.bias': (4 * dim,),
        f'{block}.mlp.c_proj.weight': (dim, 4 * dim),
        f'{block}.mlp.c_proj.bias': (dim,),
      }
      for name in ('ln_1', 'ln_2'):
        shapes |= norm(f'{block}.{name}', dim)
    return shapes

  norm = lambda name, dim: {f'{name}.{x}': (dim,) for x in ('weight', 'bias')}
  return {
    'positional_embedding': (10, 64),
    'text_projection': (64, 24),
    'logit_scale': (),
    'token_embedding.weight': (40, 64),
    **norm('ln_final', 64),
    **tower('transformer', 64, 2),
    'visual.class_embedding': (128,),
    'visual.positional_embedding': (17, 128),
    'visual.proj': (128, 24),
    'visual.conv1.weight': (128, 3, 7, 7),
    **norm('visual.ln_pre', 128),
    **norm('visual.ln_post', 128),
    **tower('visual.transformer', 128, 2),
  }


def hugging_face_shapes():
  """Key -> shape of the same network in the layout of transformers."""
  vision = clip_vision.adapt(official_fill.State(openai_shapes()))
  text = text_family.adapt_clip(official_fill.State(openai_shapes()))
  shapes = {k: np.shape(x) for k, x in (vision | text).items()}
  return shapes | {'logit_scale': ()}


def dino_shapes(feed_forward):
  norm = lambda name: {f'{name}.{x}': (128,) for x in ('weight', 'bias')}

  def linear(name, inputs, outputs):
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}

  shapes = {
    'cls_token': (1, 1, 128),
    'pos_embed': (1, 26, 128),
    'mask_token': (1, 128),
    'patch_embed.proj.weight': (128, 3, 14, 14),
    'patch_embed.proj.bias': (128,),
    **norm('norm'),
  }
  for i in range(2):
    block = f'blocks.{i}'
    shapes |= {
      f'{block}.ls1.gamma': (128,),
      f'{block}.ls2.gamma': (128,),
      **norm(f'{block}.norm1'),
      **norm(f'{block}.norm2'),
      **linear(f'{block}.attn.qkv', 128, 384),
      **linear(f'{block}.attn.proj', 128, 128),
    }
    if feed_forward == 'mlp':
      shapes |= linear(f'{block}.mlp.fc1', 128, 512)
      shapes |= linear(f'{block}.mlp.fc2', 512, 128)
    else:
      shapes |= linear(f'{block}.mlp.w12', 128, 688)
      shapes |= linear(f'{block}.mlp.w3', 344, 128)
  return shapes


def narrow_vgg(monkeypatch):
  """Makes all channels of VGG16 eight."""
  slices = tuple((8, indices) for _, indices in lpips.SLICES)
  monkeypatch.setattr(lpips, 'SLICES', slices)


def vgg_shapes():
  shapes, before = {}, 3
  for channels, indices in lpips.SLICES:
    for index in indices:
      shapes[f'features.{index}.weight'] = (channels, before, 3, 3)
      shapes[f'features.{index}.bias'] = (channels,)
      before = channels
  for index, (inputs, outputs) in {
    0: (32, 24),
    3: (24, 24),
    6: (24, 10),
  }.items():
    shapes[f'classifier.{index}.weight'] = (outputs, inputs)
    shapes[f'classifier.{index}.bias'] = (outputs,)
  return shapes


def write(path, shapes):
  """Writes a filled state dict as a safetensors file; returns its path."""
  state = official_fill.State(shapes)
  safetensors_file.write(path, {k: np.asarray(state[k]) for k in shapes})
  return path
