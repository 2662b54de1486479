"""Whole checkpoints of systems on latents, as released, and back.

davidhalladay/Frido: frido/models/diffusion/frido.py, FridoDiffusion, and
CompVis/latent-diffusion: ldm/models/diffusion/ddpm.py, LatentDiffusion: the raw
U-Net, its averages under flattened names, the first stage, the condition
encoder, the scale of the latents and the buffers of the noise schedule.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from pyramid_jax.diffusion import schedules
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan
from pyramid_jax.interop.families import text_encoders


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How the checkpoints of a system name its parts.

  Attributes:
    unet: names of the denoiser.
    condition: names of a trained condition encoder.
    condition_prefix: what stands before them.
    repeats_first_stage: whether the first stage is the condition encoder too,
      and its tensors are there twice.
    stores_scale: whether the scale of the latents is in the checkpoint; else
      it is a constant of the config.
    scalar_scale: whether that is a number instead of one a scale.
  """

  unet: mapping.Rename
  condition: mapping.Rename = text_encoders.rename
  condition_prefix: str = TRANSFORMER
  repeats_first_stage: bool = False
  stores_scale: bool = True
  scalar_scale: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees:
  """The parts of a system: shapes to be filled, or weights.

  Attributes:
    unet: the raw weights of the denoiser.
    ema: its averages; None where the checkpoint has none.
    first_stage: the autoencoder.
    condition: a trained condition encoder, raw; None without.
    clip: a frozen CLIP text encoder; None without.
    latent_scale: (S,), coarse first.
    logvar: (T,), trained log variances of the errors; None without.
    updates: of the averages.
  """

  unet: Any
  ema: Any
  first_stage: Any
  condition: Any
  clip: Any
  latent_scale: Any
  logvar: Any = None
  updates: int = 0


def ema_rename(unet: mapping.Rename) -> mapping.Rename:
  """Names averages: 'diffusion_model.' and the raw key without dots."""

  def rename(path: mapping.Path) -> tuple[str, str]:
    key, kind = unet(path)
    return EMA + f'diffusion_model.{key}'.replace('.', ''), kind

  return rename


def to_flax(
  state: Mapping[str, np.ndarray],
  template: Trees,
  chain: schedules.Chain,
  layout: Layout,
) -> tuple[Trees, mapping.Report]:
  """Takes a checkpoint apart.

  Args:
    state: the official state dict.
    template: shapes, or values to keep where something is missing.
    chain: of the config, which the buffers have to agree with.
    layout: of the system.

  Returns:
    The weights and the account of all keys.

  Raises:
    ValueError: a noise schedule that is not the config's.
  """
  report = mapping.Report(matched={}, missing={}, unused={}, mismatched={})

  def take(tree, rename, prefix):
    filled, part = mapping.to_flax(state, tree, rename, prefix)
    report.matched.update(part.matched)
    report.missing.update(part.missing)
    report.mismatched.update(part.mismatched)
    return filled

  unet = take(template.unet, layout.unet, UNET)
  ema = None
  if any(key.startswith(EMA + 'diffusion_model') for key in state):
    ema = take(unet, ema_rename(layout.unet), '')
  first_stage = take(template.first_stage, msvqgan.rename, FIRST_STAGE)
  if layout.repeats_first_stage and any(
    key.startswith(CONDITION) for key in state
  ):
    take(template.first_stage, msvqgan.rename, CONDITION)
  condition = clip = logvar = None
  if template.condition is not None:
    condition = take(
      template.condition, layout.condition, layout.condition_prefix
    )
  if template.clip is not None:
    clip = _clip(state, template.clip, report)
  if template.logvar is not None:
    logvar = take({LOGVAR: template.logvar}, _raw, '')[LOGVAR]
  scale = template.latent_scale
  if layout.stores_scale or SCALE in state:
    scale = _latent_scale(state, template.latent_scale, report)
  _check_schedule(state, chain, report)
  for key in (DECAY, UPDATES):
    if key in state:
      report.matched[key] = np.shape(state[key])
  for key, value in state.items():
    if key not in report.matched and key not in report.mismatched:
      report.unused[key] = np.shape(value)
  trees = Trees(
    unet=unet,
    ema=ema,
    first_stage=first_stage,
    condition=condition,
    clip=clip,
    latent_scale=scale,
    logvar=logvar,
    updates=int(np.ravel(state.get(UPDATES, 0))[0]),
  )
  return trees, report


