"""Damaged files of data sets: one line, or images that are skipped.

`-m faults` tries 2,000 copies of each format, other runs a few.
"""

import os
import signal

import pytest

from pyramid_jax.data.objects import sg2im_graphs
from pyramid_jax.data.readers import cifar10
from pyramid_jax.data.readers import visual_genome
from tests.helpers import data_set_formats as formats
from tests.helpers import fuzzed


FEW, MANY = 24, 2_000
HANGS_SECS = 20
KINDS = ('empty', 'an image', 'a folder', 'a pipe')
# What is read all the same: other images are there, or no reader needs it.
READ = {
  *(('celebahq/imgHQ00001.npy', kind) for kind in KINDS),
  *(('prepared/dataset_info.json', kind) for kind in KINDS[:2]),
  *((f'vg/{x}_alias.txt', 'empty') for x in ('object', 'relationship')),
}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
  """Files of CIFAR-10 have few records, Visual Genome few objects."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(cifar10, 'RECORDS', formats.RECORDS)
  monkeypatch.setattr(cifar10, '_FILE', formats.RECORDS * 3073)
  rules = sg2im_graphs.Rules(min_instances=2, min_relations=2)
  monkeypatch.setattr(visual_genome, 'RULES', rules)
  for name in ('lmdb', 'pyarrow', 'array_record'):
    pytest.importorskip(name, reason="needs pip install '.[test]'")


@pytest.mark.parametrize('name', formats.FORMATS)
def test_a_few_damaged_files(tmp_path, name):
  entry = formats.FORMATS[name]()
  found = fuzzed.tried(entry, tmp_path / name, FEW, (formats.Refused,))
  assert found.read + found.refused == FEW


@pytest.mark.rounds
@pytest.mark.parametrize('name', formats.FORMATS)
def test_many_damaged_files(tmp_path, name):
  entry, errors = formats.FORMATS[name](), (formats.Refused,)
  found = fuzzed.tried_in_child(entry, tmp_path / name, MANY, errors)
  print(f'{name}: {found}')  # noqa: T201


def hangs(*_) -> None:
  raise AssertionError(f'a reader hangs for {HANGS_SECS} s')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', formats.FORMATS)
def test_what_is_no_file_of_its_kind_is_one_line(tmp_path, name, kind):
  entry, path = formats.FORMATS[name](), tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  entry.prepare(path.parent)
  path.unlink(missing_ok=True)
  if kind == 'a folder':
    path.mkdir()
  elif kind == 'a pipe':
    os.mkfifo(path)
  else:
    path.write_bytes(b'' if kind == 'empty' else formats.png(1))
  signal.signal(signal.SIGALRM, hangs)
  signal.alarm(HANGS_SECS)
  try:
    if (name, kind) in READ:
      entry.read(path)
    else:
      with pytest.raises(formats.Refused, match=r'\A.+\Z'):
        entry.read(path)
  finally:
    signal.alarm(0)
