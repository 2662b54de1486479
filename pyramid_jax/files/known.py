"""The table of well-known names."""

from collections.abc import Mapping
import dataclasses
import pathlib


def folder() -> pathlib.Path:
  """Returns where files are kept that `huggingface_hub` does not keep."""
  return pathlib.Path('~/.cache/pyramid_jax/files').expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
  """A file that can be fetched."""

  path: str  # within its repository, or behind `site`
  repository: str = ''  # OWNER/NAME on huggingface.co; empty with a site
  site: str = ''  # the address of the folder that has it
  revision: str = ''  # empty for the newest
  size: int | None = None  # bytes, None where not known for certain
  sha256: str = ''  # empty where not known for certain

  @property
  def address(self) -> str:
    """Where a browser finds it."""
    if self.site:
      return f'{self.site}/{self.path}'
    revision = self.revision or 'main'
    return (
      f'https://huggingface.co/{self.repository}/resolve/{revision}/{self.path}'
    )

  @property
  def place(self) -> pathlib.Path:
    """Where it can be put by hand."""
    return folder() / self.repository / self.path


_CLIP_L = {
  'repository': 'openai/clip-vit-large-patch14',
  'revision': '32bd64288804d66eefd0ccbe215aa642df71cc41',
}
# The vocabulary of every CLIP of OpenAI, and its merges.
_CLIP_PIECES = (
  File(
    **_CLIP_L,
    path='vocab.json',
    size=961_143,
    sha256='3f0c4f7d2086b61b38487075278ea9ed04edb53a03cbb045b86c27190fa8fb69',
  ),
  File(
    **_CLIP_L,
    path='merges.txt',
    size=524_619,
    sha256='9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a',
  ),
)
_VAE = 'diffusion_pytorch_model.safetensors'
_DIT = 'https://dl.fbaipublicfiles.com/DiT/models'


def _clip(name: str, sha256: str) -> Mapping[str, tuple[File, ...]]:
  """Returns the files of a CLIP of OpenAI, whose address has its hash."""
  site = f'https://openaipublic.azureedge.net/clip/models/{sha256}'
  file = File(site=site, path=f'{name}.pt', sha256=sha256)
  return {'weights': (file,), 'tokenizer': _CLIP_PIECES}


def _dinov2(letter: str) -> Mapping[str, tuple[File, ...]]:
  name = f'dinov2_vit{letter}14'
  site = f'https://dl.fbaipublicfiles.com/dinov2/{name}'
  return {'weights': (File(site=site, path=f'{name}_pretrain.pth'),)}


_VGG16 = File(
  site='https://download.pytorch.org/models',
  path='vgg16-397923af.pth',
  size=553_433_881,
  sha256='397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0',
)

# name -> what it has -> the files. Sizes and hashes are those that the owners
# of the files or several users of them state; an empty one is not known.
KNOWN: Mapping[str, Mapping[str, tuple[File, ...]]] = {
  # BERT base uncased, of LDM's and Frido's texts.
  'bert': {
    'vocabulary': (
      File(
        repository='google-bert/bert-base-uncased',
        revision='86b5e0934494bd15c9632b12f734a8a67f723594',
        path='vocab.txt',
        size=231_508,
        sha256='07eced375cec144d27c900241f3e3394'
        '78dec958f92fddbc551f295c992038a3',
      ),
    ),
  },
  # CLIP ViT-L/14. The weights have both encoders; the one of texts is read.
  'clip_l': {
    'vocabulary': _CLIP_PIECES[:1],
    'merges': _CLIP_PIECES[1:],
    'tokenizer': _CLIP_PIECES,
    'weights': (
      File(
        **_CLIP_L,
        path='model.safetensors',
        size=1_710_540_580,
        sha256='a2bf730a0c7debf160f7a6b50b3aaf37'
        '03e7e88ac73de7a314903141db026dcb',
      ),
    ),
  },
  # The encoder of T5 v1.1 XXL in float16, and the tokenizer, which all sizes
  # of T5 and T5 v1.1 share.
  't5_xxl': {
    'vocabulary': (
      File(repository='google-t5/t5-small', path='tokenizer.json'),
    ),
    'weights': (
      File(
        repository='comfyanonymous/flux_text_encoders',
        path='t5xxl_fp16.safetensors',
        size=9_787_841_024,
        sha256='6e480b09fae049a72d2a8c5fbccb8d3e'
        '92febeb233bbe9dfe7256958a9167635',
      ),
    ),
  },
  # The autoencoders of Stable Diffusion 1.x; they differ in their decoders.
  'sd_vae_ema': {
    'weights': (
      File(
        repository='stabilityai/sd-vae-ft-ema',
        revision='f04b2c4b98319346dad8c65879f680b1997b204a',
        path=_VAE,
        size=334_643_276,
      ),
    ),
  },
  'sd_vae_mse': {
    'weights': (
      File(
        repository='stabilityai/sd-vae-ft-mse',
        revision='31f26fdeee1355a5c34592e401dd41e45d25a493',
        path=_VAE,
        size=334_643_276,
        sha256='a1d993488569e928462932c8c38a0760'
        'b874d166399b14414135bd9c42df5815',
      ),
    ),
  },
  # The perceptual distance: VGG16 of torchvision, and its weightings.
  'lpips': {
    'weights': (
      _VGG16,
      File(
        site='https://raw.githubusercontent.com/richzhang/PerceptualSimilarity'
        '/master/lpips/weights/v0.1',
        path='vgg.pth',
        size=7_289,
        sha256='a78928a0af1e5f0fcb1f3b9e8f8c3a2a'
        '5a3de244d830ad5c1feddc79b8432868',
      ),
    ),
  },
  # Networks of scores: CLIP, whose hashes openai/CLIP (clip/clip.py) states,
  # DINOv2, and VGG16 with its fully connected layers.
  'clip_b32': _clip(
    'ViT-B-32',
    '40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af',
  ),
  'clip_b16': _clip(
    'ViT-B-16',
    '5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f',
  ),
  'clip_l14': _clip(
    'ViT-L-14',
    'b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836',
  ),
  'clip_l14_336': _clip(
    'ViT-L-14-336px',
    '3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02',
  ),
  'dinov2_s': _dinov2('s'),
  'dinov2_b': _dinov2('b'),
  'dinov2_l': _dinov2('l'),
  'dinov2_g': _dinov2('g'),
  'vgg16': {'weights': (_VGG16,)},
  # The Inception network of FID.
  'inception': {
    'weights': (
      File(
        site='https://github.com/mseitzer/pytorch-fid/releases/download'
        '/fid_weights',
        path='pt_inception-2015-12-05-6726825d.pth',
        size=95_628_359,
        sha256='6726825d0af5f729cebd5821db510b11'
        'b1cfad8faad88a03f1befd49fb9129b2',
      ),
    ),
  },
  'diffit_256': {
    'weights': (
      File(repository='nvidia/DiffiT', path='diffit_256.safetensors'),
    ),
  },
  'diffit_512': {
    'weights': (
      File(repository='nvidia/DiffiT', path='diffit_512.safetensors'),
    ),
  },
  'dit_256': {
    'weights': (
      File(
        site=_DIT,
        path='DiT-XL-2-256x256.pt',
        size=2_700_611_775,
        sha256='9ec1876e4c03471bca126663a30e2d1b'
        '20610b6d2f87850a39a36f25cc685521',
      ),
    ),
  },
  'dit_512': {'weights': (File(site=_DIT, path='DiT-XL-2-512x512.pt'),)},
}
