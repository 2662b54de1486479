"""Slow sampling, to be killed: `python tests/helpers/killed_samples.py DIR`."""

import pathlib
import sys
import time

import pytest

from pyramid_jax.commands import sample
from pyramid_jax.runs import array_parts
from tests.helpers import configs
from tests.helpers import painter


OPTIONS = {'prompt': 'a red circle', 'count': 23}


def config():
  """Returns the config of the samples, in batches of 2."""
  config = configs.of_task('text').copy_and_resolve_references()
  with config.unlocked():
    config.sample.batch_size = 2
  return config


def main():
  with pytest.MonkeyPatch.context() as patch:
    painter.install(patch)
    add = array_parts.ArrayParts.add

    def slow(self, arrays):
      time.sleep(0.1)
      add(self, arrays)

    patch.setattr(array_parts.ArrayParts, 'add', slow)
    sample.run(config(), pathlib.Path(sys.argv[1]), OPTIONS)


if __name__ == '__main__':
  main()
