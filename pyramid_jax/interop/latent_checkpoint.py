"""Checkpoints of LDM and Frido taken apart, and put together again.

davidhalladay/Frido: frido/models/diffusion/frido.py, FridoDiffusion, and
CompVis/latent-diffusion: ldm/models/diffusion/ddpm.py, LatentDiffusion: the raw
U-Net, its averages under flattened names, the first stage, the condition
encoder, the scale of the latents and the buffers of the noise schedule.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from pyramid_jax.diffusion import schedules
from pyramid_jax.interop import mapping
from pyramid_jax.interop import weight_sets
from pyramid_jax.interop.families import msvqgan
from pyramid_jax.interop.families import text_encoders
from pyramid_jax.interop.families import unet


UNET = 'model.diffusion_model.'
EMA = 'model_ema.'
FIRST_STAGE = 'first_stage_model.'
CONDITION = 'cond_stage_model.'
TRANSFORMER = CONDITION + 'transformer.'
OPENAI_CONDITION = CONDITION + 'model.'
SCALE = 'scale_factor'
LOGVAR = 'logvar'
DECAY = EMA + 'decay'
UPDATES = EMA + 'num_updates'
# Keys that say by which library a CLIP text encoder was built.
OPENAI_TOKENS = OPENAI_CONDITION + 'token_embedding.weight'

State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """What the checkpoints of a system hold."""

  # Names of a trained condition encoder.
  condition: mapping.Rename = text_encoders.rename
  condition_prefix: str = TRANSFORMER  # the prefix of those names
  # Of those names the ones that no step reads; no run has them.
  unread: tuple[str, ...] = text_encoders.UNREAD
  # Whether the first stage is the condition encoder too, with its tensors
  # stored twice.
  repeats_first_stage: bool = False
  # Whether the scale of the latents is stored; else it is a constant of the
  # config.
  stores_scale: bool = True
  # Whether that is a number instead of one per scale.
  scalar_scale: bool = False
  # Whether a CLIP text encoder has the names of openai/CLIP, as one that gives
  # the pooled embedding and OpenCLIP, not those of huggingface/transformers.
  openai_clip: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """The weights of a system, or their shapes."""

  # `unet`, and perhaps `condition` and `logvar` (T,); `network` of a DiffiT
  generator: Mapping[str, Any]
  ema: Any = None  # the averages of `unet`, if there are any
  first_stage: Any  # the autoencoder
  clip: Any = None  # a frozen CLIP text encoder, if there is one
  latent_scale: Any  # (S,), coarse first
  updates: int = 0  # The updates of the averages.


def _ema_rename(path: mapping.Path) -> tuple[str, str]:
  """Names averages: 'diffusion_model.' and the raw key without dots."""
  key, kind = unet.rename(path)
  return EMA + f'diffusion_model.{key}'.replace('.', ''), kind


def to_flax(
  state: State,
  template: Weights,
  chain: schedules.Chain,
  layout: Layout,
  weights: str = '',
) -> tuple[Weights, mapping.Report]:
  """Returns the weights of an official state dict, and the account of its keys.

  Args:
    state: the official state dict, perhaps behind a prefix, or several.
    template: shapes, or values to keep where something is missing.
    chain: the chain of the config.
    layout: the layout of the system.
    weights: which of several are taken, see `weight_sets.choose`.

  Raises:
    ValueError: buffers of another noise schedule than the config's, or no such
      weights.
  """
  state, report, own = _chosen(state, template, weights)

  def take(tree, rename, prefix=''):
    filled, part = mapping.to_flax(state, tree, rename, prefix)
    report.add(part)
    return filled

  generator = dict(template.generator)
  generator['unet'] = take(generator['unet'], unet.rename, UNET)
  ema = None
  if any(key.startswith(EMA + 'diffusion_model') for key in state):
    ema = take(generator['unet'], _ema_rename)
  first_stage = take(template.first_stage, msvqgan.rename, FIRST_STAGE)
  if layout.repeats_first_stage and any(k.startswith(CONDITION) for k in state):
    take(template.first_stage, msvqgan.rename, CONDITION)
  if 'condition' in generator:
    generator['condition'] = take(
      generator['condition'], layout.condition, layout.condition_prefix
    )
  if LOGVAR in generator:
    raw = lambda path: ('.'.join(path), 'raw')
    generator |= take({LOGVAR: generator[LOGVAR]}, raw)
  clip = template.clip and _clip(state, template.clip, report)
  scale = template.latent_scale
  if layout.stores_scale or SCALE in state:
    scale = _latent_scale(state, scale, report)
  _check_schedule(state, chain, report)
  for key in (DECAY, UPDATES):
    if key in state:
      report.matched[key] = np.shape(state[key])
  report.unused.clear()
  for key in state:
    if key not in report.matched and key not in report.mismatched:
      report.unused[key] = np.shape(state[key])
  if 'condition' in generator:
    report.leave_out(layout.condition_prefix + name for name in layout.unread)
  result = Weights(
    generator=generator,
    ema=ema,
    first_stage=first_stage,
    clip=clip,
    latent_scale=scale,
    updates=int(np.ravel(state.get(UPDATES, 0))[0]),
  )
  return result, report.renamed(own)


def _chosen(
  state: State, template: Weights, weights: str
) -> tuple[State, mapping.Report, Callable[[str], str]]:
  """Finds a checkpoint in what a file holds.

  Returns:
    It, without what is before its keys and without averages that are not
    wanted; an account with nothing but notes; and its keys -> those of the
    file.
  """
  keys = [
    prefix + rename(path)[0]
    for tree, rename, prefix in (
      (template.generator['unet'], unet.rename, UNET),
      (template.first_stage, msvqgan.rename, FIRST_STAGE),
    )
    for path in mapping.flatten(tree)
  ]
  state, names = weight_sets.unwrapped(state)
  found = [s for s in weight_sets.find(state, keys) if not s.is_flat]
  are_several = len(weight_sets.rivals(found)) > 1
  choice = weight_sets.choose(found, weights if are_several else '')
  report, start = mapping.Report(), ''
  if choice is not None:
    report.notes.extend(choice.notes())
    start = choice.taken.start
    state = weight_sets.stripped(state, start)
  averages = {key for key in state if key.startswith(EMA)}
  if are_several or not weights:
    pass
  elif weights not in (weight_sets.RAW, weight_sets.AVERAGED):
    raise ValueError(
      f'no weights {weights!r}; a whole checkpoint has {weight_sets.RAW} and'
      f' perhaps {weight_sets.AVERAGED}'
    )
  elif weights == weight_sets.AVERAGED and not averages:
    raise ValueError(f'no averages ({EMA}*), which --weights={weights} takes')
  elif weights == weight_sets.RAW:
    state = mapping.Renamed(state, {k: k for k in state if k not in averages})
  return state, report, lambda key: names.get(start + key, start + key)


def _clip(state: State, template: Any, report: mapping.Report) -> Any:
  """Takes CLIP from the checkpoint, whichever way it was built."""
  rename = text_encoders.rename_clip
  openai = {
    key.removeprefix(OPENAI_CONDITION): state[key]
    for key in state
    if key.startswith(OPENAI_CONDITION) and '.visual.' not in key
  }
  if not openai:
    clip, part = mapping.to_flax(state, template, rename, TRANSFORMER)
  else:
    # other keys, and one tensor for three
    renamed = text_encoders.from_openai(openai)
    clip, part = mapping.to_flax(renamed, template, rename)
    part.matched.clear()
    for key, value in openai.items():
      part.matched[OPENAI_CONDITION + key] = np.shape(value)
  report.add(part)
  return clip


def _latent_scale(state: State, template: Any, report: mapping.Report) -> Any:
  """Returns (S,); old files hold one number for all scales."""
  if SCALE not in state:
    report.missing[SCALE] = tuple(template.shape)
    return template
  value = np.ravel(np.asarray(state[SCALE], np.float32))
  if value.size not in (1, template.shape[0]):
    report.mismatched[SCALE] = (value.shape, tuple(template.shape))
    return template
  report.matched[SCALE] = np.shape(state[SCALE])
  return np.array(np.broadcast_to(value, template.shape))


def schedule_buffers(chain: schedules.Chain) -> dict[str, np.ndarray]:
  """Returns the twelve float32 buffers of `register_schedule`, (T,) each."""
  bar, variance = chain.alphas_bar, chain.posterior_variance
  of_x0, of_x = chain.posterior_mean
  buffers = {
    'betas': chain.betas,
    'alphas_cumprod': bar,
    'alphas_cumprod_prev': np.append(1.0, bar[:-1]),
    'sqrt_alphas_cumprod': np.sqrt(bar),
    'sqrt_one_minus_alphas_cumprod': np.sqrt(1 - bar),
    'log_one_minus_alphas_cumprod': np.log(1 - bar),
    'sqrt_recip_alphas_cumprod': np.sqrt(1 / bar),
    'sqrt_recipm1_alphas_cumprod': np.sqrt(1 / bar - 1),
    'posterior_variance': variance,
    'posterior_log_variance_clipped': np.log(np.maximum(variance, 1e-20)),
    'posterior_mean_coef1': of_x0,
    'posterior_mean_coef2': of_x,
  }
  return {name: value.astype(np.float32) for name, value in buffers.items()}


def _check_schedule(
  state: State, chain: schedules.Chain, report: mapping.Report
) -> None:
  """Compares the buffers; without this a wrong config samples noise."""
  for name, want in schedule_buffers(chain).items():
    if name not in state:
      continue
    got = np.asarray(state[name])
    if got.shape != want.shape or not np.allclose(got, want, 1e-3, 1e-6):
      ends = [
        f'{np.ravel(v)[0]:.6g}..{np.ravel(v)[-1]:.6g}' for v in (got, want)
      ]
      raise ValueError(
        f'{name} of the checkpoint is {ends[0]} ({got.size} levels), that of'
        f' config.diffusion {ends[1]} ({want.size} levels)'
      )
    report.matched[name] = got.shape


def to_official(
  weights: Weights, chain: schedules.Chain, decay: float, layout: Layout
) -> dict[str, np.ndarray]:
  """Inverts `to_flax`; `decay` is that of the averages."""
  generator = weights.generator
  state = mapping.to_official(generator['unet'], unet.rename, UNET)
  if weights.ema is not None:
    state |= mapping.to_official(weights.ema, _ema_rename)
    state[DECAY] = np.asarray(decay, np.float32)
    state[UPDATES] = np.asarray(weights.updates, np.int32)
  for prefix in [FIRST_STAGE] + [CONDITION] * layout.repeats_first_stage:
    state |= mapping.to_official(weights.first_stage, msvqgan.rename, prefix)
  if 'condition' in generator:
    state |= mapping.to_official(
      generator['condition'], layout.condition, layout.condition_prefix
    )
  if weights.clip is not None:
    clip = mapping.to_official(weights.clip, text_encoders.rename_clip)
    prefix = TRANSFORMER
    if layout.openai_clip:
      clip, prefix = text_encoders.to_openai(clip), OPENAI_CONDITION
    state |= {prefix + key: value for key, value in clip.items()}
  if LOGVAR in generator:
    state[LOGVAR] = np.asarray(generator[LOGVAR], np.float32)
  if layout.stores_scale:
    scale = np.asarray(weights.latent_scale, np.float32)
    state[SCALE] = scale.reshape(()) if layout.scalar_scale else scale
  return state | schedule_buffers(chain)
