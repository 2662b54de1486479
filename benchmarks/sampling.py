r"""Sampling speed of Frido at a mid-size configuration, as ratios of one run.

Times, for 10 steps on each of two scales and no guidance,
  (a) a Python loop over the jitted network, one call a step;
  (b) the one-program sampler, gates and keys computed at every step;
  (c) the same with them computed once per image (equal numbers);
  (d) (c) with native scales, the coarse scale diffused at its own resolution;
and how long (c) takes to compile for 10, 50 and 200 steps.

  python benchmarks/sampling.py [--official=PATH] [--rounds=5]

PATH is a checkout of davidhalladay/Frido; its PyUNetModel is then timed in the
same run (needs PyTorch, einops and omegaconf). Prints a Markdown table.
"""

from collections.abc import Callable
import functools
import sys
import time
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import measuring
import numpy as np

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import pyunet
from pyramid_jax.systems import frido


_OFFICIAL = flags.DEFINE_string('official', '', 'checkout of the official code')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'timings of each, the best counts')
_STEPS = flags.DEFINE_integer('steps', 10, 'solver steps of each scale')

BATCH, SIDE, SPLIT = 2, 32, (4, 4)
CONTEXT = (BATCH, 16, 512)
# Constructor arguments, named as the official ones; 45.6 M parameters.
NETWORK = {
  'model_channels': 96,
  'channel_mult': (1, 2, 3),
  'num_res_blocks': 1,
  'attention_resolutions': (2, 4),
  'num_head_channels': 32,
  'use_spatial_transformer': True,
  'transformer_depth': 1,
  'context_dim': CONTEXT[-1],
  'image_size': SIDE,
  'num_stage': 2,
  'use_split_head': True,
}


def main(argv: list[str]) -> None:
  del argv
  unet = pyunet.PyUNet(
    split_embed_dim_list=SPLIT, use_spade_norm=True, **NETWORK
  )
  context = jax.random.normal(jax.random.key(1), CONTEXT)
  params = _params(unet)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{count / 1e6:.1f} M parameters, {jax.devices()[0].device_kind}')

  steps = _STEPS.value
  key = jax.random.key(2)
  runs: dict[str, Callable[[], Any]] = {}
  loop = _python_loop(unet, params, context, steps)
  runs['(a) Python loop over the jitted network'] = lambda: loop(key)
  for name, cached, native in (
    ('(b) one program, gates at every step', False, False),
    ('(c) one program, gates once', True, False),
    ('(d) (c) with native scales', True, True),
  ):
    program = _program(unet, steps, cached, native)
    compiled = program.lower(params, context, key).compile()
    runs[name] = functools.partial(compiled, params, context, key)
  same = [np.asarray(run()[-1]) for run in list(runs.values())[:3]]
  error = max(np.abs(same[0] - other).max() for other in same[1:])
  scale = np.abs(same[0]).max()
  print(f'(a), (b), (c) agree to {error / scale:.1e} of the maximum')

  if _OFFICIAL.value:
    runs['official PyTorch code'] = _official(steps)
  times = {
    name: measuring.best(run, _ROUNDS.value) for name, run in runs.items()
  }
  base = next(iter(times.values()))
  print('\n| sampler | seconds | images/s | speed over (a) |')
  print('|---|---|---|---|')
  for name, secs in times.items():
    print(f'| {name} | {secs:.2f} | {BATCH / secs:.2f} | {base / secs:.2f} |')

  print('\n| steps | compile seconds |\n|---|---|')
  for steps in (10, 50, 200):
    jax.clear_caches()
    program = _program(unet, steps, True, False)
    start = time.monotonic()
    program.lower(params, context, key).compile()
    print(f'| {steps} | {time.monotonic() - start:.1f} |')


def _params(unet: pyunet.PyUNet) -> Any:
  x = jnp.zeros((1, SIDE, SIDE, sum(SPLIT)))
  context = jnp.zeros((1, *CONTEXT[1:]))
  return measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context, stage=1)
  )


def _shapes(native: bool) -> list[tuple[int, int, int, int]]:
  coarse = SIDE // 2 if native else SIDE
  return [(BATCH, coarse, coarse, SPLIT[0]), (BATCH, SIDE, SIDE, SPLIT[1])]


def _stages(unet, params, context, steps, cached, native):
  return frido.make_stages(
    unet,
    params,
    schedules.make_chain(),
    solvers.DDIM(),
    context=context,
    null=None,
    scale=1.0,
    steps=(steps, steps),
    shapes=_shapes(native),
    pools=(1, 1) if native else (2, 1),
    cached=cached,
  )


def _program(unet, steps, cached, native):
  @jax.jit
  def program(params, context, key):
    stages = _stages(unet, params, context, steps, cached, native)
    return sampling.run(stages, solvers.DDIM(), sampling.Noise.from_key(key))

  return program


def _python_loop(unet, params, context, steps):
  """What is written at first: one jitted network call and update a step."""
  stages = _stages(unet, params, context, steps, False, False)
  moves = []
  for stage in stages:
    ((levels, denoise),) = stage.spans

    @jax.jit
    def move(x, level, next_level, known, variables, denoise=denoise):
      denoise = functools.partial(denoise, context=(known, variables))
      prediction = denoise(x, level)
      return solvers.ddim_update(prediction, level, next_level, 0.0, None)

    moves.append((stage, levels, move))

  def loop(key):
    state, noise = [], sampling.Noise.from_key(key)
    for index, (stage, levels, move) in enumerate(moves):
      x, (known, variables) = stage.enter(state, noise.start(index))
      for i in range(levels.time.shape[0] - 1):
        level, after = solvers.row(levels, i), solvers.row(levels, i + 1)
        x = move(x, level, after, known, variables)
      state = stage.leave(state, x, None)
    return state

  return loop


def _official(steps: int) -> Callable[[], Any]:
  """Returns the official network in its sampling loop, the DDIM update left
  out (it costs nothing beside 20 network calls)."""
  sys.path.insert(0, _OFFICIAL.value)
  from frido.modules.diffusionmodules import pyunet as official
  import torch

  torch.manual_seed(0)
  if not torch.cuda.is_available():  # it moves the stage's number regardless
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
  model = official.PyUNetModel(
    in_channels=sum(SPLIT),
    out_channels=sum(SPLIT),
    split_embed_dim_list=list(SPLIT),
    use_SPADE_norm=True,
    **{k: list(v) if isinstance(v, tuple) else v for k, v in NETWORK.items()},
  ).eval()
  x = torch.randn(BATCH, sum(SPLIT), SIDE, SIDE)
  context = torch.randn(*CONTEXT)

  def run():
    with torch.no_grad():
      for stage in range(2):
        for t in range(steps):
          model(x, torch.full((BATCH,), t), context=context, stage=stage)

  return run


if __name__ == '__main__':
  app.run(main)
