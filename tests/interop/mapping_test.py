"""Layouts there and back, and the account of keys."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 3), name='conv')(x)
    x = nn.GroupNorm(2, name='norm')(x)
    x = nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding='SAME', name='up')(
      x
    )
    return nn.Dense(7, use_bias=False, name='out')(x)


def rename(path):
  names = {'conv': 'stem.0', 'norm': 'norm', 'up': 'up', 'out': 'head.proj'}
  kinds = {'conv': 'conv', 'up': 'conv_transpose', 'out': 'linear'}
  *_, module, leaf = path
  if leaf == 'kernel':
    return f'{names[module]}.weight', kinds[module]
  if leaf == 'scale':
    return f'{names[module]}.weight', 'norm'
  return f'{names[module]}.bias', 'bias'


SHAPES = {
  'stem.0.weight': (6, 4, 3, 3),
  'stem.0.bias': (6,),
  'norm.weight': (6,),
  'norm.bias': (6,),
  'up.weight': (6, 5, 4, 4),
  'up.bias': (5,),
  'head.proj.weight': (7, 5),
}


def make(prefix=''):
  rng = np.random.default_rng(0)
  return {
    prefix + k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()
  }


@pytest.fixture
def template():
  x = jnp.zeros((1, 4, 4, 4))
  return jax.eval_shape(Net().init, jax.random.key(0), x)['params']


def test_values_and_way_back(template):
  state = make('net.')
  state['other.thing'] = np.zeros(3, np.float32)
  params, report = mapping.to_flax(state, template, rename, 'net.')
  assert report.complete
  assert not report.unused
  assert report.matched == {'net.' + k: s for k, s in SHAPES.items()}
  kernel = params['conv']['kernel']
  assert kernel.shape == (3, 3, 4, 6)
  assert kernel[1, 2, 3, 5] == state['net.stem.0.weight'][5, 3, 1, 2]
  assert params['out']['kernel'][4, 6] == state['net.head.proj.weight'][6, 4]
  back = mapping.to_official(params, rename, 'net.')
  assert list(back) == [k for k in back if k in state]
  for key in SHAPES:
    np.testing.assert_array_equal(back['net.' + key], state['net.' + key])


def test_conv_transpose_is_pytorchs(template):
  """Each input pixel adds its kernel at twice its place, less the padding."""
  state = make()
  params, _ = mapping.to_flax(state, template, rename)
  x = np.random.default_rng(1).normal(size=(1, 3, 2, 6)).astype(np.float32)
  up = nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding='SAME')
  got = up.apply({'params': params['up']}, x)[0]
  want = np.zeros((2 * 3 + 2, 2 * 2 + 2, 5))
  for i in range(3):
    for j in range(2):
      patch = np.einsum('i,iohw->hwo', x[0, i, j], state['up.weight'])
      want[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
  want = want[1:-1, 1:-1] + state['up.bias']
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  ('kind', 'official', 'ours'),
  [
    ('conv', (5, 4, 3), (3, 4, 5)),
    ('conv1d', (5, 4, 1), (4, 5)),
    ('conv1x1', (5, 4, 1, 1), (4, 5)),
    ('linear', (5, 4), (4, 5)),
    ('embedding', (5, 4), (5, 4)),
    ('raw', (1,), ()),
  ],
)
def test_kinds(kind, official, ours):
  value = np.arange(np.prod(official), dtype=np.float32).reshape(official)
  template = {'a': {'b': jax.ShapeDtypeStruct(ours, np.float32)}}
  names = lambda path: ('.'.join(path), kind)
  params, report = mapping.to_flax({'a.b': value}, template, names)
  assert report.complete
  assert params['a']['b'].shape == ours
  back = mapping.to_official(params, names)['a.b']
  np.testing.assert_array_equal(back.reshape(official), value)


def test_missing_unused_and_mismatched(template):
  state = make()
  del state['up.weight']
  state['norm.bias'] = np.zeros(7, np.float32)
  state['loss.lin0.weight'] = np.zeros((1, 6, 1, 1), np.float32)
  params, report = mapping.to_flax(state, template, rename)
  assert report.missing == {'up.weight': (6, 5, 4, 4)}
  assert report.mismatched == {'norm.bias': ((7,), (6,))}
  assert report.unused == {'loss.lin0.weight': (1, 6, 1, 1)}
  assert params['up']['kernel'] is template['up']['kernel']
  text = '\n'.join(report.lines())
  assert 'missing: 1\n  up.weight (6, 5, 4, 4)' in text
  assert '  norm.bias (7,), needed (6,)' in text
  assert 'unused: 1\n  loss.lin0.weight (1, 6, 1, 1)' in text
  with pytest.raises(ValueError, match=r'up\.weight \(6, 5, 4, 4\) is miss'):
    report.require_complete()


def test_refuses_bad_maps(template):
  with pytest.raises(ValueError, match='wanted by'):
    mapping.to_flax(make(), template, lambda path: ('same', 'raw'))
  with pytest.raises(ValueError, match="kind 'cov' of .*allowed: conv"):
    mapping.to_flax(make(), template, lambda path: ('same', 'cov'))
  with pytest.raises(ValueError, match="cannot be of kind 'linear'"):
    mapping.to_flax(make(), template, lambda path: ('.'.join(path), 'linear'))
