import json

import jax
import numpy as np
import pytest

from pyramid_jax.interop import families
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import pyunet as family


FILES = (
  'frido_pyunet_2s.npz',
  'frido_pyunet_2s_plain.npz',
  'frido_pyunet_3s_mscond.npz',
)


def _case(path) -> families.Case:
  z = np.load(path, allow_pickle=False)
  meta = json.loads(str(z['meta']))
  arrays = {
    part: {
      k.removeprefix(f'{part}/'): z[k]
      for k in z.files
      if k.startswith(f'{part}/')
    }
    for part in ('state', 'in', 'out')
  }
  return families.Case(
    family=meta['family'],
    config=meta['config'],
    state=arrays['state'],
    inputs=arrays['in'],
    expected=arrays['out'],
    tolerance=meta['tolerance'],
  )


@pytest.mark.parametrize('file', FILES)
def test_recorded_run(golden, file):
  case = _case(golden(file))
  with jax.default_matmul_precision('highest'):
    got = family.run(case)
  assert set(got) == set(case.expected)
  for name, want in case.expected.items():
    error = np.abs(np.float64(got[name]) - want).max() / np.abs(want).max()
    assert error < 1e-5, (name, error)


@pytest.mark.parametrize('file', FILES)
def test_conversion_is_exact_both_ways(golden, file):
  case = _case(golden(file))
  network = family.build(case.config)
  template = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0), **family._inputs(case, network), stage=0
    )
  )['params']
  params, report = mapping.to_flax(case.state, template, family.rename)
  assert report.complete
  assert not report.unused
  state = mapping.to_official(params, family.rename)
  assert set(state) == set(case.state)
  for key, value in case.state.items():
    np.testing.assert_array_equal(state[key], value)
