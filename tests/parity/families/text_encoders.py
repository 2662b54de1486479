"""Family `ldm.bert`: the transformer trained with LDM and Frido.

CompVis/latent-diffusion: ldm/modules/encoders/modules.py, BERTEmbedder and
TransformerEmbedder.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import text_encoders as names
from pyramid_jax.networks import text_encoders
from tests.parity import families


def build(config: Mapping[str, Any]) -> text_encoders.TransformerEncoder:
  """Returns the encoder of an official constructor's arguments.

  Raises:
    Unsupported: an unknown argument.
  """
  needed = {'n_embed', 'n_layer'}
  # Not of the numbers: where it runs, what makes the ids, training's dropout.
  ignored = {'device', 'use_tokenizer', 'cond_key', 'embedding_dropout'}
  unknown = sorted(
    set(config) - needed - ignored - {'vocab_size', 'max_seq_len'}
  )
  if unknown or needed - set(config):
    raise families.Unsupported(
      f'arguments of BERTEmbedder: unknown {unknown}, missing '
      f'{sorted(needed - set(config))}.'
    )
  return text_encoders.TransformerEncoder(
    vocab_size=config.get('vocab_size', 30522),
    max_seq_len=config.get('max_seq_len', 77),
    dim=config['n_embed'],
    depth=config['n_layer'],
    has_logits=True,
  )


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes emb, logits and emb_short (without the last 3 tokens).

  Raises:
    Unsupported: see `build`, or an output of another name.
  """
  encoder = build(case.config)
  tokens = case.inputs['tokens']
  template = jax.eval_shape(encoder.init, jax.random.key(0), tokens)
  params, report = mapping.to_flax(case.state, template['params'], names.rename)
  report.require_complete()
  apply = jax.jit(encoder.apply, static_argnames='method')
  variables = {'params': params}
  compute = {
    'emb': lambda: apply(variables, tokens),
    'logits': lambda: apply(variables, tokens, method='logits'),
    'emb_short': lambda: apply(variables, tokens[:, :-3]),
  }
  unknown = sorted(set(case.expected) - set(compute))
  if unknown:
    raise families.Unsupported(f'unknown outputs of ldm.bert: {unknown}')
  return {name: np.asarray(compute[name]()) for name in case.expected}
