"""The runs and files that README and docs name, at the smallest sizes.

Runs have random weights; they are written when they are asked for.
"""

import pathlib

import numpy as np
from PIL import Image

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.interop import latent_workdir
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import coco_runs
from tests.helpers import configs
from tests.helpers import diffusers_files
from tests.helpers import system_weights
from tests.helpers import torch_writer
from tests.helpers import written_run


# Workdir -> its config, and fields that differ from it.
RUNS = {
  'runs/frido_shapes': ('frido_shapes.py:layout,debug', {}),
  'runs/text': ('frido_shapes.py:text,debug', {}),
  'runs/label': ('frido_shapes.py:label,debug', {}),
  'runs/graph': ('frido_shapes.py:scene_graph,debug', {}),
  'runs/ldm_class': ('ldm_shapes.py:class,debug', {}),
  'runs/ldm_text': ('ldm_shapes.py:text,debug', {}),
  'runs/map': ('ldm_shapes.py:map,debug', {}),
  'runs/superres': ('ldm_shapes.py:superres,debug', {}),
  'runs/inpaint': ('ldm_shapes.py:inpaint,debug', {}),
  'runs/ladm': ('ladm_shapes.py:layout,debug', {}),
  'runs/control': (
    'ladm_shapes.py:layout,control,debug',
    {'control.base': 'runs/ladm'},
  ),
  'runs/ladm_text': ('ladm_shapes.py:text,debug', {}),
  'runs/edges': (
    'ladm_shapes.py:text,control,debug',
    {'control.base': 'runs/ladm_text'},
  ),
  'runs/depth': (
    'ladm_shapes.py:text,control,debug',
    {
      'control.base': 'runs/ladm_text',
      'control.map': 'depth',
      'data.maps': ('mask',),
      'condition.map_classes': 256,
    },
  ),
  'runs/classifier': (
    'classifier_shapes.py:latents,debug',
    {'classifier.base': 'runs/ldm_class'},
  ),
  'runs/hdr': ('hdr.py:debug', {'data.root': 'hdr'}),
  'runs/sketch': (
    'sketch_shapes.py:ldm,pixels,debug',
    {'sketch.base': 'runs/ldm_text'},
  ),
  'runs/ladm_256': ('ladm_shapes.py:text,debug', {'data.image_size': 16}),
  'runs/ladm_1k': ('ladm_shapes.py:superres2,debug', {'data.image_size': 32}),
}
RELEASE = 'frido_coco.py:text,debug'  # the config of `model.ckpt`
STABLE_DIFFUSION = 'stable-diffusion-v1-5'
SKETCH = (
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
  '<circle cx="16" cy="16" r="9" fill="none" stroke="black"/></svg>'
)


def write(folder: pathlib.Path, name: str) -> None:
  """Writes a run of `RUNS`, with those that it is based on, unless there."""
  workdir = folder / name
  if name == STABLE_DIFFUSION:
    diffusers_files.write(workdir, '1')
    return
  if (workdir / 'config.json').is_file():
    return
  file, fields = RUNS[name]
  for base in RUNS.keys() & {x for x in fields.values() if isinstance(x, str)}:
    write(folder, base)
  config = configs.load(file, **fields)
  write_run(workdir, config, _labels(file))


def _labels(file: str) -> tuple[str, ...]:
  """Returns the names of labels of a config, none where it needs data."""
  config = configs.load(file)
  if config.data.name != 'shapes':
    return ()
  return data.create(config, 'test').label_names


def write_run(workdir, config, labels):
  """Writes a run of random weights, and one of its first stage."""
  system = workdir_lib.create_system(config)
  extra = system_weights.initial_extra(system)
  written_run.write(workdir, config, extra=extra, labels=labels)
  if 'first_stage' in config and not config.first_stage.checkpoint:
    first = config_lib.first_stage(config)
    write_run(workdir / pretrained.FIRST_STAGE, first, labels)


def write_files(folder: pathlib.Path) -> None:
  """Writes the images, masks, sketches and layouts."""
  rng = np.random.default_rng(0)
  noise = lambda side: Image.fromarray(
    rng.integers(0, 255, (side, side, 3), np.uint8)
  )
  noise(32).save(folder / 'image.png')
  noise(8).save(folder / 'small.png')
  mask = np.zeros((32, 32), np.uint8)
  mask[8:20, 8:20] = 255
  Image.fromarray(mask).save(folder / 'mask.png')
  Image.fromarray(mask // 255).save(folder / 'map.png')
  lines = np.full((40, 40), 255, np.uint8)
  lines[10:30, 20] = lines[20, 10:30] = 0
  Image.fromarray(lines).save(folder / 'sketch.png')
  noise(32).convert('L').save(folder / 'depth.png')
  (folder / 'sketch.svg').write_text(SKETCH)
  (folder / 'layout.json').write_text(
    '[{"label": "red circle", "box": [0.1, 0.1, 0.4, 0.4]}]'
  )
  coco_runs.write_vocabulary(folder / 'vocab.txt')
  _write_release(folder)


def _write_release(folder: pathlib.Path) -> None:
  """Writes `model.ckpt` of Frido in the official names."""
  config = configs.load(RELEASE, condition__vocab_file='vocab.txt')
  write_run(folder / 'released', config, ('padding',))
  state = latent_workdir.to_official('frido', folder / 'released')
  torch_writer.write_checkpoint(folder / 'model.ckpt', state)
