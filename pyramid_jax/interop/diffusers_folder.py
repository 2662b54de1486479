"""Stable Diffusion 1.x and 2.x from a folder in the layout of diffusers.

  FOLDER/model_index.json
  FOLDER/{unet,vae,text_encoder}/config.json and weights
  FOLDER/tokenizer/vocab.json, merges.txt (or tokenizer.json)
  FOLDER/scheduler/scheduler_config.json

huggingface/diffusers: pipelines/stable_diffusion/pipeline_stable_diffusion.py.
`config` and `load` serve such a folder as a workdir of the system `ldm`, whose
pretrained parts are read from the same folder. Nothing is written.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.distributed import initial
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.interop import diffusers_options
from pyramid_jax.interop import diffusers_scheduler
from pyramid_jax.interop import parts
from pyramid_jax.interop import weight_file


Path = str | os.PathLike[str]
Options = diffusers_options.Options

INDEX = 'model_index.json'
FAMILY = 'ldm.unet'
PIPELINES = ('StableDiffusionPipeline', 'StableDiffusionImg2ImgPipeline')
# Folder of a component -> the classes that are read, none for any.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
  'unet': ('UNet2DConditionModel',),
  'vae': ('AutoencoderKL',),
  'text_encoder': ('CLIPTextModel',),
  'tokenizer': ('CLIPTokenizer', 'CLIPTokenizerFast'),
  'scheduler': (),
}
# Components that judge images or serve other requests; they are not run.
_LEFT_OUT = ('safety_checker', 'feature_extractor', 'image_encoder')

# The names of weight files, the preferred ones first.
_OF_DIFFUSERS, _OF_TRANSFORMERS = 'diffusion_pytorch_model', 'model'
_STEMS = {
  'unet': (_OF_DIFFUSERS, _OF_DIFFUSERS),
  'vae': (_OF_DIFFUSERS, _OF_DIFFUSERS),
  'text_encoder': (_OF_TRANSFORMERS, 'pytorch_model'),
}
_VARIANTS = ('', 'fp16', 'bf16', 'non_ema')

_START, _END = '<|startoftext|>', '<|endoftext|>'
# What the pipeline of the library does if nothing else is asked for.
_STEPS, _GUIDANCE = 50, 7.5


def is_folder(path: Path) -> bool:
  """Returns whether a folder is a pipeline of diffusers, and no workdir."""
  folder = stores.path(path)
  return (folder / INDEX).is_file() and not (folder / 'config.json').exists()


def config(path: Path) -> ConfigDict:
  """Returns the config of a folder's model, locked.

  Raises:
    UserError: another kind of model, an option that is not served, or
      components that are not there.
  """
  folder = stores.path(path)
  _check_index(folder)
  weights = _check_files(folder)
  unet = diffusers_options.unet(_options(folder, 'unet/config.json'))
  first = diffusers_options.autoencoder(_options(folder, 'vae/config.json'))
  text = diffusers_options.text_encoder(
    _options(folder, 'text_encoder/config.json')
  )
  _check_fit(folder, unet, first, text)
  made = config_lib.base('ldm')
  made.name = folder.resolve().name
  made.network = ConfigDict(unet.network)
  made.data.image_size = unet.side * first.factor
  made.condition.task, made.condition.encoder = 'text', 'clip'
  made.condition.weights = os.fspath(weights['text_encoder'])
  made.condition.update(text | _tokenizer(folder, text['max_length']))
  made.diffusion.scale_factor = first.scale
  made.diffusion.scale_by_std = False
  made.sample.steps, made.sample.guidance = _STEPS, _GUIDANCE
  scheduler = _options(folder, 'scheduler/scheduler_config.json')
  made.update_from_flattened_dict(diffusers_scheduler.fields(scheduler))
  config_lib.add_first_stage(made, _first_stage(made, first))
  made.first_stage.checkpoint = os.fspath(weights['vae'])
  try:
    config_lib.validate(made)
  except ValueError as error:
    raise errors.UserError(f'{folder}: {error}', errors.DATA) from error
  return made.lock()


def load(path: Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the denoiser of a folder, as `runs.checkpoints.load` does a run's.

  Args:
    path: of the folder.
    abstract: {'params': tree, 'extra': tree, 'step': number} with shardings, or
      a part of it.

  Raises:
    UserError: weights that are missing, damaged or of another network.
  """
  folder = stores.path(path)
  first = diffusers_options.autoencoder(_options(folder, 'vae/config.json'))
  values: dict[str, Any] = {
    'extra': {'latent_scale': np.full(1, first.scale, np.float32)},
    'step': np.zeros((), np.int32),
  }
  if 'params' in abstract:
    file = _check_files(folder)['unet']
    unet = _unet(file, abstract['params']['generator']['unet'])
    values['params'] = {'generator': {'unet': unet}}
  shardings = jax.tree.map(lambda leaf: leaf.sharding, dict(abstract))
  return initial.place({name: values[name] for name in abstract}, shardings)


def _unet(file: pathlib.Path, template: Any) -> Any:
  """Reads the denoiser, whose file must have all of it and nothing else."""
  with errors.user_errors(value=errors.DATA):
    state = weight_file.read(file)
    try:
      tree, report = parts.to_flax(FAMILY, state, template)
      report.require_complete()
    except ValueError as error:
      raise ValueError(f'{file}: {error}') from error
    if report.unused:
      first = ', '.join(sorted(report.unused)[:4])
      raise ValueError(
        f'{file}: {len(report.unused)} keys are of another network: {first}'
      )
  return tree


