"""The capture image's replacement of the standard library's dataclasses: as much of it as is used there.

The standard library writes source for each class and compiles it, and imports what reads source (inspect, ast, dis,
tokenize). Under emulation that is 10 ms a class and 70 ms more, before anything is saved. Here methods are closures.
Tests compare every dataclass of the package with the original.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MISSING: Any = type("MISSING", (), {})()
_FIELDS = "__dataclass_fields__"


class FrozenInstanceError(AttributeError):
    """Somebody assigned to a field of a frozen instance."""


class Field:
    """A field: its `name`, `type` (as written), `default` and `default_factory` (MISSING if it has none)."""

    __slots__ = ("default", "default_factory", "metadata", "name", "type")

    def __init__(self, default: Any, default_factory: Any, metadata: Any) -> None:
        self.default = default
        self.default_factory = default_factory
        self.metadata = metadata or {}
        self.name = ""
        self.type: Any = None


def field(*, default: Any = MISSING, default_factory: Any = MISSING, metadata: Any = None) -> Any:
    """A field with a default."""
    return Field(default, default_factory, metadata)


def dataclass(cls: Any = None, /, *, frozen: bool = False) -> Any:
    """The decorator."""
    return (lambda decorated: _make(decorated, frozen)) if cls is None else _make(cls, frozen)


def fields(instance: Any) -> tuple[Field, ...]:
    """The fields of a dataclass or of its instance."""
    found: dict[str, Field] = getattr(instance, _FIELDS)
    return tuple(found.values())


def is_dataclass(instance: Any) -> bool:
    """Whether it is a dataclass, or an instance of one."""
    return hasattr(instance if isinstance(instance, type) else type(instance), _FIELDS)


def replace(instance: Any, /, **changes: Any) -> Any:
    """A copy with other values for some fields."""
    return type(instance)(**{name: getattr(instance, name) for name in getattr(instance, _FIELDS)} | changes)


def asdict(instance: Any) -> dict[str, Any]:
    """Fields by name; dataclasses in fields, lists, tuples and dictionaries become dictionaries too."""
    return {name: _plain(getattr(instance, name)) for name in getattr(instance, _FIELDS)}


def _plain(value: Any) -> Any:
    if hasattr(type(value), _FIELDS):
        return asdict(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_plain, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return type(value)((_plain(key), _plain(each)) for key, each in value.items())
    return value


def _make(cls: Any, frozen: bool) -> Any:
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        found.update(getattr(base, _FIELDS, {}))
    for name, kind in vars(cls).get("__annotations__", {}).items():
        default = cls.__dict__.get(name, MISSING)
        each = default if isinstance(default, Field) else Field(default, MISSING, None)
        each.name, each.type = name, kind
        if each is default:
            if each.default is MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, each.default)
        found[name] = each
    names = tuple(found)
    setattr(cls, _FIELDS, found)
    setattr(cls, "__match_args__", names)  # noqa: B010 -- mypy knows better than to assign it

    def values(self: Any) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in names])

    def __init__(self: Any, *args: Any, **given: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__}() takes {len(names)} arguments, {len(args)} were given")
        place = self.__dict__  # past __setattr__: the instance may be frozen
        place.update(zip(names, args, strict=False))
        for name in names[len(args) :]:
            if name in given:
                place[name] = given.pop(name)
                continue
            each = found[name]
            if each.default is not MISSING:
                place[name] = each.default
            elif each.default_factory is not MISSING:
                place[name] = each.default_factory()
            else:
                raise TypeError(f"{cls.__name__}() misses the argument {name!r}")
        if given:
            raise TypeError(f"{cls.__name__}() takes no {', '.join(map(repr, given))}, or not twice")

    def __repr__(self: Any) -> str:
        return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __eq__(self: Any, other: Any) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(values(self))

    def __setattr__(_self: Any, name: str, _value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(_self: Any, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    made = [__init__, __repr__, __eq__, *([__setattr__, __delattr__] if frozen else [])]
    for method in made:
        if method.__name__ not in cls.__dict__:
            method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
            setattr(cls, method.__name__, method)
    if cls.__dict__.get("__hash__") is None:  # defining __eq__ sets it to None
        cls.__hash__ = __hash__ if frozen else None
    return cls
