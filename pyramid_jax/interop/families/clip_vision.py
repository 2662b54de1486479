"""CLIP's tower of images: official keys, and the sizes that weights say.

Keys are those of huggingface/transformers: CLIPVisionModelWithProjection, which
a whole CLIPModel has as well; files of openai/CLIP (`visual.*`) are read, too.
"""

from collections.abc import Mapping

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import text_encoders
from pyramid_jax.networks import vision_transformer


State = Mapping[str, np.ndarray]

_ROOT = 'vision_model'
_POSITIONS = f'{_ROOT}.embeddings.position_embedding.weight'
_PATCHES = f'{_ROOT}.embeddings.patch_embedding.weight'
_PROJECTION = 'visual_projection.weight'
# Our modules outside of blocks, and arrays of their own -> official ones.
_MODULES = {
  'patches': f'{_ROOT}.embeddings.patch_embedding',
  'first_norm': f'{_ROOT}.pre_layrnorm',
  'norm': f'{_ROOT}.post_layernorm',
  'proj': 'visual_projection',
}
_ARRAYS = {
  'class_token': f'{_ROOT}.embeddings.class_embedding',
  'positions': _POSITIONS,
}
# What openai/CLIP and huggingface/transformers call the same thing.
_OPENAI = {
  'visual.class_embedding': _ARRAYS['class_token'],
  'visual.positional_embedding': _POSITIONS,
  'visual.conv1.': f'{_MODULES["patches"]}.',
  'visual.ln_pre.': f'{_MODULES["first_norm"]}.',
  'visual.ln_post.': f'{_MODULES["norm"]}.',
  'visual.transformer.resblocks.': f'{_ROOT}.encoder.layers.',
  'visual.proj': _PROJECTION,
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns key and kind of a parameter of `vision_transformer.clip`."""
  *modules, leaf = path
  if not modules:
    return _ARRAYS[leaf], 'raw'
  if modules[0] in _MODULES:
    kernel = 'conv' if modules[0] == 'patches' else 'linear'
    return mapping.official(_MODULES[modules[0]], leaf, kernel)
  return text_encoders.rename_clip_block(f'{_ROOT}.encoder', path)


def adapt(state: State) -> State:
  """Returns a file of openai/CLIP under the keys of huggingface."""
  if 'visual.proj' not in state:
    return state
  return text_encoders.from_openai(state, _OPENAI)


def infer(state: State) -> vision_transformer.VisionTransformer:
  """Returns the tower whose weights these are.

  Raises:
    ValueError: they are of no vision transformer of CLIP.
  """
  state = adapt(state)
  absent = [
    key for key in (_POSITIONS, _PATCHES, _PROJECTION) if key not in state
  ]
  if absent:
    raise ValueError(f'no vision transformer of CLIP: {absent[0]} is missing')
  dim, _, patch, _ = np.shape(state[_PATCHES])
  fc1 = f'{_ROOT}.encoder.layers.0.mlp.fc1.weight'
  return vision_transformer.clip(
    dim=dim,
    depth=mapping.count(state, f'{_ROOT}.encoder.layers'),
    heads=dim // text_encoders.CLIP_HEAD_DIM,
    mlp_dim=len(state[fc1]) if fc1 in state else 4 * dim,
    patch=patch,
    grid=int(len(state[_POSITIONS]) ** 0.5),
    projection_dim=len(state[_PROJECTION]),
  )
