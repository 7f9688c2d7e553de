"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from kdump.fleet import views
from kdump.fleet.api import Api
from kdump.fleet.ingest import Writer
from kdump.fleet.service import Service


class Metrics:
    """Counts of this process, and of the fleet's database."""

    def __init__(self, service: Service, writer: Writer, api: Api) -> None:
        self._service, self._writer, self._api = service, writer, api

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        registry = CollectorRegistry()
        Counter("kdump_fleet_reports", "Reports that this process stored", registry=registry).inc(self._writer.accepted)
        Counter("kdump_fleet_counted", "Crashes that this process counted", registry=registry).inc(
            self._service.worker.counted
        )
        refused = Counter("kdump_fleet_refused", "Requests of hosts refused", ["status"], registry=registry)
        for status, number in self._api.refused.items():
            refused.labels(str(status)).inc(number)
        with self._service.database.read() as session:
            totals = views.totals(session, 30)
            alerts = session.all("SELECT state, COUNT(*) AS n FROM outbox WHERE channel <> '' GROUP BY state")
        for name, text in (
            ("waiting", "Crashes that no worker has dealt with yet"),
            ("hosts", "Hosts known"),
            ("unarmed", "Hosts that could not be dumped"),
        ):
            Gauge(f"kdump_fleet_{name}", text, registry=registry).set(totals[name])
        Gauge("kdump_fleet_crashes_30d", "Crashes in 30 days", registry=registry).set(totals["crashes"])
        outbox = Gauge("kdump_fleet_alerts", "Alerts in the outbox", ["state"], registry=registry)
        for row in alerts:
            outbox.labels(row["state"]).set(row["n"])
        return generate_latest(registry)
