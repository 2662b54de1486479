"""The process of one checkout in `paired.py`, for either of two APIs.

It compiles a training step and a sampler of each config in turn. When one is
compiled it prints its name; then for each line 'run' that it reads it prints
the wall and CPU seconds of a run, until it reads another line.
"""

from collections.abc import Callable
from collections.abc import Iterator
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import measuring

from pyramid_jax import config as config_lib
from pyramid_jax.systems import system as system_lib


Sampler = Callable[[Any, Any], jax.Array]  # (weights, batch) -> images


def main(cases: dict[str, tuple[str, dict[str, str]]]) -> None:
  """Compiles the cases and runs them on request.

  Args:
    cases: {name: (config, values of its fields)}.
  """
  for name, (path, values) in cases.items():
    config = config_lib.load(path)
    config_lib.override(config, values)
    for what, run in _programs(config):
      jax.block_until_ready(run())
      print(json.dumps(f'{name}, {what}'), flush=True)
      while input() == 'run':
        start, before = time.monotonic(), time.process_time()
        jax.block_until_ready(run())
        used = time.monotonic() - start, time.process_time() - before
        print(json.dumps(used), flush=True)


def _programs(config: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
  """Yields a training step and a sampler of a config, compiled."""
  setup, step_lib, generate = _of_checkout(config)
  full = lambda tree: jax.tree.map(
    lambda s: jnp.ones(s.shape, s.dtype, device=s.sharding), tree
  )
  params = measuring.device_params(setup.state.params)
  frozen = measuring.device_params(setup.frozen)
  state = full(setup.state).replace(params=params)
  step = step_lib.make_step(
    setup.system, config, setup.reader.finish, setup.mesh
  )
  program = step_lib.compile_step(
    step, setup.mesh, setup.state, setup.frozen, setup.batch
  )
  extra = full(setup.state.extra)
  held = [jax.tree.map(jnp.copy, state)]

  def train():
    held[0], metrics = program(held[0], frozen, setup.batch)
    return metrics

  yield 'training step', train
  weights = {'params': params, 'frozen': frozen, 'extra': extra}
  sample = jax.jit(generate).lower(weights, setup.batch).compile()
  yield 'sampling', lambda: sample(weights, setup.batch)


def _of_checkout(config: Any) -> tuple[Any, Any, Sampler]:
  """Returns a run, the module of steps and a sampler, by the checkout's API.

  Both APIs build a run, and make and compile steps, in the same way.
  """
  try:
    from pyramid_jax.diffusion import spec as spec_lib
    from pyramid_jax.training import setup as setup_lib
    from pyramid_jax.training import step as step_lib
  except ImportError:
    # Commits up to 0679d39 have the other API.
    return _of_older(config)
  setup = setup_lib.prepare(config, pathlib.Path())
  count = config.train.batch_size

  def generate(weights, batch):
    return system_lib.generate(
      setup.system,
      system_lib.Weights(**weights),
      system_lib.image_keys(0, range(count)),
      setup.reader.finish(batch),
      spec_lib.from_config(config),
    )[0]

  return setup, step_lib, generate


def _of_older(config: Any) -> tuple[Any, Any, Sampler]:
  """Returns what `_of_checkout` returns, by the API of commit 0679d39."""
  from pyramid_jax import job
  from pyramid_jax.scaling import state as state_lib

  setup = job.prepare(config, pathlib.Path())

  def generate(weights, batch):
    return system_lib.generate(
      setup.system,
      system_lib.Weights(**weights),
      jax.random.key(0),
      setup.reader.finish(batch),
      config.train.batch_size,
    )[0]

  return setup, state_lib, generate


if __name__ == '__main__':
  main(json.loads(sys.argv[1]))
