"""Promote the registered version, if the policy is to promote without approval."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(version: str, verdict: str) -> None:
    """Promote a version by policy, with the gate's verdict as the reason."""
    from components import step_events
    from lungline.deployment.base import deployment_of
    from lungline.promotion import promotion
    from lungline.settings import load_settings

    with step_events.step("promote") as step:
        settings = load_settings()
        done = promotion.promote(
            version,
            by="policy:auto",
            reason=verdict,
            settings=settings,
            deployment=deployment_of(settings, step.progress),
        )
        step.conclude(done.sentence, version=done.version, replaced=done.replaced, changed=done.changed)
