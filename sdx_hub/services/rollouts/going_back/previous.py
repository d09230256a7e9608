"""What a device goes back to: the last release of the product that is known to be good on it."""

from typing import Any

from sqlalchemy import case, exists, func, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device, InstalledComponent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, RolloutDevice
from sdx_hub.services.outcomes.from_reports import MUST_PASS_DONE

_Earlier: Any = aliased(RolloutDevice)
_Step: Any = aliased(Release)
_Before: Any = aliased(Release)


def last_good(product: str) -> Any:
    """For each row of `RolloutDevice`: what is assigned, or what that was to replace where it is not proven.

    A release that some rollout offered and that the device did not commit is not: not after a failed attempt, not
    before a second one. Where nothing was ever assigned, it is what the device runs, if that is published here.
    """
    of_device = col(Device.number) == col(RolloutDevice.number)
    # One look-up after the other, and no join: PostgreSQL joins the wrong way round while assignments are so new that
    # it has not counted them yet. Each says what it goes by, because it stands inside of another subquery as well.
    identity = select(col(Device.id)).where(of_device).correlate(RolloutDevice).scalar_subquery()
    current = (
        select(col(Assignment.release_id))
        .where(col(Assignment.device_id) == identity, col(Assignment.product) == product)
        .correlate(RolloutDevice)
        .scalar_subquery()
    )
    runs = (
        select(col(Release.id))
        .join(
            InstalledComponent,
            (col(InstalledComponent.product) == col(Release.product))
            & (col(InstalledComponent.release_counter) == col(Release.release_counter)),
        )
        .join(Device, col(Device.id) == col(InstalledComponent.device_id))
        .where(of_device, col(Release.product) == product, col(Release.state) == "published")
        .order_by(col(Release.release_counter).desc())
        .limit(1)
        .scalar_subquery()
    )
    # A step that had to be passed is committed, and its member queued for what comes after it. That one goes back to
    # where it began if the step lets it, else to the step.
    leads_back = exists().where(
        _Step.id == _Earlier.offered, _Before.id == _Earlier.previous, _Step.revert_counter <= _Before.release_counter
    )
    unproven = (
        _Earlier.number == col(RolloutDevice.number),
        TOUCHED_ROWS,
        _Earlier.offered == current,
        _Earlier.state != "committed",
        or_(_Earlier.code != MUST_PASS_DONE, leads_back),
    )
    before = select(_Earlier.previous).where(*unproven).order_by(_Earlier.rollout.desc()).limit(1).scalar_subquery()
    return case((exists().where(*unproven), before), else_=func.coalesce(current, runs))