def _raw(path: mapping.Path) -> tuple[str, str]:
  return '.'.join(path), 'raw'


def _clip(
  state: Mapping[str, np.ndarray], template: Any, report: mapping.Report
) -> Any:
  """Takes CLIP from the checkpoint, whichever way it was built."""
  rename = text_encoders.rename_clip
  openai = {
    key.removeprefix(OPENAI_CONDITION): value
    for key, value in state.items()
    if key.startswith(OPENAI_CONDITION) and '.visual.' not in key
  }
  if not openai:
    clip, part = mapping.to_flax(state, template, rename, TRANSFORMER)
    report.matched.update(part.matched)
  else:
    # other keys, and one tensor for three: account for them as they are
    renamed = text_encoders.from_openai(openai)
    clip, part = mapping.to_flax(renamed, template, rename)
    for key, value in openai.items():
      report.matched[OPENAI_CONDITION + key] = np.shape(value)
  report.missing.update(part.missing)
  report.mismatched.update(part.mismatched)
  return clip


def _latent_scale(
  state: Mapping[str, np.ndarray], template: Any, report: mapping.Report
) -> Any:
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
  betas, bar = chain.betas, chain.alphas_bar
  before = np.append(1.0, bar[:-1])
  variance = chain.posterior_variance
  buffers = {
    'betas': betas,
    'alphas_cumprod': bar,
    'alphas_cumprod_prev': before,
    'sqrt_alphas_cumprod': np.sqrt(bar),
    'sqrt_one_minus_alphas_cumprod': np.sqrt(1 - bar),
    'log_one_minus_alphas_cumprod': np.log(1 - bar),
    'sqrt_recip_alphas_cumprod': np.sqrt(1 / bar),
    'sqrt_recipm1_alphas_cumprod': np.sqrt(1 / bar - 1),
    'posterior_variance': variance,
    'posterior_log_variance_clipped': np.log(np.maximum(variance, 1e-20)),
    'posterior_mean_coef1': betas * np.sqrt(before) / (1 - bar),
    'posterior_mean_coef2': (1 - before) * np.sqrt(1 - betas) / (1 - bar),
  }
  return {name: value.astype(np.float32) for name, value in buffers.items()}


def _check_schedule(
  state: Mapping[str, np.ndarray],
  chain: schedules.Chain,
  report: mapping.Report,
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
  trees: Trees, chain: schedules.Chain, decay: float, layout: Layout
) -> dict[str, np.ndarray]:
  """Puts a checkpoint together again, the inverse of `to_flax`.

  Args:
    trees: the weights.
    chain: of the config; gives the buffers.
    decay: of the averages.
    layout: of the system.
  """
  state = mapping.to_official(trees.unet, layout.unet, UNET)
  if trees.ema is not None:
    state |= mapping.to_official(trees.ema, ema_rename(layout.unet))
    state[DECAY] = np.asarray(decay, np.float32)
    state[UPDATES] = np.asarray(trees.updates, np.int32)
  prefixes = [FIRST_STAGE] + [CONDITION] * layout.repeats_first_stage
  for prefix in prefixes:
    state |= mapping.to_official(trees.first_stage, msvqgan.rename, prefix)
  if trees.condition is not None:
    state |= mapping.to_official(
      trees.condition, layout.condition, layout.condition_prefix
    )
  if trees.clip is not None:
    rename = text_encoders.rename_clip
    state |= mapping.to_official(trees.clip, rename, TRANSFORMER)
  if trees.logvar is not None:
    state[LOGVAR] = np.asarray(trees.logvar, np.float32)
  if layout.stores_scale:
    scale = np.asarray(trees.latent_scale, np.float32)
    state[SCALE] = scale.reshape(()) if layout.scalar_scale else scale
  return state | schedule_buffers(chain)
