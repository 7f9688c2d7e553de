"""The capture image's replacement of the standard library's typing: names for annotations, bases of classes.

The standard library's is 120 KB of source, most of it for those who ask about types; under emulation its import takes
70 ms. Of the rest as much is here as is used in the image: bases of classes, and `get_type_hints` of plain ones. What
is not here by name can be subscripted, called and or'ed, and is otherwise nothing.
"""

from __future__ import annotations

import collections
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Form:
    """A name for annotations."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getitem__(self, _of: object) -> _Form:
        return self

    def __or__(self, _other: object) -> _Form:
        return self

    __ror__ = __or__

    def __call__(self, *given: object, **_options: object) -> object:
        """Decorators and assertions give what they are given."""
        return given[-1] if given else self

    def __mro_entries__(self, _bases: object) -> tuple[type, ...]:
        return ()


def TypeVar(name: str, *_bounds: object, **_options: object) -> _Form:
    """A name for annotations, too."""
    return _Form(name)


def __getattr__(name: str) -> _Form:
    if name.startswith("__"):
        raise AttributeError(name)
    form = globals()[name] = _Form(name)
    return form


class Generic:
    """A base that can be subscripted."""

    __slots__ = ()

    def __class_getitem__(cls, _of: object) -> type:
        return cls


class _Structural(type):
    def __instancecheck__(cls, instance: object) -> bool:
        """By methods, where `runtime_checkable` says so, or as usual."""
        wanted = cls.__dict__.get("_methods")
        return all(hasattr(instance, name) for name in wanted) if wanted else super().__instancecheck__(instance)


class Protocol(Generic, metaclass=_Structural):
    """A base whose instances may be told by their methods."""

    __slots__ = ()


def runtime_checkable(cls: type) -> type:
    """Instances are told by their methods."""
    setattr(cls, "_methods", [name for name in vars(cls) if not name.startswith("_")])  # noqa: B010 -- mypy
    return cls


class _Named(type):
    """Makes the named tuple that is described as a class."""

    def __new__(mcs, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> Any:
        if bases != (_tuple,):
            raise TypeError(f"{name} has more bases than NamedTuple")
        names = list(members["__annotations__"])  # as a dictionary, which Python 3.14 does not always have there
        defaults = [members.pop(each) for each in names if each in members]
        make: Any = collections.namedtuple
        made = make(name, names, defaults=defaults, module=members["__module__"])
        for member, value in members.items():
            setattr(made, member, value)
        return made


_tuple = type.__new__(_Named, "NamedTuple", (), {})


class _NamedTuple(_Form):
    def __mro_entries__(self, _bases: object) -> tuple[type, ...]:
        return (_tuple,)


class _TypedDict(_Form):
    def __mro_entries__(self, _bases: object) -> tuple[type, ...]:
        return (dict,)

    def __call__(self, *_given: object, **_options: object) -> type:
        return dict


NamedTuple, TypedDict = _NamedTuple("NamedTuple"), _TypedDict("TypedDict")


def get_type_hints(named: Any) -> dict[str, object]:
    """The annotations of a class and its bases, evaluated."""
    found: dict[str, object] = {}
    for base in reversed(named.__mro__):
        names = vars(sys.modules[base.__module__])
        for name, hint in vars(base).get("__annotations__", {}).items():
            found[name] = eval(hint, names) if isinstance(hint, str) else hint  # noqa: S307 -- source of ours
    return found


def get_origin(hint: object) -> object:
    """The subscripted object of a hint, or None."""
    return type(hint) if type(hint).__name__ == "UnionType" else getattr(hint, "__origin__", None)


def get_args(hint: object) -> tuple[object, ...]:
    """The subscripts of a hint."""
    return getattr(hint, "__args__", ())
