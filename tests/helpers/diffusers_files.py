"""Small folders of Stable Diffusion in the layout of the diffusers library.

Keys and shapes are written down here by the rules of that library, not taken
from the converter. Two kinds: '1' as runwayml/stable-diffusion-v1-5 has it,
'2' as stabilityai/stable-diffusion-2-1 (linear projections, heads by level,
an exact GELU, velocities, another padding).
"""

import json

from pyramid_jax.interop import safetensors_file
from tests.helpers import official_fill


WIDTHS = (32, 64)
CONTEXT = 24
TIME = 4 * WIDTHS[0]
VAE_WIDTHS = (32, 32)
LATENT = 4
TEXT_DEPTH = 2
LENGTH = 8
TOKENS = ('!', 'a</w>', 'c', 'a', 't</w>', 'ca', 'cat</w>')
SPECIAL = ('<|startoftext|>', '<|endoftext|>')
MERGES = ('c a', 'ca t</w>')


def _affine(name, *shape):
  return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def _resnet(name, inputs, outputs, time=None):
  return {
    **_affine(f'{name}.norm1', inputs),
    **_affine(f'{name}.conv1', outputs, inputs, 3, 3),
    **(_affine(f'{name}.time_emb_proj', outputs, time) if time else {}),
    **_affine(f'{name}.norm2', outputs),
    **_affine(f'{name}.conv2', outputs, outputs, 3, 3),
    **(
      _affine(f'{name}.conv_shortcut', outputs, inputs, 1, 1)
      if inputs != outputs
      else {}
    ),
  }


def _transformer(name, width, kind):
  pointwise = (1, 1) if kind == '1' else ()
  block = f'{name}.transformer_blocks.0'
  shapes = _affine(f'{name}.norm', width)
  for layer in ('proj_in', 'proj_out'):
    shapes |= _affine(f'{name}.{layer}', width, width, *pointwise)
  for i in (1, 2, 3):
    shapes |= _affine(f'{block}.norm{i}', width)
  for attention, context in (('attn1', width), ('attn2', CONTEXT)):
    shapes[f'{block}.{attention}.to_q.weight'] = (width, width)
    shapes[f'{block}.{attention}.to_k.weight'] = (width, context)
    shapes[f'{block}.{attention}.to_v.weight'] = (width, context)
    shapes |= _affine(f'{block}.{attention}.to_out.0', width, width)
  shapes |= _affine(f'{block}.ff.net.0.proj', 8 * width, width)
  return shapes | _affine(f'{block}.ff.net.2', width, 4 * width)


def unet_shapes(kind):
  """Two levels of one block, of which the first attends."""
  first, second = WIDTHS
  return {
    **_affine('conv_in', first, LATENT, 3, 3),
    **_affine('time_embedding.linear_1', TIME, first),
    **_affine('time_embedding.linear_2', TIME, TIME),
    **_transformer('down_blocks.0.attentions.0', first, kind),
    **_resnet('down_blocks.0.resnets.0', first, first, TIME),
    **_affine('down_blocks.0.downsamplers.0.conv', first, first, 3, 3),
    **_resnet('down_blocks.1.resnets.0', first, second, TIME),
    **_transformer('mid_block.attentions.0', second, kind),
    **_resnet('mid_block.resnets.0', second, second, TIME),
    **_resnet('mid_block.resnets.1', second, second, TIME),
    **_resnet('up_blocks.0.resnets.0', 2 * second, second, TIME),
    **_resnet('up_blocks.0.resnets.1', second + first, second, TIME),
    **_affine('up_blocks.0.upsamplers.0.conv', second, second, 3, 3),
    **_transformer('up_blocks.1.attentions.0', first, kind),
    **_transformer('up_blocks.1.attentions.1', first, kind),
    **_resnet('up_blocks.1.resnets.0', second + first, first, TIME),
    **_resnet('up_blocks.1.resnets.1', 2 * first, first, TIME),
    **_affine('conv_norm_out', first),
    **_affine('conv_out', LATENT, first, 3, 3),
  }


