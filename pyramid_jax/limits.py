"""How much of a foreign file is read: bytes, ratios, items, depth, seconds.

A foreign file is one that somebody else may have made: weights, images,
sketches, annotations, lists, arrays. Its reader refuses what exceeds a limit
with the error of its format, which names the limit, before it takes the memory
or the time. Together the limits keep every file below 10 s and 2 GiB.
"""

# JSON. Every list or object takes up to 250 bytes, every other value up to 60.
JSON_BYTES = 1 << 26  # vocabularies of many languages have 34 MB
JSON_DEPTH = 64  # lists and objects within each other
JSON_DIGITS = 40  # of an integer; more are a number that no field takes
JSON_BRACKETS = 8_000_000  # lists and objects; COCO's training set has 4 M
# Annotations of a data set: one file of COCO has 470 MB and takes 2.5 GB, the
# only readers whose files may exceed the common bounds.
ANNOTATION_BYTES = 1 << 30
LINE_BYTES = 1 << 20  # a line of JSON lines, or of a list
CONDITION_BYTES = 1 << 22  # a layout or other conditions of a request
