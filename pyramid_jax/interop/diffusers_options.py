"""The configs of Stable Diffusion's networks, as fields of our own config.

huggingface/diffusers: models/unets/unet_2d_condition.py, models/autoencoders/
autoencoder_kl.py; huggingface/transformers: CLIPTextConfig. An option that
changes numbers and is not served here is refused by its name.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import re
from typing import Any
from typing import NoReturn

from pyramid_jax import errors
from pyramid_jax.networks.layers import prenorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The values of a component's config.

  Attributes:
    file: where they come from, for messages.
    values: name -> value; what is absent has the default of the library.
  """

  file: str
  values: Mapping[str, Any]

  def get(self, name: str, default: Any = None) -> Any:
    """Returns a value, the default where it is absent or null."""
    value = self.values.get(name)
    return default if value is None else value

  def integer(self, name: str, default: int | None = None) -> int:
    """Returns a number above 0; a list of equal ones counts as one."""
    value = _one(self.get(name, default))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      self.refuse(name, value, 'a whole number above 0')
    return value

  def integers(self, name: str, default: Any = None) -> list[int]:
    """Returns a list of numbers above 0."""
    value = self.get(name, default)
    found = list(value) if isinstance(value, list | tuple) else []
    if not found or any(type(n) is not int or n < 1 for n in found):
      self.refuse(name, value, 'a list of whole numbers above 0')
    return found

  def number(self, name: str, default: float) -> float:
    """Returns a real number above 0."""
    value = self.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
      self.refuse(name, value, 'a number')
    if not 0 < value < float('inf'):
      self.refuse(name, value, 'a number above 0')
    return float(value)

  def text(self, name: str, default: str) -> str:
    """Returns a text."""
    value = self.get(name, default)
    if not isinstance(value, str):
      self.refuse(name, value, 'a text')
    return value

  def choice(self, name: str, default: Any, allowed: Collection[Any]) -> Any:
    """Returns a value that is one of those allowed."""
    value = self.get(name, default)
    if not any(value == a for a in allowed):
      self.refuse(name, value, f'one of {", ".join(map(repr, allowed))}')
    return value

  def check(
    self, fixed: Mapping[str, Collection[Any]], known: Collection[str]
  ) -> None:
    """Refuses options that are not served.

    Args:
      fixed: names of options, and the values that are served.
      known: names of options that are read elsewhere, or do not matter. One
        that is in neither may be there as long as it is off.
    """
    for name, value in self.values.items():
      if name.startswith('_') or name in known or value is None:
        continue
      allowed = fixed.get(name, (False,))
      if not any(_one(value) == a for a in allowed):
        self.refuse(name, value, ' or '.join(map(repr, allowed)))

  def refuse(self, name: str, value: Any, needed: str) -> NoReturn:
    """Raises a UserError that names an option, its value and what it may be."""
    raise errors.UserError(
      f'{self.file}: {name} is {value!r}, which is not served here; needed is'
      f' {needed}.',
      errors.DATA,
    )


def _one(value: Any) -> Any:
  """Returns the only value of a list that repeats it, else the value itself."""
  is_list = isinstance(value, list | tuple) and bool(value)
  return value[0] if is_list and all(v == value[0] for v in value) else value


_UNET_FIXED = {
  'act_fn': ('silu', 'swish'),
  'attention_type': ('default',),
  'center_input_sample': (False,),
  'conv_in_kernel': (3,),
  'conv_out_kernel': (3,),
  'downsample_padding': (1,),
  'flip_sin_to_cos': (True,),
  'freq_shift': (0,),
  'mid_block_scale_factor': (1,),
  'mid_block_type': ('UNetMidBlock2DCrossAttn',),
  'norm_eps': (1e-5,),
  'norm_num_groups': (32,),
  'resnet_out_scale_factor': (1,),
  'resnet_time_scale_shift': ('default',),
  'time_embedding_type': ('positional',),
}
# Read below. Attention is computed in float32 anyway, and its projections are
# the same as linear layers and as convolutions.
_UNET_KNOWN = (
  'addition_embed_type_num_heads',
  'attention_head_dim',
  'block_out_channels',
  'cross_attention_dim',
  'down_block_types',
  'dropout',
  'in_channels',
  'layers_per_block',
  'out_channels',
  'sample_size',
  'transformer_layers_per_block',
  'up_block_types',
  'upcast_attention',
  'use_linear_projection',
)
_DOWN = ('DownBlock2D', 'CrossAttnDownBlock2D')
_UP = ('UpBlock2D', 'CrossAttnUpBlock2D')


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet:
  """A `UNet2DConditionModel`.

  Attributes:
    network: the fields of `config.network`.
    channels: the channels that it reads and predicts.
    context_dim: the width of the text's tokens.
    side: the side of the latents that it was trained for.
  """

  network: Mapping[str, Any]
  channels: int
  context_dim: int
  side: int


def unet(options: Options) -> UNet:
  """Reads the config of a denoiser.

  Raises:
    UserError: a network that is not that of Stable Diffusion 1 or 2.
  """
  options.check(_UNET_FIXED, _UNET_KNOWN)
  widths = options.integers('block_out_channels', (320, 640, 1280, 1280))
  attends = _attending(options, len(widths))
  mult = _multiples(options, widths)
  channels = options.integer('in_channels', 4)
  if options.integer('out_channels', 4) != channels:
    options.refuse(
      'in_channels',
      channels,
      f'out_channels = {options.get("out_channels", 4)} (not a network for'
      ' inpainting, depth or editing)',
    )
  network = {
    'model_channels': widths[0],
    'channel_mult': mult,
    'num_res_blocks': options.integer('layers_per_block', 2),
    'attention_resolutions': tuple(
      2**level for level, is_on in enumerate(attends) if is_on
    ),
    'use_spatial_transformer': True,
    'transformer_depth': options.integer('transformer_layers_per_block', 1),
    'legacy': False,
    **_heads(options, widths, attends),
  }
  return UNet(
    network=network,
    channels=channels,
    context_dim=options.integer('cross_attention_dim', 1280),
    side=_side(options),
  )


