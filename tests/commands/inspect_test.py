"""What `pyramid_jax.commands.inspect` says of data, and its pages."""

import json

import numpy as np
from PIL import Image

from pyramid_jax import errors
from pyramid_jax.commands import inspect
from pyramid_jax.data import stage_times
from tests.helpers import configs
from tests.helpers import folder_run


def test_a_folder_of_images(tmp_path, capsys):
  folder_run.write_images(tmp_path / 'data', 5)
  for split in ('train', 'val'):
    folder = tmp_path / 'data' / split
    lines = [{'file': f'{i:03d}.png', 'caption': f'{i} dogs'} for i in range(3)]
    text = '\n'.join(json.dumps(line) for line in lines)
    (folder / 'captions.jsonl').write_text(text + '\n')
  (tmp_path / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\ndogs\n')
  config = configs.of_reader(
    'image_folder',
    tmp_path / 'data',
    'text',
    image_size=8,
    vocab_file=str(tmp_path / 'vocab.txt'),
  )
  found = inspect.run(config, tmp_path / 'out', count=4)
  assert [x.split for x in found] == ['train', 'val']
  assert [x.examples for x in found] == [3, 3]
  assert found[0].left_out == {'without_caption': 2}
  said = capsys.readouterr().out
  assert 'train: 3 examples, 0 labels; left out: 2 without_caption' in said
  stages = found[0].stages
  assert list(stages) == ['read', 'decode', 'cut', 'the rest']
  assert all(stages[name] > 0 for name in ('read', 'decode', 'cut'))
  assert found[0].images_per_sec > 0
  report = json.loads((tmp_path / 'out' / 'report.json').read_text())
  assert report[0]['left_out'] == {'without_caption': 2}
  for split in ('train', 'val'):
    page = np.asarray(Image.open(tmp_path / 'out' / f'{split}.png'))
    # Two cells a row of a caption and an image, enlarged to 160 px.
    text, image = page[8:164, 4:164], page[8:164, 168:328]
    assert (text == 255).mean() > 0.9  # dark letters on white
    assert 0 < (text < 128).mean() < 0.1
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_stages_add_up(tmp_path):
  class Reader:
    def batch(self, indices, draws):
      del draws
      return {'x': np.sin(np.zeros((len(indices), 1000)))}

  found = stage_times.seconds(Reader(), np.arange(4), np.arange(4))
  assert found['read'] == found['decode'] == found['cut'] == 0
  assert found['the rest'] > 0


def test_what_is_refused(tmp_path, capsys):
  config = f'--config={configs.FOLDER}/ldm_shapes.py:class,debug'
  flags = [config, f'--output={tmp_path}/out']
  assert inspect.main([*flags, '--splits=train,all']) == errors.USAGE
  assert "'all' is no split, must be of train, val" in capsys.readouterr().err
  absent = [
    '--config.data.name=image_folder',
    f'--config.data.root={tmp_path}/absent',
  ]
  assert inspect.main([*flags, *absent]) == errors.MISSING
  assert f'{tmp_path}/absent' in capsys.readouterr().err
