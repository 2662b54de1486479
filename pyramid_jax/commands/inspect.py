"""Shows what the data of a config are: counts, speed, and a page of examples.

  python -m pyramid_jax.commands.inspect --config=CONFIG \
      --config.data.root=DATA --output=DIR

prints for each split how many examples it has and what its filters leave out,
and how long an example takes to be read, decoded and cut; writes
`DIR/SPLIT.png`, a page of examples beside their conditions as the networks get
them, cropped and mirrored, and `DIR/report.json`, what is printed. No weights
are read. Exit codes are those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.inspect')

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import time
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import prefetching
from pyramid_jax.data import stage_times
from pyramid_jax.data.pixels import buckets as buckets_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import stopping


REPORT = 'report.json'
_BATCHES = 4  # of which the speed of batches is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """What is found out about a split."""

  split: str
  examples: int
  left_out: dict[str, int]  # by reason
  labels: int  # categories or classes
  stages: dict[str, float]  # seconds of an example, in one thread
  images_per_sec: float  # of batches, by the threads of a run

  def lines(self, workers: int) -> list[str]:
    """Returns what is printed."""
    left = [f'{n} {why}' for why, n in self.left_out.items()]
    total = sum(self.stages.values())
    stages = [f'{k} {1e3 * secs:.2f} ms' for k, secs in self.stages.items()]
    rate = 1 / max(total, 1e-9)
    return [
      f'{self.split}: {self.examples} examples, {self.labels} labels;'
      f' left out: {", ".join(left) or "nothing"}',
      f'  an example: {", ".join(stages)} ({rate:.0f} images/s in one thread)',
      f'  batches: {self.images_per_sec:.0f} images/s in {workers} threads',
    ]


def run(
  config: ConfigDict,
  output: stores.Path,
  *,
  count: int = 16,
  splits: Sequence[str] = ('train', 'val'),
  say: Callable[[str], object] = print,
) -> list[Split]:
  """Inspects the splits of a config; writes into the folder `output`.

  Args:
    config: the config.
    output: the folder.
    count: examples of a page, and of what is measured.
    splits: of `data.SPLITS`.
    say: takes a line that is to be shown.

  Returns:
    What was found out, for each split that is there.

  Raises:
    UserError: data that are missing or cannot be read, or a folder that cannot
      be written.
  """
  with errors.user_errors():
    # The examples of latents are those of their images.
    config = data.uncached(config)
    missing = data.missing_inputs(config, splits)
  if missing:
    text = '; '.join(missing)
    raise errors.UserError(f'missing: {text}.', errors.MISSING)
  whole_files.make_folder(output)
  found = []
  for split in splits:
    stopping.check()
    with errors.user_errors():
      reader: Any = data.create(config, split)
    if hasattr(reader, 'keep_text'):
      reader.keep_text = True
    with errors.user_errors(value=errors.DATA):
      order = _order(config, reader, count)
      found.append(_measured(order, split, config.data.workers))
      page = _page(config, order)
    for line in found[-1].lines(config.data.workers):
      say(line)
    whole_files.save_png(output / f'{split}.png', page)
    say(f'  {output / split}.png')
  text = json.dumps([dataclasses.asdict(x) for x in found], indent=2)
  whole_files.save_text(output / REPORT, text + '\n')
  return found


def _measured(order: batches_lib.Batches, split: str, workers: int) -> Split:
  """Reads the first batches of an order."""
  reader: Any = order.reader
  reader.batch(*order.order(0))  # What is read once is not measured.
  stages = stage_times.seconds(reader, *order.order(1))
  start = time.perf_counter()
  with prefetching.prefetch(
    order, 2, 2 + _BATCHES, lambda x: x, threads=workers
  ) as batches:
    made = sum(len(next(iter(batch.values()))) for batch in batches)
  secs = time.perf_counter() - start
  return Split(
    split=split,
    examples=len(reader),
    left_out={k: int(n) for k, n in reader.report.items() if n},
    labels=max(0, len(reader.label_names) - 1),
    stages=stages,
    images_per_sec=made / secs,
  )


def _order(config: ConfigDict, reader: Any, count: int) -> batches_lib.Batches:
  """Returns the order of training, in batches of at most so many examples."""
  seed = config.train.seed
  if reader.buckets is None:
    return batches_lib.Batches(reader, count, seed)
  count = min(count, config.train.batch_size)  # which every bucket has
  return buckets_lib.BucketBatches(reader, reader.buckets, count, seed)


def _page(config: ConfigDict, order: batches_lib.Batches) -> np.ndarray:
  """Returns the page of the first batch of an order."""
  reader: Any = order.reader
  mesh = mesh_lib.pure_data(jax.local_devices()[:1])
  finisher = examples_lib.Finisher(config, reader, mesh, order.batch_size)
  examples = finisher.all(lambda rows: order.at(0))
  task = config.condition.task
  return grids.draw(examples.real, examples.rows, task, reader.label_names)


def _splits(text: str) -> tuple[str, ...]:
  """Reads the value of `--splits`; an unknown split is a ValueError."""
  names = tuple(text.split(','))
  for name in (x for x in names if x not in data.SPLITS):
    raise argparse.ArgumentTypeError(
      f'{name!r} is no split, must be of {", ".join(data.SPLITS)}'
    )
  return names


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.WritingParser(
    prog='python -m pyramid_jax.commands.inspect',
    description='Shows what the data of a config are.',
  )
  positive = command_line.above_zero(int)
  parser.add_argument('--count', type=positive, default=16, help='examples')
  parser.add_argument(
    '--splits', type=_splits, default=('train', 'val'), help='train,val,test'
  )

  def body(flags: argparse.Namespace, config: Any) -> None:
    with stopping.listening():
      run(config, flags.output, count=flags.count, splits=flags.splits)

  return command_line.run(parser, body, arguments)
