"""How published tables were computed: counts, references, classes, runs.

`config.evaluate.protocol` names one. A table says which it is of, its source,
and in what this evaluation differs from it.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses

from ml_collections import ConfigDict


CONDITIONS = 'conditions'  # the real images whose conditions the samples have
TRAIN, VAL = 'train', 'val'  # all images of that split
SPLIT, UNIFORM = 'split', 'uniform'  # where classes come from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """What decides a published number, apart from the model and its sampler."""

  count: int  # images of one run
  # What samples are compared with: `CONDITIONS`, `TRAIN` or `VAL`.
  reference: str
  scores: tuple[str, ...]  # those of the table, without variant and number
  source: str  # paper or file; 'from memory' where no text was at hand
  runs: int = 1  # of other noise; the one with the least FID counts
  per_condition: int = 1  # images of each condition
  classes: str = SPLIT  # `SPLIT`, or `UNIFORM`: drawn for each image
  # See `config.sample.to_uint8`; '' is left to the paper of the model.
  to_uint8: str = 'truncate'


_QUALITY = ('fid', 'inception_score', 'precision', 'recall')
_LDM_FIDELITY = (
  'arXiv:2112.10752, appendix E.3, by torch-fidelity (from memory)'
)
_FRIDO = 'davidhalladay/Frido: README.md, scripts/sample_diffusion.py'

PROTOCOLS: Mapping[str, Protocol] = {
  'ldm_uncond': Protocol(
    count=50_000,
    reference=TRAIN,
    scores=_QUALITY,
    source=f'CompVis/latent-diffusion: README.md; {_LDM_FIDELITY}',
  ),
  'ldm_5k': Protocol(
    count=5000,
    reference=TRAIN,
    scores=('fid', 'inception_score'),
    classes=UNIFORM,
    source='arXiv:2112.10752, figures 6 and 7 (from memory)',
  ),
  'adm': Protocol(
    count=50_000,
    reference=TRAIN,
    scores=('fid', 'sfid', *_QUALITY[1:]),
    classes=UNIFORM,
    to_uint8='',
    source='openai/guided-diffusion: evaluations/evaluator.py,'
    ' scripts/image_sample.py',
  ),
  'edm': Protocol(
    count=50_000,
    reference=TRAIN,
    scores=('fid',),
    runs=3,
    classes=UNIFORM,
    to_uint8='half_up',
    source='NVlabs/edm: README.md, generate.py, fid.py',
  ),
  'coco_30k': Protocol(
    count=30_000,
    reference=VAL,
    scores=('fid', 'inception_score', 'clip_score', 'cmmd'),
    to_uint8='',
    source='arXiv:2112.10752, table 2 (from memory);'
    ' sayakpaul/cmmd-pytorch: README.md',
  ),
  'frido_t2i': Protocol(
    count=30_000,
    reference=CONDITIONS,
    scores=('fid', 'inception_score', 'clip_score'),
    source=_FRIDO,
  ),
  'frido_t2i_mini': Protocol(
    count=1000, reference=CONDITIONS, scores=('fid',), source=_FRIDO
  ),
  'frido_layout': Protocol(
    count=2048,
    reference=CONDITIONS,
    scores=('fid', 'scene_fid'),
    source=_FRIDO,
  ),
  'frido_scene_graph': Protocol(
    count=2048,
    reference=CONDITIONS,
    scores=('fid', 'inception_score'),
    source=_FRIDO,
  ),
  'frido_layout_mini': Protocol(
    count=320, reference=CONDITIONS, scores=('fid',), source=_FRIDO
  ),
  'ldm_layout': Protocol(
    count=2048,
    reference=CONDITIONS,
    scores=('fid', 'inception_score'),
    source=f'CompVis/latent-diffusion: README.md; {_LDM_FIDELITY}',
  ),
  'layout_x5': Protocol(
    count=5 * 2048,
    reference=CONDITIONS,
    scores=('fid', 'scene_fid', 'diversity'),
    per_condition=5,
    source='arXiv:1908.07500, five images of a layout (from memory)',
  ),
  'sr_50k': Protocol(
    count=50_000,
    reference=CONDITIONS,
    scores=('fid', 'inception_score', 'psnr', 'ssim'),
    source='arXiv:2112.10752, table 5 (from memory)',
  ),
  'inpaint_30k': Protocol(
    count=30_000,
    reference=CONDITIONS,
    scores=('fid', 'lpips'),
    source='arXiv:2112.10752, table 7, protocol of arXiv:2109.07161'
    ' (from memory)',
  ),
  'first_stage_50k': Protocol(
    count=50_000,
    reference=CONDITIONS,
    scores=('fid', 'psnr', 'ssim', 'lpips'),
    to_uint8='',
    source='CompVis/latent-diffusion: README.md; arXiv:2112.10752, table 8',
  ),
}
NAMES = ('', *PROTOCOLS)


def of(config: ConfigDict) -> Protocol:
  """Returns the protocol of a config.

  Without a name it is that of our own tables: as many images as the config
  says, compared with the real images of their conditions.
  """
  evaluate = config.evaluate
  if evaluate.protocol:
    return PROTOCOLS[evaluate.protocol]
  return Protocol(
    count=evaluate.count,
    reference=CONDITIONS,
    scores=(),
    source='',
    to_uint8='',
  )


def about(config: ConfigDict, count: int) -> str:
  """Returns '; protocol ...' of `count` images of a run, '' without one.

  It names the source, and each value of this evaluation that is another one.
  """
  name = config.evaluate.protocol
  if not name:
    return ''
  protocol = PROTOCOLS[name]
  differs = []
  if count != protocol.count:
    differs.append(f'{count} images instead of {protocol.count}')
  rule = config.sample.to_uint8 if 'sample' in config else ''
  if protocol.to_uint8 and rule and rule != protocol.to_uint8:
    differs.append(f'to_uint8 {rule} instead of {protocol.to_uint8}')
  but = f', but {" and ".join(differs)}' if differs else ''
  return f'; protocol {name} ({protocol.source}){but}'


def lacking(config: ConfigDict, names: Iterable[str]) -> str:
  """Returns '; the table lacks ...' of the scores of the published table.

  `names` are those of the scores that there are.
  """
  starts = tuple(f'{name}_' for name in names)
  lacks = [
    score
    for score in of(config).scores
    if not any(start.startswith(f'{score}_') for start in starts)
  ]
  return f'; the table lacks {", ".join(lacks)}' if lacks else ''
