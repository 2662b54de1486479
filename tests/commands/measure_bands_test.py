import pathlib

import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import measure_bands


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def test_the_powers_in_the_config_are_those_of_the_data():
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:layout,two')
  rms = measure_bands.measure(config, 48, 16)
  np.testing.assert_allclose(rms, config.laplacian.band_rms, rtol=0.06)


def test_any_number_of_levels_can_be_measured(capsys):
  command = [f'--config={CONFIGS}/ladm_shapes.py:layout', '--count=16']
  assert measure_bands.main([*command, '--config.laplacian.levels=4']) == 0
  rms, marks = capsys.readouterr().out.splitlines()
  assert rms.startswith('config.laplacian.band_rms = (')
  values = [float(v) for v in rms.split('(')[1].strip(',)').split(',')]
  switches = [float(v) for v in marks.split('(')[1].strip(',)').split(',')]
  assert len(values) == 4
  want = [12 * 2**i * v for i, v in enumerate(values[:3])]
  np.testing.assert_allclose(switches, want, rtol=2e-3)


def test_of_enlarged_pictures_what_they_leave_open_is_measured():
  config = config_lib.load(f'{CONFIGS}/ladm_shapes.py:superres2')
  rms = measure_bands.measure(config, 96, 32)
  np.testing.assert_allclose(rms, config.laplacian.band_rms, rtol=0.06)


def test_what_has_no_bands_is_refused(capsys):
  command = [f'--config={CONFIGS}/diffit_shapes.py']
  assert measure_bands.main(command) == errors.USAGE
  assert "'diffit', must be ladm" in capsys.readouterr().err
  assert measure_bands.main([*command, '--count=0']) == errors.USAGE
  assert '--count: is 0, must be above 0' in capsys.readouterr().err
