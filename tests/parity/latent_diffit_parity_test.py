"""Latent DiffiT against numbers, keys and sizes of the official code."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert as convert_command
from pyramid_jax.interop import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import latent_diffit as names
from pyramid_jax.networks import latent_diffit
from tests.parity import families
from tests.parity import verify
from tests.parity.families import latent_diffit as family


FILES = ('diffit_latent_a.npz', 'diffit_latent_b_linear.npz')
FAMILY = 'diffit.latent'

TINY = {
  'input_size': 8,
  'patch_size': 2,
  'hidden_size': 32,
  'depth': 2,
  'num_heads': 4,
  'num_classes': 10,
}
# Positions of tensors in the sorted list of keys, spelled out.
ORDER = (
  ('blocks.0.attn.proj.bias', 0),
  ('blocks.0.attn.relative_position_bias_table', 6),
  ('blocks.0.mlp.fc1.bias', 8),
  ('blocks.1.attn.proj.bias', 12),
  ('final_layer.linear.bias', 24),
  ('pos_embed', 26),
  ('t_embedder.mlp.0.bias', 27),
  ('x_embedder.proj.weight', 32),
  ('y_embedder.embedding_table.weight', 33),
)


def _official(config):
  """Shapes of the official state dict, and its constants."""
  shapes = family.shapes(family.build(config))
  _, report = mapping.to_flax({}, shapes, names.rename)
  return dict(report.missing), names.buffers(shapes)


def _sines(config):
  """The state dict of the recorded numbers: sines by place in sorted order."""
  shapes, constants = _official(config)
  state = {}
  for i, key in enumerate(sorted(shapes | constants)):
    if key in constants:
      state[key] = constants[key]
      continue
    size = int(np.prod(shapes[key]))
    values = 0.08 * np.sin(0.37 * (np.arange(size) + 1) + i)
    state[key] = values.reshape(shapes[key]).astype(np.float32)
  return state


def _cosines(*shape):
  return (
    np.cos(0.61 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
  )


def _recorded(config, levels=(), **guidance):
  """Runs the recorded inputs through the family."""
  x = _cosines(2, 4, config['input_size'], config['input_size'])
  labels = np.array([3, 10], np.int32)
  expected = {'out': np.zeros(0)}
  if levels:
    expected['cfg_out'] = np.zeros(0)
  outputs = verify.run(
    families.Case(
      family=FAMILY,
      config=config | guidance,
      state=_sines(config),
      inputs={
        'x': x,
        't': np.array([17.0, 803.0], np.float32),
        'y': labels,
        'cfg_x': np.concatenate([x[:1], x[:1]]),
        'cfg_y': labels,
        'cfg_t': np.array(levels, np.float32),
      },
      expected=expected,
      tolerance=1e-5,
    )
  )
  return {name: np.float64(value) for name, value in outputs.items()}


@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  rows = verify.compare(verify.run(case), case, 1e-5)
  assert len(rows) == len(case.expected) == 5
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('scan', [True, False])
def test_conversion_there_and_back_is_exact(golden, file, prefix, scan):
  case = verify.read_case(golden(file))
  network = family.build(case.config).clone(scan=scan)
  state = {prefix + key: value for key, value in case.state.items()}
  params, report = parts.to_flax(FAMILY, state, family.shapes(network))
  assert report.complete
  assert not report.unused
  assert ('blocks' in params) == scan
  back = parts.to_official(FAMILY, params)
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_numbers_of_the_official_module():
  shapes, constants = _official(TINY)
  ordered = sorted(shapes | constants)
  assert len(ordered) == 34
  assert [ordered[i] for _, i in ORDER] == [key for key, _ in ORDER]
  got = _recorded(
    TINY,
    (0, 250, 500, 999),
    cfg_scale=4.4,
    scale_pow=4.0,
    diffusion_steps=1000,
  )
  out = got['out']
  assert out.shape == (2, 8, 8, 8)
  np.testing.assert_allclose(out.sum(), 27.081752, atol=2e-4)
  np.testing.assert_allclose(np.abs(out).mean(), 0.3278124, atol=2e-6)
  np.testing.assert_allclose(
    out.ravel()[[0, 1, 2, 3, 100, 512, 1023]],
    (
      *(-0.3909553, -0.3746772, -0.5523262, -0.4552531),
      *(-0.2931827, -0.4189015, 0.2238482),
    ),
    atol=5e-6,
  )
  for row, want, total in zip(
    got['cfg_out'],
    (
      (-0.3870203, -0.3731425, 0.4725034, 0.4504449),
      (-0.3883117, -0.3733539, 0.4726540, 0.4495650),
      (-0.3920071, -0.3751769, 0.4724074, 0.4520513),
      (-0.3903914, -0.3743547, 0.4726107, 0.4507744),
    ),
    (26.853155, 27.070687, 27.140646, 27.162476),
    strict=True,
  ):
    np.testing.assert_allclose(row.ravel()[[0, 1, 192, 256]], want, atol=5e-6)
    np.testing.assert_allclose(row.sum(), total, atol=5e-4)


def test_numbers_of_the_official_module_at_a_larger_size():
  config = TINY | {'input_size': 68, 'patch_size': 17}
  got = _recorded(config, (0,), cfg_scale=4.4)
  np.testing.assert_allclose(got['out'].sum(), -15.944735, atol=2e-3)
  np.testing.assert_allclose(np.abs(got['out']).mean(), 0.3359740, atol=2e-6)
  np.testing.assert_allclose(
    got['cfg_out'].ravel()[:2], (-0.5867322, -0.4411232), atol=5e-6
  )


def test_guidance_leaves_the_other_channels_alone():
  guided = _recorded(TINY, (250,), cfg_scale=4.4)['cfg_out']
  cond = _recorded(TINY, (250,), cfg_scale=1.0)['cfg_out']
  np.testing.assert_array_equal(guided[:, :, 3:], cond[:, :, 3:])
  assert np.abs(guided[:, :, :3] - cond[:, :, :3]).max() > 1e-3


@pytest.mark.parametrize(
  ('size', 'tokens', 'rows'), [(32, 256, 961), (64, 1024, 3969)]
)
def test_keys_of_the_release(size, tokens, rows):
  shapes, constants = _official({'input_size': size, 'depth': 28})
  sizes = sum(np.prod(s, dtype=np.int64) for s in shapes.values())
  sizes += constants['pos_embed'].size
  assert len(shapes) + len(constants) == 346
  assert sizes == {32: 561_330_144, 64: 563_562_464}[size]
  assert constants['pos_embed'].shape == (1, tokens, 1152)
  index = constants['blocks.27.attn.relative_position_index']
  assert (index.shape, index.dtype) == ((tokens, tokens), np.int64)
  expected = {
    'x_embedder.proj.weight': (1152, 4, 2, 2),
    't_embedder.mlp.0.weight': (1152, 256),
    't_embedder.mlp.2.bias': (1152,),
    'y_embedder.embedding_table.weight': (1001, 1152),
    'blocks.0.attn.relative_position_bias_table': (rows, 16),
    'blocks.27.attn.qkv_temb.weight': (3456, 1152),
    'blocks.27.attn.qkv.bias': (3456,),
    'blocks.27.attn.proj.weight': (1152, 1152),
    'blocks.27.mlp.fc1.weight': (4608, 1152),
    'blocks.27.mlp.fc2.weight': (1152, 4608),
    'final_layer.linear.weight': (32, 1152),
  }
  assert {k: shapes.get(k) for k in expected} == expected


@pytest.mark.parametrize(
  'config',
  [
    TINY,
    TINY | {'input_size': 12, 'patch_size': 3, 'learn_sigma': False},
    TINY | {'in_channels': 3, 'depth': 3, 'mlp_ratio': 2.7},
    # int(28 * (61 / 28)) is 60.
    TINY | {'hidden_size': 28, 'mlp_ratio': 2.18},
  ],
)
def test_sizes_are_read_off_a_file(config):
  shapes, constants = _official(config)
  state = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
  network = names.infer({f'ema.{k}': v for k, v in state.items()})
  want = family.build(config)
  assert family.shapes(network) == family.shapes(want)
  assert network.input_size == want.input_size
  assert network.out_channels == want.out_channels


def _run(workdir, *rest):
  return convert_command.main(
    [f'--family={FAMILY}', f'--workdir={workdir}', *rest]
  )


def test_a_released_file_there_and_back(tmp_path, capsys):
  state = _sines(TINY)
  file, target = tmp_path / 'diffit.safetensors', tmp_path / 'back.safetensors'
  safetensors_file.write(file, state)
  assert _run(tmp_path / 'run', f'--checkpoint={file}') == 0
  out = capsys.readouterr().out
  assert 'matched: 34\n' in out
  assert 'missing: 0\nmismatched: 0\nunused: 0' in out
  record = json.loads((tmp_path / 'run' / 'params.json').read_text())
  assert record['tensors'] == 34
  assert _run(tmp_path / 'run', f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  assert back.keys() == state.keys()
  for key, value in state.items():
    assert back[key].dtype == value.dtype
    np.testing.assert_array_equal(back[key], value, err_msg=key)

  # One file serves the network of either form, and is the official one's.
  own = tmp_path / 'run' / 'params.safetensors'
  for scan in (True, False):
    network = family.build(TINY).clone(scan=scan)
    template = family.shapes(network)
    params = convert.load_part(FAMILY, own, template)
    theirs = convert.load_part(FAMILY, file, template)
    jax.tree.map(np.testing.assert_array_equal, params, theirs)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, template)
    again = tmp_path / f'{scan}.safetensors'
    parts.write(FAMILY, again, params)
    assert safetensors_file.Tensors(again).keys() == (
      safetensors_file.Tensors(own).keys()
    )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'blocks.1.mlp.fc2.bias': None}, '1 missing keys'),
    ({'pos_embed': None}, '1 missing keys'),
    ({'blocks.0.attn.relative_position_index': None}, '1 missing keys'),
    ({'blocks.0.norm.weight': np.zeros(32, 'f')}, '1 unknown keys'),
    ({'pos_embed': np.zeros((1, 16, 32), 'f')}, 'pos_embed is [0. 0.'),
    ({'pos_embed': np.zeros((1, 9, 32), 'f')}, 'needed (1, 16, 32)'),
    ({'blocks.1.attn.proj.bias': np.zeros(8, 'f')}, '1 keys of another shape'),
    ({'x_embedder.proj.weight': None}, "no key 'x_embedder.proj.weight'"),
    ({'blocks.0.mlp.fc1.weight': None}, "no key 'blocks.0.mlp.fc1.weight'"),
    (
      {'blocks.0.attn.relative_position_bias_table': np.zeros((48, 4), 'f')},
      'the square of an odd number',
    ),
    ({'final_layer.linear.weight': np.zeros((9, 32), 'f')}, '9 outputs'),
  ],
)
def test_other_files_are_refused(tmp_path, capsys, change, message):
  state = _sines(TINY) | change
  file = tmp_path / 'diffit.safetensors'
  safetensors_file.write(
    file, {k: v for k, v in state.items() if v is not None}
  )
  assert _run(tmp_path / 'run', f'--checkpoint={file}') == errors.DATA
  err = capsys.readouterr().err
  assert message in err
  assert err.count('\n') == 1
  assert not (tmp_path / 'run' / 'params.safetensors').exists()


def test_unknown_keys_are_refused_where_a_config_names_the_file(tmp_path):
  state = _sines(TINY) | {'decoder.bias': np.zeros(3, np.float32)}
  file = tmp_path / 'diffit.safetensors'
  safetensors_file.write(file, state)
  template = family.shapes(family.build(TINY))
  with pytest.raises(ValueError, match='1 unknown keys: decoder.bias'):
    parts.load_part(FAMILY, file, template)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'qk_norm': True}, "unknown arguments of DiffiT: .'qk_norm'"),
    ({'patch_size': 3}, 'patch_size = 3 must divide'),
  ],
)
def test_options_that_are_not_there_are_refused(change, message):
  with pytest.raises(families.Unsupported, match=message):
    family.build(TINY | change)


def test_arguments_without_effect_are_taken():
  network = family.build(
    {'enable_mask': True, 'mask_ratio': 0.3, 'decode_layer': 2}
  )
  assert network == latent_diffit.LatentDiffiT(depth=30, scan=False)


def test_other_constants_and_outputs_are_refused(golden):
  case = verify.read_case(golden(FILES[0]))
  state = case.state | {'pos_embed': np.zeros_like(case.state['pos_embed'])}
  with pytest.raises(ValueError, match='pos_embed is not the table'):
    family.run(dataclasses.replace(case, state=state))
  case.expected['attention'] = np.zeros(1)
  with pytest.raises(families.Unsupported, match='attention'):
    family.run(case)
