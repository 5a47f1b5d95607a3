"""Put the registered version into service, where the policy leaves that to the gate."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(version: str, verdict: str) -> None:
    """Promote a version in the name of the policy, with the gate's verdict as the reason."""
    from lungline import progress
    from lungline.deployment import deployment_of
    from lungline.lineage import promotion
    from lungline.settings import load_settings

    with progress.step("promote") as step:
        settings = load_settings()
        done = promotion.promote(
            version,
            by="policy:auto",
            reason=verdict,
            settings=settings,
            deployment=deployment_of(settings, step.progress),
        )
        step.conclude(done.sentence, version=done.version, replaced=done.replaced, changed=done.changed)
