"""Which runs are measured, by tier, and which of their scores are shown."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import string

from pyramid_jax import errors


TIERS = ('cpu', 'gpu')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A run that is trained, sampled and scored with the values of its config."""

  name: str  # of its folder, and of the row
  config: str  # as `--config` takes it
  # Fields of the config -> values; '{NAME}' in one is the folder of another
  # row, which is run first.
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  is_sampled: bool = True  # whether it makes images of its own

  @property
  def needs(self) -> tuple[str, ...]:
    """The names of the rows whose folders its fields name."""
    parts = (
      name
      for value in self.fields.values()
      for _, name, _, _ in string.Formatter().parse(value)
    )
    return tuple(dict.fromkeys(name for name in parts if name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Rows that are compared."""

  title: str
  tier: str  # one of `TIERS`
  scores: tuple[str, ...]  # the columns, names of scores
  rows: tuple[Row, ...]


_CHECKPOINT = 'first_stage.checkpoint'
_LAYOUT = ('layout_recall', 'category_acc', 'count_acc', 'shape_fd')
_CLASSES = ('class_acc', 'tv_shape', 'tv_color', 'shape_fd')
_TEXTS = ('caption_acc', 'attribute_acc', 'relation_acc', 'stuff_acc')
_STAGES = ('psnr', 'ssim', 'category_acc', 'shape_fd')
_KL = {_CHECKPOINT: '{kl}'}

TABLES = (
  Table(
    title='First stages, `shapes`, 32 px',
    tier='cpu',
    scores=_STAGES,
    rows=(
      Row(name='msvqgan', config='configs/msvqgan_shapes.py', is_sampled=False),
      Row(
        name='msvqgan_long',
        config='configs/msvqgan_shapes.py:long',
        is_sampled=False,
      ),
      Row(
        name='kl', config='configs/ldm_autoencoder_shapes.py', is_sampled=False
      ),
      Row(
        name='vq',
        config='configs/ldm_autoencoder_shapes.py:vq',
        is_sampled=False,
      ),
    ),
  ),
  Table(
    title='Layout to image, `shapes` level 1, 32 px',
    tier='cpu',
    scores=_LAYOUT,
    rows=(
      Row(name='frido_layout', config='configs/frido_shapes.py:layout'),
      Row(
        name='frido_layout_long', config='configs/frido_shapes.py:layout,long'
      ),
      Row(
        name='frido_layout_official',
        config='configs/frido_shapes.py:layout,official',
        fields={_CHECKPOINT: '{msvqgan}'},
      ),
      Row(name='ldm_layout', config='configs/ldm_shapes.py:layout', fields=_KL),
      Row(name='ladm_layout', config='configs/ladm_shapes.py:layout'),
    ),
  ),
  Table(
    title='Text to image, `shapes`, 32 px',
    tier='cpu',
    scores=_TEXTS,
    rows=(
      Row(
        name='frido_text',
        config='configs/frido_shapes.py:text',
        fields={_CHECKPOINT: '{msvqgan_long}'},
      ),
      Row(name='ldm_text', config='configs/ldm_shapes.py:text', fields=_KL),
      Row(name='ladm_text', config='configs/ladm_shapes.py:text'),
    ),
  ),
  Table(
    title='Label sets and scene graphs, `shapes`, 32 px',
    tier='cpu',
    scores=('category_acc', 'relation_acc', 'count_acc', 'shape_fd'),
    rows=(
      Row(
        name='frido_label',
        config='configs/frido_shapes.py:label',
        fields={_CHECKPOINT: '{msvqgan_long}'},
      ),
      Row(
        name='frido_scene_graph',
        config='configs/frido_shapes.py:scene_graph',
        fields={_CHECKPOINT: '{msvqgan_long}'},
      ),
      Row(name='ldm_label', config='configs/ldm_shapes.py:label', fields=_KL),
    ),
  ),
  Table(
    title='Classes, `shapes` level 0, 32 px',
    tier='cpu',
    scores=_CLASSES,
    rows=(
      Row(name='diffit', config='configs/diffit_shapes.py'),
      Row(
        name='latent_diffit',
        config='configs/diffit_latent_shapes.py',
        fields=_KL,
      ),
      Row(name='ldm_class', config='configs/ldm_shapes.py:class', fields=_KL),
      Row(name='ladm_class', config='configs/ladm_shapes.py:class'),
      Row(name='flow', config='configs/flow_shapes.py', fields=_KL),
      Row(name='ddpmpp', config='configs/edm_shapes.py'),
      Row(name='ddpmpp_tmsa', config='configs/edm_shapes.py:tmsa'),
    ),
  ),
  Table(
    title='Restoration and maps, `shapes`',
    tier='cpu',
    scores=('psnr', 'ssim', 'pixel_acc', 'shape_fd'),
    rows=(
      Row(
        name='ldm_superres', config='configs/ldm_shapes.py:superres', fields=_KL
      ),
      Row(
        name='ldm_inpaint', config='configs/ldm_shapes.py:inpaint', fields=_KL
      ),
      Row(name='ldm_map', config='configs/ldm_shapes.py:map', fields=_KL),
      Row(name='ladm_superres', config='configs/ladm_shapes.py:superres2'),
    ),
  ),
  Table(
    title='Edges that a sketch asks for, `shapes`',
    tier='cpu',
    scores=('edge_f1', 'edge_missed'),
    rows=(
      Row(
        name='sketch_ldm',
        config='configs/sketch_shapes.py:ldm,pixels',
        fields={'sketch.base': '{ldm_text}'},
        is_sampled=False,
      ),
    ),
  ),
  Table(
    title='Layout to image, `shapes` level 2, 128 px',
    tier='gpu',
    scores=_LAYOUT,
    rows=(
      Row(name='frido_layout', config='configs/frido_shapes.py:layout,gpu'),
      Row(name='ldm_layout', config='configs/ldm_shapes.py:layout,gpu'),
      Row(name='ladm_layout', config='configs/ladm_shapes.py:layout,gpu'),
    ),
  ),
  Table(
    title='Classes, `shapes`, on a GPU',
    tier='gpu',
    scores=_CLASSES,
    rows=(
      Row(name='diffit', config='configs/diffit_shapes.py:gpu'),
      Row(name='latent_diffit', config='configs/diffit_latent_shapes.py:gpu'),
    ),
  ),
)


def of_tier(tier: str) -> Iterator[Row]:
  """Yields the rows of a tier in the order of the tables."""
  for table in TABLES:
    if table.tier == tier:
      yield from table.rows


def chosen(tier: str, only: str = '') -> list[Row]:
  """Returns rows in the order in which they run: what a row needs comes first.

  Args:
    tier: one of `TIERS`.
    only: names with commas between them; '' for all rows of the tier.

  Raises:
    UserError: there is no such row.
  """
  rows = {row.name: row for row in of_tier(tier)}
  found: dict[str, Row] = {}

  def add(name: str) -> None:
    for other in rows[name].needs:
      add(other)
    found.setdefault(name, rows[name])

  for name in only.split(',') if only else rows:
    if name not in rows:
      raise errors.UserError(
        f'--only={only}: there is no row {name!r} of the tier {tier!r}, must be'
        f' of {", ".join(rows)}.'
      )
    add(name)
  return list(found.values())
