"""A pickle is a program for a small stack machine: here is one without what runs code.

Python's own unpickler imports any name a file asks for and calls it with any arguments: `os.system`
as well as a tensor's. This one knows a table of names, all of which stand for functions of ours; it
never imports, calls or sets an attribute on anything else, and it stops at the first instruction
that weights have no need of.

Reference: `pickletools` of the standard library describes each instruction.
"""

import dataclasses
import pickletools
from collections.abc import Callable

# A checkpoint of ResNet-101 with its optimizer has about 50,000 instructions.
MOST_INSTRUCTIONS = 500_000

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
LITERALS = NUMBERS | TEXTS | BYTES


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A name that a pickle may call, and the function of ours that answers.

    Args:
        make: takes the `WeightsFile` and the pickled arguments, and checks them.
    """

    make: Callable


class StandIn:
    """An object under construction: `build` receives the state that the pickle has for it."""

    def build(self, source, state):
        raise source.error(f"gives a state to a {type(self).__name__}")


class PickleMachine:
    """Runs one pickle.

    Args:
        source: the `WeightsFile`, for errors and for the budget of memory.
        names: what stands for each name that the pickle may ask for; a `Recipe` if callable.
        load_storage: takes the persistent id where the pickle points out of itself; `None` where
            it must not.

    Example:
        >>> PickleMachine(source, NAMES).run(io.BytesIO(pickle.dumps({"a": [1, 2]}, protocol=2)))
        {'a': [1, 2]}
    """

    def __init__(self, source, names, load_storage=None):
        self.source, self.names, self.load_storage = source, names, load_storage
        self.stack, self.outer_stacks, self.memo = [], [], {}

    def run(self, stream):
        """Returns what the pickle describes; `stream` is left behind the pickle's last byte."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MOST_INSTRUCTIONS:
                raise self.source.error(f"has a pickle of over {MOST_INSTRUCTIONS} instructions")
            self.step(opcode.name, argument)
        if len(self.stack) != 1 or self.outer_stacks:
            raise self.source.error("has a pickle that leaves no single value")
        return self.stack.pop()

    def step(self, opcode, argument):
        """Carries out one instruction."""
        if opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in EMPTY:
            self.stack.append(EMPTY[opcode]())
        elif opcode in INSTRUCTIONS:
            INSTRUCTIONS[opcode](self, argument)
        else:
            raise self.source.error(
                f"has a pickle with the instruction {opcode}, which weights do not need"
            )

    def top(self, kind):
        """Returns the top of the stack, which must be of this type."""
        if not isinstance(self.stack[-1], kind):
            raise self.source.error(
                f"has a pickle that fills a {type(self.stack[-1]).__name__} as a {kind.__name__}"
            )
        return self.stack[-1]

    # Instructions: each takes the argument that stands in the file, or None.

    def ignore(self, _):
        """PROTO, FRAME and STOP change nothing here."""

    def mark(self, _):
        self.outer_stacks.append(self.stack)
        self.stack = []

    def pop_mark(self):
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def remember(self, index):
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index):
        self.stack.append(self.memo[index])

    def gather_tuple(self, _):
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def gather_list(self, _):
        items = self.pop_mark()
        self.stack.append(items)

    def gather_dict(self, _):
        items = self.pop_mark()
        self.stack.append({})
        self.set_pairs(items)

    def close_tuple(self, count):
        items = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(items[::-1])

    def append(self, _):
        item = self.stack.pop()
        self.top(list).append(item)

    def append_many(self, _):
        items = self.pop_mark()
        self.top(list).extend(items)

    def set_item(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_pairs([key, value])

    def set_items(self, _):
        self.set_pairs(self.pop_mark())

    def set_pairs(self, items):
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple nested a million deep overflows the C stack of whoever hashes it.
            if not isinstance(key, (str, int, float)):
                raise self.source.error(f"has a dict key of type {type(key).__name__}")
            target[key] = value

    def name(self, dotted):
        """GLOBAL and STACK_GLOBAL: a name becomes what our table has for it, or the end."""
        if not isinstance(dotted, str) or dotted not in self.names:
            raise self.source.error(
                f"has a pickle that asks for {str(dotted)[:100]!r}, which is not among the names "
                "that rebuild arrays; nothing was run (if you trust the file, save its state dict "
                "alone, with the library that wrote it)"
            )
        self.stack.append(self.names[dotted])

    def name_from_file(self, module_and_name):
        self.name(module_and_name.replace(" ", "."))

    def name_from_stack(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.name(f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else None)

    def call(self, _):
        arguments, recipe = self.stack.pop(), self.stack.pop()
        if not isinstance(recipe, Recipe) or not isinstance(arguments, tuple):
            raise self.source.error(f"has a pickle that calls a {type(recipe).__name__}")
        self.stack.append(recipe.make(self.source, *arguments))

    def build(self, _):
        state = self.stack.pop()
        # An OrderedDict's state is the `_metadata` of PyTorch: versions of modules, no weights.
        if not isinstance(self.stack[-1], dict):
            self.top(StandIn).build(self.source, state)

    def load_persistent(self, _):
        persistent_id = self.stack.pop()
        if self.load_storage is None:
            raise self.source.error("has a pickle that points out of itself (a persistent id)")
        self.stack.append(self.load_storage(persistent_id))


INSTRUCTIONS = {
    "PROTO": PickleMachine.ignore,
    "FRAME": PickleMachine.ignore,
    "STOP": PickleMachine.ignore,
    "MARK": PickleMachine.mark,
    "BINPUT": PickleMachine.remember,
    "LONG_BINPUT": PickleMachine.remember,
    "MEMOIZE": PickleMachine.remember,
    "BINGET": PickleMachine.recall,
    "LONG_BINGET": PickleMachine.recall,
    "TUPLE": PickleMachine.gather_tuple,
    "TUPLE1": lambda machine, _: machine.close_tuple(1),
    "TUPLE2": lambda machine, _: machine.close_tuple(2),
    "TUPLE3": lambda machine, _: machine.close_tuple(3),
    "LIST": PickleMachine.gather_list,
    "DICT": PickleMachine.gather_dict,
    "APPEND": PickleMachine.append,
    "APPENDS": PickleMachine.append_many,
    "SETITEM": PickleMachine.set_item,
    "SETITEMS": PickleMachine.set_items,
    "GLOBAL": PickleMachine.name_from_file,
    "STACK_GLOBAL": PickleMachine.name_from_stack,
    "REDUCE": PickleMachine.call,
    "BUILD": PickleMachine.build,
    "BINPERSID": PickleMachine.load_persistent,
}
