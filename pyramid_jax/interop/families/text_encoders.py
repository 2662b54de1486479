"""The text encoders: official keys.

`rename` is for the transformer trained with LDM and Frido
(CompVis/latent-diffusion: ldm/modules/encoders/modules.py, BERTEmbedder and
TransformerEmbedder; keys without their prefix 'transformer.');
`rename_clip` and `from_openai` are for CLIP's text tower.
"""

from collections.abc import Mapping
import re

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import text_encoders


# Parts of an encoder block -> (offset of the official sub-layer, its names).
_SUBLAYERS = {
  'norm_attn': (0, '0'),
  'attn': (0, '1'),
  'norm_ff': (1, '0'),
  'ff': (1, '1'),
}


# The head of released encoders, which predicts tokens: no system has it.
UNREAD = ('to_logits.weight', 'to_logits.bias')


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns official key and kind of a `TransformerEncoder` parameter."""
  *modules, leaf = path
  if modules[0] == 'layers':
    number = int(modules[1].removeprefix('layer_'))
    offset, part = _SUBLAYERS[modules[2]]
    inner = [{'net_0': 'net.0.0', 'net_2': 'net.2'}.get(m, m) for m in modules]
    layer = f'attn_layers.layers.{2 * number + offset}'
    key = '.'.join([layer, part, *inner[3:]])
  elif modules == ['pos_emb']:
    key = 'pos_emb.emb'
  else:
    key = '.'.join(modules)
  return mapping.official(key, leaf)


CLIP_HEAD_DIM = 64  # of both towers of every published CLIP
# Our modules of CLIP's text tower, and those of its blocks -> official ones.
_CLIP = {
  'text_projection': 'text_projection',
  'token_embedding': 'text_model.embeddings.token_embedding',
  'position_embedding': 'text_model.embeddings.position_embedding',
  'final_layer_norm': 'text_model.final_layer_norm',
}
_CLIP_BLOCK = {
  **{
    f'{name}_proj': f'self_attn.{name}_proj' for name in ('q', 'k', 'v', 'out')
  },
  **{name: f'mlp.{name}' for name in ('fc1', 'fc2')},
}


def rename_clip(path: mapping.Path) -> tuple[str, str]:
  """Returns key and kind of a `CLIPTextEncoder` parameter.

  Keys are those of huggingface/transformers: CLIPTextModel, and
  CLIPTextModelWithProjection for the projection.
  """
  *modules, leaf = path
  if modules[0] in _CLIP:
    return mapping.official(_CLIP[modules[0]], leaf)
  return rename_clip_block('text_model.encoder', path)


def rename_clip_block(root: str, path: mapping.Path) -> tuple[str, str]:
  """Returns key and kind of a parameter of a block of either tower of CLIP."""
  number, part = path[0].removeprefix('layers_'), path[1]
  layer = f'{root}.layers.{number}.{_CLIP_BLOCK.get(part, part)}'
  return mapping.official(layer, path[-1])


# What openai/CLIP and huggingface/transformers call the same thing.
_OPENAI = {
  'token_embedding.': 'text_model.embeddings.token_embedding.',
  'positional_embedding': 'text_model.embeddings.position_embedding.weight',
  'ln_final.': 'text_model.final_layer_norm.',
  'transformer.resblocks.': 'text_model.encoder.layers.',
  'text_projection': 'text_projection.weight',
}
_OPENAI_INNER = {
  '.ln_1.': '.layer_norm1.',
  '.ln_2.': '.layer_norm2.',
  '.attn.': '.self_attn.',
  '.mlp.c_fc.': '.mlp.fc1.',
  '.mlp.c_proj.': '.mlp.fc2.',
}


def from_openai(
  state: Mapping[str, np.ndarray], names: Mapping[str, str] = _OPENAI
) -> dict[str, np.ndarray]:
  """Returns a tower of an openai/CLIP state dict under the HF keys.

  Args:
    state: keys of openai/CLIP: clip/model.py, CLIP; those of its other tower
      are left out.
    names: first parts of keys there and here; those of the text tower if not
      given.
  """
  renamed = {}
  for key, value in state.items():
    start = next((s for s in names if key.startswith(s)), None)
    if start is None:
      continue
    new = names[start] + key.removeprefix(start)
    for ours, theirs in _OPENAI_INNER.items():
      new = new.replace(ours, theirs)
    # Projections are not transposed there when they are applied.
    if start in ('text_projection', 'visual.proj'):
      value = value.T
    if match := re.fullmatch(r'(.*)\.in_proj_(weight|bias)', new):
      for part, third in zip('qkv', np.split(value, 3), strict=True):
        renamed[f'{match[1]}.{part}_proj.{match[2]}'] = third
    else:
      renamed[new] = value
  return renamed


def to_openai(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns a text tower under the keys of openai/CLIP; undoes `from_openai`.

  Args:
    state: HF keys.
  """
  outer = {theirs: ours for ours, theirs in _OPENAI.items()}
  inner = {theirs: ours for ours, theirs in _OPENAI_INNER.items()}
  renamed = {}
  for key, value in state.items():
    start = next(s for s in outer if key.startswith(s))
    new = outer[start] + key.removeprefix(start)
    if match := re.fullmatch(r'(.*\.)self_attn\.q_proj\.(\w+)', new):
      thirds = [state[key.replace('.q_', f'.{part}_')] for part in 'qkv']
      renamed[f'{match[1]}attn.in_proj_{match[2]}'] = np.concatenate(thirds)
    elif not re.search(r'\.self_attn\.[kv]_proj\.', new):
      for theirs, ours in inner.items():
        new = new.replace(theirs, ours)
      renamed[new] = value.T if new == 'text_projection' else value
  return renamed


def adapt_clip(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """Returns openai/CLIP files, alone or inside a checkpoint, under HF keys."""
  for prefix in ('', 'cond_stage_model.model.'):
    if f'{prefix}token_embedding.weight' in state:
      inner = [key for key in state if key.startswith(prefix)]
      return from_openai({k.removeprefix(prefix): state[k] for k in inner})
  return state


def infer_clip(
  state: Mapping[str, np.ndarray],
) -> text_encoders.CLIPTextEncoder:
  """Returns the text tower of a published CLIP, given its weights.

  Raises:
    ValueError: they are of no text tower with a projection.
  """
  state = adapt_clip(state)
  tokens, places, projection, fc1 = keys = (
    'text_model.embeddings.token_embedding.weight',
    'text_model.embeddings.position_embedding.weight',
    'text_projection.weight',
    'text_model.encoder.layers.0.mlp.fc1.weight',
  )
  absent = [key for key in keys if key not in state]
  if absent:
    raise ValueError(f'no text tower of CLIP: {absent[0]} is missing')
  vocab_size, dim = np.shape(state[tokens])
  return text_encoders.CLIPTextEncoder(
    vocab_size=vocab_size,
    max_length=len(state[places]),
    dim=dim,
    depth=mapping.count(state, 'text_model.encoder.layers'),
    heads=dim // CLIP_HEAD_DIM,
    mlp_dim=len(state[fc1]),
    projection_dim=len(state[projection]),
  )
