"""The pages: server-rendered, whole without a script; every one says who may see it.

The one script is htmx (static/htmx.min.js, version 2.0.11, Zero-Clause BSD, unchanged): filters need no new page. It
may not evaluate code, run scripts in what it fetches, ask other servers, or keep pages in the browser's storage.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs, quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from kdump.errors import KdumpError, UsageError
from kdump.fleet import alerts, asked, auth, charts, child, groups, oidc, policy, programs, rates, render, views
from kdump.fleet.auth import COOKIE, NOBODY, Person
from kdump.fleet.database import Session
from kdump.fleet.render import drawn
from kdump.fleet.service import Service

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; frame-src 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;"
    " frame-ancestors 'self'"
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_FORM: Final = 256 << 10
_SIGN_IN_PAUSE: Final = 1.0  # seconds after a wrong password

Handler = Callable[["Pages", Request, Person], Awaitable[Response]]


class Pages:
    """Routes for people."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._revocations = auth.Revocations(service.database)
        self._reports = asyncio.Semaphore(2)  # children that make a report for a reader
        wanted = service.options.oidc
        self.oidc = oidc.Provider(wanted, service.options.page) if wanted else None

    def routes(self) -> list[BaseRoute]:
        """The routes, and the role for each."""
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", "/", "metadata", Pages.groups),
            ("GET", "/groups/{number:int}", "metadata", Pages.group),
            ("POST", "/groups/{number:int}", "engineer", Pages.edit_group),
            ("POST", "/groups/{number:int}/merge", "engineer", Pages.merge),
            ("POST", "/groups/{number:int}/split", "engineer", Pages.split),
            ("GET", "/crashes", "metadata", Pages.crashes),
            ("GET", "/crashes/{number:int}", "metadata", Pages.crash),
            ("POST", "/crashes/{number:int}/adopt", "engineer", Pages.adopt),
            ("GET", "/crashes/{number:int}/report.json", "report", Pages.report_json),
            ("GET", "/crashes/{number:int}/report.html", "report", Pages.report_html),
            ("GET", "/crashes/{number:int}/log", "report", Pages.log),
            ("GET", "/crashes/{number:int}/files/{name}", "dump", Pages.file),
            ("GET", "/hosts", "metadata", Pages.hosts),
            ("GET", "/hosts/{name}", "metadata", Pages.host),
            ("POST", "/hosts/{name}/want", "engineer", Pages.want),
            ("GET", "/kernels", "metadata", Pages.kernels),
            ("GET", "/kernels/compare", "metadata", Pages.compare),
            ("GET", "/search", "metadata", Pages.search),
            ("GET", "/alerts", "metadata", Pages.alerts),
            ("POST", "/alerts/{number:int}/again", "admin", Pages.send_again),
            ("GET", "/admin", "admin", Pages.admin),
            ("POST", "/admin/policy", "admin", Pages.set_policy),
            ("POST", "/admin/channels", "admin", Pages.set_channels),
            *(("GET", path, "metadata", _json(look)) for path, look in programs.TABLE.items()),
            ("GET", "/sign-in", "none", Pages.sign_in),
            ("POST", "/sign-in", "none", Pages.do_sign_in),
            ("GET", "/sign-in/oidc", "none", Pages.oidc_begin),
            ("GET", oidc.BACK, "none", Pages.oidc_end),
            ("POST", "/sign-out", "none", Pages.sign_out),
        ]
        return [Route(path, self._guard(role, handler), methods=[method]) for method, path, role, handler in table]

    def _guard(self, role: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            person = self.person(request)
            try:
                if await self._revocations.holds(_given(request)):
                    person = Person("", self.service.options.open_to)
                if not person.may(role):
                    return self._not_allowed(request, person)
                if request.method == "POST" and handler is not Pages.do_sign_in:
                    request.state.form = await _form(request)
                    if request.state.form.get("key", [""])[0] != self.service.keys.form_key(person):
                        return self.message(request, person, 403, "This form is too old", "Load the page again.")
                return await handler(self, request, person)
            except UsageError as error:
                return self.message(request, person, 400, error.what, error.why, error.remedy)
            except KdumpError as error:
                return self.message(request, person, 404, error.what, error.why, error.remedy)
            except ValueError:
                return self.message(request, person, 400, "The address has a value that is not possible")

        return answer

    def person(self, request: Request) -> Person:
        """Who asks: by cookie, or by a bearer token that holds the same (for programs)."""
        cookie = _given(request)
        try:
            found = self.service.keys.person_of(cookie, time.time()) if cookie else NOBODY
        except ValueError:
            found = NOBODY
        return found if found.name else Person("", self.service.options.open_to)

    def _not_allowed(self, request: Request, person: Person) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": "not allowed"}, 403 if person.name else 401, HEADERS)
        if person.name:
            return self.message(request, person, 403, "Your role does not allow this", f"It is “{person.role}”.")
        where = "/sign-in?next=" + quote(request.url.path)
        if "hx-request" in request.headers:  # a filter, which would put the form for signing in into the page
            return Response("", 200, HEADERS | {"hx-redirect": where})
        return RedirectResponse(where, 303, HEADERS)

    async def read(self, look: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A view, out of the event loop."""

        def work() -> Any:
            with self.service.database.read() as session:
                return look(session, *args, **options)

        return await asyncio.to_thread(work)

    async def write(self, work: Callable[[Session], Any]) -> Any:
        """A transaction, out of the event loop."""
        return await asyncio.to_thread(self.service.database.run, work)

    def page(self, request: Request, person: Person, template: str, code: int = 200, **values: Any) -> Response:
        """A page from a template."""
        here = "/" + request.url.path.split("/")[1]
        text = render.environment().get_template(template).render(
            person=person, here=here, form_key=self.service.keys.form_key(person), **values
        )  # fmt: skip
        return Response(render.DIRECTIONS.sub("", text), code, HEADERS, "text/html")

    def message(
        self, request: Request, person: Person, status: int, what: str, why: str = "", remedy: str = ""
    ) -> Response:
        """A page that says one thing."""
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": what, "why": why}, status, HEADERS)
        return self.page(request, person, "message.html", status, what=what, why=why, remedy=remedy)

    async def groups(self, request: Request, person: Person) -> Response:
        """The first page."""
        wanted = asked.group_list(request)
        found = await self.read(views.group_list, **wanted)
        totals = await self.read(views.totals, wanted["days"])
        return self.page(request, person, "groups.html", totals=totals, windows=views.WINDOWS, **found)

    async def group(self, request: Request, person: Person) -> Response:
        """One group."""
        number = asked.number(request)
        found = await self.read(views.group, number)
        if found is None:
            raise KdumpError(f"There is no group {number}")
        for each in found["near"]:
            each["diff"] = views.stack_diff(found["frames"], each["frames"].split("\n"))
        chart = charts.stacked(found["trend"], found["since"], views.today(), "Crashes a day, by kernel")
        rows = [(r.kernel or "not known", r.rate, r.low, r.high) for r in found.pop("rates")[:12] if r.rate is not None]
        rate_chart = charts.intervals(rows, "Crashes of this group per 1,000 host-days, 95 %", "per 1,000 host-days")
        found |= {"chart": drawn(chart), "rate_chart": drawn(rate_chart)}
        return self.page(request, person, "group.html", **found)

    async def edit_group(self, request: Request, person: Person) -> Response:
        """Status, owner, link, fixed in, collect."""
        number, form = asked.number(request), request.state.form

        def work(session: Session) -> None:
            for field in ("status", "owner", "link", "fixed_in", "collect"):
                if field in form:
                    groups.edit(session, number, person.name, field, form[field][0])

        await self.write(work)
        return RedirectResponse(f"/groups/{number}", 303, HEADERS)

    async def merge(self, request: Request, person: Person) -> Response:
        """One group into another."""
        number, into = asked.number(request), int(request.state.form.get("into", ["-1"])[0])
        await self.write(lambda session: groups.merge(session, number, into, person.name))
        return RedirectResponse(f"/groups/{into}", 303, HEADERS)

    async def split(self, request: Request, person: Person) -> Response:
        """Signatures out of a group."""
        number, chosen = asked.number(request), request.state.form.get("signature", [])
        new = await self.write(lambda session: groups.split(session, number, chosen, person.name))
        return RedirectResponse(f"/groups/{new}", 303, HEADERS)

    async def crashes(self, request: Request, person: Person) -> Response:
        """The newest."""
        before, unsigned = asked.bounded(request, "before"), bool(request.query_params.get("unsigned"))
        return self.page(
            request, person, "crashes.html", **await self.read(views.crash_list, unsigned=unsigned, before=before)
        )

    async def crash(self, request: Request, person: Person) -> Response:
        """One crash, with as much of its report as the role may see."""
        number = asked.number(request)
        found = await self.read(views.crash, number)
        if found is None:
            raise KdumpError(f"There is no crash {number}")
        body = await self.read(views.body, number) if person.may("report") else None
        report = body["report"] if body and isinstance(body["report"], dict) else {}
        verdict: dict[str, Any] = report["verdict"] if isinstance(report.get("verdict"), dict) else {}
        frames = verdict.get("frames") or (found["crash"]["frames"].split("\n") if found["crash"]["frames"] else [])
        lines = list(render.function_lines(frames)) if frames and isinstance(frames[0], dict) else frames
        findings: list[Any] = report["findings"] if isinstance(report.get("findings"), list) else []
        return self.page(
            request, person, "crash.html", **found, frames=lines,
            verdict={"explanation": str(verdict.get("explanation") or "")[:2000]},
            findings=[
                {"severity": str(each.get("severity", ""))[:20], "text": str(each.get("text", ""))[:500]}
                for each in findings[:50] if isinstance(each, dict)
            ],
            sections=render.sections(report), has_log=bool(body and body["log"]),
        )  # fmt: skip

    async def adopt(self, request: Request, person: Person) -> Response:
        """A crash without a signature into a group."""
        number, into = asked.number(request), int(request.state.form.get("into", ["-1"])[0] or -1)
        await self.write(lambda session: groups.adopt(session, number, into, person.name))
        return RedirectResponse(f"/crashes/{number}", 303, HEADERS)

    async def report_json(self, request: Request, person: Person) -> Response:
        """The report by the host or by a worker."""
        body = await self._body(request)
        headers = HEADERS | {"content-disposition": 'attachment; filename="report.json"'}
        return Response(json.dumps(body["report"], indent=1), 200, headers, "application/json")

    async def log(self, request: Request, person: Person) -> Response:
        """The kernel's log, as text."""
        body = await self._body(request)
        return Response(str(body["log"]), 200, HEADERS, "text/plain; charset=utf-8")

    async def report_html(self, request: Request, person: Person) -> Response:
        """Our HTML report on the log: made in a child with limits, shown without any right of this site."""
        body = await self._body(request)
        if not body["log"]:
            raise KdumpError("There is no log to report on")

        async with self._reports:
            page = await asyncio.to_thread(child.report_on_log, str(body["log"]), "html")
        return Response(page, 200, HEADERS | {"content-security-policy": _REPORT_POLICY}, "text/html")

    async def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] | None = await self.read(views.body, asked.number(request))
        if body is None:
            raise KdumpError("Nothing is stored of this crash but its row")
        return body

    async def file(self, request: Request, person: Person) -> Response:
        """A dump: memory of a machine, so who fetched it is noted."""
        number, name = asked.number(request), request.path_params["name"]
        found = await self.read(views.crash, number)
        row = next((each for each in (found or {"files": []})["files"] if each["name"] == name), None)
        if row is None:
            raise KdumpError("There is no such file")
        await self.write(
            lambda session: groups.note(session, person.name, "fetched", found["crash"]["grp"], f"{row['place']}")
        )
        headers = HEADERS | {
            "content-disposition": f'attachment; filename="{name}"',
            "content-length": str(row["size"]),
        }
        return StreamingResponse(self.service.objects.get(row["place"]), 200, headers, "application/octet-stream")

    async def hosts(self, request: Request, person: Person) -> Response:
        """Hosts by crashes, unarmed, or suspected."""
        found = await self.read(views.host_list, **asked.host_list(request))
        return self.page(request, person, "hosts.html", **found)

    async def host(self, request: Request, person: Person) -> Response:
        """One host."""
        found = await self.read(views.host, request.path_params["name"])
        if found is None:
            raise KdumpError("There is no such host")
        return self.page(request, person, "host.html", **found)

    async def want(self, request: Request, person: Person) -> Response:
        """Ask for a host's dumps, or stop asking."""
        name, want = request.path_params["name"], int(request.state.form.get("want", ["0"])[0] == "1")

        def work(session: Session) -> None:
            session.execute("UPDATE hosts SET want_dump = ? WHERE host = ?", want, name)
            groups.note(session, person.name, "dumps wanted" if want else "dumps not wanted", None, name)

        await self.write(work)
        return RedirectResponse(f"/hosts/{quote(name)}", 303, HEADERS)

    async def kernels(self, request: Request, person: Person) -> Response:
        """Rates by kernel."""
        found = await self.read(views.kernels, 30)
        return self.page(request, person, "kernels.html", chart=_rate_chart(found["rates"][:16]), **found)

    async def compare(self, request: Request, person: Person) -> Response:
        """Two kernels."""
        found = await self.read(views.compare, **asked.kernels(request))
        return self.page(request, person, "compare.html", chart=_rate_chart([found["old"], found["new"]]), **found)

    async def search(self, request: Request, person: Person) -> Response:
        """Anything by its name."""
        text = asked.word(request, "q", 200)
        if not text:
            return RedirectResponse("/", 303, HEADERS)
        found = await self.read(views.search, text)
        return self.page(request, person, "search.html", text_sought=text, **found)

    async def alerts(self, request: Request, person: Person) -> Response:
        """The alerts, and those that could not be sent."""
        found = await self.read(views.alert_list, asked.bounded(request, "page", 10_000))
        return self.page(request, person, "alerts.html", **found)

    async def send_again(self, request: Request, person: Person) -> Response:
        """A person decides that an alert did not arrive."""
        number = asked.number(request)

        def work(session: Session) -> None:
            session.execute(
                "UPDATE outbox SET state = 'due', tries = 0, due = 0 WHERE id = ? AND state IN ('unsure', 'failed')",
                number,
            )
            groups.note(session, person.name, "alert sent again", None, str(number))

        await self.write(work)
        return RedirectResponse("/alerts", 303, HEADERS)

    async def admin(self, request: Request, person: Person) -> Response:
        """Policy, channels, people, state."""

        def look(session: Session) -> dict[str, Any]:
            return {
                "policy": policy.load(session),
                "channels": json.dumps([_hidden(each) for each in alerts.channels(session)], indent=1),
                "people": session.all("SELECT name, role FROM people ORDER BY name"),
                "audit": session.all("SELECT * FROM audit ORDER BY id DESC LIMIT 100"),
                "waiting": views.totals(session)["waiting"],
            }

        index = self.service.index()
        known = f"{len(index.entries):,} faults, {index.made}" if index else "no index: `kdump fleet known --build`"
        engine = "PostgreSQL" if self.service.database.postgres else "SQLite"
        store = self.service.objects.url.partition("?")[0]
        return self.page(
            request, person, "admin.html", engine=engine, store=store, known=known, **await self.read(look)
        )

    async def set_policy(self, request: Request, person: Person) -> Response:
        """Which dumps are wanted."""
        form = {name: values[0] for name, values in request.state.form.items()}
        wanted = policy.Policy(
            first=_within(form, "first", 0, 1000, int), sample=_within(form, "sample", 0, 1, float),
            level=_within(form, "level", 0, 31, int), new_for=_within(form, "new_for", 0, 1e7, float),
            new_most=_within(form, "new_most", 0, 10_000, int),
        )  # fmt: skip

        def work(session: Session) -> None:
            policy.save(session, wanted)
            groups.note(session, person.name, "policy", None, str(wanted))

        await self.write(work)
        return RedirectResponse("/admin", 303, HEADERS)

    async def set_channels(self, request: Request, person: Person) -> Response:
        """Where alerts go."""
        try:
            wanted = json.loads(request.state.form.get("channels", ["[]"])[0])
        except (ValueError, RecursionError) as error:
            raise UsageError("The channels are not JSON", why=str(error)) from None
        if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
            raise UsageError("The channels are a list of objects")
        wanted = [{str(name): str(value) for name, value in each.items()} for each in wanted]

        def work(session: Session) -> None:
            tokens = {each["name"]: each.get("token", "") for each in alerts.channels(session)}
            for each in wanted:
                if each.get("token") == _HIDDEN:
                    each["token"] = tokens.get(each.get("name", ""), "")
            alerts.set_channels(session, wanted)
            groups.note(session, person.name, "channels", None, ", ".join(each["name"] for each in wanted))

        await self.write(work)
        return RedirectResponse("/admin", 303, HEADERS)

    async def sign_in(self, request: Request, person: Person) -> Response:
        """The form."""
        return self._sign_in(request, _local(request.query_params.get("next", "/")))

    def _sign_in(self, request: Request, after: str, problem: str = "", status: int = 200) -> Response:
        return self.page(request, NOBODY, "sign-in.html", status, next=after, problem=problem, oidc=self.oidc)

    async def do_sign_in(self, request: Request, person: Person) -> Response:
        """Name and password for a cookie."""
        form = {name: values[0] for name, values in (await _form(request)).items()}
        after = _local(form.get("next", "/"))
        try:
            found = await self.read(auth.sign_in, form.get("name", ""), form.get("password", ""))
        except KdumpError as error:
            await asyncio.sleep(_SIGN_IN_PAUSE)
            return self._sign_in(request, after, error.what, 403)
        return self.signed_in(request, found, after)

    async def oidc_begin(self, request: Request, person: Person) -> Response:
        """To the provider."""
        if self.oidc is None:
            raise KdumpError("There is no provider to sign in at", remedy="`kdump fleet serve --oidc` names one")
        try:
            where, kept = await self.oidc.begin()
        except KdumpError as error:
            return self._sign_in(request, "/", f"{error.what}: {error.why}", 502)
        kept["next"] = _local(request.query_params.get("next", "/"))
        answer = RedirectResponse(where, 303, HEADERS)
        cookie = self.service.keys.sealed(oidc.COOKIE, kept, time.time() + oidc.WITHIN)
        secure = self.service.options.page.startswith("https:")
        answer.set_cookie(
            oidc.COOKIE, cookie, oidc.WITHIN, path="/sign-in", httponly=True, samesite="lax", secure=secure
        )
        return answer

    async def oidc_end(self, request: Request, person: Person) -> Response:
        """Back from the provider."""
        query = request.query_params
        kept = self.service.keys.unsealed(oidc.COOKIE, request.cookies.get(oidc.COOKIE, ""), time.time())
        if self.oidc is None or kept is None or not hmac.compare_digest(
            kept["state"].encode(), query.get("state", "").encode()
        ):  # fmt: skip
            return self._sign_in(request, "/", "This sign-in was not begun here, or it took too long", 400)
        if not query.get("code"):
            return self._sign_in(request, kept["next"], f"The provider refused: {query.get('error', '')[:100]}", 403)
        try:
            found = await self.oidc.end(query["code"], kept)
        except KdumpError as error:
            return self._sign_in(request, kept["next"], f"{error.what}: {error.why}", 403)
        if found.role == "none":
            return self._sign_in(request, kept["next"], f"{found.name} has no role here", 403)
        answer = self.signed_in(request, found, kept["next"])
        answer.delete_cookie(oidc.COOKIE, path="/sign-in")
        return answer

    def signed_in(self, request: Request, person: Person, after: str) -> Response:
        """The answer that gives a browser its cookie."""
        answer = RedirectResponse(after, 303, HEADERS)
        secure = request.url.scheme == "https" or self.service.options.page.startswith("https:")
        cookie = self.service.keys.cookie(person, time.time())
        answer.set_cookie(COOKIE, cookie, auth.SESSION, httponly=True, samesite="lax", secure=secure)
        return answer

    async def sign_out(self, request: Request, person: Person) -> Response:
        """Forget the cookie."""
        answer = RedirectResponse("/", 303, HEADERS)
        answer.delete_cookie(COOKIE)
        return answer


_HIDDEN: Final = "(kept)"


def _hidden(channel: dict[str, str]) -> dict[str, str]:
    return {**channel, "token": _HIDDEN} if channel.get("token") else channel


def _given(request: Request) -> str:
    given = request.headers.get("authorization", "")
    return given[7:].strip() if given[:7].lower() == "bearer " else request.cookies.get(COOKIE, "")


def _json(look: Callable[[programs.Read, Request], Awaitable[Any]]) -> Handler:
    async def answer(pages: Pages, request: Request, _person: Person) -> Response:
        return JSONResponse(programs.plain(await look(pages.read, request)), 200, HEADERS)

    return answer


def _rate_chart(found: list[rates.Rate]) -> Markup:
    rows = [(r.kernel or "not known", r.rate, r.low or 0.0, r.high or 0.0) for r in found if r.rate is not None]
    return drawn(charts.intervals(rows, "Crashes per 1,000 host-days, 95 %", "per 1,000 host-days"))


def _within(form: dict[str, str], name: str, low: float, high: float, kind: Callable[[str], Any]) -> Any:
    try:
        value = kind(form.get(name, ""))
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise UsageError(f"{name} is a number from {low:g} to {high:g}")
    return value


def _local(path: str) -> str:
    """Where to go after signing in: only a page of ours."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


async def _form(request: Request) -> dict[str, list[str]]:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > _FORM:
            raise UsageError("the form is too large")
        pieces.append(piece)
    text = b"".join(pieces).decode("utf-8", "replace").replace("\0", "")
    return parse_qs(text, keep_blank_values=True, max_num_fields=200)


def static(name: str) -> FileResponse:
    """A file beside the templates."""
    headers = {"cache-control": "max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return FileResponse(render.HERE / "static" / name, headers=headers)
