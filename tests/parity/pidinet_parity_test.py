"""PiDiNet against an arithmetic of pixel differences of its own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.commands import convert as convert_command
from pyramid_jax.interop import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import pidinet as family
from pyramid_jax.networks import pidinet


MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])
# Neighbours in reading order, and the same clockwise.
AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
CLOCKWISE = [
  (-1, -1),
  (-1, 0),
  (-1, 1),
  (0, 1),
  (1, 1),
  (1, 0),
  (1, -1),
  (0, -1),
]


def template(network):
  """Returns the shapes of the parameters."""
  image = jnp.zeros((1, 16, 16, 3))
  return jax.eval_shape(network.init, jax.random.key(0), image)['params']


def detector(path):
  """Returns a function from images to the edges of a file's network."""
  network = family.infer(weight_file.read(path))
  params = parts.load_part('pidinet', path, template(network))
  return lambda images: network.apply(
    {'params': params}, images, method='edges'
  )


def shifted(x, i, j):
  """Returns (C, H, W) values i rows down and j columns right, 0 outside."""
  _, height, width = x.shape
  padded = np.pad(x, ((0, 0), (11, 11), (11, 11)))
  return padded[:, 11 + i : 11 + i + height, 11 + j : 11 + j + width]


def differences(operation, x):
  """Returns [((row, column) of the weight, (C, H, W))] of pixel differences."""
  if operation == 'cd':
    terms = [((i, j), shifted(x, i, j) - x) for i, j in AROUND]
  elif operation == 'ad':
    following = CLOCKWISE[1:] + CLOCKWISE[:1]
    terms = [
      (a, shifted(x, *a) - shifted(x, *b))
      for a, b in zip(CLOCKWISE, following, strict=True)
    ]
  elif operation == 'rd':
    # Their weights are the last eight of nine, in reading order.
    places = [divmod(n, 3) for n in range(1, 9)]
    return [
      (place, shifted(x, 2 * i, 2 * j) - shifted(x, i, j))
      for place, (i, j) in zip(places, AROUND, strict=True)
    ]
  else:
    terms = [((i, j), shifted(x, i, j)) for i, j in [*AROUND, (0, 0)]]
  return [((i + 1, j + 1), term) for (i, j), term in terms]


def convolved(operation, x, w):
  """Full or depthwise (1, 3, 3) kernels: (O, I or 1, 3, 3) on (C, H, W)."""
  if w.shape[1] == 1:
    sums = [
      w[:, 0, i, j, None, None] * d for (i, j), d in differences(operation, x)
    ]
    return np.sum(sums, 0)
  sums = [
    np.einsum('oc,chw->ohw', w[:, :, i, j], d)
    for (i, j), d in differences(operation, x)
  ]
  return np.sum(sums, 0)


def pointwise(x, state, name):
  y = np.einsum('oc,chw->ohw', state[f'{name}.weight'][..., 0, 0], x)
  bias = state.get(f'{name}.bias')
  return y if bias is None else y + bias[:, None, None]


def spread(x, w, distance):
  out = 0
  for i in range(3):
    for j in range(3):
      moved = shifted(x, distance * (i - 1), distance * (j - 1))
      out = out + np.einsum('oc,chw->ohw', w[:, :, i, j], moved)
  return out


def enlarged(x, size):
  """Bilinear, pixels measured at their middles, edges going on."""
  out = x
  for axis, n in ((1, size[0]), (2, size[1])):
    m = out.shape[axis]
    place = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    low = np.minimum(place.astype(int), m - 1)
    high = np.minimum(low + 1, m - 1)
    shape = [1, 1, 1]
    shape[axis] = n
    part = (place - low).reshape(shape)
    out = np.take(out, low, axis) * (1 - part) + np.take(out, high, axis) * part
  return out


