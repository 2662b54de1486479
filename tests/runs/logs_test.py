import errno
import io
import json
import logging as std_logging
import os
import pathlib
import struct

from absl import logging
import numpy as np
from PIL import Image
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from pyramid_jax import errors
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
    ('', []),
  ],
)
def test_what_an_interrupted_run_left_is_removed(tmp_path, text, kept):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(text)
  logs.truncate(path, 2)
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == kept
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_truncate_needs_no_file(tmp_path):
  logs.truncate(tmp_path / 'none', 2)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  'line',
  [
    b'noise',
    b'[3]',
    b'{"loss": 1}',
    b'{"step": "a"}',
    b'{"step": true}',
    b'{"step": -1}',
    b'{"step": 1e999}',
    b'{"step": {}}',
    b'null',
    b'\xff\x00',
    b'',
    b'[' * 100_000,
    b'{"step": ' + b'9' * 10_000 + b'}',
  ],
)
def test_lines_of_others_are_kept_in_a_copy(tmp_path, line, caplog):
  path = tmp_path / 'metrics.jsonl'
  content = b'{"step": 1}\n' + line + b'\n{"step": 2}\n{"step": 3}\n{"st'
  for number, name in enumerate(['metrics.jsonl.bad', 'metrics.jsonl.bad2']):
    path.write_bytes(content)
    logs.truncate(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert (tmp_path / name).read_bytes() == content
    assert len(caplog.records) == number + 1
    assert 'line 2 is none of a run' in caplog.text
  logs.truncate(path, 2)
  assert len(os.listdir(tmp_path)) == 3


def _linked(path):
  path.symlink_to(path.with_name('elsewhere'))


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (_linked, 'it is a link'),
    (os.mkfifo, 'it is no file'),
    (os.mkdir, 'it is no file'),
  ],
)
def test_what_is_no_file_is_refused(tmp_path, make, words):
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.write_text('{"step": 9}\nof a person')
  (tmp_path / 'logs').mkdir()
  make(tmp_path / 'metrics.jsonl')
  make(tmp_path / 'logs' / 'process_0.log')
  with pytest.raises(errors.UserError, match=words) as found:
    logs.MetricWriter(tmp_path)
  assert found.value.code == errors.OUTPUT
  with pytest.raises(errors.UserError, match=words), logs.copied(tmp_path):
    pass
  assert elsewhere.read_text() == '{"step": 9}\nof a person'


def test_a_step_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  writer = logs.MetricWriter(tmp_path)
  writer.write_scalars(1, {'loss': 1})
  write, full = os.write, OSError(errno.ENOSPC, 'No space left on device')

  def half(file, data):
    if len(data) < 9:
      raise full
    return write(file, data[:9])

  with monkeypatch.context() as patch:
    patch.setattr(os, 'write', half)
    with pytest.raises(errors.UserError, match='metrics.jsonl: No space left'):
      writer.write_scalars(2, {'loss': 2})
  writer.write_scalars(3, {'loss': 3})
  writer.close()
  lines = (tmp_path / logs.METRICS).read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 3]


def test_writes_that_fail_for_a_moment_are_repeated(tmp_path, monkeypatch):
  writer = logs.MetricWriter(tmp_path)
  write, waits = os.write, iter([True, False, False])

  def flaky(file, data):
    if next(waits, False):
      write(file, data[:5])
      raise OSError(errno.EIO, 'Input/output error')
    return write(file, data)

  monkeypatch.setattr(os, 'write', flaky)
  writer.write_scalars(1, {'loss': 1})
  writer.close()
  assert json.loads((tmp_path / logs.METRICS).read_text())['step'] == 1


def records(path):
  """Yields the messages of a file of events, checksums compared."""
  data = path.read_bytes()
  while data:
    size, header = struct.unpack('<QI', data[:12])
    message, body = data[12 : 12 + size], data[12 + size : 16 + size]
    assert header == record_writer.masked_crc32c(data[:8])
    assert struct.unpack('<I', body)[0] == record_writer.masked_crc32c(message)
    yield event_pb2.Event.FromString(message)
    data = data[16 + size :]


