"""Encodes the training images of a config once, for `config.data.name=latents`.

  python -m pyramid_jax.commands.cache_latents \
      --config=configs/ldm_text.py:small \
      --config.data.root=IMAGES --first_stage=WORKDIR --output=DIR

writes DIR; a run then reads it with --config.data.name=latents
--config.data.root=DIR and the same first stage. Each process of a multi-host
run writes the shards whose index is its own modulo their number. The same
command goes on where it was stopped. Crops are drawn once: an image has one
latent, or two with --flips.

Exit codes: as of `pyramid_jax.main`.
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.interop import command_line
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.runs import hashes
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import progress
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.runs import writers as logs
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import system as system_lib


Encode = Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]


def run(
  config: ConfigDict,
  first_stage: str,
  output: pathlib.Path,
  *,
  count: int = 0,
  shard_size: int = 1024,
  batch_size: int = 32,
  flips: bool = False,
) -> None:
  """Writes a cache.

  Args:
    config: of a system on latents.
    first_stage: a workdir or a weight file.
    output: folder of the cache.
    count: of images, from the first; 0 for all.
    shard_size: images of a shard.
    batch_size: images at a time.
    flips: whether the mirrored images are encoded too.

  Raises:
    UserError: a config, weights or a folder that do not serve.
  """
  _check(config, flips)
  with errors.user_errors():
    with config.unlocked():
      config.first_stage.checkpoint = first_stage
    system = workdir_lib.create_system(config)
    reader = data.create(config, latent_cache.SPLIT)
    mesh = mesh_lib.create(config.mesh, jax.local_devices())
  if not has_latents(system):
    raise errors.UserError(
      f'config.system.name is {config.system.name!r}, which has no latents.'
    )
  if count > len(reader):
    raise errors.UserError(
      f'--count={count}: the split has {len(reader)} images.'
    )
  model = autoencoder.network(config.first_stage)
  params = pretrained.load_one(system, config, mesh, pretrained.FIRST_STAGE)
  total = count or len(reader)
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': hashes.digest(params),
    'network': config.first_stage.system.network,
    'data': config.data.to_dict(),
    'fixed': latent_cache.fixed_fields(config),
    'label_names': list(reader.label_names),
    'count': total,
    'shard_size': shard_size,
    'flips': flips,
  }
  with errors.user_errors(missing=errors.OUTPUT):
    output.mkdir(parents=True, exist_ok=True)
    if processes.is_main_process():
      latent_cache.write_manifest(output, manifest)
  encode = make_encode(model, reader.finish, flips)
  process, processes_here = processes.process_part()
  shards = range(process, -(-total // shard_size), processes_here)
  bar = progress.Progress(0, len(shards), shard_size, unit='shard')
  for done, index in enumerate(shards, 1):
    if not latent_cache.is_written(output, index):
      first = index * shard_size
      last = min(total, first + shard_size)
      arrays = _shard(reader, encode, params, mesh, first, last, batch_size)
      with errors.user_errors(missing=errors.OUTPUT):
        latent_cache.write_shard(output, index, arrays)
    bar.update(done)
  logging.info('%d latents in %s', total, output)


def _check(config: ConfigDict, flips: bool) -> None:
  """Refuses tasks that a cache does not serve."""
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
      f'--flips serves the tasks {", ".join(latent_cache.FLIPPABLE)}: places'
      f' and words are not mirrored; config.condition.task is {task!r}.'
    )


def has_latents(system: system_lib.Trainable) -> bool:
  """Whether a system diffuses the latents of a first stage of its own."""
  return pretrained.FIRST_STAGE in system.pretrained_parts()


def make_encode(
  model: first_stages.Network,
  finish: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
  flips: bool,
) -> Encode:
  """Returns (params, host arrays) -> arrays of a shard, compiled."""

  def latents(params: Any, image: jax.Array) -> dict[str, jax.Array]:
    apply = lambda method: params_lib.apply(model, params, image, method=method)
    if model.is_stochastic:
      mean, logvar = apply('posterior')
      arrays = {
        'latent_mean_0': mean,
        'latent_std_0': jnp.exp(0.5 * logvar),
      }
    else:
      zs = apply('encode')
      arrays = {f'latent_mean_{s}': z for s, z in enumerate(zs)}
    return {k: v.astype(jnp.float16) for k, v in arrays.items()}

  @jax.jit
  def encode(params, batch):
    arrays = finish(batch)
    image = arrays.pop('image')
    if flips:
      mirrored = latents(params, image[:, :, ::-1])
      prefix = latent_cache.FLIPPED
      arrays |= {f'{prefix}{k}': v for k, v in mirrored.items()}
    return arrays | latents(params, image)

  return encode


def _shard(
  reader: Any,
  encode: Encode,
  params: Any,
  mesh: Mesh,
  first: int,
  last: int,
  batch_size: int,
) -> dict[str, np.ndarray]:
  """Returns the arrays of the images [first, last)."""
  draws = batches_lib.Batches(reader, 1, seed=0, shuffle=False)
  parts = []
  for start in range(first, last, batch_size):
    places = [
      draws.order(i) for i in range(start, min(start + batch_size, last))
    ]
    indices, seeds = (np.concatenate(x) for x in zip(*places, strict=True))
    with errors.user_errors(value=errors.DATA):
      batch = reader.batch(indices, seeds)
    arrays = encode(params, mesh_lib.spread(mesh, batch))
    parts.append({k: np.asarray(v) for k, v in arrays.items()})
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _parse(
  arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, dict[str, str]]:
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.cache_latents',
    description='Encodes the training images of a config once.',
  )
  parser.add_argument('--config', required=True, help='FILE.py[:variant,...]')
  parser.add_argument(
    '--first_stage', required=True, help='workdir or weight file'
  )
  parser.add_argument('--output', required=True, help='folder to write')
  parser.add_argument('--count', type=int, default=0, help='images; 0 = all')
  parser.add_argument('--shard_size', type=int, default=1024)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--flips', action='store_true', help='mirrored too')
  flags, rest = parser.parse_known_args(arguments)
  overrides = command_line.overrides(parser, rest)
  for name in ('shard_size', 'batch_size'):
    if getattr(flags, name) < 1:
      parser.error(f'--{name} must be at least 1')
  return flags, overrides


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  flags, overrides = _parse(arguments)
  try:
    config = config_lib.load(flags.config)
    config_lib.override(config, overrides)
    config_lib.validate(config)
    run(
      config,
      flags.first_stage,
      pathlib.Path(flags.output),
      count=flags.count,
      shard_size=flags.shard_size,
      batch_size=flags.batch_size,
      flips=flags.flips,
    )
  except errors.UserError as error:
    sys.stderr.write(f'error: {error}\n')
    return error.code
  return errors.OK


if __name__ == '__main__':
  logs.setup()
  sys.exit(main())
