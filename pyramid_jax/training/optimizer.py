"""Learning rate, optimizer and averaged weights."""

import math
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from pyramid_jax.training import muon


def learning_rate(config: ConfigDict, count: jax.Array) -> jax.Array:
  """Returns the rate of the update after `count` finished ones.

  Linear warm-up over `train.warmup_steps`, then constant, or a `train.decay`
  that ends at zero after `train.decay_steps` updates in all. Independent of
  `train.steps`, so that a lengthened run repeats its past.
  """
  train = config.train
  rate = jnp.asarray(train.learning_rate, jnp.float32)
  if train.warmup_steps:
    rate *= jnp.minimum(1.0, (count + 1) / train.warmup_steps)
  if train.decay_steps:
    length = max(1, train.decay_steps - train.warmup_steps)
    part = jnp.clip((count - train.warmup_steps) / length, 0.0, 1.0)
    if train.decay == 'linear':
      rate *= 1.0 - part
    else:
      rate *= 0.5 * (1.0 + jnp.cos(math.pi * part))
  return rate


def create(
  config: ConfigDict, shardings: muon.Shardings | None = None
) -> optax.GradientTransformation:
  """Returns the optimizer of the parameters of one loss.

  Args:
    config: of a run.
    shardings: of updates over all devices; None for one device.

  Raises:
    ValueError: unknown `config.optimizer.name`.
  """
  c = config.optimizer
  moments = {'b1': c.b1, 'b2': c.b2, 'eps': c.eps}

  def rate(count):
    return learning_rate(config, count)

  if c.name == 'adam':
    tx = optax.adam(rate, **moments)
  elif c.name == 'adamw':
    tx = optax.adamw(rate, weight_decay=c.weight_decay, **moments)
  elif c.name == 'muon':
    decay = {'weight_decay': c.weight_decay}
    tx = muon.create(
      rate,
      eps=c.eps,
      adam=optax.adamw(rate, nesterov=True, **decay, **moments),
      shardings=shardings,
      **decay,
    )
  else:
    raise ValueError(
      f'config.optimizer.name is {c.name!r}, must be adam, adamw or muon.'
    )
  if config.train.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.train.clip_norm), tx)
  return tx


def update_count(opt_state: Any) -> jax.Array:
  """Returns () int32: the finished updates of {loss name: optimizer state}.

  Steps that were skipped are not among them.
  """
  # An optimizer has several counts, which go up together.
  return optax.tree.get_all_with_path(opt_state, 'count')[0][1]


def initial_averages(
  config: ConfigDict, params: Any, patterns: list[str]
) -> Any:
  """Returns the averages before the first update, copies of the parameters.

  They are a part of `params`, {loss name: tree}, the same nested dicts pruned:
  what matches one of `patterns`, regular expressions of 'loss name/path'.
  `ema.decay` 0 without a half-life keeps none.
  """
  if not (config.ema.decay or config.ema.halflife_images):
    return {}
  # A copy: a donated buffer may not stand in two places.
  kept = {
    path: jnp.copy(leaf)
    for path, leaf in traverse_util.flatten_dict(params).items()
    if any(re.fullmatch(p, '/'.join(path)) for p in patterns)
  }
  return traverse_util.unflatten_dict(kept)


def ema_decay(config: ConfigDict, updates: jax.Array) -> jax.Array:
  """Returns the weight of the old average in update n, counting from 1.

  It is min(decay, (1 + n) / (10 + n)), the rule of LDM and Frido
  (davidhalladay/Frido: frido/modules/ema.py); without `ema.warmup` it is
  constant, as in ADM (openai/guided-diffusion: guided_diffusion/nn.py), MDT
  and DiT. Or it follows from a half-life in images that grows with those seen
  before (EDM, NVlabs/edm: training/training_loop.py): the first update then
  keeps nothing.
  """
  n = jnp.asarray(updates, jnp.float32)
  if config.ema.halflife_images:
    batch = config.train.batch_size
    seen = (n - 1.0) * batch
    life = jnp.minimum(
      config.ema.halflife_images, config.ema.halflife_rampup * seen
    )
    return 0.5 ** (batch / jnp.maximum(life, 1e-8))
  decay = jnp.asarray(config.ema.decay, jnp.float32)
  if config.ema.warmup:
    decay = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
  return decay


def averages(
  config: ConfigDict, ema: Any, params: Any, count: jax.Array
) -> Any:
  """Returns the averages after an update.

  `params` are those after the update, `count` () the updates before it.
  """
  rest = 1.0 - ema_decay(config, count + 1)
  flat = traverse_util.flatten_dict(params)
  means = {
    path: mean - rest * (mean - flat[path])
    for path, mean in traverse_util.flatten_dict(ema).items()
  }
  return traverse_util.unflatten_dict(means)
