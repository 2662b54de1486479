"""How much of a foreign file is read: bytes, ratios, items, depth, seconds.

A foreign file is one that somebody else may have made: weights, images,
sketches, annotations, lists, arrays. Its reader refuses what exceeds a limit
with the error of its format, which names the limit, before it takes the memory
or the time. Together the limits keep every file below 10 s and 2 GiB, but for
the annotations of data sets.
"""

# JSON. Every list or object takes up to 250 bytes, every other value up to 60.
JSON_BYTES = 1 << 26  # vocabularies of many languages have 34 MB
JSON_DEPTH = 64  # lists and objects within each other
JSON_DIGITS = 40  # of an integer; more are a number that no field takes
JSON_BRACKETS = 8_000_000  # lists and objects; COCO's training set has 4 M
# Annotations of a data set: one file of COCO has 470 MB and takes 2.5 GB, the
# only readers whose files may exceed the common bounds.
ANNOTATION_BYTES = 1 << 30
BOXES = 100_000_000  # rows of a file; Open Images has 14.6 million
LINE_CHARACTERS = 100_000  # a line of JSON lines, or of a list
VOCABULARY = 2_000_000  # tokens or merges; those of many languages: 300,000
CACHE_SHARDS = 1_000_000  # of latents or texts, usually of 10 to 100 MB each
SHARDS = 1_000_000  # tars or parquet files of a data set
ROW_GROUP_BYTES = 1 << 30  # of a parquet file, unpacked
METADATA_BYTES = 1 << 20  # the JSON of one image of a shard
TEXT_CHARACTERS = 10_000  # a prompt, a caption or a graph; models take 2,000
LAYOUT_OBJECTS = 100_000  # of all layouts of a request
CONDITION_BYTES = 1 << 22  # a layout or other conditions of a request

# Images.
IMAGE_BYTES = 1 << 28  # of a file
IMAGE_PIXELS = 64_000_000  # 256 MB with opacity, and some copies
IMAGE_SIDE = 65_536  # px; no JPEG has more
IMAGE_HEADER_READS = 20_000  # Headers are parsed in Python, a part at a time.
IMAGE_READS = 500_000  # of the rest
PNG_CHUNKS = 100_000  # usual are 8 to 64 KB of pixels a chunk
JPEG_SCANS = (
  200  # of a progressive file; each passes over all pixels; usual: 10
)
PLAIN_IMAGE_BYTES = 1 << 24  # of PPM in text, which Python decodes
MASK_PIXELS = 32_000_000  # of a mask, whose brightness is computed in floats

# Sketches of SVG. Rendering is bounded in another process, by the system.
SVG_BYTES = 1 << 22
SVG_ELEMENTS = 50_000
SVG_SHAPES = 10_000
SVG_DEPTH = 200  # elements within each other
SVG_STYLE_CHARACTERS = 1 << 18  # of all style sheets
SVG_ATTRIBUTE_CHARACTERS = 1 << 16  # of other attributes than paths and points
SVG_SELECTORS = 3_000_000  # tests of an element against a part of a selector
SVG_NUMBER = 1e9
RENDERER_SECS = 4  # of a processor
RENDERER_WAIT_SECS = 8  # of a clock
RENDERER_BYTES = 3 << 29  # of address space

FILE_BYTES = 1 << 50  # of what is mapped or read in parts: any

# Archives of images, .tar and .zip, which are read in place.
ARCHIVE_MEMBERS = 20_000_000  # ImageNet has 1.3 M
ARCHIVE_NAME = 500  # characters
ARCHIVE_HEADER_BYTES = 1 << 20  # of one member of a tar
ARCHIVE_ZIP_RATIO = 64  # flat images and maps pack well

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

# Weights. A file of PyTorch has a pickle of 200 bytes and 65 steps a tensor.
PICKLE_BYTES = 32 << 20
PICKLE_STEPS = 2_000_000  # reads of opcodes and arguments, 1 to 4 us each
PICKLE_NAME = 200  # characters of a class, or of a storage
# Keys of dictionaries that are tuples or beyond 61 bits, whose hashes a file
# can make equal; as many of one hash take 0.5 s.
PICKLE_ODD_KEYS = 4_000
UNKNOWN_NAMES = 100  # classes that are not known
TORCH_DEPTH = 4  # of dictionaries within each other, where tensors are sought
MODULE_DEPTH = 16  # of modules within each other in a pickled network
TENSORS = 100_000
TENSOR_NAME = 500  # characters
TENSOR_DIMENSIONS = 16
TORCH_MEMBERS = 110_000
# To so many bytes and so many times the file's bytes may compressed members
# unpack, and tensors repeat numbers. A float32 copy of bfloat16 is twice as
# large, and tied weights are repeated.
TORCH_BYTES = 64 << 20
TORCH_RATIO = 4
REPEATED_ELEMENTS = 1 << 22  # of one tensor beyond its storage
SAFETENSORS_HEADER_BYTES = 16 << 20
SAFETENSORS_TENSORS = 20_000
INDEX_BYTES = 16 << 20  # of several files of safetensors
CONFIG_BYTES = 16 << 20  # JSON beside the weights of a folder of diffusers

# Downloads.
FETCH_BYTES = 64 << 30  # of a file whose size is not known beforehand
FETCH_WAIT_SECS = 30  # for the next byte
FETCH_PATIENCE_SECS = 60  # after so long they have to come as fast as this:
FETCH_BYTES_PER_SEC = 10_000