def _check_index(folder: pathlib.Path) -> None:
  """Refuses other pipelines, and components that this one does not have."""
  index = _read_json(folder / INDEX)
  options = Options(file=os.fspath(folder / INDEX), values=index)
  options.choice('_class_name', '', PIPELINES)
  for name, value in index.items():
    is_component = isinstance(value, list) and len(value) == 2
    if not is_component or value == [None, None] or name in _LEFT_OUT:
      continue
    classes = COMPONENTS.get(name)
    if classes is None:
      options.refuse(name, value[1], f'nothing but {", ".join(COMPONENTS)}')
    if classes and value[1] not in classes:
      options.refuse(name, value[1], ' or '.join(classes))


def _check_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the weight file of each network; missing files are a UserError."""
  needed = [*(f'{name}/config.json' for name in _STEMS)]
  needed.append('scheduler/scheduler_config.json')
  lacking = [name for name in needed if not (folder / name).is_file()]
  if not (folder / 'tokenizer/tokenizer.json').is_file():
    pieces = ('tokenizer/vocab.json', 'tokenizer/merges.txt')
    lacking += [name for name in pieces if not (folder / name).is_file()]
  found = {}
  for name, stems in _STEMS.items():
    names = _weight_names(*stems)
    there = [n for n in names if (folder / name / n).is_file()]
    if there:
      found[name] = folder / name / there[0]
    else:
      lacking.append(f'{name}/{names[0]} (or .fp16.safetensors, .bin, ...)')
  if lacking:
    raise errors.UserError(
      f'{folder} lacks {", ".join(lacking)}.', errors.MISSING
    )
  return found


def _weight_names(safetensors: str, pickled: str) -> list[str]:
  """Returns the names of a network's file by preference, given their stems."""
  names = []
  for variant in _VARIANTS:
    dot = f'.{variant}' if variant else ''
    names += [
      f'{safetensors}{dot}.safetensors',
      f'{safetensors}{dot}.safetensors.index.json',
      f'{safetensors}.safetensors.index{dot}.json',
      f'{pickled}{dot}.bin',
    ]
  return names


def _check_fit(
  folder: pathlib.Path,
  unet: diffusers_options.UNet,
  first: diffusers_options.Autoencoder,
  text: Mapping[str, Any],
) -> None:
  """Refuses components of different models."""
  for what, needed, found in (
    ('in_channels', unet.channels, f'vae/latent_channels {first.channels}'),
    (
      'cross_attention_dim',
      unet.context_dim,
      f'text_encoder/hidden_size {text["dim"]}',
    ),
  ):
    if str(needed) != found.split()[-1]:
      raise errors.UserError(
        f'{folder}: unet/{what} {needed} and {found} must be equal.',
        errors.DATA,
      )


def _tokenizer(folder: pathlib.Path, length: int) -> dict[str, Any]:
  """Returns the fields of `config.condition` of the tokenizer."""
  pieces = folder / 'tokenizer'
  whole = pieces / 'tokenizer.json'
  files = [pieces / 'vocab.json', pieces / 'merges.txt']
  vocab, merges = (
    files if all(file.is_file() for file in files) else [whole] * 2
  )
  file = pieces / 'tokenizer_config.json'
  values = _read_json(file) if file.is_file() else {}
  options = Options(file=os.fspath(file), values=values)
  options.choice('model_max_length', length, (length,))
  pad = options.get('pad_token', _END)
  pad = pad.get('content') if isinstance(pad, dict) else pad
  with errors.user_errors(value=errors.DATA):
    ids = tokenizers.clip_vocabulary(os.fspath(vocab))
  if not isinstance(pad, str) or pad not in ids:
    options.refuse('pad_token', pad, 'a token of the vocabulary')
  return {
    'vocab_file': os.fspath(vocab),
    'merges_file': os.fspath(merges),
    'null_prefix': tuple(
      ids[token] for token in (_START, _END) if token in ids
    ),
    'pad_id': ids[pad],
    'pad_in_text': pad != _END,
  }


def _first_stage(
  made: ConfigDict, first: diffusers_options.Autoencoder
) -> ConfigDict:
  """Returns the config of the autoencoder."""
  config = config_lib.base('autoencoder')
  config.name = f'{made.name}_vae'
  config.system.network = 'kl'
  size = made.data.image_size
  config.network = ConfigDict(
    {
      'ddconfig': {**first.ddconfig, 'resolution': size},
      'embed_dim': first.channels,
    }
  )
  config.data.image_size = size
  return config


def _options(folder: pathlib.Path, name: str) -> Options:
  return Options(
    file=os.fspath(folder / name), values=_read_json(folder / name)
  )


def _read_json(file: pathlib.Path) -> dict[str, Any]:
  """Returns a JSON object; anything else is a UserError."""
  with errors.user_errors(value=errors.DATA):
    values = json_text.read(file, most=limits.CONFIG_BYTES)
    if not isinstance(values, dict):
      raise ValueError(f'{file} is not a JSON object')
  return values
