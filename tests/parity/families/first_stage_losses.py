"""Families `ldm.vq_loss` and `ldm.kl_loss`: the losses of a first stage.

CompVis/latent-diffusion: ldm/modules/losses/vqperceptual.py, and its origin
taming/modules/losses/vqperceptual.py: VQLPIPSWithDiscriminator; and
ldm/modules/losses/contperceptual.py: LPIPSWithDiscriminator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import discriminator as discriminator_names
from pyramid_jax.interop.families import lpips as lpips_names
from pyramid_jax.networks import discriminator
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import lpips
from pyramid_jax.networks.layers import affine
from pyramid_jax.systems import first_stage_losses
from tests.parity import families


KL = 'ldm.kl_loss'

# Arguments and the values at which we follow them.
_FIXED: dict[str, tuple[Any, ...]] = {
  'perceptual_loss': ('lpips',),
}
# The reference stores these and never uses them in the losses.
_WITHOUT_EFFECT = {'class', 'pixelloss_weight', 'n_classes'}
_SETTINGS = {
  'perceptual_weight': 1.0,
  'disc_weight': 1.0,
  'disc_factor': 1.0,
  'disc_loss': 'hinge',
}
_SETTINGS_VQ = _SETTINGS | {'codebook_weight': 1.0, 'pixel_loss': 'l1'}
_SETTINGS_KL = _SETTINGS | {'kl_weight': 1.0}
_DISCRIMINATOR = {
  'disc_num_layers': ('n_layers', 3),
  'disc_in_channels': ('input_nc', 3),
  'disc_ndf': ('ndf', 64),
  'use_actnorm': ('use_actnorm', False),
}
_INPUTS = {'inputs', 'hidden', 'reconstructions', 'cond'}


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes losses, their parts and gradients before and after the start.

  Raises:
    Unsupported: an option that we do not have.
    ValueError: an incomplete state dict.
  """
  settings = _settings(case)
  image = _nhwc(case.inputs['inputs'])
  features = _nhwc(case.inputs['hidden'])
  cond = case.inputs.get('cond')
  discriminate, discriminator_params = _discriminator(
    case, image, None if cond is None else _nhwc(cond)
  )
  perceptual = _perceptual(case, image, settings.perceptual_weight)
  kernel = jnp.asarray(case.state['last_layer.weight'].transpose(2, 3, 1, 0))
  bias = jnp.asarray(case.state['last_layer.bias'])
  last = affine.Conv(len(bias), kernel_size=kernel.shape[0])
  regularizer = _regularizer(case)
  logvar = _logvar(case)

  def reconstruct(features, kernel):
    params = {'kernel': kernel, 'bias': bias}
    return last.apply({'params': params}, features)

  def generator(kernel, step):
    last = first_stage_losses.LastConvolution(
      features=features, kernel=kernel, apply=reconstruct
    )
    return first_stage_losses.generator_loss(
      settings,
      image,
      last,
      perceptual,
      lambda x: discriminate(discriminator_params, x),
      regularizer,
      step,
      logvar,
    )

  def critic(params, step):
    fake = reconstruct(features, kernel)
    return first_stage_losses.discriminator_loss(
      settings, discriminate(params, image), discriminate(params, fake), step
    )

  outputs: dict[str, np.ndarray] = {}
  for when, step in {
    'before': settings.disc_start - 1,
    'after': settings.disc_start + 1,
  }.items():
    (loss, metrics), grad = _value_and_grad(generator)(kernel, step)
    outputs[f'{when}/gen_loss'] = np.asarray(loss)
    outputs[f'{when}/gen_grad_last_layer'] = _oihw(grad)
    outputs |= {f'{when}/gen/{k}': np.asarray(v) for k, v in metrics.items()}
    (loss, metrics), grads = _value_and_grad(critic)(discriminator_params, step)
    outputs[f'{when}/disc_loss'] = np.asarray(loss)
    first = grads['params']['main_0']['kernel']
    outputs[f'{when}/disc_grad_first_conv'] = _oihw(first)
    outputs |= {f'{when}/disc/{k}': np.asarray(v) for k, v in metrics.items()}
  return outputs


