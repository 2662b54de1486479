"""LPIPS against numbers of the official implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from tests.parity import families
from tests.parity import verify
from tests.parity.families import lpips as family


FILE = 'ldm_lpips.npz'


def test_recorded_outputs_are_reproduced(golden):
  case = verify.read_case(golden(FILE))

  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, case.tolerance)

  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('use_dropout', [True, False])
def test_conversion_there_and_back_is_exact(golden, use_dropout):
  case = verify.read_case(golden(FILE))
  # without dropout the weighting is the first layer of its head
  layer = 'model.1' if use_dropout else 'model.0'
  state = {k.replace('model.1', layer): v for k, v in case.state.items()}
  rename = family.rename(use_dropout)
  x = jnp.zeros((1, 16, 16, 3))
  template = jax.eval_shape(
    family.build({'use_dropout': use_dropout}).init, jax.random.key(0), x, x
  )['params']

  params, report = mapping.to_flax(state, template, rename)
  back = mapping.to_official(params, rename)

  assert report.complete
  assert set(report.unused) == {'scaling_layer.shift', 'scaling_layer.scale'}
  assert len(back) == 31
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_other_scalings_of_the_input_are_refused(golden):
  case = verify.read_case(golden(FILE))
  state = {**case.state, 'scaling_layer.shift': np.zeros((1, 3, 1, 1))}

  with pytest.raises(families.Unsupported, match=r'scaling_layer\.shift'):
    family.run(dataclasses.replace(case, state=state))


def test_unknown_options_are_refused():
  with pytest.raises(families.Unsupported, match='net'):
    family.build({'net': 'alex'})
