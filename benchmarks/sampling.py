r"""Sampling speed of Frido at a mid-size configuration, as ratios in one run.

Times 10 steps on each of two scales without guidance:
  (a) a Python loop over the jitted network, one call a step;
  (b) the one-program sampler, with gates and keys computed at every step;
  (c) the same with them computed once for an image (equal results);
  (d) (c) with native scales: the coarse scale at its own resolution;
and the compilation of (c) for 10, 50 and 200 steps.

  python benchmarks/sampling.py [--official=PATH] [--rounds=5] [--steps=10] \
      [--small]

PATH is a checkout of davidhalladay/Frido; its PyUNetModel is then timed in the
same run (needs PyTorch, einops and omegaconf). Prints a Markdown table.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import measuring
import numpy as np

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.solvers import base as solver_lib
from pyramid_jax.networks import pyunet
from pyramid_jax.systems import frido


_OFFICIAL = flags.DEFINE_string('official', '', 'checkout of the official code')
_STEPS = flags.DEFINE_integer('steps', 10, 'solver steps of each scale')

SPLIT = (4, 4)  # The channels of the scales.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """The sizes that are timed.

  Attributes:
    batch: the number of images.
    side: the side of the finest scale.
    context: the (L, D) of the tokens of an image.
    network: the arguments of the PyU-Net, named as the official ones.
    steps: the number of solver steps of each scale.
    compiled_steps: the numbers of steps for which compilation is timed.
  """

  batch: int = 2
  side: int = 32
  context: tuple[int, int] = (16, 512)
  network: dict[str, Any]
  steps: int
  compiled_steps: tuple[int, ...] = (10, 50, 200)

  def shapes(self, is_native: bool) -> list[tuple[int, int, int, int]]:
    """Returns the (B, H, W, C) at which each scale is diffused.

    Args:
      is_native: whether the coarse scale has its own resolution.
    """
    coarse = self.side // 2 if is_native else self.side
    return [
      (self.batch, coarse, coarse, SPLIT[0]),
      (self.batch, self.side, self.side, SPLIT[1]),
    ]


NETWORK = {  # 45.6 M parameters
  'model_channels': 96,
  'channel_mult': (1, 2, 3),
  'num_res_blocks': 1,
  'attention_resolutions': (2, 4),
  'num_head_channels': 32,
  'use_spatial_transformer': True,
  'transformer_depth': 1,
  'context_dim': 512,
  'num_stage': 2,
}
SMALL_NETWORK = NETWORK | {
  'model_channels': 32,
  'channel_mult': (1,),
  'attention_resolutions': (1,),
  'context_dim': 32,
}


def main(argv: list[str]) -> None:
  del argv
  sizes = Sizes(network=NETWORK, steps=_STEPS.value)
  if measuring.SMALL.value:
    sizes = Sizes(
      batch=1,
      side=8,
      context=(4, 32),
      network=SMALL_NETWORK,
      steps=2,
      compiled_steps=(2,),
    )
  unet = pyunet.PyUNet(
    split_embed_dim_list=SPLIT, use_spade_norm=True, **sizes.network
  )
  context = jax.random.normal(jax.random.key(1), (sizes.batch, *sizes.context))
  params = _params(unet, sizes)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{count / 1e6:.1f} M parameters, {jax.devices()[0].device_kind}')

  runs: dict[str, Callable[[], Any]] = {
    '(a) Python loop over the jitted network': _python_loop(
      _stages(unet, params, context, sizes, is_cached=False), sizes
    )
  }
  for name, is_cached, is_native in (
    ('(b) one program, gates at every step', False, False),
    ('(c) one program, gates once', True, False),
    ('(d) (c) with native scales', True, True),
  ):
    program = _program(unet, sizes, is_cached, is_native)
    compiled = program.lower(params, context).compile()
    runs[name] = functools.partial(compiled, params, context)
  same = [np.asarray(run()[-1]) for run in list(runs.values())[:3]]
  error = max(np.abs(same[0] - other).max() for other in same[1:])
  scale = np.abs(same[0]).max()
  print(f'(a), (b), (c) agree to {error / scale:.1e} of the maximum')

  if _OFFICIAL.value:
    runs['official PyTorch code'] = _official(sizes)
  measuring.print_table(
    ('sampler', 'seconds', 'images/s', 'relative to (a)'), _rows(runs, sizes)
  )

  def lower(steps: int) -> jax.stages.Lowered:
    of_steps = dataclasses.replace(sizes, steps=steps)
    return _program(unet, of_steps, True, False).lower(params, context)

  measuring.print_compile_times(lower, sizes.compiled_steps)


def _rows(
  runs: dict[str, Callable[[], Any]], sizes: Sizes
) -> Iterator[tuple[str, ...]]:
  first = 0.0
  for name, run in runs.items():
    secs = measuring.best(run)
    first = first or secs
    yield (
      name,
      f'{secs:.2f}',
      f'{sizes.batch / secs:.2f}',
      f'{first / secs:.2f}',
    )


def _params(unet: pyunet.PyUNet, sizes: Sizes) -> Any:
  x = jnp.zeros((1, sizes.side, sizes.side, sum(SPLIT)))
  context = jnp.zeros((1, *sizes.context))
  return measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context, stage=1)
  )


def _spec(sizes: Sizes) -> spec_lib.SamplerSpec:
  return spec_lib.SamplerSpec(steps=(sizes.steps,))


def _noise(sizes: Sizes) -> sampling.Noise:
  return sampling.Noise.from_keys(
    jax.random.split(jax.random.key(2), sizes.batch)
  )


def _stages(
  unet: pyunet.PyUNet,
  params: Any,
  context: jax.Array,
  sizes: Sizes,
  is_cached: bool,
  is_native: bool = False,
) -> list[sampling.Stage]:
  inputs = condition_lib.Inputs(context=context)
  stages = zip(
    _spec(sizes).chain_levels(schedules.make_chain(), len(SPLIT)),
    sizes.shapes(is_native),
    (1, 1) if is_native else (2, 1),
    strict=True,
  )
  return [
    dataclasses.replace(
      frido.denoiser(unet, params, s, pool), cached=is_cached
    ).stage(levels, inputs, shape)
    for s, (levels, shape, pool) in enumerate(stages)
  ]


def _program(
  unet: pyunet.PyUNet, sizes: Sizes, is_cached: bool, is_native: bool
) -> Any:
  """Returns (weights, context) -> finished scales, to be traced."""

  @jax.jit
  def program(params, context):
    stages = _stages(unet, params, context, sizes, is_cached, is_native)
    return sampling.run(stages, _spec(sizes).make_solver(), _noise(sizes))

  return program


def _python_loop(
  stages: list[sampling.Stage], sizes: Sizes
) -> Callable[[], list[jax.Array]]:
  """Returns the plain loop: one jitted network call and update a step."""
  moves = []
  for stage in stages:
    (segment,) = stage.segments

    @jax.jit
    def move(x, level, next_level, context, denoise=segment.denoise):
      prediction = denoise(x, level, context)
      return solver_lib.euler(prediction, next_level), prediction.x0

    moves.append((stage, segment, move))

  def loop():
    state, noise = [], _noise(sizes)
    for index, (stage, segment, move) in enumerate(moves):
      x, context = stage.enter(state, noise.start(index))
      for i in range(segment.steps):
        level, after = (levels_lib.row(segment.levels, j) for j in (i, i + 1))
        x, x0 = move(x, level, after, context)
      state = stage.leave(state, x, x0, context)
    return state

  return loop


def _official(sizes: Sizes) -> Callable[[], Any]:
  """Returns the official network in a sampling loop without the DDIM update,
  whose cost is negligible."""
  code = measuring.official(
    _OFFICIAL.value, 'frido.modules.diffusionmodules.pyunet'
  )
  import torch

  torch.manual_seed(0)
  if not torch.cuda.is_available():  # The network calls .cuda() regardless.
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
  model = code.PyUNetModel(
    in_channels=sum(SPLIT),
    out_channels=sum(SPLIT),
    split_embed_dim_list=list(SPLIT),
    image_size=sizes.side,
    use_split_head=True,
    use_SPADE_norm=True,
    **measuring.torch_options(sizes.network),
  ).eval()
  x = torch.randn(sizes.batch, sum(SPLIT), sizes.side, sizes.side)
  context = torch.randn(sizes.batch, *sizes.context)

  def run():
    with torch.no_grad():
      for stage in range(len(SPLIT)):
        for t in range(sizes.steps):
          level = torch.full((sizes.batch,), t)
          model(x, level, context=context, stage=stage)

  return run


if __name__ == '__main__':
  measuring.run(main)
