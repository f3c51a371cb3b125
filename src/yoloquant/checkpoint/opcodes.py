"""Follow a pickle's opcodes one by one, and make inert values of them: no function is called but those that the caller allows.

Python's own unpickler sets attributes of whatever a file names, hashes whatever it uses as a key, and reserves as much memory
as a number in the file asks for. Here a file decides none of that: keys are plain, nesting is limited, and every value
costs bytes of the file, so that time and memory follow the file's size.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from yoloquant.errors import CheckpointError

# Levels of tuples, lists and dictionaries in each other that a file may build in one go; official ones stay below 60.
DEEPEST = 200
# Bytes of an integer; the numbers of official files fit into eight.
_LONGEST_INTEGER = 32

# Opcodes of one pickle; official ones hold fewer than a tenth.
_MOST_OPCODES = 4_000_000
# Parts of a key that is a tuple, and the largest number as a key: more could be made to collide with each other.
_LONGEST_KEY, _LARGEST_KEY = 16, 1 << 40

_PLAIN = (str, bytes, int, float, bool, type(None))
_MARK = object()

# Opcodes whose argument is the value.
_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip


class Global:
    """A name in the pickle, which nothing has been made of yet.

    Attributes:
        path: `module.name`.
    """

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            _damaged()
        self.module, self.name = module, name
        self.path = f"{module}.{name}"


class Interpreter:
    """One run through a pickle."""

    def __init__(
        self,
        call: Callable[[Global, tuple[Any, ...]], Any],
        build: Callable[[Any, Any], None],
        persistent: Callable[[Any], Any],
        resolve: Callable[[Global], Any],
    ) -> None:
        """Say what names, calls, states and references become.

        Args:
            call: A name and its arguments -> value.
            build: Keeps a state in a value.
            persistent: A reference to something outside of the pickle -> value.
            resolve: A name as it is found -> what stands for it; raises for names that are refused.
        """
        self._call, self._build, self._persistent, self._resolve = call, build, persistent, resolve
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # Levels below each container, by identity; all values live as long as this does.
        self._depths: dict[int, int] = {}
        self._kept: list[Any] = []

    def run(self, data: bytes) -> Any:
        """The value that a pickle builds.

        Raises:
            CheckpointError: It is damaged, nests too deeply, or holds an opcode that no checkpoint needs.
        """
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > _MOST_OPCODES:
                raise CheckpointError(f"the checkpoint's pickle has more than {_MOST_OPCODES} opcodes: it is refused")
            if opcode.name == "STOP":
                return self._pop()
            handler = self._handlers.get(opcode.name)
            if handler is None:
                raise CheckpointError(
                    f"the checkpoint's pickle has the opcode {opcode.name}, which no checkpoint needs: it is refused"
                )
            handler(self, argument)
        return _damaged()

    # Values on the stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            _damaged()
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            _damaged()
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        try:
            start = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        except ValueError:
            _damaged()
        values = self._stack[start + 1 :]
        del self._stack[start:]
        return values

    def _depth(self, value: Any) -> int:
        return self._depths.get(id(value), 0)

    def _deepen(self, container: Any, values: list[Any]) -> Any:
        """Note how deeply a container nests now."""
        depth = 1 + max(map(self._depth, values), default=0)
        if depth > DEEPEST:
            raise CheckpointError(f"the checkpoint nests values more than {DEEPEST} deep: the file is damaged")
        if id(container) not in self._depths:
            self._kept.append(container)
        self._depths[id(container)] = max(depth, self._depth(container))
        return container

    # What opcodes do

    def _op_mark(self, _: Any) -> None:
        self._push(_MARK)

    def _op_nothing(self, _: Any) -> None:
        """Opcodes about the pickle itself."""

    def _op_constant(self, argument: Any) -> None:
        if isinstance(argument, int) and argument.bit_length() > 8 * _LONGEST_INTEGER:
            _damaged()
        self._push(argument)

    def _op_pop(self, _: Any) -> None:
        if not self._stack:
            _damaged()
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _op_duplicate(self, _: Any) -> None:
        self._push(self._top())

    def _op_tuple_of(self, count: int | None) -> None:
        values = self._pop_to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._push(self._deepen(tuple(values), values) if values else ())

    def _op_list_of(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._push(self._deepen(values, values))

    def _op_dict_of(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._push({})
        self._set_items(self._top(), values)

    def _op_frozenset_of(self, _: Any) -> None:
        self._push(frozenset(map(checked_key, self._pop_to_mark())))

    def _op_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        # Lists of a named class are not needed.
        if type(target) is list:
            target.extend(values)
            self._deepen(target, values)

    def _op_add_items(self, _: Any) -> None:
        values = self._pop_to_mark()
        if type(self._top()) is not set:
            _damaged()
        self._top().update(map(checked_key, values))

    def _op_set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set_items(self._top(), [key, value])

    def _op_set_items(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._set_items(self._top(), values)

    def _set_items(self, target: Any, values: list[Any]) -> None:
        if len(values) % 2:
            _damaged()
        pairs = {checked_key(key): value for key, value in zip(values[0::2], values[1::2], strict=True)}
        if type(target) in (dict, OrderedDict):
            target.update(pairs)
        else:
            self._build(target, pairs)
        self._deepen(target, values[1::2])

    def _op_get(self, index: int) -> None:
        if index not in self._memo:
            _damaged()
        self._push(self._memo[index])

    def _op_put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _op_name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(self._resolve(Global(module, name)))

    def _op_stack_name(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._push(self._resolve(Global(module, name)))

    def _op_reference(self, _: Any) -> None:
        self._push(self._persistent(self._pop()))

    def _op_call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._made(function, arguments)

    def _op_call_with_names(self, _: Any) -> None:
        _names, arguments, function = self._pop(), self._pop(), self._pop()
        self._made(function, arguments)

    def _made(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            _damaged()
        self._push(self._deepen(self._call(function, arguments), list(arguments)))

    def _op_state(self, _: Any) -> None:
        state = self._pop()
        self._build(self._top(), state)
        self._deepen(self._top(), [state])

    _handlers: ClassVar[dict[str, Callable[[Interpreter, Any], None]]] = {
        **dict.fromkeys(_CONSTANTS, _op_constant),
        **dict.fromkeys(("PROTO", "FRAME"), _op_nothing),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _op_get),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _op_put),
        **dict.fromkeys(("REDUCE", "NEWOBJ"), _op_call),
        "NONE": lambda self, _: self._op_constant(None),
        "NEWTRUE": lambda self, _: self._op_constant(argument=True),
        "NEWFALSE": lambda self, _: self._op_constant(argument=False),
        "EMPTY_DICT": lambda self, _: self._op_constant({}),
        "EMPTY_LIST": lambda self, _: self._op_constant([]),
        "EMPTY_SET": lambda self, _: self._op_constant(set()),
        "EMPTY_TUPLE": lambda self, _: self._op_tuple_of(0),
        "TUPLE": lambda self, _: self._op_tuple_of(None),
        "TUPLE1": lambda self, _: self._op_tuple_of(1),
        "TUPLE2": lambda self, _: self._op_tuple_of(2),
        "TUPLE3": lambda self, _: self._op_tuple_of(3),
        "LIST": _op_list_of,
        "DICT": _op_dict_of,
        "FROZENSET": _op_frozenset_of,
        "MARK": _op_mark,
        "POP": _op_pop,
        "POP_MARK": _op_pop_mark,
        "DUP": _op_duplicate,
        "APPEND": _op_append,
        "APPENDS": _op_appends,
        "ADDITEMS": _op_add_items,
        "SETITEM": _op_set_item,
        "SETITEMS": _op_set_items,
        "MEMOIZE": _op_memoize,
        "GLOBAL": _op_name,
        "STACK_GLOBAL": _op_stack_name,
        "BINPERSID": _op_reference,
        "NEWOBJ_EX": _op_call_with_names,
        "BUILD": _op_state,
    }


def checked_key(value: Any) -> Any:
    """A key of a dictionary or a member of a set: plain, or a short tuple of plain values; hashing another could run away.

    Raises:
        CheckpointError: It is something else.
    """
    parts = value[: _LONGEST_KEY + 1] if type(value) is tuple else (value,)
    plain = all(type(part) in _PLAIN and not (type(part) is int and abs(part) > _LARGEST_KEY) for part in parts)
    if not plain or len(parts) > _LONGEST_KEY:
        raise CheckpointError(f"the checkpoint uses a {type(value).__name__} as a key, which no checkpoint does: it is refused")
    return value


def _damaged() -> NoReturn:
    raise CheckpointError("the checkpoint's pickle is damaged: download or save it again")
