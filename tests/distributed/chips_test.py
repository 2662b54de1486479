"""The table of chips."""

import jax
import pytest

from pyramid_jax.distributed import chips


def test_unknown_kinds_and_cpus_have_no_peak():
  assert chips.of_kind('TPU v99') is None
  assert chips.of_kind(jax.devices()[0].device_kind) is None


@pytest.mark.parametrize(
  ('kind', 'bfloat16', 'float32'),
  [
    ('TPU v4', 275e12, 275e12),
    ('TPU v5 lite', 197e12, 197e12),
    ('TPU v5p', 459e12, 459e12),
    ('TPU v6 lite', 918e12, 918e12),
    ('NVIDIA A100-SXM4-80GB', 312e12, 156e12),
    ('NVIDIA H100 80GB HBM3', 989e12, 494.5e12),
    ('NVIDIA H200', 989e12, 494.5e12),
  ],
)
def test_peaks(kind, bfloat16, float32):
  chip = chips.CHIPS[kind]
  assert chip.peak('bfloat16') == chip.peak('float16') == bfloat16
  assert chip.peak('float32') == float32
