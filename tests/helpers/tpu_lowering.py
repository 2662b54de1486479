"""Programs for TPUs, lowered on CPU devices that are taken for chips."""

import pathlib

import jax
from jax.sharding import AbstractDevice
from jax.sharding import Mesh
from ml_collections import ConfigDict
import pytest

from pyramid_jax.planning import abstract
from tests.helpers import config_systems
from tests.helpers import configs


CHIP = AbstractDevice('TPU v5 lite', None, 'tpu')


def take_for_tpus(monkeypatch: pytest.MonkeyPatch) -> None:
  """Lets every mesh say that its devices are chips of a TPU."""
  of_devices = Mesh.abstract_mesh.func
  monkeypatch.setattr(
    Mesh,
    'abstract_mesh',
    property(lambda mesh: of_devices(mesh).update(abstract_device=CHIP)),
  )


def load(name: str, folder: pathlib.Path, parts: int = 8) -> ConfigDict:
  """Returns a config whose batches have an image for each part.

  Args:
    name: 'FILE.py:VARIANT'.
    folder: for the run on which an edge predictor is built.
    parts: into which a batch is split.
  """
  config = configs.load(name)
  changes = {'train.batch_size': parts * config.train.accumulate}
  if 'batch_size' in config.get('sample', {}):
    changes['sample.batch_size'] = parts
  if 'laplacian' in config:  # equal parts for its stages
    changes['train.batch_size'] = config.laplacian.levels * parts
    changes['laplacian.stage_batch'] = 0
  config_systems.give(config, name, folder)
  return configs.change(config, changes)


def lower(draft: abstract.Draft) -> jax.stages.Lowered:
  """Lowers a program for TPUs."""
  return draft.traced.lower(lowering_platforms=('tpu',))
