#!/usr/bin/env bash
# source: Mikubill/sd-webui-controlnet#7, invoke-ai/InvokeAI#6869
# expected: a photo of a drawing with a shadow on a third of it: lines alone, or refused
source "$(dirname "$0")/../lib.sh"
"$PY" - "$work" <<'P'
import sys, numpy as np; from PIL import Image, ImageDraw
im = Image.new('L', (256, 256), 255); d = ImageDraw.Draw(im); d.ellipse((60, 60, 150, 150), outline=0, width=4); d.rectangle((130, 120, 220, 210), outline=0, width=4)
a = np.where(np.asarray(im) < 128, 38., 255.); a[:, 180:] *= .5
Image.fromarray(a.astype(np.uint8)).save(sys.argv[1] + '/d.jpg', quality=85)
P
api "$work/d.jpg" <<'P'
import sys
from pyramid_jax.conditioning import sketches
from pyramid_jax.data.pixels import sketch_files
try: s = sketches.from_image(sketch_files.read(sys.argv[1]), 64)['sketch'][0] > 0
except ValueError as e: print(e); sys.exit(0)
print('share of line', s.mean()); sys.exit(int(s.mean() > .15))
P
verdict $? 'the shadow became one line over a third of the sheet'
