"""Finds the neighbours of the images of a config once, in an index.

  python -m pyramid_jax.commands.find_neighbours \
      --config=configs/ldm_retrieval.py --config.data.root=IMAGES \
      --config.condition.neighbour_index=INDEX --embeddings=FILE.npz \
      --output=NEIGHBOURS.npz

FILE.npz has the embeddings of the images by CLIP, `embedding` (M, D), and
`name` (M,), their paths below the folder of the split; without names they are
in the order of the reader. Their nearest neighbours in the index, by cosine, go
to --output, which `config.condition.neighbour_rows` then names, or
`eval_neighbour_rows` with --split=val. Exit codes are those of
`pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.find_neighbours')

import argparse
from collections.abc import Sequence
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.data import identity
from pyramid_jax.data.caches import neighbour_index
from pyramid_jax.data.caches import neighbours
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import stores
from pyramid_jax.runs import stopping


_BATCH = 1024  # images whose neighbours are sought at a time
_NAME = 'name'
_FLAG = '--embeddings'


def find(
  config: ConfigDict, split: str, embeddings: pathlib.Path, count: int
) -> tuple[np.ndarray, str]:
  """Returns the rows (M, count) of neighbours, and the digest of the index.

  Args:
    config: of a model whose condition is retrieval.
    split: whose images are meant.
    embeddings: the file with the embeddings of these images.
    count: neighbours of an image.

  Raises:
    UserError: files that are missing, damaged or of other images.
  """
  c = config.condition
  with errors.user_errors():
    reader = data.create(neighbours.without(config), split)
  index = neighbour_index.NeighbourIndex(c.neighbour_index, c.dim)
  queries = neighbour_index.load(embeddings, _FLAG)
  if queries.shape[1] != index.width:
    raise errors.UserError(
      f'{embeddings} ({_FLAG}) has the width {queries.shape[1]}, must be'
      f' {index.width} as {neighbour_index.FIELD}.',
      errors.DATA,
    )
  images = list(reader.identity().get(identity.IMAGES, ()))
  places = _places(embeddings, images, len(reader), len(queries))
  found = []
  for start in range(0, len(places), _BATCH):
    stopping.check()
    some = queries[places[start : start + _BATCH]]
    found.append(index.search(some, count))
  return np.concatenate(found), index.digest


def _places(
  path: pathlib.Path, images: Sequence[str], count: int, given: int
) -> np.ndarray:
  """Returns the places (M,) of the images of a split among embeddings.

  Args:
    path: the file of the embeddings.
    images: the names of the images in the order of the reader, or nothing.
    count: M.
    given: how many embeddings there are.
  """
  with arrays_lib.opened(path) as archive:
    names = archive[_NAME] if _NAME in archive else np.zeros(0, 'U1')
  if not names.size and given == count:
    return np.arange(count)
  if not names.size or len(images) != count or len(names) != given:
    raise errors.UserError(
      f'{path} ({_FLAG}) has {given} embeddings and {names.size} names, the'
      f' split {count} images and {len(images)} names.',
      errors.DATA,
    )
  place = {str(name): i for i, name in enumerate(names.tolist())}
  absent = [name for name in images if name not in place]
  if absent:
    raise errors.UserError(
      f'{path} ({_FLAG}) lacks {len(absent)} of {count} images, such as'
      f' {absent[0]!r}.',
      errors.DATA,
    )
  return np.array([place[name] for name in images])


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.find_neighbours',
    description='Finds the neighbours of images in an index.',
  )
  parser.add_argument(
    '--config',
    required=True,
    type=command_line.path,
    help='FILE.py[:variant,...]',
  )
  parser.add_argument('--embeddings', required=True, type=command_line.path)
  parser.add_argument('--output', required=True, type=command_line.path)
  parser.add_argument('--split', choices=data.SPLITS, default='train')
  whole = command_line.above_zero(int)
  parser.add_argument('--neighbours', type=whole, default=20)

  def body(flags: argparse.Namespace, config: Any) -> None:
    with stopping.listening():
      output = stores.path(flags.output)
      path = pathlib.Path(flags.embeddings)
      rows, digest = find(config, flags.split, path, flags.neighbours)
      neighbours.write(output, rows, digest)
    logging.info('%d neighbours of %d images in %s', *rows.shape[::-1], output)

  return command_line.run(parser, body, arguments)
