"""Fit the network and write the model package."""

from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    prepared: dsl.Input[dsl.Dataset],
    model: dict[str, Any],
    train: dict[str, Any],
    package: dsl.Output[dsl.Model],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Train on the prepared data.

    `package` is the folder to serve; `record` holds what MLflow shows of the run, and the Keras model.
    """
    from pathlib import Path

    from components import step_events
    from components.blocks import settings_of
    from lungline.datasets.opening import Prepared
    from lungline.monitoring.reference import add_reference, measure
    from lungline.package.card import DataFacts
    from lungline.package.package import Package
    from lungline.registry.provenance import code_facts
    from lungline.registry.tracking import Recorder, new_record
    from lungline.training import export
    from lungline.training.export import write_package
    from lungline.training.loop import Epoch
    from lungline.training.teachers import Lesson
    from lungline.training.train import train as fit

    with step_events.step("train") as step:
        settings = settings_of(model=model, train=train)
        data = Prepared.load(Path(prepared.path))
        counts = {split: sum(classes.values()) for split, classes in data.counts.items()}
        identity = {"name": data.name, "digest": data.digest, "synthetic": data.synthetic, "feedback": data.feedback}
        facts = DataFacts(**identity, counts=counts)
        with Recorder(settings, new_record(settings, facts, code_facts())) as recorder:

            def on_epoch(epoch: Epoch) -> None:
                teacher = f"teacher {epoch.teacher} of {settings.train.teachers}, " if isinstance(epoch, Lesson) else ""
                if not teacher:
                    recorder.epoch(epoch)
                state = f"loss {epoch.loss:.3f}, validation AUC {epoch.val_auc:.4f}"
                step.progress(
                    f"{teacher}epoch {epoch.number}/{epoch.of}: {state}",
                    epoch=epoch.number,
                    of=epoch.of,
                    loss=epoch.loss,
                    val_auc=epoch.val_auc,
                )

            trained = fit(data, settings, on_epoch)
        card = trained.card(facts, code_facts(), settings)
        write_package(Path(package.path), keras_model=trained.model, card=card, way=settings.train.export)
        images = trained.preparation.normalise(data.of("test")[0][:256])
        loaded = Package.load(Path(package.path))
        worst = export.check(loaded, trained.model, images)
        unseen = ((row.patient, file) for row, file in data.originals("val"))
        add_reference(Path(package.path), measure(loaded, unseen, "val"))
        step.progress(f"LiteRT and Keras differ by at most {worst:.1e} on {len(images)} images", parity=worst)
        folder = Path(record.path)
        folder.mkdir(parents=True)
        trained.model.save(folder / "network.keras")
        recorder.record.save(folder)
        record.metadata["seconds"] = step.seconds
        package.metadata.update(data_digest=data.digest, synthetic=data.synthetic, record=recorder.record.id)
        step.conclude(
            f"{settings.train.epochs} epochs in {trained.seconds:.0f} s",
            val_auc=trained.history[-1].val_auc,
            fit_seconds=trained.seconds,
        )
