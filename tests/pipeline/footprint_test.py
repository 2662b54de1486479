"""What a large shape needs is said before anything is compiled."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import footprint
from tests.helpers import configs


def mesh(count=1):
  config = configs.of_task('none')
  return mesh_lib.create(config.mesh, jax.devices()[:count])


def program(x):
  """Its largest array, (1, 1000, 1000) float32, is inside of a loop."""

  def body(carry, _):
    large = carry[:, :, None] * carry[:, None, :]
    return carry + large.sum(axis=2), None

  return jax.lax.scan(body, x, None, length=3)[0]


@pytest.mark.parametrize(
  ('there', 'size', 'devices', 'outcome'),
  [
    (4_000_000, 1, 1, ''),
    (3_999_999, 1, 1, 'warning'),
    (4_000_000, 2, 1, 'warning'),
    (4_000_000, 2, 2, ''),
    (4_000, 1, 1, 'warning'),
    (3_999, 1, 1, 'refused'),
    (3_999, 2, 2, 'refused'),
    (4_000, 2, 2, 'warning'),
    (7_999, 2, 1, 'refused'),
    (None, 1000, 1, ''),
  ],
)
def test_results_must_fit_and_arrays_are_a_warning(
  monkeypatch, caplog, there, size, devices, outcome
):
  monkeypatch.setattr(memory, 'available', lambda mesh: there)
  x = jax.ShapeDtypeStruct((1, 1000), jnp.float32)
  caplog.set_level(logging.WARNING)
  if outcome == 'refused':
    with pytest.raises(memory.OutOfMemory) as error:
      footprint.check(program, [x], mesh(devices), size)
    assert error.value.needed == size // devices * 4_000
    return
  footprint.check(program, [x], mesh(devices), size)
  assert ('smaller sample.batch_size' in caplog.text) == (outcome == 'warning')


def test_keys_and_empty_programs_have_a_size():
  def draw(words):
    return jax.random.normal(jax.random.wrap_key_data(words), (3,))

  footprint.check(draw, [np.zeros(2, np.uint32)], mesh(), 1)
  footprint.check(lambda x: x, [np.zeros(2)], mesh(), 1)
