r"""The ablations of DiffiT in image space (arXiv:2312.02139, section 5).

Each variant is a row of a table; all else is as in diffit_cifar10.py and in
diffit_ffhq64.py, which are the rows of the full model. FIDs are the published
ones, CIFAR-10 and FFHQ-64; nothing is measured here. The paper gives equations
of the full model alone, and no code of it was released: how the time token acts
in the other rows is our own reading (networks/layers/tmsa.py).

  python -m pyramid_jax.main --config=configs/diffit_ablations.py:t4_encoder \
      --config.data.root=CIFAR10 --workdir=DIR

Variants:
  full (default): 1.95 and 2.22.
  t3_tokens512: table 3, tokens of 512 channels instead of 256: 1.99 and 2.27.
    The channels of all levels are doubled, which is our reading.
  t3_time256: table 3, a time token of 256 instead of 512: 2.13 and 2.41.
  t4_neither: table 4, both paths of several resolutions without TMSA: 3.71.
  t4_encoder: table 4, TMSA in the encoder alone: 2.27.
  t4_decoder: TMSA in the decoder alone, which the table does not have. Its
    first two rows are other networks (a ViT with a decoder of SETR), which do
    not exist here.
  t5_ddpmpp: table 5, TMSA in the attention of DDPM++, trained as in its paper:
    2.76, and 3.01 without (edm_cifar10.py:vp,song).
  t5_ncsnpp: table 5, the same with NCSN++: 3.49, and 3.77 without
    (edm_cifar10.py:ve,song).
  t6_bias: table 6, the time token in the biases of positions alone: 3.97.
  t6_mlp: table 6, the time token in the feed-forwards alone: 3.81.
  t7_separate: table 7, the time token as one more token: 2.28 and 2.59.
  t8_fourier: table 8, Fourier features of the noise level: 2.02 and 2.37.
  window2, window4, window8: the side of the windows. The paper gives
    differences: 4 is 23.2 % (CIFAR-10) and 12.2 % (FFHQ-64) better than 2, and
    8 is 1.5 % and 3.6 % better than 4. The full models have 4 and 8.
  cifar10 (default), ffhq64: the images; t5 is of CIFAR-10 alone.
  debug: the smallest sizes.
"""

from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


# Row -> the fields of the network that differ from the full model.
ROWS: dict[str, dict[str, Any]] = {
  'full': {},
  't3_tokens512': {},  # The channels depend on the data.
  't3_time256': {'time_dim': 256},
  't4_neither': {'time_token': 'add'},
  't4_encoder': {'decoder_time_token': 'add'},
  't4_decoder': {'time_token': 'add', 'decoder_time_token': 'tmsa'},
  't6_bias': {'time_token': 'bias'},
  't6_mlp': {'time_token': 'mlp'},
  't7_separate': {'time_token': 'separate'},
  't8_fourier': {'embedding': 'fourier', 'embedding_dim': 256},
  'window2': {'window': 2},
  'window4': {'window': 4},
  'window8': {'window': 8},
}
UNETS = {'t5_ddpmpp': 'vp', 't5_ncsnpp': 've'}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    row=(*ROWS, *UNETS),
    data=('cifar10', 'ffhq64'),
    debug=False,
  )
  row, data = variant['row'], variant['data']
  debug = ',debug' if variant['debug'] else ''
  if row in UNETS:
    if data != 'cifar10':
      raise ValueError(f'{row} is a row of cifar10, not of {data}')
    unet = config_lib.sibling(__file__, 'edm_cifar10')
    config = unet.get_config(f'{UNETS[row]},song,tmsa{debug}')
  else:
    full = config_lib.sibling(__file__, f'diffit_{data}')
    config = full.get_config(debug.removeprefix(','))
    config.network.update(ROWS[row])
    if row == 't3_tokens512':
      mult = tuple(2 * factor for factor in config.network.channel_mult)
      config.network.channel_mult = mult
  config.name = f'diffit_{data}_{row}'
  return config