def reference(state, image):
  """The five maps of an (H, W, 3) image in [-1, 1], from raw weights."""
  sigmoid = lambda v: 1 / (1 + np.exp(-v))
  relu = lambda v: np.maximum(v, 0)
  x = (((image + 1) / 2 - MEAN) / DEVIATION).transpose(2, 0, 1)
  size = x.shape[1:]
  layer, maps = 0, []
  operation = lambda: ('cd', 'ad', 'rd', 'cv')[layer % 4]
  x = convolved(operation(), x, state['init_block.weight'])
  for stage, count in enumerate((3, 4, 4, 4), start=1):
    for j in range(1, count + 1):
      layer += 1
      name = f'block{stage}_{j}'
      pooled = stage > 1 and j == 1
      if pooled:
        c, h, w = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2]
        x = x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))
      y = convolved(operation(), x, state[f'{name}.conv1.weight'])
      y = pointwise(relu(y), state, f'{name}.conv2')
      x = y + (pointwise(x, state, f'{name}.shortcut') if pooled else x)
    e = x
    number = stage - 1
    if 'dilations.0.conv1.weight' in state:
      name = f'dilations.{number}'
      e = pointwise(relu(e), state, f'{name}.conv1')
      e = sum(
        spread(e, state[f'{name}.conv2_{k}.weight'], distance)
        for k, distance in enumerate((5, 7, 9, 11), start=1)
      )
    if 'attentions.0.conv1.weight' in state:
      name = f'attentions.{number}'
      y = pointwise(relu(e), state, f'{name}.conv1')
      e = e * sigmoid(spread(y, state[f'{name}.conv2.weight'], 1))
    e = pointwise(e, state, f'conv_reduces.{number}.conv')
    maps.append(enlarged(e, size))
  mixed = pointwise(np.concatenate(maps), state, 'classifier')
  return [sigmoid(e[0]) for e in (*maps, mixed)]


def raw_state(network, seed=0):
  """Random weights of pixel differences, under the official keys."""
  random = np.random.RandomState(seed)
  shapes = mapping.to_official(
    jax.tree.map(lambda s: np.zeros(s.shape), template(network)),
    family.rename,
  )
  state = {}
  for key, value in shapes.items():
    shape = (
      value.shape[:2] + (3, 3) if value.shape[2:] == (5, 5) else value.shape
    )
    fan_in = max(1, int(np.prod(shape[1:])))
    state[key] = (random.randn(*shape) / fan_in**0.5).astype(np.float32)
  return state


SMALL = pidinet.PiDiNet(width=4, dilated=3)


@pytest.mark.parametrize('operation', ['cd', 'ad', 'rd', 'cv'])
def test_plain_kernels_compute_pixel_differences(operation):
  random = np.random.RandomState(1)
  x = random.randn(3, 9, 7)
  kernel = random.randn(5, 3, 3, 3)
  plain = family.plain_kernel(operation, kernel)
  assert plain.shape[2:] == ((5, 5) if operation == 'rd' else (3, 3))
  half = plain.shape[2] // 2
  got = 0
  for i in range(-half, half + 1):
    for j in range(-half, half + 1):
      term = shifted(x, i, j)
      weight = plain[:, :, half + i, half + j]
      got = got + np.einsum('oc,chw->ohw', weight, term)
  np.testing.assert_allclose(got, convolved(operation, x, kernel), atol=1e-12)
  if operation != 'cv':  # where all is one there are no differences
    np.testing.assert_allclose(plain.sum((2, 3)), 0, atol=1e-12)


@pytest.mark.parametrize(
  'network',
  [
    SMALL,
    pidinet.PiDiNet(width=4, dilated=0, attention=False),
  ],
)
def test_the_whole_network(network):
  state = raw_state(network)
  image = np.random.RandomState(2).uniform(-1, 1, (19, 22, 3))
  params, report = parts.to_flax('pidinet', state, template(network))
  report.require_complete()
  assert not report.unused
  with jax.default_matmul_precision('highest'):
    got = jax.jit(network.apply)({'params': params}, image[None])
  want = reference(state, image)
  assert len(got) == 5
  for ours, theirs in zip(got, want, strict=True):
    assert np.ptp(theirs) > 0.01  # there is something to agree on
    np.testing.assert_allclose(ours[0], theirs, atol=2e-5)


@pytest.mark.parametrize('dilated', [0, 2])
@pytest.mark.parametrize('attention', [False, True])
def test_sizes_are_read_off_the_weights(dilated, attention):
  network = pidinet.PiDiNet(5, dilated, attention)
  assert family.infer(raw_state(network)) == network