def _vae_attention(name, width):
  shapes = _affine(f'{name}.group_norm', width)
  for layer in ('to_q', 'to_k', 'to_v', 'to_out.0'):
    shapes |= _affine(f'{name}.{layer}', width, width)
  return shapes


def _vae_middle(side, width):
  return {
    **_vae_attention(f'{side}.mid_block.attentions.0', width),
    **_resnet(f'{side}.mid_block.resnets.0', width, width),
    **_resnet(f'{side}.mid_block.resnets.1', width, width),
    **_affine(f'{side}.conv_norm_out', width),
  }


def vae_shapes():
  """Two levels of one block on the way down, of two on the way up."""
  first, second = VAE_WIDTHS
  up = 'decoder.up_blocks'
  return {
    **_affine('encoder.conv_in', first, 3, 3, 3),
    **_resnet('encoder.down_blocks.0.resnets.0', first, first),
    **_affine('encoder.down_blocks.0.downsamplers.0.conv', first, first, 3, 3),
    **_resnet('encoder.down_blocks.1.resnets.0', first, second),
    **_vae_middle('encoder', second),
    **_affine('encoder.conv_out', 2 * LATENT, second, 3, 3),
    **_affine('quant_conv', 2 * LATENT, 2 * LATENT, 1, 1),
    **_affine('post_quant_conv', LATENT, LATENT, 1, 1),
    **_affine('decoder.conv_in', second, LATENT, 3, 3),
    **_vae_middle('decoder', second),
    **_resnet(f'{up}.0.resnets.0', second, second),
    **_resnet(f'{up}.0.resnets.1', second, second),
    **_affine(f'{up}.0.upsamplers.0.conv', second, second, 3, 3),
    **_resnet(f'{up}.1.resnets.0', second, first),
    **_resnet(f'{up}.1.resnets.1', first, first),
    **_affine('decoder.conv_norm_out', first),
    **_affine('decoder.conv_out', 3, first, 3, 3),
  }


def text_shapes():
  """`TEXT_DEPTH` blocks."""
  base = 'text_model'
  shapes = {
    f'{base}.embeddings.token_embedding.weight': (
      len(TOKENS + SPECIAL),
      CONTEXT,
    ),
    f'{base}.embeddings.position_embedding.weight': (LENGTH, CONTEXT),
    **_affine(f'{base}.final_layer_norm', CONTEXT),
  }
  for i in range(TEXT_DEPTH):
    block = f'{base}.encoder.layers.{i}'
    for layer in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      shapes |= _affine(f'{block}.self_attn.{layer}', CONTEXT, CONTEXT)
    shapes |= _affine(f'{block}.mlp.fc1', 4 * CONTEXT, CONTEXT)
    shapes |= _affine(f'{block}.mlp.fc2', CONTEXT, 4 * CONTEXT)
    for layer in ('layer_norm1', 'layer_norm2'):
      shapes |= _affine(f'{block}.{layer}', CONTEXT)
  return shapes


def weights(kind):
  """Returns {component: state dict} of a folder."""
  shapes = {
    'unet': unet_shapes(kind),
    'vae': vae_shapes(),
    'text_encoder': text_shapes(),
  }
  return {
    name: dict(official_fill.State(found)) for name, found in shapes.items()
  }


