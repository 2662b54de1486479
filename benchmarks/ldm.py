"""Speed of LDM at a mid-size configuration, and its share of the matrix rate.

Times a U-Net of 65,973,508 parameters on 32 x 32 x 4 latents, batch 4, with a
context of 16 x 512:
  one forward pass;
  10 steps of DDIM as one program, with keys and values computed once;
  the same with guidance, both halves as one batch;
  one training step (loss, gradients and AdamW);
and the compilation of the sampler for 20 and 200 steps. The rate of each is
compared with that of a large float32 matrix product, measured in the same run.
The operations of a forward pass are those that XLA counts; a training step
counts as three.

  python benchmarks/ldm.py [--official=PATH] [--rounds=5] [--parts] [--small]

PATH is a checkout of CompVis/latent-diffusion; its UNetModel is then timed in
the same run (needs PyTorch, einops and omegaconf). `--parts` also times single
layers of the network's sizes: a convolution, an attention, a group norm. Prints
Markdown tables.
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
import optax

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import norms
from pyramid_jax.systems import ldm


_OFFICIAL = flags.DEFINE_string('official', '', 'checkout of the official code')
_PARTS = flags.DEFINE_bool('parts', False, 'time single layers too')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """The sizes that are timed.

  Attributes:
    shape: the (B, h, w, C) of the latents.
    context: the (B, L, D) of the tokens.
    network: the arguments of the U-Net, named as the official ones.
    steps: the number of solver steps.
    compiled_steps: the numbers of steps for which compilation is timed.
    matrix: the side of the matrices whose product gives the matrix rate.
  """

  shape: tuple[int, int, int, int] = (4, 32, 32, 4)
  context: tuple[int, int, int] = (4, 16, 512)
  network: dict[str, Any]
  steps: int = 10
  compiled_steps: tuple[int, ...] = (20, 200)
  matrix: int = 2048

  @property
  def widths(self) -> tuple[int, ...]:
    """The channels of every level of the U-Net."""
    width = self.network['model_channels']
    return tuple(width * factor for factor in self.network['channel_mult'])


NETWORK = {
  'in_channels': 4,
  'out_channels': 4,
  'model_channels': 128,
  'channel_mult': (1, 2, 3),
  'num_res_blocks': 2,
  'attention_resolutions': (2, 4),
  'num_head_channels': 32,
  'use_spatial_transformer': True,
  'transformer_depth': 1,
  'context_dim': 512,
}
LARGE = Sizes(network=NETWORK)
SMALL = Sizes(
  shape=(1, 8, 8, 4),
  context=(1, 4, 32),
  network=NETWORK
  | {
    'model_channels': 32,
    'channel_mult': (1,),
    'num_res_blocks': 1,
    'attention_resolutions': (1,),
    'context_dim': 32,
  },
  steps=2,
  compiled_steps=(2,),
  matrix=128,
)


def main(argv: list[str]) -> None:
  del argv
  sizes = SMALL if measuring.SMALL.value else LARGE
  unet = unet_lib.UNet(**sizes.network)
  params = _params(unet, sizes)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{count:,} parameters, {jax.devices()[0].device_kind}')

  rate = measuring.matrix_rate(sizes.matrix)
  print(f'matrix product of side {sizes.matrix}: {rate / 1e9:.1f} GFLOP/s')
  forward = jax.jit(_forward(unet, sizes)).lower(params).compile()
  work = measuring.flops(forward)
  print(f'a forward pass: {work / 1e9:.2f} GFLOP')
  runs: dict[str, tuple[Callable[[], Any], float]] = {
    'forward': (functools.partial(forward, params), work)
  }
  for name, scale in (('', None), (', guided', 2.0)):
    sample = _sampler(unet, sizes, sizes.steps, scale).lower(params).compile()
    calls = sizes.steps * (1 if scale is None else 2)
    runs[f'DDIM {sizes.steps} steps{name}'] = (
      functools.partial(sample, params),
      calls * work,
    )
  runs['training step'] = (_training_step(unet, params, sizes), 3 * work)
  measuring.print_table(
    ('operation', 'seconds', 'GFLOP/s', 'share of the matrix rate'),
    _rows(runs, rate, sizes),
  )
  if _PARTS.value:
    measuring.print_table(
      ('layer', 'grid', 'milliseconds', 'share of the matrix rate'),
      _parts(rate, sizes),
    )
  measuring.print_compile_times(
    lambda steps: _sampler(unet, sizes, steps).lower(params),
    sizes.compiled_steps,
  )


def _rows(
  runs: dict[str, tuple[Callable[[], Any], float]], rate: float, sizes: Sizes
) -> Iterator[tuple[str, ...]]:
  for name, (run, work) in runs.items():
    secs = measuring.best(run)
    yield (
      name,
      f'{secs:.2f}',
      f'{work / secs / 1e9:.1f}',
      f'{work / secs / rate:.0%}',
    )
  if _OFFICIAL.value:
    for name, run in _official(sizes).items():
      secs = measuring.best(run)
      yield f'official PyTorch code, {name}', f'{secs:.2f}', '', ''


def _params(unet: unet_lib.UNet, sizes: Sizes) -> Any:
  x, context = jnp.zeros(sizes.shape), jnp.zeros(sizes.context)
  return measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context)
  )


def _forward(unet: unet_lib.UNet, sizes: Sizes) -> Callable[[Any], jax.Array]:
  x = jax.random.normal(jax.random.key(1), sizes.shape)
  context = jax.random.normal(jax.random.key(2), sizes.context)
  t = jnp.full(sizes.shape[:1], 500.0)
  return lambda params: unet.apply({'params': params}, x, t, context)


def _sampler(
  unet: unet_lib.UNet, sizes: Sizes, steps: int, scale: float | None = None
) -> Any:
  """Returns weights -> latents, to be traced.

  Args:
    unet: the network.
    sizes: the sizes of its inputs.
    steps: the number of DDIM steps.
    scale: the scale of classifier-free guidance; None for no guidance.
  """
  guidance = None
  if scale is not None:
    guidance = classifier_free.Guidance(scale=scale)
  spec = spec_lib.SamplerSpec(steps=(steps,), guidance=guidance)
  (levels,) = spec.chain_levels(schedules.make_chain())
  context = jax.random.normal(jax.random.key(2), sizes.context)
  condition = condition_lib.Condition(
    context=condition_lib.Inputs(context=context),
    null=condition_lib.Inputs(context=jnp.zeros_like(context)),
  )
  keys = jax.random.split(jax.random.key(3), sizes.shape[0])

  @jax.jit
  def sample(params):
    stage = ldm.denoiser(unet, params).guided(
      levels, condition, sizes.shape, spec.guidance_of(0)
    )
    noise = sampling.Noise.from_keys(keys)
    return sampling.run([stage], spec.make_solver(), noise)

  return sample


def _training_step(
  unet: unet_lib.UNet, params: Any, sizes: Sizes
) -> Callable[[], Any]:
  chain = schedules.make_chain()
  settings = gaussian.LossSettings(loss_type='l2')
  optimizer = optax.adamw(1e-4, weight_decay=0.01)
  context = jax.random.normal(jax.random.key(2), sizes.context)
  z, eps = jax.random.normal(jax.random.key(4), (2, *sizes.shape))
  t = jnp.arange(sizes.shape[0]) * 200

  def loss(params):
    predict = lambda x, t: unet.apply({'params': params}, x, t, context)
    return gaussian.loss(predict, chain, settings, z, t, eps)[0]

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state):
    gradients = jax.grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  held = [jax.tree.map(jnp.copy, params), optimizer.init(params)]

  def run():
    held[:] = step(*held)
    return held

  return run


def _parts(rate: float, sizes: Sizes) -> Iterator[tuple[str, ...]]:
  """Times single layers at the grids of all levels."""
  for level, channels in enumerate(sizes.widths):
    count, side, *_ = sizes.shape
    side >>= level
    x = jax.random.normal(jax.random.key(0), (count, side, side, channels))
    heads = x.reshape(count, side * side, channels // 32, 32)
    layers: dict[str, tuple[Callable[..., Any], Any]] = {
      'convolution': (_bound(affine.Conv(channels), x), x),
      'group norm': (_bound(norms.GroupNorm(1e-5), x), x),
      'self-attention': (
        lambda h: attention.dot_product_attention(h, h, h),
        heads,
      ),
    }
    for name, (layer, argument) in layers.items():
      compiled = jax.jit(layer).lower(argument).compile()
      secs = measuring.best(functools.partial(compiled, argument))
      yield (
        name,
        f'{side} x {side} x {channels}',
        f'{1e3 * secs:.1f}',
        f'{measuring.flops(compiled) / secs / rate:.0%}',
      )


def _bound(module: Any, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
  variables = module.init(jax.random.key(0), x)
  return lambda x: module.apply(variables, x)


def _official(sizes: Sizes) -> dict[str, Callable[[], Any]]:
  """Returns runs of the official network: a forward pass, those of a sampler,
  and a training step. The cost of the DDIM update is negligible."""
  code = measuring.official(
    _OFFICIAL.value, 'ldm.modules.diffusionmodules.openaimodel'
  )
  import torch

  torch.manual_seed(0)
  count, side, _, channels = sizes.shape
  options = measuring.torch_options(sizes.network)
  model = code.UNetModel(image_size=side, **options)
  x = torch.randn(count, channels, side, side)
  context = torch.randn(*sizes.context)
  t = torch.full((count,), 500)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

  def forward():
    with torch.no_grad():
      model(x, t, context=context)

  def loop():
    for _ in range(sizes.steps):
      forward()

  def train():
    optimizer.zero_grad()
    torch.square(model(x, t, context=context) - x).mean().backward()
    optimizer.step()

  return {
    'forward': forward,
    f'{sizes.steps} forward passes': loop,
    'training step': train,
  }


if __name__ == '__main__':
  measuring.run(main)
