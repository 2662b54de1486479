"""The multi-scale VQGAN against numbers of the official implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as names
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import msvqgan as family


FILES = ('frido_msvqgan_2s.npz', 'frido_msvqgan_3s.npz')


def _config(**changes):
  """The small configuration of the table of reference numbers."""
  levels = {
    'ch': 32,
    'num_res_blocks': 1,
    'attn_resolutions': [16],
    'resolution': 32,
    'in_channels': 3,
    'out_ch': 3,
  }
  edconfig = {
    **levels,
    'ch_mult': [1, 2, 2],
    'z_channels': [4, 4],
    'multiscale': 2,
    'double_z': False,
  }
  ddconfig = {**levels, 'ch_mult': [1, 2], 'z_channels': 8}
  return {
    'edconfig': edconfig,
    'ddconfig': ddconfig,
    'embed_dim': [4, 4],
    'n_embed': [64, 64],
    **changes,
  }


def _published(which):
  """The configurations of the released checkpoints."""
  f16f8 = which == 'f16f8'
  levels = {'ch': 128, 'num_res_blocks': 2, 'resolution': 256}
  levels['attn_resolutions'] = [32] if f16f8 else [64]
  z = 4 if f16f8 else 3
  edconfig = {
    **levels,
    'ch_mult': [1, 1, 2, 2, 4] if f16f8 else [1, 1, 2, 4],
    'z_channels': [z, z],
    'multiscale': 2,
    'double_z': False,
    'out_ch': 3,
    'in_channels': 3,
    'dropout': 0.0,
  }
  ddconfig = {
    **levels,
    'ch_mult': [1, 1, 2, 4] if f16f8 else [1, 2, 4],
    'z_channels': 2 * z,
    'out_ch': 3,
    'in_channels': 3,
    'dropout': 0.0,
    'double_z': False,
  }
  codes = 8192 if f16f8 else 4096
  return {
    'edconfig': edconfig,
    'ddconfig': ddconfig,
    'embed_dim': [z, z],
    'n_embed': [codes, codes],
    'lossconfig': {'target': 'DummyLoss'},
    'monitor': 'val/rec_loss',
  }


def _template(config, side=32):
  module = family.build(config)
  image = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(module.init, jax.random.key(0), image)['params']


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))

  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, case.tolerance)

  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))

  params, report = mapping.to_flax(
    case.state, _template(case.config), names.rename
  )
  back = mapping.to_official(params, names.rename)

  assert report.complete
  assert not report.unused
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


def _check(got, shape, first, mean, std, abs_sum):
  """Compares an (B, h, w, C) array with a row of the table (NCHW)."""
  got = np.asarray(got, np.float64).transpose(0, 3, 1, 2)
  assert got.shape == shape
  # the table has six decimals, or seven digits of sums
  first = np.array(first)
  np.testing.assert_allclose(got.ravel()[: first.size], first, atol=3e-6)
  if mean is not None:
    np.testing.assert_allclose(got.mean(), mean, atol=2e-6)
  if std is not None:
    np.testing.assert_allclose(got.std(), std, atol=5e-6)
  np.testing.assert_allclose(np.abs(got).sum(), abs_sum, rtol=5e-6)


def _everything(module, image):
  fine, coarse = module.encoder(image)
  out = module(image)
  latents = out['latents']
  at_fine = [latents[0].repeat(2, 1).repeat(2, 2), latents[1]]
  entries, _, _ = module.quantize(latents)
  _, codes, _ = module.quantize(at_fine)
  return {
    'fine': fine,
    'coarse': coarse,
    'latent': jnp.concatenate(at_fine, -1),
    'decoded': module.decode(latents),
    'reconstruction': out['reconstruction'],
    'codes': codes,
    'trained': jnp.concatenate(
      [entries[1], entries[0].repeat(2, 1).repeat(2, 2)], -1
    ),
    'loss': sum(out['codebook_losses']),
  }


def _filled(config, side):
  module = family.build(config)
  image = official_fill.inputs('image', (1, 3, side, side))
  image = image.transpose(0, 2, 3, 1)
  params = official_fill.params(module.init, names.rename, image)
  with jax.default_matmul_precision('highest'):
    return jax.jit(module.apply, static_argnames='method')(
      {'params': params}, image, method=_everything
    )


def test_filled_model_reproduces_the_table():
  got = _filled(_config(), 32)

  _check(
    got['fine'],
    (1, 4, 16, 16),
    (0.363468, -0.252060, 0.269456, 0.606549),
    -0.0845171,
    0.552531,
    446.54610,
  )
  _check(
    got['coarse'],
    (1, 4, 8, 8),
    (-0.425506, 0.483449, 0.603710, 0.433159),
    -0.1861349,
    0.524612,
    111.30517,
  )
  _check(
    got['latent'],
    (1, 8, 16, 16),
    (0.194447, 0.194447, 0.326963, 0.326963),
    -0.0756404,
    0.518506,
    823.47161,
  )
  _check(
    got['decoded'],
    (1, 3, 32, 32),
    (0.344714, 0.225456, 0.153412, 0.201707),
    -0.0903521,
    0.595198,
    1399.57590,
  )
  _check(
    got['trained'],
    (1, 8, 16, 16),
    (-0.774065, -0.711766, -0.175688, -0.778617),
    -0.0605032,
    None,
    707.00826,
  )
  coarse, fine = (np.ravel(c)[:8].tolist() for c in got['codes'])
  assert coarse == [53, 53, 53, 53, 8, 8, 8, 8]
  assert fine == [37, 54, 0, 7, 23, 2, 0, 28]
  np.testing.assert_allclose(got['loss'], 0.18697538, rtol=1e-5)
  np.testing.assert_allclose(got['reconstruction'], got['decoded'], atol=1e-5)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_filled_f16f8_reproduces_the_table():
  got = _filled(_published('f16f8'), 64)

  _check(
    got['latent'],
    (1, 8, 8, 8),
    (-0.011368, -0.011368, -0.237484, -0.237484),
    -0.00435891,
    0.412420,
    156.90485,
  )
  _check(
    got['fine'],
    (1, 4, 8, 8),
    (-0.086591, 1.393545, 0.817963),
    None,
    0.662748,
    136.57390,
  )
  _check(
    got['coarse'],
    (1, 4, 4, 4),
    (0.756786, 1.201527, 0.291896),
    None,
    0.466209,
    23.83058,
  )
  _check(
    got['decoded'],
    (1, 3, 64, 64),
    (-0.097974, 0.112072, 0.170594, 0.314334),
    0.5382939,
    0.992178,
    9815.0063,
  )
  coarse, fine = (np.ravel(c)[:8].tolist() for c in got['codes'])
  assert coarse == [3866, 3866, 4142, 4142, 3408, 3408, 7636, 7636]
  assert fine == [5319, 5706, 1719, 209, 1093, 207, 527, 5767]
  np.testing.assert_allclose(got['loss'], 0.02428494, rtol=1e-5)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_filled_f8f4_reproduces_the_table():
  got = _filled(_published('f8f4'), 64)

  _check(
    got['latent'],
    (1, 6, 16, 16),
    (0.061682, 0.061682, -0.010201, -0.010201),
    0.04765885,
    0.554625,
    602.20392,
  )
  _check(
    got['decoded'],
    (1, 3, 64, 64),
    (0.001270, 0.058214, 0.095934, 0.127301),
    0.1354398,
    0.625529,
    5911.8577,
  )
  np.testing.assert_allclose(got['loss'], 0.06699109, rtol=1e-5)


def _norm(key, c):
  return {f'{key}.weight': (c,), f'{key}.bias': (c,)}


def _conv(key, i, o, k):
  return {f'{key}.weight': (o, i, k, k), f'{key}.bias': (o,)}


def _resnet(key, i, o):
  shortcut = _conv(f'{key}.nin_shortcut', i, o, 1) if i != o else {}
  return {
    **_norm(f'{key}.norm1', i),
    **_conv(f'{key}.conv1', i, o, 3),
    **_norm(f'{key}.norm2', o),
    **_conv(f'{key}.conv2', o, o, 3),
    **shortcut,
  }


def _attention(key, c):
  keys = _norm(f'{key}.norm', c)
  for name in ('q', 'k', 'v', 'proj_out'):
    keys |= _conv(f'{key}.{name}', c, c, 1)
  return keys


def _middle(key, c):
  return {
    **_resnet(f'{key}.block_1', c, c),
    **_attention(f'{key}.attn_1', c),
    **_resnet(f'{key}.block_2', c, c),
  }


def _level(key, widths, attention, resample):
  """Keys of a level whose blocks have these widths, the input's first."""
  keys = {}
  for n, (i, o) in enumerate(zip(widths, widths[1:], strict=False)):
    keys |= _resnet(f'{key}.block.{n}', i, o)
    if attention:
      keys |= _attention(f'{key}.attn.{n}', o)
  if resample:
    keys |= _conv(f'{key}.{resample}.conv', widths[-1], widths[-1], 3)
  return keys


