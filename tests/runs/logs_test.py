import json
import logging as std_logging
import os

from absl import logging
import numpy as np
import pytest

from pyramid_jax.runs import writers as logs


def test_lines(tmp_path):
  writer = logs.MetricWriter(tmp_path)
  writer.write_scalars(1, {'loss': np.float32(0.5), 'ratio': float('nan')})
  writer.write_scalars(2, {'loss': 1})
  writer.write_images(2, {'grid': np.zeros((4, 5, 3), np.uint8)})
  # On disk at once: a kill must not lose what was told.
  text = (tmp_path / logs.METRICS).read_text()
  writer.close()
  assert [json.loads(line) for line in text.splitlines()] == [
    {'step': 1, 'loss': 0.5, 'ratio': None},
    {'step': 2, 'loss': 1.0},
  ]
  assert list((tmp_path / logs.EVENTS).iterdir())


@pytest.mark.parametrize(
  ('text', 'kept'),
  [
    ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', [1, 2]),
    ('{"step": 1}\n{"step": 2', [1]),
    ('{"step": 1}\nnoise\n[3]\n{"loss": 1}\n', [1]),
    ('', []),
  ],
)
def test_truncate(tmp_path, text, kept):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(text)
  logs.truncate(path, 2)
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == kept
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_truncate_needs_no_file(tmp_path):
  logs.truncate(tmp_path / 'none', 2)
  assert os.listdir(tmp_path) == []


def record(level, path):
  return std_logging.LogRecord('absl', level, path, 1, 'text %d', (3,), None)


def test_format_is_plain():
  plain = logs._Plain()
  assert plain.format(record(std_logging.INFO, 'a.py')) == 'text 3'
  assert plain.format(record(std_logging.WARNING, 'a.py')) == 'WARNING: text 3'


def test_lines_of_the_checkpoint_library_are_kept_out():
  foreign = '/lib/orbax/checkpoint/x.py'
  assert logs._is_ours(record(std_logging.INFO, '/lib/pyramid_jax/x.py'))
  assert not logs._is_ours(record(std_logging.ERROR, foreign))
  assert logs._is_ours(record(std_logging.CRITICAL, foreign))


def test_copied_into_the_workdir(tmp_path):
  with logs.copied(tmp_path):
    logging.error('inside %d', 3)
  logging.error('outside')
  text = (tmp_path / 'logs' / 'process_0.log').read_text()
  assert text.endswith('ERROR inside 3\n')
  assert 'outside' not in text
