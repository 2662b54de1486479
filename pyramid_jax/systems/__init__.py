"""The systems by name; one file per paper."""

from collections.abc import Callable
import importlib

from ml_collections import ConfigDict

from pyramid_jax.systems import fields
from pyramid_jax.systems import system as system_lib


# The module of each system, with `create(config)`, or `create(config, *others)`
# for a system that builds on trained runs.
SYSTEMS = {
  'adm': 'pyramid_jax.systems.adm',
  'autoencoder': 'pyramid_jax.systems.autoencoder',
  'classifier': 'pyramid_jax.systems.classifier.classifier',
  'diffit': 'pyramid_jax.systems.diffit.image',
  'flow': 'pyramid_jax.systems.flow',
  'frido': 'pyramid_jax.systems.frido',
  'hdr': 'pyramid_jax.systems.hdr',
  'latent_diffit': 'pyramid_jax.systems.diffit.latent',
  'ladm': 'pyramid_jax.systems.ladm.ladm',
  'ladm_control': 'pyramid_jax.systems.ladm.control',
  'ldm': 'pyramid_jax.systems.ldm',
  'sketch': 'pyramid_jax.systems.sketch.sketch',
}


def create(config: ConfigDict, *others: ConfigDict) -> system_lib.Trainable:
  """Builds the system that `config.system.name` names.

  `others` are the configs of the runs that it builds on.

  Raises:
    ValueError: unknown name, or a config that the system cannot serve.
  """
  name = config.system.name
  fields.check_value('system.name', name, SYSTEMS)
  make: Callable[..., system_lib.Trainable]
  make = importlib.import_module(SYSTEMS[name]).create
  return make(config, *others)
