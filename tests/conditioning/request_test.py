import dataclasses
import re

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import limits
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
  one = [{'label': 'blue square', 'box': [0.5, 0.25, 1, 1]}]
  layouts = request.parse_layouts(one, NAMES)
  for other in ([one], [('blue square', (0.5, 0.25, 1, 1))], (one,)):
    assert request.parse_layouts(other, NAMES) == layouts
  rows = request.from_layouts(layouts, config(), NAMES)
  # Category 2 - 1; (0.5, 0.25) is column round(15.5) = 16, row 8 of 32.
  assert rows['condition_ids'][0].tolist() == [1, 272, 1023] + [1023] * 6
  assert rows['n_boxes'].tolist() == [1]
  cropped = request.from_layouts(layouts, config(encode_crop=True), NAMES)
  assert cropped['condition_ids'][0, -2:].tolist() == [0, 1023]


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ([], r'a layout is a list of .* got \[\]'),
    ({'objects': []}, 'a layout is a list of .* got {"objects": '),
    ([1, 2], r'a layout is a list of .* got \[1, 2\]'),
    ('red circle', 'a layout is a list of'),
    ([[[1, 2]]], r'an object is .* got \[1, 2\]'),
    ([['red circle']], 'an object is .* got "red circle"'),
    ([{'label': 'red circle'}], 'got {"label": "red circle"}'),
    ([{'label': 'red circle', 'box': '0123'}], 'an object is'),
    ([{'label': 'red circle', 'box': [0, 0, 1]}], 'an object is'),
    ([{'label': 'red circle', 'box': [0, 0, 1, True]}], 'an object is'),
    ([{'label': 'cat', 'box': [0, 0, 1, 1]}], "'cat' is not known"),
    ([{'label': ['cat'], 'box': [0, 0, 1, 1]}], r"\['cat'\] is not known"),
    ([('red circle', (0.5, 0, 0.2, 1))], r'\[0.5, 0, 0.2'),
    ([('red circle', (0, 0, float('nan'), 1))], r'box \[0, 0, nan, 1\] must'),
    ([('red circle', (0, 0, float('inf'), 1))], r'box \[0, 0, inf, 1\] must'),
  ],
)
def test_bad_layouts_are_named(value, message):
  with pytest.raises(ValueError, match=message):
    request.parse_layouts(value, NAMES)


def test_without_label_names_nothing_is_guessed():
  with pytest.raises(ValueError, match='the run has no label names'):
    request.parse_layouts([('cat', (0, 0, 1, 1))], ())


def test_too_many_objects_are_refused():
  layouts = [[(1, [0, 0, 1, 1])] * 4]
  with pytest.raises(ValueError, match='4 objects.*1..3'):
    request.from_layouts(layouts, config(), NAMES)


def test_labels_become_a_multiset():
  rows = request.from_labels([['red circle'] * 2], config(), NAMES)
  assert rows['condition_ids'].tolist() == [[0, 0, 1023]]
  with pytest.raises(ValueError, match='dog'):
    request.from_labels([['dog']], config(), NAMES)


def test_unicode_forms_of_labels_do_not_matter():
  names = ('', 'caf\u00e9', 'cafe\u0301 noir')
  assert request.label_id('cafe\u0301', names) == 1
  assert request.label_id('Caf\u00e9 noir', names) == 2


def test_capitals_matter_only_between_labels():
  names = ('', 'Person', 'Traffic light', 'Cardigan', 'cardigan')
  assert request.label_id('person', names) == 1
  assert request.label_id('TRAFFIC light', names) == 2
  assert request.label_id('cardigan', names) == 4
  with pytest.raises(ValueError, match="'CARDIGAN' is not known"):
    request.label_id('CARDIGAN', names)
  with pytest.raises(ValueError, match="label '' is not known"):
    request.label_id('', names)
  rows = request.from_graphs(
    ['person A, left of, Person B'], config(), TOKENIZER, names
  )
  assert rows['labels'].tolist() == [[1, 1, 0]]


def test_graph_letters_tell_objects_apart():
  rows = request.from_graphs(
    ['red circle A, left of, red circle B; red circle B, left of, blue square'],
    config(),
    TOKENIZER,
    NAMES,
  )
  assert rows['labels'].tolist() == [[1, 1, 2]]
  assert rows['triples'][0, :2].tolist() == [[0, 1, 1], [1, 1, 2]]
  assert rows['triples'].shape == (1, 6, 3)  # as the readers pad them
  assert (rows['triples'][0, 2:] == -1).all()
  assert rows['caption'][0] == (
    b'red circle A left of red circle B , red circle B left of blue square'
  )
  with pytest.raises(ValueError, match='behind'):
    request.from_graphs(
      ['red circle, behind, blue square'], config(), TOKENIZER, NAMES
    )


