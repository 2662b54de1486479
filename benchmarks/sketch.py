r"""Sketch guidance: the cost of a guided step, and the effect of its strength.

Without flags, times sampling with classifier-free guidance by a U-Net of
65,973,508 parameters on 32 x 32 x 4 latents, batch 2: without sketch guidance,
with it at all steps, and with it while activations are recomputed. Prints the
ratios.

  python benchmarks/sketch.py [--steps=5] [--rounds=5] [--small]

With a run and a predictor that was trained on it, scores the test split for
each strength and each share of guided steps, and draws the images of the first
sketch:

  python benchmarks/sketch.py --workdir=BASE --predictor=DIR [--count=200] \
      [--betas=0,0.4,0.8,1.6,2.4] [--stops=0.25,0.5,0.75,1] \
      [--sdedit=0.6,0.8] [--shuffled] [--figure=FILE.png]

A strength of 0 is sampling without sketch guidance. `--sdedit` adds SDEdit
(arXiv:2108.01073) for comparison, which begins with the noised edge map, at
these shares of the steps. Strengths and shares are those of the coarsest stage;
the values of finer stages keep the ratios of config.sketch. One compiled
program serves all strengths of a share. Prints Markdown tables.
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import measuring
import numpy as np

from pyramid_jax import data
from pyramid_jax import pipeline
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.guidance import sketch as sketch_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import split_examples
from pyramid_jax.files import whole_files
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import unet as unet_lib
from pyramid_jax.pipeline import rows as rows_lib
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import ldm


_STEPS = flags.DEFINE_integer('steps', 5, 'solver steps that are timed')
_WORKDIR = flags.DEFINE_string('workdir', '', 'a run to guide')
_PREDICTOR = flags.DEFINE_string('predictor', '', 'run of the system sketch')
_COUNT = flags.DEFINE_integer('count', 200, 'images of each setting')
_BETAS = flags.DEFINE_list('betas', '0,0.4,0.8,1.6,2.4', 'strengths')
_STOPS = flags.DEFINE_list('stops', '0.25,0.5,0.75,1', 'shares of the steps')
_SDEDIT = flags.DEFINE_list('sdedit', '', 'shares of the steps of SDEdit')
_SHUFFLED = flags.DEFINE_bool('shuffled', False, 'edges of another example')
_FIGURE = flags.DEFINE_string('figure', '', 'PNG of the first sketch')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """The sizes that are timed.

  Attributes:
    shape: the (B, h, w, C) of the latents.
    context: the (B, L, D) of the tokens.
    network: the arguments of the U-Net, named as the official ones.
    features: the names of the activations that the edge predictor reads.
    steps: the number of solver steps.
  """

  shape: tuple[int, int, int, int] = (2, 32, 32, 4)
  context: tuple[int, int, int] = (2, 16, 512)
  network: dict[str, Any]
  features: tuple[str, ...]
  steps: int


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
FEATURES = (
  *('in2', 'in4', 'in8'),
  *('mid0', 'mid1', 'mid2'),
  *('out2', 'out4', 'out8'),
)
SMALL_NETWORK = NETWORK | {
  'model_channels': 32,
  'channel_mult': (1,),
  'num_res_blocks': 1,
  'attention_resolutions': (1,),
  'context_dim': 32,
}
SCORES = ('edge_f1', 'edge_missed')
# Task: the scores of condition alignment.
ALIGNMENT = {
  'text': ('caption_acc',),
  'layout': ('layout_recall', 'category_acc'),
  'class': ('class_acc',),
}


def main(argv: list[str]) -> None:
  del argv
  if _WORKDIR.value:
    _print_strengths()
  else:
    _print_costs(_sizes())


def _sizes() -> Sizes:
  if not measuring.SMALL.value:
    return Sizes(network=NETWORK, features=FEATURES, steps=_STEPS.value)
  return Sizes(
    shape=(1, 8, 8, 4),
    context=(1, 4, 32),
    network=SMALL_NETWORK,
    features=('in1', 'mid1', 'out1'),
    steps=2,
  )


def _print_costs(sizes: Sizes) -> None:
  """Prints the table of times."""
  unet = unet_lib.UNet(**sizes.network)
  x, context = jnp.zeros(sizes.shape), jnp.zeros(sizes.context)
  params = measuring.random_params(
    lambda key: unet.init(key, x, jnp.zeros(1), context)
  )
  _, found = jax.eval_shape(
    lambda p: unet.apply(
      {'params': p}, x, jnp.zeros(1), context, features=sizes.features
    ),
    params,
  )
  predictor = edge_predictor.EdgePredictor()
  features = [jnp.zeros(found[name].shape) for name in sizes.features]
  variables = jax.jit(
    lambda key: predictor.init(key, features, jnp.zeros(1), sizes.shape[1:3])
  )(jax.random.key(1))
  runs: dict[str, Callable[[], Any]] = {}
  for name, is_guided, remat in (
    ('without sketch guidance', False, 'none'),
    ('sketch guided', True, 'none'),
    ('sketch guided, activations recomputed', True, 'full'),
  ):
    network = unet.clone(remat=remat)
    sample = _sampler(network, predictor, sizes, is_guided)
    run = jax.jit(sample).lower(params, variables).compile()
    runs[name] = functools.partial(run, params, variables)

  def rows():
    free = 0.0
    for name, run in runs.items():
      secs = measuring.best(run)
      free = free or secs
      yield name, f'{1e3 * secs / sizes.steps:.0f}', f'{secs / free:.2f}'

  measuring.print_table(('sampling', 'ms a step', 'ratio'), rows())


def _sampler(
  unet: unet_lib.UNet,
  predictor: edge_predictor.EdgePredictor,
  sizes: Sizes,
  is_guided: bool,
) -> Callable[..., jax.Array]:
  """Returns a function that maps the weights of both networks to a latent.

  Args:
    unet: the denoiser.
    predictor: the edge predictor.
    sizes: the sizes of the inputs.
    is_guided: whether sketch guidance acts at all steps.
  """
  spec = spec_lib.SamplerSpec(
    steps=(sizes.steps,),
    guidance=classifier_free.Guidance(scale=3.0),
    spacing='exact',
  )
  (levels,) = spec.chain_levels(schedules.make_chain())
  keys = jax.random.split(jax.random.key(2), 3)
  context, null = (jax.random.normal(key, sizes.context) for key in keys[:2])
  target = jax.random.normal(keys[2], sizes.shape)
  condition = condition_lib.Condition(
    context=condition_lib.Inputs(context=context),
    null=condition_lib.Inputs(context=null),
  )

  def sample(params, variables):
    stage = ldm.denoiser(unet, params).guided(
      levels, condition, sizes.shape, spec.guidance_of(0)
    )

    def loss(prediction, level, initial):
      del initial
      features = [prediction.features[name] for name in sizes.features]
      part = jnp.ravel(level.part)
      got = predictor.apply(variables, features, part, sizes.shape[1:3])
      return jnp.square(got - target).sum((1, 2, 3))

    if is_guided:
      sketch = sketch_lib.SketchGuidance(
        loss=loss, features=sizes.features, beta=1.6, stop_fraction=1.0
      )
      stage = sketch_lib.sketch_guided(stage, sketch)
    images = jax.random.split(jax.random.key(3), sizes.shape[0])
    noise = sampling.Noise.from_keys(images)
    return sampling.run([stage], spec.make_solver(), noise)[0]

  return sample


def _print_strengths() -> None:
  """Prints the table of scores, and draws the figure if one is requested."""
  workdir = pathlib.Path(_WORKDIR.value)
  config = workdir_lib.read_config(workdir)
  config.sketch.predictor = _PREDICTOR.value
  config.sketch.shuffled_condition = _SHUFFLED.value
  config = predictors.with_maps(config)
  run = loading.load(config, workdir)
  settings = settings_lib.of_config(run.system, config)
  reader = data.create(config, 'test')
  names = (*SCORES, *ALIGNMENT.get(config.condition.task, ()))
  pipe = pipeline.Pipeline(run.system, run.weights, run.mesh, config)
  evaluation = scoring.Evaluation(
    pipe, config, reader, count=_COUNT.value, bounds=False
  )

  def score(label: str, make: scoring.Maker) -> np.ndarray:
    """Prints a row; returns the first image."""
    start = time.monotonic()
    first: list[np.ndarray] = []

    def noted(batch, numbers):
      made, codes = make(batch, numbers)
      first.append(made[0])
      return made, codes

    found = evaluation(noted)
    secs = (time.monotonic() - start) / _COUNT.value
    values = {row.name: row.score.value for row in found}
    cells = ' | '.join(f'{values.get(name, np.nan):.3f}' for name in names)
    print(f'| {label} | {cells} | {secs:.2f} |', flush=True)
    return first[0]

  measuring.print_table(('stop', 'beta', *names, 's an image'), iter(()))
  rows = []
  for stop in map(float, _STOPS.value):
    guided = _stopped(pipe, stop)
    images = [
      score(f'{stop:g} | {beta:g}', _guided(guided, settings, beta))
      for beta in map(float, _BETAS.value)
    ]
    rows.append(np.concatenate(images, axis=1))
  for strength in map(float, _SDEDIT.value):
    score(f'SDEdit | {strength:g}', _sdedit(pipe, settings, strength))
  if _FIGURE.value:
    whole_files.make_folder(pathlib.Path(_FIGURE.value).parent)
    whole_files.save_png(_FIGURE.value, _figure(config, reader, run.mesh, rows))


def _sdedit(
  pipe: pipeline.Pipeline, settings: pipeline.Settings, strength: float
) -> scoring.Maker:
  """Returns a maker of images that begins with noised edge maps."""
  system: Any = pipe.system
  frozen = pipe.weights.frozen
  edges_of = jax.jit(system.target_edges)
  base = pipeline.Pipeline(
    system.base, system.base_weights(frozen), pipe.mesh, pipe.config
  )
  settings = dataclasses.replace(settings, strength=strength)

  def make(batch, numbers):
    image = jnp.repeat(edges_of(frozen, batch)[..., None], 3, axis=-1)
    return base.sample({**batch, 'image': image}, settings, numbers).images, []

  return make


def _stopped(pipe: pipeline.Pipeline, stop: float) -> pipeline.Pipeline:
  """Returns a pipeline with sketch guidance at another share of the steps.

  Args:
    pipe: a pipeline with sketch guidance.
    stop: the share of the steps of the coarsest stage.
  """
  system: Any = pipe.system
  first = system.stop_fraction[0] or 1.0
  stops = [min(1.0, stop * s / first) for s in system.stop_fraction]
  system = dataclasses.replace(system, stop_fraction=tuple(stops))
  return pipeline.Pipeline(system, pipe.weights, pipe.mesh, pipe.config)


def _guided(
  pipe: pipeline.Pipeline, settings: pipeline.Settings, beta: float
) -> scoring.Maker:
  """Returns a maker of images, given the strength of the coarsest stage."""
  system: Any = pipe.system
  betas = beta * np.asarray(system.beta, np.float32) / (system.beta[0] or 1.0)

  def make(batch, numbers):
    rows = {**batch, 'sketch_beta': np.tile(betas, (len(numbers), 1))}
    return pipe.sample(rows, settings, numbers).images, []

  return make


def _figure(
  config: Any, reader: Any, mesh: Any, rows: list[np.ndarray]
) -> np.ndarray:
  """Draws the sketch and the images of all strengths, a row for each share."""
  size = min(config.evaluate.batch_size, _COUNT.value)
  host = batches_lib.Batches(reader, size, split_examples.SEED, False).at(0)
  batch = jax.jit(reader.finish)(mesh_lib.spread(mesh, host))
  batch = rows_lib.shuffled_condition(config, batch, size)
  lines = np.asarray(batch['edges'][0]) * 255
  sketch = np.repeat(lines[..., None], 3, axis=-1).astype(np.uint8)
  sheet = np.concatenate(
    [np.concatenate([sketch, row], axis=1) for row in rows]
  )
  return sheet.repeat(4, axis=0).repeat(4, axis=1)


if __name__ == '__main__':
  measuring.run(main)
