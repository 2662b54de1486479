"""The rule of comparison, the table and the exit codes."""

import json
import types

import numpy as np
import pytest

from tests.parity import families
from tests.parity import verify


META = {'family': 'toy', 'config': {'gain': 2.0}, 'tolerance': 1e-3}


def write(path, meta=META, **arrays):
  arrays = arrays or {
    'in/x': np.asarray([1.0, -2.0], np.float32),
    'out/y': np.asarray([2.0, -4.0], np.float32),
    'out/n': np.asarray([2], np.int32),
  }
  np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
  return str(path)


def toy(case):
  """A family that multiplies, and counts."""
  if 'mode' in case.config:
    raise families.Unsupported(f'mode {case.config["mode"]!r}')
  if 'bug' in case.config:
    raise TypeError('a defect')
  if 'w' in case.state:
    raise ValueError('state dict does not fit')
  x = case.inputs['x']
  return {'y': x * case.config['gain'], 'n': np.asarray(x.size), 'more': x}


@pytest.fixture(autouse=True)
def toy_family(monkeypatch):
  real = families.module

  def module(family):
    return types.SimpleNamespace(run=toy) if family == 'toy' else real(family)

  monkeypatch.setattr(families, 'module', module)


def test_pass(tmp_path, capsys):
  path = write(tmp_path / 'a.npz')
  assert verify.main([path]) == 0
  out = capsys.readouterr().out
  assert out.startswith(f'{path}: toy: ok\noutput  shape')
  assert 'y       (2,)   0.00e+00  1.00e-03   ok' in out
  assert 'n       (1,)   0.00e+00  equal      ok' in out


@pytest.mark.parametrize(
  ('arrays', 'remark'),
  [
    ({'out/y': np.asarray([2.0, -4.01], np.float32)}, '2.49e-03'),
    ({'out/y': np.asarray([2.0, np.nan], np.float32)}, 'nan'),
    ({'out/y': np.zeros((2, 1), np.float32)}, 'shape (2,)'),
    ({'out/n': np.asarray([3], np.int32)}, '1.00e+00  equal'),
    ({'out/z': np.zeros(2, np.float32)}, 'not produced'),
    ({'out/more': np.zeros(2, np.float32)}, '2.00e+00'),
  ],
)
def test_off(tmp_path, capsys, arrays, remark):
  x = np.asarray([1.0, -2.0], np.float32)
  path = write(tmp_path / 'a.npz', **{'in/x': x, **arrays})
  assert verify.main([path]) == 1
  out = capsys.readouterr().out
  assert '1 of 1 OFF' in out
  assert remark in out


def test_tolerance_replaces_the_files(tmp_path):
  arrays = {
    'in/x': np.asarray([1.0, -2.0], np.float32),
    'out/y': np.asarray([2.0, -4.01], np.float32),
    'out/n': np.asarray([2], np.int32),
  }
  path = write(tmp_path / 'a.npz', **arrays)
  assert verify.main([path, '--tolerance=1e-2']) == 0
  assert verify.main(['--tolerance=1e-5', path]) == 1


@pytest.mark.parametrize(
  ('got', 'want', 'error'),
  [
    ([1.0, 2.0], [1.0, -4.0], 1.5),
    ([0.0, 0.25], [0.0, 0.0], 0.25),
    ([], [], 0.0),
    ([np.inf], [np.inf], np.nan),
  ],
)
def test_error(got, want, error):
  got, want = (np.asarray(v, np.float32) for v in (got, want))
  np.testing.assert_equal(verify.error(got, want), error)


def test_exit_codes(tmp_path, capsys):
  good = write(tmp_path / 'good.npz')
  off = write(tmp_path / 'off.npz', **{'in/x': np.ones(1), 'out/y': np.ones(1)})
  option = write(tmp_path / 'option.npz', {**META, 'config': {'mode': 'a'}})
  family = write(tmp_path / 'family.npz', {**META, 'family': 'ldm.nothing'})
  bug = write(tmp_path / 'bug.npz', {**META, 'config': {'bug': 1}})
  x = np.ones(1)
  misfit = write(
    tmp_path / 'misfit.npz', **{'state/w': x, 'in/x': x, 'out/y': x}
  )
  no_input = write(tmp_path / 'no_input.npz', META, **{'out/y': x})
  text = tmp_path / 'text.npz'
  text.write_text('hello')
  plain = tmp_path / 'plain.npz'
  np.savez(plain, x=np.zeros(3))
  no_tolerance = write(tmp_path / 'no.npz', {'family': 'toy', 'config': {}})
  nothing = write(tmp_path / 'nothing.npz', META, **{'in/x': x})
  codes = {
    good: 0,
    off: 1,
    bug: 1,
    option: 64,
    family: 64,
    misfit: 65,
    no_input: 65,
    str(text): 65,
    str(plain): 65,
    no_tolerance: 65,
    nothing: 65,
    str(tmp_path): 65,
    str(tmp_path / 'absent.npz'): 66,
  }
  assert {path: verify.main([path]) for path in codes} == codes
  captured = capsys.readouterr()
  assert f"{option}: unsupported: mode 'a'" in captured.err
  assert "unknown family 'ldm.nothing'; known: adm.classifier" in captured.err
  assert 'meta lacks tolerance' in captured.err
  assert "toy: the file lacks 'x'" in captured.err
  assert 'TypeError: a defect' in captured.out
  for worst in (1, 64, 65, 66):
    files = [path for path, code in codes.items() if code <= worst]
    assert verify.main(files) == worst
    assert verify.main(files[::-1]) == worst


def test_wrong_command_line(capsys):
  for line in ([], ['x.npz', '--tolerance=-1'], ['x.npz', '--tolerence=1']):
    assert verify.main(line) == 64
    assert capsys.readouterr().err.startswith('error: ')
