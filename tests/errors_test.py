"""What becomes of errors of lower floors: one line, with a file's name."""

import pytest

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
