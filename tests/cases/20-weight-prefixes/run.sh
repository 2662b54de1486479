#!/usr/bin/env bash
# source: karpathy/nanoGPT#325, huggingface/pytorch-image-models#2003, sming256/OpenTAD#44
# expected: module., _orig_mod. before every key are found like first_stage_model. (or the message says so)
source "$(dirname "$0")/../lib.sh"
api "$work" <<'P'
import sys, jax, numpy as np
from pyramid_jax import config, systems
from pyramid_jax.interop import parts, safetensors_file
c = config.load('configs/ldm_autoencoder_shapes.py:kl,debug'); s = systems.create(c)
shapes = jax.eval_shape(lambda k: s.init(k)[0]['generator'], jax.random.key(0))
state = parts.to_official('ldm.autoencoder_kl', jax.tree.map(lambda l: np.zeros(l.shape, l.dtype), shapes))
bad = []
for p in ('first_stage_model.', 'module.', '_orig_mod.', '_orig_mod.module.', 'vae.'):
    report = parts.to_flax('ldm.autoencoder_kl', {p + k: v for k, v in state.items()}, shapes)[1]
    if not report.complete: bad.append(p)
print('not found under', bad); sys.exit(bool(bad))
P
verdict $? 'no key fits'
