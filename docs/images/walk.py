"""Draws docs/images/walk_frido.webp: the clean images predicted at each step.

  python docs/images/walk.py [--workdir=RUN] [--output=FILE.webp]

RUN is a run whose condition is a layout; without it, the model that comes with
the package. Every frame has the requested boxes, the number of the step and the
prediction, enlarged. The finest scale stays for a second.
"""

import argparse
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageDraw

import pyramid_jax as pj
from pyramid_jax.diffusion import sampling
from pyramid_jax.systems import system as system_lib


PIXELS = 160  # of an enlarged image
FRAME_MS, LAST_MS = 120, 1500
SIDE = 0.26  # of a box, about that of the objects of `shapes`
LAYOUTS = tuple(
  [(name, (x, y, x + SIDE, y + SIDE)) for name, x, y in layout]
  for layout in (
    [('red circle', 0.08, 0.1), ('blue square', 0.6, 0.62)],
    [
      ('green triangle', 0.37, 0.05),
      ('yellow square', 0.05, 0.65),
      ('cyan circle', 0.68, 0.65),
    ],
    [('magenta circle', 0.37, 0.2), ('green square', 0.37, 0.6)],
  )
)


def predictions(pipe: pj.Pipeline, seed: int) -> Iterator[tuple]:
  """Yields (scale, step, steps, images (B, H, W, 3) in [-1, 1])."""
  request = pipe.request(layout=list(LAYOUTS), seed=seed)
  plan = pipe.plan(request)
  rows = plan.rows(np.arange(plan.count))
  system, weights, spec = pipe.system, pipe.weights, plan.settings.spec
  keys = system_lib.image_keys(plan.settings.seed, np.arange(plan.count))
  batch = {name: jnp.asarray(x) for name, x in rows.items()}

  @jax.jit
  def walk(weights, keys, batch):
    condition = system.condition(weights, batch)
    shape = (plan.count, system.image_size, system.image_size)
    stages = system.guided(
      weights, condition, system.stages(weights, condition, shape, spec)
    )
    noise = sampling.Noise.from_keys(keys)
    return sampling.run(stages, spec.make_solver(), noise, trace=True)

  decode = jax.jit(lambda weights, state: system.decode(weights, state))
  finished, traces = walk(weights, keys, batch)
  for scale, trace in enumerate(traces):
    for step, x0 in enumerate(trace.x0):
      # A state of LaDM is noisy; its clean prediction is beside it.
      is_pair = finished[scale].shape[-1] == 2 * x0.shape[-1]
      now = jnp.concatenate([x0, x0], -1) if is_pair else x0
      images = decode(weights, [*finished[:scale], now])
      yield scale, step + 1, len(trace.x0), np.asarray(images)


def draw_layout(layout: list) -> Image.Image:
  """Returns the boxes of a layout, on white."""
  image = Image.new('RGB', (PIXELS, PIXELS), 'white')
  draw = ImageDraw.Draw(image)
  for name, box in layout:
    sides = tuple(PIXELS * value for value in box)
    draw.rectangle(sides, outline='black', width=2)
    centre = ((sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2)
    draw.text(centre, name.replace(' ', '\n'), 'black', anchor='mm')
  return image


def frame(images: np.ndarray, words: str) -> Image.Image:
  """Returns the boxes above the images, with words below both."""
  whole = Image.new('RGB', (PIXELS * len(LAYOUTS), 2 * PIXELS + 20), 'white')
  for i, (layout, image) in enumerate(zip(LAYOUTS, images, strict=True)):
    whole.paste(draw_layout(layout), (PIXELS * i, 0))
    pixels = np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)
    large = Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.NEAREST)
    whole.paste(large, (PIXELS * i, PIXELS))
  ImageDraw.Draw(whole).text((6, 2 * PIXELS + 4), words, 'black')
  return whole


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', default='shapes')
  parser.add_argument('--output', default='docs/images/walk_frido.webp')
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  pipe = pj.load(flags.workdir)
  frames = [
    frame(images, f'scale {pipe.stages[scale]}, step {step} of {steps}')
    for scale, step, steps, images in predictions(pipe, flags.seed)
  ]
  times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
  frames[0].save(
    flags.output,
    save_all=True,
    append_images=frames[1:],
    duration=times,
    loop=0,
    quality=70,
    method=6,
  )


if __name__ == '__main__':
  main()
