"""Every published experiment has a config, with the published values."""

import math
import pathlib

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.config import names
from tests.helpers import config_systems
from tests.helpers import published


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
ROWS = {row.id: row for row in published.rows()}
LEAST_VALUES = 8
# Experiments that may lack a config.
MOST_PENDING = 2
# One row of each network; the sizes of the rest take minutes.
QUICK = (
  'diffit.T1.imagenet256',
  'edm.README.cifar10-uncond-vp',
  'frido.yaml.t2i_coco',
  'ldm.T12.celebahq',
  'ldm.T8.kl-f8-4',
  'ldm.T8.vq-f8-256',
  'ldm.yaml.text2img256',
  'others.ADM.64',
  'others.ADM.classifier64',
  'others.DiT.xl2_256',
)


def is_equal(mine, theirs):
  """Whether a value of a config is the published one."""
  if isinstance(theirs, tuple):
    return (
      isinstance(mine, tuple)
      and len(mine) == len(theirs)
      and all(map(is_equal, mine, theirs))
    )
  if isinstance(theirs, bool | str) or isinstance(mine, bool | str | tuple):
    return type(mine) is type(theirs) and mine == theirs
  return math.isclose(mine, theirs, rel_tol=1e-9)


@pytest.mark.parametrize('name', ROWS)
def test_configs_have_the_published_values(name):
  row = ROWS[name]
  got = names.flatten(config_lib.load(f'{CONFIGS}/{row.config}'))
  asserted = [value for value in row.values if value.verified]
  lacks = [value.field for value in asserted if value.field not in got]
  assert not lacks
  wrong = {
    value.field: (got[value.field], value.value, value.source)
    for value in asserted
    if not is_equal(got[value.field], value.value)
  }
  assert wrong.keys() == row.differs.keys(), wrong
  assert bool(row.few) == (len({v.field for v in asserted}) < LEAST_VALUES)


def test_every_config_of_a_paper_has_an_experiment():
  named = {row.config.partition('.py')[0] for row in ROWS.values()}
  files = {path.stem for path in CONFIGS.glob('*.py')} - {'common'}
  ours = {name for name in files if 'shapes' in name or name.endswith('mnist')}
  assert named == files - ours


def test_ids_are_unique_and_sources_are_named():
  items = published.document()['rows']
  assert len(items) == len(ROWS)
  pending = published.document()['pending']
  assert not pending.keys() & ROWS.keys()
  assert len(pending) <= MOST_PENDING, pending
  assert all(pending.values())
  for row in ROWS.values():
    assert row.paper in published.document()['papers']
    for value in (*row.values, *row.sizes):
      assert value.source, row.id
    assert all(row.differs.values())


def test_the_page_of_configs_is_written_from_the_experiments():
  text = (CONFIGS / 'README.md').read_text()
  assert text == published.page(), (
    'python -m tests.helpers.published > configs/README.md'
  )


def marked(name):
  """Returns a row of the sizes; a second or two each."""
  return pytest.param(name, marks=() if name in QUICK else pytest.mark.pods)


@pytest.mark.turns(3, group='published sizes')
@pytest.mark.parametrize(
  'name', [marked(row.id) for row in ROWS.values() if row.sizes]
)
def test_networks_have_the_published_sizes(name, tmp_path):
  row = ROWS[name]
  sizes = config_systems.sizes(config_systems.load(row.config, tmp_path))
  for size in row.sizes:
    if not size.verified:
      continue
    millions = (sum(sizes[p] for p in size.parts) + size.unread) / 1e6
    is_printed = abs(millions - size.millions) <= size.tolerance
    assert is_printed != bool(size.differs), (millions, size)
    assert millions == pytest.approx(size.millions, rel=0.03)
