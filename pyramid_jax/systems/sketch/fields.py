"""Fields of the edge predictor of sketch guidance."""

from pyramid_jax.conditioning import edges
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import pidinet


TARGET_SPACES = ('latent', 'pixels')
AUTO = 'auto'
EDGES = (
  'true',
  AUTO,
  *(name for name in edges.DETECTORS if name != 'canny'),
  *pidinet.SIZES,
  'map',
)

FIELDS = {
  'sketch.base': Field(
    '',
    'The workdir of the frozen system whose activations are read.',
    path=True,
  ),
  'sketch.features': Field(
    ('in2', 'in4', 'in8', 'mid0', 'mid1', 'mid2', 'out2', 'out4', 'out8'),
    'The activations that are read, by the names of the network.',
  ),
  'sketch.hidden': Field(
    (512, 256, 128, 64),
    'The hidden widths of the predictor.',
    low=1,
    high=ranges.WIDTH,
  ),
  'sketch.octaves': Field(
    10,
    'The number of octaves that encode the noise level.',
    low=1,
    high=ranges.LEVELS,
  ),
  'sketch.noise_input': Field(
    'scalar',
    'How the predictor takes the noise level.',
    choices=edge_predictor.NOISE_INPUTS,
  ),
  'sketch.feature_norm': Field(
    'layer',
    'How each activation is normalised.',
    choices=edge_predictor.FEATURE_NORMS,
  ),
  'sketch.head': Field(
    'token',
    'What is predicted of a base with tokens: one value a token, or one a'
    ' pixel.',
    choices=edge_predictor.HEADS,
  ),
  'sketch.shared': Field(
    True, 'Whether one predictor serves all stages of the base.'
  ),
  'sketch.edges': Field(
    'true',
    'The edges that are learned: those of the data (true), those of a'
    ' detector, or the semantic map with its classes as brightness (map); auto'
    ' is pidinet where sketch.edge_weights names its file, else sobel.',
    choices=EDGES,
  ),
  'sketch.edge_weights': Field(
    '', 'The weight file of a detector that is a network.', path=True
  ),
  'sketch.target_space': Field(
    'latent',
    'Whether the predictor returns the latent of the edge map or its pixels.',
    choices=TARGET_SPACES,
  ),
  **sample_fields.COMMON,
  **sample_fields.SKETCH,
}


CHECKS = (
  *sample_fields.COMMON_CHECKS,
  sample_fields.not_empty('sketch.features'),
  sample_fields.not_empty('sketch.hidden'),
)
# A run of the system samples its base, so its section `sample` has the fields
# of every system that can be the base.
SAMPLES_A_BASE = True