def test_events_are_those_of_tensorboard(tmp_path):
  writer = logs.MetricWriter(tmp_path, first_step=4)
  writer.write_scalars(5, {'loss': 0.5, 'ratio': float('inf')})
  writer.write_images(6, {'grid': np.full((2, 3, 3), 7, np.uint8)})
  writer.close()
  (path,) = (tmp_path / logs.EVENTS).iterdir()
  assert path.name.startswith('events.out.tfevents.')
  first, start, loss, ratio, grid = records(path)
  assert first.file_version == 'brain.Event:2'
  assert start.step == 5
  assert start.session_log.status == event_pb2.SessionLog.START
  assert [x.summary.value[0].tag for x in (loss, ratio)] == ['loss', 'ratio']
  assert loss.summary.value[0].simple_value == 0.5
  assert (loss.step, grid.step) == (5, 6)
  image = grid.summary.value[0].image
  assert (image.height, image.width) == (2, 3)
  png = Image.open(io.BytesIO(image.encoded_image_string))
  assert np.all(np.asarray(png) == 7)


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


def test_what_failed_once_is_not_told_again():
  def line(text, error):
    found = record(std_logging.ERROR, 'asyncio.py')
    found.msg, found.args = text, ()
    found.exc_info = (type(error), error, None)
    return logs._is_no_echo(found)

  full = OSError(errno.ENOSPC, '')
  assert not line('Task exception was never retrieved\nfuture: <...>', full)
  unread = ValueError('NOT_FOUND: ... [tensorstore_spec=...]')
  assert not line('Future exception was never retrieved\nfuture:', unread)
  assert line('Task exception was never retrieved\nfuture: <...>', KeyError())
  assert line('Executing took 3 seconds', full)
  assert logs._is_no_echo(record(std_logging.ERROR, 'asyncio.py'))


def test_copied_into_the_workdir(tmp_path):
  with logs.copied(tmp_path):
    logging.error('inside %d', 3)
  logging.error('outside')
  text = (tmp_path / 'logs' / 'process_0.log').read_text()
  assert text.endswith('ERROR inside 3\n')
  assert 'outside' not in text


def test_a_log_that_cannot_be_written_ends_the_run_in_one_line(
  tmp_path, monkeypatch, capsys
):
  write = os.write

  def broken(file, data):
    if b'full' in bytes(data):
      raise OSError(errno.ENOSPC, 'No space left on device')
    return write(file, data)

  monkeypatch.setattr(os, 'write', broken)
  refused = lambda: pytest.raises(
    errors.UserError, match='process_0.log: No space'
  )
  with refused() as found, logs.copied(tmp_path):
    _log_full()
  assert found.value.code == errors.OUTPUT
  with refused(), logs.copied(tmp_path):
    _log_full(logs.check_log)
  with pytest.raises(KeyError, match='first'), logs.copied(tmp_path):
    _log_full(lambda: {}['first'])
  assert 'Traceback' not in capsys.readouterr().err
  assert 'more' not in (tmp_path / 'logs' / 'process_0.log').read_text()


def _log_full(then=lambda: None):
  logs.check_log()
  logging.error('the disk is full')
  logging.error('more')
  then()


def test_a_name_that_is_no_text_is_logged(tmp_path):
  with logs.copied(tmp_path):
    logging.error('%s', os.fsdecode(b'a\xff'))
  text = (tmp_path / 'logs' / 'process_0.log').read_text()
  assert text.endswith('ERROR a\\udcff\n')


def test_names_and_prompts_stay_in_their_line(tmp_path, monkeypatch):
  hostile = 'a\nI0101 fake line\x1b[2J\u2028\r\x07b'
  shown = r'a\nI0101 fake line\x1b[2J\u2028\r\x07b'
  with logs.copied(tmp_path):
    monkeypatch.setattr(logs, '_PACKAGE', os.path.dirname(__file__))
    logging.warning('read %s as %d: %s', hostile, 3, OSError(hostile))
    logging.warning('%s: %r', pathlib.Path(hostile), 'ä')
    logging.warning('a table\nof two lines with 5 %')
    monkeypatch.undo()
    logging.warning('of another library: %s', 'a\nb')
  lines = (tmp_path / 'logs' / 'process_0.log').read_text().splitlines()
  want = [
    f'read {shown} as 3: {shown}',
    f"{shown}: 'ä'",
    *('a table', 'of two lines with 5 %'),
    *('of another library: a', 'b'),
  ]
  assert [line.rpartition('WARNING ')[2] for line in lines] == want
