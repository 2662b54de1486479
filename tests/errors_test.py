"""What becomes of errors of lower floors: one line, with a file's name."""

import errno
import os
import re
import resource

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from pyramid_jax import errors


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('no', 'no: No such file or directory'),
    ('folder', 'folder: Is a directory'),
    ('file/x', 'x: Not a directory'),
  ],
)
def test_errors_of_files_name_them_without_a_number(tmp_path, path, words):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'file').touch()
  with pytest.raises(errors.UserError) as error, errors.user_errors():
    (tmp_path / path).read_bytes()
  assert str(error.value).endswith(words)
  assert str(error.value).startswith(str(tmp_path))
  assert error.value.code == errors.MISSING


def test_other_errors_keep_their_words():
  with (
    pytest.raises(errors.UserError, match='^missing: a$'),
    errors.user_errors(),
  ):
    raise FileNotFoundError('missing: a')


def _refused(error, what, **options):
  with (
    pytest.raises(errors.UserError) as found,
    errors.writing(what, **options),
  ):
    raise error
  assert found.value.code == errors.OUTPUT
  return str(found.value)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_its_free_bytes(tmp_path, number):
  path = tmp_path / 'not_there' / 'x.json'
  text = _refused(OSError(number, os.strerror(number), str(path)), path)
  start = f'cannot write {path}: {os.strerror(number)} ('
  assert text.startswith(start)
  words = text.removeprefix(start)
  assert words.endswith(' bytes are free); with room the same command goes on.')
  assert int(words.split()[0].replace(',', '')) > 0
  other = _refused(OSError(number, ''), 'a thing', folder=path)
  # Others write to the disk meanwhile.
  free = re.compile(r'[\d,]+ bytes')
  assert free.sub('', other) == free.sub('', text).replace(str(path), 'a thing')


def test_room_is_checked_before_it_is_needed(tmp_path):
  errors.check_room('x', 1, tmp_path / 'not_there')
  with pytest.raises(errors.UserError) as found:
    errors.check_room('a thing', 10**18, tmp_path)
  start = 'cannot write a thing: 1,000,000,000,000,000,000 bytes are needed ('
  assert str(found.value).startswith(start)
  assert found.value.code == errors.OUTPUT


def test_other_reasons_have_no_bytes_and_name_other_files(tmp_path):
  folder = tmp_path / 'run'
  found = OSError(errno.EROFS, 'Read-only file system', str(folder / 'a.txt'))
  assert _refused(found, folder) == (
    f'cannot write {folder}: {folder}/a.txt: Read-only file system.'
  )
  aside = OSError(errno.EIO, 'x', str(folder / '.a.txt.0123.tmp'))
  words = f'cannot write {folder}/a.txt: Input/output error.'
  assert _refused(aside, folder / 'a.txt') == words
  assert _refused(OSError('short write'), 'x') == 'cannot write x: short write.'


def _fail_twice(second):
  try:
    raise OSError(errno.ENOSPC, '')
  finally:
    raise second


def test_a_second_failure_hides_no_first():
  with (
    pytest.raises(errors.UserError, match='No space left'),
    errors.writing('x'),
  ):
    _fail_twice(ValueError('cannot close'))


@pytest.mark.parametrize('kind', [TypeError, AttributeError, IndexError])
def test_a_bug_stays_one_while_an_error_is_handled(kind):
  with pytest.raises(kind, match='bug'), errors.writing('x'):
    _fail_twice(kind('bug'))


def test_bugs_and_told_errors_pass():
  with pytest.raises(TypeError, match='bug'), errors.writing('x'):
    raise TypeError('bug')
  with (
    pytest.raises(errors.UserError, match='^told$') as told,
    errors.writing('x'),
  ):
    raise errors.UserError('told', errors.DATA)
  assert told.value.code == errors.DATA


def test_the_errors_of_libraries_are_known(tmp_path):
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
  path = tmp_path / 'x.safetensors'
  try:
    with (
      pytest.raises(errors.UserError, match='File too large'),
      errors.writing(path),
    ):
      safetensors_numpy.save_file({'a': np.zeros(1000)}, path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  text = "Failed to write 7 bytes to file 11: ... [os_error_code='27']"
  assert errors.number(ValueError(text)) == errno.EFBIG
  assert not errors.is_transient(ValueError(text))
  assert errors.is_transient(OSError(errno.ESTALE, ''))


@pytest.mark.parametrize(
  'text', ['\x1b[2J', 'a\0b', '\udc80', 'a\x7f', '\u200e']
)
def test_a_message_is_a_line_that_a_terminal_shows(text):
  message = str(errors.UserError(f'--name={text}:\n\u2028must be a word.'))
  assert message == f'--name={ascii(text)[1:-1]}: must be a word.'
  assert message.encode().decode().isprintable()


def test_a_long_value_leaves_the_ends_of_a_message():
  message = str(errors.UserError(f'--seed={"1" * 10**6}: must be less.'))
  assert len(message) < 2100
  assert message.startswith('--seed=111')
  assert message.endswith('111: must be less.')


class _Thing:
  """Notes that it was closed, and may fail as it is."""

  def __init__(self, problem=None):
    self.problem, self.closed = problem, 0

  def close(self):
    self.closed += 1
    if self.problem is not None:
      raise self.problem


def test_what_fails_in_closing_hides_nothing(caplog):
  thing = _Thing(OSError(errno.EIO, 'second'))
  with pytest.raises(KeyError, match='first'), errors.closing(thing):
    raise KeyError('first')
  assert 'second' in caplog.text
  with pytest.raises(OSError, match='second'), errors.closing(thing):
    pass
  with errors.closing(_Thing()) as other:
    assert not other.closed
  assert (thing.closed, other.closed) == (2, 1)


def _of_library(module, *names, **fields):
  """An error of a class that a library has, after those that it derives of."""
  kind = Exception
  for name in names:
    kind = type(name, (kind,), {'__module__': module})
  error = kind('said')
  for field, value in fields.items():
    setattr(error, field, value)
  return error


@pytest.mark.parametrize(
  ('error', 'number', 'is_transient'),
  [
    (_of_library('gcsfs.retry', 'HttpError', code=503), errno.EIO, True),
    (_of_library('gcsfs.retry', 'HttpError', code='429'), errno.EAGAIN, True),
    (_of_library('gcsfs.retry', 'HttpError', code=401), errno.EACCES, False),
    (_of_library('gcsfs.retry', 'HttpError', code=400), None, False),
    (_of_library('elsewhere', 'HttpError', code=503), None, False),
    (_of_library('gcsfs.retry', 'ChecksumError'), errno.EIO, True),
    (OSError('Forbidden: https://x: no access'), errno.EACCES, False),
    (
      _of_library('aiohttp.http', 'ClientError', 'ServerDisconnectedError'),
      errno.ECONNRESET,
      True,
    ),
    (
      _of_library('google.auth.exceptions', 'DefaultCredentialsError'),
      errno.EACCES,
      False,
    ),
  ],
)
def test_answers_of_services_have_numbers(error, number, is_transient):
  assert errors.number(error) == number
  assert errors.is_transient(error) is is_transient
