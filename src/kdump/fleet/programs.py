"""JSON for programs: the views that the pages show, for the same roles. Described by static/openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from kdump.errors import KdumpError
from kdump.fleet import asked, views
from kdump.fleet.rates import Rate

Read = Callable[..., Awaitable[Any]]  # Pages.read


async def groups(read: Read, request: Request) -> Any:
    """Groups by their crashes lately."""
    return await read(views.group_list, **asked.group_list(request))


async def group(read: Read, request: Request) -> Any:
    """One group."""
    return await read(views.group, asked.number(request))


async def crash(read: Read, request: Request) -> Any:
    """One crash."""
    return await read(views.crash, asked.number(request))


async def hosts(read: Read, request: Request) -> Any:
    """Hosts by crashes, unarmed, or suspected."""
    return await read(views.host_list, **asked.host_list(request))


async def host(read: Read, request: Request) -> Any:
    """One host."""
    return await read(views.host, request.path_params["name"])


async def kernels(read: Read, request: Request) -> Any:
    """Rates by kernel."""
    return await read(views.kernels, 30)


async def compare(read: Read, request: Request) -> Any:
    """Two kernels."""
    return await read(views.compare, **asked.kernels(request))


async def search(read: Read, request: Request) -> Any:
    """Anything by its name."""
    text = asked.word(request, "q", 200)
    return await read(views.search, text) if text else {"text": "", "groups": [], "hosts": [], "crashes": []}


TABLE: dict[str, Callable[[Read, Request], Awaitable[Any]]] = {
    "/api/groups": groups,
    "/api/groups/{number:int}": group,
    "/api/crashes/{number:int}": crash,
    "/api/hosts": hosts,
    "/api/hosts/{name}": host,
    "/api/kernels": kernels,
    "/api/kernels/compare": compare,
    "/api/search": search,
}


def plain(found: Any) -> Any:
    """A view's answer as JSON has it. Raises `KdumpError` if there is nothing."""
    if found is None:
        raise KdumpError("there is nothing of this name or number")
    return {
        name: vars(value) if isinstance(value, Rate)
        else [vars(each) if isinstance(each, Rate) else each for each in value] if isinstance(value, list)
        else value
        for name, value in found.items()
    }  # fmt: skip