def _attending(options: Options, levels: int) -> list[bool]:
  """Returns which levels attend, finest first."""
  down = options.get('down_block_types', (*3 * _DOWN[1:], _DOWN[0]))
  up = options.get('up_block_types', (_UP[0], *3 * _UP[1:]))
  attends = [name == _DOWN[1] for name in down]
  for name, found, allowed in (
    ('down_block_types', down, _DOWN),
    ('up_block_types', up, _UP),
  ):
    if len(found) != levels or not set(found) <= set(allowed):
      options.refuse(name, found, f'{levels} of {" and ".join(allowed)}')
  if [name == _UP[1] for name in reversed(up)] != attends:
    options.refuse('up_block_types', up, 'down_block_types in reverse')
  return attends


def _multiples(options: Options, widths: list[int]) -> tuple[int, ...]:
  """Returns widths over the first one."""
  if any(width % widths[0] for width in widths):
    options.refuse('block_out_channels', widths, 'multiples of the first')
  return tuple(width // widths[0] for width in widths)


def _heads(
  options: Options, widths: list[int], attends: list[bool]
) -> dict[str, int]:
  """Returns the field that says how attentions are divided into heads.

  `attention_head_dim` is the number of heads, of every level or of each.
  """
  name = 'attention_head_dim'
  value = options.get(name, 8)
  counts = (
    options.integers(name)
    if isinstance(value, list | tuple)
    else [options.integer(name, 8)] * len(widths)
  )
  if len(counts) != len(widths):
    options.refuse(name, value, f'{len(widths)} numbers')
  # The middle is as wide as the last level and always attends.
  levels = [i for i, is_on in enumerate(attends) if is_on] + [len(widths) - 1]
  if any(widths[i] % counts[i] for i in levels):
    options.refuse(name, value, f'divisors of block_out_channels = {widths}')
  if len({counts[i] for i in levels}) == 1:
    return {'num_heads': counts[levels[0]]}
  if len({widths[i] // counts[i] for i in levels}) > 1:
    options.refuse(name, value, 'as many heads, or as wide ones, at all levels')
  return {'num_head_channels': widths[levels[0]] // counts[levels[0]]}


def _side(options: Options) -> int:
  """Returns the side of the latents."""
  side = options.integer('sample_size', 64)
  version = re.match(
    r'(\d{1,9})\.(\d{1,9})', options.text('_diffusers_version', '')
  )
  is_old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
  # Versions before 0.9 wrote 32 for networks of 512 px.
  return max(side, 64) if is_old else side


_VAE_FIXED = {
  'act_fn': ('silu', 'swish'),
  'down_block_types': ('DownEncoderBlock2D',),
  'in_channels': (3,),
  'mid_block_add_attention': (True,),
  'norm_num_groups': (32,),
  'out_channels': (3,),
  'up_block_types': ('UpDecoderBlock2D',),
  'use_post_quant_conv': (True,),
  'use_quant_conv': (True,),
}
_VAE_KNOWN = (
  'block_out_channels',
  'force_upcast',  # Decoding is in float32 anyway.
  'latent_channels',
  'layers_per_block',
  'sample_size',
  'scaling_factor',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
  """An `AutoencoderKL`.

  Attributes:
    ddconfig: the fields of `config.network.ddconfig` of a first stage, but for
      the resolution.
    channels: the channels of a latent.
    factor: pixels along a side of a place of the latent.
    scale: the factor that latents are multiplied by.
  """

  ddconfig: Mapping[str, Any]
  channels: int
  factor: int
  scale: float


def autoencoder(options: Options) -> Autoencoder:
  """Reads the config of a first stage.

  Raises:
    UserError: a network that is not that of Stable Diffusion 1 or 2.
  """
  options.check(_VAE_FIXED, _VAE_KNOWN)
  widths = options.integers('block_out_channels', (64,))
  channels = options.integer('latent_channels', 4)
  return Autoencoder(
    ddconfig={
      'ch': widths[0],
      'ch_mult': _multiples(options, widths),
      'num_res_blocks': options.integer('layers_per_block', 1),
      'attn_resolutions': (),
      'attn_type': 'vanilla',
      'z_channels': channels,
    },
    channels=channels,
    factor=2 ** (len(widths) - 1),
    scale=options.number('scaling_factor', 0.18215),
  )


def text_encoder(options: Options) -> dict[str, Any]:
  """Returns the fields of `config.condition` of a `CLIPTextModel`.

  Raises:
    UserError: another network, or options that are not served.
  """
  options.choice('model_type', 'clip_text_model', ('clip_text_model',))
  options.choice('layer_norm_eps', 1e-5, (1e-5,))
  options.choice('use_attention_mask', False, (False,))
  allowed = tuple(prenorm.ACTIVATIONS)
  return {
    'vocab_size': options.integer('vocab_size', 49408),
    'dim': options.integer('hidden_size', 512),
    'mlp_dim': options.integer('intermediate_size', 2048),
    'depth': options.integer('num_hidden_layers', 12),
    'heads': options.integer('num_attention_heads', 8),
    'max_length': options.integer('max_position_embeddings', 77),
    'hidden_act': options.choice('hidden_act', 'quick_gelu', allowed),
  }
