"""Forms of HLO that no compiler here writes, and loops without a count."""

import pytest

from pyramid_jax.planning import hlo
from pyramid_jax.planning import program as program_lib


def of_entry(*lines, head='', after=''):
  """The program of an entry computation with some lines."""
  body = '\n'.join(f'  {line}' for line in lines)
  text = (
    f'HloModule test, num_partitions=8{after}\n\n{head}\n'
    f'ENTRY %main (a: f32[8]) -> f32[8] {{\n{body}\n}}\n'
  )
  return program_lib.Program.of(text)


def test_an_instruction_is_taken_apart():
  text = (
    'HloModule test\n\nENTRY %main (p: f32[2]) -> f32[2] {\n'
    '  ROOT %all-gather.1 = (f32[2]{0}, /*index=1*/bf16[4,2]{1,0:T(8,128)S(1)})'
    ' custom-call(%a.1, /*index=1*/%b), custom_call_target="x, (y", '
    'window={size=3x3}, metadata={op_name="jit(f)/}\\"" stack_frame_id=3}\n'
    '}\n'
  )
  (found,) = hlo.parse(text).entry.instructions.values()
  assert (found.name, found.opcode) == ('all-gather.1', 'custom-call')
  assert found.is_root
  assert found.operands == ('a.1', 'b')
  assert found.attribute('window') == '{size=3x3}'
  assert found.attribute('size') == ''
  assert found.attribute('metadata').endswith(' stack_frame_id=3}')
  first, second = found.arrays
  assert (str(first), first.bytes, first.space) == ('f32[2]', 8, 0)
  assert (str(second), second.bytes, second.space) == ('bf16[4,2]', 16, 1)


def test_arrays_fill_their_tiles():
  stored = {
    'bf16[4,72]{1,0:T(8,128)(2,1)}': 8 * 128 * 2,
    'bf16[4,72]{0,1:T(8,128)(2,1)}': 72 * 128 * 2,
    'f32[3,5]{1,0:T(4,128)}': 4 * 128 * 4,
    'f32[5]{0:T(1024)}': 4096,
    'pred[7,8,128]{2,1,0:T(8,128)(4,1)}': 7 * 8 * 128,
    's4[10]{0}': 5,
    'f32[]{:T(128)}': 4,
    'f8e4m3fn[3]{0}': 3,
  }
  for shape, size in stored.items():
    (array,) = hlo.arrays(shape)
    assert array.stored_bytes == size, shape


@pytest.mark.parametrize(
  ('groups', 'first'),
  [
    ('{{0,2},{1,3}}', (0, 2)),
    ('{}', tuple(range(8))),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[4,2]<=[2,4]T(1,0)', (0, 4)),
    ("mesh['x'=2,'y'=4] {'x'}", (0, 4)),
    ("mesh['x'=2,'y'=4] {'x','y'}", tuple(range(8))),
    ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", (0, 1, 2, 3)),
    # An axis of eight in a part of two before one of four, and the like.
    ("mesh['x'=8] {'x':(1)2}", (0, 4)),
    ("mesh['x'=8] {'x':(2)4}", (0, 1, 2, 3)),
    ("mesh['x'=8] {'x':(2)2}", (0, 2)),
  ],
)
def test_groups_in_every_form(groups, first):
  found = of_entry(
    '%a = f32[8]{0} parameter(0)',
    f'ROOT %b = f32[8]{{0}} all-reduce(%a), channel_id=1, '
    f'replica_groups={groups}, use_global_device_ids=true, to_apply=%add',
  )
  (collective,) = found.collectives
  assert collective.group == first
  assert collective.bytes == 32


@pytest.mark.parametrize('kind', ['all-reduce', 'all-gather'])
def test_a_group_of_one_chip_exchanges_nothing(kind):
  found = of_entry(
    '%a = f32[8]{0} parameter(0)',
    f'ROOT %b = f32[8]{{0}} {kind}(%a), replica_groups={{{{0}},{{1}}}}',
  )
  assert found.collectives == ()