def _regularizer(case: families.Case) -> jax.Array:
  """Returns the scalar codebook loss, or the divergences (B,)."""
  if case.family != KL:
    return jnp.asarray(case.inputs['codebook_loss']).mean()
  moments = _nhwc(case.inputs['moments'])
  return first_stages.divergence(*first_stages.split_moments(moments))


def _logvar(case: families.Case) -> jax.Array:
  """Returns the scalar parameter, or its initial value."""
  value = case.state.get('logvar', case.config.get('logvar_init', 0.0))
  return jnp.asarray(value, jnp.float32).reshape(())


def _settings(case: families.Case) -> first_stage_losses.LossSettings:
  config = case.config
  for name, allowed in _FIXED.items():
    if config.get(name, allowed[0]) not in allowed:
      raise families.Unsupported(
        f'{name} = {config[name]!r}; supported: {allowed[0]!r}'
      )
  is_kl = case.family == KL
  settings = _SETTINGS_KL if is_kl else _SETTINGS_VQ
  own = {'disc_start', 'disc_conditional'}
  if is_kl:
    own.add('logvar_init')
  known = own | _FIXED.keys() | _WITHOUT_EFFECT
  known |= settings.keys() | _DISCRIMINATOR.keys()
  unknown = sorted(config.keys() - known)
  inputs = _INPUTS | {'moments' if is_kl else 'codebook_loss'}
  unknown += sorted(case.inputs.keys() - inputs)
  name_of_class = f'{"" if is_kl else "VQ"}LPIPSWithDiscriminator'
  if unknown:
    raise families.Unsupported(
      f'unknown arguments or inputs of {name_of_class}: {unknown}'
    )
  if config.get('disc_conditional', False) != ('cond' in case.inputs):
    raise families.Unsupported(
      'disc_conditional, and the input cond, must come together'
    )
  fields = {k: config.get(k, default) for k, default in settings.items()}
  build: Callable[..., first_stage_losses.LossSettings] = (
    first_stage_losses.KLSettings if is_kl else first_stage_losses.VQSettings
  )
  try:
    return build(disc_start=config['disc_start'], **fields)
  except ValueError as error:
    raise families.Unsupported(str(error)) from error


def _discriminator(
  case: families.Case, image: jax.Array, cond: jax.Array | None
) -> tuple[Callable[[Any, jax.Array], jax.Array], Any]:
  """Returns (variables, image) -> logits in training mode, and variables."""
  module = discriminator.PatchDiscriminator(
    **{
      ours: case.config.get(name, default)
      for name, (ours, default) in _DISCRIMINATOR.items()
    }
  )

  started = [v for k, v in case.state.items() if k.endswith('initialized')]
  if module.use_actnorm and not np.all(started):
    raise families.Unsupported('ActNorm that starts from its first batch')

  def joined(x):
    return x if cond is None else jnp.concatenate([x, cond], -1)

  template = jax.eval_shape(module.init, jax.random.key(0), joined(image))
  variables, report = mapping.to_flax(
    case.state, template, discriminator_names.rename, 'discriminator.'
  )
  report.require_complete()

  def discriminate(variables, x):
    # Every call starts from the stored statistics, and uses the batch's.
    logits, _ = module.apply(
      variables, joined(x), train=True, mutable=[discriminator.STATISTICS]
    )
    return logits

  return discriminate, variables


def _perceptual(
  case: families.Case, image: jax.Array, weight: float
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns (x, y) -> (B,); without weight the reference reports zero."""
  if not weight > 0:
    return lambda x, y: jnp.zeros(x.shape[:1])
  module = lpips.LPIPS()
  template = jax.eval_shape(module.init, jax.random.key(0), image, image)
  params, report = mapping.to_flax(
    case.state, template['params'], lpips_names.rename, 'perceptual_loss.'
  )
  report.require_complete()

  def distance(x, y):
    return module.apply({'params': params}, x, y)

  return distance


def _value_and_grad(function: Callable[..., Any]) -> Callable[..., Any]:
  return jax.jit(jax.value_and_grad(function, has_aux=True))


def _nhwc(x: np.ndarray) -> jax.Array:
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def _oihw(kernel: jax.Array) -> np.ndarray:
  return np.asarray(kernel).transpose(3, 2, 0, 1)
