"""The composition root: settings become services, services become one ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from sdx_hub.adapters.clock import CorrectedClock
from sdx_hub.adapters.storage import Storage
from sdx_hub.adapters.tracing import Tracing
from sdx_hub.api.application import application
from sdx_hub.api.edge import Edge
from sdx_hub.api.hub import Hub
from sdx_hub.api.metrics import Metrics, Sources
from sdx_hub.api.poll import PollPath
from sdx_hub.api.shedding import Shedding
from sdx_hub.api.traced import Traced
from sdx_hub.domain.rollout.completing import Defaults
from sdx_hub.ending import Ending
from sdx_hub.loops import Loops
from sdx_hub.observing import observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.notices import Notices
from sdx_hub.persistence.unit_of_work import EVENTS_CHANNEL, FLEET_CHANNEL, TRUST_CHANNEL
from sdx_hub.services.audit_log import AuditLogService
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.devices.devices import DeviceService
from sdx_hub.services.devices.enrolment import EnrolmentService
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.previewing import PreviewService
from sdx_hub.services.devices.reports import ReportService
from sdx_hub.services.devices.saved_filters import FilterService
from sdx_hub.services.devices.token_rotation import TokenRotation
from sdx_hub.services.events import feed, progress
from sdx_hub.services.health import HealthService
from sdx_hub.services.idempotency import IdempotencyService
from sdx_hub.services.people import PeopleService
from sdx_hub.services.releases.releases import ReleaseService
from sdx_hub.services.releases.target_index import TargetIndex
from sdx_hub.services.releases.upload_figures import upload_figures
from sdx_hub.services.releases.uploads import UploadService
from sdx_hub.services.repositories.director import Director
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.services.repositories.roots import TrustRoots
from sdx_hub.services.repositories.trust_alarms import expiries
from sdx_hub.services.repositories.trust_overview import TrustOverview
from sdx_hub.services.rollouts.commands.pins import PinService
from sdx_hub.services.rollouts.commands.rollouts import RolloutService
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from sdx_hub.services.rollouts.engine.leadership import Leadership
from sdx_hub.services.rollouts.engine.rollout_figures import rollout_figures
from sdx_hub.services.rollouts.planning.planning import PlanningService
from sdx_hub.services.rollouts.showing.evidence import EvidenceService
from sdx_hub.services.rollouts.showing.explaining_rows import ExplainingService
from sdx_hub.services.rollouts.showing.memberships import MembershipService
from sdx_hub.services.rollouts.showing.views import RolloutViews
from sdx_hub.services.shared_time import LOOK_S, SharedTime
from sdx_hub.services.webhooks import delivering
from sdx_hub.services.webhooks.queue import DeliveryQueue
from sdx_hub.services.webhooks.sending import Sender
from sdx_hub.services.webhooks.webhook_figures import webhook_figures
from sdx_hub.services.webhooks.webhooks import WebhookService
from sdx_hub.settings import Settings
from sdx_hub.trust.online import Lives, OnlineSigners

_SWEEP_S = 3600.0
_NOTE_S, _NOTE_RARELY_S = 1.0, 30.0
_VERSION = version("sdx-hub")


def create_app(
    settings: Settings, on_ready: Callable[[], None] = lambda: None, ending: Ending | None = None
) -> PollPath:
    """Make the hub as one ASGI application; it starts and stops with the server's lifespan events.

    The database must be at this program's version, and a ceremony must have been imported: see `sdx hub init`.

    Args:
        settings: Of the hub.
        on_ready: Called inside the running event loop once requests can be answered.
        ending: Says when the server was told to end, before it stops the services.
    """
    tracing = Tracing(settings.otlp_endpoint, _VERSION) if settings.otlp_endpoint else None

    @asynccontextmanager
    async def running() -> AsyncIterator[Hub]:
        async with _running(settings, outermost, shedding) as hub:
            if ending is not None:
                ending.on(hub.events.close)
            on_ready()
            yield hub
        if tracing is not None:
            await asyncio.to_thread(tracing.stop)

    shedding = Shedding(application(running, _VERSION), settings.max_in_flight, settings.poll_interval_s)
    if tracing is None:
        outermost = PollPath(Edge(shedding))
    else:
        observed.span = tracing.span
        outermost = PollPath(Traced(Edge(shedding), tracing))
    return outermost


@asynccontextmanager
async def _running(settings: Settings, poll: PollPath, shedding: Shedding) -> AsyncIterator[Hub]:
    clock = CorrectedClock()
    async with AsyncExitStack() as at_end:
        database = await Database.open(settings.database, clock)
        at_end.push_async_callback(database.close)
        shared_time = SharedTime(database, clock)
        await shared_time.look()
        lives = _lives(settings)
        signers = OnlineSigners(settings.online_dir)
        image = ImageRepository(database, clock, signers, lives)
        await image.load()
        director = Director(database, clock, signers, lives, image)
        await director.load()
        fleet = FleetState(database, clock, _poll_settings(settings))
        await fleet.load()
        storage = Storage(settings.blobs, settings.blob_key_id, settings.blob_secret, settings.uploads_dir)
        uploads = UploadService(database, clock, storage)
        at_end.push_async_callback(uploads.close)
        reports = ReportService(database, clock, fleet)
        assigning = AssigningService(database, clock, fleet)
        events = feed.EventFeed(database, settings.max_event_streams)
        plain = settings.environment == "development"
        deliveries = DeliveryQueue(database, clock)
        planning = PlanningService(database, clock, storage.served, _order_defaults(settings))
        worker = delivering.DeliveryWorker(deliveries, Sender(_VERSION, plain=plain), clock)
        at_end.push_async_callback(worker.stop)
        hub = Hub(
            people=PeopleService(database, clock),
            enrolment=EnrolmentService(database, clock, TrustRoots(database, image), fleet),
            devices=DeviceService(database, clock),
            previews=PreviewService(database, clock),
            filters=FilterService(database, clock),
            assigning=assigning,
            rotation=TokenRotation(database, clock, fleet, timedelta(seconds=settings.token_life_s)),
            reports=reports,
            releases=ReleaseService(database, clock, image, blobs=storage.blobs, uploads=uploads, assigning=assigning),
            uploads=uploads,
            planning=planning,
            rollouts=RolloutService(database, clock, fleet, planning),
            rollout_views=RolloutViews(database, clock),
            memberships=MembershipService(database, clock),
            evidence=EvidenceService(database),
            explaining=ExplainingService(database, clock),
            pins=PinService(database, clock),
            audit=AuditLogService(database),
            image=image,
            trust=TrustOverview(image, clock),
            director=director,
            targets=TargetIndex(image),
            idempotency=IdempotencyService(database, clock),
            health=HealthService(database, lambda: expiries(image.store, clock.now())),
            fleet=fleet,
            events=events,
            progress=progress.Progress(database, clock, events.wake),
            webhooks=WebhookService(database, clock, plain=plain),
            blobs=storage.served,
            metrics=Metrics(
                Sources(
                    version=_VERSION,
                    polls=poll.tally,
                    lag=poll.lag,
                    shedding=shedding,
                    fleet=fleet.figures,
                    expiries=lambda: expiries(image.store, clock.now()),
                    clock=clock,
                    connections=lambda: database.in_use,
                    queues={"director": lambda: director.waiting, "reports": lambda: reports.waiting},
                    uploads=lambda: upload_figures(database),
                    rollouts=lambda: rollout_figures(database),
                    webhooks=lambda: webhook_figures(database, clock.now()),
                    events=events,
                    folders=_folders(settings),
                    stale_s=settings.stale_s,
                )
            ),
        )
        fleet.start()
        at_end.push_async_callback(fleet.stop)
        notices = Notices(database)
        notices.on(FLEET_CHANNEL, fleet.catch_up)
        notices.on(TRUST_CHANNEL, image.refresh)
        notices.on(EVENTS_CHANNEL, events.look)
        notices.on(EVENTS_CHANNEL, worker.look)
        notices.start()
        at_end.push_async_callback(notices.stop)
        leadership = Leadership(database)
        at_end.push_async_callback(leadership.resign)
        loops = _start_loops(hub, settings, shared_time)
        at_end.push_async_callback(loops.stop)
        loops.every(0, poll.lag.measure, "loop-lag")
        engine = RolloutEngine(database, clock, fleet, grace_s=_grace_s(settings))
        loops.every(settings.rollout_tick_ms / 1000, leadership.only(engine.tick), "rollouts")
        loops.every(delivering.LOOK_S, worker.look, "webhooks")
        loops.every(_SWEEP_S, deliveries.sweep, "sweep-webhooks")
        poll.serve(fleet)
        yield hub


def _start_loops(hub: Hub, settings: Settings, shared_time: SharedTime) -> Loops:
    loops = Loops()

    async def look_after_metadata() -> None:
        # Every worker looks; the first one signs, and the others find it done.
        await hub.image.refresh()
        await hub.image.resign_if_due()
        await hub.health.warn()

    async def replace_old_tokens() -> None:
        await hub.rotation.ask_old()

    loops.every(settings.resign_check_s, look_after_metadata, "metadata")
    loops.every(settings.resign_check_s, replace_old_tokens, "tokens")
    loops.every(_NOTE_S, hub.metrics.note, "metrics")
    loops.every(_NOTE_RARELY_S, hub.metrics.note_rarely, "metrics-of-stores")
    loops.every(_SWEEP_S, hub.uploads.sweep, "sweep-uploads")
    loops.every(LOOK_S, shared_time.look, "shared-time")
    loops.every(feed.LOOK_S, hub.events.look, "events")
    loops.every(progress.LOOK_S, hub.progress.look, "rollout-progress")
    return loops


def _grace_s(settings: Settings) -> float:
    """In so long every device that is on has polled, also one that missed a poll."""
    return 2 * (settings.poll_interval_s + settings.poll_jitter_s)


def _lives(settings: Settings) -> Lives:
    return Lives(
        timestamp=timedelta(seconds=settings.timestamp_life_s),
        snapshot=timedelta(seconds=settings.snapshot_life_s),
        director=timedelta(seconds=settings.director_life_s),
    )


def _order_defaults(settings: Settings) -> Defaults:
    """Of rollouts that do not say so."""
    poll_s = settings.poll_interval_s + settings.poll_jitter_s
    return Defaults(settings.rollout_soak_s, settings.rollout_silent_s, poll_s)


def _folders(settings: Settings) -> dict[str, Path]:
    """Whose disks can fill up; an object store is watched with its own figures."""
    folders = {"data": settings.data_dir}
    return folders if settings.blobs.startswith("s3://") else folders | {"blobs": Path(settings.blobs)}


def _poll_settings(settings: Settings) -> PollSettings:
    return PollSettings(
        interval_s=settings.poll_interval_s,
        jitter_s=settings.poll_jitter_s,
        refresh_s=settings.fleet_refresh_ms / 1000,
        stale_s=settings.stale_s,
    )
