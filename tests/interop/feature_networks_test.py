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
from pyramid_jax.networks import vgg
from pyramid_jax.networks import vision_transformer
from pyramid_jax.networks.layers import parameters
from tests.helpers import feature_files
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


@pytest.mark.parametrize('layout', ['openai', 'hugging_face'])
def test_clip(layout):
  shapes = (
    feature_files.openai_shapes()
    if layout == 'openai'
    else feature_files.hugging_face_shapes()
  )
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


@pytest.mark.parametrize('feed_forward', ['mlp', 'swiglufused'])
def test_dinov2(feed_forward):
  """At the grid of the positions, and at another, where they are resized."""
  state = official_fill.State(feature_files.dino_shapes(feed_forward))
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


def test_vgg16(monkeypatch):
  feature_files.narrow_vgg(monkeypatch)
  state = official_fill.State(feature_files.vgg_shapes())
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
    shapes = parameters.shapes_of(network.init, jax.random.key(0), x)
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
  shapes = (
    feature_files.openai_shapes()
    if family == 'clip_vision'
    else feature_files.dino_shapes('mlp')
  )
  file = tmp_path / 'network.safetensors'
  feature_files.write(file, shapes)
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
      k for k in feature_files.hugging_face_shapes() if k.startswith('vis')
    }


def test_other_files_are_refused(tmp_path, capsys):
  file = tmp_path / 'network.safetensors'

  def fails(family, shapes):
    feature_files.write(file, shapes)
    code = convert.main(
      [
        f'--family={family}',
        f'--workdir={tmp_path / "run"}',
        f'--checkpoint={file}',
      ]
    )
    assert code == errors.DATA
    return capsys.readouterr().err

  registers = feature_files.dino_shapes('mlp') | {
    'register_tokens': (1, 4, 128)
  }
  assert 'a DINOv2 with registers' in fails('dinov2', registers)
  assert 'no DINOv2: pos_embed is missing' in fails('dinov2', {'a': (2,)})
  text_only = {
    k: s for k, s in feature_files.openai_shapes().items() if 'visual' not in k
  }
  assert 'no vision transformer of CLIP' in fails('clip_vision', text_only)
