"""Every route in one place: what is below `/api/v1` needs a person's token, the rest says for itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide

from firmware_schemas.limits import MAX_API_BODY_BYTES
from sdx_hub.api import (
    assignments,
    audit,
    blobs,
    devices,
    enrolment,
    events,
    filters,
    operations,
    people,
    poll_described,
    problems,
    releases,
    reports,
    rollout_members,
    rollouts,
    schema,
    trust,
    tuf,
    uploads,
    webhooks,
)
from sdx_hub.api.auth import person, provide_device, provide_principal
from sdx_hub.api.description import StrictBodies, Tuples
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import Idempotency
from sdx_hub.api.methods import name_all

Running = Callable[[], AbstractAsyncContextManager[Hub]]


def provide_hub(state: State) -> Hub:
    hub: Hub = state.hub
    return hub


def application(running: Running, version: str) -> Litestar:
    """The HTTP API.

    Args:
        running: Starts the services, and stops them at the end.
        version: Of this program, for the schema.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with running() as hub:
            app.state.hub = hub
            yield

    people_api = Router(
        "/api/v1",
        route_handlers=[
            people.router,
            uploads.router,
            releases.router,
            trust.router,
            enrolment.router,
            devices.router,
            filters.router,
            events.router,
            webhooks.router,
            assignments.router,
            rollouts.router,
            rollout_members.router,
            audit.router,
        ],
        guards=[person],
        dependencies={"principal": Provide(provide_principal, sync_to_thread=False)},
        middleware=[Idempotency()],
        security=[{"person": []}],
    )
    device_api = Router(
        "/",
        route_handlers=[reports.router, tuf.director_router],
        dependencies={"device_id": Provide(provide_device, sync_to_thread=False)},
        security=[{"device": []}],
    )
    return Litestar(
        [
            people_api,
            device_api,
            enrolment.enrol,
            poll_described.poll,
            blobs.router,
            tuf.image_router,
            trust.public_router,
            operations.router,
            schema.assets(),
        ],
        dependencies={"hub": Provide(provide_hub, sync_to_thread=False)},
        exception_handlers=problems.handlers(),
        lifespan=[lifespan],
        before_send=[name_all],
        openapi_config=schema.openapi(version),
        plugins=[StrictBodies(), Tuples()],
        request_max_body_size=MAX_API_BODY_BYTES,
        logging_config=None,
    )
