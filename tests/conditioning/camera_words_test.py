import pytest

from pyramid_jax.conditioning import camera


def test_words_become_ids_and_silence_is_zero():
  assert camera.ids({}) == {'pitch': 0, 'depth_of_field': 0}
  words = {'pitch': 'ascending', 'depth_of_field': 'shallow', 'caption': 'x'}
  assert camera.ids(words) == {'pitch': 3, 'depth_of_field': 1}
  assert camera.ids({'pitch': None, 'depth_of_field': ''}) == camera.ids({})


@pytest.mark.parametrize('value', ['up', 3, ['shallow']])
def test_other_words_are_refused(value):
  with pytest.raises(ValueError, match='depth_of_field is .* shallow, deep'):
    camera.ids({'depth_of_field': value})
