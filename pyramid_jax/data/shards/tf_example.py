"""Records as `tf.train.Example`, without TensorFlow.

The message is declared here as tensorflow/core/example/{example,feature}.proto
have it; protobuf packs and reads it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message
from google.protobuf import message_factory
import numpy as np


Values = Sequence[bytes] | np.ndarray
_PACKAGE = 'pyramid_jax_records'
_FIELD = descriptor_pb2.FieldDescriptorProto
# List of a feature -> number of its field, type of its values.
_LISTS = {
  'bytes_list': (1, _FIELD.TYPE_BYTES),
  'float_list': (2, _FIELD.TYPE_FLOAT),
  'int64_list': (3, _FIELD.TYPE_INT64),
}


def _refer(
  to: descriptor_pb2.DescriptorProto,
  name: str,
  number: int,
  kind: str,
  is_repeated: bool = False,
) -> None:
  """Adds a field that holds messages."""
  label = _FIELD.LABEL_REPEATED if is_repeated else _FIELD.LABEL_OPTIONAL
  to.field.add(
    name=name,
    number=number,
    label=label,
    type=_FIELD.TYPE_MESSAGE,
    type_name=f'.{_PACKAGE}.{kind}',
  )


@functools.cache
def _example() -> Any:
  """Returns the class of the message."""
  file = descriptor_pb2.FileDescriptorProto(
    name='pyramid_jax_records.proto', package=_PACKAGE, syntax='proto3'
  )
  feature = file.message_type.add(name='Feature')
  feature.oneof_decl.add(name='kind')
  for name, (number, kind) in _LISTS.items():
    values = file.message_type.add(name=name)
    values.field.add(
      name='value', number=1, label=_FIELD.LABEL_REPEATED, type=kind
    )
    _refer(feature, name, number, name)
    feature.field[-1].oneof_index = 0
  features = file.message_type.add(name='Features')
  entry = features.nested_type.add(name='FeatureEntry')
  entry.options.map_entry = True
  entry.field.add(
    name='key', number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING
  )
  _refer(entry, 'value', 2, 'Feature')
  _refer(features, 'feature', 1, 'Features.FeatureEntry', is_repeated=True)
  example = file.message_type.add(name='Example')
  _refer(example, 'features', 1, 'Features')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  found = pool.FindMessageTypeByName(f'{_PACKAGE}.Example')
  return message_factory.GetMessageClass(found)


def pack(features: Mapping[str, Values]) -> bytes:
  """Returns a record of bytes, floats (as float32) or integers by name."""
  example = _example()()
  for name, values in sorted(features.items()):
    feature = example.features.feature[name]
    if not isinstance(values, np.ndarray):
      feature.bytes_list.value.extend(values)
    elif values.dtype.kind == 'f':
      feature.float_list.value.extend(values.ravel().tolist())
    else:
      feature.int64_list.value.extend(values.ravel().tolist())
  return example.SerializeToString(deterministic=True)


def unpack(record: bytes) -> dict[str, list[Any]]:
  """Returns the values of a record by name.

  Raises:
    ValueError: no such record.
  """
  try:
    example = _example().FromString(record)
  except message.DecodeError as error:
    raise ValueError(f'no tf.train.Example: {error}') from error
  found = {}
  for name, feature in example.features.feature.items():
    kind = feature.WhichOneof('kind')
    found[name] = list(getattr(feature, kind).value) if kind else []
  return found