def summed(*names, after=''):
  """The program of all-reduces over 8 chips, but for 'pair': over 2."""
  groups = {name: '[4,2]<=[8]' for name in names if name == 'pair'}
  reduced = (
    f'%{name} = f32[8]{{0}} all-reduce(%a), channel_id={i + 1},'
    f' replica_groups={groups.get(name, "[1,8]<=[8]")}, to_apply=%add'
    for i, name in enumerate(names)
  )
  return of_entry(
    '%a = f32[8]{0} parameter(0)',
    *reduced,
    f'%s = f32[8]{{0}} add(%{names[0]}, %{names[1]})',
    f'ROOT %t = f32[8]{{0}} add(%s, %{names[-1]})',
    after=after,
  ).by_kind()


def test_sums_that_are_added_are_one_until_the_program_is_final():
  one = 32
  assert summed('x', 'y', 'z') == {'all-reduce': (1, one)}
  assert summed('x', 'y', 'z', after=', is_scheduled=true') == {
    'all-reduce': (3, 3 * one)
  }
  assert summed('x', 'y', 'pair') == {'all-reduce': (2, 2 * one)}
  assert summed('x', 'pair', 'z') == {'all-reduce': (3, 3 * one)}
  assert summed('x', 'y') == {'all-reduce': (2, 2 * one)}  # y has two users


def test_a_long_sum_of_sums_is_one():
  """That of the norms of all gradients has one for each weight."""
  lines = ['%a = f32[8]{0} parameter(0)', '%s0 = f32[8]{0} all-reduce(%a)']
  for i in range(1, 3000):
    lines.append(f'%r{i} = f32[8]{{0}} all-reduce(%a), channel_id={i}')
    lines.append(f'%s{i} = f32[8]{{0}} add(%s{i - 1}, %r{i})')
  found = of_entry(*lines, 'ROOT %b = f32[8]{0} negate(%s2999)')
  assert found.by_kind() == {'all-reduce': (1, 32)}


def test_a_start_and_its_end_count_once():
  found = of_entry(
    '%a = f32[8]{0} parameter(0)',
    '%b = (f32[8]{0}, f32[16]{0}) all-gather-start(%a), channel_id=1,'
    ' replica_groups=[4,2]<=[8], dimensions={0}',
    'ROOT %c = f32[16]{0} all-gather-done(%b)',
  )
  assert found.by_kind() == {'all-gather': (1, 64)}
  assert found.hbm_bytes == 32 + 64


def test_a_wrapped_start_runs_its_computation():
  head = (
    '%wrapped (p: f32[16]) -> f32[8] {\n'
    '  %p = f32[16]{0} parameter(0)\n'
    '  ROOT %r = f32[8]{0} reduce-scatter(%p), replica_groups=[4,2]<=[8],'
    ' dimensions={0}, to_apply=%add\n}\n'
  )
  found = of_entry(
    '%a = f32[16]{0} parameter(0)',
    '%b = ((f32[16]{0}), f32[8]{0}, u32[]) async-start(%a), calls=%wrapped',
    'ROOT %c = f32[8]{0} async-done(%b), calls=%wrapped',
    head=head,
  )
  assert found.by_kind() == {'reduce-scatter': (1, 64)}


def loop(*, start=0, step=1, end=10, direction='LT', move='add'):
  """A while of products whose text has no count."""
  head = f"""
%body (t: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %t = (s32[], f32[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,8] get-tuple-element(%t), index=1
  %s = s32[] constant({step})
  %j = s32[] {move}(%i, %s)
  %y = f32[8,8] dot(%x, %x), lhs_contracting_dims={{1}}
  ROOT %r = (s32[], f32[8,8]) tuple(%j, %y)
}}
%test (t: (s32[], f32[8,8])) -> pred[] {{
  %t = (s32[], f32[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %e = s32[] constant({end})
  ROOT %c = pred[] compare(%i, %e), direction={direction}
}}
"""
  return of_entry(
    '%a = f32[8,8] parameter(0)',
    f'%n = s32[] constant({start})',
    '%t = (s32[], f32[8,8]) tuple(%n, %a)',
    '%w = (s32[], f32[8,8]) while(%t), condition=%test, body=%body',
    'ROOT %o = f32[8,8] get-tuple-element(%w), index=1',
    head=head,
  )


