"""The debug variant of every published experiment trains, samples and scores.

One of each kind of network and a tenth of the rest run with the other tests;
the tenth is another one after each commit. All run with the marker `pods`.
"""

import pathlib
import subprocess

import numpy as np
import pytest

from tests.helpers import debug_runs
from tests.helpers import published


ROOT = pathlib.Path(__file__).parents[2]
# Several rows share a config.
CONFIGS = tuple(dict.fromkeys(row.config for row in published.rows()))
# One of each network.
NETWORKS = (
  'adm_classifier.py:64',
  'adm_imagenet.py:64',
  'diffit_cifar10.py:class,vp',
  'diffit_imagenet.py:256,float32',
  'dit_imagenet.py:xl2_256,float32',
  'edm_cifar10.py:none,vp',
  'frido_coco.py:layout',
  'ladm_controlnet.py:edges',
  'ladm_latent_imagenet.py:256',
  'ladm_text.py:256',
  'ldm_autoencoder.py:kl_f8',
  'ldm_inpaint.py:pixels',
  'ldm_text.py:small',
  'msvqgan_coco.py:f16f8',
  'sketch_ldm.py:small',
)
PARTS = 10


def commits():
  """Returns the number of commits so far, 0 outside of a repository."""
  done = subprocess.run(
    ['git', '-C', str(ROOT), 'rev-list', '--count', 'HEAD'],
    capture_output=True,
    text=True,
    check=False,
  )
  return int(done.stdout) if done.returncode == 0 else 0


def chosen(number):
  """Returns the configs that run after so many commits."""
  rest = [name for name in CONFIGS if name not in NETWORKS]
  return {*NETWORKS, *rest[number % PARTS :: PARTS]}


def marked(name, now):
  mark = pytest.mark.slow if name in now else pytest.mark.pods
  return pytest.param(name, marks=mark)


def test_ten_commits_in_a_row_run_everything():
  assert set(NETWORKS) <= set(CONFIGS)
  parts = [chosen(number) for number in range(7, 7 + PARTS)]
  assert set.union(*parts) == set(CONFIGS)
  assert max(map(len, parts)) <= len(NETWORKS) + len(CONFIGS) // PARTS + 1


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
  'name', [marked(name, chosen(commits())) for name in CONFIGS]
)
def test_debug_variants_train_sample_and_score(name, tmp_path):
  (tmp_path / 'base').mkdir()
  config = debug_runs.config_of(name, tmp_path / 'base')
  scores = debug_runs.run(config, tmp_path / 'run')
  assert scores
  assert np.isfinite(list(scores.values())).all()
