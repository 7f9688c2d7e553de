"""The query of a request, with bounds."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from kdump.fleet import groups, views


def number(request: Request) -> int:
    """The number in the path."""
    return min(int(request.path_params["number"]), (1 << 63) - 1)


def bounded(request: Request, name: str, most: int = 1 << 53) -> int:
    """A number of the query; 0 for whatever is not one."""
    text = request.query_params.get(name, "0")
    return min(most, int(text)) if text.isascii() and text.isdigit() and len(text) < 18 else 0


def word(request: Request, name: str, most: int = 128) -> str:
    """A text of the query."""
    return request.query_params.get(name, "").strip()[:most].replace("\0", "")


def group_list(request: Request) -> dict[str, Any]:
    """For `views.group_list`."""
    asked = request.query_params
    days = bounded(request, "days")
    return {
        "days": days if days in views.WINDOWS else 30,
        "status": asked.get("status", "open") if asked.get("status", "open") in ("", *groups.STATUSES) else "open",
        "kernel": word(request, "kernel"),
        "text": word(request, "text"),
        "page": bounded(request, "page", 10_000),
    }


def host_list(request: Request) -> dict[str, Any]:
    """For `views.host_list`."""
    which = request.query_params.get("which", "crashed")
    which = which if which in ("crashed", "unarmed", "suspect") else "crashed"
    return {"which": which, "page": bounded(request, "page", 10_000)}


def kernels(request: Request) -> dict[str, Any]:
    """For `views.compare`."""
    return {"old": word(request, "old"), "new": word(request, "new")}
