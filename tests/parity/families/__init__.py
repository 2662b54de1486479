"""Families of recorded cases: one module each, found by name.

A module of a family holds `run(case) -> {output name: array}`, which builds
our network from the official constructor arguments in `case.config`, loads
`case.state` and computes every output under its recorded name and in the
official layout.
"""

from collections.abc import Mapping
import dataclasses
import importlib
import types
from typing import Any

import numpy as np


class Unsupported(ValueError):
  """A family or an option of the official code that we do not have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One recorded run of a reference implementation.

  Attributes:
    family: a key of `FAMILIES`.
    config: constructor arguments, named as in the official code.
    state: the official state dict (PyTorch layouts), without a prefix.
    inputs: recorded inputs by name, official layout (images are NCHW).
    expected: recorded outputs by name, official layout.
    tolerance: largest allowed error, relative to the largest magnitude.
    notes: what the outputs mean.
  """

  family: str
  config: Mapping[str, Any]
  state: Mapping[str, np.ndarray]
  inputs: Mapping[str, np.ndarray]
  expected: Mapping[str, np.ndarray]
  tolerance: float
  notes: str = ''


_HERE = 'tests.parity.families'

FAMILIES = {
  'adm.classifier': f'{_HERE}.noisy_classifier',
  'adm.diffusion': f'{_HERE}.adm',
  'adm.guided': f'{_HERE}.adm_guided',
  'adm.unet': f'{_HERE}.unet',
  'diffit.latent': f'{_HERE}.latent_diffit',
  'edm.precond': f'{_HERE}.edm',
  'edm.sampler': f'{_HERE}.edm',
  'edm.song_unet': f'{_HERE}.song_unet',
  'frido.msvqgan': f'{_HERE}.msvqgan',
  'frido.pyunet': f'{_HERE}.pyunet',
  'frido.sampler': f'{_HERE}.frido_diffusion',
  'frido.training_loss': f'{_HERE}.frido_diffusion',
  'ldm.autoencoder_kl': f'{_HERE}.autoencoder',
  'ldm.bert': f'{_HERE}.text_encoders',
  'ldm.ddim': f'{_HERE}.ldm_samplers',
  'ldm.ddpm': f'{_HERE}.ldm_samplers',
  'ldm.discriminator': f'{_HERE}.discriminator',
  'ldm.kl_loss': f'{_HERE}.first_stage_losses',
  'ldm.lpips': f'{_HERE}.lpips',
  'ldm.plms': f'{_HERE}.ldm_samplers',
  'ldm.retrieval': f'{_HERE}.retrieval',
  'ldm.unet': f'{_HERE}.unet',
  'ldm.vq': f'{_HERE}.autoencoder',
  'ldm.vq_loss': f'{_HERE}.first_stage_losses',
  'lgp.mlp': f'{_HERE}.lgp',
  'metrics.fid': f'{_HERE}.metrics',
}


def module(family: str) -> types.ModuleType:
  """Imports the module of a family.

  Raises:
    Unsupported: there is no such family.
  """
  if family not in FAMILIES:
    raise Unsupported(
      f'unknown family {family!r}; known: {", ".join(sorted(FAMILIES))}'
    )
  return importlib.import_module(FAMILIES[family])
