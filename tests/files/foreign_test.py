"""What the package never does with files of others."""

import pathlib
import re

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors


PACKAGE = pathlib.Path(__file__).resolve().parents[2] / 'pyramid_jax'
# pattern -> the only modules that may have it, and what for
RESERVED = {
  # nothing is unpacked to disk, so no name of a member is a path
  r'\bextractall\b|\.extract\(|\bunpack_archive\b': (),
  # the headers of archives, and what their damage raises
  r'\btarfile\b': ('data/storage/archives.py', 'data/shards/tar_index.py'),
  r'\bimport (dill|cloudpickle|shelve|marshal)\b|torch\.load\b': (),
  # the one that calls nothing
  r'\b(import|from) pickle\b|\bpickle\.\w': ('interop/unpickler.py',),
  r'allow_pickle=True|\bnp\.load\(|\bread_array\(': (),
  r'zipfile\.ZipFile\([^)]*\)': ('files/zips.py', 'runs/array_parts.py'),
}


@pytest.mark.parametrize('pattern', RESERVED)
def test_modules_that_may(pattern):
  found = set()
  for path in PACKAGE.rglob('*.py'):
    text = re.sub(r'""".*?"""|#[^\n]*', '', path.read_text(), flags=re.DOTALL)
    if re.search(pattern, text):
      found.add(str(path.relative_to(PACKAGE)))
  assert found == set(RESERVED[pattern])


@pytest.mark.parametrize(
  'name',
  [
    *('http://127.0.0.1/x.py', 'https://example.com/x.py', 'ftp://a/x.py'),
    *('hf://owner/name/x.py', 'gs://bucket/x.py', 'file:///etc/passwd'),
    *('data:text/plain,x=1', '/etc/passwd', '-', 'x.pkl', 'x.json'),
  ],
)
def test_configs_are_modules_of_this_machine(name, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'x.pkl').write_bytes(b'\x80\x04N.')
  (tmp_path / 'x.json').write_text('{}')
  with pytest.raises(errors.UserError) as caught:
    config_lib.load(name)
  assert caught.value.code in (errors.USAGE, errors.MISSING)
