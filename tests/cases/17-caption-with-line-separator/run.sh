#!/usr/bin/env bash
# source: JSON written with ensure_ascii=False of scraped captions
# expected: a valid JSON line whose caption has U+2028 or U+0085 is read
source "$(dirname "$0")/../lib.sh"
"$PY" - "$work" <<'P'
import sys, os, json; from PIL import Image
os.makedirs(sys.argv[1] + '/d'); Image.new('RGB', (40, 40)).save(sys.argv[1] + '/d/a.png')
open(sys.argv[1] + '/d/captions.jsonl', 'w').write(json.dumps({'file': 'a.png', 'caption': 'one\u2028two\u0085three'}, ensure_ascii=False) + '\n')
P
api "$work/d" <<'P'
import sys, pathlib
from pyramid_jax.data.readers import image_folder
print(image_folder.load_entries(pathlib.Path(sys.argv[1]) / 'captions.jsonl'))
P
verdict $? 'refused'
