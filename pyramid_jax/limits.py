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

FILE_BYTES = 1 << 50  # of what is mapped or read in parts: any

# Archives: .npz, and the .pt of PyTorch.
ZIP_DIRECTORY_BYTES = 8 << 20  # 180,000 members, at most
# Compressed members unpack to so many bytes and so many times the file's bytes.
# Text and flat images pack that well, bombs a thousand times.
INFLATED_BYTES = 512 << 20
INFLATED_RATIO = 8

# Arrays (.npz).
ARRAYS = 20_000  # in a file
ARRAYS_BYTES = 8 << 30  # in memory; arrays that are read by rows have no limit
ARRAY_NAME = 500  # characters
ARRAY_HEADER_BYTES = 10_000  # NumPy's own limit
ARRAY_DIMENSIONS = 32