def test_predicates_may_be_any_where_the_config_says_so():
  opened = config()
  with opened.unlocked():
    opened.condition.any_predicate = True
  text = 'red circle, behind, blue square; red circle, left of, blue square'
  texts = [text, 'blue square, behind, red circle']
  rows = request.from_graphs(texts, opened, TOKENIZER, NAMES)
  assert rows['triples'][:, 0].tolist() == [[0, 7, 1], [0, 7, 1]]
  assert rows['triples'][0, 1].tolist() == [0, 1, 1]
  assert rows['caption'].tolist() == [
    b'red circle behind blue square , red circle left of blue square',
    b'blue square behind red circle',
  ]
  with pytest.raises(ValueError, match='must be "object, predicate, object"$'):
    request.from_graphs(['red circle, , x'], opened, TOKENIZER, NAMES)


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
  several = request.from_classes([3, 'red circle'], config(), NAMES)
  assert several['class'].tolist() == [3, 1]
  assert request.from_classes(np.int64(2), config(), ())['class'] == [2]


@pytest.mark.parametrize(
  ('text', 'names', 'message'),
  [
    ('cat', NAMES, "'cat' is not known, labels are red circle"),
    ('4', NAMES, 'class 4 is not known, numbers are 1..3'),
    ('0', NAMES, 'class 0 is not known, numbers are 1..3'),
    ('1001', (), r'numbers are 1\.\.1000'),
    ('-1', NAMES, "'-1' is not known"),
    (0, NAMES, 'class 0 is not known, numbers are 1..3'),
    (1.5, NAMES, 'class 1.5 must be a name or a number'),
    (True, NAMES, 'class True must be'),
  ],
)
def test_unknown_classes_are_named(text, names, message):
  with pytest.raises(ValueError, match=message):
    request.from_classes(text, config(), names)


def test_unknown_words_are_named_in_one_warning(caplog):
  with caplog.at_level('WARNING', 'absl'):
    request.from_text(['red circle, a', ''], TOKENIZER)
    assert not caplog.records
    request.from_text(['a Mauve circle', 'red mauve, shiny'], TOKENIZER)
  (warning,) = caplog.records
  assert "does not know 'Mauve', 'mauve', 'shiny': " in warning.getMessage()


@pytest.mark.parametrize(
  'box',
  [
    [0.5, 0.5, 0.5 + 1e-30, 1],
    [0.5, 0.5, 1, 0.50001],
    [0, 0, 10**400, 1],
    [-(10**400), 0, 1, 1],
    [0, 0, 1e308, 1],
    [0.6, 0, 0.4, 1],
    [0, 0, -0.0, 1],
  ],
)
def test_boxes_of_nothing(box):
  with pytest.raises(ValueError, match='with sides of at least 0.0001'):
    request.parse_layouts([('red circle', box)], NAMES)


def test_very_many_objects(monkeypatch):
  monkeypatch.setattr(limits, 'LAYOUT_OBJECTS', 3)
  one = [('red circle', (0, 0, 1, 1))]
  assert len(request.parse_layouts([one] * 3, NAMES)) == 3
  with pytest.raises(ValueError, match='4 objects, at most 3 are read'):
    request.parse_layouts([one] * 4, NAMES)


def test_names_of_labels_are_folded_once(monkeypatch):
  request._ids_by_name.cache_clear()
  folds = []
  fold = request._fold
  monkeypatch.setattr(
    request, '_fold', lambda text: folds.append(text) or fold(text)
  )
  request.parse_layouts([('RED circle', (0, 0, 1, 1))] * 100, NAMES)
  assert len(folds) == 100 + len(NAMES) - 1


@pytest.mark.parametrize('letters', ['a', 'a ', '\U0001f600', '\u2028', '\x00'])
def test_very_long_texts(letters):
  most = limits.TEXT_CHARACTERS
  text = (letters * most)[:most]
  assert request.from_text([text], TOKENIZER)['condition_ids'].shape == (1, 24)
  with pytest.raises(ValueError, match=f'has {most + 1} characters, at most'):
    request.from_text(['a', text + 'a'], TOKENIZER)
  with pytest.raises(ValueError, match=f'has {most + 1} characters, at most'):
    request.from_graphs([text + 'a'], config(), TOKENIZER, NAMES)


def test_texts_that_are_not_unicode():
  with pytest.raises(ValueError, match=r"the text 'a\\udcff' is not Unicode"):
    request.from_text(['a\udcff'], TOKENIZER)


def test_very_many_unknown_words(caplog):
  with caplog.at_level('WARNING', 'absl'):
    request.from_text([' '.join(f'x{i}' for i in range(99))], TOKENIZER)
  warning = caplog.records[-1].getMessage()
  assert "'x8', 'x9' and 89 more: its vocabulary" in warning


@pytest.mark.parametrize('text', ['9' * 5000, '1' * 400])
def test_classes_of_very_many_digits(text):
  with pytest.raises(ValueError, match='is not known'):
    request.from_classes(text, config(), NAMES)
