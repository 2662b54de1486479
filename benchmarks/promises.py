r"""What the promises cost: a training step with its checks and without.

  python benchmarks/promises.py [--rounds=5] [--small]

Every step of a run checks that its losses, its gradients and what it updates
are finite, and the host looks at the result, the lock, the save that is running
and the watchdog. Here are the step of `configs/frido_shapes.py:layout` without
these checks, with them, and with steps that may be skipped
(`train.skip_nonfinite`), timed in turn, with the medians and the median of the
ratios of pairs; then what the host does in a step, and what a save does before
it writes. `--small` takes another config. Another commit is compared by
`benchmarks/paired.py --cases=frido --base=CHECKOUT`.
"""

from collections.abc import Callable
from collections.abc import Iterator
import pathlib
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

from absl import app
import jax
import jax.numpy as jnp
import measuring

from pyramid_jax import config as config_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import keep_rules
from pyramid_jax.runs import lock
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import watchdog
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import step as step_lib


CONFIG = 'configs/frido_shapes.py:layout'
SMALL_CONFIG = 'configs/diffit_shapes.py:class,debug'  # is compiled sooner
STEPS = 10  # in a timing
CALLS = 1000  # of what the host does in a step

Run = Callable[[], Any]


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  config = config_lib.load(SMALL_CONFIG if measuring.SMALL.value else CONFIG)
  with tempfile.TemporaryDirectory() as folder:
    setup = setup_lib.prepare(config, pathlib.Path(folder))
    steps = {
      'no check': _step(setup, 0, is_checked=False),
      'all checks': _step(setup, 0),
      'all checks, may be skipped': _step(setup, 1),
    }
    measuring.print_table(('step', 'ms', 'to no check'), _steps(steps))
    state = _state(setup)
    base = statistics.median(_times(steps['all checks']))
    measuring.print_table(
      ('on the host', 'ms', '% of a step'), _on_host(setup, state, base)
    )


def _state(setup: setup_lib.Setup) -> step_lib.TrainState:
  full = lambda tree: jax.tree.map(
    lambda s: jnp.ones(s.shape, s.dtype, device=s.sharding), tree
  )
  params = measuring.device_params(setup.state.params)
  return full(setup.state).replace(params=params)


def _no_check(tree: Any) -> jax.Array:
  del tree
  return jnp.ones((), bool)


def _step(setup: setup_lib.Setup, skipped: int, is_checked: bool = True) -> Run:
  """Returns a function that runs `STEPS` steps, compiled."""
  config = config_lib.from_json(config_lib.to_json(setup.config))
  config.train.skip_nonfinite = skipped
  step = step_lib.make_step(
    setup.system, config, setup.reader.finish, setup.mesh
  )
  arguments = setup.mesh, setup.state, setup.frozen, setup.batch
  check = state_lib.all_finite if is_checked else _no_check
  with mock.patch.object(state_lib, 'all_finite', check):
    program = step_lib.compile_step(step, *arguments)
  frozen = measuring.device_params(setup.frozen)
  held = [_state(setup)]

  def run() -> None:
    for _ in range(1 if measuring.SMALL.value else STEPS):
      held[0], metrics = program(held[0], frozen, setup.batch)
      if is_checked:
        jax.block_until_ready(metrics)
    jax.block_until_ready(held[0])

  run()
  return run


def _times(run: Run) -> list[float]:
  """Returns the seconds of a step, of several timings."""
  times = []
  for _ in range(measuring.rounds()):
    start = time.monotonic()
    run()
    times.append(time.monotonic() - start)
  return [t / (1 if measuring.SMALL.value else STEPS) for t in times]


def _steps(steps: dict[str, Run]) -> Iterator[tuple[str, ...]]:
  times: dict[str, list[float]] = {name: [] for name in steps}
  for turn in range(measuring.rounds()):
    for name in list(steps)[:: 1 if turn % 2 else -1]:
      start = time.monotonic()
      steps[name]()
      count = 1 if measuring.SMALL.value else STEPS
      times[name].append((time.monotonic() - start) / count)
  first = next(iter(times.values()))
  for name, found in times.items():
    ratios = [a / b for a, b in zip(found, first, strict=True)]
    ratio = statistics.median(ratios)
    yield name, f'{1e3 * statistics.median(found):.2f}', f'{ratio:.3f}'


def _on_host(
  setup: setup_lib.Setup, state: step_lib.TrainState, step: float
) -> Iterator[tuple[str, ...]]:
  items = checkpoints.items_of(state)
  rules = keep_rules.Rules.of_config(setup.config.train)
  store = checkpoints.Checkpoints(setup.workdir, rules)
  with lock.Lock(setup.workdir) as held, watchdog.watched('', (0, '')) as watch:

    def looks() -> None:
      for _ in range(CALLS):
        held.check()
        store.check()
        watch.beat()

    rows = {
      'in a step: lock, save, watchdog': measuring.best(looks) / CALLS,
      'before a save: is the state finite': measuring.best(
        lambda: state_lib.not_finite(items)
      ),
      'before a save: hashes': measuring.best(
        lambda: [hashes.tree(tree) for tree in items.values()]
      ),
    }
  for name, secs in rows.items():
    yield name, f'{1e3 * secs:.4f}', f'{100 * secs / step:.2f}'


if __name__ == '__main__':
  measuring.run(main)
