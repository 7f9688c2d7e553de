"""A property that is worked out once, whether it succeeds or fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from kdump.errors import KdumpError

T = TypeVar("T")


class remembered(Generic[T]):
    """As functools.cached_property, but a `KdumpError` is remembered too: what was searched in vain is not again."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self._name = find.__name__
        self.__doc__ = find.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> remembered[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> T | remembered[T]:
        """Find, and keep what was found in the instance, where it hides this property."""
        if instance is None:
            return self
        kept = instance.__dict__
        if (failure := kept.get(f"{self._name} failed")) is not None:
            raise failure.with_traceback(None)
        try:
            found = kept[self._name] = self._find(instance)
        except KdumpError as error:
            kept[f"{self._name} failed"] = error
            raise
        return found
