"""Signals in new interpreters, and in the programs beside the modes."""

import random
import shutil
import signal
import sys
import time

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from tests.helpers import configs
from tests.helpers import stopped
from tests.helpers import system_weights
from tests.helpers import written_run


SHAPES = f'{configs.FOLDER}/ldm_shapes.py:class,debug'
RELEASE = f'{configs.FOLDER}/ldm_imagenet.py:v2,debug'


@pytest.mark.rounds
def test_signals_in_new_processes(server, tmp_path):
  """The imports, the data, the tracing, the compilation of a real run."""
  draw = random.Random(stopped.SEED)
  flags = f'--config={SHAPES}', f'--workdir={tmp_path}/run'
  for number in range(12):
    name = ('', '.main', '.commands.convert')[number % 3]
    child = server.fresh('-m', f'pyramid_jax{name}', *flags)
    child.until(lambda child=child: stopped.catches(child))
    is_run = not name.endswith('convert')
    time.sleep(draw.uniform(0, 6 if is_run and number % 2 else 0.5))
    child.send(draw.choice([signal.SIGTERM, signal.SIGINT]))
    stopped.check_stopped(child, tmp_path)
  sys.stdout.write('12 of 12 new processes\n')


def check_program(server, folder, *command):
  """Signals a program that writes a folder, which must come out the same."""
  start = lambda: server.start(*command, before='')
  assert start().wait() == errors.OK
  want = stopped.tree(folder)
  shutil.rmtree(folder)
  for _ in stopped.rounds(4, start, folder, again=2):
    # Orbax writes the time of its saves, and draws names.
    got = stopped.tree(folder)
    is_fixed = lambda name: 'checkpoints/' not in name
    assert {*filter(is_fixed, got)} == {*filter(is_fixed, want)}
    assert all(got[name] == want[name] for name in filter(is_fixed, got))
    shutil.rmtree(folder)


@pytest.mark.rounds
def test_signals_while_latents_are_cached(server, tmp_path):
  system = systems.create(config_lib.load(SHAPES))
  part = system.pretrained_parts()['first_stage']
  shapes = jax.eval_shape(part.init, jax.random.key(0))
  parts.write(
    part.family, tmp_path / 'first.safetensors', system_weights.fill(shapes)
  )
  check_program(
    server,
    tmp_path / 'new',
    'cache_latents',
    f'--config={SHAPES}',
    f'--first_stage={tmp_path}/first.safetensors',
    f'--output={tmp_path}/new',
    '--count=60',
    '--shard_size=4',
    '--batch_size=4',
  )


@pytest.mark.rounds
def test_signals_while_a_checkpoint_is_converted(server, tmp_path):
  system = systems.create(config_lib.load(RELEASE))
  _, report = latent_workdir.from_official('ldm', {}, system, False)
  state = {key: np.zeros(shape, 'f') for key, shape in report.missing.items()}
  safetensors_file.write(tmp_path / 'model.safetensors', state)
  check_program(
    server,
    tmp_path / 'new',
    'convert',
    '--family=ldm',
    f'--config={RELEASE}',
    f'--checkpoint={tmp_path}/model.safetensors',
    f'--workdir={tmp_path}/new',
    '--allow_missing',
  )


@pytest.mark.rounds
def test_signals_while_a_run_is_shipped(server, tmp_path):
  config = config_lib.load(SHAPES)
  written_run.write(tmp_path / 'run', config)
  first = config_lib.first_stage(config)
  written_run.write(tmp_path / 'run' / 'first_stage', first)
  check_program(
    server,
    tmp_path / 'new',
    'ship',
    f'--workdir={tmp_path}/run',
    f'--out={tmp_path}/new',
  )


@pytest.mark.rounds
def test_signals_while_bands_are_measured(server, tmp_path):
  command = (
    'measure_bands',
    f'--config={configs.FOLDER}/ladm_shapes.py:layout',
    '--count=64',
    '--batch_size=8',
  )
  start = lambda: server.start(*command, before='', cwd=tmp_path)
  for _ in stopped.rounds(4, start, tmp_path, again=2):
    assert not list(tmp_path.iterdir())
