import json
import pathlib

from absl import logging
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import limits
from pyramid_jax.conditioning import tokenizers


PIECES = (
  '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nman\nrid\n##ing\n##e\nride\n.\n!\n'
  'naive\n东\n京\n$\nσας\nσασ\n'
)


@pytest.fixture
def bert(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_text(PIECES, encoding='utf-8')
  return tokenizers.load_word_piece(str(path), 12)


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('', []),
    ('A man riding', [4, 5, 6, 7]),  # the longest first piece is 'rid'
    ('ride', [9]),
    ('rider a', [1, 4]),  # no piece for the 'r': the whole word is unknown
    ('Na\u00efve!\t man\u00a0a', [12, 11, 5, 4]),
    ('man\x00 m\u200ban', [5, 5]),  # control and format characters vanish
    ('东京man', [13, 14, 5]),
    ('$a.', [15, 4, 10]),
    ('ΣΑΣ', [17]),  # letter by letter, no final sigma
    ('a' * 101, [1]),
    ('[SEP]', [1, 1, 1]),  # read as text
  ],
)
def test_word_pieces(bert, text, want):
  tokens = [2, *want, 3]
  assert bert.tokens(text) == tokens
  ids = bert.encode(text)
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, tokens + [0] * (12 - len(tokens)))


def test_long_texts_are_cut_before_the_end_token(bert):
  np.testing.assert_array_equal(bert.encode('a ' * 50), [2] + [4] * 10 + [3])


def test_unassigned_characters_stay_and_all_of_ascii_punctuation_is_apart(
  tmp_path,
):
  words = ['\u0378a', 'it', "'", 's', '`', 'x', '^', 'y', '_', 'z']
  path = tmp_path / 'vocab.txt'
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]']
  path.write_text('\n'.join(special + words), encoding='utf-8')
  bert = tokenizers.load_word_piece(str(path), 20)
  assert bert.tokens('\u0378a') == [2, 4, 3]
  got = [words[i - 4] for i in bert.tokens("it's `x`^y_z")[1:-1]]
  assert got == ['it', "'", 's', '`', 'x', '`', '^', 'y', '_', 'z']


@pytest.fixture
def clip_files(tmp_path):
  merges = ['c a', 'ca t</w>', 'a a', 'aa a</w>']
  letters = ["'", 's</w>', 'c', 'a', 't</w>', 'a</w>', 'Ã', '©</w>', '!</w>']
  vocab = [*letters, 'ca', 'cat</w>', 'aa', 'aaa</w>', '!', '1</w>', '2</w>']
  vocab += ["'s</w>", '<|startoftext|>', '<|endoftext|>']
  (tmp_path / 'vocab.json').write_text(
    json.dumps({token: i for i, token in enumerate(vocab)})
  )
  (tmp_path / 'merges.txt').write_text(
    '#version: 0.2\n' + '\n'.join(merges) + '\n'
  )
  return vocab, str(tmp_path / 'vocab.json'), str(tmp_path / 'merges.txt')


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('', []),
    ('Cat  cat', ['cat</w>', 'cat</w>']),
    ('aaa', ['aaa</w>']),
    ('aaaa', ['aa', 'a', 'a</w>']),  # pairs are merged from the left
    ('é', ['Ã', '©</w>']),  # two bytes
    ('e\u0301', ['Ã', '©</w>']),  # the same letter after NFC
    ("cat's", ['cat</w>', "'", 's</w>']),
    ('12', ['1</w>', '2</w>']),  # digits stand alone
    ('!!', ['!', '!</w>']),
    ('z', ['<|endoftext|>']),  # unknown
  ],
)
def test_byte_pairs(clip_files, text, want):
  vocab, *paths = clip_files
  clip = tokenizers.load_clip(*paths, 8)
  end = len(vocab) - 1
  ids = [end - 1, *(vocab.index(token) for token in want), end]
  assert clip.tokens(text) == ids
  np.testing.assert_array_equal(clip.encode(text), ids + [end] * (8 - len(ids)))
  assert clip.size == len(vocab)


def test_clip_words_follow_the_pattern(tmp_path):
  # What ends a word is another token, so ids show where words end.
  text = "don't go!'s\u2028a_b ½٣"
  words = ['don', "'t", 'go', "!'", 's', 'a', '_', 'b', 'Â½', 'Ù£']
  letters = sorted(set(''.join(words)))
  vocab = [*letters, *(letter + '</w>' for letter in letters)]
  vocab += ['<|startoftext|>', '<|endoftext|>']
  vocab_file, merges_file = tmp_path / 'vocab.json', tmp_path / 'merges.txt'
  vocab_file.write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
  merges_file.write_text('#version: 0.2\n')
  clip = tokenizers.load_clip(str(vocab_file), str(merges_file), 30)
  got = ''.join(vocab[i] for i in clip.tokens(text)[1:-1])
  assert got.split('</w>')[:-1] == words


