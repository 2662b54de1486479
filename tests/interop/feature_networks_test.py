"""CLIP, DINOv2 and VGG16 beside recorded runs of their reference code.

The numbers were recorded by openai/CLIP (clip/model.py), transformers 5.24
(CLIPModel), facebookresearch/dinov2 (DinoVisionTransformer) and torchvision's
layers, on PyTorch 2.14, whose tensors were filled by `official_fill`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import clip_vision
from pyramid_jax.interop.families import dinov2
from pyramid_jax.interop.families import text_encoders as text_family
from pyramid_jax.networks import lpips
from pyramid_jax.networks import vgg
from pyramid_jax.networks import vision_transformer
from tests.helpers import official_fill


RECORDED = np.load(
  pathlib.Path(__file__).with_name('recorded') / 'feature_networks.npz'
)
IDS = np.array(
  [[38, 5, 6, 39, 0, 0, 0, 0, 0, 0], [38, 7, 8, 9, 10, 11, 12, 13, 14, 39]]
)


def image(name, *shape):
  return official_fill.uniform(name, shape) * np.float32(2)


def agree(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


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


def features(network, params, *inputs, method=None):
  with jax.default_matmul_precision('highest'):
    return jax.jit(network.apply, static_argnames='method')(
      {'params': params}, *inputs, method=method
    )


def load(family, network, state, *inputs):
  template = jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']
  params, report = parts.to_flax(family, state, template)
  report.require_complete()
  return params, report


@pytest.mark.parametrize('layout', ['openai', 'hf'])
def test_clip(layout):
  shapes = openai_shapes() if layout == 'openai' else hugging_face_shapes()
  state = official_fill.State(shapes)
  x = image('clip', 3, 28, 28, 3)
  network = clip_vision.infer(state)
  assert (network.depth, network.heads, network.grid) == (2, 2, 4)
  params, _ = load('clip_vision', network, state, x)
  agree(features(network, params, x), RECORDED[f'{layout}/image'])

  text = text_family.infer_clip(state)
  assert (text.depth, text.heads, text.max_length) == (2, 1, 10)
  params, _ = load('clip_text', text, state, IDS)
  want = RECORDED[f'{layout}/text']
  want = want / np.linalg.norm(want, axis=1, keepdims=True)
  agree(features(text, params, IDS, method='pooled')[:, 0], want)


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


@pytest.mark.parametrize('feed_forward', ['mlp', 'swiglufused'])
def test_dinov2(feed_forward):
  """At the grid of the positions, and at another, where they are resized."""
  state = official_fill.State(dino_shapes(feed_forward))
  network = dinov2.infer(state)
  assert (network.depth, network.heads, network.grid) == (2, 2, 5)
  for side in (42, 70):
    x = image('dino', 2, side, side, 3)
    params, report = load('dinov2', network, state, x)
    assert not report.unused
    assert 'mask_token' in report.notes[0]
    agree(
      features(network, params, x), RECORDED[f'dinov2/{feed_forward}/{side}']
    )
  back = parts.to_official('dinov2', params)
  assert back.keys() == state.keys() - {'mask_token'}
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


@pytest.fixture
def narrow(monkeypatch):
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


def test_vgg16(narrow):
  state = official_fill.State(vgg_shapes())
  x = image('vgg', 2, 64, 64, 3)
  network = vgg.VGG16(features=24)
  params, report = load('vgg16', network, state, x)
  assert not report.unused
  agree(features(network, params, x), RECORDED['vgg16'])
  back = parts.to_official('vgg16', params)
  lost = {'classifier.6.weight', 'classifier.6.bias'}
  assert back.keys() == state.keys() - lost
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_published_sizes():
  """Numbers of parameters that the model cards state."""

  def count(network, side):
    x = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  def clip(name, projection):
    sizes = dict(vision_transformer.CLIPS[name])
    dim, side = sizes['dim'], sizes['patch'] * sizes['grid']
    network = vision_transformer.clip(
      **sizes, heads=dim // 64, mlp_dim=4 * dim, projection_dim=projection
    )
    assert vision_transformer.variant(network, vision_transformer.CLIPS) == name
    return count(network, side)

  assert clip('b32', 512) == 87_849_216
  assert clip('l14', 768) == 303_966_208
  sizes = dict(vision_transformer.DINOS['l14'])
  network = vision_transformer.VisionTransformer(
    **sizes, heads=16, mlp_dim=4096
  )
  assert count(network, 224) == 304_368_640 - 1024  # the mask token
  classes = 1000 * 4097
  assert count(vgg.VGG16(), 224) == 138_357_544 - classes
  with pytest.raises(ValueError, match='published ones are b32, b16'):
    vision_transformer.variant(network, vision_transformer.CLIPS)


@pytest.mark.parametrize('family', ['clip_vision', 'dinov2'])
def test_conversion(family, tmp_path):
  shapes = openai_shapes() if family == 'clip_vision' else dino_shapes('mlp')
  file = tmp_path / 'network.safetensors'
  state = official_fill.State(shapes)
  safetensors_file.write(file, {k: np.asarray(state[k]) for k in shapes})
  run = lambda *rest: convert.main([f'--family={family}', *rest])
  workdir = f'--workdir={tmp_path / "run"}'
  assert run(workdir, f'--checkpoint={file}') == 0
  target = tmp_path / 'back.safetensors'
  assert run(workdir, f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  if family == 'dinov2':
    assert back.keys() == shapes.keys() - {'mask_token'}
  else:
    assert set(back) == {
      k for k in hugging_face_shapes() if k.startswith('vis')
    }


def test_other_files_are_refused(tmp_path, capsys):
  file = tmp_path / 'network.safetensors'

  def fails(family, shapes):
    state = official_fill.State(shapes)
    safetensors_file.write(file, {k: np.asarray(state[k]) for k in shapes})
    code = convert.main(
      [
        f'--family={family}',
        f'--workdir={tmp_path / "run"}',
        f'--checkpoint={file}',
      ]
    )
    assert code == errors.DATA
    return capsys.readouterr().err

  registers = dino_shapes('mlp') | {'register_tokens': (1, 4, 128)}
  assert 'a DINOv2 with registers' in fails('dinov2', registers)
  assert 'no DINOv2: pos_embed is missing' in fails('dinov2', {'a': (2,)})
  text_only = {k: s for k, s in openai_shapes().items() if 'visual' not in k}
  assert 'no vision transformer of CLIP' in fails('clip_vision', text_only)
