"""Telling people when a deployed recipe fails: an automation of Prefect's server, with its own notification blocks.

The server tells, not the run: it also does so when the process or the whole worker is gone.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from flows.errors import UsageError

ENDINGS = ("Failed", "Crashed", "TimedOut")
SUBJECT = "qwenforge: {{ flow_run.name }} is {{ flow_run.state.name }}"
BODY = """\
Flow run {{ flow_run.name }} of deployment {{ deployment.name }} is {{ flow_run.state.name }}.
{{ flow_run.state.message }}
{{ flow_run|ui_url }}"""


def find_block(client: Any, name: str) -> UUID:
    """Id of the notification block ``TYPE/NAME``. UsageError where there is none, or where it cannot notify."""
    from prefect.exceptions import ObjectNotFound

    kind, _, own = name.partition("/")
    try:
        block = client.read_block_document_by_name(own, kind) if own else None
    except ObjectNotFound:
        block = None
    if block is None:
        known = ", ".join(sorted(notifiers(client))) or "there is none"
        raise UsageError(
            f"--notify {name}: no such block ({known}); make one on Prefect's page Blocks, such as slack-webhook/team, "
            "custom-webhook/NAME or sendgrid-email/NAME"
        )
    if "notify" not in block.block_schema.capabilities:
        raise UsageError(
            f"--notify {name}: a block of type {kind} cannot notify; {', '.join(sorted(notifiers(client)))}"
        )
    return block.id


def notifiers(client: Any) -> list[str]:
    """All blocks that can notify, as TYPE/NAME."""
    return [
        f"{block.block_type.slug}/{block.name}"
        for block in client.read_block_documents()
        if block.block_schema and "notify" in block.block_schema.capabilities and block.name
    ]


def tell_on_failure(client: Any, deployment_id: UUID, deployment: str, blocks: Sequence[tuple[str, UUID]]) -> None:
    """From now on exactly ``blocks`` (TYPE/NAME, id) are told when a run of the deployment does not end well."""
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification

    name = f"{deployment}: failures"
    before = client.read_automations_by_name(name)
    if not blocks:
        for automation in before:
            client.delete_automation(automation.id)
        return
    wanted = AutomationCore(
        name=name,
        description="Made by qwenforge deploy --notify.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in ENDINGS},
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "deployment",
                    "prefect.resource.id": f"prefect.deployment.{deployment_id}",
                }
            ),
            for_each={"prefect.resource.id"},  # runs are told of one by one
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=BODY) for _, block in blocks],
    )
    if before:
        client.update_automation(before[0].id, wanted)
    else:
        client.create_automation(wanted)


__all__ = ["find_block", "notifiers", "tell_on_failure"]