def test_clip_cuts_to_the_length(clip_files):
  vocab, *paths = clip_files
  clip = tokenizers.load_clip(*paths, 4)
  cat, end = vocab.index('cat</w>'), len(vocab) - 1
  np.testing.assert_array_equal(
    clip.encode('cat cat cat'), [end - 1, cat, cat, end]
  )


def test_rest_is_what_was_cut(bert, clip_files, t5_file):
  clip = tokenizers.load_clip(*clip_files[1:], 4)
  t5 = tokenizers.load_t5(str(t5_file), 3)
  for tokenizer, fits, over in [
    (bert, 'a ' * 10, 'Man\triding a.'),
    (clip, 'Cat  cat', '  cat!! cat'),
    (t5, 'a a', ' cats a'),
    (tokenizers.words(('red',), 4), 'Red circle', ' , RED'),
  ]:
    assert tokenizer.rest(fits) == ''
    assert tokenizer.rest(fits + ' ' + over) == over.strip()
    assert tokenizer.tokens(fits + over) == tokenizer.tokens(fits)


def test_full_stops_are_dropped_before_pieces_are_made(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_text(PIECES, encoding='utf-8')
  fields = {'vocab_file': str(path)}
  plain = tokenizers.create(config(**fields))
  assert plain.tokens('a ri.de.') == [2, 4, 1, 10, 1, 10, 3]
  without = tokenizers.create(config(drop_full_stops=True, **fields))
  assert without.tokens('a ri.de.') == [2, 4, 9, 3]
  assert without.rest('a . a a . a a a man') == 'man'


def test_words():
  words = tokenizers.words(('red', 'circle', ','), 7)
  np.testing.assert_array_equal(
    words.encode('Red, round circle'), [2, 4, 6, 1, 5, 3, 0]
  )
  assert words.size == 7


def config(**condition):
  values = {
    'task': 'text',
    'encoder': 'tokens',
    'vocab_file': '',
    'merges_file': '',
    'max_length': 8,
    'vocab_size': 100,
    'null_prefix': (2, 3),
    'pad_id': 0,
    'pad_in_text': False,
    'drop_full_stops': False,
  }
  return ConfigDict({'condition': {**values, **condition}})


def test_create_picks_by_encoder(tmp_path, clip_files):
  path = tmp_path / 'vocab.txt'
  path.write_text(PIECES, encoding='utf-8')
  made = tokenizers.create(config(vocab_file=str(path)))
  assert made.tokens('ride') == [2, 9, 3]
  tokens, vocab, merges = clip_files
  made = tokenizers.create(
    config(encoder='clip', vocab_file=vocab, merges_file=merges)
  )
  assert made.tokens('') == [len(tokens) - 2, len(tokens) - 1]
  assert made.max_length == 8


def test_pieces_of_t5(t5_file):
  t5 = tokenizers.load_t5(str(t5_file), 6)
  assert t5.tokens('a cats') == [3, 4, 5, 1]
  assert t5.length('a cats') == 4
  np.testing.assert_array_equal(t5.encode('a cats'), [3, 4, 5, 1, 0, 0])
  assert t5.encode('a cats').dtype == np.int32
  assert t5.tokens('') == [1]
  assert t5.tokens('a a a a a a a') == [3] * 5 + [1]
  assert t5.tokens('</s>')[-1] == 1
  assert t5.size == 6
  made = tokenizers.create(
    config(encoder='t5', vocab_file=str(t5_file), null_prefix=(1,))
  )
  assert made.tokens('a cats') == t5.tokens('a cats')


def test_what_is_no_tokenizer_of_t5(t5_file):
  path = str(t5_file)
  text = t5_file.read_text().replace('</s>', '</t>')
  t5_file.write_text(text)
  with pytest.raises(ValueError, match='json.*</s> must be 0 and 1') as error:
    tokenizers.load_t5(path, 6)
  assert one_line(error).endswith('are 0 and None.')
  t5_file.write_text('{"a":\n 1}')
  with pytest.raises(ValueError, match="json.*expected T5's tok") as error:
    tokenizers.load_t5(path, 6)
  one_line(error)


def test_the_file_of_t5_is_asked_for():
  with pytest.raises(ValueError, match="vocab_file is empty, expected T5's"):
    tokenizers.load_t5('', 6)
  missing = tokenizers.missing_inputs(config(encoder='t5'))
  assert missing == [
    "T5's tokenizer.json (config.condition.vocab_file is empty)"
  ]


def test_create_warns_of_another_null_text(tmp_path, monkeypatch):
  path = tmp_path / 'vocab.txt'
  path.write_text(PIECES, encoding='utf-8')
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args))
  tokenizers.create(config(vocab_file=str(path)))
  assert not said
  tokenizers.create(config(vocab_file=str(path), null_prefix=(101, 102)))
  assert said


def one_line(error):
  text = str(error.value)
  assert '\n' not in text
  return text


