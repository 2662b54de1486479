r"""Speed of LDM at a mid-size configuration, and what of the machine is used.

Times, for a U-Net of 65,973,508 parameters on 32 x 32 x 4 latents, batch 4,
with a context of 16 x 512,
  one forward pass;
  10 steps of DDIM, as one program, keys and values computed once;
  the same guided, both halves as one batch;
  one training step (loss, gradients and AdamW);
and how long the sampler takes to compile for 20 and 200 steps. The rate of each
is compared with that of a large float32 matrix product, measured in the same
run: FLOPs are those that XLA counts, three times those of a forward pass for a
training step.

  python benchmarks/ldm.py [--official=PATH] [--rounds=5] [--parts]

PATH is a checkout of CompVis/latent-diffusion; its UNetModel is then timed in
the same run (needs PyTorch, einops and omegaconf). `--parts` also times single
layers of the network's sizes: a convolution, an attention, a group norm. Prints
Markdown tables.
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
import optax

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import norms
from pyramid_jax.systems import ldm


_OFFICIAL = flags.DEFINE_string('official', '', 'checkout of the official code')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'timings of each, the best counts')
_PARTS = flags.DEFINE_bool('parts', False, 'time single layers too')

SHAPE = (4, 32, 32, 4)
CONTEXT = (4, 16, 512)
STEPS = 10
MATRIX = 2048  # side of the product that says what the machine can do
# Constructor arguments, named as the official ones.
NETWORK = {
  'in_channels': SHAPE[-1],
  'out_channels': SHAPE[-1],
  'model_channels': 128,
  'channel_mult': (1, 2, 3),
  'num_res_blocks': 2,
  'attention_resolutions': (2, 4),
  'num_head_channels': 32,
  'use_spatial_transformer': True,
  'transformer_depth': 1,
  'context_dim': CONTEXT[-1],
}


def main(argv: list[str]) -> None:
  del argv
  unet = unet_lib.UNet(**NETWORK)
  params = _params(unet)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{count:,} parameters, {jax.devices()[0].device_kind}')

  rate = _matrix_rate()
  print(f'matrix product of side {MATRIX}: {rate / 1e9:.1f} GFLOP/s')
  forward = jax.jit(_forward(unet)).lower(params).compile()
  flops = _flops(forward)
  print(f'a forward pass: {flops / 1e9:.1f} GFLOP')
  runs: dict[str, tuple[Callable[[], Any], float]] = {
    'forward': (functools.partial(forward, params), flops)
  }
  for name, scale in (('', 1.0), (', guided', 2.0)):
    sample = _sampler(unet, STEPS, scale).lower(params).compile()
    times = STEPS * (2 if scale != 1 else 1)
    runs[f'DDIM {STEPS} steps{name}'] = (
      functools.partial(sample, params),
      times * flops,
    )
  runs['training step'] = (_training_step(unet, params), 3 * flops)

  print('\n| what | seconds | GFLOP/s | share of the matrix rate |')
  print('|---|---|---|---|')
  for name, (run, work) in runs.items():
    secs = _best(run)
    gflops = work / secs / 1e9
    print(f'| {name} | {secs:.2f} | {gflops:.1f} | {1e9 * gflops / rate:.0%} |')
  if _OFFICIAL.value:
    for name, run in _official().items():
      print(f'| official PyTorch code, {name} | {_best(run):.2f} | | |')
  if _PARTS.value:
    _print_parts(rate)

  print('\n| steps | compile seconds |\n|---|---|')
  for steps in (20, 200):
    jax.clear_caches()
    start = time.monotonic()
    _sampler(unet, steps, 1.0).lower(params).compile()
    print(f'| {steps} | {time.monotonic() - start:.1f} |')


def _params(unet: unet_lib.UNet) -> Any:
  x, context = jnp.zeros(SHAPE), jnp.zeros(CONTEXT)
  return measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context)
  )


def _forward(unet: unet_lib.UNet) -> Callable[[Any], jax.Array]:
  x = jax.random.normal(jax.random.key(1), SHAPE)
  context = jax.random.normal(jax.random.key(2), CONTEXT)
  t = jnp.full(SHAPE[:1], 500.0)
  return lambda params: unet.apply({'params': params}, x, t, context)


def _sampler(unet: unet_lib.UNet, steps: int, scale: float) -> Any:
  solver = solvers.DDIM()
  context = jax.random.normal(jax.random.key(2), CONTEXT)

  @jax.jit
  def sample(params):
    stage = ldm.make_stage(
      unet,
      params,
      solver.levels(schedules.make_chain(), steps),
      shape=SHAPE,
      context=condition_lib.Inputs(context=context),
      null=condition_lib.Inputs(context=jnp.zeros_like(context)),
      scale=scale,
    )
    noise = sampling.Noise.from_key(jax.random.key(3))
    return sampling.run([stage], solver, noise)

  return sample


def _training_step(unet: unet_lib.UNet, params: Any) -> Callable[[], Any]:
  chain = schedules.make_chain()
  settings = gaussian.LossSettings(loss_type='l2')
  optimizer = optax.adamw(1e-4, weight_decay=0.01)
  context = jax.random.normal(jax.random.key(2), CONTEXT)
  z, eps = jax.random.normal(jax.random.key(4), (2, *SHAPE))
  t = jnp.arange(SHAPE[0]) * 200

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


def _best(run: Callable[[], Any]) -> float:
  return measuring.best(run, _ROUNDS.value)


def _matrix_rate() -> float:
  """Returns the FLOP/s of a large float32 matrix product."""
  a = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX))
  product = jax.jit(jnp.matmul).lower(a, a).compile()
  return 2 * MATRIX**3 / _best(functools.partial(product, a, a))


def _flops(compiled: Any) -> float:
  costs = compiled.cost_analysis()
  costs = costs[0] if isinstance(costs, list) else costs
  return float(costs['flops'])


def _print_parts(rate: float) -> None:
  """Times single layers as they occur at the three grids."""
  print('\n| layer | grid | milliseconds | share of the matrix rate |')
  print('|---|---|---|---|')
  for level, channels in enumerate((128, 256, 384)):
    side = SHAPE[1] >> level
    x = jax.random.normal(jax.random.key(0), (SHAPE[0], side, side, channels))
    heads = x.reshape(SHAPE[0], side * side, channels // 32, 32)
    conv = convolution.Conv(channels)
    norm = norms.GroupNorm(1e-5)
    layers: dict[str, tuple[Callable[..., Any], Any]] = {
      'convolution': (_bound(conv, x), x),
      'group norm': (_bound(norm, x), x),
      'self-attention': (
        lambda h: attention.dot_product_attention(h, h, h),
        heads,
      ),
    }
    for name, (layer, argument) in layers.items():
      compiled = jax.jit(layer).lower(argument).compile()
      secs = _best(functools.partial(compiled, argument))
      share = _flops(compiled) / secs / rate
      print(
        f'| {name} | {side} x {side} x {channels} | {1e3 * secs:.1f}'
        f' | {share:.0%} |'
      )


def _bound(module: Any, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
  variables = module.init(jax.random.key(0), x)
  return lambda x: module.apply(variables, x)


def _official() -> dict[str, Callable[[], Any]]:
  """Returns the official network: a pass, 10 passes in the sampler's loop
  (the DDIM update costs nothing beside them), and a training step."""
  sys.path.insert(0, _OFFICIAL.value)
  from ldm.modules.diffusionmodules import openaimodel as official
  import torch

  torch.manual_seed(0)
  model = official.UNetModel(
    image_size=SHAPE[1],
    **{k: list(v) if isinstance(v, tuple) else v for k, v in NETWORK.items()},
  )
  x = torch.randn(SHAPE[0], SHAPE[-1], *SHAPE[1:3])
  context = torch.randn(*CONTEXT)
  t = torch.full(SHAPE[:1], 500)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

  def forward():
    with torch.no_grad():
      model(x, t, context=context)

  def loop():
    for _ in range(STEPS):
      forward()

  def train():
    optimizer.zero_grad()
    torch.square(model(x, t, context=context) - x).mean().backward()
    optimizer.step()

  return {
    'forward': forward,
    f'{STEPS} forward passes': loop,
    'training step': train,
  }


if __name__ == '__main__':
  app.run(main)
