"""The edge predictor against numbers of a public port."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import parts
from pyramid_jax.interop.families import lgp as names
from tests.parity import families
from tests.parity import verify
from tests.parity.families import lgp as family


FILE = 'lgp_mlp.npz'


def test_recorded_outputs_are_reproduced(golden):
  case = verify.read_case(golden(FILE))
  rows = verify.compare(verify.run(case), case, case.tolerance)
  assert len(rows) == 3
  assert [row for row in rows if not row.ok] == []


def template(module, widths, size=(4, 4), channels=4):
  features = [jnp.zeros((1, *size, w)) for w in widths]
  noise = jnp.zeros((1, *size, channels))
  return jax.eval_shape(
    lambda key: module.init(key, features, noise, size), jax.random.key(0)
  )


@pytest.mark.parametrize('widths', [(40,), (24, 16), (1, 30, 9)])
def test_conversion_there_and_back_is_exact(golden, widths):
  case = verify.read_case(golden(FILE))
  module = family.build(case.config)

  variables, report = parts.to_flax(
    'lgp.mlp', case.state, template(module, widths)
  )
  back = parts.to_official('lgp.mlp', variables)

  assert report.complete
  assert {k.rpartition('.')[2] for k in report.unused} == {
    'num_batches_tracked'
  }
  assert back.keys() | report.unused.keys() == case.state.keys()
  for key, value in back.items():
    np.testing.assert_array_equal(value, case.state[key], err_msg=key)


def test_other_sizes_run():
  config = {'output_dim': 3, 'input_dim': 5 + 2 * 4, 'num_encodings': 3}
  module = family.build(config)
  shapes = template(module, (5,), (2, 6), 2)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda s: rng.uniform(0.1, 1, s.shape).astype(np.float32), shapes
  )
  case = families.Case(
    family='lgp.mlp',
    config=config,
    state=parts.to_official('lgp.mlp', variables),
    inputs={
      'x': rng.normal(size=(1, 2, 6, 5)).astype(np.float32),
      't': rng.normal(size=(1, 2, 6, 2)).astype(np.float32),
    },
    expected={},
    tolerance=1e-4,
  )
  out = family.run(case)
  assert out['y'].shape == out['y_train'].shape == (12, 3)
  assert out['encoding'].shape == (1, 2, 6, 8)
  wrong = dataclasses.replace(case, config={**config, 'input_dim': 14})
  with pytest.raises(families.Unsupported, match='input_dim = 14, but 5 feat'):
    family.run(wrong)
  with pytest.raises(families.Unsupported, match=r"\['dropout'\]"):
    family.build({**config, 'dropout': 0.1})


def test_too_many_channels_are_refused():
  state = {names.FIRST: np.zeros((512, 10), np.float32)}
  kernels = {
    f'fc0_tap{k}': {'kernel': np.zeros((width, 512))}
    for k, width in enumerate((6, 4))
  }
  with pytest.raises(ValueError, match='10 columns, which must be more than'):
    names.cut(state, {'params': kernels})
