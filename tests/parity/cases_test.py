"""A clone reproduces a recorded run of every family, with nothing beside it."""

import pathlib

import numpy as np
import pytest

from pyramid_jax.files import arrays as arrays_lib
from tests.parity import families
from tests.parity import shrink
from tests.parity import verify


CASES = sorted((pathlib.Path(__file__).parent / 'cases').glob('*.npz'))


def test_every_family_has_a_case():
  found = {verify.read_case(path).family for path in CASES}
  assert found == families.FAMILIES.keys()


@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_a_case_is_reproduced(path):
  code, text = verify.verify(str(path))
  assert code == 0, text


def test_packed_cases_keep_their_bits(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    'meta': np.array('{}'),
    'state/levels': rng.choice(np.float32([0, -0.0, 1, np.nan]), (9, 5, 2)),
    'state/many': rng.normal(size=(30, 20)).astype(np.float32),
    'state/few': np.zeros((3,), np.float32),
    'in/scalar': np.array([7], np.int32),
    'out/codes': rng.integers(0, 9, (4, 40), np.int32),
    'out/none': np.zeros((0, 3), np.float32),
  }
  path = tmp_path / 'small.npz'
  shrink.write(str(path), shrink.pack(arrays))
  back = shrink.unpack(arrays_lib.load(path))
  assert back.keys() == arrays.keys()
  for name, array in arrays.items():
    assert back[name].dtype == array.dtype
    assert back[name].shape == array.shape
    assert back[name].tobytes() == array.tobytes()
  assert len(shrink.pack(arrays)['codes']) == 90 + 160
