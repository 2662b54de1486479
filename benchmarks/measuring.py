"""Code shared by the benchmarks: flags, weights, timing, counts, official code.

Every benchmark takes `--small`: it runs the same code at sizes that take
seconds, with most optimizations of the compiler off. That shows that the
benchmark runs; its times mean nothing.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import importlib
import math
import pathlib
import sys
import time
import types
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np


SMALL = flags.DEFINE_bool('small', False, 'sizes that take seconds')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'timings of each; the best counts')

CHAIN = 8  # The number of matrix products in a row.


def run(main: Callable[[list[str]], None]) -> None:
  """Runs a benchmark's `main` with the flags of the command line."""

  def prepared(argv: list[str]) -> None:
    if SMALL.value:  # Compilation would take most of the time.
      jax.config.update('jax_disable_most_optimizations', True)
    main(argv)

  app.run(prepared)


def random_params(init: Callable[[jax.Array], Any]) -> Any:
  """Returns random weights, also for layers that are initialised with zeros.

  Args:
    init: maps a key to the variables of a module.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))['params']
  rng = np.random.default_rng(0)

  def fill(leaf):
    fan_in = max(1, int(np.prod(leaf.shape[:-1])))
    values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(values + (len(leaf.shape) == 1), jnp.float32)

  return jax.tree.map(fill, shapes)


def device_params(shapes: Any) -> Any:
  """Returns sines as weights, computed on the device.

  Args:
    shapes: a tree of float32 shapes. The last two axes of a kernel are its
      inputs and outputs.
  """

  @jax.jit
  def fill(step):  # As an argument, it keeps the compiler from folding.
    def sines(leaf):
      place = jnp.arange(math.prod(leaf.shape), dtype=jnp.float32)
      fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 1
      return jnp.sin(step * place).reshape(leaf.shape) / fan_in**0.5

    return jax.tree.map(sines, shapes)

  return fill(jnp.float32(0.37))


def rounds() -> int:
  """Returns how often each run is timed."""
  return 1 if SMALL.value else _ROUNDS.value


def best(run: Callable[[], Any]) -> float:
  """Returns the shortest time of several runs, in seconds.

  Args:
    run: the function that is timed until its result is ready. A first call is
      not timed.
  """
  jax.block_until_ready(run())
  times = []
  for _ in range(rounds()):
    start = time.monotonic()
    jax.block_until_ready(run())
    times.append(time.monotonic() - start)
  return min(times)


def print_table(titles: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
  """Prints a Markdown table, each row as soon as it is known."""
  print(f'\n| {" | ".join(titles)} |\n|{"---|" * len(titles)}')
  for row in rows:
    print(f'| {" | ".join(row)} |', flush=True)


def print_compile_times(
  lower: Callable[[int], jax.stages.Lowered], steps: Sequence[int]
) -> None:
  """Prints how long a sampler takes to be traced and compiled.

  Args:
    lower: maps a number of solver steps to the traced sampler.
    steps: the numbers of steps, one for each row of the table.
  """

  def rows():
    for count in steps:
      jax.clear_caches()
      start = time.monotonic()
      lower(count).compile()
      yield str(count), f'{time.monotonic() - start:.1f}'

  print_table(('steps', 'compile seconds'), rows())


def matrix_rate(side: int, dtype: str = 'float32') -> float:
  """Returns the FLOP/s of products of square matrices.

  Args:
    side: the side of the matrices.
    dtype: the type of the matrices.
  """
  a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
  b = b / side**0.5

  @jax.jit
  def products(a, b):
    return jax.lax.fori_loop(0, CHAIN, lambda _, x: x @ b, a)

  return CHAIN * 2 * side**3 / best(functools.partial(products, a, b))


def flops(compiled: jax.stages.Compiled) -> float:
  """Returns the floating-point operations that XLA counts in a program."""
  cost = compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return float(cost.get('flops', 0.0))


def official(checkout: str, module: str) -> types.ModuleType:
  """Imports a module of an official checkout under a private name.

  The module and its imports from its own package come from the checkout, even
  if another module (a benchmark, an installed package) has the package's name.
  Afterwards `sys.modules` has them as `official.NAME`.

  Args:
    checkout: the folder of the official repository.
    module: the dotted name by which the official code imports the module.

  Raises:
    FileNotFoundError: the checkout lacks the package.
  """
  package = module.partition('.')[0]
  folder = pathlib.Path(checkout, package)
  if not folder.is_dir():
    raise FileNotFoundError(f'{checkout} has no folder {package}')
  hidden = _taken(package)
  root = types.ModuleType(package)
  root.__path__ = [str(folder)]
  sys.modules[package] = root
  try:
    return importlib.import_module(module)
  finally:
    loaded = _taken(package)
    sys.modules.update({f'official.{k}': v for k, v in loaded.items()})
    sys.modules.update(hidden)


def _taken(package: str) -> dict[str, types.ModuleType]:
  """Removes a package with all below it from `sys.modules`."""
  names = [
    name
    for name in sys.modules
    if name == package or name.startswith(f'{package}.')
  ]
  return {name: sys.modules.pop(name) for name in names}


def torch_options(options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns constructor arguments as the official code takes them."""
  return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
