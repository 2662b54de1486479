r"""Sketch guidance: what a steered step costs, and what strength is worth.

Without flags, times sampling with classifier-free guidance by a U-Net of
65,973,508 parameters on 32 x 32 x 4 latents, batch 2: all steps free, all steps
steered, and steered with activations recomputed. Prints the ratios.

  python benchmarks/sketch.py [--steps=5] [--rounds=3]

With a run and a predictor that was trained on it, scores the test split over
strengths and shares of steered steps, and draws the first sketch so:

  python benchmarks/sketch.py --workdir=BASE --predictor=DIR [--count=200] \
      [--betas=0,0.4,0.8,1.6,2.4] [--stops=0.25,0.5,0.75,1] \
      [--sdedit=0.6,0.8] [--foreign] [--picture=FILE.png]

A strength of 0 is free sampling. `--sdedit` adds SDEdit (arXiv:2108.01073) for
comparison, which begins with the noised edge map instead, at these shares of
the steps. Strengths and shares are of the coarsest
stage; those of finer ones keep the ratios of config.sketch. One program a share
serves all strengths. Prints Markdown tables.
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import measuring
import numpy as np

from pyramid_jax import data
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import sketch_guidance
from pyramid_jax.diffusion import solvers
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.evaluation import scoring as evaluate
from pyramid_jax.evaluation import shuffled
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors as steering
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import ldm
from pyramid_jax.systems import system as system_lib


_STEPS = flags.DEFINE_integer('steps', 5, 'solver steps that are timed')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'timings of each, the best counts')
_WORKDIR = flags.DEFINE_string('workdir', '', 'a run to steer')
_PREDICTOR = flags.DEFINE_string('predictor', '', 'run of the system sketch')
_COUNT = flags.DEFINE_integer('count', 200, 'images of each setting')
_BETAS = flags.DEFINE_list('betas', '0,0.4,0.8,1.6,2.4', 'strengths')
_STOPS = flags.DEFINE_list('stops', '0.25,0.5,0.75,1', 'shares of the steps')
_SDEDIT = flags.DEFINE_list('sdedit', '', 'shares of the steps of SDEdit')
_FOREIGN = flags.DEFINE_bool('foreign', False, 'edges of another example')
_PICTURE = flags.DEFINE_string('picture', '', 'PNG of the first sketch')

SHAPE = (2, 32, 32, 4)
CONTEXT = (2, 16, 512)
TAPS = ('in2', 'in4', 'in8', 'mid0', 'mid1', 'mid2', 'out2', 'out4', 'out8')
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
SCORES = ('edge_f1', 'edge_missed')
# Of obedience to the condition, by its task.
OBEDIENCE = {
  'text': ('caption_acc',),
  'layout': ('layout_recall', 'category_acc'),
  'class': ('class_acc',),
}


def main(argv: list[str]) -> None:
  del argv
  if _WORKDIR.value:
    print(_strengths())
  else:
    print(_costs())


def _costs() -> str:
  """Returns the table of times."""
  unet = unet_lib.UNet(**NETWORK)
  x, context = jnp.zeros(SHAPE), jnp.zeros(CONTEXT)
  params = measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context)
  )
  _, found = jax.eval_shape(
    lambda p: unet.apply({'params': p}, x, jnp.zeros(1), context, taps=TAPS),
    params,
  )
  predictor = edge_predictor.EdgePredictor()
  taps = [jnp.zeros(found[name].shape) for name in TAPS]
  size = SHAPE[1:3]
  variables = predictor.init(jax.random.key(1), taps, jnp.zeros(1), size)
  runs: dict[str, Callable[[], Any]] = {}
  for name, steered, remat in (
    ('free', False, False),
    ('steered', True, False),
    ('steered, activations recomputed', True, True),
  ):
    network = unet.clone(remat=remat)
    sample = _sampler(network, predictor, steered)
    run = jax.jit(sample).lower(params, variables).compile()
    runs[name] = functools.partial(run, params, variables)
  times = {
    name: measuring.best(run, _ROUNDS.value) for name, run in runs.items()
  }
  lines = ['| sampling | ms a step | over free |', '|---|---|---|']
  for name, secs in times.items():
    ratio = secs / times['free']
    lines.append(f'| {name} | {1e3 * secs / _STEPS.value:.0f} | {ratio:.2f} |')
  return '\n'.join(lines)


def _sampler(
  unet: unet_lib.UNet, predictor: edge_predictor.EdgePredictor, steered: bool
) -> Callable[..., jax.Array]:
  """Returns (weights of both) -> a latent, all of whose steps are steered."""
  chain, solver = schedules.make_chain(), solvers.DDIM(spacing='exact')
  keys = jax.random.split(jax.random.key(2), 3)
  context, null = (jax.random.normal(key, CONTEXT) for key in keys[:2])
  target = jax.random.normal(keys[2], SHAPE)

  def sample(params, variables):
    stage = ldm.make_stage(
      unet,
      params,
      solver.levels(chain, _STEPS.value),
      shape=SHAPE,
      context=condition_lib.Inputs(context=context),
      null=condition_lib.Inputs(context=null),
      scale=3.0,
    )

    def loss(prediction, level, initial):
      del initial
      taps = [prediction.taps[name] for name in TAPS]
      part = jnp.ravel(level.part)
      got = predictor.apply(variables, taps, part, SHAPE[1:3])
      return jnp.square(got - target).sum((1, 2, 3))

    if steered:
      stage = sketch_guidance.steered(
        stage, loss, TAPS, beta=1.6, stop_fraction=1.0
      )
    noise = sampling.Noise.from_key(jax.random.key(3))
    return sampling.run([stage], solver, noise)[0]

  return sample


def _strengths() -> str:
  """Returns the table of scores, and draws the picture if it is asked for."""
  workdir = pathlib.Path(_WORKDIR.value)
  config = workdir_lib.read_config(workdir)
  config.sketch.predictor = _PREDICTOR.value
  config.sketch.shuffled_condition = _FOREIGN.value
  config = steering.with_maps(config)
  run = loading.load(config, workdir)
  reader = data.create(config, 'test')
  names = (*SCORES, *OBEDIENCE.get(config.condition.task, ()))
  lines = [
    f'| stop | beta | {" | ".join(names)} | s an image |',
    f'|---|---|{"---|" * len(names)}---|',
  ]
  rows = []

  def score(make: evaluate.Maker) -> tuple[str, np.ndarray]:
    start = time.monotonic()
    scores, made, _ = evaluate.score(
      run.system,
      make,
      config,
      reader,
      run.mesh,
      run.weights,
      _COUNT.value,
      bounds=False,
    )
    secs = (time.monotonic() - start) / _COUNT.value
    values = {row.name: row.score.value for row in scores}
    cells = [f'{values.get(name, np.nan):.3f}' for name in names]
    return f'{" | ".join(cells)} | {secs:.2f} |', made[0]

  for stop in map(float, _STOPS.value):
    sample = _steered(run.system, stop)
    images = []
    for beta in map(float, _BETAS.value):
      strengths = _scaled(run.system.beta, beta)
      text, image = score(
        lambda w, k, b, sample=sample, beta=strengths: (
          sample(w, k, b, beta),
          (),
        )
      )
      lines.append(f'| {stop:g} | {beta:g} | {text}')
      print(lines[-1], flush=True)
      images.append(image)
    rows.append(np.concatenate(images, axis=1))
  for strength in map(float, _SDEDIT.value):
    text, _ = score(_sdedit(run.system, strength))
    lines.append(f'| SDEdit | {strength:g} | {text}')
  if _PICTURE.value:
    grids.save(_PICTURE.value, _picture(config, reader, run.mesh, rows))
  return '\n'.join(lines)


def _sdedit(system: Any, strength: float) -> evaluate.Maker:
  """Returns what makes images of noised edge maps, without a predictor."""

  @jax.jit
  def sample(weights, key, batch):
    edges = system.asked(weights.frozen, batch)
    picture = jnp.repeat(edges[..., None], 3, axis=-1)
    edit = system_lib.Edit(picture, strength=strength)
    own = system.of_base(weights.frozen)
    count = picture.shape[0]
    images, _ = system_lib.generate(
      system.base, own, key, batch, count, edit=edit
    )
    return images, ()

  return sample


def _steered(system: Any, stop: float) -> Callable[..., jax.Array]:
  """Returns (weights, key, batch, beta of each stage) -> images."""
  first = system.stop_fraction[0] or 1.0
  stops = [min(1.0, stop * s / first) for s in system.stop_fraction]
  system = dataclasses.replace(system, stop_fraction=tuple(stops))

  @jax.jit
  def sample(weights, key, batch, beta):
    batch = {**batch, 'sketch_beta': beta}
    count = batch['image'].shape[0]
    return system_lib.generate(system, weights, key, batch, count)[0]

  return sample


def _scaled(betas: tuple[float, ...], first: float) -> jax.Array:
  """Returns the strengths of all stages, `first` at the coarsest."""
  return first * jnp.asarray(betas) / (betas[0] or 1.0)


def _picture(
  config: Any, reader: Any, mesh: Any, rows: list[np.ndarray]
) -> np.ndarray:
  """Draws the sketch and, a row a share, the images of all strengths."""
  size = min(config.evaluate.batch_size, _COUNT.value)
  host = batches_lib.Batches(reader, size, evaluate.SEED, False).at(0)
  batch = jax.jit(reader.finish)(mesh_lib.spread(mesh, host))
  batch = shuffled.condition(config, batch)
  lines = np.asarray(batch['edges'][0]) * 255
  sketch = np.repeat(lines[..., None], 3, axis=-1).astype(np.uint8)
  sheet = np.concatenate(
    [np.concatenate([sketch, row], axis=1) for row in rows]
  )
  return sheet.repeat(4, axis=0).repeat(4, axis=1)


if __name__ == '__main__':
  app.run(main)
