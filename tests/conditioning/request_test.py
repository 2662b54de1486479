import dataclasses
import json
import re

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import tokenizers


NAMES = ('', 'red circle', 'blue square', 'green cross')
TOKENIZER = tokenizers.words(
  ('red', 'circle', 'blue', 'square', 'left', 'of', ',', 'a', 'b'), 24
)


def config(**condition):
  c = config_lib.base('ldm')
  c.data.max_objects = 3
  c.condition.update(max_objects=3, no_tokens=1024, **condition)
  return c


def test_layout_tokens_are_those_of_the_boxes():
  text = json.dumps([{'label': 'blue square', 'box': [0.5, 0.25, 1, 1]}])
  layouts = request.parse_layout(text, NAMES)
  rows = request.from_layouts(layouts, config(), NAMES)
  # Category 2 - 1; (0.5, 0.25) is column round(15.5) = 16, row 8 of 32.
  assert rows['condition_ids'][0].tolist() == [1, 272, 1023] + [1023] * 6
  assert rows['n_boxes'].tolist() == [1]
  cropped = request.from_layouts(layouts, config(encode_crop=True), NAMES)
  assert cropped['condition_ids'][0, -2:].tolist() == [0, 1023]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'not JSON'),
    ('[]', 'list of'),
    ('[{"label": "red circle"}]', 'got {"label": "red circle"}'),
    ('[{"label": "cat", "box": [0, 0, 1, 1]}]', "'cat' is not known"),
    ('[{"label": "red circle", "box": [0.5, 0, 0.2, 1]}]', r'\[0.5, 0, 0.2'),
  ],
)
def test_bad_layouts_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    request.parse_layout(text, NAMES)


def test_too_many_objects_are_refused():
  layouts = [[(1, [0, 0, 1, 1])] * 4]
  with pytest.raises(ValueError, match='4 objects.*1..3'):
    request.from_layouts(layouts, config(), NAMES)


def test_labels_become_a_multiset():
  rows = request.from_labels(['red circle, red circle'], config(), NAMES)
  assert rows['condition_ids'].tolist() == [[0, 0, 1023]]
  with pytest.raises(ValueError, match='dog'):
    request.from_labels(['dog'], config(), NAMES)


def test_graph_letters_tell_objects_apart():
  rows = request.from_graphs(
    ['red circle A, left of, red circle B; red circle B, left of, blue square'],
    config(),
    TOKENIZER,
    NAMES,
  )
  assert rows['labels'].tolist() == [[1, 1, 2]]
  assert rows['triples'].tolist() == [[[0, 1, 1], [1, 1, 2]]]
  assert rows['caption'][0] == (
    b'red circle A left of red circle B , red circle B left of blue square'
  )
  with pytest.raises(ValueError, match='behind'):
    request.from_graphs(
      ['red circle, behind, blue square'], config(), TOKENIZER, NAMES
    )


def test_full_stops_are_dropped_where_the_model_knows_none():
  rows = request.from_text(['red. circle'], TOKENIZER)
  assert rows['condition_ids'][0, :5].tolist() == [2, 4, 1, 5, 3]
  without = dataclasses.replace(TOKENIZER, drop_full_stops=True)
  rows = request.from_text(['r.ed. circle'], without)
  assert rows['condition_ids'][0, :4].tolist() == [2, 4, 5, 3]
  assert rows['caption'].tolist() == [b'r.ed. circle']


def test_texts_longer_than_the_context_are_cut_with_one_warning(caplog):
  fits = ' '.join(['red'] * 22)
  rows = request.from_text([fits], TOKENIZER)
  assert rows['condition_ids'].tolist() == [[2, *[4] * 22, 3]]
  assert not caplog.records
  with caplog.at_level('WARNING', 'absl'):
    got = request.from_text(
      ['red', f'{fits} blue  circle', f'{fits} red'], TOKENIZER
    )
  (warning,) = caplog.records
  text = warning.getMessage()
  assert re.search(r"'red red .* blue  circle' has 26 tokens", text)
  assert 'takes 24: ' in text
  assert text.endswith("'blue  circle' is cut off (1 more texts are cut, too)")
  assert got['condition_ids'][1].tolist() == rows['condition_ids'][0].tolist()


def test_classes_by_name_and_by_number():
  rows = request.from_classes('blue square', config(), NAMES)
  assert rows['class'].tolist() == [2]
  assert rows['class'].dtype == np.int32
  rows = request.from_classes('3, red circle', config(), NAMES)
  assert rows['class'].tolist() == [3, 1]
  commas = ('', 'tench, Tinca tinca', 'hen')
  rows = request.from_classes('tench, Tinca tinca', config(), commas)
  assert rows['class'].tolist() == [1]
  assert request.from_classes('999', config(), ())['class'].tolist() == [999]


@pytest.mark.parametrize(
  ('text', 'names', 'message'),
  [
    ('cat', NAMES, "'cat' is not known, labels are red circle"),
    ('4', NAMES, 'class 4 is not known, numbers are 1..3'),
    ('0', NAMES, 'class 0 is not known, numbers are 1..3'),
    ('1001', (), r'numbers are 1\.\.1000'),
    ('-1', NAMES, "'-1' is not known"),
  ],
)
def test_unknown_classes_are_named(text, names, message):
  with pytest.raises(ValueError, match=message):
    request.from_classes(text, config(), names)
