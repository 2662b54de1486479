"""Encodes the training images of a config once, for `config.data.name=latents`.

  python -m pyramid_jax.commands.cache_latents \
      --config=configs/ldm_text.py:small \
      --config.data.root=IMAGES --first_stage=WORKDIR --output=DIR

writes DIR; a run then reads it with --config.data.name=latents
--config.data.root=DIR and the same first stage. Of several processes
(`--config.distributed`), each writes the shards whose index is its own modulo
their number. The same command resumes after an interruption. Crops are drawn
once: an image has one latent, or two with --flips. Exit codes are those of
`pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.cache_latents')

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.commands import caching
from pyramid_jax.config import command_line
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import identity
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import startup
from pyramid_jax.files import stores
from pyramid_jax.networks import first_stages
from pyramid_jax.runs import hashes
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import spaces


Encode = Callable[[Any, Mapping[str, Any]], dict[str, jax.Array]]


def run(
  config: ConfigDict,
  first_stage: str,
  output: stores.Path,
  *,
  count: int = 0,
  shard_size: int = 1024,
  batch_size: int = 32,
  flips: bool = False,
) -> None:
  """Writes a cache of a system on latents into the folder `output`.

  Args:
    config: the config of the system.
    first_stage: a workdir or a weight file.
    output: the folder.
    count: the number of images, from the first; 0 for all.
    shard_size: images of a shard.
    batch_size: images at a time.
    flips: whether the mirrored images are encoded too.

  Raises:
    UserError: a config, weights or a folder that cannot be used.
  """
  _check(config, flips)
  with errors.user_errors():
    with config.unlocked():
      config.first_stage.checkpoint = first_stage
    system = workdir_lib.create_system(config)
    reader = data.create(config, latent_cache.SPLIT)
    mesh = mesh_lib.create(config.mesh, jax.local_devices())
  name = pretrained.FIRST_STAGE
  if name not in system.pretrained_parts():
    raise errors.UserError(
      f'config.system.name is {config.system.name!r}, which has no latents.'
    )
  if count > len(reader):
    raise errors.UserError(
      f'--count={count}: the split has {len(reader)} images.'
    )
  params = pretrained.load(system, config, mesh, output, only=name)[name]
  network = spaces.latents(config).first_stage
  encode = make_encode(network, reader.finish, flips, mesh)
  order = batches_lib.Batches(reader, 1, seed=0, shuffle=False)
  with errors.user_errors(value=errors.DATA):
    example = mesh_lib.numeric(order.at(0))
  manifest = {
    **_manifest(config, params, reader),
    'layout': _layout(encode, params, example).json(),
    'count': count or len(reader),
    'shard_size': shard_size,
    'flips': flips,
  }
  shards = latent_cache.shards(output, manifest)
  caching.begin(output, manifest)
  on_mesh = lambda batch: encode(params, mesh_lib.spread(mesh, batch))
  versions = 1 + flips

  def make(numbers: range) -> caching.Arrays:
    images = range(numbers.start // versions, numbers.stop // versions)
    found = caching.computed(images, batch_size, order.rows, on_mesh)
    return latent_cache.rows_of(found)

  caching.write(shards, make, versions)
  if processes.is_main_process():
    logging.info('%d latents in %s', manifest['count'], output)


def _manifest(config: ConfigDict, params: Any, reader: Any) -> dict[str, Any]:
  """Says what the latents are of, and which autoencoder makes them."""
  return {
    'format': latent_cache.FORMAT,
    'autoencoder': hashes.digest(params),
    'network': config.first_stage.system.network,
    'data': config.data.to_dict(),
    'source': identity.facts(reader.identity()),
    'fixed': latent_cache.fixed_fields(config),
    'label_names': list(reader.label_names),
  }


def _layout(
  encode: Encode, params: Any, example: Mapping[str, Any]
) -> fixed_records.Layout:
  """Returns the layout of the records; nothing is computed."""
  shapes = jax.eval_shape(encode, params, example)
  return latent_cache.layout_of(shapes)


def _check(config: ConfigDict, flips: bool) -> None:
  """Refuses tasks whose conditions a cache cannot hold."""
  task = config.condition.task
  if task in latent_cache.UNSERVED:
    raise errors.UserError(
      f'config.condition.task is {task!r}, whose condition needs the image.'
    )
  if flips and config.data.maps:
    raise errors.UserError(
      '--flips does not mirror maps; config.data.maps is'
      f' {tuple(config.data.maps)}, must be ().'
    )
  if flips and (task not in latent_cache.FLIPPABLE or config.condition.also):
    raise errors.UserError(
      f'--flips is for the tasks {", ".join(latent_cache.FLIPPABLE)}: places'
      f' and words are not mirrored; config.condition.task is {task!r}.'
    )


def make_encode(
  model: first_stages.Network,
  finish: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
  flips: bool,
  mesh: Mesh,
) -> Encode:
  """Returns (params, arrays on the mesh) -> arrays of a shard, compiled."""

  latents = functools.partial(latent_cache.encoded, model)

  def encode(params, batch):
    arrays = finish(batch)
    image = arrays.pop('image')
    if flips:
      mirrored = latents(params, image[:, :, ::-1])
      arrays |= {latent_cache.FLIPPED + k: v for k, v in mirrored.items()}
    return placement.rows(arrays | latents(params, image))

  return jax.jit(placement.within(mesh, encode))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.WritingParser(
    prog='python -m pyramid_jax.commands.cache_latents',
    description='Encodes the training images of a config once.',
  )
  parser.add_argument(
    '--first_stage',
    required=True,
    type=command_line.path,
    help='workdir or weight file',
  )
  parser.add_argument('--count', type=int, default=0, help='images; 0 = all')
  positive = command_line.above_zero(int)
  parser.add_argument('--shard_size', type=positive, default=1024)
  parser.add_argument('--batch_size', type=positive, default=32)
  parser.add_argument('--flips', action='store_true', help='mirrored too')

  def body(flags: argparse.Namespace, config: Any) -> None:
    with stopping.listening(), startup.joined(config.distributed):
      run(
        config,
        flags.first_stage,
        flags.output,
        count=flags.count,
        shard_size=flags.shard_size,
        batch_size=flags.batch_size,
        flips=flags.flips,
      )

  return command_line.run(parser, body, arguments)