def configs(kind):
  """Returns {file: values} as the library writes them."""
  heads = 2 if kind == '1' else [2, 4]
  chain = {
    '_diffusers_version': '0.30.0',
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'beta_start': 0.00085,
    'clip_sample': False,
    'num_train_timesteps': 1000,
    'set_alpha_to_one': False,
    'steps_offset': 1,
    'trained_betas': None,
  }
  schedulers = {
    '1': {'_class_name': 'PNDMScheduler', 'skip_prk_steps': True},
    '2': {
      '_class_name': 'DDIMScheduler',
      'prediction_type': 'v_prediction',
      'timestep_spacing': 'leading',
    },
  }
  return {
    'model_index.json': {
      '_class_name': 'StableDiffusionPipeline',
      '_diffusers_version': '0.30.0',
      'feature_extractor': ['transformers', 'CLIPImageProcessor'],
      'requires_safety_checker': True,
      'safety_checker': [None, None],
      'scheduler': ['diffusers', schedulers[kind]['_class_name']],
      'text_encoder': ['transformers', 'CLIPTextModel'],
      'tokenizer': ['transformers', 'CLIPTokenizer'],
      'unet': ['diffusers', 'UNet2DConditionModel'],
      'vae': ['diffusers', 'AutoencoderKL'],
    },
    'unet/config.json': {
      '_class_name': 'UNet2DConditionModel',
      '_diffusers_version': '0.30.0',
      'act_fn': 'silu',
      'attention_head_dim': heads,
      'block_out_channels': list(WIDTHS),
      'center_input_sample': False,
      'class_embed_type': None,
      'cross_attention_dim': CONTEXT,
      'down_block_types': ['CrossAttnDownBlock2D', 'DownBlock2D'],
      'downsample_padding': 1,
      'dual_cross_attention': False,
      'flip_sin_to_cos': True,
      'freq_shift': 0,
      'in_channels': LATENT,
      'layers_per_block': 1,
      'mid_block_scale_factor': 1,
      'norm_eps': 1e-05,
      'norm_num_groups': 32,
      'out_channels': LATENT,
      'sample_size': 8,
      'up_block_types': ['UpBlock2D', 'CrossAttnUpBlock2D'],
      'upcast_attention': kind == '2',
      'use_linear_projection': kind == '2',
    },
    'vae/config.json': {
      '_class_name': 'AutoencoderKL',
      '_diffusers_version': '0.30.0',
      'act_fn': 'silu',
      'block_out_channels': list(VAE_WIDTHS),
      'down_block_types': ['DownEncoderBlock2D'] * 2,
      'in_channels': 3,
      'latent_channels': LATENT,
      'layers_per_block': 1,
      'norm_num_groups': 32,
      'out_channels': 3,
      'sample_size': 16,
      'scaling_factor': 0.18215,
      'up_block_types': ['UpDecoderBlock2D'] * 2,
    },
    'text_encoder/config.json': {
      'architectures': ['CLIPTextModel'],
      'attention_dropout': 0.0,
      'bos_token_id': len(TOKENS),
      'eos_token_id': len(TOKENS) + 1,
      'hidden_act': 'quick_gelu' if kind == '1' else 'gelu',
      'hidden_size': CONTEXT,
      'initializer_factor': 1.0,
      'intermediate_size': 4 * CONTEXT,
      'layer_norm_eps': 1e-05,
      'max_position_embeddings': LENGTH,
      'model_type': 'clip_text_model',
      'num_attention_heads': 2,
      'num_hidden_layers': TEXT_DEPTH,
      'pad_token_id': 1,
      'projection_dim': CONTEXT,
      'vocab_size': len(TOKENS + SPECIAL),
    },
    'tokenizer/tokenizer_config.json': {
      'add_prefix_space': False,
      'model_max_length': LENGTH,
      'pad_token': SPECIAL[1] if kind == '1' else '!',
      'tokenizer_class': 'CLIPTokenizer',
    },
    'tokenizer/vocab.json': {
      token: i for i, token in enumerate(TOKENS + SPECIAL)
    },
    'scheduler/scheduler_config.json': chain | schedulers[kind],
  }


FILES = {
  'unet': 'unet/diffusion_pytorch_model.safetensors',
  'vae': 'vae/diffusion_pytorch_model.safetensors',
  'text_encoder': 'text_encoder/model.safetensors',
}


def write(folder, kind, changes=None):
  """Writes a folder, with {file: {option: value}} changed; returns it."""
  for name, values in configs(kind).items():
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**values, **(changes or {}).get(name, {})}))
  merges = '\n'.join(('#version: 0.2', *MERGES))
  (folder / 'tokenizer/merges.txt').write_text(merges + '\n')
  for name, state in weights(kind).items():
    safetensors_file.write(folder / FILES[name], state)
  return folder
