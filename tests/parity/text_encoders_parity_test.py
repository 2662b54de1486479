"""The text encoders against numbers and keys of the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import text_encoders as names
from pyramid_jax.networks import text_encoders
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import text_encoders as family


FILES = ('ldm_bert_a.npz', 'ldm_bert_b.npz')


@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  with jax.default_matmul_precision('highest'):
    rows = verify.compare(family.run(case), case, 1e-5)
  assert len(rows) == len(case.expected) == 3
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))
  template = jax.eval_shape(
    family.build(case.config).init, jax.random.key(0), case.inputs['tokens']
  )['params']
  params, report = mapping.to_flax(case.state, template, names.rename)
  back = mapping.to_official(params, names.rename)
  assert report.complete
  assert not report.unused
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


SMALL = {'n_embed': 48, 'n_layer': 2, 'vocab_size': 100, 'max_seq_len': 16}
PUBLISHED = {'n_embed': 640, 'n_layer': 32, 'max_seq_len': 77}


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize(
  ('config', 'tokens', 'first', 'mean', 'std', 'abs_sum'),
  [
    (
      SMALL,
      [1, 2, 3, 4, 5, 6, 7, 0],
      [-1.131669, 0.071614, -0.605013, 0.286542],
      0.0142867,
      1.007444,
      315.65090,
    ),
    pytest.param(
      PUBLISHED,
      [101, 1037, 4937, 102] + [0] * 73,
      [0.734967, 0.746750, -1.806757, 1.731643],
      0.0034906,
      1.005754,
      38369.493,
      marks=pytest.mark.slow,
    ),
  ],
)
def test_rows_of_the_reference_table(config, tokens, first, mean, std, abs_sum):
  encoder = family.build(config)
  tokens = jnp.array([tokens])
  params = official_fill.params(encoder.init, names.rename, tokens)
  with jax.default_matmul_precision('highest'):
    got = np.float64(jax.jit(encoder.apply)({'params': params}, tokens))
  # the table has six decimals; 32 blocks add rounding of their own
  np.testing.assert_allclose(got.ravel()[:4], first, atol=1e-5)
  np.testing.assert_allclose(got.mean(), mean, atol=1e-6)
  np.testing.assert_allclose(got.std(), std, atol=1e-6)
  np.testing.assert_allclose(np.abs(got).sum(), abs_sum, rtol=1e-6)


def test_rows_of_the_table_of_sines():
  config = {'n_embed': 32, 'n_layer': 2, 'vocab_size': 50, 'max_seq_len': 7}
  encoder = family.build(config)
  tokens = jnp.array([[1, 2, 3, 4, 5, 6, 0], [49, 7, 7, 0, 0, 0, 0]])
  template = jax.eval_shape(encoder.init, jax.random.key(0), tokens)['params']
  # The official keys are sorted with their prefix, which changes nothing.
  shapes = official_fill.official_shapes(template, names.rename)
  state = official_fill.sine_state(shapes)
  params, _ = mapping.to_flax(state, template, names.rename)
  with jax.default_matmul_precision('highest'):
    got = np.float64(jax.jit(encoder.apply)({'params': params}, tokens))
  np.testing.assert_allclose(got.mean(), -0.0042128, atol=1e-5)
  np.testing.assert_allclose(got.std(), 1.0329433, atol=1e-5)
  first = (-1.1689187, 1.0611793, -0.7468690, 0.6076044)
  np.testing.assert_allclose(got.ravel()[:4], first, atol=2e-5)


@pytest.mark.parametrize(
  ('length', 'parameters'),
  [(77, 186_154_682), (96, 186_166_842), (180, 186_220_602)],
)
def test_published_sizes(length, parameters):
  config = {'n_embed': 640, 'n_layer': 32, 'max_seq_len': length}
  template = jax.eval_shape(
    family.build(config).init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32)
  )['params']
  shapes = official_fill.official_shapes(template, names.rename)
  assert len(shapes) == 422
  assert sum(np.prod(s) for s in shapes.values()) == parameters
  assert shapes['pos_emb.emb.weight'] == (length, 640)
  assert shapes['attn_layers.layers.62.1.to_out.weight'] == (640, 512)
  assert shapes['attn_layers.layers.63.1.net.0.0.weight'] == (2560, 640)
  assert shapes['to_logits.bias'] == (30522,)


def test_unknown_argument_is_refused():
  config = {'n_embed': 32, 'n_layer': 1, 'rotary': True}
  with pytest.raises(families.Unsupported, match='rotary'):
    family.build(config)


def _clip_template(**sizes):
  return jax.eval_shape(
    text_encoders.CLIPTextEncoder(**sizes).init,
    jax.random.key(0),
    jnp.zeros((1, 4), jnp.int32),
  )['params']


def test_clip_published_size_and_keys():
  shapes = official_fill.official_shapes(_clip_template(), names.rename_clip)
  assert len(shapes) == 12 * 16 + 4
  assert sum(np.prod(s) for s in shapes.values()) == 123_060_480
  root = 'text_model'
  assert shapes[f'{root}.embeddings.token_embedding.weight'] == (49408, 768)
  assert shapes[f'{root}.embeddings.position_embedding.weight'] == (77, 768)
  layer = f'{root}.encoder.layers.11'
  assert shapes[f'{layer}.self_attn.q_proj.weight'] == (768, 768)
  assert shapes[f'{layer}.self_attn.out_proj.bias'] == (768,)
  assert shapes[f'{layer}.layer_norm2.weight'] == (768,)
  assert shapes[f'{layer}.mlp.fc1.weight'] == (3072, 768)
  assert shapes[f'{root}.final_layer_norm.bias'] == (768,)


def test_clip_keys_of_openai():
  sizes = {
    'vocab_size': 20,
    'max_length': 6,
    'dim': 8,
    'depth': 2,
    'heads': 2,
    'mlp_dim': 16,
    'projection_dim': 5,
  }
  rng = np.random.default_rng(0)
  state = {
    'positional_embedding': (6, 8),
    'text_projection': (8, 5),
    'logit_scale': (),
    'token_embedding.weight': (20, 8),
    'ln_final.weight': (8,),
    'ln_final.bias': (8,),
    'visual.transformer.resblocks.0.ln_1.weight': (8,),
  }
  for i in range(2):
    block = f'transformer.resblocks.{i}'
    state |= {
      f'{block}.attn.in_proj_weight': (24, 8),
      f'{block}.attn.in_proj_bias': (24,),
      f'{block}.attn.out_proj.weight': (8, 8),
      f'{block}.attn.out_proj.bias': (8,),
      f'{block}.mlp.c_fc.weight': (16, 8),
      f'{block}.mlp.c_fc.bias': (16,),
      f'{block}.mlp.c_proj.weight': (8, 16),
      f'{block}.mlp.c_proj.bias': (8,),
    }
    for norm in ('ln_1', 'ln_2'):
      state |= {f'{block}.{norm}.weight': (8,), f'{block}.{norm}.bias': (8,)}
  state = {k: rng.normal(size=s).astype(np.float32) for k, s in state.items()}

  params, report = mapping.to_flax(
    names.from_openai(state), _clip_template(**sizes), names.rename_clip
  )

  assert report.complete
  assert not report.unused
  key = 'transformer.resblocks.1.attn.in_proj_weight'
  np.testing.assert_array_equal(
    params['layers_1']['k_proj']['kernel'], state[key][8:16].T
  )
  np.testing.assert_array_equal(
    params['text_projection']['kernel'], state['text_projection']
  )