def test_parallel_training_puts_a_prefix(tmp_path):
  state = raw_state(SMALL)
  packed = {f'module.{key}': value for key, value in state.items()}
  assert family.infer(packed) == SMALL
  shapes = template(SMALL)
  params, report = parts.to_flax('pidinet', packed, shapes)
  again, _ = parts.to_flax('pidinet', state, shapes)
  assert report.complete
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_plain_kernels_come_back_as_they_are():
  shapes = template(SMALL)
  params, _ = parts.to_flax('pidinet', raw_state(SMALL), shapes)
  plain = parts.to_official('pidinet', params)
  assert plain['block1_2.conv1.weight'].shape == (4, 1, 5, 5)
  back, report = parts.to_flax('pidinet', plain, shapes)
  assert report.complete
  jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(
  ('name', 'whole', 'without'),
  [
    ('pidinet', 710_149, 611_289),
    ('pidinet-small', 183_763, 158_949),
    ('pidinet-tiny', 84_477, 73_369),
  ],
)
def test_parameter_counts(name, whole, without):
  """Table 5 of the paper says 710 k, 610 k, 184 k, 160 k, 84 k and 73 k."""
  width, dilated = pidinet.SIZES[name]
  for count, network in (
    (whole, pidinet.PiDiNet(width, dilated)),
    (without, pidinet.PiDiNet(width, 0, attention=False)),
  ):
    sizes = [s.size for s in jax.tree.leaves(template(network))]
    # Plain, a kernel of radii has 25 weights for 9: one layer of each stage.
    assert sum(sizes) == count + 16 * (1 + 2 + 4 + 4) * width


def test_files_become_detectors(tmp_path, capsys):
  state = raw_state(SMALL)
  released = tmp_path / 'released.safetensors'
  safetensors_file.write(released, state, {'format': 'pt'})
  images = np.random.RandomState(3).randint(0, 256, (2, 16, 24, 3), np.uint8)
  found = np.asarray(detector(released)(images))
  assert found.shape == (2, 16, 24)
  assert found.dtype == np.float32
  want = reference(state, images[1] / 127.5 - 1)[-1]
  np.testing.assert_allclose(found[1], want, atol=1e-3)

  # What is in [-1, 1] gives the same.
  as_float = jnp.asarray(images / 127.5 - 1, jnp.float32)
  again = detector(released)(as_float)
  np.testing.assert_allclose(again, found, atol=1e-5)

  workdir = tmp_path / 'converted'
  here = ['--family=pidinet', f'--workdir={workdir}']
  assert convert_command.main([*here, f'--checkpoint={released}']) == 0
  record = json.loads((workdir / convert.RECORD).read_text())
  assert record['tensors'] == len(state)
  assert record['missing'] == record['unused'] == []
  plain = tmp_path / 'plain.safetensors'
  assert convert_command.main([*here, f'--export={plain}']) == 0
  capsys.readouterr()
  shapes = template(SMALL)
  want = parts.load_part('pidinet', released, shapes)
  assert family.infer(weight_file.read(plain)) == SMALL
  for file in (workdir / convert.PARAMS, plain):
    got = parts.load_part('pidinet', file, shapes)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_what_is_no_pidinet(tmp_path):
  path = tmp_path / 'a.safetensors'
  state = raw_state(SMALL)

  def refused(tensors, words):
    safetensors_file.write(path, tensors, {'format': 'pt'})
    with pytest.raises(ValueError, match=words) as error:
      parts.load_part('pidinet', path, template(SMALL))
    assert 'a.safetensors as pidinet: ' in str(error.value)
    assert '\n' not in str(error.value)

  with pytest.raises(ValueError, match=r'no key init_block\.weight'):
    family.infer({'x': np.zeros(3, np.float32)})
  fewer = {k: v for k, v in state.items() if k != 'classifier.bias'}
  refused(fewer, r'classifier\.bias \(1,\) is missing')
  refused({**state, 'x': np.zeros(3, np.float32)}, '1 unknown keys: x')
  with pytest.raises(OSError, match='absent'):
    detector(tmp_path / 'absent')


def test_pictures_that_do_not_fit():
  for shape in ((1, 7, 16, 3), (1, 16, 16, 1), (16, 16, 3)):
    with pytest.raises(ValueError, match='sides of at least 8, got'):
      jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros(shape))