def test_missing_files_name_path_and_field(tmp_path, clip_files):
  absent = str(tmp_path / 'absent.txt')
  with pytest.raises(ValueError, match=r'condition\.vocab_file') as error:
    tokenizers.create(config(vocab_file=absent))
  assert absent in one_line(error)
  with pytest.raises(ValueError, match=r'vocab_file is empty.*WordPiece'):
    tokenizers.create(config())
  _, vocab, _ = clip_files
  with pytest.raises(ValueError, match=r'condition\.merges_file') as error:
    tokenizers.create(
      config(encoder='clip', vocab_file=vocab, merges_file=absent)
    )
  assert absent in one_line(error)


def test_broken_vocabularies(tmp_path, clip_files):
  path = tmp_path / 'bad'
  path.write_text('a\nb\n')
  with pytest.raises(ValueError, match=r'bad.*lacks \[CLS\], \[SEP\]'):
    tokenizers.create(config(vocab_file=str(path)))
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(ValueError, match='bad.*not UTF-8'):
    tokenizers.create(config(vocab_file=str(path)))
  path.write_text(PIECES, encoding='utf-8')
  with pytest.raises(ValueError, match='18 tokens, more than .* = 17'):
    tokenizers.create(config(vocab_file=str(path), vocab_size=17))
  _, vocab, merges = clip_files
  clip = {'encoder': 'clip', 'vocab_file': vocab, 'merges_file': merges}
  path.write_text('[1')
  with pytest.raises(ValueError, match='bad.*not JSON'):
    tokenizers.create(config(**{**clip, 'vocab_file': str(path)}))
  for text in ('[1]', '{"a": "b"}'):
    path.write_text(text)
    with pytest.raises(ValueError, match=r'one JSON object of \{token: id\}'):
      tokenizers.create(config(**{**clip, 'vocab_file': str(path)}))
  path.write_text('{"a": 0}')
  with pytest.raises(ValueError, match='bad.*lacks <|startoftext|>'):
    tokenizers.create(config(**{**clip, 'vocab_file': str(path)}))
  path.write_text('#version: 0.2\na b\na b c\n')
  with pytest.raises(ValueError, match="bad.*line 3 .*'a b c'"):
    tokenizers.create(config(**{**clip, 'merges_file': str(path)}))
  path.write_text('c z\n')
  with pytest.raises(ValueError, match="bad.*expected CLIP's merges.txt.*`z`"):
    tokenizers.create(config(**{**clip, 'merges_file': str(path)}))


def test_too_short():
  with pytest.raises(ValueError, match='max_length is 1'):
    tokenizers.words(('a',), 1)


def test_missing_inputs(tmp_path, clip_files):
  assert tokenizers.missing_inputs(config(task='layout')) == []
  assert tokenizers.missing_inputs(config(vocab_file='/no/vocab.txt')) == [
    '/no/vocab.txt (config.condition.vocab_file)'
  ]
  _, vocab, _ = clip_files
  lines = tokenizers.missing_inputs(
    config(task='scene_graph', encoder='clip', vocab_file=vocab)
  )
  assert lines == ["CLIP's merges.txt (config.condition.merges_file is empty)"]


def test_tokens_beyond_the_range_of_ids(tmp_path, clip_files):
  _, vocab, merges = clip_files
  path = pathlib.Path(vocab)
  values = json.loads(path.read_text())
  path.write_text(json.dumps({**values, 'c': 2**31 - 1}))
  with pytest.raises(
    ValueError, match='must be one JSON object of {token: id}'
  ):
    tokenizers.load_clip(vocab, merges, 8)


@pytest.mark.parametrize('name', ['vocab.txt', 'vocab.json', 'merges.txt'])
def test_very_many_tokens(tmp_path, clip_files, bert, monkeypatch, name):
  monkeypatch.setattr(limits, 'VOCABULARY', 3)
  _, vocab, merges = clip_files
  read = {
    'vocab.txt': lambda: tokenizers.load_word_piece(str(tmp_path / name), 8),
    'vocab.json': lambda: tokenizers.load_clip(vocab, merges, 8),
    'merges.txt': lambda: tokenizers._clip_merges(merges),
  }[name]
  with pytest.raises(ValueError, match=f'{name} .* entries, at most 3 are'):
    read()


def test_expressions_that_take_for_ever(t5_file):
  text = t5_file.read_text()
  values = json.loads(text)
  values['pre_tokenizer'] = {
    'type': 'Sequence',
    'pretokenizers': [
      {
        'type': 'Split',
        'pattern': {'Regex': '(a+)+$'},
        'behavior': 'Removed',
        'invert': False,
      }
    ],
  }
  t5_file.write_text(json.dumps(values))
  with pytest.raises(ValueError, match=r"expression '\(a\+\)\+\$' is not read"):
    tokenizers.load_t5(str(t5_file), 8)


def test_a_tokenizer_without_unknown_pieces(t5_file):
  values = json.loads(t5_file.read_text())
  values['model']['unk_id'] = None
  t5_file.write_text(json.dumps(values))
  with pytest.raises(
    ValueError, match="expected T5's tokenizer.json: Encounter"
  ):
    tokenizers.load_t5(str(t5_file), 8)