def _expected_keys(which):
  """The keys of the released checkpoints, level by level."""
  if which == 'f16f8':
    z, codes = 4, 8192
    downs = [
      ((128, 128, 128), False),
      ((128, 128, 128), False),
      ((128, 256, 256), False),
      ((256, 256, 256), True),
      ((256, 512, 512), False),
    ]
    ups = [
      ((128, 128, 128, 128), False),
      ((256, 128, 128, 128), False),
      ((512, 256, 256, 256), False),
      ((512, 512, 512, 512), True),
    ]
  else:
    z, codes = 3, 4096
    downs = [
      ((128, 128, 128), False),
      ((128, 128, 128), False),
      ((128, 256, 256), True),
      ((256, 512, 512), False),
    ]
    ups = [
      ((256, 128, 128, 128), False),
      ((512, 256, 256, 256), False),
      ((512, 512, 512, 512), True),
    ]
  keys = _conv('encoder.conv_in', 3, 128, 3)
  for i, (widths, attention) in enumerate(downs):
    resample = 'downsample' if i < len(downs) - 1 else None
    keys |= _level(f'encoder.down.{i}', widths, attention, resample)
  for k, c in enumerate((256, 512)):
    keys |= _middle(f'encoder.mid_ms.{k}', c)
    keys |= _norm(f'encoder.norm_out_ms.{k}', c)
    keys |= _conv(f'encoder.conv_out_ms.{k}', c, z, 3)
  keys |= _conv('decoder.conv_in', 2 * z, 512, 3)
  keys |= _middle('decoder.mid', 512)
  for i, (widths, attention) in enumerate(ups):
    resample = 'upsample' if i else None
    keys |= _level(f'decoder.up.{i}', widths, attention, resample)
  keys |= _norm('decoder.norm_out', 128)
  keys |= _conv('decoder.conv_out', 128, 3, 3)
  for i in range(2):
    keys |= {f'ms_quantize.{i}.embedding.weight': (codes, z)}
    keys |= _conv(f'ms_quant_conv.{i}', z, z, 1)
  keys |= _conv('post_quant_conv', 2 * z, 2 * z, 1)
  keys |= _conv('upsample.0', z, z, 4)
  keys |= _conv('shared_post_quant_conv.0', z, z, 1)
  keys |= _conv('shared_decoder.0.conv_in', 2 * z, 128, 3)
  keys |= _middle('shared_decoder.0.mid', 128)
  keys |= _level('shared_decoder.0.up.0', (128,) * 4, False, None)
  keys |= _norm('shared_decoder.0.norm_out', 128)
  keys |= _conv('shared_decoder.0.conv_out', 128, z, 3)
  return keys


