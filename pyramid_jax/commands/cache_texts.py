"""Encodes the captions of a config once, for `config.condition.cache`.

  python -m pyramid_jax.commands.cache_texts --config=CONFIG \
      --config.data.root=IMAGES --config.condition.weights=FILE --output=DIR

writes DIR; a run with the same condition then trains from it with
--config.condition.cache=DIR: the devices hold no text encoder while it trains.
The captions are those of the training split, each one once, and the empty one.
Of several processes (`--config.distributed`), each writes the shards whose
index is its own modulo their number. The same command resumes after an
interruption. Exit codes are those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.cache_texts')

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.commands import caching
from pyramid_jax.conditioning import stored_tokens
from pyramid_jax.config import command_line
from pyramid_jax.data import identity
from pyramid_jax.data.caches import text_cache
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import startup
from pyramid_jax.files import stores
from pyramid_jax.runs import hashes
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import sampled


def run(
  config: ConfigDict,
  output: stores.Path,
  *,
  shard_size: int = 1024,
  batch_size: int = 64,
) -> None:
  """Writes a cache of the captions of a config into the folder `output`.

  Args:
    config: the config of the system.
    output: the folder.
    shard_size: texts of a shard.
    batch_size: texts at a time.

  Raises:
    UserError: a config, weights or a folder that cannot be used.
  """
  system = workdir_lib.create_system(config)
  with errors.user_errors():
    encoder = stored_tokens.text_encoder(sampled.encoder_of(system))
    reader = data.create(data.uncached(config), 'train')
  with errors.user_errors(value=errors.DATA):
    null = stored_tokens.null_ids(encoder)
    keys, ids = text_cache.in_order([null, *_ids(reader, config)])
  name = text_cache.PART
  mesh = mesh_lib.create(config.mesh, jax.local_devices())
  loaded = pretrained.load(system, config, mesh, output, only=name)
  manifest = {
    'format': text_cache.FORMAT,
    'encoder': hashes.digest(loaded[name]),
    'source': identity.facts(reader.identity()),
    'fixed': text_cache.fixed_fields(config),
    'layout': text_cache.layout_of(encoder).json(),
    'count': len(ids),
    'shard_size': shard_size,
  }
  params = pretrained.in_use(system, loaded)[name]
  shards = text_cache.shards(output, manifest)
  caching.begin(output, manifest)
  processes.decided(lambda: text_cache.write_keys(output, keys))

  def encoded(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    tokens = encoder.embedded(params, batch[stored_tokens.IDS])
    return placement.rows({**batch, stored_tokens.KEY: tokens})

  program = jax.jit(placement.within(mesh, encoded))

  def make(numbers: range) -> caching.Arrays:
    return caching.computed(
      numbers,
      batch_size,
      lambda places: {stored_tokens.IDS: ids[places]},
      lambda batch: program(params, mesh_lib.spread(mesh, batch)),
    )

  caching.write(shards, make)
  if processes.is_main_process():
    logging.info('%d texts in %s', len(ids), output)


def _ids(reader: Any, config: ConfigDict) -> Iterator[np.ndarray]:
  """Yields the ids of all captions of a reader."""
  if not hasattr(reader, 'captions'):
    raise ValueError(
      f'config.data.name is {config.data.name!r}, whose captions cannot be'
      ' listed'
    )
  for text in reader.captions():
    stopping.check()
    yield reader.tokenizer.encode(text)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.WritingParser(
    prog='python -m pyramid_jax.commands.cache_texts',
    description='Encodes the captions of a config once.',
  )
  positive = command_line.above_zero(int)
  parser.add_argument('--shard_size', type=positive, default=1024)
  parser.add_argument('--batch_size', type=positive, default=64)

  def body(flags: argparse.Namespace, config: Any) -> None:
    with stopping.listening(), startup.joined(config.distributed):
      run(
        config,
        flags.output,
        shard_size=flags.shard_size,
        batch_size=flags.batch_size,
      )

  return command_line.run(parser, body, arguments)
