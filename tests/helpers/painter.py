"""A system whose images are known, in the place of a run's."""

import types

import jax
import jax.numpy as jnp

from pyramid_jax import config as config_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import loading
from pyramid_jax.systems import system as system_lib


def make(**fields):
  """Returns a system of one stage that has no networks."""
  values = {
    'outputs': system_lib.SAMPLES,
    'accepts': frozenset((*system_lib.EDITS, 'sketch')),
    'any_shape': False,
    'stage_count': 1,
    'image_size': 32,
    'check_spec': lambda spec: None,
    'check_rows': lambda names: None,
    'example_condition': lambda: None,
    'condition': lambda weights, batch: None,
    'stages': lambda *args: [],
    'edited': lambda *args: [],
    'scale_shape': lambda stage: (2, 2),
  }
  return types.SimpleNamespace(**values | fields)


def paint(system, weights, keys, batch, spec, edit=None, extent=None):
  """Enlarges by repetition; elsewhere noise, within what the batch says."""
  del system, weights, spec
  sides = (extent and extent.shape) or (32, 32)
  draw = lambda key: jax.random.uniform(key, (*sides, 3), minval=-1)
  images = jax.vmap(draw)(keys)
  if edit is not None:
    images = edit.image * edit.strength
  if 'lr_image' in batch:
    images = jnp.repeat(jnp.repeat(batch['lr_image'], 4, 1), 4, 2)
  return images, [jnp.zeros((len(keys), 2, 2, 3))]


def install(monkeypatch, system=None, generate=paint, weights=None):
  """Makes every run one of this system."""
  run = types.SimpleNamespace(
    system=make() if system is None else system,
    weights=weights,
    mesh=mesh_lib.create(config_lib.base('ldm').mesh),
    step=3,
  )
  monkeypatch.setattr(loading, 'load', lambda *args, **kwargs: run)
  monkeypatch.setattr(loading, 'to_sample', lambda run: run)
  monkeypatch.setattr(system_lib, 'generate', generate)
  return run
