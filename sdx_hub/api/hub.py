"""Everything that a handler may call; made once by the composition root, handed to handlers as `hub`."""

from msgspec import Struct

from sdx_hub.adapters.blobs import BlobReader
from sdx_hub.api.metrics import Metrics
from sdx_hub.services.audit_log import AuditLogService
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.devices.devices import DeviceService
from sdx_hub.services.devices.enrolment import EnrolmentService
from sdx_hub.services.devices.fleet_state import FleetState
from sdx_hub.services.devices.previewing import PreviewService
from sdx_hub.services.devices.reports import ReportService
from sdx_hub.services.devices.saved_filters import FilterService
from sdx_hub.services.devices.token_rotation import TokenRotation
from sdx_hub.services.events.feed import EventFeed
from sdx_hub.services.events.progress import Progress
from sdx_hub.services.health import HealthService
from sdx_hub.services.idempotency import IdempotencyService
from sdx_hub.services.people import PeopleService
from sdx_hub.services.releases.releases import ReleaseService
from sdx_hub.services.releases.target_index import TargetIndex
from sdx_hub.services.releases.uploads import UploadService
from sdx_hub.services.repositories.director import Director
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.services.repositories.trust_overview import TrustOverview
from sdx_hub.services.rollouts.commands.pins import PinService
from sdx_hub.services.rollouts.commands.rollouts import RolloutService
from sdx_hub.services.rollouts.planning.planning import PlanningService
from sdx_hub.services.rollouts.showing.evidence import EvidenceService
from sdx_hub.services.rollouts.showing.explaining_rows import ExplainingService
from sdx_hub.services.rollouts.showing.memberships import MembershipService
from sdx_hub.services.rollouts.showing.views import RolloutViews
from sdx_hub.services.webhooks.webhooks import WebhookService


class Hub(Struct, frozen=True):
    """The services of one worker, and the stores that stream."""

    people: PeopleService
    enrolment: EnrolmentService
    devices: DeviceService
    previews: PreviewService
    filters: FilterService
    assigning: AssigningService
    rotation: TokenRotation
    reports: ReportService
    releases: ReleaseService
    uploads: UploadService
    planning: PlanningService
    rollouts: RolloutService
    rollout_views: RolloutViews
    memberships: MembershipService
    evidence: EvidenceService
    explaining: ExplainingService
    pins: PinService
    audit: AuditLogService
    image: ImageRepository
    trust: TrustOverview
    director: Director
    targets: TargetIndex
    idempotency: IdempotencyService
    health: HealthService
    fleet: FleetState
    events: EventFeed
    progress: Progress
    webhooks: WebhookService
    blobs: BlobReader
    metrics: Metrics