@pytest.mark.parametrize(
  ('which', 'tensors', 'count'),
  [('f16f8', 410, 67_994_775), ('f8f4', 366, 63_946_989)],
)
def test_published_sizes_have_the_official_keys(which, tensors, count):
  shapes = official_fill.official_shapes(
    _template(_published(which)), names.rename
  )

  assert shapes == _expected_keys(which)
  assert len(shapes) == tensors
  assert sum(int(np.prod(s)) for s in shapes.values()) == count


def test_small_size_of_the_table():
  shapes = official_fill.official_shapes(_template(_config()), names.rename)

  assert len(shapes) == 258
  assert sum(int(np.prod(s)) for s in shapes.values()) == 2_546_871


def _changed(part, **changes):
  config = _config()
  return {**config, part: {**config[part], **changes}}


@pytest.mark.parametrize(
  ('config', 'words'),
  [
    (_config(fusion='add'), "fusion = 'add'"),
    (_config(remap='used.npy'), 'remap'),
    (_config(channel_range=[0, 4]), 'channel_range'),
    (_config(quantiser='gumbel'), 'quantiser'),
    (_changed('ddconfig', give_pre_end=True), 'give_pre_end'),
    (_changed('edconfig', channels=3), 'channels'),
    (_changed('edconfig', multiscale=3), 'multiscale = 3'),
  ],
)
def test_unsupported_options_are_refused(config, words):
  with pytest.raises(families.Unsupported, match=words):
    family.build(config)


def test_options_of_the_constructor_reach_the_module():
  config = _changed('edconfig', resamp_with_conv=False, dropout=0.1)
  config |= {'quant_beta': 0.5, 'legacy': False, 'init_normal': True}
  module = family.build({**config, 'ckpt_path': None, 'channel_range': []})

  shapes = official_fill.official_shapes(_template(config), names.rename)

  assert (module.quant_beta, module.legacy) == (0.5, False)
  assert module.edconfig['dropout'] == 0.1
  assert not [key for key in shapes if 'downsample' in key]
  assert [key for key in shapes if 'decoder.up.1.upsample' in key]


def test_incomplete_state_is_refused(golden):
  case = verify.read_case(golden(FILES[0]))
  state = {k: v for k, v in case.state.items() if k != 'upsample.0.bias'}

  with pytest.raises(ValueError, match=r'upsample\.0\.bias'):
    family.run(dataclasses.replace(case, state=state))