@pytest.mark.parametrize(
  ('fields', 'trips'),
  [
    ({}, 10),
    ({'start': 4}, 6),
    ({'step': 3}, 4),
    ({'direction': 'LE'}, 11),
    ({'direction': 'NE'}, 10),
    ({'start': 10, 'end': 0, 'direction': 'GT', 'move': 'subtract'}, 10),
    ({'start': 1, 'step': 2, 'end': 1000, 'move': 'multiply'}, 10),
    ({'start': 10}, 0),
  ],
)
def test_loops_without_a_count_are_evaluated(fields, trips):
  found = loop(**fields)
  assert found.flops == trips * 2 * 8**3
  assert found.unknown_loops == ()


def test_a_loop_without_an_end_is_unknown():
  assert loop(step=0).unknown_loops == ('w',)
  assert loop(start='nan').unknown_loops == ('w',)


def custom(target, result, *operands, more=''):
  names = ', '.join(f'%p{i}' for i in range(len(operands)))
  return of_entry(
    *(f'%p{i} = {shape} parameter({i})' for i, shape in enumerate(operands)),
    f'ROOT %r = {result} custom-call({names}), '
    f'custom_call_target="{target}"{more}',
  )


def test_products_of_cublas():
  config = (
    '{"gemm_backend_config":{"dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}'
  )
  found = custom(
    '__cublas$lt$matmul',
    '(f32[8,32]{1,0}, s8[4096]{0})',
    'f32[8,16]{1,0}',
    'f32[16,32]{1,0}',
    more=f', backend_config={config}',
  )
  assert found.flops == 2 * 8 * 16 * 32


@pytest.mark.parametrize(
  ('target', 'result', 'operands'),
  [
    ('Forward', '[2,14,14,24]', ['[2,16,16,8]', '[24,3,3,8]']),
    ('BackwardInput', '[2,16,16,8]', ['[2,14,14,24]', '[24,3,3,8]']),
    ('BackwardFilter', '[24,3,3,8]', ['[2,16,16,8]', '[2,14,14,24]']),
  ],
)
def test_convolutions_of_cudnn(target, result, operands):
  found = custom(
    f'__cudnn$conv{target}',
    f'(bf16{result}, u8[0]{{0}})',
    *(f'bf16{shape}' for shape in operands),
    more=', window={size=3x3}, dim_labels=b01f_o01i->b01f',
  )
  assert found.flops_by_dtype == {'bf16': 2 * 2 * 14 * 14 * 24 * 9 * 8}


@pytest.mark.parametrize(('target', 'products'), [('', 2), ('Backward', 5)])
def test_attention_of_cudnn(target, products):
  found = custom(
    f'__cudnn$fmhaSoftmax{target}',
    '(bf16[2,64,4,32], u8[0])',
    'bf16[2,64,4,32]',
    'bf16[2,48,4,32]',
    'bf16[2,48,4,32]',
  )
  assert found.flops == products * 2 * (2 * 4 * 64 * 48 * 32)


def test_kernels_without_an_estimate_are_named():
  shapes = ['f32[8,8]'] * 3
  of = lambda name, more='': custom(
    'tpu_custom_call',
    'f32[8,8]',
    *shapes,
    more=f', metadata={{op_name="jit(f)/{name}/pallas_call"}}{more}',
  )
  found = of('norm')
  assert (found.flops, found.uncounted) == (0, ('jit(f)/norm/pallas_call',))
  said = of('norm', ', backend_config={"cost_estimate":{"flops":"123456"}}')
  assert (said.flops, said.uncounted) == (123456, ())
  # Two products of attention, each of 8 x 8 x 8.
  assert of('jit(flash_attention)').flops == 2 * 2 * 8**3


def test_slices_on_the_way_to_the_vector_memory_are_read():
  found = of_entry(
    '%a = f32[32,128]{1,0:T(8,128)} parameter(0)',
    '%b = ((f32[32,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)},'
    ' s32[]{:S(2)}) slice-start(%a), slice={[0:8], [0:128]}',
    '%c = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%b)',
    '%d = f32[8,128]{1,0:T(8,128)S(1)} negate(%c)',
    '%e = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)},'
    ' u32[]{:S(2)}) copy-start(%d)',
    'ROOT %f = f32[8,128]{1,0:T(8,128)} copy-done(%e)',
  )
  assert found.hbm_bytes == 2 * 8 * 128 * 4  # the slice, and the result
