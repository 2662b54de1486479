"""The batches of a run, as any number of processes and threads read them."""

import itertools

import numpy as np

from pyramid_jax.data import batches
from pyramid_jax.data import prefetching
from pyramid_jax.data.pixels import buckets


SIZE = 4  # of a global batch
SEED = 3
# (processes, threads) before and after a run was stopped.
CHANGES = (
  ((1, 1), (1, 3)),
  ((1, 2), (2, 1)),
  ((2, 3), (4, 2)),
  ((4, 1), (1, 2)),
)


def of_run(make_reader, first, last, processes=1, threads=1):
  """Returns the global batches of steps [first, last).

  Every process has a reader of its own and its part of the rows.

  Args:
    make_reader: makes a reader.
    first: the first step.
    last: the step after the last one.
    processes: how many share a batch.
    threads: of each.
  """
  parts = []
  for rows in np.split(np.arange(SIZE), processes):
    reader = make_reader()
    if getattr(reader, 'buckets', None) is None:
      order = batches.Batches(reader, SIZE, SEED, True, rows)
    else:
      of = reader.buckets
      order = buckets.BucketBatches(reader, of, SIZE, SEED, rows)
    with prefetching.prefetch(order, first, last, dict, threads=threads) as got:
      parts.append(list(got))
  return [
    {name: np.concatenate([x[name] for x in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]


def check(make_reader, steps=7, stops=(1, 5)):
  """Compares runs that were stopped with one that was not.

  Args:
    make_reader: makes a reader whose epochs end within the steps.
    steps: of the whole run.
    stops: the steps before which the others are stopped.
  """
  whole = of_run(make_reader, 0, steps)
  for stop, (before, after) in itertools.product(stops, CHANGES):
    got = of_run(make_reader, 0, stop, *before)
    got += of_run(make_reader, stop, steps, *after)
    assert len(got) == len(whole)
    for step, (one, other) in enumerate(zip(got, whole, strict=True)):
      assert one.keys() == other.keys()
      for name, want in other.items():
        message = f'{name} of step {step}, {before} then {after}'
        np.testing.assert_array_equal(one[name], want, err_msg=message)
