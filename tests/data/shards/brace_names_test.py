import pytest

from pyramid_jax import errors
from pyramid_jax.data.shards import brace_names


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('a.tar', ['a.tar']),
    ('{08..11}.tar', ['08.tar', '09.tar', '10.tar', '11.tar']),
    ('{8..10}.tar', ['8.tar', '9.tar', '10.tar']),
    ('{x,y}/{0..1}', ['x/0', 'x/1', 'y/0', 'y/1']),
    ('{000..000}', ['000']),
    ('{,-b}c', ['c', '-bc']),
  ],
)
def test_expanded(text, want):
  assert brace_names.expanded(text, 'x') == want


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('{3..1}', r'\{3\.\.1\} must rise, by at most 1000000 files'),
    ('{0..9999999}', 'must rise, by at most 1000000 files'),
    ('{0..999}{0..999}{0..9}', '10000000 files; at most 1000000 are read'),
    ('{a}', r'must be \{FIRST..LAST\}, two numbers, or .*, got \{a\}'),
    ('{0..1', 'its braces do not match'),
    ('{a,{b,c}}', 'its braces do not match'),
  ],
)
def test_refusals(text, words):
  with pytest.raises(errors.UserError, match=f'^config.x is .*{words}'):
    brace_names.expanded(text, 'config.x')
