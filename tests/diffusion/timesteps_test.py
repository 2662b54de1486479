import numpy as np
import pytest

from pyramid_jax.diffusion import timesteps


def test_printed_steps():
  steps = timesteps.space_timesteps(1000, '250')
  assert steps[:3].tolist() == [0, 4, 8]
  assert steps[-2:].tolist() == [995, 999]
  gaps = np.diff(steps)
  assert np.flatnonzero(gaps == 5).tolist() == [41, 124, 207]
  assert (gaps == 4).sum() == 246
  ddim = timesteps.space_timesteps(1000, 'ddim50')
  assert ddim.tolist() == list(range(0, 1000, 20))
  assert timesteps.space_timesteps(1000, 'ddim250')[-1] == 996


def test_sections_are_spread_each_on_its_own():
  steps = timesteps.space_timesteps(11, '3,1,2')  # parts of 4, 4 and 3
  assert steps.tolist() == [0, 2, 3, 4, 8, 10]
  assert timesteps.space_timesteps(11, [3, 1, 2]).tolist() == steps.tolist()


@pytest.mark.parametrize('sections', ['', '7', [7], 'ddim7'])
def test_all_steps(sections):
  got = timesteps.space_timesteps(7, sections)
  assert got.tolist() == list(range(7))


def test_the_count_is_what_was_asked_for():
  for count in range(1, 101):
    steps = timesteps.space_timesteps(100, str(count))
    assert len(np.unique(steps)) == count
    assert steps[0] == 0
    assert count == 1 or steps[-1] == 99


@pytest.mark.parametrize(
  ('sections', 'message'),
  [
    ('1001', "'1001': a section of 1000 levels cannot keep 1001"),
    ('300,400,10', "'300,400,10': a section of 333 levels cannot keep 400"),
    ('ddim60', "'ddim60': no whole stride .* nearest that do: 59,63"),
    ('ddim1', "'ddim1': no whole stride .* that do: 2$"),
    ('ddim2000', "'ddim2000': no whole stride .* that do: 1000$"),
    ('fast', "'fast' is no number of steps; allowed are"),
    ('ddim', "'' is no number of steps"),
    ('10,,10', "'10,,10': '' is no number"),
    ('0', "'0' is no number of steps"),
    ([5, -1], "'5,-1': -1 is no number of steps"),
  ],
)
def test_what_cannot_be_served_is_told(sections, message):
  with pytest.raises(ValueError, match=message) as error:
    timesteps.space_timesteps(1000, sections)
  assert '\n' not in str(error.value)
