"""The patch discriminator against numbers of the official implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import discriminator as names
from tests.parity import families
from tests.parity import verify
from tests.parity.families import discriminator as family


FILES = tuple(f'ldm_discriminator_{i}.npz' for i in range(3))


@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))

  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, case.tolerance)

  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))
  template = jax.eval_shape(
    family.build(case.config).init,
    jax.random.key(0),
    jnp.zeros((1, 48, 48, 3)),
  )

  variables, report = mapping.to_flax(case.state, template, names.rename)
  back = mapping.to_official(variables, names.rename)

  assert report.complete
  flags = [key.rpartition('.')[2] for key in report.unused]
  assert set(flags) <= {'num_batches_tracked', 'initialized'}
  assert back.keys() | report.unused.keys() == case.state.keys()
  for key, value in back.items():
    np.testing.assert_array_equal(value, case.state[key], err_msg=key)


def test_unknown_options_are_refused():
  with pytest.raises(families.Unsupported, match='spectral'):
    family.build({'ndf': 8, 'spectral': True})


def test_actnorm_that_was_never_trained_is_refused_in_training(golden):
  case = verify.read_case(golden(FILES[1]))
  fresh = dataclasses.replace(
    case,
    config={**case.config, 'mode': 'train'},
    state={
      k: np.zeros_like(v) if k.endswith('initialized') else v
      for k, v in case.state.items()
    },
  )

  with pytest.raises(families.Unsupported, match='first batch'):
    family.run(fresh)
