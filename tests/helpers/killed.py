"""A slow evaluation, to be killed: `python tests/helpers/killed.py WORKDIR`."""

import pathlib
import sys
import time

import pytest

from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import unfinished
from pyramid_jax.metrics import states
from tests.helpers import configs
from tests.helpers import painter


COUNT = 24


def config():
  """Returns the config of the evaluation: text and edges, batches of 2."""
  config = configs.of_task('text').copy_and_resolve_references()
  with config.unlocked():
    config.data.maps = ('edges',)
    config.evaluate.count, config.evaluate.batch_size = COUNT, 2
  return config


def main():
  with pytest.MonkeyPatch.context() as patch:
    painter.install(patch)
    patch.setattr(unfinished, 'SHARE', float('inf'))
    update = states.PerImage.update

    def slow(self, batch):
      time.sleep(0.5)
      return update(self, batch)

    patch.setattr(states.PerImage, 'update', slow)
    evaluate.run(config(), pathlib.Path(sys.argv[1]), {})


if __name__ == '__main__':
  main()
