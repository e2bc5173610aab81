"""Bytes of main memory that the instructions of a compiled program read and write."""

from cvmae.planning.hlo import Array, Instruction, Module

# They move nothing: names for parts of what is there, or for work that the computations they call are counted with.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all", "domain"),
    *("partition-id", "replica-id", "opt-barrier", "async-start", "copy-done"),
}
_SLICES = ("dynamic-slice", "gather", "slice")


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if not array.space)


def bytes_of(module: Module, computation: str, instruction: Instruction) -> int:
    """What one run of an instruction moves between main memory and the chip; of an array that it slices or updates, that part."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")) or '"AllocateBuffer"' in instruction.rest:
        return 0
    operands = [module.arrays(computation, name) for name in instruction.operands]
    if opcode in _SLICES:
        return 2 * _in_memory(instruction.arrays)
    if opcode == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    if opcode == "copy-start":
        return _in_memory(instruction.arrays[:2])
    callee = dict(instruction.called).get("calls")
    if opcode != "fusion" or callee not in module.computations:
        return _in_memory(instruction.arrays) + sum(map(_in_memory, operands))
    read = sum(min(_read(module, callee, place), _in_memory(arrays)) for place, arrays in enumerate(operands))
    return read + _written(module, callee, instruction)


def _read(module: Module, callee: str, place: int) -> float:
    """Bytes that a fusion reads of its operand at a place; infinite where it reads all of it."""
    inside = module.computations[callee]
    names = {i.name for i in inside.values() if i.opcode == "parameter" and int(i.inside) == place}
    total = 0.0
    for instruction in inside.values():  # operands come before their users
        places = [p for p, name in enumerate(instruction.operands) if name in names]
        if not places:
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction.opcode == "fusion":
            total += sum(_read(module, dict(instruction.called)["calls"], p) for p in places)
        elif instruction.opcode in _SLICES and places == [0]:
            total += instruction.arrays[0].bytes
        elif instruction.opcode != "dynamic-update-slice" or places != [0]:
            return float("inf")
    return total


def _written(module: Module, callee: str, instruction: Instruction) -> int:
    """Bytes that a fusion writes; where it updates part of an operand in place, that part."""
    inside = module.computations[callee]
    root = list(inside.values())[-1]
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(roots) != len(instruction.arrays):
        return _in_memory(instruction.arrays)
    total = 0
    for array, leaf in zip(instruction.arrays, roots):
        while leaf.opcode == "bitcast" and leaf.operands[0] in inside:
            leaf = inside[leaf.operands[0]]
        update = leaf.opcode == "dynamic-update-slice" and inside[leaf.operands[1]].arrays[0].bytes
        if not array.space:
            total += min(update, array.bytes) if update else array.bytes
    return total
